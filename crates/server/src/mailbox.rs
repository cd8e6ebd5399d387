//! A queue into one thread, made for latency.
//!
//! General-purpose channels spin and yield before they sleep. With several threads of a member on
//! one core that costs more than the wake-up it saves: the spinning thread keeps the core from
//! the thread it waits for. Here the receiver sleeps at once, takes everything that queued with a
//! single lock, and a sender pays for a wake-up only if the receiver sleeps.
//!
//! Unbounded: see [`crate::driver`] for where the flow is bounded.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The receiver is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

/// Why nothing was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nothing {
    /// The time is over.
    Timeout,
    /// No sender is left, and all that was sent has been received.
    Closed,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    arrived: Condvar,
}

struct State<T> {
    queue: VecDeque<T>,
    senders: usize,
    receiver_sleeps: bool,
    receiver_gone: bool,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // The state is valid after each statement: a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end that puts things in.
pub struct Sender<T>(Arc<Shared<T>>);

/// The end that takes them out, in the order in which they were sent.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    /// Taken over from the queue, not yet handed out.
    taken: VecDeque<T>,
}

/// An empty queue.
pub fn mailbox<T>() -> (Sender<T>, Receiver<T>) {
    let state = State { queue: VecDeque::new(), senders: 1, receiver_sleeps: false, receiver_gone: false };
    let shared = Arc::new(Shared { state: Mutex::new(state), arrived: Condvar::new() });
    (Sender(shared.clone()), Receiver { shared, taken: VecDeque::new() })
}

impl<T> Sender<T> {
    /// Puts `item` in and wakes the receiver if it sleeps.
    ///
    /// # Errors
    /// The receiver is gone.
    pub fn send(&self, item: T) -> Result<(), Closed> {
        let mut state = self.0.lock();
        if state.receiver_gone {
            return Err(Closed);
        }
        state.queue.push_back(item);
        let wake = std::mem::take(&mut state.receiver_sleeps);
        drop(state);
        if wake {
            self.0.arrived.notify_one();
        }
        Ok(())
    }

    /// Puts `item` in for when the receiver looks next: with the next [`Sender::send`], or when its
    /// time is over.
    ///
    /// # Errors
    /// The receiver is gone.
    pub fn send_without_waking(&self, item: T) -> Result<(), Closed> {
        let mut state = self.0.lock();
        if state.receiver_gone {
            return Err(Closed);
        }
        state.queue.push_back(item);
        Ok(())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.lock().senders += 1;
        Self(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.senders -= 1;
        let last = state.senders == 0;
        drop(state);
        if last {
            self.0.arrived.notify_one();
        }
    }
}

impl<T> std::fmt::Debug for Sender<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Sender")
    }
}

impl<T> Receiver<T> {
    /// The next item; sleeps until there is one. `None` when no sender is left.
    pub fn recv(&mut self) -> Option<T> {
        self.next(None).ok()
    }

    /// The next item; sleeps until there is one, but not longer than to `deadline`.
    ///
    /// # Errors
    /// There was none, see [`Nothing`].
    pub fn recv_until(&mut self, deadline: Instant) -> Result<T, Nothing> {
        self.next(Some(deadline))
    }

    /// The next item if there is one already.
    pub fn try_recv(&mut self) -> Option<T> {
        if self.taken.is_empty() {
            std::mem::swap(&mut self.shared.lock().queue, &mut self.taken);
        }
        self.taken.pop_front()
    }

    fn next(&mut self, deadline: Option<Instant>) -> Result<T, Nothing> {
        if let Some(item) = self.taken.pop_front() {
            return Ok(item);
        }
        let mut state = self.shared.lock();
        loop {
            std::mem::swap(&mut state.queue, &mut self.taken);
            if let Some(item) = self.taken.pop_front() {
                state.receiver_sleeps = false;
                return Ok(item);
            }
            if state.senders == 0 {
                return Err(Nothing::Closed);
            }
            state.receiver_sleeps = true;
            let Some(deadline) = deadline else {
                state = self.shared.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.receiver_sleeps = false;
                return Err(Nothing::Timeout);
            }
            let waited = self.shared.arrived.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.receiver_gone = true;
        let left = std::mem::take(&mut state.queue);
        drop(state);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn items_of_all_senders_arrive_once_and_in_their_order() {
        let (sender, mut receiver) = mailbox();
        let threads: Vec<_> = (0..4u64)
            .map(|source| {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    for number in 0..10_000u64 {
                        if number % 3 == 0 {
                            sender.send_without_waking((source, number)).unwrap();
                        } else {
                            sender.send((source, number)).unwrap();
                        }
                    }
                })
            })
            .collect();
        drop(sender);
        let mut next = [0; 4];
        while let Some((source, number)) = receiver.recv() {
            assert_eq!(next[source as usize], number);
            next[source as usize] += 1;
        }
        assert_eq!(next, [10_000; 4]);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    #[test]
    fn a_quiet_item_waits_for_the_next_look() {
        let (sender, mut receiver) = mailbox();
        sender.send_without_waking(1).unwrap();
        assert_eq!(receiver.recv_until(Instant::now()), Ok(1));
        assert_eq!(receiver.recv_until(Instant::now() + Duration::from_millis(1)), Err(Nothing::Timeout));
        assert_eq!(receiver.try_recv(), None);
    }

    #[test]
    fn both_ends_notice_that_the_other_is_gone() {
        let (sender, receiver) = mailbox();
        drop(receiver);
        assert_eq!(sender.send(1), Err(Closed));
        let (sender, mut receiver) = mailbox();
        sender.send(1).unwrap();
        let last = sender.clone();
        drop(sender);
        let waiting = std::thread::spawn(move || (receiver.recv(), receiver.recv()));
        drop(last);
        assert_eq!(waiting.join().unwrap(), (Some(1), None));
    }
}
