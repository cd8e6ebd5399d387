//! Which keys this proxy has claimed, and what lies under them: the rules, without the cluster.
//!
//! Each key that something is going on with has a slot. What is known of it may be shown only while the
//! claim holds and nothing is under way that could change it:
//! - `known` is there only with a claim, with no write of ours in flight that covers the key;
//! - whatever could change the value counts up `changes`, so what was read before is recognised and
//!   not kept;
//! - a claim is taken up only if it is newer than everything that has ended claims of the key: a
//!   message about its end may overtake the answer that gave it;
//! - a write whose outcome nobody knows ends the claim it was made under, for good: it may be carried
//!   out at any later time, but only as long as no newer claim is there (see the guards in
//!   [`super::requests`]).

use std::collections::HashMap;
#[cfg(test)]
use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use tokio::time::Instant;

use super::requests::{Effect, Effects, Writes, lease_key};
use super::values::{self, Known};
use crate::grpc::cache::Span;

/// For so long a key is not claimed again that somebody else wanted, or has.
const BACKOFF: Duration = Duration::from_secs(2);
/// Claims at the same time.
const MAX_CLAIMS: usize = 65_536;
/// Bytes of what is known.
const MAX_BYTES: usize = 64 << 20;

#[derive(Debug, Default)]
struct Slot {
    /// Revision that created the key of the claim; 0 without a claim.
    claim: i64,
    /// What the claim itself counts for, in bytes.
    cost: usize,
    known: Option<Known>,
    changes: u64,
    /// Reads under way that ask for the claim.
    acquiring: u32,
    /// Writes of ours under way.
    writers: u32,
    /// Claims that are being given up.
    leaving: u32,
    /// Claims that are not newer than this are over.
    over: i64,
}

#[derive(Debug, Default)]
struct Totals {
    claims: usize,
    bytes: usize,
}

impl Slot {
    fn is_idle(&self) -> bool {
        self.claim == 0 && self.acquiring == 0 && self.writers == 0 && self.leaving == 0
    }

    fn claim(&mut self, claim: i64, cost: usize, totals: &mut Totals) {
        totals.claims += usize::from(claim != 0);
        totals.claims -= usize::from(self.claim != 0);
        totals.bytes += cost;
        totals.bytes -= self.cost;
        (self.claim, self.cost) = (claim, cost);
    }

    fn know(&mut self, known: Option<Known>, totals: &mut Totals) {
        let known = known.map(values::apart);
        let bytes = |known: &Option<Known>| known.as_ref().map_or(0, values::bytes);
        totals.bytes += bytes(&known);
        totals.bytes -= bytes(&self.known);
        self.known = known;
    }

    /// Something may change the value.
    fn disturb(&mut self, totals: &mut Totals) {
        self.changes += 1;
        self.know(None, totals);
    }

    /// Ends claims up to this one.
    fn end(&mut self, upto: i64, totals: &mut Totals) {
        self.over = self.over.max(upto);
        if self.claim <= self.over {
            self.claim(0, 0, totals);
        }
        self.disturb(totals);
    }
}

/// A claim to be given up at the cluster: the key of the claim is deleted if it was created before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leaving {
    /// The lease of the session that it belongs to.
    pub(super) lease: i64,
    pub(super) key: Bytes,
    pub(super) created_before: i64,
}

/// What a read finds.
#[derive(Debug)]
pub(super) enum Read {
    /// The answer.
    Here(pb::RangeResponse),
    /// Nothing, but the key may be claimed. The ticket has to come back.
    Claim(Ticket),
    /// It is for the cluster to answer.
    Pass,
}

/// A read that asks for a claim.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) key: Bytes,
    pub(super) lease: i64,
    changes: u64,
}

/// What the cluster has said to a [`Ticket`].
#[derive(Debug)]
pub(super) enum Acquired {
    /// The claim is ours: the revision that created its key, what lies under the key that was claimed,
    /// and the header.
    Claimed(i64, Known, Option<pb::ResponseHeader>),
    /// It was not to be had at this revision.
    Taken(i64),
    /// The cluster did not want to: full, or not allowed.
    Failed,
    /// Nobody knows.
    Unknown,
}

