//! HTTP on the proxy's ports: the cluster's health and metrics, and the proxy's own.
//!
//! | path | |
//! |---|---|
//! | `/health` | a read through the way up |
//! | `/metrics` | those of one endpoint, the same one as long as it answers |
//! | `/proxy/health` | a read and a watch through this proxy's own address |
//! | `/proxy/metrics` | ours |
//! | `/debug/pprof/` | profiles of this process, with `--enable-pprof` and not on `--metrics-addr` |
//!
//! **Source**: etcd `server/proxy/grpcproxy/{health,metrics}.go`.

use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use api::grpc::{HttpBody, Peer};
use bytes::Bytes;
use client::{Address, Client, Encryption, Endpoint};
use http::header::{ALLOW, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::TokioIo;
use proto::etcdserverpb as pb;
use server::log;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::counters::count;
use super::{Proxied, Proxy};

const READ: Duration = Duration::from_secs(1);
const WATCH: Duration = Duration::from_secs(3);
/// Patience with an endpoint that is asked for its metrics.
const FETCH: Duration = Duration::from_secs(10);
const PROFILES: &str = "/debug/pprof";
/// What is read for a look at the health.
const KEY: &str = "a";

const PLAIN_TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const NO_SNIFF: HeaderName = HeaderName::from_static("x-content-type-options");

/// Makes the text of `/proxy/metrics`.
pub type MetricsText = Box<dyn Fn() -> String + Send + Sync>;

/// Where the cluster's metrics come from.
pub(crate) struct Metrics {
    endpoints: Vec<Endpoint>,
    /// The endpoint that answered last.
    current: AtomicUsize,
    /// For endpoints over HTTPS; without it the CAs of the system count.
    connector: Option<tls::Connector>,
}

impl Metrics {
    pub(crate) fn new(endpoints: &[String], connector: Option<tls::Connector>) -> Self {
        let endpoints: Vec<_> = endpoints.iter().map(|text| Endpoint::parse(text)).collect();
        let any = RandomState::new().hash_one(0_u8) as usize;
        let current = AtomicUsize::new(any % endpoints.len().max(1));
        Self { endpoints, current, connector }
    }

    async fn fetch(&self, secure: bool) -> Option<Bytes> {
        let first = self.current.load(Ordering::Relaxed);
        for step in 0..self.endpoints.len() {
            let number = (first + step) % self.endpoints.len();
            let endpoint = &self.endpoints[number];
            match timeout(FETCH, self.fetch_from(endpoint, secure)).await {
                Ok(Ok(text)) => {
                    self.current.store(number, Ordering::Relaxed);
                    return Some(text);
                }
                Ok(Err(error)) => log::warn!(
                    "failed to fetch metrics",
                    "endpoint" => &endpoint.text,
                    "error" => error.to_string()
                ),
                Err(_) => log::warn!("failed to fetch metrics in time", "endpoint" => &endpoint.text),
            }
        }
        None
    }

    async fn fetch_from(&self, endpoint: &Endpoint, secure: bool) -> io::Result<Bytes> {
        let encrypted = match endpoint.encryption {
            Encryption::Always => true,
            Encryption::Never => false,
            Encryption::IfAsked => secure,
        };
        match &endpoint.address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                self.over(stream, endpoint, encrypted).await
            }
            Address::Unix(path) => self.over(UnixStream::connect(path).await?, endpoint, encrypted).await,
        }
    }

    async fn over<S>(&self, stream: S, endpoint: &Endpoint, encrypted: bool) -> io::Result<Bytes>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        if !encrypted {
            return get(stream, &endpoint.authority).await;
        }
        let connector = match &self.connector {
            Some(connector) => connector.clone(),
            None => {
                let report = Arc::new(|_: &tls::Warning| {});
                tls::Connector::new(&tls::Settings::default(), &["http/1.1"], report)
                    .map_err(io::Error::other)?
            }
        };
        get(connector.connect(stream, &endpoint.server_name).await?, &endpoint.authority).await
    }
}

