//! The owner of all watchers: live delivery, progress, coming and going.
//!
//! Each [`HubWorker::step`] does, in this order: commands; a bounded run of live events; asked-for
//! progress; due progress notifications; one bounded read of history ([`super::catch_up`]). The
//! services are woken after the live events, before history is read.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use types::KeyRange;

use super::batch::{self, BatchMaker, Place};
use super::catch_up::CatchUp;
use super::hub::{Command, HubShared};
use super::matcher::Matcher;
use super::stream::{Offer, Seat, StreamShared, Uid};
use super::{Batch, Filters, HistoryError, Outgoing, WatchId, WatchRequest, scatter};
use crate::event::RevisionEvents;

/// Live events are handed on in runs of about so many deliveries, looked-up events included.
const RUN_LENGTH: usize = 4096;

/// Wait before history is tried again after it could not be read.
pub(crate) const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// How a watcher gets its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// As they are published.
    Synced,
    /// From history: it is in the catch-up's list.
    Unsynced,
    /// Not before its stream is taken.
    Stalled,
    /// No more: what it needs is gone.
    Compacted,
}

pub(crate) struct Watcher {
    pub(crate) stream: Arc<StreamShared>,
    pub(crate) seat: Seat,
    pub(crate) id: WatchId,
    /// Boxed: live delivery does not look at it.
    pub(crate) range: Box<KeyRange>,
    pub(crate) filters: Filters,
    pub(crate) prev_kv: bool,
    fragment: bool,
    progress_notify: bool,
    start_revision: i64,
    /// First revision that it has not been given.
    pub(crate) min_revision: i64,
    pub(crate) state: State,
    /// No event since the last progress notification was due.
    idle: bool,
    /// Its list among `Run::picked` while `mark` is the revision at work.
    mark: i64,
    list: usize,
}

struct StreamEntry {
    shared: Arc<StreamShared>,
    watchers: BTreeSet<u32>,
    stalled: Vec<u32>,
    tick: Duration,
    interval: Duration,
    /// Creations and cancellations heard of so far.
    changes: u64,
    /// Progress was asked for, not below this revision.
    asked: Option<i64>,
}

/// What a step leaves to the driver.
#[derive(Debug, Default)]
pub struct Step {
    /// There is more to do right now.
    pub busy: bool,
    /// Call again at this time, if nothing happens before.
    pub next: Option<Duration>,
    /// History could not be read. Watchers wait and it is tried again.
    pub error: Option<HistoryError>,
    /// The hub was closed.
    pub closed: bool,
}

/// All watchers. See the module documentation.
pub struct HubWorker {
    pub(crate) shared: Arc<HubShared>,
    /// Up to here synced watchers have been given everything.
    pub(crate) revision: i64,
    /// Live events that were taken from the inbox, oldest last.
    backlog: Vec<Arc<RevisionEvents>>,
    /// Index of the first event of `backlog` that was not handled.
    done: usize,
    commands: Vec<Command>,
    pub(crate) watchers: Vec<Option<Watcher>>,
    free: Vec<u32>,
    by_uid: HashMap<Uid, u32>,
    matcher: Matcher,
    streams: HashMap<u64, StreamEntry>,
    ticks: BTreeSet<(Duration, u64)>,
    asked: BTreeSet<u64>,
    pub(crate) catch_up: CatchUp,
    stalled: usize,
    /// Events queued in this step.
    delivered: u64,
    /// Streams whose service must be woken.
    wake: Vec<Arc<StreamShared>>,
    run: Run,
}

/// Room that is used again for every revision.
#[derive(Default)]
struct Run {
    found: Vec<u32>,
    /// Watchers that the revision concerns, each with its list below.
    touched: Vec<u32>,
    picked: Vec<Vec<Place>>,
}

impl fmt::Debug for HubWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubWorker").field("revision", &self.revision).finish_non_exhaustive()
    }
}

