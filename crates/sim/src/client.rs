//! Clients: they ask, wait, and check each answer against the history.
//!
//! An answer is judged by the revision in its header, which says where the request stands in the
//! order of all writes: a write must be in the history at that revision and behind all that was
//! seen before it was asked for; a read must be the state at its revision, and a linearizable one
//! no older than anything seen before. Together with one history for all members that is
//! linearizability. A request without an answer may have happened, once, or not.

use std::collections::BTreeMap;

use apply::Reply;
use bytes::Bytes;
use env::Random;
use proto::etcdserverpb as pb;
use proto::mvccpb::KeyValue;
use types::{KeyRange, LeaseId};

use crate::context::{Context, Event};
use crate::node::{Answer, Body, Request};
use crate::oracle::Verdict;
use crate::profile::{MS, SECOND};
use crate::random::Draw;

/// A key of the workload.
pub(crate) fn key(number: u64) -> Bytes {
    format!("k{number:02}").into()
}

/// For so long after the others a client goes on that had no answer since faults stopped: a member
/// that crashed last may have been missing for a quorum until then.
const PATIENCE: u64 = 5 * SECOND;

/// See the module documentation.
pub(crate) struct Client {
    number: usize,
    /// Takes leases and hangs keys on them.
    leases: bool,
    node: usize,
    ops: u64,
    pending: Option<Pending>,
    /// Newest revisions of keys that it has seen.
    seen: BTreeMap<Bytes, i64>,
    lease: Option<Held>,
    granted: i64,
    /// Writes that were refused.
    refused: Vec<(Bytes, Bytes)>,
    /// Answers since faults stopped.
    pub(crate) answers_in_calm: u64,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    id: i64,
    ttl: u64,
    /// It is left to run out.
    abandoned: bool,
}

struct Pending {
    op: u64,
    asked: u64,
    /// Everything up to here was seen before it was asked for.
    floor: i64,
    what: Op,
}

enum Op {
    Put { key: Bytes, value: Bytes, lease: i64 },
    Delete { range: KeyRange },
    Swap { key: Bytes, value: Bytes, expected: i64 },
    Several { puts: Vec<(Bytes, Bytes)>, gone: Bytes },
    Range { range: KeyRange, revision: i64, serializable: bool },
    Compact { revision: i64 },
    Grant { id: i64, ttl: u64 },
    Revoke { id: i64 },
    KeepAlive { id: i64 },
}

impl Client {
    pub(crate) fn new(number: usize, leases: bool) -> Self {
        Self {
            number,
            leases,
            node: number,
            ops: 0,
            pending: None,
            seen: BTreeMap::new(),
            lease: None,
            granted: 0,
            refused: Vec::new(),
            answers_in_calm: 0,
        }
    }

    /// Asks one of the members for the next thing.
    pub(crate) fn act(&mut self, ctx: &mut Context, endpoints: &[usize]) {
        let patience = if self.answers_in_calm == 0 { PATIENCE } else { 0 };
        if self.pending.is_some() || ctx.now >= ctx.profile.clients_until + patience || endpoints.is_empty() {
            return;
        }
        self.ops += 1;
        if ctx.random.percent(3) {
            self.node = ctx.random.below(endpoints.len() as u64) as usize;
        }
        let what = if self.leases { self.draw_lease_op(ctx) } else { self.draw_op(ctx) };
        let body = body(&what);
        let (op, slot) = (self.ops, endpoints[self.node % endpoints.len()]);
        ctx.note("ask", &[self.number as u64, op, slot as u64], || {
            format!("c{} #{op} n{slot} {body:?}", self.number)
        });
        self.pending = Some(Pending { op, asked: ctx.now, floor: ctx.oracle.observed, what });
        let client = self.number;
        let delay = ctx.draw(ctx.profile.latency);
        ctx.after(delay, Event::Request { slot, request: Request { client, op, body } });
        let patience = ctx.random.between(SECOND, 3 * SECOND);
        ctx.after(patience, Event::Timeout { client, op });
    }

