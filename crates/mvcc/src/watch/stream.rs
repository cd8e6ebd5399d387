//! One client stream: its watch ids and its queue of responses.
//!
//! Shared by two sides: the service, which creates, cancels and takes, and the worker, which
//! offers. One short lock; nobody waits in it. Lock order: stream, then inbox.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use types::KeyRange;

use super::hub::{Command, HubShared};
use super::{ALL_WATCHERS, CreateError, Options, Outgoing, WatchId, WatchRequest};

/// Bytes that a response costs besides its events.
const RESPONSE_COST: usize = 64;

/// Number of a watcher, unique in the hub for ever. 0 is nobody.
pub(crate) type Uid = u64;

/// Where a watcher is entered in its stream: the place says who sits there now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seat {
    pub(crate) uid: Uid,
    pub(crate) place: u32,
}

/// What became of an offered response.
pub(crate) enum Offer {
    /// Queued. The service must be woken if nobody did since it last took.
    Queued {
        /// Whether that is to be done.
        wake: bool,
    },
    /// The queue is full.
    Full,
    /// The watcher was cancelled or the stream closed.
    Gone,
}

/// The part of a stream that the worker holds.
pub(crate) struct StreamShared {
    pub(crate) number: u64,
    notify: Box<dyn Fn() + Send + Sync>,
    state: Mutex<StreamState>,
}

#[derive(Default)]
struct StreamState {
    queue: Vec<Outgoing>,
    queued_bytes: usize,
    queue_responses: usize,
    queue_byte_bound: usize,
    /// The service was told that there is something to take.
    signalled: bool,
    /// An offer was refused since the service last took.
    starved: bool,
    ids: HashMap<WatchId, u32>,
    seats: Vec<Uid>,
    free: Vec<u32>,
    next_id: WatchId,
    /// Creations and cancellations so far.
    changes: u64,
}

impl StreamState {
    fn bound(&self) -> usize {
        self.queue_responses + 2 * self.ids.len()
    }

    fn push(&mut self, response: Outgoing, bytes: usize) -> bool {
        self.queue.push(response);
        self.queued_bytes += bytes;
        !std::mem::replace(&mut self.signalled, true)
    }

    fn sit(&mut self, id: WatchId, uid: Uid) -> Seat {
        let place = self.free.pop().unwrap_or_else(|| {
            self.seats.push(0);
            (self.seats.len() - 1) as u32
        });
        self.changes += 1;
        self.seats[place as usize] = uid;
        self.ids.insert(id, place);
        Seat { uid, place }
    }
}

impl StreamShared {
    /// Offers a response for one watcher.
    pub(crate) fn offer(&self, seat: Seat, response: Outgoing, event_bytes: usize) -> Offer {
        let mut state = self.state.lock();
        if state.seats.get(seat.place as usize) != Some(&seat.uid) {
            return Offer::Gone;
        }
        let bytes = event_bytes + RESPONSE_COST;
        let too_big = state.queued_bytes + bytes > state.queue_byte_bound && !state.queue.is_empty();
        if too_big || state.queue.len() >= state.bound() {
            state.starved = true;
            return Offer::Full;
        }
        Offer::Queued { wake: state.push(response, bytes) }
    }

    /// Offers a sign of progress, which may as well be dropped. Returns whether to wake.
    pub(crate) fn offer_progress(&self, seat: Seat, id: WatchId, revision: i64) -> bool {
        let mut state = self.state.lock();
        let gone = state.seats.get(seat.place as usize) != Some(&seat.uid);
        if gone || state.queue.len() >= state.bound() {
            return false;
        }
        state.push(Outgoing::Progress { id, revision }, RESPONSE_COST)
    }

    /// The same for all watchers, by a worker that has heard of so many creations and cancellations. It cannot speak
    /// for a watcher that it does not know, nor shall it for one that is cancelled, since that one may be followed by
    /// another that starts earlier: `None`, and it may try again when it has heard of all.
    pub(crate) fn offer_progress_of_all(&self, changes: u64, revision: i64) -> Option<bool> {
        let mut state = self.state.lock();
        if state.changes != changes {
            return None;
        }
        if state.queue.len() >= state.bound() {
            return Some(false);
        }
        Some(state.push(Outgoing::Progress { id: ALL_WATCHERS, revision }, RESPONSE_COST))
    }

