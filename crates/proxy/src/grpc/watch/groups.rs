//! Which watches share one: a state machine without I/O.
//!
//! Watches of the same range make a group. A group has broadcasts; each is one watch at the cluster,
//! with all previous values, whose events go to its receivers, each of which sees them through its own
//! [`View`]. In the long run a group has one broadcast:
//!
//! - a watch joins one that will show it every event it still needs, and has little to show before that,
//!   else gets a broadcast of its own: who wants what happens from now on does not wait behind somebody's
//!   history;
//! - a broadcast that has caught up with the newest one of its group hands its receivers over and ends.
//!
//! Invariants, per broadcast:
//! - every event of the range below `next_revision` was delivered to every receiver that wanted it;
//! - it saw the range from `joinable_from` on and has had no event there: who needs nothing older can
//!   join, and `joinable_from <= next_revision`;
//! - it has caught up when it has shown all that there was when it began (`history_until`). That is seen
//!   at an event or at progress: a range that is quiet after its history may have a second broadcast until
//!   then.
//!
//! A receiver never sees an event twice: those below its own `next_revision` are left out.
//!
//! **Source**: etcd `server/proxy/grpcproxy/{watch_ranges,watch_broadcasts,watch_broadcast,watcher}.go`.
//! There the revision in the header of a response counts as delivered, which loses events while a watch
//! catches up; here only events, and progress responses, count.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use proto::etcdserverpb as pb;

use super::body::{Bodies, Body, View, revision_of};
use super::outlet::{End, Outlet};

/// Revisions that a watch may have to wait for although it does not need them: members read history in
/// batches of so many.
const SHORT_HISTORY: i64 = 1000;

/// A watch stream of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StreamId(pub(crate) u64);

/// A watch at the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BroadcastId(u64);

type ReceiverId = (StreamId, i64);
type Token = Option<Arc<str>>;

/// What is watched, as the caller wrote it, and how.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Range {
    pub(crate) key: Bytes,
    pub(crate) range_end: Bytes,
    /// Whether the stream has to end when there is no leader. Who does not ask for that must not be cut
    /// off, so the two share nothing.
    pub(crate) needs_leader: bool,
}

/// A watch that a caller wants.
pub(crate) struct Watch {
    pub(crate) stream: StreamId,
    pub(crate) id: i64,
    pub(crate) range: Range,
    /// First revision wanted; 0 for whatever comes from now on.
    pub(crate) start_revision: i64,
    /// The state of the cluster when permission was given.
    pub(crate) header: pb::ResponseHeader,
    pub(crate) progress: bool,
    pub(crate) view: View,
    pub(crate) token: Token,
    pub(crate) outlet: Arc<Outlet>,
}

/// What has to be done at the cluster.
#[derive(Debug, PartialEq)]
pub(crate) enum Effect {
    /// Begin a watch.
    Open { id: BroadcastId, range: Range, start_revision: i64, token: Token },
    /// End it.
    Close { id: BroadcastId },
}

struct Receiver {
    outlet: Arc<Outlet>,
    next_revision: i64,
    progress: bool,
    view: View,
    token: Token,
}

struct Broadcast {
    next_revision: i64,
    joinable_from: i64,
    /// The newest revision there was when it began, as far as was known to the member that was asked.
    history_until: i64,
    token: Token,
    receivers: BTreeMap<ReceiverId, Receiver>,
}

impl Broadcast {
    fn has_caught_up(&self) -> bool {
        self.next_revision > self.history_until
    }

    /// Whether a watch that needs everything from `revision` on gets it here, and does not wait for much
    /// else.
    fn suits(&self, revision: i64) -> bool {
        let is_near = revision.saturating_sub(self.next_revision) <= SHORT_HISTORY;
        self.joinable_from <= revision && (is_near || self.has_caught_up())
    }
}

#[derive(Default)]
struct Group {
    broadcasts: BTreeMap<BroadcastId, Broadcast>,
    /// What the last response from the cluster said.
    header: pb::ResponseHeader,
}

/// All watches of a proxy.
#[derive(Default)]
pub(crate) struct Groups {
    groups: HashMap<Range, Group>,
    /// Where a broadcast belongs.
    ranges: HashMap<BroadcastId, Range>,
    /// Watches by stream.
    streams: HashMap<StreamId, BTreeMap<i64, Range>>,
    last_broadcast: u64,
    /// The newest revision that anybody has shown. No broadcast begins behind the next one.
    newest_revision: i64,
    effects: Vec<Effect>,
    /// Receivers beyond the first of each broadcast.
    pub(crate) coalesced: i64,
    /// Deliveries beyond the first of each response.
    pub(crate) spared: u64,
}