/// A write under way.
#[derive(Debug)]
pub(super) struct Written {
    keys: Vec<WrittenKey>,
    ranges: Vec<(u64, Span)>,
}

#[derive(Debug)]
struct WrittenKey {
    key: Bytes,
    claim: i64,
    changes: u64,
    before: Option<Known>,
}

impl Written {
    /// The keys that are written, and the claims under which.
    pub(super) fn claims(&self) -> impl Iterator<Item = (&Bytes, i64)> {
        self.keys.iter().map(|written| (&written.key, written.claim))
    }
}

/// How a write has ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// It was carried out: by this header, with these effects on single keys.
    Applied(Option<pb::ResponseHeader>, Effects),
    /// It was not, and will not be: a claim was in the way, or the cluster refused it.
    Refused,
    /// Nobody knows, and it may still happen.
    Unknown,
}

/// The claims.
#[derive(Debug)]
pub(super) struct Claims {
    prefix: Bytes,
    own: Span,
    slots: HashMap<Bytes, Slot>,
    totals: Totals,
    limits: Totals,
    /// Ranges that are being written.
    ranges: Vec<(u64, Span)>,
    next_range: u64,
    /// When a key was wanted, or had, by somebody else.
    wanted: HashMap<Bytes, Instant>,
    /// The lease that all claims are attached to; 0 without a session.
    lease: i64,
    /// Until when it certainly lives.
    until: Option<Instant>,
    /// The newest header that was seen.
    header: pb::ResponseHeader,
}

impl Claims {
    pub(super) fn new(prefix: &Bytes) -> Self {
        let (key, range_end) = client::with_prefix(prefix.clone());
        Self {
            prefix: prefix.clone(),
            own: Span::new(&key, &range_end),
            slots: HashMap::new(),
            totals: Totals::default(),
            limits: Totals { claims: MAX_CLAIMS, bytes: MAX_BYTES },
            ranges: Vec::new(),
            next_range: 0,
            wanted: HashMap::new(),
            lease: 0,
            until: None,
            header: pb::ResponseHeader::default(),
        }
    }

    /// A session begins.
    pub(super) fn open(&mut self, lease: i64, until: Instant) {
        self.close();
        (self.lease, self.until) = (lease, Some(until));
    }

    /// A lease was renewed; perhaps one whose session has ended meanwhile.
    pub(super) fn extend(&mut self, lease: i64, until: Instant) {
        if lease != 0 && lease == self.lease {
            self.until = Some(until);
        }
    }

    /// The session is over, and with it all claims.
    pub(super) fn close(&mut self) {
        (self.lease, self.until) = (0, None);
        let totals = &mut self.totals;
        self.slots.retain(|_, slot| {
            slot.end(slot.claim, totals);
            // Keys of claims are under the old lease, which nobody takes for ours any more.
            (slot.leaving, slot.over) = (0, 0);
            !slot.is_idle()
        });
    }

    /// The lease of the claims; 0 if there is none.
    pub(super) fn lease(&self) -> i64 {
        self.lease
    }

    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// The claim on a key; 0 if there is none.
    pub(super) fn claim(&self, key: &[u8]) -> i64 {
        self.slots.get(key).map_or(0, |slot| slot.claim)
    }

