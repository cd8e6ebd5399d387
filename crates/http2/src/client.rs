//! The side that opens streams.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::Config;
use crate::core::{Broken, Core};
use crate::driver::Driver;
use crate::handles::{Body, Sender, handles};
use crate::head::Head;

/// Opens streams on a connection; clones share it. When the last one has gone, the connection ends
/// with its last stream.
#[derive(Clone)]
pub struct Requests(Rc<Opener>);

struct Opener {
    core: Rc<RefCell<Core>>,
}

impl Drop for Opener {
    fn drop(&mut self) {
        self.core.borrow_mut().finish();
    }
}

/// The connection itself: a future that has to be polled by a task of its own, and ends with the
/// connection.
pub struct Connection<IO> {
    driver: Driver<IO>,
}

/// Speaks HTTP/2 on a socket.
pub fn connect<IO: AsyncRead + AsyncWrite + Unpin>(io: IO, config: Config) -> (Requests, Connection<IO>) {
    let driver = Driver::new(io, Core::client(config));
    let opener = Opener { core: driver.core().clone() };
    (Requests(Rc::new(opener)), Connection { driver })
}

impl Requests {
    /// Opens a stream with a request head; waits while the server allows no more streams.
    pub async fn open(&self, head: &Rc<Head>, end: bool) -> Result<(Body, Sender), Broken> {
        let key = poll_fn(|cx| self.0.core.borrow_mut().poll_open(head, end, cx)).await?;
        Ok(handles(&self.0.core, key))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Future for Connection<IO> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let turn = self.driver.poll_turn(cx);
        self.driver.rest();
        turn
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use bytes::Bytes;
    use tokio::io::ReadBuf;

    use super::*;

    const SENT_BYTES: usize = 8 << 20;

    /// Wants very much at once, and takes all that it is given.
    #[derive(Default)]
    struct Greedy {
        wish: Vec<u8>,
        taken: Rc<Cell<usize>>,
        /// How often it was given something.
        calls: Rc<Cell<usize>>,
        /// Nothing comes after the wish.
        has_closed: bool,
    }

    impl AsyncRead for Greedy {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if self.wish.is_empty() {
                return if self.has_closed { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
            buffer.put_slice(&std::mem::take(&mut self.wish));
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Greedy {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.taken.set(self.taken.get() + bytes.len());
            self.calls.set(self.calls.get() + 1);
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Each answer had a call of the kernel to itself on a busy thread.
    #[tokio::test]
    async fn a_little_is_put_off_until_the_runtime_has_looked_at_its_sockets() {
        let io = Greedy::default();
        let calls = io.calls.clone();
        let wakes = Arc::new(Wakes::default());
        let waker = wakes.clone().into();
        let cx = &mut Context::from_waker(&waker);
        let (requests, mut connection) = connect(io, Config::default());
        let mut turn = |cx: &mut Context<'_>| assert!(Pin::new(&mut connection).poll(cx).is_pending());
        let head = Rc::new(Head::request("POST", "http", "a", "/"));
        let open = |cx: &mut Context<'_>| {
            let opening = std::pin::pin!(requests.open(&head, true));
            let Poll::Ready(Ok(handles)) = opening.poll(cx) else { panic!("not opened") };
            handles
        };
        turn(cx);
        assert_eq!(calls.get(), 0, "the preface");
        tokio::task::yield_now().await;
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        turn(cx);
        assert_eq!(calls.get(), 1);
        let first = open(cx);
        turn(cx);
        let second = open(cx);
        assert_eq!(calls.get(), 1);
        tokio::task::yield_now().await;
        turn(cx);
        assert_eq!(calls.get(), 2, "both at once");
        drop((first, second));
    }

    #[tokio::test]
    async fn who_closes_only_his_side_gets_what_was_put_off() {
        let io = Greedy { has_closed: true, ..Greedy::default() };
        let calls = io.calls.clone();
        let (_requests, mut connection) = connect(io, Config::default());
        let cx = &mut Context::from_waker(std::task::Waker::noop());
        assert!(Pin::new(&mut connection).poll(cx).is_ready());
        assert_eq!(calls.get(), 1, "the preface");
    }

    /// It was written to as long as there was anything, while the others waited. The next turn comes when the
    /// runtime has looked at its sockets.
    #[tokio::test]
    async fn who_takes_everything_gets_it_in_turns() {
        let window = (1_u32 << 30).to_be_bytes();
        let settings = [&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4][..], &window].concat();
        let update = [&[0, 0, 4, 8, 0, 0, 0, 0, 0][..], &window].concat();
        let taken = Rc::new(Cell::new(0));
        let io = Greedy { wish: [settings, update].concat(), taken: taken.clone(), ..Greedy::default() };
        let wakes = Arc::new(Wakes::default());
        let waker = wakes.clone().into();
        let cx = &mut Context::from_waker(&waker);
        let (requests, mut connection) = connect(io, Config::default());
        let turn = |connection: &mut Connection<Greedy>, cx: &mut Context<'_>| {
            assert!(Pin::new(connection).poll(cx).is_pending());
        };
        turn(&mut connection, cx);
        let head = Rc::new(Head::request("POST", "http", "a", "/"));
        let opening = std::pin::pin!(requests.open(&head, false));
        let Poll::Ready(Ok((_body, mut sender))) = opening.poll(cx) else { panic!("not opened") };
        sender.send_data(Bytes::from(vec![7; SENT_BYTES]), true).unwrap();
        let mut turns = 0;
        while taken.get() < SENT_BYTES {
            let (before, woken) = (taken.get(), wakes.0.load(Ordering::Relaxed));
            turn(&mut connection, cx);
            turns += 1;
            assert!(taken.get() - before < 1 << 20, "{} bytes at once", taken.get() - before);
            assert_eq!(wakes.0.load(Ordering::Relaxed), woken, "woken too early");
            tokio::task::yield_now().await;
            assert!(taken.get() >= SENT_BYTES || wakes.0.load(Ordering::Relaxed) > woken, "not woken");
        }
        assert!(turns >= 8, "{turns}");
    }
}