impl HubWorker {
    pub(crate) fn new(shared: Arc<HubShared>, revision: i64) -> Self {
        Self {
            shared,
            revision,
            backlog: Vec::new(),
            done: 0,
            commands: Vec::new(),
            watchers: Vec::new(),
            free: Vec::new(),
            by_uid: HashMap::new(),
            matcher: Matcher::default(),
            streams: HashMap::new(),
            ticks: BTreeSet::new(),
            asked: BTreeSet::new(),
            catch_up: CatchUp::default(),
            stalled: 0,
            delivered: 0,
            wake: Vec::new(),
            run: Run::default(),
        }
    }

    /// Steps until the hub is closed. `clock` is the monotonic time, `report` hears of trouble.
    pub fn run(mut self, clock: impl Fn() -> Duration, mut report: impl FnMut(HistoryError)) {
        loop {
            let step = self.step(clock());
            if let Some(error) = step.error {
                report(error);
            }
            if step.closed {
                return;
            }
            if !step.busy {
                self.wait(step.next.map(|next| next.saturating_sub(clock())));
            }
        }
    }

    /// Waits until somebody publishes or asks for something, at most for `timeout`.
    pub fn wait(&self, timeout: Option<Duration>) {
        self.shared.wait(timeout);
    }

    /// Does a bounded piece of work. `now` is any monotonic time.
    pub fn step(&mut self, now: Duration) -> Step {
        let closed = self.take_inbox(now);
        self.deliver_backlog();
        self.wake_services();
        self.answer_asked();
        self.notify_progress(now);
        self.wake_services();
        let error = self.step_catch_up(now).err();
        self.wake_services();
        self.count();
        let retry = self.catch_up.not_before.filter(|_| !self.catch_up.is_empty());
        let tick = self.ticks.first().map(|(tick, _)| *tick);
        Step {
            busy: self.done < self.backlog.len() || (!self.catch_up.is_empty() && retry.is_none()),
            next: retry.into_iter().chain(tick).min(),
            error,
            closed,
        }
    }

    fn take_inbox(&mut self, now: Duration) -> bool {
        let mut commands = std::mem::take(&mut self.commands);
        if self.done == self.backlog.len() {
            self.backlog.clear();
            self.done = 0;
        }
        let mut inbox = self.shared.inbox.lock();
        std::mem::swap(&mut inbox.commands, &mut commands);
        let skipped_to = inbox.skipped_to;
        if skipped_to > self.revision {
            // What is left of the backlog is older than what was skipped.
            self.backlog.clear();
            self.done = 0;
        }
        if self.backlog.is_empty() {
            inbox.take_events(&mut self.backlog);
        }
        let closed = inbox.closed;
        drop(inbox);
        if skipped_to > self.revision {
            self.jump(skipped_to);
        }
        let before = self.by_uid.len();
        let mut created = 0;
        for command in commands.drain(..) {
            created += usize::from(matches!(command, Command::Create { .. }));
            self.obey(command, now);
        }
        self.commands = commands;
        let ended = before + created - self.by_uid.len();
        if ended > 0 {
            self.shared.inbox.lock().watchers -= ended;
        }
        closed
    }

