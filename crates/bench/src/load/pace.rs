//! The open loop: operations become due at a fixed rate whether or not earlier ones were answered.
//!
//! Latency counts from the moment an operation became due, so time spent waiting for a free
//! client counts too (no coordinated omission). A timer of the kernel is used because the
//! runtime's own timer works in whole milliseconds.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// Due operations of one load thread.
#[derive(Clone, Default)]
pub struct DueQueue {
    due: Rc<RefCell<VecDeque<Instant>>>,
    arrived: Rc<Notify>,
}

impl DueQueue {
    /// Waits for an operation and returns when it became due.
    pub async fn take(&self) -> Instant {
        loop {
            if let Some(instant) = self.due.borrow_mut().pop_front() {
                return instant;
            }
            self.arrived.notified().await;
        }
    }

    fn push(&self, instant: Instant) {
        self.due.borrow_mut().push_back(instant);
        self.arrived.notify_one();
    }

    /// Operations that no client has taken yet.
    pub fn waiting(&self) -> usize {
        self.due.borrow().len()
    }
}

/// Feeds the queue with `per_second` operations from `start` until `end`.
pub async fn feed(queue: DueQueue, per_second: f64, start: Instant, end: Instant) -> std::io::Result<()> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
    // SAFETY: `OwnedFd` names the same open file until it is dropped, and it is dropped by `AsyncFd`.
    let timer = unsafe { AsyncFd::register(timer) }?;
    let mut number = 0u64;
    let mut due = start;
    while due < end {
        let now = Instant::now();
        if due > now {
            wait(&timer, due - now).await?;
            continue;
        }
        queue.push(due);
        number += 1;
        due = start + Duration::from_secs_f64(number as f64 / per_second);
        if number.is_multiple_of(64) {
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

async fn wait(timer: &AsyncFd<OwnedFd>, time: Duration) -> std::io::Result<()> {
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let value = Timespec { tv_sec: time.as_secs() as _, tv_nsec: time.subsec_nanos().max(1) as _ };
    timerfd_settime(
        timer.get_ref(),
        TimerfdTimerFlags::empty(),
        &Itimerspec { it_interval: zero, it_value: value },
    )?;
    loop {
        let mut guard = timer.readable().await?;
        let mut expirations = [0u8; 8];
        match rustix::io::read(timer.get_ref(), &mut expirations) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::AGAIN) => guard.clear_ready(),
            Err(error) => return Err(error.into()),
        }
    }
}
