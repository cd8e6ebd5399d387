//! A client that watches, and checks what it is told against the history.

use bytes::Bytes;
use env::Random;
use mvcc::watch::{Batch, Outgoing, Stream, WatchRequest};
use prost::Message;
use proto::{etcdserverpb as pb, mvccpb};
use types::KeyRange;

use crate::bugs::Bug;
use crate::context::{Context, Event};
use crate::node::Node;
use crate::oracle::Verdict;
use crate::profile::MS;
use crate::random::Draw;

/// See the module documentation.
pub(crate) struct Watcher {
    number: usize,
    range: KeyRange,
    prev_kv: bool,
    /// The first revision that it has not seen; 0 before it knows where it begins.
    next: i64,
    connection: Option<Connection>,
}

struct Connection {
    slot: usize,
    epoch: u64,
    stream: Stream,
}

impl Watcher {
    pub(crate) fn new(number: usize, ctx: &mut Context) -> Self {
        let range = match ctx.random.below(3) {
            0 => KeyRange::From(Bytes::new()),
            1 => KeyRange::Single(crate::client::key(0)),
            _ => KeyRange::Span(crate::client::key(1), crate::client::key(2 + ctx.profile.keys / 2)),
        };
        Self { number, range, prev_kv: ctx.random.percent(40), next: 0, connection: None }
    }

    /// Looks at the stream, reconnects if needed.
    pub(crate) fn act(&mut self, ctx: &mut Context, nodes: &mut [Node], endpoints: &[usize]) {
        let pause = ctx.random.pick(&[5 * MS, 50 * MS, 50 * MS, 800 * MS]);
        let delay = ctx.random.between(MS, pause);
        ctx.after(delay, Event::Watcher(self.number));
        let alive = |connection: &Connection| {
            let node = &nodes[connection.slot];
            node.epoch == connection.epoch && node.running.is_some()
        };
        let leaves = ctx.in_trouble() && ctx.random.percent(3);
        if leaves || !self.connection.as_ref().is_some_and(alive) {
            self.connection = None;
            let slot = endpoints[ctx.random.below(endpoints.len() as u64) as usize];
            return self.connect(ctx, &mut nodes[slot]);
        }
        let Some(connection) = &self.connection else { return };
        let taken = connection.stream.take();
        if ctx.random.percent(5) {
            connection.stream.request_progress();
        }
        nodes[connection.slot].poke_watch(ctx);
        for response in taken {
            let verdict = self.check(ctx, response);
            ctx.judge(verdict.map_err(|finding| format!("watcher {}: {finding}", self.number)));
        }
    }

    /// Where it has to be at the end: nothing is missing.
    pub(crate) fn check_complete(&self, ctx: &Context) -> Verdict {
        if self.next == 0 {
            return Ok(());
        }
        match ctx.oracle.changes_in(&self.range, self.next, ctx.oracle.current).next() {
            Some((revision, _)) => Err(format!(
                "watcher {} did not get revision {revision}, it has all before {}",
                self.number, self.next
            )),
            None => Ok(()),
        }
    }

    fn connect(&mut self, ctx: &mut Context, node: &mut Node) {
        if node.paused_until > ctx.now {
            return;
        }
        let Some(stream) = node.stream(ctx) else { return };
        let mut start = self.next;
        if ctx.has(Bug::WatchGapAtCompaction) {
            let compacted = node.running.as_ref().map_or(-1, |running| running.store.compacted_revision());
            start += i64::from(start > 0 && start == compacted);
        }
        let request = WatchRequest {
            start_revision: start,
            prev_kv: self.prev_kv,
            ..WatchRequest::new(self.range.clone())
        };
        if let Err(error) = stream.create(request) {
            ctx.fail(format!("watcher {}: {error}", self.number));
        }
        ctx.note("watch", &[self.number as u64, node.slot as u64, start as u64], || {
            format!("w{} on {} from {start}", self.number, node.name)
        });
        self.connection = Some(Connection { slot: node.slot, epoch: node.epoch, stream });
    }

    fn check(&mut self, ctx: &mut Context, response: Outgoing) -> Verdict {
        match response {
            Outgoing::Created { revision, .. } => {
                if self.next == 0 {
                    self.next = revision + 1;
                }
                Ok(())
            }
            Outgoing::Events { batch, .. } => self.check_events(ctx, &batch),
            Outgoing::Compacted { compact_revision, .. } => {
                if compact_revision > ctx.oracle.compacted || self.next >= compact_revision {
                    return Err(format!(
                        "told that {} is compacted, it needs {}, compacted is {}",
                        compact_revision, self.next, ctx.oracle.compacted
                    ));
                }
                self.next = compact_revision;
                self.connection = None;
                Ok(())
            }
            Outgoing::Progress { revision, .. } => {
                if let Some((missed, _)) = ctx.oracle.changes_in(&self.range, self.next, revision).next() {
                    return Err(format!("told of progress to {revision}, {missed} did not come"));
                }
                self.next = self.next.max(revision + 1);
                Ok(())
            }
            Outgoing::Cancelled { .. } => Err("cancelled without reason".to_owned()),
        }
    }

    fn check_events(&mut self, ctx: &mut Context, batch: &Batch) -> Verdict {
        let response =
            pb::WatchResponse::decode(batch.encoded().clone()).map_err(|error| error.to_string())?;
        let got: Vec<_> =
            response.events.iter().filter_map(|event| Some((event, event.kv.as_ref()?))).collect();
        let Some((_, last)) = got.last() else { return Err("a response without events".to_owned()) };
        let last = last.mod_revision;
        ctx.stats.watched += got.len() as u64;
        ctx.note("event", &[self.number as u64, last as u64, got.len() as u64], || {
            format!("w{} {} events up to {last}", self.number, got.len())
        });
        let expected: Vec<_> = ctx.oracle.changes_in(&self.range, self.next, last).collect();
        if expected.len() != got.len() {
            let revisions = |list: &mut dyn Iterator<Item = i64>| {
                list.map(|r| r.to_string()).collect::<Vec<_>>().join(" ")
            };
            return Err(format!(
                "from {} to {last} it got [{}], history has [{}]",
                self.next,
                revisions(&mut got.iter().map(|(_, kv)| kv.mod_revision)),
                revisions(&mut expected.iter().map(|(revision, _)| *revision)),
            ));
        }
        for ((event, kv), (revision, change)) in got.iter().zip(&expected) {
            let same = kv.mod_revision == *revision
                && kv.key == change.key
                && match &change.value {
                    Some(value) => event.r#type == 0 && value == *kv,
                    None => event.r#type == mvccpb::event::EventType::Delete as i32,
                };
            if !same {
                return Err(format!("got {event:?}, history has {change:?} at {revision}"));
            }
            if self.prev_kv {
                let before = ctx.oracle.key_at(&kv.key, revision - 1);
                let excused = event.prev_kv.is_none() && revision - 1 < ctx.oracle.compacted;
                if event.prev_kv.as_ref() != before && !excused {
                    return Err(format!(
                        "{:?} at {revision}: previous {:?}, was {before:?}",
                        kv.key, event.prev_kv
                    ));
                }
            }
        }
        self.next = last + 1;
        ctx.oracle.saw(last)
    }
}