async fn get<S>(stream: S, authority: &str) -> io::Result<Bytes>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let connection = tokio::spawn(connection);
    let request = Request::get("/metrics").header(HOST, authority).body(Empty::<Bytes>::new());
    let answer = async {
        let response = sender.send_request(request.map_err(io::Error::other)?).await;
        let body = response.map_err(io::Error::other)?.into_body();
        Ok(body.collect().await.map_err(io::Error::other)?.to_bytes())
    };
    let answer = answer.await;
    connection.abort();
    answer
}

/// Answers a request.
pub(crate) async fn answer<B>(service: &Proxied, request: Request<B>, peer: &Peer) -> Response<HttpBody> {
    let proxy = &service.proxy;
    match request.uri().path() {
        "/metrics" => match proxy.cluster_metrics.fetch(peer.secure).await {
            Some(text) => typed(StatusCode::OK, HeaderValue::from_static("text/plain; version=0.0.4"), text),
            None => error(StatusCode::INTERNAL_SERVER_ERROR, "Internal server error"),
        },
        "/proxy/metrics" => {
            let content_type = HeaderValue::from_static(server::metrics::CONTENT_TYPE);
            typed(StatusCode::OK, content_type, (proxy.own_metrics)())
        }
        "/health" | "/proxy/health" if request.method() != Method::GET => {
            log::warn!("/health error", "status-code" => 405_u64);
            let mut refusal = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
            refusal
        }
        "/health" => verdict(proxy, cluster_sickness(proxy).await),
        "/proxy/health" => verdict(proxy, own_sickness(proxy.itself.as_ref()).await),
        path if service.has_profiles && is_profile(path) => {
            api::http::debug_page(Arc::new(server::profile::answer), request.uri()).await
        }
        _ => error(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

fn is_profile(path: &str) -> bool {
    path.strip_prefix(PROFILES).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn verdict(proxy: &Proxy, sickness: Option<String>) -> Response<HttpBody> {
    let Some(reason) = sickness else {
        count(&proxy.counters.health_success);
        log::debug!("/health OK", "status-code" => 200_u64);
        return typed(StatusCode::OK, PLAIN_TEXT, r#"{"health":"true","reason":""}"#);
    };
    count(&proxy.counters.health_failures);
    let text = format!(r#"{{"health":"false","reason":{}}}"#, serde_json::Value::String(reason));
    log::warn!("/health error", "output" => &text, "status-code" => 503_u64);
    error(StatusCode::SERVICE_UNAVAILABLE, &text)
}

async fn cluster_sickness(proxy: &Proxy) -> Option<String> {
    let client = proxy.upstream.client().with_timeout(READ);
    sickness(proxy.upstream.range(&client, look()).await)
}

/// A read and a watch through the address that clients use.
async fn own_sickness(itself: Option<&Client>) -> Option<String> {
    let Some(client) = itself else { return Some("no connection to proxy".to_owned()) };
    if let Some(reason) = sickness(client.with_timeout(READ).call(look()).await) {
        return Some(reason);
    }
    let request = pb::WatchCreateRequest { key: KEY.into(), ..Default::default() };
    let mut watch = client.watcher(false).watch_and_notify(request);
    match timeout(WATCH, watch.next()).await {
        Ok(_) => None,
        Err(_) => Some("WATCH TIMEOUT".to_owned()),
    }
}

fn look() -> pb::RangeRequest {
    pb::RangeRequest { key: KEY.into(), ..Default::default() }
}

/// A refusal is a sign of health as well.
fn sickness<T>(outcome: Result<T, client::Error>) -> Option<String> {
    match outcome {
        Err(error) if !error.is_server("permission denied") => Some(format!("GET ERROR:{error}")),
        _ => None,
    }
}

fn typed(status: StatusCode, content_type: HeaderValue, text: impl Into<Bytes>) -> Response<HttpBody> {
    let body = Full::new(text.into()).map_err(|never: Infallible| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

fn error(status: StatusCode, text: &str) -> Response<HttpBody> {
    let mut response = typed(status, PLAIN_TEXT, format!("{text}\n"));
    response.headers_mut().insert(NO_SNIFF, HeaderValue::from_static("nosniff"));
    response
}