    fn obey(&mut self, command: Command, now: Duration) {
        match command {
            Command::Register(shared) => {
                let number = shared.number;
                let base = self.shared.options.progress_interval.max(Duration::from_millis(1));
                let spread = u64::try_from(base.as_nanos() / 10).unwrap_or(u64::MAX).max(1);
                let jitter = Duration::from_nanos(scatter(self.shared.options.seed ^ number) % spread);
                let interval = base + jitter;
                let tick = now + interval;
                self.ticks.insert((tick, number));
                let (watchers, stalled) = (BTreeSet::new(), Vec::new());
                let entry =
                    StreamEntry { shared, watchers, stalled, tick, interval, changes: 0, asked: None };
                self.streams.insert(number, entry);
            }
            Command::Create { stream, seat, id, request, min_revision } => {
                self.create(stream, seat, id, request, min_revision);
            }
            Command::Cancel(uid) => {
                if let Some(at) = self.by_uid.get(&uid).copied() {
                    let watcher = self.watchers[at as usize].as_ref();
                    let stream = watcher.and_then(|watcher| self.streams.get_mut(&watcher.stream.number));
                    if let Some(entry) = stream {
                        entry.changes += 1;
                    }
                    self.end(at);
                }
            }
            Command::Drained(stream) => {
                let Some(entry) = self.streams.get_mut(&stream) else { return };
                for at in std::mem::take(&mut entry.stalled) {
                    self.leave_stall(at);
                }
            }
            Command::Progress { stream, revision } => {
                if let Some(entry) = self.streams.get_mut(&stream) {
                    entry.asked = entry.asked.max(Some(revision));
                    self.asked.insert(stream);
                }
            }
            Command::Unregister(stream) => {
                let Some(entry) = self.streams.remove(&stream) else { return };
                for at in entry.watchers {
                    self.end(at);
                }
                self.ticks.remove(&(entry.tick, stream));
                self.asked.remove(&stream);
            }
        }
    }

    fn create(
        &mut self,
        stream: Arc<StreamShared>,
        seat: Seat,
        id: WatchId,
        request: WatchRequest,
        min_revision: i64,
    ) {
        let Some(entry) = self.streams.get_mut(&stream.number) else { return };
        let at = self.free.pop().unwrap_or_else(|| {
            self.watchers.push(None);
            (self.watchers.len() - 1) as u32
        });
        entry.changes += 1;
        entry.watchers.insert(at);
        self.by_uid.insert(seat.uid, at);
        self.matcher.insert(&request.range, at);
        let mut state = State::Synced;
        if min_revision <= self.revision {
            state = State::Unsynced;
            self.catch_up.add(min_revision, at);
        }
        self.watchers[at as usize] = Some(Watcher {
            stream,
            seat,
            id,
            range: Box::new(request.range),
            filters: request.filters,
            prev_kv: request.prev_kv,
            fragment: request.fragment,
            progress_notify: request.progress_notify,
            start_revision: request.start_revision,
            min_revision,
            state,
            idle: true,
            mark: 0,
            list: 0,
        });
    }

    /// Forgets a watcher.
    fn end(&mut self, at: u32) {
        let Some(watcher) = self.watchers[at as usize].take() else { return };
        match watcher.state {
            State::Unsynced => self.catch_up.remove(watcher.min_revision, at),
            State::Stalled => self.stalled -= 1,
            State::Synced | State::Compacted => {}
        }
        if watcher.state != State::Compacted {
            self.matcher.remove(&watcher.range, at);
        }
        self.by_uid.remove(&watcher.seat.uid);
        if let Some(entry) = self.streams.get_mut(&watcher.stream.number) {
            entry.watchers.remove(&at);
            if watcher.state == State::Stalled {
                entry.stalled.retain(|other| *other != at);
            }
        }
        self.free.push(at);
    }

    /// Events up to `revision` will not come as live ones: synced watchers fetch them.
    fn jump(&mut self, revision: i64) {
        let first = self.revision + 1;
        self.revision = revision;
        for (at, watcher) in self.watchers.iter_mut().enumerate() {
            let Some(watcher) = watcher else { continue };
            if watcher.state == State::Synced {
                watcher.min_revision = watcher.min_revision.max(first);
                if watcher.min_revision <= revision {
                    watcher.state = State::Unsynced;
                    self.catch_up.add(watcher.min_revision, at as u32);
                }
            }
        }
    }

    /// Hands on live events until the run is long enough.
    fn deliver_backlog(&mut self) {
        let mut work = 0;
        while work < RUN_LENGTH && self.done < self.backlog.len() {
            let events = self.backlog[self.done].clone();
            self.done += 1;
            assert_eq!(events.main, self.revision + 1, "live events have no gap");
            work += events.events.len() + self.deliver(&events);
            self.revision = events.main;
        }
    }