    fn value(&self) -> Bytes {
        format!("c{}-{}", self.number, self.ops).into()
    }

    fn draw_op(&mut self, ctx: &mut Context) -> Op {
        let keys = ctx.profile.keys;
        let some_key = key(ctx.random.below(keys));
        let observed = ctx.oracle.observed;
        match ctx.random.weighted(&[35, 15, 8, 18, 8, 4, 5, 7, ctx.profile.compaction_weight]) {
            0 => Op::Put { key: some_key, value: self.value(), lease: 0 },
            1 => {
                let expected = self.seen.get(&some_key).copied().unwrap_or(0);
                Op::Swap { key: some_key, value: self.value(), expected }
            }
            2 => {
                let other = key(ctx.random.below(keys));
                let puts = match other == some_key {
                    true => vec![(some_key, self.value())],
                    false => vec![(some_key, self.value()), (other, self.value())],
                };
                Op::Several { puts, gone: "g".into() }
            }
            3 => Op::Range { range: KeyRange::Single(some_key), revision: 0, serializable: false },
            4 => Op::Range { range: everything(), revision: 0, serializable: ctx.random.percent(40) },
            5 => {
                let revision = (observed - ctx.random.below(20) as i64).max(1);
                Op::Range { range: everything(), revision, serializable: ctx.random.percent(50) }
            }
            6 => Op::Put { key: "g".into(), value: self.value(), lease: 0 },
            7 => {
                let range = match ctx.random.percent(70) {
                    true => KeyRange::Single(some_key),
                    false => KeyRange::Span(some_key, key(keys)),
                };
                Op::Delete { range }
            }
            _ => Op::Compact { revision: (observed - ctx.random.below(30) as i64).max(1) },
        }
    }

    fn draw_lease_op(&mut self, ctx: &mut Context) -> Op {
        if self.lease.is_some_and(|held| held.abandoned) {
            self.lease = None;
        }
        let Some(held) = &mut self.lease else {
            self.granted += 1;
            let id = (self.number as i64 + 1) * 1000 + self.granted;
            return Op::Grant { id, ttl: ctx.random.between(2, 6) };
        };
        let id = held.id;
        match ctx.random.below(20) {
            0 => Op::Revoke { id },
            1 => {
                held.abandoned = true;
                Op::KeepAlive { id }
            }
            2..8 => Op::Put { key: format!("l{}", self.number).into(), value: self.value(), lease: id },
            _ => Op::KeepAlive { id },
        }
    }

    /// Hears an answer.
    pub(crate) fn hear(&mut self, ctx: &mut Context, op: u64, answer: Answer) {
        if self.pending.as_ref().is_none_or(|pending| pending.op != op) {
            return;
        }
        let Some(pending) = self.pending.take() else { return };
        ctx.note("answer", &[self.number as u64, op], || format!("c{} #{op} {answer:?}", self.number));
        ctx.stats.answers += 1;
        if let Answer::Refused(reason) = &answer {
            let verdict = self.check_refusal(ctx, &pending, reason);
            self.judge(ctx, op, verdict);
            let pause = ctx.random.between(MS, 100 * MS);
            return ctx.after(pause, Event::Client(self.number));
        } else {
            self.answers_in_calm += u64::from(!ctx.in_trouble());
            let verdict = self.check(ctx, &pending, answer);
            self.judge(ctx, op, verdict);
        }
        self.rest(ctx);
    }

    fn judge(&self, ctx: &mut Context, op: u64, verdict: Verdict) {
        ctx.judge(verdict.map_err(|finding| format!("client {} request {op}: {finding}", self.number)));
    }

