"""Drives a server with the etcd3gw library, which speaks JSON: KV, txn, lease, lock, watch.

Ends with an exception at the first wrong answer. Protocol with the test: host and port are the
arguments; the line "restart" on stdout asks for the server to be killed and started again, a line
on stdin says that this was done.
"""

import sys

import etcd3gw
from etcd3gw.exceptions import ConnectionFailedError, Etcd3Exception
from etcd3gw.utils import _encode


def kv(client):
    for number in range(5):
        assert client.put("gw/kv/%d" % number, str(number))
    assert client.put(b"gw/bytes\xff", b"\x00\xfe")
    assert client.get(b"gw/bytes\xff") == [b"\x00\xfe"]
    assert client.get("gw/kv/0") == [b"0"]
    assert client.get("gw/none") == []
    found = client.get_prefix("gw/kv/", sort_order="descend", sort_target="key")
    assert [value for value, _ in found] == [b"4", b"3", b"2", b"1", b"0"], found
    assert found[0][1]["key"] == b"gw/kv/4" and found[0][1]["version"] == "1", found
    assert len(client.get_all()) == 6
    assert client.delete("gw/kv/0") and not client.delete("gw/kv/0")
    assert client.delete_prefix("gw/kv/")
    assert client.get_prefix("gw/kv/") == []
    try:
        client.put("", "x")
    except Etcd3Exception as error:
        assert "key is not provided" in error.detail_text, error.detail_text
    else:
        raise AssertionError("an empty key was accepted")


def txn(client):
    assert client.create("gw/txn", "1") and not client.create("gw/txn", "2")
    assert client.replace("gw/txn", "1", "3") and not client.replace("gw/txn", "1", "4")
    answer = client.transaction({
        "compare": [{"key": _encode("gw/txn"), "result": "EQUAL", "target": "VALUE", "value": _encode("3")}],
        "success": [{"request_range": {"key": _encode("gw/txn")}}],
        "failure": [],
    })
    assert answer["succeeded"] and answer["responses"][0]["response_range"]["count"] == "1", answer


def lease(client):
    granted = client.lease(ttl=60)
    client.put("gw/leased", "x", lease=granted)
    assert granted.keys() == [b"gw/leased"]
    assert granted.refresh() == 60 and 50 < granted.ttl() <= 60
    assert granted.revoke()
    assert client.get("gw/leased") == [] and granted.refresh() == -1


def lock(client):
    with client.lock("gw", ttl=60) as mine:
        assert mine.is_acquired()
        other = client.lock("gw", ttl=60)
        assert not other.acquire()
        assert mine.refresh() == 60
    assert other.acquire() and other.release()


def watch(client):
    events, cancel = client.watch_prefix("gw/watch/")
    for number in range(3):
        client.put("gw/watch/k", str(number))
    client.delete("gw/watch/k")
    seen = []
    for event in events:
        seen.append((event.get("type", "PUT"), event["kv"].get("value", b"")))
        if len(seen) == 4:
            break
    cancel()
    assert seen == [("PUT", b"0"), ("PUT", b"1"), ("PUT", b"2"), ("DELETE", b"")], seen
    revision = int(event["kv"]["mod_revision"])
    print("restart", flush=True)
    sys.stdin.readline()
    try:
        client.put("gw/watch/k", "after")
    except ConnectionFailedError:
        # The connection of before is gone with the server.
        client.put("gw/watch/k", "after")
    events, cancel = client.watch("gw/watch/k", start_revision=revision)
    seen = [next(events).get("type", "PUT"), next(events)["kv"]["value"]]
    cancel()
    assert seen == ["DELETE", b"after"], seen
    assert client.status()["leader"] and len(client.members()) == 1


def main():
    host, port = sys.argv[1].rsplit(":", 1)
    client = etcd3gw.client(host=host, port=int(port), timeout=10)
    for step in (kv, txn, lease, lock, watch):
        step(client)
    print("done")


main()
