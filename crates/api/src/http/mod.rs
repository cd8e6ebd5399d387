//! HTTP/1 on the client port: health, version, metrics, and who may ask.
//!
//! `/v3/...` is the JSON gateway's (`crate::json`), if there is one.
//!
//! **Source**: etcd `server/etcdserver/api/etcdhttp`, `server/embed/serve.go`.

mod access;
mod debug;
mod health;

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use types::CompatVersion;

pub use access::{AccessControl, Allowed};
pub use debug::{DebugPage, DebugPages, DebugRequest, debug_page};
pub use health::HealthCounters;

use crate::grpc::{HttpBody, Peer};
use crate::member::Member;

const NO_SNIFF: HeaderName = HeaderName::from_static("x-content-type-options");
const PLAIN_TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// The form of `/metrics`: Prometheus text, as etcd 3.7 names it.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

/// Makes a text when it is asked for.
pub type TextSource = Box<dyn Fn() -> String + Send + Sync>;

/// What the HTTP endpoints need beside the member.
pub struct HttpSide {
    /// Who may ask.
    pub access: AccessControl,
    /// The body of `/metrics`.
    pub metrics: TextSource,
    /// The body of `/debug/vars`, a JSON object.
    pub debug_vars: TextSource,
    /// Pages below `/debug/` beside the variables, if there are any.
    pub debug_pages: Option<DebugPages>,
    /// Results of health checks, for metrics; listeners may share them.
    pub health: Arc<HealthCounters>,
    /// Serve the JSON gateway: `--enable-grpc-gateway`.
    pub json_gateway: bool,
    /// Serve `/metrics` and the health endpoints and nothing else: `--listen-metrics-urls`.
    pub metrics_and_health_only: bool,
}

impl HttpSide {
    /// Endpoints open to everybody, without texts of their own.
    pub fn new(metrics: TextSource, debug_vars: TextSource) -> Self {
        Self {
            access: AccessControl::default(),
            metrics,
            debug_vars,
            debug_pages: None,
            health: Arc::default(),
            json_gateway: true,
            metrics_and_health_only: false,
        }
    }

    /// The path that a request asks the JSON gateway for, if it does. Paths that have to be cleaned
    /// first are not among them.
    pub(crate) fn json_path<B>(&self, request: &Request<B>) -> Option<String> {
        use gateway::routes::{OLDER_PREFIX, PREFIX};
        if !self.json_gateway || self.metrics_and_health_only {
            return None;
        }
        let path = request.uri().path();
        let path = match path.strip_prefix(OLDER_PREFIX) {
            Some(rest) => format!("{PREFIX}{rest}"),
            None => path.to_owned(),
        };
        (path.starts_with(PREFIX) && clean_path(&path).is_none()).then_some(path)
    }

    /// Answers a request.
    pub async fn answer<M: Member, B>(
        &self,
        member: &M,
        request: Request<B>,
        peer: &Peer,
    ) -> Response<HttpBody> {
        if let Some(refusal) = self.access.refuse(&request, peer.secure) {
            return refusal;
        }
        let mut response = if request.method() == Method::OPTIONS {
            Response::new(body(""))
        } else {
            self.route(member, &request).await
        };
        self.access.add_cors(request.headers(), response.headers_mut());
        response
    }

    async fn route<M: Member, B>(&self, member: &M, request: &Request<B>) -> Response<HttpBody> {
        let (path, compat) = (request.uri().path(), member.config().compat);
        if let Some(clean) = clean_path(path) {
            return redirect(request, &clean, compat);
        }
        if path == "/v3" && self.json_gateway && !self.metrics_and_health_only {
            return redirect(request, gateway::routes::PREFIX, compat);
        }
        match path {
            "/metrics" => {
                let content_type = HeaderValue::from_static(METRICS);
                typed(StatusCode::OK, content_type, (self.metrics)())
            }
            "/health" => match get_only(request) {
                Some(refusal) => refusal,
                None => self.health(member, request.uri()).await,
            },
            _ if path.starts_with("/livez") || path.starts_with("/readyz") => {
                self.probe(member, request).await
            }
            _ if self.metrics_and_health_only => not_found(),
            "/version" => get_only(request).unwrap_or_else(|| version(member)),
            "/debug/vars" => get_only(request).unwrap_or_else(|| {
                let content_type = HeaderValue::from_static("application/json; charset=utf-8");
                typed(StatusCode::OK, content_type, (self.debug_vars)())
            }),
            _ if path.starts_with("/debug/") => self.debug_page(request).await,
            _ => not_found(),
        }
    }
}