    /// Stops waiting.
    pub(crate) fn time_out(&mut self, ctx: &mut Context, op: u64) {
        if self.pending.as_ref().is_some_and(|pending| pending.op == op) {
            self.pending = None;
            self.node = self.node.wrapping_add(1);
            ctx.note("timeout", &[self.number as u64, op], || format!("c{} #{op}", self.number));
            self.rest(ctx);
        }
    }

    fn rest(&mut self, ctx: &mut Context) {
        let most = match (self.leases, self.lease) {
            (true, Some(held)) => held.ttl * SECOND / 3,
            _ => ctx.profile.think,
        };
        let pause = ctx.random.between(MS, most.max(2 * MS));
        ctx.after(pause, Event::Client(self.number));
    }

    fn check_refusal(&mut self, ctx: &mut Context, pending: &Pending, reason: &str) -> Verdict {
        match &pending.what {
            Op::Put { key, value, .. } | Op::Swap { key, value, .. } => {
                self.refused.push((key.clone(), value.clone()));
            }
            Op::Range { revision, serializable, .. } => {
                if reason.contains("compacted") && *revision >= ctx.oracle.compacted {
                    return Err(format!(
                        "revision {revision} is said to be compacted, {} is",
                        ctx.oracle.compacted
                    ));
                }
                if reason.contains("future") && !serializable {
                    return Err(format!(
                        "revision {revision} was seen before and is said to be in the future"
                    ));
                }
            }
            _ => {}
        }
        self.node = self.node.wrapping_add(1);
        if reason.contains("lease") {
            self.lease = None;
        }
        Ok(())
    }

    /// Nothing that was refused may have happened.
    pub(crate) fn check_refused(&self, ctx: &Context) -> Verdict {
        for (key, value) in &self.refused {
            if let Some(revision) = ctx.oracle.written_at(key, value) {
                return Err(format!(
                    "client {}: {value:?} was refused and written at {revision}",
                    self.number
                ));
            }
        }
        Ok(())
    }

    fn check(&mut self, ctx: &mut Context, pending: &Pending, answer: Answer) -> Verdict {
        match (&pending.what, answer) {
            (Op::Put { key, value, .. }, Answer::Done(Reply::Put(response))) => {
                let revision = fresh(ctx, pending, response.header)?;
                written(ctx, key, value, revision)?;
                self.seen.insert(key.clone(), revision);
                ctx.oracle.saw(revision)
            }
            (Op::Delete { range }, Answer::Done(Reply::DeleteRange(response))) => {
                let wrote = response.deleted > 0;
                let revision = match wrote {
                    true => fresh(ctx, pending, response.header)?,
                    false => current(pending, response.header)?,
                };
                let before = ctx.oracle.state_at(range, revision - i64::from(wrote)).len();
                if before as i64 != response.deleted || !ctx.oracle.state_at(range, revision).is_empty() {
                    return Err(format!("deleted {} at {revision}, there were {before}", response.deleted));
                }
                ctx.oracle.saw(revision)
            }
            (Op::Swap { key, value, expected }, Answer::Done(Reply::Txn(response))) => {
                self.check_swap(ctx, pending, key, value, *expected, response)
            }
            (Op::Several { puts, gone }, Answer::Done(Reply::Txn(response))) => {
                let revision = fresh(ctx, pending, response.header)?;
                for (key, value) in puts {
                    written(ctx, key, value, revision)?;
                }
                if ctx.oracle.key_at(gone, revision).is_some() {
                    return Err(format!("{gone:?} is there at {revision}, which deleted it"));
                }
                ctx.oracle.saw(revision)
            }
            (Op::Range { range, revision, serializable }, Answer::Range(response)) => {
                let header = response.header.as_ref().map_or(0, |header| header.revision);
                if !serializable {
                    current(pending, response.header)?;
                }
                let at = if *revision > 0 { *revision } else { header };
                same_state(ctx, range, at, &response.kvs)?;
                if *revision == 0 {
                    for kv in response.kvs {
                        self.seen.insert(kv.key, kv.mod_revision);
                    }
                }
                ctx.oracle.saw(header)
            }
            (Op::Compact { revision }, Answer::Done(Reply::Compaction(response))) => {
                current(pending, response.header)?;
                match *revision <= ctx.oracle.compacted {
                    true => Ok(()),
                    false => Err(format!("compaction to {revision} was confirmed and did not happen")),
                }
            }
            (Op::Grant { id, ttl }, Answer::Done(Reply::LeaseGrant(response))) => {
                if response.id != *id || response.ttl != *ttl as i64 {
                    return Err(format!("lease {id} of {ttl} s was granted as {response:?}"));
                }
                self.lease = Some(Held { id: *id, ttl: *ttl, abandoned: false });
                ctx.oracle.lease_confirmed(*id, pending.asked)
            }
            (Op::Revoke { id }, Answer::Done(Reply::LeaseRevoke(_))) => {
                self.lease = None;
                match ctx.oracle.live_leases().contains(id) {
                    true => Err(format!("lease {id} lives on after its revocation")),
                    false => Ok(()),
                }
            }
            (Op::KeepAlive { id }, Answer::Alive(0)) => {
                self.lease = None;
                match ctx.oracle.live_leases().contains(id) {
                    true => Err(format!("lease {id} is said not to exist")),
                    false => Ok(()),
                }
            }
            (Op::KeepAlive { id }, Answer::Alive(_)) => ctx.oracle.lease_confirmed(*id, pending.asked),
            (_, answer) => Err(format!("an answer of another kind: {answer:?}")),
        }
    }

