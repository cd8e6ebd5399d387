//! What waits to be sent on one watch stream: the hub puts in, the stream's task takes out.
//!
//! Bounded, since a caller who does not read must not cost memory for ever: by responses, more of them
//! for a stream with many watches, and by the bytes behind them. One that runs over is at its end; its
//! caller comes back and catches up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::body::Body;

/// Responses that may wait for each watch of a stream, and for the stream in any case.
const RESPONSES_PER_WATCH: usize = 1024;
const MAX_BYTES: usize = 64 << 20;

/// A response of one watch.
pub(crate) type Outgoing = (i64, Arc<Body>);

#[derive(Default)]
struct Waiting {
    responses: VecDeque<Outgoing>,
    bytes: usize,
    watches: usize,
    ended: Option<End>,
    waker: Option<Waker>,
}

impl Waiting {
    /// The first reason counts.
    fn end(&mut self, end: End) {
        self.ended.get_or_insert(end);
        self.responses.clear();
        self.bytes = 0;
    }
}

/// A queue. The hub and the stream share it.
#[derive(Default)]
pub(crate) struct Outlet(Mutex<Waiting>);

/// Why a stream is at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// More waits than may.
    Overrun,
    /// The caller asked for a leader, and there is none.
    NoLeader,
}

impl Outlet {
    /// Puts a response in. What no longer fits is lost, together with the stream.
    pub(crate) fn push(&self, watch_id: i64, body: &Arc<Body>) {
        let mut waiting = self.0.lock();
        // Watches of one stream that get the same response hold it once.
        let shared = waiting.responses.back().is_some_and(|(_, last)| Arc::ptr_eq(last, body));
        let bytes = waiting.bytes + if shared { 0 } else { body.len() };
        let limit = RESPONSES_PER_WATCH * waiting.watches.max(1);
        // A single response may be as large as it likes: it is in memory anyway.
        if waiting.responses.len() >= limit || (bytes > MAX_BYTES && !waiting.responses.is_empty()) {
            waiting.end(End::Overrun);
        }
        if waiting.ended.is_none() {
            waiting.bytes = bytes;
            waiting.responses.push_back((watch_id, body.clone()));
        }
        let waker = waiting.waker.take();
        drop(waiting);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ends the stream. What waits is lost.
    pub(crate) fn end(&self, end: End) {
        let mut waiting = self.0.lock();
        waiting.end(end);
        let waker = waiting.waker.take();
        drop(waiting);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The stream has that many watches.
    pub(crate) fn set_watches(&self, count: usize) {
        self.0.lock().watches = count;
    }

    /// Takes out everything, once there is something.
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Result<VecDeque<Outgoing>, End>> {
        let mut waiting = self.0.lock();
        if let Some(end) = waiting.ended {
            return Poll::Ready(Err(end));
        }
        if waiting.responses.is_empty() {
            waiting.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        waiting.bytes = 0;
        Poll::Ready(Ok(std::mem::take(&mut waiting.responses)))
    }

    /// Why it ended, if it did.
    #[cfg(test)]
    pub(crate) fn ended(&self) -> Option<End> {
        self.0.lock().ended
    }

    /// What waits now.
    #[cfg(test)]
    pub(crate) fn take(&self) -> Vec<Outgoing> {
        std::mem::take(&mut self.0.lock().responses).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::etcdserverpb as pb;

    #[test]
    fn a_stream_that_does_not_read_ends() {
        let body = Body::new(&pb::WatchResponse::default());
        let outlet = Outlet::default();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(outlet.poll_take(&mut cx).is_pending());
        outlet.set_watches(2);
        (0..2 * RESPONSES_PER_WATCH as i64).for_each(|id| outlet.push(id, &body));
        let Poll::Ready(Ok(taken)) = outlet.poll_take(&mut cx) else { panic!("nothing there") };
        assert_eq!(taken.len(), 2 * RESPONSES_PER_WATCH);
        assert_eq!(taken[7].0, 7);
        (0..=2 * RESPONSES_PER_WATCH as i64).for_each(|id| outlet.push(id, &body));
        assert_eq!(outlet.poll_take(&mut cx), Poll::Ready(Err(End::Overrun)));
    }

    #[test]
    fn shared_bytes_count_once() {
        let large = || {
            Body::new(&pb::WatchResponse { cancel_reason: "x".repeat(MAX_BYTES / 4), ..Default::default() })
        };
        let (outlet, one) = (Outlet::default(), large());
        (0..100).for_each(|id| outlet.push(id, &one));
        assert_eq!(outlet.take().len(), 100);
        let outlet = Outlet::default();
        (0..4).for_each(|id| outlet.push(id, &large()));
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(outlet.poll_take(&mut cx), Poll::Ready(Err(End::Overrun)));
    }
}
