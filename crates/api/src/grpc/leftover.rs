//! What a service does not read of a request over HTTP/1.
//!
//! A connection that is closed while bytes of the client's lie unread is reset by the system, and the
//! client may lose the answer that was sent before. So the rest of a body is read for a while after the
//! service has dropped it: to its end, so that the connection can go on, or [`LATE_BYTES`] of it. Then
//! the client has [`LINGER`] to take its answer.
//!
//! The connection owns what is left and polls it; when the server stops, nothing is read on.
//!
//! **Source**: Go's `net/http` (`maxPostHandlerReadBytes`, `rstAvoidanceDelay`).

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming};
use tokio::time::{Sleep, sleep};

/// How much is read of a body that nobody wants.
const LATE_BYTES: usize = 256 << 10;
/// How long that may take.
const LATE_TIME: Duration = Duration::from_secs(10);
/// How long a connection stays on whose client has still more to send.
const LINGER: Duration = Duration::from_millis(500);

/// The body of a request; dropped before its end, the rest goes to the connection's [`Leftover`].
pub struct Http1Body {
    incoming: Option<Incoming>,
    leftover: Leftover,
}

impl Http1Body {
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.incoming {
            Some(incoming) => Pin::new(incoming).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }
}

impl Drop for Http1Body {
    fn drop(&mut self) {
        if let Some(incoming) = self.incoming.take().filter(|incoming| !incoming.is_end_stream()) {
            self.leftover.put(incoming);
        }
    }
}

/// The rest of the request that was answered last.
#[derive(Clone, Default)]
pub(super) struct Leftover(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    rest: Option<Rest>,
    closed: bool,
    waker: Option<Waker>,
}

struct Rest {
    incoming: Incoming,
    left: usize,
    patience: Pin<Box<Sleep>>,
}

impl Leftover {
    /// A body whose rest comes here.
    pub(super) fn of(&self, incoming: Incoming) -> Http1Body {
        Http1Body { incoming: Some(incoming), leftover: self.clone() }
    }

    fn put(&self, incoming: Incoming) {
        let mut state = self.0.borrow_mut();
        if state.closed {
            return;
        }
        state.rest = Some(Rest { incoming, left: LATE_BYTES, patience: Box::pin(sleep(LATE_TIME)) });
        if let Some(waker) = state.waker.take() {
            drop(state);
            waker.wake();
        }
    }

    /// Nothing is read on, now and later.
    pub(super) fn close(&self) {
        let mut state = self.0.borrow_mut();
        state.closed = true;
        let rest = state.rest.take();
        drop(state);
        drop(rest);
    }

    /// Reads on, as far as that goes now. The task is woken for more.
    pub(super) fn poll(&self, cx: &mut Context<'_>) {
        let mut state = self.0.borrow_mut();
        let ended = match &mut state.rest {
            Some(rest) => rest.poll_ended(cx),
            None => Poll::Pending,
        };
        let ended = match ended {
            Poll::Ready(()) => state.rest.take(),
            Poll::Pending => None,
        };
        state.waker = Some(cx.waker().clone());
        drop(state);
        drop(ended);
    }
}

impl Rest {
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.left > 0 {
            let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) else { break };
            let Some(Ok(frame)) = frame else { return Poll::Ready(()) };
            self.left = self.left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if self.left == 0 {
                self.patience = Box::pin(sleep(LINGER));
            }
        }
        self.patience.as_mut().poll(cx)
    }
}
