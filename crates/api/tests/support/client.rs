//! A raw gRPC client on `h2`, for looking at exact frames and texts.

#![allow(dead_code)]

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Request, StatusCode};
use prost::Message;
use tokio::net::TcpStream;

/// No test waits longer than this for anything.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

/// What came back for one call.
#[derive(Debug)]
pub struct Answer {
    pub http_status: StatusCode,
    pub headers: HeaderMap,
    pub messages: Vec<Bytes>,
    pub trailers: HeaderMap,
}

impl Answer {
    fn field(&self, name: &str) -> Option<String> {
        let value = self.trailers.get(name).or_else(|| self.headers.get(name))?;
        Some(value.to_str().unwrap().to_owned())
    }

    pub fn code(&self) -> u32 {
        self.field("grpc-status").expect("a status").parse().unwrap()
    }

    pub fn text(&self) -> String {
        self.field("grpc-message").unwrap_or_default()
    }

    /// The only message of a successful call.
    pub fn only<M: Message + Default>(&self) -> M {
        assert_eq!((self.code(), self.text()), (0, String::new()));
        assert_eq!(self.messages.len(), 1);
        M::decode(self.messages[0].clone()).unwrap()
    }
}

#[derive(Clone)]
pub struct Client {
    pub send: SendRequest<Bytes>,
}

pub fn frame(message: &impl Message) -> Bytes {
    raw_frame(0, &message.encode_to_vec())
}

pub fn raw_frame(flag: u8, message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(flag);
    bytes.put_u32(message.len() as u32);
    bytes.put_slice(message);
    bytes.freeze()
}

pub fn request(path: &str) -> http::request::Builder {
    Request::post(format!("http://test{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        // The client's own guard against small frames must not hide how the server behaves.
        let mut builder = h2::client::Builder::new();
        builder.data_frame_budget(1 << 30);
        Self::connect_with(address, &mut builder).await
    }

    /// A client on a connection of any kind.
    pub async fn over<IO>(io: IO) -> Self
    where
        IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = h2::client::Builder::new();
        let (send, connection) = within(builder.data_frame_budget(1 << 30).handshake(io)).await.unwrap();
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Self { send }
    }

    pub async fn connect_with(address: SocketAddr, builder: &mut h2::client::Builder) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        let (send, connection) = within(builder.handshake(socket)).await.unwrap();
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Self { send }
    }

    /// Sends the pieces as one DATA frame each and reads everything that comes back.
    pub async fn call(&self, head: http::request::Builder, pieces: Vec<Bytes>) -> Answer {
        within(self.try_call(head, pieces)).await.expect("an answer")
    }

    pub async fn try_call(
        &self,
        head: http::request::Builder,
        pieces: Vec<Bytes>,
    ) -> Result<Answer, h2::Error> {
        let mut ready = self.send.clone().ready().await?;
        let (response, mut body) = ready.send_request(head.body(()).unwrap(), pieces.is_empty())?;
        let last = pieces.len();
        for (index, piece) in pieces.into_iter().enumerate() {
            // The server may have answered and closed the stream already.
            let _ = body.send_data(piece, index + 1 == last);
        }
        collect(response.await?).await
    }

    pub async fn unary(&self, path: &str, message: &impl Message) -> Answer {
        self.call(request(path), vec![frame(message)]).await
    }
}

pub async fn collect(response: http::Response<h2::RecvStream>) -> Result<Answer, h2::Error> {
    let (head, mut body) = response.into_parts();
    let mut bytes = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        bytes.extend_from_slice(&data);
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    let mut messages = Vec::new();
    let mut bytes = bytes.freeze();
    while !bytes.is_empty() {
        assert_eq!(bytes.get_u8(), 0, "answers are not compressed");
        let len = bytes.get_u32() as usize;
        messages.push(bytes.split_to(len));
    }
    Ok(Answer { http_status: head.status, headers: head.headers, messages, trailers })
}

/// The answers of a stream, one message at a time.
pub struct Incoming {
    body: h2::RecvStream,
    bytes: BytesMut,
}

impl Incoming {
    pub fn new(body: h2::RecvStream) -> Self {
        Self { body, bytes: BytesMut::new() }
    }

    pub async fn next<M: Message + Default>(&mut self) -> Option<M> {
        loop {
            if self.bytes.len() >= 5 {
                let len = u32::from_be_bytes(self.bytes[1..5].try_into().unwrap()) as usize;
                if self.bytes.len() >= 5 + len {
                    self.bytes.advance(5);
                    return Some(M::decode(self.bytes.split_to(len).freeze()).unwrap());
                }
            }
            match within(self.body.data()).await {
                Some(Ok(data)) => {
                    self.body.flow_control().release_capacity(data.len()).unwrap();
                    self.bytes.extend_from_slice(&data);
                }
                Some(Err(error)) => panic!("the stream broke: {error}"),
                None => return None,
            }
        }
    }

    /// The trailers' status, after the last message.
    pub async fn status(&mut self) -> (u32, String) {
        let trailers = within(self.body.trailers()).await.unwrap().expect("trailers");
        let text =
            |name| trailers.get(name).map(|value: &http::HeaderValue| value.to_str().unwrap().to_owned());
        (text("grpc-status").unwrap().parse().unwrap(), text("grpc-message").unwrap_or_default())
    }
}
