//! What must hold, checked as it happens.
//!
//! - Raft: one leader per term, one vote per term and member over crashes, one content and one
//!   predecessor per (index, term) in all logs, a new leader has all that was ever applied, all
//!   members apply the same entry with the same outcome at an index.
//! - The store: the events of the first member that applies an entry are the history; they must
//!   follow a naive model of revisions and versions, and everybody else's events must be equal.
//! - Requests: an id is applied once; what a client was told is in the history.
//! - Leases: nobody loses one before its time.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mvcc::{EventKind, RevisionEvents};
use prost::Message;
use proto::{etcdserverpb as pb, mvccpb, raftpb};
use types::{Entry, EntryKind, KeyRange};

use crate::trace::{digest, mix};

/// What a check found.
pub(crate) type Verdict = Result<(), String>;

/// A change of a key, as history has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    pub(crate) key: Bytes,
    /// The new state; none = deleted.
    pub(crate) value: Option<mvccpb::KeyValue>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AppliedEntry {
    term: u64,
    content: u64,
    outcome: u64,
    /// Term of the member that applied it first: it was committed in this term or before.
    committed_by: u64,
}

/// A lease as its holder and the log know it.
#[derive(Debug, Default)]
struct Lease {
    ttl: u64,
    /// Latest moment at which a renewal or the grant was asked for that was confirmed.
    confirmed: u64,
    /// When it was revoked because it was over.
    expired_at: Option<u64>,
    gone: bool,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    entries: BTreeMap<u64, AppliedEntry>,
    leaders: BTreeMap<u64, u64>,
    votes: BTreeMap<(u64, u64), u64>,
    log: BTreeMap<(u64, u64), (u64, u64)>,
    requests: BTreeSet<u64>,
    written: BTreeMap<(Bytes, Bytes), i64>,
    history: BTreeMap<i64, Vec<Change>>,
    keys: BTreeMap<Bytes, Vec<(i64, Option<mvccpb::KeyValue>)>>,
    /// The newest revision.
    pub(crate) current: i64,
    /// The newest compaction point.
    pub(crate) compacted: i64,
    /// The newest revision that anybody outside has seen.
    pub(crate) observed: i64,
    hashes: BTreeMap<(i64, i64), (u32, usize)>,
    leases: BTreeMap<i64, Lease>,
    /// Request ids of revocations that a lessor asked for.
    pub(crate) expiries: BTreeSet<u64>,
    /// Index of the removal of each member that was removed.
    pub(crate) removals: BTreeMap<u64, u64>,
    /// When clocks jumped forward, and how far.
    pub(crate) jumps: Vec<(u64, u64)>,
}

impl Oracle {
    pub(crate) fn new() -> Self {
        Self { current: 1, compacted: -1, observed: 1, ..Self::default() }
    }

    /// Highest index that anybody applied.
    pub(crate) fn last_applied(&self) -> u64 {
        self.entries.last_key_value().map_or(0, |(index, _)| *index)
    }

    // Raft

    /// A member says that it leads.
    pub(crate) fn leads(
        &mut self,
        id: u64,
        term: u64,
        last: u64,
        term_of: impl Fn(u64) -> Option<u64>,
    ) -> Verdict {
        let leader = *self.leaders.entry(term).or_insert(id);
        if leader != id {
            return Err(format!("two leaders in term {term}: {leader:x} and {id:x}"));
        }
        let newest = self.last_applied();
        // A leader of an old term, elected by votes that came late, need not have what later terms
        // committed.
        for (index, entry) in self.entries.iter().rev().filter(|(_, entry)| entry.committed_by < term) {
            if last < *index {
                return Err(format!(
                    "leader {id:x} of term {term} ends at {last}, entry {newest} was applied"
                ));
            }
            match term_of(*index) {
                Some(held) if held != entry.term => {
                    return Err(format!(
                        "leader {id:x} of term {term} has term {held} at {index}, applied was term {}",
                        entry.term
                    ));
                }
                Some(_) => {}
                None => break,
            }
        }
        Ok(())
    }

    /// A member gives its vote away.
    pub(crate) fn votes(&mut self, id: u64, term: u64, candidate: u64) -> Verdict {
        let given = *self.votes.entry((id, term)).or_insert(candidate);
        if given == candidate {
            return Ok(());
        }
        Err(format!("{id:x} voted twice in term {term}: for {given:x} and {candidate:x}"))
    }

    /// A member has an entry in its log for good, behind one of `previous` term.
    pub(crate) fn logged(&mut self, entry: &Entry, previous: u64) -> Verdict {
        let fingerprint = (mix(digest(&entry.data), entry.kind as u64), previous);
        let known = *self.log.entry((entry.index, entry.term)).or_insert(fingerprint);
        if known == fingerprint {
            return Ok(());
        }
        Err(format!(
            "logs differ at index {} term {}: content {:x} and {:x}, term before {} and {}",
            entry.index, entry.term, known.0, fingerprint.0, known.1, fingerprint.1
        ))
    }