impl Groups {
    /// What has to be done since the last time.
    pub(crate) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Adds a watch and answers that it exists.
    pub(crate) fn add(&mut self, watch: Watch) {
        let Watch { stream, id, range, mut start_revision, mut header, progress, view, token, outlet } =
            watch;
        self.newest_revision = self.newest_revision.max(header.revision);
        let group = self.groups.entry(range.clone()).or_default();
        if group.header.revision < header.revision {
            group.header = header;
        }
        let newest = group.broadcasts.values().map(|broadcast| broadcast.joinable_from).max();
        let history_until = header.revision;
        if start_revision == 0 {
            // From now on; and now is no earlier than what this proxy has shown.
            start_revision = (header.revision + 1).max(newest.unwrap_or(0));
            header.revision = start_revision - 1;
        }
        let created = pb::WatchResponse { header: Some(header), created: true, ..Default::default() };
        outlet.push(id, &Body::new(&created));
        let watches = self.streams.entry(stream).or_default();
        watches.insert(id, range.clone());
        outlet.set_watches(watches.len());
        let next_revision = start_revision;
        let receiver = Receiver { outlet, next_revision, progress, view, token: token.clone() };
        let joinable = group.broadcasts.iter_mut().filter(|(_, known)| known.suits(start_revision));
        if let Some((_, broadcast)) = joinable.max_by_key(|(_, known)| known.joinable_from) {
            broadcast.receivers.insert((stream, id), receiver);
            self.coalesced += 1;
            return;
        }
        let receivers = BTreeMap::from([((stream, id), receiver)]);
        let next_revision = start_revision.min(self.newest_revision + 1);
        self.open(
            range,
            Broadcast { next_revision, joinable_from: next_revision, history_until, token, receivers },
        );
    }

    fn open(&mut self, range: Range, broadcast: Broadcast) {
        self.last_broadcast += 1;
        let id = BroadcastId(self.last_broadcast);
        let (start_revision, token) = (broadcast.next_revision, broadcast.token.clone());
        self.effects.push(Effect::Open { id, range: range.clone(), start_revision, token });
        self.ranges.insert(id, range.clone());
        self.coalesced += broadcast.receivers.len() as i64 - 1;
        self.groups.entry(range).or_default().broadcasts.insert(id, broadcast);
    }

    /// Forgets a broadcast; its receivers are the caller's business.
    fn close(&mut self, id: BroadcastId) -> Option<Broadcast> {
        let range = self.ranges.remove(&id)?;
        let group = self.groups.get_mut(&range)?;
        let broadcast = group.broadcasts.remove(&id)?;
        if group.broadcasts.is_empty() {
            self.groups.remove(&range);
        }
        self.effects.push(Effect::Close { id });
        self.coalesced -= (broadcast.receivers.len() as i64 - 1).max(0);
        Some(broadcast)
    }

    /// Ends a watch and says so. An id that is not in use gets no answer.
    pub(crate) fn cancel(&mut self, stream: StreamId, id: i64) {
        let Some(watches) = self.streams.get_mut(&stream) else { return };
        let Some(range) = watches.remove(&id) else { return };
        let left = watches.len();
        let header = self.groups.get(&range).map(|group| group.header);
        if let Some(receiver) = self.remove(&range, (stream, id)) {
            let canceled = pb::WatchResponse { header, canceled: true, ..Default::default() };
            receiver.outlet.push(id, &Body::new(&canceled));
            receiver.outlet.set_watches(left);
        }
    }

    /// A stream has ended, and with it its watches.
    pub(crate) fn stream_gone(&mut self, stream: StreamId) {
        for (id, range) in self.streams.remove(&stream).unwrap_or_default() {
            self.remove(&range, (stream, id));
        }
    }

    fn remove(&mut self, range: &Range, receiver: ReceiverId) -> Option<Receiver> {
        let group = self.groups.get_mut(range)?;
        let mut found = group.broadcasts.iter_mut();
        let (id, broadcast) = found.find(|(_, broadcast)| broadcast.receivers.contains_key(&receiver))?;
        let (id, removed) = (*id, broadcast.receivers.remove(&receiver));
        match broadcast.receivers.is_empty() {
            true => drop(self.close(id)),
            false => self.coalesced -= 1,
        }
        removed
    }

