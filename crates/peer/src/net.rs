//! Connections: listening, dialing, time limits. TLS comes in from outside ([`Security`]).

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::time::{Instant, Sleep};

use crate::url::{PeerUrl, Scheme};

/// A connection.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection of any kind.
pub type BoxIo = Box<dyn Io>;

/// Encrypts connections. HTTP/1.1 is all that is spoken: offer `http/1.1` or no protocol.
pub trait Security: Send + Sync + 'static {
    /// The server's side of a handshake with a peer at `remote` (`ip:port`, empty for a Unix
    /// socket). It bounds its time, and reports by itself why there is nothing to serve.
    fn accept(&self, io: BoxIo, remote: String) -> BoxFuture<'static, Option<BoxIo>>;

    /// The client's side of a handshake with `host`.
    fn connect(&self, io: BoxIo, host: String) -> BoxFuture<'static, io::Result<BoxIo>>;
}

/// A bound socket, in any mode.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(std::net::TcpListener),
    /// A Unix socket.
    Unix(std::os::unix::net::UnixListener),
}

/// Where peers connect to.
pub struct Listener {
    /// The socket.
    pub socket: Socket,
    /// TLS, if connections are encrypted.
    pub security: Option<Arc<dyn Security>>,
    /// How it is called in the log.
    pub name: String,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Listener {
    /// A listener without TLS.
    pub fn plain(socket: Socket, name: impl Into<String>) -> Self {
        Self { socket, security: None, name: name.into() }
    }

    /// Makes the socket one of the runtime that this is called in.
    pub(crate) fn start(self) -> io::Result<Acceptor> {
        let socket = match self.socket {
            Socket::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                AsyncSocket::Tcp(tokio::net::TcpListener::from_std(listener)?)
            }
            Socket::Unix(listener) => {
                listener.set_nonblocking(true)?;
                AsyncSocket::Unix(tokio::net::UnixListener::from_std(listener)?)
            }
        };
        Ok(Acceptor { socket, security: self.security, name: self.name })
    }
}

