//! Clients that remember what was acknowledged.
//!
//! Each writer owns its keys and writes ever larger numbers, alternately as a single put, as a
//! transaction over two keys (whose halves must never be seen apart), and as a deletion with a
//! new creation. After a crash every key must hold at least the last acknowledged number, and at
//! most the one that was under way.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use anyhow::{Context, ensure};
use bench::wire::{Channel, Method, Status};
use proto::etcdserverpb::{PutResponse, RangeRequest, RangeResponse, TxnRequest, TxnResponse};
use proto::mvccpb::KeyValue;

use crate::scripts::{delete_op, put, put_op};

/// What one writer knows.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Writer number.
    pub number: usize,
    /// Per kind of write (number modulo 4), the last number that was acknowledged; 0 for none.
    pub acknowledged: [u64; 4],
    /// Revision of the last acknowledged write.
    pub revision: i64,
    /// The number whose write was sent last.
    pub sent: u64,
    /// Acknowledged writes, for the log of the test.
    pub count: u64,
}

impl Ledger {
    fn key(&self, half: &str) -> String {
        format!("writer/{:03}/{half}", self.number)
    }

    /// Writes until the server goes away. Returns how often it was acknowledged.
    pub async fn write(&mut self, authority: &str, acknowledged_by_all: Rc<Cell<u64>>) -> u64 {
        let before = self.count;
        // The end of the server is the end of the round, not a failure.
        let _: Result<(), Status> = self.write_until_failure(authority, &acknowledged_by_all).await;
        self.count - before
    }

    async fn write_until_failure(&mut self, authority: &str, total: &Cell<u64>) -> Result<(), Status> {
        let channel = Channel::connect(authority).await?;
        let refuse = |error: anyhow::Error| Status { code: 3, message: error.to_string() };
        let put_method = Method::new(authority, "/etcdserverpb.KV/Put").map_err(refuse)?;
        let txn_method = Method::new(authority, "/etcdserverpb.KV/Txn").map_err(refuse)?;
        loop {
            let number = self.sent + 1;
            self.sent = number;
            let value = number.to_string();
            let header = match number % 4 {
                0 => {
                    let answer: PutResponse =
                        channel.call(&put_method, &put(&self.key("single"), &value)).await?;
                    answer.header
                }
                1 => {
                    let ops = vec![delete_op(&self.key("reborn"), ""), put_op(&self.key("other"), &value)];
                    let request = TxnRequest { success: ops, ..Default::default() };
                    let answer: TxnResponse = channel.call(&txn_method, &request).await?;
                    answer.header
                }
                2 => {
                    let answer: PutResponse =
                        channel.call(&put_method, &put(&self.key("reborn"), &value)).await?;
                    answer.header
                }
                _ => {
                    let ops = vec![put_op(&self.key("left"), &value), put_op(&self.key("right"), &value)];
                    let request = TxnRequest { success: ops, ..Default::default() };
                    let answer: TxnResponse = channel.call(&txn_method, &request).await?;
                    answer.header
                }
            };
            self.revision = header.map_or(0, |header| header.revision);
            self.acknowledged[(number % 4) as usize] = number;
            self.count += 1;
            total.set(total.get() + 1);
        }
    }

    /// Checks what the server holds against what was acknowledged.
    pub fn check(&self, kvs: &BTreeMap<String, KeyValue>) -> anyhow::Result<()> {
        let read = |half: &str| -> anyhow::Result<Option<u64>> {
            let Some(kv) = kvs.get(&self.key(half)) else { return Ok(None) };
            let text = std::str::from_utf8(&kv.value)?;
            Ok(Some(text.parse().with_context(|| format!("{} holds {text:?}", self.key(half)))?))
        };
        let (left, right) = (read("left")?, read("right")?);
        ensure!(left == right, "writer {}: half a transaction: {left:?} and {right:?}", self.number);
        for (half, remainder) in [("single", 0), ("other", 1), ("left", 3)] {
            let found = read(half)?;
            let due = self.acknowledged_of(remainder);
            ensure!(
                found >= due,
                "writer {}: {half} holds {found:?}, but {due:?} was acknowledged",
                self.number
            );
            let latest = last_with_remainder(self.sent, remainder as u64);
            ensure!(found <= latest, "writer {}: {half} holds {found:?}, which was never sent", self.number);
        }
        self.check_reborn(read("reborn")?, read("other")?)
    }

    /// `reborn` is deleted by the write that sets `other` and created by the next one.
    fn check_reborn(&self, reborn: Option<u64>, other: Option<u64>) -> anyhow::Result<()> {
        let created = self.acknowledged_of(2);
        match reborn {
            Some(found) => {
                ensure!(
                    created.is_none_or(|due| found >= due),
                    "writer {}: reborn went back to {found}",
                    self.number
                );
                ensure!(other < Some(found), "writer {}: a deletion without its put", self.number);
            }
            None => ensure!(
                created.is_none() || other > created,
                "writer {}: reborn is gone, but {created:?} was acknowledged",
                self.number
            ),
        }
        Ok(())
    }

    fn acknowledged_of(&self, remainder: usize) -> Option<u64> {
        Some(self.acknowledged[remainder]).filter(|number| *number > 0)
    }
}

/// The largest number up to `bound` with that remainder by 4, zero excluded.
fn last_with_remainder(bound: u64, remainder: u64) -> Option<u64> {
    let back = (bound + 4 - remainder) % 4;
    bound.checked_sub(back).filter(|number| *number > 0)
}

/// All keys of the writers and the store's revision.
pub async fn read_all(authority: &str) -> anyhow::Result<(BTreeMap<String, KeyValue>, i64)> {
    let channel = Channel::connect(authority).await?;
    let method = Method::new(authority, "/etcdserverpb.KV/Range")?;
    let request = RangeRequest { key: "writer/".into(), range_end: "writer0".into(), ..Default::default() };
    let answer: RangeResponse = channel.call(&method, &request).await?;
    let kvs = answer.kvs.into_iter().map(|kv| (String::from_utf8_lossy(&kv.key).into_owned(), kv)).collect();
    Ok((kvs, answer.header.map_or(0, |header| header.revision)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(value: u64) -> KeyValue {
        KeyValue { value: value.to_string().into(), ..Default::default() }
    }

    #[test]
    fn losses_and_halves_are_seen() {
        let ledger = Ledger { number: 1, acknowledged: [8, 5, 6, 7], sent: 9, ..Default::default() };
        let key = |half: &str| format!("writer/001/{half}");
        let good = BTreeMap::from([
            (key("single"), kv(8)),
            (key("other"), kv(5)),
            (key("reborn"), kv(6)),
            (key("left"), kv(7)),
            (key("right"), kv(7)),
        ]);
        ledger.check(&good).unwrap();
        let mut later = good.clone();
        later.insert(key("other"), kv(9));
        later.remove(&key("reborn"));
        ledger.check(&later).unwrap();
        for (half, value) in
            [("single", Some(4)), ("right", Some(3)), ("reborn", None), ("left", None), ("single", Some(12))]
        {
            let mut bad = good.clone();
            match value {
                Some(value) => drop(bad.insert(key(half), kv(value))),
                None => drop(bad.remove(&key(half))),
            }
            assert!(ledger.check(&bad).is_err(), "{half} {value:?}");
        }
        assert_eq!(last_with_remainder(3, 0), None);
        assert_eq!(last_with_remainder(3, 3), Some(3));
        assert_eq!(last_with_remainder(1, 3), None);
        assert_eq!(last_with_remainder(9, 2), Some(6));
    }
}
