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
        self.driver.poll_turn(cx)
    }
}
