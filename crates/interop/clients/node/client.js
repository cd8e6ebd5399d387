// Drives a server with the etcd3 library: KV, txn, watch with resume, lease, lock, election.
//
// Ends with an exception at the first wrong answer. Protocol with the test: the URL is the only
// argument; the line "restart" on stdout asks for the server to be killed and started again, a
// line on stdin says that this was done.
'use strict';

const assert = require('node:assert');
const readline = require('node:readline');
const { Etcd3, EtcdLockFailedError } = require('etcd3');

const input = readline.createInterface({ input: process.stdin });
const lines = [];
const waiting = [];
input.on('line', (line) => (waiting.length ? waiting.shift()(line) : lines.push(line)));
const nextLine = () => (lines.length ? Promise.resolve(lines.shift()) : new Promise((done) => waiting.push(done)));

function bounded(promise, what, seconds = 40) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing within ${seconds} s`)), seconds * 1000);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

async function kv(client) {
  for (let number = 0; number < 5; number++) await client.put(`js/kv/${number}`).value(String(number));
  const previous = await client.put('js/kv/0').value('again').getPrevious();
  assert.strictEqual(previous.value.toString(), '0');
  const found = await client.getAll().prefix('js/kv/').sort('Mod', 'Descend').limit(2).exec();
  assert.deepStrictEqual(found.kvs.map((pair) => pair.key.toString()), ['js/kv/0', 'js/kv/4']);
  assert.strictEqual(found.count, '5');
  assert.strictEqual(await client.get('js/kv/0').string(), 'again');
  assert.strictEqual(await client.get('js/kv/none').string(), null);
  const deleted = await client.delete().prefix('js/kv/').exec();
  assert.strictEqual(deleted.deleted, '5');
  await assert.rejects(client.put('').value('x').exec(), /key is not provided/);
}

async function txn(client) {
  await client.put('js/txn').value('1');
  for (const expected of [true, false]) {
    const answer = await client
      .if('js/txn', 'Value', '==', '1')
      .then(client.put('js/txn').value('2'))
      .else(client.get('js/txn'))
      .commit();
    assert.strictEqual(answer.succeeded, expected);
    assert.strictEqual(answer.responses.length, 1);
  }
  await client.stm().transact(async (tx) => tx.put('js/txn').value(`${await tx.get('js/txn').string()}2`));
  assert.strictEqual(await client.get('js/txn').string(), '22');
}

async function lease(client) {
  const lease = client.lease(60, { autoKeepAlive: false });
  await lease.put('js/leased').value('x');
  const renewed = await lease.keepaliveOnce();
  assert.strictEqual(renewed.TTL, '60');
  const id = await lease.grant();
  const left = await client.leaseClient.leaseTimeToLive({ ID: id, keys: true });
  assert.deepStrictEqual(left.keys.map(String), ['js/leased']);
  await lease.revoke();
  assert.strictEqual(await client.get('js/leased').string(), null);
  const short = client.lease(2, { autoKeepAlive: false });
  const gone = await client.watch().key('js/short').only('delete').create();
  const expired = new Promise((done) => gone.once('delete', done));
  await short.put('js/short').value('x');
  await bounded(expired, 'expiry', 15);
  await gone.cancel();
}

async function lock(client) {
  const first = client.lock('js/lock');
  await first.acquire();
  await assert.rejects(client.lock('js/lock').acquire(), EtcdLockFailedError);
  await first.release();
  const inside = await client.lock('js/lock').do(async () => 'inside');
  assert.strictEqual(inside, 'inside');
}

async function election(client) {
  const election = client.election('js/vote', 30);
  const observer = await election.observe();
  const one = election.campaign('one');
  await bounded(one.wait(), 'the first candidate');
  await bounded(
    (async () => {
      while (observer.leader() !== 'one') await new Promise((done) => observer.once('change', done));
    })(),
    'the observer',
  );
  const two = election.campaign('two');
  assert.strictEqual(await election.leader(), 'one');
  const second = two.wait();
  await one.resign();
  await bounded(second, 'the second candidate');
  assert.strictEqual(await election.leader(), 'two');
  await two.resign();
  await observer.cancel();
}

// The library resumes a watch by itself: every event exactly once across a kill of the server.
async function watch(client) {
  const watcher = await client.watch().prefix('js/watch/').create();
  const seen = [];
  let arrived = () => {};
  watcher.on('put', (pair) => { seen.push(pair.value.toString()); arrived(); });
  watcher.on('delete', () => { seen.push('deleted'); arrived(); });
  const until = (count) =>
    bounded(
      (async () => {
        while (seen.length < count) await new Promise((done) => { arrived = done; });
      })(),
      `${count} events, got ${JSON.stringify(seen)}`,
    );
  for (let number = 0; number < 5; number++) await client.put('js/watch/k').value(String(number));
  await client.delete().key('js/watch/k');
  await until(6);
  console.log('restart');
  await nextLine();
  await bounded(
    (async () => {
      for (;;) {
        try {
          await client.put('js/watch/k').value('after');
          return;
        } catch {
          await new Promise((done) => setTimeout(done, 50));
        }
      }
    })(),
    'a put after the restart',
  );
  await until(7);
  assert.deepStrictEqual(seen, ['0', '1', '2', '3', '4', 'deleted', 'after']);
  await watcher.cancel();
}

async function main() {
  const client = new Etcd3({ hosts: process.argv[2] });
  for (const step of [kv, txn, lease, lock, election, watch]) await bounded(step(client), step.name, 60);
  client.close();
  console.log('done');
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
