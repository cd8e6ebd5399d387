//! A bare gRPC client on our own HTTP/2, messages by `prost`.
//!
//! Exists so that the load generator costs little more than the HTTP/2 frames themselves (a full
//! gRPC stack would be the bottleneck of a load that has one core to itself), and so that tests
//! can send what a well-behaved stack refuses to send. No retries, no balancing, no deadlines of its
//! own. Encrypted after [`encrypt`], then everywhere in the process.
//!
//! Everything here runs on a single-threaded runtime, a [`local_runtime`] or a `LocalSet`: the
//! connection task is spawned with `spawn_local`.
//!
//! **Source**: the gRPC over HTTP/2 protocol description.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http2::client::{self, Requests};
use http2::{Body, Config, Field, Head, Sender};
use prost::Message;
use tokio::net::TcpStream;

/// Receive window of a stream; large enough that a full range never waits for one round trip.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// Receive window of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// Bytes in front of every gRPC message: one flag, four of length.
const PREFIX_BYTES: usize = 5;
/// A message is put together in memory taken at once, whatever its length says up to here.
const MOST_RESERVED_BYTES: usize = 16 << 20;

/// A runtime of one thread.
pub fn local_runtime() -> std::io::Result<tokio::runtime::LocalRuntime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
}

/// What a call ended with when it did not end with OK.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("grpc status {code}: {message}")]
pub struct Status {
    /// The gRPC code as a number; 0 never appears in an error.
    pub code: u32,
    /// The text, percent-decoded.
    pub message: String,
}

impl Status {
    /// The code used for failures of the transport: UNAVAILABLE.
    pub const UNAVAILABLE: u32 = 14;

    fn transport(error: impl std::fmt::Display) -> Self {
        Self { code: Self::UNAVAILABLE, message: format!("transport: {error}") }
    }

    fn from_head(head: &Head) -> Option<Result<(), Self>> {
        let code = head.get("grpc-status")?;
        if code == b"0" {
            return Some(Ok(()));
        }
        let code = std::str::from_utf8(code).ok()?.parse().ok()?;
        let message = head.get("grpc-message").map(percent_decode).unwrap_or_default();
        Some(Err(Self { code, message }))
    }
}

/// The status of a call whose answer is no such message.
pub(crate) fn undecodable(error: prost::DecodeError) -> Status {
    Status { code: 13, message: format!("answer does not decode: {error}") }
}

