//! Stopping a server: the phase all its connections look at, and how they are woken.
//!
//! Room: a connection that has not asked for anything yet can be made to end, so that those who open
//! connections and say nothing do not keep others out.
//!
//! Looking costs one relaxed load per poll of a connection; the lock is taken when a connection
//! begins, ends, or when the phase changes.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit};

/// How far a server has come with stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    /// No new calls; running unary calls are awaited.
    Draining,
    /// Everything ends now.
    Closing,
}

/// The life of one listener and its connections.
#[derive(Debug, Default)]
pub(crate) struct Lifecycle {
    phase: AtomicU8,
    connections: Mutex<Connections>,
    /// Notified when the phase changes and when the last connection ends.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Connections {
    next: u64,
    wakers: HashMap<u64, Option<Waker>>,
    /// Those that have not asked for anything yet, oldest first, and whether they must go.
    silent: BTreeMap<u64, Arc<AtomicBool>>,
}

impl Lifecycle {
    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Serving,
            1 => Phase::Draining,
            _ => Phase::Closing,
        }
    }

    /// Enters a later phase and wakes every connection.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
        let wakers: Vec<Waker> = self.connections.lock().wakers.values().flatten().cloned().collect();
        wakers.into_iter().for_each(Waker::wake);
        self.changed.notify_waiters();
    }

    /// Returns when `phase` or a later one is entered.
    pub(crate) async fn entered(&self, phase: Phase) {
        self.wait_until(|| self.phase() >= phase).await;
    }

    /// Returns when no connection is left.
    pub(crate) async fn idle(&self) {
        self.wait_until(|| self.connections.lock().wakers.is_empty()).await;
    }

    pub(crate) fn connection_count(&self) -> usize {
        self.connections.lock().wakers.len()
    }

    async fn wait_until(&self, done: impl Fn() -> bool) {
        loop {
            let mut notified = std::pin::pin!(self.changed.notified());
            notified.as_mut().enable();
            if done() {
                return;
            }
            notified.await;
        }
    }

    /// Registers a connection.
    pub(crate) fn admit(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Ticket {
        let mut connections = self.connections.lock();
        let id = connections.next;
        connections.next += 1;
        connections.wakers.insert(id, None);
        let evicted = Arc::new(AtomicBool::new(false));
        connections.silent.insert(id, evicted.clone());
        let lifecycle = self.clone();
        Ticket {
            lifecycle,
            id,
            registered: Cell::new(false),
            silent: Cell::new(true),
            evicted,
            _permit: permit,
        }
    }

    /// Ends the oldest connection that has not asked for anything yet, if there is one.
    pub(crate) fn evict_silent(&self) {
        let mut connections = self.connections.lock();
        let Some((id, evicted)) = connections.silent.pop_first() else { return };
        evicted.store(true, Ordering::Release);
        let waker = connections.wakers.get(&id).cloned().flatten();
        drop(connections);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A connection's place in its [`Lifecycle`]; given back on drop.
#[derive(Debug)]
pub(crate) struct Ticket {
    lifecycle: Arc<Lifecycle>,
    id: u64,
    registered: Cell<bool>,
    silent: Cell<bool>,
    evicted: Arc<AtomicBool>,
    _permit: OwnedSemaphorePermit,
}

impl Ticket {
    /// The phase now. The first call registers the task to be woken at changes: a connection is
    /// one task for all its life.
    pub(crate) fn phase(&self, cx: &Context<'_>) -> Phase {
        if !self.registered.get() {
            self.registered.set(true);
            self.lifecycle.connections.lock().wakers.insert(self.id, Some(cx.waker().clone()));
        }
        if self.silent.get() && self.evicted.load(Ordering::Acquire) {
            return Phase::Closing;
        }
        self.lifecycle.phase()
    }

    /// The first request has come: this connection no longer makes room for others.
    pub(crate) fn spoke(&self) {
        // Who is no longer on the list was told to go meanwhile, and does.
        if self.silent.get() && self.lifecycle.connections.lock().silent.remove(&self.id).is_some() {
            self.silent.set(false);
        }
    }

    /// Whether a request has come, and this connection does not have to make room.
    pub(crate) fn has_spoken(&self) -> bool {
        !self.silent.get()
    }

    /// The outcome of `work`, or nothing if the connection has to end before.
    pub(crate) async fn unless_ended<F: Future>(&self, work: F) -> Option<F::Output> {
        let mut work = pin!(work);
        poll_fn(|cx| match self.phase(cx) {
            Phase::Serving => work.as_mut().poll(cx).map(Some),
            _ => Poll::Ready(None),
        })
        .await
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut connections = self.lifecycle.connections.lock();
        connections.wakers.remove(&self.id);
        if self.silent.get() {
            connections.silent.remove(&self.id);
        }
        let last = connections.wakers.is_empty();
        drop(connections);
        if last {
            self.lifecycle.changed.notify_waiters();
        }
    }
}