enum AsyncSocket {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

/// A listener that runs.
pub(crate) struct Acceptor {
    socket: AsyncSocket,
    security: Option<Arc<dyn Security>>,
    pub(crate) name: String,
}

/// A connection that arrived.
pub(crate) struct Accepted {
    io: BoxIo,
    security: Option<Arc<dyn Security>>,
    pub(crate) remote: String,
}

impl Acceptor {
    pub(crate) async fn accept(&self) -> io::Result<Accepted> {
        let (io, remote): (BoxIo, _) = match &self.socket {
            AsyncSocket::Tcp(listener) => {
                let (stream, remote) = listener.accept().await?;
                stream.set_nodelay(true)?;
                (Box::new(stream), remote.to_string())
            }
            AsyncSocket::Unix(listener) => (Box::new(listener.accept().await?.0), String::new()),
        };
        Ok(Accepted { io, security: self.security.clone(), remote })
    }
}

impl Accepted {
    /// The handshake, if there is one.
    pub(crate) async fn secure(self) -> Option<BoxIo> {
        match self.security {
            None => Some(self.io),
            Some(security) => security.accept(self.io, self.remote).await,
        }
    }
}

/// Connects to peers.
#[derive(Clone)]
pub struct Dialer {
    timeout: Duration,
    security: Option<Arc<dyn Security>>,
    /// The address that TCP connections come from; that of the route if there is none.
    source: Option<IpAddr>,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Dialer {
    /// Connects within `timeout`, handshake included. etcd allows 1 s more than the election
    /// timeout. Without `security` URLs of scheme `https` are not reached.
    pub fn new(timeout: Duration, security: Option<Arc<dyn Security>>) -> Self {
        Self { timeout, security, source: None }
    }

    /// The same with TCP connections that come from this address.
    pub fn from_address(self, source: Option<IpAddr>) -> Self {
        Self { source, ..self }
    }

    /// Connects to a peer.
    ///
    /// # Errors
    /// Nobody there, no answer in time, or a handshake that failed.
    pub async fn dial(&self, url: &PeerUrl) -> io::Result<BoxIo> {
        let timed_out = |_| io::Error::new(io::ErrorKind::TimedOut, format!("dial {url}: i/o timeout"));
        tokio::time::timeout(self.timeout, self.connect(url)).await.map_err(timed_out)?
    }

    async fn connect_tcp(&self, authority: &str) -> io::Result<TcpStream> {
        let Some(source) = self.source else { return TcpStream::connect(authority).await };
        let mut failure = None;
        for address in tokio::net::lookup_host(authority).await? {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            let connected = match socket.bind(SocketAddr::new(source, 0)) {
                Ok(()) => socket.connect(address).await,
                Err(error) => Err(error),
            };
            match connected {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| io::Error::other("the host has no address")))
    }

    async fn connect(&self, url: &PeerUrl) -> io::Result<BoxIo> {
        let told = |error: io::Error| io::Error::new(error.kind(), format!("dial {url}: {error}"));
        let io: BoxIo = match url.scheme() {
            Scheme::Http | Scheme::Https => {
                let stream = self.connect_tcp(url.authority()).await.map_err(told)?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Scheme::Unix | Scheme::Unixs => {
                Box::new(UnixStream::connect(url.authority()).await.map_err(told)?)
            }
        };
        match (&self.security, url.scheme().is_secure()) {
            (_, false) => Ok(io),
            (Some(security), true) => security.connect(io, url.host().to_owned()).await.map_err(told),
            (None, true) => Err(told(io::Error::other("TLS is not configured for peers"))),
        }
    }
}

/// A connection on which no single write may wait longer than its limit.
///
/// Reads have no limit here: who reads knows whether silence is wrong.
pub(crate) struct Timed<T> {
    io: T,
    limit: Duration,
    timer: Pin<Box<Sleep>>,
    /// Whether a write waits and the timer runs.
    waits: bool,
}

impl<T> Timed<T> {
    pub(crate) fn new(io: T, limit: Duration) -> Self {
        Self { io, limit, timer: Box::pin(tokio::time::sleep(limit)), waits: false }
    }

    fn bound<R>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if poll.is_ready() {
            self.waits = false;
            return poll;
        }
        if !self.waits {
            self.waits = true;
            self.timer.as_mut().reset(Instant::now() + self.limit);
        }
        match self.timer.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "write: i/o timeout")))
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Timed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Timed<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.io).poll_write(cx, buf);
        self.bound(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.bound(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.io).poll_flush(cx) {
            // Says nothing about a write that waits.
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => self.bound(cx, Poll::Pending),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.io).poll_shutdown(cx);
        self.bound(cx, poll)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test(start_paused = true)]
    async fn a_write_that_nobody_takes_ends() {
        let (near, _far) = tokio::io::duplex(16);
        let mut near = Timed::new(near, Duration::from_secs(5));
        near.write_all(&[0; 16]).await.unwrap();
        let started = Instant::now();
        let error = near.write_all(&[0; 16]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test]
    async fn connections_come_from_the_chosen_address() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = PeerUrl::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let source = IpAddr::from([127, 0, 0, 9]);
        let dialer = Dialer::new(Duration::from_secs(5), None).from_address(Some(source));
        let (dialled, accepted) = tokio::join!(dialer.dial(&url), listener.accept());
        dialled.map(drop).unwrap();
        assert_eq!(accepted.unwrap().1.ip(), source);
    }

    #[tokio::test]
    async fn https_needs_security() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let dialer = Dialer::new(Duration::from_secs(5), None);
        let Err(error) = dialer.dial(&PeerUrl::parse(&url).unwrap()).await else { panic!("connected") };
        assert!(error.to_string().contains("TLS is not configured"), "{error}");
    }
}