fn percent_decode(text: &[u8]) -> String {
    let hex = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        match (first, tail) {
            (b'%', [high, low, after @ ..]) if hex(*high).is_some() && hex(*low).is_some() => {
                out.push(hex(*high).unwrap_or(0) << 4 | hex(*low).unwrap_or(0));
                rest = after;
            }
            _ => {
                out.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

static ENCRYPTION: OnceLock<tls::Connector> = OnceLock::new();

/// Encrypts all connections of this process from now on.
pub fn encrypt(settings: &tls::Settings) -> anyhow::Result<()> {
    let connector = tls::Connector::new(settings, &["h2"], Arc::new(|_| {}))?;
    anyhow::ensure!(ENCRYPTION.set(connector).is_ok(), "connections are encrypted already");
    Ok(())
}

/// The scheme of URLs of clients in this process.
pub fn scheme() -> &'static str {
    if ENCRYPTION.get().is_some() { "https" } else { "http" }
}

/// Strips the scheme of a client URL and checks that this client can speak to it.
pub fn authority_of(endpoint: &str) -> anyhow::Result<String> {
    let scheme = scheme();
    let bare = endpoint.strip_prefix(&format!("{scheme}://")).unwrap_or(endpoint).trim_end_matches('/');
    anyhow::ensure!(!bare.contains("://"), "{endpoint}: only {scheme}:// client URLs can be used here");
    anyhow::ensure!(bare.contains(':'), "{endpoint}: a client URL needs a port");
    Ok(bare.to_owned())
}

/// One method on one server: the request head, which does not change.
#[derive(Clone, Debug)]
pub struct Method(Rc<Head>);

impl Method {
    /// `path` is `/package.Service/Method`.
    pub fn new(authority: &str, path: &str) -> anyhow::Result<Self> {
        anyhow::ensure!(path.starts_with('/'), "{path}: a method's path begins with a slash");
        let head = Head::request("POST", scheme(), authority, path)
            .with(Field::new("content-type", "application/grpc"))
            .with(Field::new("te", "trailers"));
        Ok(Self(Rc::new(head)))
    }

    /// Adds metadata sent with each call.
    pub fn with_header(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        Self(Rc::new(Rc::unwrap_or_clone(self.0).with(Field::new(name, value))))
    }
}

/// Frames one message.
pub fn frame(message: &impl Message) -> Bytes {
    let mut out = framed(message.encoded_len());
    message.encode_raw(&mut out);
    out.into()
}

/// Frames bytes that are not necessarily a message.
pub fn frame_raw(message: &[u8]) -> Bytes {
    let mut out = framed(message.len());
    out.put_slice(message);
    out.into()
}

/// The beginning of a frame with room for so many bytes.
fn framed(bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(PREFIX_BYTES + bytes);
    put_prefix(&mut out, bytes);
    out
}

fn put_prefix(out: &mut Vec<u8>, bytes: usize) {
    out.put_u8(0);
    out.put_u32(bytes as u32);
}

/// A connection; clones share it.
#[derive(Clone)]
pub struct Channel {
    requests: Requests,
}

impl Channel {
    /// Connects and spawns the connection task on the current thread.
    pub async fn connect(authority: &str) -> Result<Self, Status> {
        Self::connect_with_windows(authority, STREAM_WINDOW_BYTES, CONNECTION_WINDOW_BYTES).await
    }

    /// The same with chosen receive windows: small ones make a client that reads slowly.
    pub async fn connect_with_windows(authority: &str, stream: u32, connection: u32) -> Result<Self, Status> {
        let socket = TcpStream::connect(authority).await.map_err(Status::transport)?;
        socket.set_nodelay(true).map_err(Status::transport)?;
        let config = Config {
            stream_window_bytes: stream,
            connection_window_bytes: connection,
            max_header_list_bytes: 1 << 20,
            max_frame_bytes: 1 << 20,
            ..Config::default()
        };
        // The end of the connection shows as an error of the calls on it.
        let requests = match ENCRYPTION.get() {
            None => {
                let (requests, connection) = client::connect(socket, config);
                tokio::task::spawn_local(connection);
                requests
            }
            Some(connector) => {
                let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
                let socket = connector.connect(socket, host).await.map_err(Status::transport)?;
                let (requests, connection) = client::connect(socket, config);
                tokio::task::spawn_local(connection);
                requests
            }
        };
        Ok(Self { requests })
    }

    /// Sends one framed message and waits for the one message that answers it.
    pub async fn call_raw(&self, method: &Method, body: Bytes) -> Result<Bytes, Status> {
        let mut duplex = self.open(method).await?;
        duplex.outgoing.send_data(body, true).map_err(Status::transport)?;
        duplex.receive_only().await
    }

    /// The same with a message of so many bytes that `write` appends.
    pub(crate) async fn call_written(
        &self,
        method: &Method,
        bytes: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Bytes, Status> {
        let mut duplex = self.open(method).await?;
        duplex.send_last(bytes, write)?;
        duplex.receive_only().await
    }

    /// Sends one message and waits for the end of the call, whatever the answer says.
    pub async fn call_unread(&self, method: &Method, request: &impl Message) -> Result<(), Status> {
        self.server_stream(method, request).await?.finish().await
    }

    /// Sends one message and decodes the answer.
    pub async fn call<R: Message + Default>(
        &self,
        method: &Method,
        request: &impl Message,
    ) -> Result<R, Status> {
        let answer = self.server_stream(method, request).await?.receive_only().await?;
        R::decode(answer).map_err(undecodable)
    }

    /// Sends one message and hands back the stream of answers.
    pub async fn server_stream(&self, method: &Method, request: &impl Message) -> Result<Duplex, Status> {
        let mut duplex = self.open(method).await?;
        duplex.send_last(request.encoded_len(), |out| request.encode_raw(out))?;
        Ok(duplex)
    }

    /// Opens a stream in both directions.
    pub async fn open(&self, method: &Method) -> Result<Duplex, Status> {
        let (incoming, outgoing) = self.requests.open(&method.0, false).await.map_err(Status::transport)?;
        Ok(Duplex { outgoing, incoming, at: At::Head, buffer: BytesMut::new() })
    }
}

/// Which part of an answer comes next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Head,
    Body,
    End,
}

/// A stream in both directions. Dropping it resets the stream.
pub struct Duplex {
    outgoing: Sender,
    incoming: Body,
    at: At,
    buffer: BytesMut,
}

impl Duplex {
    /// Queues one message.
    pub fn send(&mut self, message: &impl Message) -> Result<(), Status> {
        self.send_frame(frame(message))
    }

    /// Queues one framed message.
    pub fn send_frame(&mut self, framed: Bytes) -> Result<(), Status> {
        self.outgoing.send_data(framed, false).map_err(Status::transport)
    }

    /// Sends the only message: `write` appends so many bytes.
    fn send_last(&mut self, bytes: usize, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), Status> {
        let framed = |out: &mut Vec<u8>| {
            put_prefix(out, bytes);
            write(out);
        };
        self.outgoing.send_written(PREFIX_BYTES + bytes, true, framed).map_err(Status::transport)
    }

    /// The only message, when the call has ended with OK.
    async fn receive_only(&mut self) -> Result<Bytes, Status> {
        let message = self.receive_raw().await?;
        let missing = || Status { code: 13, message: "the call ended without a message".into() };
        let message = message.ok_or_else(missing)?;
        self.finish().await?;
        Ok(message)
    }

    /// Says that no message follows.
    pub fn half_close(&mut self) -> Result<(), Status> {
        self.outgoing.send_data(Bytes::new(), true).map_err(Status::transport)
    }

    /// The next message, decoded; `None` when the call ended with OK.
    pub async fn receive<R: Message + Default>(&mut self) -> Result<Option<R>, Status> {
        match self.receive_raw().await? {
            None => Ok(None),
            Some(bytes) => R::decode(bytes).map(Some).map_err(undecodable),
        }
    }

    /// The next message; `None` when the call ended with OK.
    pub async fn receive_raw(&mut self) -> Result<Option<Bytes>, Status> {
        poll_fn(|cx| self.poll_message(cx)).await
    }

    fn poll_message(&mut self, cx: &Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        loop {
            if let Some(message) = self.take_buffered()? {
                return Poll::Ready(Ok(Some(message)));
            }
            let Some(mut chunk) = ready!(self.poll_chunk(cx))? else { return Poll::Ready(Ok(None)) };
            if self.buffer.is_empty() && is_one_message(&chunk) {
                chunk.advance(PREFIX_BYTES);
                return Poll::Ready(Ok(Some(chunk)));
            }
            if let Some(announced) = self.buffer.is_empty().then(|| announced_bytes(&chunk)).flatten() {
                self.buffer.reserve(announced.min(MOST_RESERVED_BYTES));
            }
            self.buffer.extend_from_slice(&chunk);
        }
    }

    fn take_buffered(&mut self) -> Result<Option<Bytes>, Status> {
        if self.buffer.len() < PREFIX_BYTES {
            return Ok(None);
        }
        if self.buffer[0] != 0 {
            return Err(Status { code: 13, message: "compressed answer".into() });
        }
        let length = (&self.buffer[1..PREFIX_BYTES]).get_u32() as usize;
        if self.buffer.len() < PREFIX_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX_BYTES);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// The next piece of the body as it came, frames not put together; `None` at the end.
    /// For consumers that only count bytes. Do not mix with the other receiving functions.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Status> {
        poll_fn(|cx| self.poll_chunk(cx)).await
    }

    fn poll_chunk(&mut self, cx: &Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        let chunk = match self.at {
            At::Head => ready!(self.poll_head(cx)),
            At::Body => ready!(self.poll_body(cx)),
            At::End => Ok(None),
        };
        if !matches!(chunk, Ok(Some(_))) {
            self.at = At::End;
        }
        Poll::Ready(chunk)
    }

    /// Reads the head, then goes on; an answer that is nothing else has its status there.
    fn poll_head(&mut self, cx: &Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        let head = ready!(self.incoming.poll_head(cx)).map_err(Status::transport)?;
        match Status::from_head(&head) {
            Some(status) => Poll::Ready(status.map(|()| None)),
            None if head.status() != 200 => {
                let message = format!("http status {}", head.status());
                Poll::Ready(Err(Status { code: 2, message }))
            }
            None => {
                self.at = At::Body;
                self.poll_body(cx)
            }
        }
    }

    fn poll_body(&mut self, cx: &Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        if let Some(chunk) = ready!(self.incoming.poll_data(cx)) {
            return Poll::Ready(chunk.map(Some).map_err(Status::transport));
        }
        let trailers = self.incoming.take_trailers();
        Poll::Ready(match trailers.as_deref().and_then(Status::from_head) {
            Some(status) => status.map(|()| None),
            None => Err(Status { code: 13, message: "the call ended without a status".into() }),
        })
    }

    /// Waits for the end of the call. What still comes is thrown away.
    pub async fn finish(&mut self) -> Result<(), Status> {
        self.incoming.discard_data();
        poll_fn(|cx| self.poll_finish(cx)).await
    }

    fn poll_finish(&mut self, cx: &Context<'_>) -> Poll<Result<(), Status>> {
        while ready!(self.poll_chunk(cx))?.is_some() {}
        Poll::Ready(Ok(()))
    }
}

/// Bytes of the framed message that begins here, if its length is there.
fn announced_bytes(chunk: &[u8]) -> Option<usize> {
    let length = chunk.get(1..PREFIX_BYTES)?;
    Some(PREFIX_BYTES + u32::from_be_bytes(length.try_into().ok()?) as usize)
}

fn is_one_message(chunk: &[u8]) -> bool {
    chunk.first() == Some(&0) && announced_bytes(chunk) == Some(chunk.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_text_is_percent_decoded() {
        assert_eq!(percent_decode(b"a%20b%25%zz%4"), "a b%%zz%4");
    }

    #[test]
    fn endpoints_are_plain_text_with_a_port() {
        assert_eq!(authority_of("http://127.0.0.1:2379/").unwrap(), "127.0.0.1:2379");
        assert_eq!(authority_of("localhost:1").unwrap(), "localhost:1");
        assert!(authority_of("https://127.0.0.1:2379").is_err());
        assert!(authority_of("localhost").is_err());
    }

    #[test]
    fn a_frame_is_recognised_only_when_whole() {
        let framed = frame_raw(b"abc");
        assert!(is_one_message(&framed));
        assert!(!is_one_message(&framed[..7]));
        assert!(!is_one_message(&framed[..3]));
    }
}
