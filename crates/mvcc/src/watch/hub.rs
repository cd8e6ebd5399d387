//! The entrance: what apply publishes and what the services ask for, until the worker takes it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::stream::{Seat, Stream, StreamShared, Uid};
use super::worker::HubWorker;
use super::{History, Options, WatchId, WatchRequest};
use crate::event::RevisionEvents;

/// What the services want of the worker.
pub(crate) enum Command {
    Register(Arc<StreamShared>),
    Create {
        stream: Arc<StreamShared>,
        seat: Seat,
        id: WatchId,
        request: WatchRequest,
        min_revision: i64,
    },
    Cancel(Uid),
    /// The full queue of this stream was taken.
    Drained(u64),
    /// Manual progress, not before this revision.
    Progress {
        stream: u64,
        revision: i64,
    },
    Unregister(u64),
}

/// What waits for the worker.
#[derive(Default)]
pub(crate) struct Inbox {
    /// Live events, without gap, all above `skipped_to`.
    pub(crate) events: Vec<Arc<RevisionEvents>>,
    event_bytes: usize,
    /// Up to here events were published.
    published: i64,
    /// Up to here events must be read from history.
    pub(crate) skipped_to: i64,
    pub(crate) commands: Vec<Command>,
    /// Watchers that exist or are about to. Without any, nothing is kept.
    pub(crate) watchers: usize,
    pub(crate) closed: bool,
    asleep: bool,
}

impl Inbox {
    /// Forgets events up to `revision`; the caller drops them outside the lock.
    fn skip_to(&mut self, revision: i64) -> Vec<Arc<RevisionEvents>> {
        self.skipped_to = revision;
        self.event_bytes = 0;
        std::mem::take(&mut self.events)
    }

    /// Swaps the waiting events into `into`, which is empty.
    pub(crate) fn take_events(&mut self, into: &mut Vec<Arc<RevisionEvents>>) {
        self.event_bytes = 0;
        std::mem::swap(&mut self.events, into);
    }
}

pub(crate) struct HubShared {
    pub(crate) history: Arc<dyn History>,
    pub(crate) options: Options,
    pub(crate) inbox: Mutex<Inbox>,
    ready: Condvar,
    uids: AtomicU64,
    streams: AtomicU64,
    pub(crate) counters: Counters,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) watchers: AtomicUsize,
    pub(crate) slow_watchers: AtomicUsize,
    pub(crate) streams: AtomicUsize,
    pub(crate) delivered_events: AtomicU64,
}

/// Numbers about a hub, as of the worker's last step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HubStats {
    /// Watchers.
    pub watchers: usize,
    /// Watchers that are behind: unsynced or stalled.
    pub slow_watchers: usize,
    /// Streams.
    pub streams: usize,
    /// Events put into queues so far, once per watcher.
    pub delivered_events: u64,
}

impl HubShared {
    /// Sends a command on behalf of so many new watchers.
    pub(crate) fn send(&self, command: Command, new_watchers: usize) {
        let mut inbox = self.inbox.lock();
        inbox.commands.push(command);
        inbox.watchers += new_watchers;
        self.wake(&mut inbox);
    }

    fn wake(&self, inbox: &mut Inbox) {
        if std::mem::take(&mut inbox.asleep) {
            self.ready.notify_one();
        }
    }

    /// Waits until there is something in the inbox, or for so long.
    pub(crate) fn wait(&self, timeout: Option<Duration>) {
        let mut inbox = self.inbox.lock();
        let nothing = |inbox: &Inbox| inbox.events.is_empty() && inbox.commands.is_empty() && !inbox.closed;
        if nothing(&inbox) {
            inbox.asleep = true;
            match timeout {
                Some(timeout) => drop(self.ready.wait_for(&mut inbox, timeout)),
                None => self.ready.wait(&mut inbox),
            }
            inbox.asleep = false;
        }
    }

    pub(crate) fn next_uid(&self) -> Uid {
        self.uids.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Where events are published and streams begin. Cheap to clone.
#[derive(Clone)]
pub struct Hub {
    shared: Arc<HubShared>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Hub {
    /// A hub that goes on from the store's current revision, and its worker. Make it before the
    /// first write that shall be seen.
    pub fn new(history: Arc<dyn History>, options: Options) -> (Self, HubWorker) {
        let revision = history.current_revision();
        let inbox = Inbox { published: revision, skipped_to: revision, ..Inbox::default() };
        let shared = Arc::new(HubShared {
            history,
            options,
            inbox: Mutex::new(inbox),
            ready: Condvar::new(),
            uids: AtomicU64::new(0),
            streams: AtomicU64::new(0),
            counters: Counters::default(),
        });
        (Self { shared: shared.clone() }, HubWorker::new(shared, revision))
    }

    /// Passes on what was committed, oldest first. Called by apply after the commit, best before
    /// the writer gets its answer, with all that one round committed. Never waits: what does not
    /// fit is left to history.
    pub fn publish(&self, revisions: impl IntoIterator<Item = Arc<RevisionEvents>>) {
        let mut dropped = Vec::new();
        let mut inbox = self.shared.inbox.lock();
        for events in revisions {
            let bytes: usize = events.events.iter().map(|event| event.record.len()).sum();
            let options = &self.shared.options;
            let full = inbox.events.len() >= options.inbox_revisions
                || (inbox.event_bytes + bytes > options.inbox_bytes && !inbox.events.is_empty());
            if events.main <= inbox.published {
                continue;
            }
            if events.main > inbox.published + 1 {
                dropped = inbox.skip_to(events.main - 1);
            }
            inbox.published = events.main;
            if inbox.watchers == 0 || full {
                dropped = inbox.skip_to(events.main);
            } else {
                inbox.event_bytes += bytes;
                inbox.events.push(events);
            }
        }
        if inbox.watchers > 0 {
            self.shared.wake(&mut inbox);
        }
        drop(inbox);
        drop(dropped);
    }

    /// The store was replaced (by a received snapshot): all watchers go on from history, or learn
    /// that it has been compacted.
    pub fn resync(&self) {
        let revision = self.shared.history.current_revision();
        let mut inbox = self.shared.inbox.lock();
        inbox.published = revision;
        let dropped = inbox.skip_to(revision);
        self.shared.wake(&mut inbox);
        drop(inbox);
        drop(dropped);
    }

    /// Begins a stream. `notify` is called, from any thread, when its queue is no longer empty;
    /// then not again before the next take.
    pub fn stream(&self, notify: impl Fn() + Send + Sync + 'static) -> Stream {
        let number = self.shared.streams.fetch_add(1, Ordering::Relaxed);
        Stream::new(self.shared.clone(), number, &self.shared.options, Box::new(notify))
    }

    /// Tells the worker to end.
    pub fn close(&self) {
        let mut inbox = self.shared.inbox.lock();
        inbox.closed = true;
        self.shared.wake(&mut inbox);
    }

    /// Numbers for metrics.
    pub fn stats(&self) -> HubStats {
        let counters = &self.shared.counters;
        HubStats {
            watchers: counters.watchers.load(Ordering::Relaxed),
            slow_watchers: counters.slow_watchers.load(Ordering::Relaxed),
            streams: counters.streams.load(Ordering::Relaxed),
            delivered_events: counters.delivered_events.load(Ordering::Relaxed),
        }
    }
}