    fn check_swap(
        &mut self,
        ctx: &mut Context,
        pending: &Pending,
        key: &Bytes,
        value: &Bytes,
        expected: i64,
        response: pb::TxnResponse,
    ) -> Verdict {
        let held = |revision| ctx.oracle.key_at(key, revision).map_or(0, |kv| kv.mod_revision);
        if response.succeeded {
            let revision = fresh(ctx, pending, response.header)?;
            if held(revision - 1) != expected {
                return Err(format!(
                    "swapped at {revision}: expected {expected}, was {}",
                    held(revision - 1)
                ));
            }
            written(ctx, key, value, revision)?;
            self.seen.insert(key.clone(), revision);
            return ctx.oracle.saw(revision);
        }
        let revision = current(pending, response.header)?;
        if held(revision) == expected {
            return Err(format!("refused to swap at {revision}: it is {expected}, as expected"));
        }
        let range = response.responses.into_iter().next().and_then(|response| response.response);
        if let Some(pb::response_op::Response::ResponseRange(range)) = range {
            same_state(ctx, &KeyRange::Single(key.clone()), revision, &range.kvs)?;
        }
        self.seen.insert(key.clone(), held(revision));
        ctx.oracle.saw(revision)
    }
}

fn everything() -> KeyRange {
    KeyRange::From(Bytes::new())
}

