"""Drives a server with the aetcd library: KV, txn, watch with resume, lease, lock, election.

Ends with an exception at the first wrong answer. Protocol with the test: host and port are the
arguments; the line "restart" on stdout asks for the server to be killed and started again, a line
on stdin says that this was done.
"""

import asyncio
import sys

import aetcd


async def kv(client):
    for number in range(5):
        await client.put(b"py/kv/%d" % number, str(number).encode())
    previous = await client.put(b"py/kv/0", b"again", prev_kv=True)
    assert previous.prev_kv.value == b"0", previous
    found = await client.get_prefix(b"py/kv/", sort_order="descend", sort_target="mod")
    assert [kv.key for kv in found][:2] == [b"py/kv/0", b"py/kv/4"], found
    assert found.count == 5 and not found.more, found
    one = await client.get(b"py/kv/0")
    assert one.value == b"again" and one.version == 2, one
    assert await client.get(b"py/kv/none") is None
    deleted = await client.delete_prefix(b"py/kv/", prev_kv=True)
    assert deleted.deleted == 5 and len(deleted.prev_kvs) == 5, deleted
    try:
        await client.put(b"", b"x")
    except aetcd.exceptions.ClientError as error:
        assert isinstance(error, aetcd.exceptions.InvalidArgumentError), error
    else:
        raise AssertionError("an empty key was accepted")


async def txn(client):
    await client.put(b"py/txn", b"1")
    for expected in (True, False):
        succeeded, responses = await client.transaction(
            compare=[client.transactions.value(b"py/txn") == b"1"],
            success=[client.transactions.put(b"py/txn", b"2")],
            failure=[client.transactions.get(b"py/txn")],
        )
        assert succeeded is expected and len(responses) == 1, responses
    assert (await client.get(b"py/txn")).value == b"2"
    assert await client.replace(b"py/txn", b"2", b"3")
    assert not await client.replace(b"py/txn", b"2", b"4")


async def lease(client):
    granted = await client.lease(60)
    await client.put(b"py/leased", b"x", lease=granted)
    renewed = await granted.refresh()
    assert renewed.TTL == 60, renewed
    assert await granted.remaining_ttl() > 50
    assert await granted.granted_ttl() == 60
    assert list(await granted.keys()) == [b"py/leased"]
    await granted.revoke()
    assert await client.get(b"py/leased") is None
    assert (await client.get_lease_info(granted.id)).TTL == -1
    short = await client.lease(2)
    await client.put(b"py/short", b"x", lease=short)
    event = await client.watch_once(b"py/short", timeout=15, kind=aetcd.EventKind.DELETE)
    assert event.kv.key == b"py/short", event


async def lock(client):
    first, second = client.lock(b"py/lock", ttl=30), client.lock(b"py/lock", ttl=30)
    assert await first.acquire(timeout=5)
    assert await first.is_acquired() and not await second.is_acquired()
    waiting = asyncio.create_task(second.acquire(timeout=20))
    assert not await client.lock(b"py/lock", ttl=30).acquire(timeout=0)
    assert not waiting.done(), "two hold the lock"
    assert await first.release()
    assert await waiting
    assert await second.release()


async def election(client):
    """The library has no calls for it: the recipe of the election service, by hand."""
    candidates = [await client.lease(60) for _ in range(2)]
    for number, candidate in enumerate(candidates):
        key = b"py/vote/%x" % candidate.id
        won, _ = await client.transaction(
            compare=[client.transactions.create(key) == 0],
            success=[client.transactions.put(key, b"candidate %d" % number, lease=candidate)],
            failure=[],
        )
        assert won

    async def leader():
        found = await client.get_prefix(b"py/vote/", sort_order="ascend", sort_target="create")
        return found[0].value

    assert await leader() == b"candidate 0"
    await candidates[0].revoke()
    assert await leader() == b"candidate 1"
    await candidates[1].revoke()


async def watch(client, host, port):
    seen = []
    stream = await client.watch_prefix(b"py/watch/", prev_kv=True)
    for number in range(5):
        await client.put(b"py/watch/k", b"%d" % number)
    await client.delete(b"py/watch/k")
    last = 0
    async for event in stream:
        seen.append((event.kind, event.kv.value))
        last = event.kv.mod_revision
        if len(seen) == 6:
            break
    await stream.cancel()
    await client.put(b"py/watch/k", b"between")
    await client.close()
    print("restart", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    async with aetcd.Client(host=host, port=port, timeout=10) as again:
        stream = await again.watch_prefix(b"py/watch/", start_revision=last + 1)
        await again.put(b"py/watch/k", b"after")
        async for event in stream:
            seen.append((event.kind, event.kv.value))
            if len(seen) == 8:
                break
        await stream.cancel()
    expected = [("PUT", b"%d" % number) for number in range(5)]
    expected += [("DELETE", b""), ("PUT", b"between"), ("PUT", b"after")]
    assert seen == expected, seen


async def main():
    host, port = sys.argv[1].rsplit(":", 1)
    port = int(port)
    client = aetcd.Client(host=host, port=port, timeout=10)
    for step in (kv, txn, lease, lock, election):
        await asyncio.wait_for(step(client), 40)
    await asyncio.wait_for(watch(client, host, port), 60)
    print("done")


asyncio.run(main())
