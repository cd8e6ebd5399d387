//! A bare gRPC client: frames written by hand on `h2`, messages by `prost`.
//!
//! Exists so that the load generator costs little more than the HTTP/2 frames themselves (a full
//! gRPC stack would be the bottleneck of a load that has one core to itself), and so that tests
//! can send what a well-behaved stack refuses to send. Plain text only; no retries, no balancing,
//! no deadlines of its own.
//!
//! Everything here runs on a single-threaded runtime inside a `LocalSet`: the connection task is
//! spawned with `spawn_local`.
//!
//! **Source**: the gRPC over HTTP/2 protocol description.

use std::future::poll_fn;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method as Verb, Request, Uri};
use prost::Message;
use tokio::net::TcpStream;

/// Receive window of a stream; large enough that a full range never waits for one round trip.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// Receive window of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// Bytes in front of every gRPC message: one flag, four of length.
const PREFIX_BYTES: usize = 5;

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

    fn from_headers(headers: &HeaderMap) -> Option<Result<(), Self>> {
        let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
        if code == 0 {
            return Some(Ok(()));
        }
        let message =
            headers.get("grpc-message").map(|text| percent_decode(text.as_bytes())).unwrap_or_default();
        Some(Err(Self { code, message }))
    }
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

/// Strips the scheme of a client URL and checks that this client can speak to it.
pub fn authority_of(endpoint: &str) -> anyhow::Result<String> {
    let bare = endpoint.strip_prefix("http://").unwrap_or(endpoint).trim_end_matches('/');
    anyhow::ensure!(!bare.contains("://"), "{endpoint}: only http:// client URLs are supported");
    anyhow::ensure!(bare.contains(':'), "{endpoint}: a client URL needs a port");
    Ok(bare.to_owned())
}

/// One method on one server: everything of the request head that does not change.
#[derive(Clone, Debug)]
pub struct Method {
    uri: Uri,
    headers: HeaderMap,
}

impl Method {
    /// `path` is `/package.Service/Method`.
    pub fn new(authority: &str, path: &str) -> anyhow::Result<Self> {
        let uri = Uri::builder().scheme("http").authority(authority).path_and_query(path).build()?;
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("te", HeaderValue::from_static("trailers"));
        Ok(Self { uri, headers })
    }

    /// Adds metadata sent with each call.
    pub fn with_header(mut self, name: &'static str, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    fn request(&self) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = Verb::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

/// Frames one message.
pub fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + length);
    out.put_u8(0);
    out.put_u32(length as u32);
    message.encode(&mut out).expect("the buffer has the encoded length");
    out.freeze()
}

/// Frames bytes that are not necessarily a message.
pub fn frame_raw(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    out.put_u8(0);
    out.put_u32(message.len() as u32);
    out.put_slice(message);
    out.freeze()
}

/// A connection; clones share it.
#[derive(Clone)]
pub struct Channel {
    send: h2::client::SendRequest<Bytes>,
}

impl Channel {
    /// Connects and spawns the connection task on the current `LocalSet`.
    pub async fn connect(authority: &str) -> Result<Self, Status> {
        Self::connect_with_windows(authority, STREAM_WINDOW_BYTES, CONNECTION_WINDOW_BYTES).await
    }

    /// The same with chosen receive windows: small ones make a client that reads slowly.
    pub async fn connect_with_windows(authority: &str, stream: u32, connection: u32) -> Result<Self, Status> {
        let socket = TcpStream::connect(authority).await.map_err(Status::transport)?;
        socket.set_nodelay(true).map_err(Status::transport)?;
        let (send, connection) = h2::client::Builder::new()
            .initial_window_size(stream)
            .initial_connection_window_size(connection)
            .initial_max_send_streams(4096)
            .max_frame_size(1 << 20)
            .max_header_list_size(1 << 20)
            .max_send_buffer_size(64 << 20)
            .data_frame_budget(usize::MAX >> 8)
            .enable_push(false)
            .handshake::<_, Bytes>(socket)
            .await
            .map_err(Status::transport)?;
        // The end of the connection shows as an error of the calls on it.
        tokio::task::spawn_local(connection);
        Ok(Self { send })
    }

    async fn start(&self, method: &Method, body: Option<Bytes>) -> Result<Duplex, Status> {
        let mut send = self.send.clone();
        poll_fn(|cx| send.poll_ready(cx)).await.map_err(Status::transport)?;
        let (response, mut outgoing) =
            send.send_request(method.request(), false).map_err(Status::transport)?;
        if let Some(body) = body {
            outgoing.send_data(body, true).map_err(Status::transport)?;
        }
        Ok(Duplex { outgoing, incoming: Incoming::Head(response), buffer: BytesMut::new() })
    }