    /// Hands on one revision; returns the number of responses.
    fn deliver(&mut self, events: &Arc<RevisionEvents>) -> usize {
        let mut run = std::mem::take(&mut self.run);
        let work = match &events.events[..] {
            [_] => self.deliver_single(events, &mut run),
            _ => self.deliver_several(events, &mut run),
        };
        self.run = run;
        work
    }

    fn deliver_single(&mut self, events: &Arc<RevisionEvents>, run: &mut Run) -> usize {
        let event = &events.events[0];
        self.matcher.find(&event.key, &mut run.found);
        let mut batches: [Option<Arc<Batch>>; 2] = [None, None];
        for at in &run.found {
            let Some(watcher) = self.live(*at, events.main) else { continue };
            if !watcher.filters.pass(event.kind) {
                continue;
            }
            let prev_kv = watcher.prev_kv;
            let history = &*self.shared.history;
            let batch = batches[usize::from(prev_kv)]
                .get_or_insert_with(|| batch::single(history, event, prev_kv))
                .clone();
            self.give_live(*at, events.main, batch);
        }
        run.found.len()
    }

    fn deliver_several(&mut self, events: &Arc<RevisionEvents>, run: &mut Run) -> usize {
        run.touched.clear();
        for (number, event) in events.events.iter().enumerate() {
            self.matcher.find(&event.key, &mut run.found);
            for at in &run.found {
                let Some(watcher) = self.watchers[*at as usize].as_mut() else { continue };
                let wanted = watcher.state == State::Synced
                    && watcher.min_revision <= events.main
                    && watcher.filters.pass(event.kind);
                if !wanted {
                    continue;
                }
                if watcher.mark != events.main {
                    watcher.mark = events.main;
                    watcher.list = run.touched.len();
                    run.touched.push(*at);
                    match run.picked.get_mut(watcher.list) {
                        Some(list) => list.clear(),
                        None => run.picked.push(Vec::new()),
                    }
                }
                run.picked[watcher.list].push((0, number as u32));
            }
        }
        let mut maker = BatchMaker::default();
        for (at, places) in run.touched.iter().zip(&run.picked) {
            let Some(watcher) = self.live(*at, events.main) else { continue };
            let prev_kv = watcher.prev_kv;
            let history = &*self.shared.history;
            let batch = maker.batch(history, std::slice::from_ref(events), places, prev_kv);
            self.give_live(*at, events.main, batch);
        }
        run.touched.len()
    }

    /// The watcher, if it gets this revision as a live one.
    fn live(&self, at: u32, revision: i64) -> Option<&Watcher> {
        let watcher = self.watchers[at as usize].as_ref()?;
        (watcher.state == State::Synced && watcher.min_revision <= revision).then_some(watcher)
    }

    fn give_live(&mut self, at: u32, revision: i64, batch: Arc<Batch>) {
        if !self.give(at, revision, batch) {
            self.stall(at, revision);
        }
    }

    /// Queues events for a watcher. False if there is no room.
    pub(crate) fn give(&mut self, at: u32, revision: i64, batch: Arc<Batch>) -> bool {
        let Some(watcher) = self.watchers[at as usize].as_mut() else { return true };
        let (bytes, count) = (batch.encoded().len(), batch.len());
        let response = Outgoing::Events { id: watcher.id, revision, fragment: watcher.fragment, batch };
        match watcher.stream.offer(watcher.seat, response, bytes) {
            Offer::Queued { wake } => {
                watcher.idle = false;
                if wake {
                    self.wake.push(watcher.stream.clone());
                }
                self.delivered += count as u64;
                true
            }
            // Its cancellation is on the way.
            Offer::Gone => true,
            Offer::Full => false,
        }
    }

    /// Parks a watcher that needs `revision` next until its stream is taken.
    pub(crate) fn stall(&mut self, at: u32, revision: i64) {
        let Some(watcher) = self.watchers[at as usize].as_mut() else { return };
        watcher.state = State::Stalled;
        watcher.min_revision = revision;
        self.stalled += 1;
        if let Some(entry) = self.streams.get_mut(&watcher.stream.number) {
            entry.stalled.push(at);
        }
    }

