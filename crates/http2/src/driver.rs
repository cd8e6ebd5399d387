//! A socket around a [`Core`]: reads and writes in turns of the runtime.
//!
//! A turn writes what the handles have left since the last one, then reads and takes frames. What
//! that produced is written in the next turn, together with the answers of the handlers it woke. However
//! much there is, a turn reads and writes only so much.
//!
//! A little is not written at once but when the runtime has looked at its sockets: on a busy thread more answers come
//! together by that, and a call of the kernel costs as much as several answers; on an idle one it is a look more.
//!
//! One read buffer serves all connections of a thread: it is empty between two polls. A frame that
//! is cut by its end is kept in a buffer of its own size.

use std::cell::{RefCell, RefMut};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::core::Core;

/// Bytes read at once, and about as many as one connection reads before others have their turn.
const READ_BYTES: usize = 64 << 10;
/// About as many as one connection writes before others have their turn: a reader as fast as we are takes
/// whatever there is.
const WRITE_BYTES: usize = 256 << 10;
/// As many are given to the kernel at once. A thread that has woken up meanwhile waits for the call to come back,
/// and a quarter of a megabyte takes milliseconds on a virtual machine.
const CALL_BYTES: usize = 64 << 10;
/// Behind a call that wrote as many the core is offered to who waits for it: the scheduler by itself may take it at
/// the next tick of the clock only, several calls later.
const LONG_CALL_BYTES: usize = CALL_BYTES / 2;
/// Slices given to one write.
const SLICES: usize = 32;

thread_local! {
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// Whether a write waits until the runtime has looked at its sockets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PutOff {
    No,
    /// Since this poll of the task.
    Now,
    /// Since an earlier one: it is due.
    Before,
}

pub(crate) struct Driver<IO> {
    io: IO,
    core: Rc<RefCell<Core>>,
    put_off: PutOff,
    /// The socket takes no more for now.
    blocked: bool,
    /// This poll of the task has read its share.
    has_read: bool,
    /// Something was written that may lie in a buffer below: a socket has none, a TLS stream has.
    unflushed: bool,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Driver<IO> {
    pub(crate) fn new(io: IO, core: Core) -> Self {
        Self {
            io,
            core: Rc::new(RefCell::new(core)),
            put_off: PutOff::No,
            blocked: false,
            has_read: false,
            unflushed: false,
        }
    }

    pub(crate) fn core(&self) -> &Rc<RefCell<Core>> {
        &self.core
    }

    pub(crate) fn core_mut(&self) -> RefMut<'_, Core> {
        self.core.borrow_mut()
    }

    /// To be called when the task is about to rest, behind its turns. From here on it is woken if there is
    /// something to write.
    pub(crate) fn rest(&mut self) {
        if self.put_off == PutOff::Now {
            self.put_off = PutOff::Before;
        }
        self.has_read = false;
        self.core_mut().end_turn();
    }

    /// One turn; a poll of the task may have several, until it calls [`Driver::rest`]. Ready when the connection
    /// has ended and everything that could leave has left.
    pub(crate) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_read {
            // It is woken again when others had their turn.
            return Poll::Pending;
        }
        self.core_mut().begin_turn(cx);
        if !self.puts_off(cx) {
            self.put_off = PutOff::No;
            self.blocked = self.poll_write(cx).is_pending();
        }
        let mut read = 0;
        while read < READ_BYTES && self.core.borrow().wants_input() {
            match self.poll_read(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(count)) if count > 0 => read += count,
                Poll::Ready(_) => {
                    // Who has only closed his side may want what was put off.
                    let _ = self.poll_write(cx);
                    self.core_mut().lost();
                    return Poll::Ready(());
                }
            }
        }
        let (over, empty) = {
            let core = self.core.borrow();
            (core.is_over(), core.output_len() == 0)
        };
        if over {
            ready!(self.poll_write(cx));
            // An error here changes nothing: the connection has ended.
            let _ = ready!(Pin::new(&mut self.io).poll_shutdown(cx));
            self.core_mut().lost();
            return Poll::Ready(());
        }
        if read >= READ_BYTES {
            self.has_read = true;
            let_others_go_first(cx);
        } else if !self.blocked && !empty && !self.puts_off(cx) {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Whether what there is to write waits a little. The task is woken when it has waited.
    fn puts_off(&mut self, cx: &mut Context<'_>) -> bool {
        let waiting = self.core.borrow().output_len();
        let little = (1..CALL_BYTES).contains(&waiting) && !self.blocked;
        match self.put_off {
            PutOff::No if little => {
                self.put_off = PutOff::Now;
                let_others_go_first(cx);
                true
            }
            PutOff::Now => little,
            _ => false,
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        READ_BUFFER.with_borrow_mut(|bytes| {
            let mut buffer = ReadBuf::new(bytes);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
            self.core.borrow_mut().receive(buffer.filled());
            Poll::Ready(Ok(buffer.filled().len()))
        })
    }

    /// Reads once and throws it away. Ready with whether there was anything; not, when the socket has
    /// ended.
    pub(crate) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        READ_BUFFER.with_borrow_mut(|bytes| {
            let mut buffer = ReadBuf::new(bytes);
            let read = ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer));
            Poll::Ready(read.is_ok() && !buffer.filled().is_empty())
        })
    }

    /// Writes the output until it is empty and has left, the socket takes no more, or it is the turn of others.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut left = WRITE_BYTES;
        let mut core = self.core.borrow_mut();
        while core.output_len() > 0 && left > 0 {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = core.output_slices(&mut slices, CALL_BYTES);
            let io = Pin::new(&mut self.io);
            let written = match count {
                1 => io.poll_write(cx, &slices[0]),
                _ => io.poll_write_vectored(cx, &slices[..count]),
            };
            match written {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(written)) if written > 0 => {
                    core.output_written(written);
                    left = left.saturating_sub(written);
                    if written >= LONG_CALL_BYTES {
                        std::thread::yield_now();
                    }
                }
                Poll::Ready(_) => {
                    // Reading will find out as well; until then there is nowhere to write to.
                    core.lost();
                    return Poll::Ready(());
                }
            }
            self.unflushed = true;
        }
        let is_left = core.output_len() > 0;
        drop(core);
        if self.unflushed {
            // Reading will find out about errors.
            let _ = ready!(Pin::new(&mut self.io).poll_flush(cx));
            self.unflushed = false;
        }
        if is_left {
            let_others_go_first(cx);
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

/// Wakes the task again when everybody had a turn for whom something has come meanwhile. A task that wakes
/// itself would be polled dozens of times before the runtime looks at its sockets again.
fn let_others_go_first(cx: &mut Context<'_>) {
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}

impl<IO> Drop for Driver<IO> {
    /// Handles may outlive the socket.
    fn drop(&mut self) {
        self.core.borrow_mut().lost();
    }
}