    /// A member applied an entry. `replayed`: its effect was there before.
    pub(crate) fn applied(
        &mut self,
        entry: &Entry,
        ok: bool,
        revision: i64,
        events: Option<&RevisionEvents>,
        replayed: bool,
        (now, member_term): (u64, u64),
    ) -> Verdict {
        let mut outcome = mix(mix(u64::from(ok), revision as u64), 7);
        for event in events.iter().flat_map(|events| &events.events) {
            let at = mix(event.revision.main as u64, event.revision.sub as u64);
            outcome = mix(mix(outcome, at), mix(digest(&event.key), digest(&event.record)));
        }
        let applied = AppliedEntry {
            term: entry.term,
            content: mix(digest(&entry.data), entry.kind as u64),
            outcome,
            committed_by: member_term,
        };
        if let Some(known) = self.entries.get(&entry.index) {
            if (known.term, known.content) != (applied.term, applied.content) {
                return Err(format!(
                    "another entry was applied at index {}: term {} and term {}",
                    entry.index, known.term, applied.term
                ));
            }
            if known.outcome != outcome && !replayed {
                return Err(format!("index {} had another outcome (revision {revision} here)", entry.index));
            }
            return Ok(());
        }
        let newest = self.last_applied();
        if entry.index != newest + 1 {
            return Err(format!("index {} was applied first, behind {newest}", entry.index));
        }
        if replayed {
            return Err(format!("index {} was never applied, yet it is said to be", entry.index));
        }
        self.entries.insert(entry.index, applied);
        if let Some(events) = events {
            self.record(events)?;
        }
        if revision != self.current {
            return Err(format!("index {}: revision {revision}, expected {}", entry.index, self.current));
        }
        if entry.kind == EntryKind::ConfChange && ok {
            let change = raftpb::ConfChange::decode(entry.data.clone())
                .map_err(|error| format!("index {}: {error}", entry.index))?;
            if change.r#type() == raftpb::ConfChangeType::ConfChangeRemoveNode {
                self.removals.insert(change.node_id(), entry.index);
            }
        }
        if entry.kind == EntryKind::Normal && !entry.data.is_empty() {
            self.follow_request(entry, ok, now)?;
        }
        Ok(())
    }

    /// Takes events into the history, against a naive model.
    fn record(&mut self, revision: &RevisionEvents) -> Verdict {
        let main = revision.main;
        if main != self.current + 1 {
            return Err(format!("revision {main} follows {}", self.current));
        }
        self.current = main;
        let mut changes = Vec::new();
        for event in &revision.events {
            let versions = self.keys.entry(event.key.clone()).or_default();
            let before = versions.last().and_then(|(_, value)| value.as_ref());
            let value = match event.kind {
                EventKind::Delete if before.is_none() => {
                    return Err(format!("revision {main} deletes {:?}, which was not there", event.key));
                }
                EventKind::Delete => None,
                EventKind::Put => {
                    let value = mvccpb::KeyValue::decode(event.record.clone())
                        .map_err(|error| format!("event of revision {main}: {error}"))?;
                    let created = before.map_or(main, |before| before.create_revision);
                    let version = before.map_or(1, |before| before.version + 1);
                    let stamp = (value.create_revision, value.version, value.mod_revision);
                    if value.key != event.key || stamp != (created, version, main) {
                        return Err(format!(
                            "revision {main} has a wrong record for {:?}: {value:?}",
                            event.key
                        ));
                    }
                    let written = (value.key.clone(), value.value.clone());
                    if let Some(first) = self.written.insert(written, main) {
                        return Err(format!("{:?} was written twice: at {first} and {main}", value.value));
                    }
                    Some(value)
                }
            };
            versions.push((main, value.clone()));
            changes.push(Change { key: event.key.clone(), value });
        }
        self.history.insert(main, changes);
        Ok(())
    }

    fn follow_request(&mut self, entry: &Entry, ok: bool, now: u64) -> Verdict {
        let request = pb::InternalRaftRequest::decode(entry.data.clone())
            .map_err(|error| format!("index {}: {error}", entry.index))?;
        let id = request.header.as_ref().map_or(0, |header| header.id);
        if !self.requests.insert(id) {
            return Err(format!(
                "request {id:x} was applied twice, the second time at index {}",
                entry.index
            ));
        }
        if !ok {
            return Ok(());
        }
        if let Some(compaction) = &request.compaction {
            self.compacted = self.compacted.max(compaction.revision);
        }
        if let Some(grant) = &request.lease_grant {
            self.leases.insert(grant.id, Lease { ttl: grant.ttl as u64, ..Lease::default() });
        }
        if let Some(revoke) = &request.lease_revoke {
            let expired = self.expiries.contains(&id);
            let Some(lease) = self.leases.get_mut(&revoke.id) else {
                return Err(format!("lease {} was revoked and never granted", revoke.id));
            };
            lease.gone = true;
            let holds = |kv: &mvccpb::KeyValue| kv.lease == revoke.id;
            let left =
                self.keys.values().filter_map(|versions| versions.last()?.1.as_ref()).find(|kv| holds(kv));
            if let Some(kv) = left {
                return Err(format!("lease {} was revoked and {:?} is still there", revoke.id, kv.key));
            }
            lease.expired_at = expired.then_some(now);
            return self.judge_lease(revoke.id);
        }
        Ok(())
    }

    // Leases

    /// A client was told that its lease lives; it had asked at `asked`.
    pub(crate) fn lease_confirmed(&mut self, id: i64, asked: u64) -> Verdict {
        let Some(lease) = self.leases.get_mut(&id) else {
            return Err(format!("lease {id} was confirmed and never granted"));
        };
        lease.confirmed = lease.confirmed.max(asked);
        self.judge_lease(id)
    }

    fn judge_lease(&self, id: i64) -> Verdict {
        let Some(lease) = self.leases.get(&id) else { return Ok(()) };
        let Some(end) = lease.expired_at else { return Ok(()) };
        let within = |time: &u64| (lease.confirmed..=end).contains(time);
        let jumped: u64 = self.jumps.iter().filter(|(time, _)| within(time)).map(|(_, by)| by).sum();
        if lease.confirmed > 0 && end + jumped < lease.confirmed + lease.ttl * crate::profile::SECOND {
            return Err(format!(
                "lease {id} of {} s was confirmed for a request of {} ms and expired at {} ms",
                lease.ttl,
                lease.confirmed / 1000,
                end / 1000
            ));
        }
        Ok(())
    }

    /// Leases that exist.
    pub(crate) fn live_leases(&self) -> Vec<i64> {
        self.leases.iter().filter(|(_, lease)| !lease.gone).map(|(id, _)| *id).collect()
    }

    // What clients see

    /// Somebody outside saw this revision.
    pub(crate) fn saw(&mut self, revision: i64) -> Verdict {
        if revision > self.current {
            return Err(format!("a client saw revision {revision}, the newest is {}", self.current));
        }
        self.observed = self.observed.max(revision);
        Ok(())
    }

    /// The changes of a revision.
    pub(crate) fn changes(&self, revision: i64) -> &[Change] {
        self.history.get(&revision).map_or(&[], Vec::as_slice)
    }

    /// Changes in a range, of revisions `from..=to`.
    pub(crate) fn changes_in<'a>(
        &'a self,
        range: &'a KeyRange,
        from: i64,
        to: i64,
    ) -> impl Iterator<Item = (i64, &'a Change)> {
        self.history
            .range(from..)
            .take_while(move |(revision, _)| **revision <= to)
            .flat_map(|(revision, changes)| changes.iter().map(move |change| (*revision, change)))
            .filter(|(_, change)| range.contains(&change.key))
    }

    /// The keys of a range at a revision.
    pub(crate) fn state_at(&self, range: &KeyRange, revision: i64) -> Vec<&mvccpb::KeyValue> {
        let at = |versions: &'_ Vec<(i64, Option<mvccpb::KeyValue>)>| {
            let behind = versions.partition_point(|(changed, _)| *changed <= revision);
            behind.checked_sub(1)
        };
        self.keys
            .iter()
            .filter(|(key, _)| range.contains(key))
            .filter_map(|(_, versions)| versions[at(versions)?].1.as_ref())
            .collect()
    }

    /// A key at a revision.
    pub(crate) fn key_at(&self, key: &Bytes, revision: i64) -> Option<&mvccpb::KeyValue> {
        self.state_at(&KeyRange::Single(key.clone()), revision).first().copied()
    }

    /// The revision at which this value was put under this key.
    pub(crate) fn written_at(&self, key: &Bytes, value: &Bytes) -> Option<i64> {
        self.written.get(&(key.clone(), value.clone())).copied()
    }

    // Hashes

    /// A member has this hash.
    pub(crate) fn hashed(&mut self, slot: usize, hash: mvcc::HashKv) -> Verdict {
        let at = (hash.hash_revision, hash.compact_revision);
        let (known, by) = *self.hashes.entry(at).or_insert((hash.hash, slot));
        if known == hash.hash {
            return Ok(());
        }
        Err(format!(
            "hashes differ at revision {} compacted at {}: {known:08x} on n{by}, {:08x} on n{slot}",
            at.0, at.1, hash.hash
        ))
    }
}
