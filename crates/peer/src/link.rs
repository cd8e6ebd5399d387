//! A client's HTTP/1.1 connection to one peer: kept between requests, dialed again when needed.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout};

use crate::net::{Dialer, Timed};
use crate::url::PeerUrl;

/// A connection that was silent for longer is not used again: the other side closes it after 5 s.
const MAX_IDLE: Duration = Duration::from_millis(4500);

/// Body of a request.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A body that is there already.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No connection.
    #[error("{0}")]
    Dial(io::Error),
    /// The connection broke or spoke no HTTP.
    #[error("{}", chain(.0))]
    Http(#[from] hyper::Error),
    /// No answer in time.
    #[error("request to {0} timed out")]
    Timeout(String),
    /// More of an answer than is taken.
    #[error("the answer of {0} is too long")]
    TooLong(String),
}

/// An error with its causes.
fn chain(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

/// How long what may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkLimits {
    /// A single write.
    pub(crate) write: Duration,
    /// From the request to the head of the response.
    pub(crate) response: Duration,
}

/// See the module.
pub(crate) struct Link {
    dialer: Dialer,
    limits: LinkLimits,
    open: Option<Open>,
}

struct Open {
    url: PeerUrl,
    sender: SendRequest<Body>,
    used: Instant,
}

impl Link {
    pub(crate) fn new(dialer: Dialer, limits: LinkLimits) -> Self {
        Self { dialer, limits, open: None }
    }

    /// Sends a request and waits for the head of the answer. `make` is called again if a kept
    /// connection turns out to be dead.
    pub(crate) async fn send(
        &mut self,
        url: &PeerUrl,
        make: impl Fn() -> Request<Body>,
    ) -> Result<Response<Incoming>, LinkError> {
        if let Some(response) = self.send_on_kept(url, &make).await {
            return response;
        }
        let mut open = self.dial(url).await?;
        let response = self.exchange(&mut open.sender, url, make()).await;
        self.keep(open, &response);
        response
    }

    /// `None` if there is no connection to use, or it broke before an answer.
    async fn send_on_kept(
        &mut self,
        url: &PeerUrl,
        make: &impl Fn() -> Request<Body>,
    ) -> Option<Result<Response<Incoming>, LinkError>> {
        let mut open = self.open.take().filter(|open| open.url == *url && open.used.elapsed() < MAX_IDLE)?;
        open.sender.ready().await.ok()?;
        let response = self.exchange(&mut open.sender, url, make()).await;
        if matches!(response, Err(LinkError::Http(_))) {
            return None;
        }
        self.keep(open, &response);
        Some(response)
    }

    fn keep(&mut self, mut open: Open, response: &Result<Response<Incoming>, LinkError>) {
        if response.is_ok() {
            open.used = Instant::now();
            self.open = Some(open);
        }
    }

    async fn exchange(
        &self,
        sender: &mut SendRequest<Body>,
        url: &PeerUrl,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, LinkError> {
        match timeout(self.limits.response, sender.send_request(request)).await {
            Ok(response) => Ok(response?),
            Err(_) => Err(LinkError::Timeout(url.to_string())),
        }
    }

    async fn dial(&self, url: &PeerUrl) -> Result<Open, LinkError> {
        let io = self.dialer.dial(url).await.map_err(LinkError::Dial)?;
        let io = TokioIo::new(Timed::new(io, self.limits.write));
        let (sender, connection) = Builder::new().title_case_headers(true).handshake(io).await?;
        // It ends with the connection, at the latest when sender and answer are dropped. Errors
        // reach whoever waits for the answer.
        tokio::spawn(connection);
        Ok(Open { url: url.clone(), sender, used: Instant::now() })
    }

    /// Gives the connection up.
    pub(crate) fn close(&mut self) {
        self.open = None;
    }
}

/// The whole body of an answer, at most `limit` bytes of it, each piece within `patience`.
pub(crate) async fn read_body(
    mut body: Incoming,
    limit: usize,
    patience: Duration,
    url: &PeerUrl,
) -> Result<Bytes, LinkError> {
    let mut whole = BytesMut::new();
    loop {
        let frame = timeout(patience, body.frame()).await.map_err(|_| LinkError::Timeout(url.to_string()))?;
        let Some(frame) = frame else { return Ok(whole.freeze()) };
        if let Ok(data) = frame?.into_data() {
            if whole.len() + data.len() > limit {
                return Err(LinkError::TooLong(url.to_string()));
            }
            whole.extend_from_slice(&data);
        }
    }
}
