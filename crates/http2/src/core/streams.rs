//! The streams of a connection.
//!
//! A stream is in `by_id` while frames may come or go on it. Its slot stays until the last handle is
//! gone as well; a key therefore means the same stream for as long as somebody holds it.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::rc::Rc;
use std::task::{Context, Waker};

use bytes::{Bytes, BytesMut};

use super::Broken;
use crate::head::Head;

/// Names a stream of a connection while a handle of it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(pub(super) u32);

/// How our side of a stream is to end once everything before that has left.
#[derive(Debug, Default)]
pub(super) enum End {
    #[default]
    Open,
    Data,
    Trailers(Rc<Head>),
}

#[derive(Debug, Default)]
pub(super) struct Stream {
    pub(super) id: u32,
    /// Handles that exist: the body and the sender.
    pub(super) handles: u8,
    /// Why nothing more will come or go, when that is so before both sides have ended.
    pub(super) broken: Option<Broken>,
    /// Broken by the peer while somebody still worked on it.
    pub(super) orphan: bool,

    /// The head of the response has arrived.
    pub(super) answered: bool,
    pub(super) receive_ended: bool,
    /// What arrives is thrown away: nobody will read it.
    pub(super) unread: bool,
    pub(super) receive_window: i64,
    /// Read since the last WINDOW_UPDATE.
    pub(super) returned: u32,
    /// Data that arrived, in the order `first`, `more`. All frames behind the first share one buffer,
    /// so that a flood of tiny ones costs no more than its bytes.
    pub(super) first: Bytes,
    pub(super) more: BytesMut,
    pub(super) head: Option<Rc<Head>>,
    pub(super) trailers: Option<Rc<Head>>,
    /// Bytes still to come by `content-length`.
    pub(super) content_left: Option<u64>,

    pub(super) send_ended: bool,
    pub(super) send_window: i64,
    /// Data that waits for windows or for the socket.
    pub(super) waiting: VecDeque<Bytes>,
    pub(super) waiting_bytes: usize,
    pub(super) end: End,
    /// Stands in the connection's queue.
    pub(super) queued: bool,

    pub(super) on_receive: Option<Waker>,
    pub(super) on_room: Option<Waker>,
    pub(super) on_reset: Option<Waker>,
}

impl Stream {
    pub(super) fn received_bytes(&self) -> usize {
        self.first.len() + self.more.len()
    }

    pub(super) fn take_data(&mut self) -> Option<Bytes> {
        if !self.first.is_empty() {
            return Some(std::mem::take(&mut self.first));
        }
        // The whole buffer leaves: what comes next begins a new one.
        (!self.more.is_empty()).then(|| std::mem::take(&mut self.more).freeze())
    }

    pub(super) fn has_to_send(&self) -> bool {
        !self.send_ended && (!self.waiting.is_empty() || !matches!(self.end, End::Open))
    }

    pub(super) fn wake_all(&mut self) {
        for waker in [&mut self.on_receive, &mut self.on_room, &mut self.on_reset] {
            wake(waker);
        }
    }
}

pub(super) fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

pub(super) fn register(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *place = Some(cx.waker().clone()),
    }
}

/// Spreads stream ids by a factor that the peer does not know, so that it cannot choose ids that
/// collide.
pub(super) struct IdKey(u64);

impl Default for IdKey {
    fn default() -> Self {
        Self(RandomState::new().hash_one(0) | 1)
    }
}

impl BuildHasher for IdKey {
    type Hasher = IdHasher;
    fn build_hasher(&self) -> IdHasher {
        IdHasher(self.0)
    }
}

pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(byte.into());
        }
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = self.0.wrapping_mul(2 * u64::from(id) + 1).rotate_left(24);
    }
}

/// More free slots than this are given back once all are free.
const KEPT_SLOTS: usize = 64;

#[derive(Default)]
pub(super) struct Streams {
    slots: Vec<Stream>,
    free: Vec<u32>,
    by_id: HashMap<u32, Key, IdKey>,
}

impl Streams {
    /// Streams on which frames may still come or go.
    pub(super) fn open(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn find(&self, id: u32) -> Option<Key> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn is_open(&self, key: Key) -> bool {
        self.find(self[key].id) == Some(key)
    }

    pub(super) fn insert(&mut self, stream: Stream) -> Key {
        let id = stream.id;
        let key = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = stream;
                Key(slot)
            }
            None => {
                self.slots.push(stream);
                Key(self.slots.len() as u32 - 1)
            }
        };
        self.by_id.insert(id, key);
        key
    }

    /// No frame comes or goes any more. The slot goes with the last handle.
    pub(super) fn close(&mut self, key: Key) {
        let id = self[key].id;
        self.by_id.remove(&id);
        self.free_if_unused(key);
    }

    pub(super) fn free_if_unused(&mut self, key: Key) {
        if self[key].handles > 0 || self.is_open(key) {
            return;
        }
        self[key] = Stream::default();
        self.free.push(key.0);
        if self.free.len() == self.slots.len() && self.slots.len() > KEPT_SLOTS {
            *self = Self::default();
        }
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        self.by_id.values().copied().collect()
    }

    /// Every stream, also those that are closed and still held.
    pub(super) fn slots(&self) -> impl Iterator<Item = &Stream> {
        self.slots.iter()
    }
}

impl std::ops::Index<Key> for Streams {
    type Output = Stream;
    fn index(&self, key: Key) -> &Stream {
        &self.slots[key.0 as usize]
    }
}

impl std::ops::IndexMut<Key> for Streams {
    fn index_mut(&mut self, key: Key) -> &mut Stream {
        &mut self.slots[key.0 as usize]
    }
}