    /// A response of the watch behind a broadcast, which may have ended meanwhile.
    pub(crate) fn response(&mut self, id: BroadcastId, response: &pb::WatchResponse) {
        let Some(range) = self.ranges.get(&id) else { return };
        let Some(group) = self.groups.get_mut(range) else { return };
        let shares = group.broadcasts.len() > 1;
        let Some(broadcast) = group.broadcasts.get_mut(&id) else { return };
        if let Some(header) = response.header {
            group.header = header;
            self.newest_revision = self.newest_revision.max(header.revision);
        }
        if response.canceled {
            return self.canceled(id, response);
        }
        let header_revision = response.header.map_or(0, |header| header.revision);
        match response.events.last() {
            Some(last) => {
                let next = revision_of(last) + 1;
                let mut bodies = Bodies::new(response);
                let mut delivered = 0;
                for ((_, watch), receiver) in &mut broadcast.receivers {
                    if let Some(body) = bodies.get(receiver.view, receiver.next_revision) {
                        receiver.outlet.push(*watch, &body);
                        delivered += 1;
                    }
                    receiver.next_revision = receiver.next_revision.max(next);
                }
                self.spared += u64::saturating_sub(delivered, 1);
                broadcast.next_revision = broadcast.next_revision.max(next);
                broadcast.joinable_from = broadcast.joinable_from.max(next);
            }
            None if client::is_progress(response) => {
                let body = Body::new(response);
                for ((_, watch), receiver) in &broadcast.receivers {
                    if receiver.progress {
                        receiver.outlet.push(*watch, &body);
                    }
                }
                broadcast.next_revision = broadcast.next_revision.max(header_revision + 1);
            }
            None => {}
        }
        if shares {
            let range = range.clone();
            self.coalesce(&range);
        }
    }

    /// Hands the receivers of broadcasts over to the newest one of their group, where they miss nothing by
    /// that and need not wait for what they have.
    fn coalesce(&mut self, range: &Range) {
        let Some(group) = self.groups.get(range) else { return };
        let newest = group.broadcasts.iter().max_by_key(|(id, known)| {
            // Of several the oldest, so that all agree.
            (known.joinable_from, std::cmp::Reverse(**id))
        });
        let Some((&newest, target)) = newest else { return };
        let goes_over = |(id, own): &(&BroadcastId, &Broadcast)| {
            **id != newest
                && own.next_revision >= target.joinable_from
                && (target.has_caught_up() || !own.has_caught_up())
        };
        let going: Vec<BroadcastId> = group.broadcasts.iter().filter(goes_over).map(|(id, _)| *id).collect();
        for id in going {
            let Some(ended) = self.close(id) else { continue };
            let target = self.groups.get_mut(range).and_then(|group| group.broadcasts.get_mut(&newest));
            let Some(target) = target else { return };
            for (receiver_id, mut receiver) in ended.receivers {
                receiver.next_revision = receiver.next_revision.max(ended.next_revision);
                target.receivers.insert(receiver_id, receiver);
                self.coalesced += 1;
            }
        }
    }

    /// The cluster ended the watch behind a broadcast, because its revision is gone, or because of who
    /// asked. Those whom it concerns are told, for the others a new one begins.
    fn canceled(&mut self, id: BroadcastId, response: &pb::WatchResponse) {
        let Some(range) = self.ranges.get(&id).cloned() else { return };
        let Some(broadcast) = self.close(id) else { return };
        // That the watch exists was said long ago.
        let body = Body::new(&pb::WatchResponse { created: false, ..response.clone() });
        let Broadcast { next_revision, history_until, token, mut receivers, .. } = broadcast;
        receivers.retain(|(stream, watch), receiver| {
            // What lies before is delivered.
            receiver.next_revision = receiver.next_revision.max(next_revision);
            let stays = match response.compact_revision {
                0 => receiver.token != token,
                compacted => receiver.next_revision >= compacted,
            };
            if !stays {
                receiver.outlet.push(*watch, &body);
                if let Some(watches) = self.streams.get_mut(stream) {
                    watches.remove(watch);
                    receiver.outlet.set_watches(watches.len());
                }
            }
            stays
        });
        let Some(first) = receivers.values().min_by_key(|receiver| receiver.next_revision) else { return };
        let (wanted, token) = (first.next_revision, first.token.clone());
        // As for any other watch: what comes next is the last revision to begin at.
        let next_revision = wanted.min(self.newest_revision + 1).max(response.compact_revision);
        // What lies between is behind a compaction still to be read.
        let history_until = if response.compact_revision == 0 { history_until } else { self.newest_revision };
        self.open(
            range.clone(),
            Broadcast { next_revision, joinable_from: next_revision, history_until, token, receivers },
        );
        if let (Some(group), Some(header)) = (self.groups.get_mut(&range), response.header) {
            group.header = header;
        }
    }

    /// The watch behind a broadcast ended because there is no leader, and so do the streams of those who
    /// asked for one.
    pub(crate) fn leader_lost(&mut self, id: BroadcastId) {
        let Some(broadcast) = self.close(id) else { return };
        // The streams will say that they are gone.
        broadcast.receivers.values().for_each(|receiver| receiver.outlet.end(End::NoLeader));
    }
}

#[cfg(test)]
#[path = "groups_tests.rs"]
mod tests;
