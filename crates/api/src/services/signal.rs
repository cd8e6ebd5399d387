//! Tells a task, from any thread, that there is something to take.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

/// A flag that one task waits for.
#[derive(Clone, Debug, Default)]
pub(super) struct Signal(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    raised: AtomicBool,
    waiter: AtomicWaker,
}

impl Signal {
    pub(super) fn raise(&self) {
        self.0.raised.store(true, Ordering::Release);
        self.0.waiter.wake();
    }

    /// Ready once per raise, or per several of them.
    pub(super) fn poll_lower(&self, cx: &Context<'_>) -> Poll<()> {
        if self.0.raised.swap(false, Ordering::Acquire) {
            return Poll::Ready(());
        }
        self.0.waiter.register(cx.waker());
        match self.0.raised.swap(false, Ordering::Acquire) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}
