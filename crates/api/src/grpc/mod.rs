//! A thin gRPC server on the crate `http2`, and HTTP/1 beside it on the same port.
//!
//! Purpose: as little between a socket and a handler as can be. Deliberately absent: middleware,
//! boxed handlers, response compression.
//!
//! ```text
//! socket -> [TLS ->] connection (preface? HTTP/2 : HTTP/1)
//!             HTTP/2 -> Call (headers checked) -> Service::grpc: match on the path
//!                         -> Call::unary | server_stream | bidi: one local task per call
//!                       with TLS also requests that are not gRPC -> Service::http
//!             HTTP/1 -> Service::http
//!             Service::http -> Caller::call -> Service::grpc: calls that begin in here
//! ```

mod call;
mod caller;
mod connection;
mod inner;
mod keepalive;
mod leftover;
mod lifecycle;
mod message;
mod metadata;
mod metrics;
mod observe;
mod secure;
mod server;
mod status;
mod web;

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;

pub use call::{Call, Requests, Responses};
pub use caller::Caller;
#[cfg(test)]
pub(crate) use inner::loopback;
pub use inner::{InnerCall, InnerRequests};
pub use leftover::Http1Body;
pub use message::{PREFIX_LEN, Pieces, Reply, write_prefix};
pub use metadata::{CallContext, Peer};
pub use metrics::{HANDLING_BOUNDS, Handling, MethodCounts, MethodId, MethodInfo, Metrics, Shape};
pub use observe::{
    Ended, Found, Observation, Observer, SentReply, Span, Stages, TRACE_THRESHOLD, note_found, note_stages,
    wants_stages,
};
pub use secure::Security;
pub use server::{Listener, Serving, Workers, serve, serve_counted, serve_io};
pub use status::{Code, Status};
pub use web::RequestBody;

/// Body of an HTTP/1 answer.
pub type HttpBody = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// What answers the calls of a listener.
pub trait Service: 'static {
    /// The methods, for counting; a [`MethodId`] is an index into this table.
    const METHODS: &'static [MethodInfo];

    /// Chooses the handler of a call. Runs on the connection's thread and must not block; usually a
    /// `match` on [`Call::path`].
    fn grpc(self: &Rc<Self>, call: Call);

    /// Answers a request that is not gRPC.
    fn http(
        self: Rc<Self>,
        request: Request<RequestBody>,
        caller: Caller,
    ) -> impl Future<Output = Response<HttpBody>>;
}

/// Which protocols a listener offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocols {
    /// gRPC over HTTP/2 and HTTP/1.
    #[default]
    Both,
    /// gRPC only: client listeners when `--listen-client-http-urls` is given.
    Grpc,
    /// HTTP/1 only: metrics listeners and `--listen-client-http-urls`.
    Http,
}

/// Limits of a listener.
#[derive(Clone, Debug)]
pub struct Options {
    /// Longest request message: `--max-request-bytes` plus 512 KiB.
    pub max_receive_bytes: usize,
    /// `--max-concurrent-streams`, per connection.
    pub max_concurrent_streams: u32,
    /// Connections accepted at the same time. When there are more, those that have not asked for
    /// anything yet make room, oldest first; without such, newcomers wait.
    pub max_connections: usize,
    /// A connection is pinged this often.
    pub keepalive_interval: Duration,
    /// A ping has to be answered in this time.
    pub keepalive_timeout: Duration,
    /// Clients that ping more often than this are sent away; zero lets them.
    pub keepalive_min_time: Duration,
    /// Protocols offered.
    pub protocols: Protocols,
    /// Encryption; without it connections are plain text.
    pub security: Option<Security>,
    /// Who looks on.
    pub observation: Option<Observation>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_receive_bytes: 1_572_864 + 524_288,
            max_concurrent_streams: u32::MAX,
            max_connections: 1 << 20,
            keepalive_interval: Duration::from_secs(2 * 60 * 60),
            keepalive_timeout: Duration::from_secs(20),
            keepalive_min_time: Duration::from_secs(5),
            protocols: Protocols::Both,
            security: None,
            observation: None,
        }
    }
}
