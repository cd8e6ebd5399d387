//! The side that accepts streams.

use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::Config;
use crate::core::{Core, Pings, Reason};
use crate::driver::Driver;
use crate::handles::{Body, Sender, handles};
use crate::head::Head;

/// A stream that the client has opened.
pub struct Request {
    /// Its header list.
    pub head: Rc<Head>,
    /// Its data.
    pub body: Body,
    /// The answer.
    pub respond: Sender,
}

/// A connection. It lives as long as [`Connection::poll_accept`] is polled, by one task.
pub struct Connection<IO> {
    driver: Driver<IO>,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Connection<IO> {
    /// Serves a socket of which `first_bytes` have been read already.
    pub fn new(io: IO, first_bytes: &[u8], config: Config) -> Self {
        let mut core = Core::server(config);
        core.receive(first_bytes);
        Self { driver: Driver::new(io, core) }
    }

    /// Drives the connection and returns the next stream; `None` when the connection has ended. What has asked
    /// once asks until nothing comes: before that nobody wakes it.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<Request>> {
        if let Some(request) = self.accept() {
            return Poll::Ready(Some(request));
        }
        let turn = self.driver.poll_turn(cx);
        if let Some(request) = self.accept() {
            return Poll::Ready(Some(request));
        }
        self.driver.rest();
        turn.map(|()| None)
    }

    /// After the end: reads once and throws it away. Ready with `false` when the client has closed.
    ///
    /// A socket that is closed while bytes of the client's come in is reset by the system, and what the
    /// client had not taken yet of the last answers is lost. So who drives the connection goes on with
    /// this for a while.
    pub fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.driver.poll_discard(cx)
    }

    fn accept(&mut self) -> Option<Request> {
        let mut core = self.driver.core_mut();
        let key = core.accept()?;
        let head = core.head(key);
        drop(core);
        let (body, respond) = handles(self.driver.core(), key);
        Some(Request { head, body, respond })
    }

    /// See [`Core::go_away`].
    pub fn go_away(&mut self) {
        self.driver.core_mut().go_away();
    }

    /// See [`Core::has_unsent_ends`].
    pub fn has_unsent_ends(&mut self) -> bool {
        self.driver.core_mut().has_unsent_ends()
    }

    /// See [`Core::shut_down`].
    pub fn shut_down(&mut self, reason: Reason) {
        self.driver.core_mut().shut_down(reason);
    }

    /// See [`Core::shut_down_saying`].
    pub fn shut_down_saying(&mut self, reason: Reason, why: &[u8]) {
        self.driver.core_mut().shut_down_saying(reason, why);
    }

    /// See [`Core::take_pings`].
    pub fn take_pings(&mut self) -> Option<Pings> {
        self.driver.core_mut().take_pings()
    }

    /// Pings the client.
    pub fn ping(&mut self) {
        self.driver.core_mut().ping();
    }

    /// Whether a ping was answered since this was asked last.
    pub fn take_pong(&mut self) -> bool {
        self.driver.core_mut().take_pong()
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::pin::Pin;
    use std::task::Waker;

    use tokio::io::ReadBuf;

    use super::*;

    /// Asks without an end.
    struct Flood {
        next_stream: u32,
    }

    impl AsyncRead for Flood {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            // HEADERS that end headers and stream: GET, http, /.
            while buffer.remaining() >= 12 {
                buffer.put_slice(&[0, 0, 3, 1, 5]);
                buffer.put_slice(&self.next_stream.to_be_bytes());
                buffer.put_slice(&[0x82, 0x86, 0x84]);
                self.next_stream += 2;
            }
            Poll::Ready(Ok(()))
        }
    }

    /// Streams are answered where they are accepted, so who never stops asking would have the thread to himself.
    #[tokio::test]
    async fn who_asks_without_an_end_is_heard_in_turns() {
        let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        let io = tokio::io::join(Flood { next_stream: 1 }, tokio::io::sink());
        let mut connection = Connection::new(io, hello, Config::default());
        let mut accepted = 0;
        for turn in 1..=3 {
            let before = accepted;
            while let Poll::Ready(request) = connection.poll_accept(&mut Context::from_waker(Waker::noop())) {
                assert!(request.is_some(), "the connection ended after {accepted} streams");
                accepted += 1;
                assert!(accepted < turn * 12_000, "{accepted} streams in {turn} turns");
            }
            assert!(accepted > before, "turn {turn}");
            tokio::task::yield_now().await;
        }
    }
}
