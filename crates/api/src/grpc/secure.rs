//! Encrypted listeners: the handshake before everything else.
//!
//! A listener that takes both plain text and TLS tells them apart by the first byte: a handshake
//! begins with 0x16, which no request in plain text does.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::connection::{FIRST_BYTES_TIMEOUT, Replay, serve_connection};
use super::lifecycle::Ticket;
use super::metadata::Peer;
use super::metrics::Shard;
use super::{Options, Service};

const HANDSHAKE_RECORD: u8 = 0x16;

/// Told of connections that were refused: the remote address, and why.
type OnRejected = Arc<dyn Fn(&str, &tls::Rejected) + Send + Sync>;

/// Encryption of a listener.
#[derive(Clone)]
pub struct Security {
    /// Makes the handshakes.
    pub acceptor: tls::Acceptor,
    /// Whether connections in plain text are served as well.
    pub plain_too: bool,
    /// Told of connections that were refused.
    pub on_rejected: OnRejected,
}

impl std::fmt::Debug for Security {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Security").field("plain_too", &self.plain_too).finish_non_exhaustive()
    }
}

/// A socket of an encrypted listener. Beside the encryption the distinction costs nothing.
pub(crate) enum AnySocket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Serves a connection of a listener that has [`Options::security`].
pub(crate) async fn serve_secure<S: Service>(
    mut socket: AnySocket,
    mut peer: Peer,
    service: Rc<S>,
    options: &Options,
    metrics: Arc<Shard>,
    ticket: Ticket,
) {
    let Some(security) = &options.security else { return };
    let mut first_bytes = Bytes::new();
    if security.plain_too {
        let first = timeout(FIRST_BYTES_TIMEOUT, first_read(&mut socket));
        let Some(Ok(Ok(bytes))) = ticket.unless_ended(first).await else { return };
        first_bytes = bytes;
        if first_bytes.first() != Some(&HANDSHAKE_RECORD) {
            let io = Replay { first_bytes, io: socket };
            return serve_connection(io, peer, service, options, metrics, ticket).await;
        }
    }
    let handshake = security.acceptor.accept(Replay { first_bytes, io: socket }, peer.address);
    match ticket.unless_ended(handshake).await {
        None => {}
        Some(Ok((stream, shown))) => {
            peer.secure = true;
            peer.common_name = shown.certificate.then_some(shown.common_name);
            serve_connection(stream, peer, service, options, metrics, ticket).await;
        }
        Some(Err(rejected)) => {
            let remote = peer.address.map(|address| address.to_string()).unwrap_or_default();
            (security.on_rejected)(&remote, &rejected);
        }
    }
}

async fn first_read(socket: &mut AnySocket) -> io::Result<Bytes> {
    let mut bytes = BytesMut::with_capacity(512);
    match socket.read_buf(&mut bytes).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(bytes.freeze()),
    }
}

macro_rules! each {
    ($socket:expr, $io:ident => $work:expr) => {
        match $socket {
            AnySocket::Tcp($io) => $work,
            AnySocket::Unix($io) => $work,
        }
    };
}

impl AsyncRead for AnySocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(&mut *self, io => Pin::new(io).poll_read(cx, buffer))
    }
}

impl AsyncWrite for AnySocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(&mut *self, io => Pin::new(io).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(&mut *self, io => Pin::new(io).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut *self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut *self, io => Pin::new(io).poll_shutdown(cx))
    }
}