    /// Sends one framed message and waits for the one message that answers it.
    pub async fn call_raw(&self, method: &Method, body: Bytes) -> Result<Bytes, Status> {
        let mut duplex = self.start(method, Some(body)).await?;
        let message = duplex.receive_raw().await?;
        match message {
            Some(message) => {
                duplex.finish().await?;
                Ok(message)
            }
            None => Err(Status { code: 13, message: "the call ended without a message".into() }),
        }
    }

    /// Sends one message and decodes the answer.
    pub async fn call<R: Message + Default>(
        &self,
        method: &Method,
        request: &impl Message,
    ) -> Result<R, Status> {
        let answer = self.call_raw(method, frame(request)).await?;
        R::decode(answer)
            .map_err(|error| Status { code: 13, message: format!("answer does not decode: {error}") })
    }

    /// Sends one message and hands back the stream of answers.
    pub async fn server_stream(&self, method: &Method, request: &impl Message) -> Result<Duplex, Status> {
        self.start(method, Some(frame(request))).await
    }

    /// Opens a stream in both directions.
    pub async fn open(&self, method: &Method) -> Result<Duplex, Status> {
        self.start(method, None).await
    }
}

enum Incoming {
    Head(h2::client::ResponseFuture),
    Body(h2::RecvStream),
    Ended,
}

/// A stream in both directions. Dropping it resets the stream.
pub struct Duplex {
    outgoing: h2::SendStream<Bytes>,
    incoming: Incoming,
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

    /// Says that no message follows.
    pub fn half_close(&mut self) -> Result<(), Status> {
        self.outgoing.send_data(Bytes::new(), true).map_err(Status::transport)
    }

    /// The next message, decoded; `None` when the call ended with OK.
    pub async fn receive<R: Message + Default>(&mut self) -> Result<Option<R>, Status> {
        match self.receive_raw().await? {
            None => Ok(None),
            Some(bytes) => R::decode(bytes)
                .map(Some)
                .map_err(|error| Status { code: 13, message: format!("answer does not decode: {error}") }),
        }
    }

    /// The next message; `None` when the call ended with OK.
    pub async fn receive_raw(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.take_buffered()? {
                return Ok(Some(message));
            }
            let Some(chunk) = self.chunk().await? else { return Ok(None) };
            if self.buffer.is_empty() && is_one_message(&chunk) {
                return Ok(Some(chunk.slice(PREFIX_BYTES..)));
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
        if let Incoming::Head(response) = &mut self.incoming {
            let response = response.await.map_err(Status::transport)?;
            let (head, body) = response.into_parts();
            match Status::from_headers(&head.headers) {
                Some(Err(status)) => {
                    self.incoming = Incoming::Ended;
                    return Err(status);
                }
                None if head.status != http::StatusCode::OK => {
                    self.incoming = Incoming::Ended;
                    return Err(Status { code: 2, message: format!("http status {}", head.status) });
                }
                _ => self.incoming = Incoming::Body(body),
            }
        }
        let Incoming::Body(body) = &mut self.incoming else { return Ok(None) };
        match body.data().await {
            Some(Ok(chunk)) => {
                let _ = body.flow_control().release_capacity(chunk.len());
                Ok(Some(chunk))
            }
            Some(Err(error)) => {
                self.incoming = Incoming::Ended;
                Err(Status::transport(error))
            }
            None => {
                let trailers = body.trailers().await;
                self.incoming = Incoming::Ended;
                match trailers.map_err(Status::transport)?.as_ref().and_then(Status::from_headers) {
                    Some(Ok(())) => Ok(None),
                    Some(Err(status)) => Err(status),
                    None => Err(Status { code: 13, message: "the call ended without a status".into() }),
                }
            }
        }
    }

    /// Waits for the end of the call, ignoring what still comes.
    pub async fn finish(&mut self) -> Result<(), Status> {
        while self.chunk().await?.is_some() {}
        Ok(())
    }
}

fn is_one_message(chunk: &[u8]) -> bool {
    chunk.len() >= PREFIX_BYTES
        && chunk[0] == 0
        && (&chunk[1..PREFIX_BYTES]).get_u32() as usize == chunk.len() - PREFIX_BYTES
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