    pub(crate) fn notify(&self) {
        (self.notify)();
    }
}

/// The service's end of a watch stream. Dropping it ends all its watchers.
pub struct Stream {
    hub: Arc<HubShared>,
    shared: Arc<StreamShared>,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("number", &self.shared.number).finish_non_exhaustive()
    }
}

impl Stream {
    pub(crate) fn new(
        hub: Arc<HubShared>,
        number: u64,
        options: &Options,
        notify: Box<dyn Fn() + Send + Sync>,
    ) -> Self {
        let state = StreamState {
            queue_responses: options.queue_responses,
            queue_byte_bound: options.queue_bytes,
            ..StreamState::default()
        };
        let shared = Arc::new(StreamShared { number, notify, state: Mutex::new(state) });
        hub.send(Command::Register(shared.clone()), 0);
        Self { hub, shared }
    }

    /// Creates a watcher. Its [`Outgoing::Created`] is queued before this returns.
    pub fn create(&self, request: WatchRequest) -> Result<WatchId, CreateError> {
        if request.start_revision < 0 {
            return Err(CreateError::NegativeStart);
        }
        if request.range.is_empty() {
            return Err(CreateError::EmptyRange);
        }
        let revision = self.hub.history.current_revision();
        let mut state = self.shared.state.lock();
        let id = match request.id {
            Some(id) if state.ids.contains_key(&id) => return Err(CreateError::DuplicateId),
            Some(id) => id,
            None => {
                while state.ids.contains_key(&state.next_id) {
                    state.next_id += 1;
                }
                state.next_id += 1;
                state.next_id - 1
            }
        };
        let seat = state.sit(id, self.hub.next_uid());
        let wake = state.push(Outgoing::Created { id, revision }, RESPONSE_COST);
        let min_revision = if request.start_revision > 0 { request.start_revision } else { revision + 1 };
        let request = WatchRequest { id: Some(id), range: own_range(&request.range), ..request };
        let command = Command::Create { stream: self.shared.clone(), seat, id, request, min_revision };
        self.hub.send(command, 1);
        drop(state);
        if wake {
            self.shared.notify();
        }
        Ok(id)
    }

    /// Ends a watcher and queues [`Outgoing::Cancelled`]; nothing of it comes behind that. False
    /// if there is none of this id.
    pub fn cancel(&self, id: WatchId) -> bool {
        let revision = self.hub.history.current_revision();
        let mut state = self.shared.state.lock();
        let Some(place) = state.ids.remove(&id) else { return false };
        let uid = std::mem::take(&mut state.seats[place as usize]);
        state.free.push(place);
        state.changes += 1;
        let wake = state.push(Outgoing::Cancelled { id, revision }, RESPONSE_COST);
        self.hub.send(Command::Cancel(uid), 0);
        drop(state);
        if wake {
            self.shared.notify();
        }
        true
    }

    /// Asks for one [`Outgoing::Progress`] for all watchers. It comes when all of them are
    /// synced, and not at all if one waits for a future revision or has been compacted away, or
    /// the queue is full.
    pub fn request_progress(&self) {
        let revision = self.hub.history.current_revision();
        self.hub.send(Command::Progress { stream: self.shared.number, revision }, 0);
    }

    /// Takes all responses that are ready, in order.
    pub fn take(&self) -> Vec<Outgoing> {
        let mut taken = Vec::new();
        self.take_into(&mut taken);
        taken
    }

    /// Like [`Stream::take`]; the room of `taken`, which must be empty, is used for the next ones.
    pub fn take_into(&self, taken: &mut Vec<Outgoing>) {
        debug_assert!(taken.is_empty());
        let mut state = self.shared.state.lock();
        std::mem::swap(&mut state.queue, taken);
        state.queued_bytes = 0;
        state.signalled = false;
        let starved = std::mem::take(&mut state.starved);
        drop(state);
        if starved {
            self.hub.send(Command::Drained(self.shared.number), 0);
        }
    }