fn version<M: Member>(member: &M) -> Response<HttpBody> {
    let compat = member.config().compat;
    let cluster = member.shared().cluster().version();
    let cluster = cluster.map_or("not_decided".to_owned(), |version| version.to_string());
    let storage = member.storage_version().map_or("unknown".to_owned(), |version| version.to_string());
    let server = compat.server_version();
    // Versions hold digits, dots and the two words above: nothing to escape.
    let text = match compat {
        CompatVersion::V3_5 => format!(r#"{{"etcdserver":"{server}","etcdcluster":"{cluster}"}}"#),
        _ => format!(r#"{{"etcdserver":"{server}","etcdcluster":"{cluster}","storage":"{storage}"}}"#),
    };
    typed(StatusCode::OK, HeaderValue::from_static("application/json"), text)
}

/// The path without empty, `.` and `..` segments, if that is another path.
fn clean_path(path: &str) -> Option<String> {
    let mut clean: Vec<&str> = Vec::new();
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        match segment {
            "." => {}
            ".." => drop(clean.pop()),
            segment => clean.push(segment),
        }
    }
    let slash = if path.ends_with('/') && !clean.is_empty() { "/" } else { "" };
    let clean = format!("/{}{slash}", clean.join("/"));
    (path != clean && path != "*").then_some(clean)
}

/// As Go's router does it, whose newer releases keep the method; a page only where one may be shown.
fn redirect<B>(request: &Request<B>, path: &str, compat: CompatVersion) -> Response<HttpBody> {
    let target = match request.uri().query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let (status, text) = match compat {
        CompatVersion::V3_5 => (StatusCode::MOVED_PERMANENTLY, "Moved Permanently"),
        _ => (StatusCode::TEMPORARY_REDIRECT, "Temporary Redirect"),
    };
    let Ok(location) = HeaderValue::from_str(&target) else {
        return error(StatusCode::BAD_REQUEST, "400 Bad Request");
    };
    let mut response = match *request.method() {
        Method::GET | Method::HEAD => {
            let target = target.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            let target = target.replace('"', "&#34;").replace('\'', "&#39;");
            let page = format!("<a href=\"{target}\">{text}</a>.\n\n");
            typed(status, HeaderValue::from_static("text/html; charset=utf-8"), page)
        }
        _ => {
            let mut response = Response::new(body(""));
            *response.status_mut() = status;
            response
        }
    };
    response.headers_mut().insert(LOCATION, location);
    response
}

/// The refusal of any method but GET.
fn get_only<B>(request: &Request<B>) -> Option<Response<HttpBody>> {
    if request.method() == Method::GET {
        return None;
    }
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
    Some(response)
}

fn not_found() -> Response<HttpBody> {
    error(StatusCode::NOT_FOUND, "404 page not found")
}

pub(crate) fn body(text: impl Into<Bytes>) -> HttpBody {
    Full::new(text.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

fn typed(status: StatusCode, content_type: HeaderValue, text: impl Into<Bytes>) -> Response<HttpBody> {
    let mut response = Response::new(body(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// An error as Go's `http.Error` writes it: plain text and a newline.
pub(crate) fn error(status: StatusCode, text: &str) -> Response<HttpBody> {
    let mut response = typed(status, PLAIN_TEXT, format!("{text}\n"));
    response.headers_mut().insert(NO_SNIFF, HeaderValue::from_static("nosniff"));
    response
}

/// The decoded pairs of a query. Broken escapes stay as they are.
fn query_pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (unescape(name), unescape(value))
    })
}

fn unescape(text: &str) -> String {
    unescape_path(&text.replace('+', " "))
}

/// The text without escapes. Broken ones stay as they are.
pub(crate) fn unescape_path(text: &str) -> String {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let escaped = match (byte, behind) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        plain.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() { &behind[2..] } else { behind };
    }
    String::from_utf8_lossy(&plain).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned() {
        assert_eq!(clean_path("/health"), None);
        assert_eq!(clean_path("/"), None);
        assert_eq!(clean_path("//health").as_deref(), Some("/health"));
        assert_eq!(clean_path("/a/./b/../health/").as_deref(), Some("/a/health/"));
    }

    #[test]
    fn queries_are_decoded() {
        let pairs: Vec<_> = query_pairs("exclude=NO%53PACE&verbose&x=%zz+1&").collect();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(pairs, [pair("exclude", "NOSPACE"), pair("verbose", ""), pair("x", "%zz 1")]);
    }
}