    /// Forgets who wanted what long ago.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.wanted.retain(|_, since| now < *since + BACKOFF);
    }

    fn is_live(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Whether a write of a range changes what lies under a key, or its claim.
    fn touches(&self, span: &Span, key: &[u8]) -> bool {
        span.covers(key) || (span.overlaps(&self.own) && span.covers(&lease_key(&self.prefix, key)))
    }

    /// Looks up a read.
    pub(super) fn read(&mut self, request: &pb::RangeRequest, now: Instant) -> Read {
        let key = &request.key;
        if !self.is_live(now) || !values::is_plain(request) || self.own.covers(key) {
            return Read::Pass;
        }
        if let Some(known) = self.slots.get(key).and_then(|slot| slot.known.as_ref()) {
            return Read::Here(values::answer(known, request, self.header));
        }
        let backs_off = self.wanted.get(key).is_some_and(|since| now < *since + BACKOFF);
        if request.serializable || backs_off || self.ranges.iter().any(|(_, span)| self.touches(span, key)) {
            return Read::Pass;
        }
        let slot = self.slots.entry(key.clone()).or_default();
        if slot.writers > 0 || slot.leaving > 0 {
            return Read::Pass;
        }
        slot.acquiring += 1;
        Read::Claim(Ticket { key: key.clone(), lease: self.lease, changes: slot.changes })
    }

    /// A ticket comes back. Gives the claims that had to make room.
    pub(super) fn acquired(&mut self, ticket: &Ticket, outcome: Acquired, now: Instant) -> Vec<Leaving> {
        let key = &ticket.key;
        let covered = self.ranges.iter().any(|(_, span)| self.touches(span, key));
        let Some(slot) = self.slots.get_mut(key) else { return Vec::new() };
        let mut leaving = Vec::new();
        slot.acquiring -= 1;
        match outcome {
            Acquired::Claimed(claim, known, header) => {
                if ticket.lease == self.lease && claim > slot.over && claim >= slot.claim {
                    slot.claim(claim, key.len() + size_of::<Slot>(), &mut self.totals);
                    let is_current = slot.changes == ticket.changes && slot.writers == 0 && !covered;
                    let is_of_use = values::may_be_known(&known);
                    if is_current && is_of_use {
                        slot.know(Some(known), &mut self.totals);
                    }
                    self.saw(header);
                    if !is_of_use {
                        // Else each read would ask for it again, which is a write.
                        self.wanted.insert(key.clone(), now);
                        leaving.extend(self.give_up(key));
                    }
                }
            }
            Acquired::Taken(revision) => {
                slot.end(revision, &mut self.totals);
                self.wanted.insert(key.clone(), now);
            }
            Acquired::Failed => drop(self.wanted.insert(key.clone(), now)),
            Acquired::Unknown => {}
        }
        leaving.extend(self.make_room(key));
        self.tidy(key);
        leaving
    }

    /// Gives up what is too much, whatever comes first, the newest last.
    fn make_room(&mut self, newest: &Bytes) -> Vec<Leaving> {
        let mut leaving = Vec::new();
        while self.totals.claims > self.limits.claims || self.totals.bytes > self.limits.bytes {
            let is_other = |(key, slot): &(&Bytes, &Slot)| slot.claim > 0 && *key != newest;
            let victim = self.slots.iter().find(is_other).map_or(newest, |(key, _)| key).clone();
            match self.give_up(&victim) {
                Some(left) => leaving.push(left),
                None => break,
            }
        }
        leaving
    }

    fn give_up(&mut self, key: &Bytes) -> Option<Leaving> {
        let slot = self.slots.get_mut(key).filter(|slot| slot.claim > 0)?;
        let claim = slot.claim;
        slot.end(claim, &mut self.totals);
        slot.leaving += 1;
        Some(Leaving { lease: self.lease, key: key.clone(), created_before: claim + 1 })
    }

    /// A write begins. It has to be ended.
    pub(super) fn begin(&mut self, writes: &Writes) -> Written {
        let mut written = Written { keys: Vec::new(), ranges: Vec::new() };
        for key in &writes.keys {
            let slot = self.slots.entry(key.clone()).or_default();
            slot.writers += 1;
            let before = slot.known.clone();
            slot.disturb(&mut self.totals);
            let (claim, changes) = (slot.claim, slot.changes);
            written.keys.push(WrittenKey { key: key.clone(), claim, changes, before });
        }
        for span in &writes.ranges {
            self.next_range += 1;
            written.ranges.push((self.next_range, span.clone()));
            self.ranges.push((self.next_range, span.clone()));
            for key in self.touched(span) {
                self.slots.entry(key).and_modify(|slot| slot.disturb(&mut self.totals));
            }
        }
        written
    }

    fn touched(&self, span: &Span) -> Vec<Bytes> {
        self.slots.keys().filter(|key| self.touches(span, key)).cloned().collect()
    }

    /// A write has ended. Gives the claims that are over because of it and have to be given up.
    pub(super) fn end(&mut self, written: Written, mut ended: Ended) -> Vec<Leaving> {
        let mut leaving = Vec::new();
        if let Ended::Applied(header, _) = &ended {
            self.saw(*header);
        }
        let revision = match &ended {
            Ended::Applied(Some(header), _) => header.revision,
            _ => 0,
        };
        for WrittenKey { key, claim, changes, before } in written.keys {
            let Some(slot) = self.slots.get_mut(&key) else { continue };
            slot.writers -= 1;
            match &mut ended {
                Ended::Applied(_, effects) => {
                    let effect = effects.remove(&key).unwrap_or(Effect::None);
                    if claim != 0 && slot.claim == claim && slot.changes == changes && slot.writers == 0 {
                        let known = before.and_then(|before| effect.on(before, revision));
                        slot.know(known, &mut self.totals);
                        leaving.extend(self.make_room(&key));
                    }
                }
                Ended::Refused => {}
                Ended::Unknown => leaving.extend(self.give_up(&key)),
            }
            self.tidy(&key);
        }
        for (number, span) in written.ranges {
            self.ranges.retain(|(other, _)| *other != number);
            for key in self.touched(&span) {
                let Some(slot) = self.slots.get_mut(&key) else { continue };
                slot.disturb(&mut self.totals);
                let of_claim = lease_key(&self.prefix, &key);
                match &ended {
                    // The claim went with what was deleted.
                    Ended::Applied(..) if span.covers(&of_claim) => slot.end(revision - 1, &mut self.totals),
                    Ended::Applied(..) | Ended::Refused => {}
                    Ended::Unknown => leaving.extend(self.give_up(&key)),
                }
                self.tidy(&key);
            }
        }
        leaving
    }

    /// Somebody wants a key: its claim up to this revision is over, and to be given up.
    pub(super) fn revoked(&mut self, key: &Bytes, revision: i64, now: Instant) -> Option<Leaving> {
        self.wanted.insert(key.clone(), now);
        let slot = self.slots.entry(key.clone()).or_default();
        if slot.claim > revision {
            return None;
        }
        slot.end(revision, &mut self.totals);
        slot.leaving += 1;
        Some(Leaving { lease: self.lease, key: key.clone(), created_before: revision })
    }

    /// The key of a claim is gone, or is not what we made it, since this revision.
    pub(super) fn lost(&mut self, key: &Bytes, revision: i64) {
        if let Some(slot) = self.slots.get_mut(key) {
            slot.end(revision - 1, &mut self.totals);
            self.tidy(key);
        }
    }

    /// A claim was given up at the cluster.
    pub(super) fn left(&mut self, key: &Bytes) {
        if let Some(slot) = self.slots.get_mut(key) {
            slot.leaving = slot.leaving.saturating_sub(1);
            self.tidy(key);
        }
    }

    /// Answers a transaction, if all it needs is known and it would write nothing.
    pub(super) fn evaluate(&self, txn: &pb::TxnRequest, now: Instant) -> Option<pb::TxnResponse> {
        if !self.is_live(now) {
            return None;
        }
        let known = |key: &Bytes| self.slots.get(key)?.known.as_ref();
        values::evaluate(txn, self.header, known)
    }

    fn saw(&mut self, header: Option<pb::ResponseHeader>) {
        if let Some(header) = header.filter(|header| header.revision > self.header.revision) {
            self.header = header;
        }
    }

    fn tidy(&mut self, key: &Bytes) {
        if self.slots.get(key).is_some_and(Slot::is_idle) {
            self.slots.remove(key);
        }
    }

    /// The keys that are claimed.
    #[cfg(test)]
    pub(super) fn held(&self) -> HashSet<Bytes> {
        let claimed = self.slots.iter().filter(|(_, slot)| slot.claim > 0);
        claimed.map(|(key, _)| key.clone()).collect()
    }
}

#[cfg(test)]
#[path = "claims_tests.rs"]
mod tests;