fn body_of_range(range: &KeyRange) -> (Bytes, Bytes) {
    match range {
        KeyRange::Single(key) => (key.clone(), Bytes::new()),
        KeyRange::Span(start, end) => (start.clone(), end.clone()),
        KeyRange::From(_) => (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
    }
}

fn body(what: &Op) -> Body {
    use pb::request_op::Request as Inner;
    let write = |request: pb::InternalRaftRequest| Body::Write(Box::new(request));
    let put = |key: &Bytes, value: &Bytes| pb::PutRequest {
        key: key.clone(),
        value: value.clone(),
        ..Default::default()
    };
    let op = |request| pb::RequestOp { request: Some(request) };
    let none = pb::InternalRaftRequest::default;
    match what {
        Op::Put { key, value, lease } => {
            let put = pb::PutRequest { lease: *lease, ..put(key, value) };
            write(pb::InternalRaftRequest { put: Some(put), ..none() })
        }
        Op::Delete { range } => {
            let (key, range_end) = body_of_range(range);
            let delete_range = Some(pb::DeleteRangeRequest { key, range_end, prev_kv: false });
            write(pb::InternalRaftRequest { delete_range, ..none() })
        }
        Op::Swap { key, value, expected } => {
            let compare = pb::Compare {
                result: pb::compare::CompareResult::Equal.into(),
                target: pb::compare::CompareTarget::Mod.into(),
                key: key.clone(),
                target_union: Some(pb::compare::TargetUnion::ModRevision(*expected)),
                ..Default::default()
            };
            let range = pb::RangeRequest { key: key.clone(), ..Default::default() };
            let txn = pb::TxnRequest {
                compare: vec![compare],
                success: vec![op(Inner::RequestPut(put(key, value)))],
                failure: vec![op(Inner::RequestRange(range))],
            };
            write(pb::InternalRaftRequest { txn: Some(txn), ..none() })
        }
        Op::Several { puts, gone } => {
            let mut success: Vec<_> =
                puts.iter().map(|(key, value)| op(Inner::RequestPut(put(key, value)))).collect();
            let delete = pb::DeleteRangeRequest { key: gone.clone(), ..Default::default() };
            success.push(op(Inner::RequestDeleteRange(delete)));
            let txn = pb::TxnRequest { success, ..Default::default() };
            write(pb::InternalRaftRequest { txn: Some(txn), ..none() })
        }
        Op::Range { range, revision, serializable } => {
            let (key, range_end) = body_of_range(range);
            let (revision, serializable) = (*revision, *serializable);
            Body::Range(pb::RangeRequest { key, range_end, revision, serializable, ..Default::default() })
        }
        Op::Compact { revision } => {
            let compaction = Some(pb::CompactionRequest { revision: *revision, physical: false }.into());
            write(pb::InternalRaftRequest { compaction, ..none() })
        }
        Op::Grant { id, ttl } => {
            let lease_grant = Some(pb::LeaseGrantRequest { id: *id, ttl: *ttl as i64 });
            write(pb::InternalRaftRequest { lease_grant, ..none() })
        }
        Op::Revoke { id } => {
            let lease_revoke = Some(pb::LeaseRevokeRequest { id: *id });
            write(pb::InternalRaftRequest { lease_revoke, ..none() })
        }
        Op::KeepAlive { id } => Body::KeepAlive(LeaseId(*id)),
    }
}

/// The revision of an answer to something that changed nothing: at least all that was seen before.
fn current(pending: &Pending, header: Option<pb::ResponseHeader>) -> Result<i64, String> {
    let revision = header.map_or(0, |header| header.revision);
    match revision >= pending.floor {
        true => Ok(revision),
        false => Err(format!("stale: revision {revision}, {} was seen before it was asked", pending.floor)),
    }
}

/// The revision of an answer to a write: above all that was seen before.
fn fresh(ctx: &Context, pending: &Pending, header: Option<pb::ResponseHeader>) -> Result<i64, String> {
    let revision = current(pending, header)?;
    match revision > pending.floor && !ctx.oracle.changes(revision).is_empty() {
        true => Ok(revision),
        false => Err(format!("a write at revision {revision}, {} was seen before", pending.floor)),
    }
}

fn written(ctx: &Context, key: &Bytes, value: &Bytes, revision: i64) -> Verdict {
    match ctx.oracle.written_at(key, value) {
        Some(at) if at == revision => Ok(()),
        at => Err(format!("{value:?} was confirmed at {revision}, history has it at {at:?}")),
    }
}

fn same_state(ctx: &Context, range: &KeyRange, revision: i64, kvs: &[KeyValue]) -> Verdict {
    let expected = ctx.oracle.state_at(range, revision);
    match expected.iter().copied().eq(kvs) {
        true => Ok(()),
        false => Err(format!("read at {revision} gave {kvs:?}, history has {expected:?}")),
    }
}