    fn leave_stall(&mut self, at: u32) {
        let Some(watcher) = self.watchers[at as usize].as_mut() else { return };
        assert_eq!(watcher.state, State::Stalled, "only stalled watchers are in the list");
        self.stalled -= 1;
        watcher.state = State::Unsynced;
        self.catch_up.add(watcher.min_revision, at);
    }

    /// Tells a watcher that `compact_revision` took what it needs. False if there is no room.
    pub(crate) fn give_up(&mut self, at: u32, compact_revision: i64) -> bool {
        let Some(watcher) = self.watchers[at as usize].as_mut() else { return true };
        let response = Outgoing::Compacted { id: watcher.id, compact_revision };
        match watcher.stream.offer(watcher.seat, response, 0) {
            Offer::Full => return false,
            Offer::Gone => {}
            Offer::Queued { wake } => {
                if wake {
                    self.wake.push(watcher.stream.clone());
                }
            }
        }
        watcher.state = State::Compacted;
        self.matcher.remove(&watcher.range, at);
        true
    }

    /// Answers manual progress requests whose time has come; forgets those that get no answer.
    fn answer_asked(&mut self) {
        if self.asked.is_empty() {
            return;
        }
        let asked: Vec<_> = self.asked.iter().copied().collect();
        for stream in asked {
            let Some(entry) = self.streams.get_mut(&stream) else { continue };
            let states = || entry.watchers.iter().filter_map(|at| self.watchers[*at as usize].as_ref());
            let never = entry.watchers.is_empty()
                || states().any(|watcher| {
                    let future = watcher.start_revision > entry.asked.unwrap_or(0).max(self.revision);
                    future || matches!(watcher.state, State::Stalled | State::Compacted)
                });
            // Nor may it be below the revision in a Created response.
            let later = Some(self.revision) < entry.asked
                || states().any(|watcher| {
                    watcher.state == State::Unsynced || watcher.min_revision > self.revision + 1
                });
            if later && !never {
                continue;
            }
            if !never {
                match entry.shared.offer_progress_of_all(entry.changes, self.revision) {
                    Some(true) => self.wake.push(entry.shared.clone()),
                    Some(false) => {}
                    None => continue,
                }
            }
            entry.asked = None;
            self.asked.remove(&stream);
        }
    }

    fn notify_progress(&mut self, now: Duration) {
        while let Some((tick, stream)) = self.ticks.first().copied().filter(|(tick, _)| *tick <= now) {
            self.ticks.remove(&(tick, stream));
            let Some(entry) = self.streams.get_mut(&stream) else { continue };
            entry.tick = tick + entry.interval;
            if entry.tick <= now {
                entry.tick = now + entry.interval;
            }
            self.ticks.insert((entry.tick, stream));
            for at in &entry.watchers {
                let Some(watcher) = self.watchers[*at as usize].as_mut() else { continue };
                if !watcher.progress_notify {
                    continue;
                }
                let current = watcher.state == State::Synced
                    && watcher.start_revision <= self.revision
                    && watcher.min_revision <= self.revision + 1;
                let idle = std::mem::replace(&mut watcher.idle, true);
                let speak = idle && current;
                if speak && watcher.stream.offer_progress(watcher.seat, watcher.id, self.revision) {
                    self.wake.push(watcher.stream.clone());
                }
            }
        }
    }

    fn wake_services(&mut self) {
        for stream in self.wake.drain(..) {
            stream.notify();
        }
    }

    fn count(&mut self) {
        let counters = &self.shared.counters;
        counters.delivered_events.fetch_add(std::mem::take(&mut self.delivered), Ordering::Relaxed);
        counters.watchers.store(self.by_uid.len(), Ordering::Relaxed);
        counters.slow_watchers.store(self.stalled + self.catch_up.len(), Ordering::Relaxed);
        counters.streams.store(self.streams.len(), Ordering::Relaxed);
    }
}