    /// Number of responses that wait to be taken.
    pub fn waiting(&self) -> usize {
        self.shared.state.lock().queue.len()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        let queue = std::mem::take(&mut state.queue);
        state.ids.clear();
        state.seats.clear();
        drop(state);
        drop(queue);
        self.hub.send(Command::Unregister(self.shared.number), 0);
    }
}

/// A copy that does not keep the client's whole message in memory.
fn own_range(range: &KeyRange) -> KeyRange {
    let own = |key: &Bytes| Bytes::copy_from_slice(key);
    match range {
        KeyRange::Single(key) => KeyRange::Single(own(key)),
        KeyRange::Span(start, end) => KeyRange::Span(own(start), own(end)),
        KeyRange::From(start) => KeyRange::From(own(start)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::Hub;
    use crate::watch::history::Echo;
    use std::time::Duration;

    fn progress(id: WatchId) -> Outgoing {
        Outgoing::Progress { id, revision: 9 }
    }

    /// The worker may be about to offer while the service cancels, and even creates anew.
    #[test]
    fn a_cancelled_watcher_is_offered_nothing() {
        let (hub, mut worker) = Hub::new(Arc::new(Echo), Options::default());
        let stream = hub.stream(|| {});
        let request = WatchRequest { id: Some(5), ..WatchRequest::new(KeyRange::From(Bytes::new())) };
        stream.create(request.clone()).unwrap();
        worker.step(Duration::ZERO);
        let old = worker.watchers[0].as_ref().unwrap().seat;
        assert!(matches!(stream.shared.offer(old, progress(5), 0), Offer::Queued { wake: false }));
        stream.cancel(5);
        stream.create(request).unwrap();
        assert!(matches!(stream.shared.offer(old, progress(5), 0), Offer::Gone));
        assert!(!stream.shared.offer_progress(old, 5, 9));
        let last = stream.take();
        assert!(matches!(last[..], [_, _, Outgoing::Cancelled { .. }, Outgoing::Created { .. }]));
        let shared = stream.shared.clone();
        drop(stream);
        assert!(matches!(shared.offer(old, progress(5), 0), Offer::Gone));
    }

    /// The worker does not speak for a watcher that it has not heard of.
    #[test]
    fn progress_of_all_waits_for_the_newest_watcher() {
        let (hub, _worker) = Hub::new(Arc::new(Echo), Options::default());
        let stream = hub.stream(|| {});
        stream.create(WatchRequest::new(KeyRange::From(Bytes::new()))).unwrap();
        assert_eq!(stream.shared.offer_progress_of_all(0, 1), None);
        assert_eq!(stream.shared.offer_progress_of_all(1, 1), Some(false), "it was woken by the creation");
        stream.take();
        assert_eq!(stream.shared.offer_progress_of_all(1, 1), Some(true));
    }

    /// A client took what the worker said of the cancelled one for the next.
    #[test]
    fn progress_of_all_is_not_said_for_cancelled_watchers() {
        let (hub, mut worker) = Hub::new(Arc::new(Echo), Options::default());
        let stream = hub.stream(|| {});
        let id = stream.create(WatchRequest::new(KeyRange::From(Bytes::new()))).unwrap();
        worker.step(Duration::ZERO);
        stream.cancel(id);
        assert_eq!(stream.shared.offer_progress_of_all(1, 1), None);
        stream.take();
        stream.request_progress();
        worker.step(Duration::ZERO);
        assert!(stream.take().is_empty(), "nobody is left");
        stream.create(WatchRequest::new(KeyRange::From(Bytes::new()))).unwrap();
        stream.request_progress();
        worker.step(Duration::ZERO);
        let said = stream.take();
        assert!(matches!(said[..], [Outgoing::Created { .. }, Outgoing::Progress { id: ALL_WATCHERS, .. }]));
    }
}
