//! Reading history for watchers that are behind.
//!
//! Watchers are served in *windows*: one stretch of history, read once, for all watchers that
//! need a part of it next. Windows are chosen alternately for the one farthest behind and the
//! one least behind, so that a watcher that starts at revision 1 does not hold up others.
//!
//! A window has at most 1000 revisions, and fewer where these are large.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use types::KeyRange;

use super::HistoryError;
use super::batch::{BatchMaker, Place};
use super::worker::{HubWorker, RETRY_INTERVAL, State, Watcher};
use crate::event::{Event, RevisionEvents};

/// Revisions in a window at most.
const WINDOW_REVISIONS: usize = 1000;
/// Revisions in the first window.
const FIRST_WINDOW_REVISIONS: usize = 128;
/// Windows shrink above this and grow below a quarter of it.
const WINDOW_BYTES: usize = 4 << 20;
/// Watchers served in one step.
const WATCHERS_PER_STEP: usize = 512;

/// The unsynced watchers.
pub(crate) struct CatchUp {
    /// (first needed revision, watcher)
    waiting: BTreeSet<(i64, u32)>,
    window: Option<Window>,
    /// Revisions to ask for in the next window.
    reach: usize,
    serve_nearest: bool,
    /// History could not be read: not before this time again.
    pub(crate) not_before: Option<Duration>,
}

impl Default for CatchUp {
    fn default() -> Self {
        let (waiting, window, not_before) = (BTreeSet::new(), None, None);
        Self { waiting, window, reach: FIRST_WINDOW_REVISIONS, serve_nearest: false, not_before }
    }
}

impl CatchUp {
    pub(crate) fn add(&mut self, min_revision: i64, watcher: u32) {
        self.waiting.insert((min_revision, watcher));
    }

    pub(crate) fn remove(&mut self, min_revision: i64, watcher: u32) {
        self.waiting.remove(&(min_revision, watcher));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The revision that the next window must hold.
    fn pick(&mut self) -> Option<i64> {
        self.serve_nearest = !self.serve_nearest;
        let picked = if self.serve_nearest { self.waiting.last() } else { self.waiting.first() };
        picked.map(|(revision, _)| *revision)
    }
}

/// A stretch of history.
struct Window {
    from: i64,
    to: i64,
    revisions: Vec<Arc<RevisionEvents>>,
    /// All events, by key and then by time.
    by_key: Vec<Place>,
    batches: BatchMaker,
}

impl Window {
    fn new(from: i64, to: i64, revisions: Vec<Arc<RevisionEvents>>) -> Self {
        let places = |(at, revision): (usize, &Arc<RevisionEvents>)| {
            (0..revision.events.len()).map(move |event| (at as u32, event as u32)).collect::<Vec<_>>()
        };
        let mut by_key: Vec<_> = revisions.iter().enumerate().flat_map(places).collect();
        let key = |place: &Place| &event(&revisions, *place).key;
        by_key.sort_unstable_by(|a, b| key(a).cmp(key(b)).then(a.cmp(b)));
        Self { from, to, revisions, by_key, batches: BatchMaker::default() }
    }

    fn holds(&self, revision: i64) -> bool {
        (self.from..=self.to).contains(&revision)
    }

    /// The events that a watcher wants from here, in order.
    fn select(&self, watcher: &Watcher) -> Vec<Place> {
        let key = |place: &Place| &event(&self.revisions, *place).key;
        let start = watcher.range.start();
        let from = self.by_key.partition_point(|place| key(place) < start);
        let rest = &self.by_key[from..];
        let inside = match &*watcher.range {
            KeyRange::Single(only) => rest.partition_point(|place| key(place) == only),
            KeyRange::Span(_, end) => rest.partition_point(|place| key(place) < end),
            KeyRange::From(_) => rest.len(),
        };
        let wanted = |place: &&Place| {
            let event = event(&self.revisions, **place);
            event.revision.main >= watcher.min_revision && watcher.filters.pass(event.kind)
        };
        let mut places: Vec<_> = rest[..inside].iter().filter(wanted).copied().collect();
        places.sort_unstable();
        places
    }
}

fn event(revisions: &[Arc<RevisionEvents>], (revision, event): Place) -> &Event {
    &revisions[revision as usize].events[event as usize]
}

impl HubWorker {
    /// Serves one window to the watchers that wait for it.
    pub(crate) fn step_catch_up(&mut self, now: Duration) -> Result<(), HistoryError> {
        if self.catch_up.not_before.is_some_and(|time| now < time) {
            return Ok(());
        }
        self.catch_up.not_before = None;
        if !self.catch_up.is_empty() {
            self.give_up_compacted();
        }
        let Some(wanted) = self.catch_up.pick() else {
            self.catch_up.window = None;
            return Ok(());
        };
        let window = match self.catch_up.window.take().filter(|window| window.holds(wanted)) {
            Some(window) => window,
            None => match self.read_window(wanted) {
                Ok(window) => window,
                // A compaction came between; the next step sees it.
                Err(HistoryError::Compacted) => return Ok(()),
                Err(error) => {
                    self.catch_up.not_before = Some(now + RETRY_INTERVAL);
                    return Err(error);
                }
            },
        };
        self.serve(window);
        Ok(())
    }

    /// Watchers that need compacted revisions get the cancellation instead.
    fn give_up_compacted(&mut self) {
        let compacted = self.shared.history.compacted_revision();
        while let Some((min_revision, at)) = self.catch_up.waiting.first().copied() {
            if min_revision >= compacted {
                return;
            }
            self.catch_up.waiting.pop_first();
            if !self.give_up(at, compacted) {
                self.stall(at, min_revision);
            }
        }
    }

    fn read_window(&mut self, from: i64) -> Result<Window, HistoryError> {
        let reach = self.catch_up.reach;
        let revisions = self.shared.history.changes(from, self.revision, reach)?;
        let to = match revisions.last() {
            Some(last) if revisions.len() >= reach => last.main,
            _ => self.revision,
        };
        let bytes: usize =
            revisions.iter().flat_map(|revision| &revision.events).map(|event| event.record.len()).sum();
        self.catch_up.reach = match bytes {
            bytes if bytes > WINDOW_BYTES => (reach / 2).max(1),
            bytes if bytes < WINDOW_BYTES / 4 => (reach * 2).min(WINDOW_REVISIONS),
            _ => reach,
        };
        Ok(Window::new(from, to, revisions))
    }

    fn serve(&mut self, mut window: Window) {
        let due = (window.from, 0)..=(window.to, u32::MAX);
        let due: Vec<_> = self.catch_up.waiting.range(due).take(WATCHERS_PER_STEP).copied().collect();
        for (min_revision, at) in due {
            self.catch_up.waiting.remove(&(min_revision, at));
            let Some(watcher) = self.watchers[at as usize].as_ref() else { continue };
            let places = window.select(watcher);
            if !places.is_empty() {
                let prev_kv = watcher.prev_kv;
                let history = &*self.shared.history;
                let batch = window.batches.batch(history, &window.revisions, &places, prev_kv);
                if !self.give(at, self.revision, batch) {
                    self.stall(at, min_revision);
                    continue;
                }
            }
            let Some(watcher) = self.watchers[at as usize].as_mut() else { continue };
            watcher.min_revision = window.to + 1;
            if watcher.min_revision > self.revision {
                watcher.state = State::Synced;
            } else {
                self.catch_up.add(window.to + 1, at);
            }
        }
        self.catch_up.window = (!self.catch_up.is_empty()).then_some(window);
    }
}
