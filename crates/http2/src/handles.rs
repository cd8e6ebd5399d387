//! The two handles of a stream: what comes in, and what goes out.
//!
//! A stream that both handles have left before it ended is reset.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::core::{Broken, Core, Key, Reason};
use crate::head::Head;

/// One of a stream's two handles.
struct Handle {
    core: Rc<RefCell<Core>>,
    key: Key,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.core.borrow_mut().release(self.key);
    }
}

/// The two handles that a stream begins with.
pub(crate) fn handles(core: &Rc<RefCell<Core>>, key: Key) -> (Body, Sender) {
    let handle = || Handle { core: core.clone(), key };
    (Body(handle()), Sender(handle()))
}

/// What the other side sends.
pub struct Body(Handle);

impl Body {
    /// The head of the response; for the side that opened the stream.
    pub fn poll_head(&mut self, cx: &Context<'_>) -> Poll<Result<Rc<Head>, Broken>> {
        self.0.core.borrow_mut().poll_head(self.0.key, cx)
    }

    /// See [`Body::poll_head`].
    pub async fn head(&mut self) -> Result<Rc<Head>, Broken> {
        poll_fn(|cx| self.poll_head(cx)).await
    }

    /// The next data; `None` at the end. Data lie in the pieces of their frames, or in larger ones.
    /// Taking them gives the window back.
    pub fn poll_data(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        self.0.core.borrow_mut().poll_data(self.0.key, cx)
    }

    /// See [`Body::poll_data`].
    pub async fn data(&mut self) -> Option<Result<Bytes, Broken>> {
        poll_fn(|cx| self.poll_data(cx)).await
    }

    /// Throws away the data that nobody has taken, and all that still come. Their end is told all the same, and
    /// the window is given back.
    pub fn discard_data(&mut self) {
        self.0.core.borrow_mut().stop_reading(self.0.key);
    }

    /// The trailers, once the data have ended.
    pub fn take_trailers(&mut self) -> Option<Rc<Head>> {
        self.0.core.borrow_mut().take_trailers(self.0.key)
    }

    /// Whether everything has arrived.
    pub fn is_received(&self) -> bool {
        self.0.core.borrow().is_received(self.0.key)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.discard_data();
    }
}

/// What goes to the other side.
pub struct Sender(Handle);

impl Sender {
    /// Sends a head; with `end` nothing follows it.
    pub fn send_head(&mut self, head: &Rc<Head>, end: bool) -> Result<(), Broken> {
        self.0.core.borrow_mut().send_head(self.0.key, head, end)
    }

    /// Sends data, however many: what the other side does not take yet is kept. See
    /// [`Sender::poll_room`].
    pub fn send_data(&mut self, data: Bytes, end: bool) -> Result<(), Broken> {
        self.0.core.borrow_mut().send_data(self.0.key, data, end)
    }

    /// As [`Sender::send_data`], with the data that `write` appends, which have to be so many bytes.
    ///
    /// # Panics
    ///
    /// If they are not.
    pub fn send_written(
        &mut self,
        bytes: usize,
        end: bool,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), Broken> {
        self.0.core.borrow_mut().send_written(self.0.key, bytes, end, write)
    }

    /// Ends this side with trailers.
    pub fn send_trailers(&mut self, trailers: &Rc<Head>) -> Result<(), Broken> {
        self.0.core.borrow_mut().send_trailers(self.0.key, trailers)
    }

    /// Sends a whole answer.
    pub fn send_all(&mut self, head: &Rc<Head>, data: Bytes, trailers: &Rc<Head>) -> Result<(), Broken> {
        let mut core = self.0.core.borrow_mut();
        core.send_head(self.0.key, head, false)?;
        core.send_data(self.0.key, data, false)?;
        core.send_trailers(self.0.key, trailers)
    }

    /// Bytes that may be sent before more of them wait than a stream should hold; ready when there
    /// is room.
    pub fn poll_room(&mut self, cx: &Context<'_>) -> Poll<Result<usize, Broken>> {
        self.0.core.borrow_mut().poll_room(self.0.key, cx)
    }

    /// Ready when the other side no longer wants this stream, or cannot have it.
    pub fn poll_reset(&mut self, cx: &Context<'_>) -> Poll<Broken> {
        self.0.core.borrow_mut().poll_reset(self.0.key, cx)
    }

    /// Breaks the stream off.
    pub fn reset(&mut self, reason: Reason) {
        self.0.core.borrow_mut().reset(self.0.key, reason);
    }
}
