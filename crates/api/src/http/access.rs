//! Host whitelist and CORS.
//!
//! **Source**: etcd `server/embed/serve.go`, `server/etcdserver/api/...` access controller.

use std::collections::BTreeSet;

use http::header::{HOST, HeaderName, ORIGIN};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};

use super::error;
use crate::grpc::HttpBody;

const ALLOW_METHODS: HeaderName = HeaderName::from_static("access-control-allow-methods");
const ALLOW_ORIGIN: HeaderName = HeaderName::from_static("access-control-allow-origin");
const ALLOW_HEADERS: HeaderName = HeaderName::from_static("access-control-allow-headers");

/// A list in which `*` stands for everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Allowed {
    /// Everything.
    #[default]
    Any,
    /// These only.
    These(BTreeSet<String>),
}

impl Allowed {
    /// Reads a flag's list; an empty one allows everything.
    pub fn from_list<T: Into<String>>(list: impl IntoIterator<Item = T>) -> Self {
        let set: BTreeSet<String> = list.into_iter().map(Into::into).collect();
        if set.is_empty() || set.contains("*") { Self::Any } else { Self::These(set) }
    }

    fn allows(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::These(names) => names.contains(name),
        }
    }
}

/// Who may use the HTTP endpoints.
#[derive(Clone, Debug, Default)]
pub struct AccessControl {
    /// `--host-whitelist`.
    pub hosts: Allowed,
    /// `--cors`.
    pub origins: Allowed,
}

impl AccessControl {
    /// The refusal of a request for a host name that is not ours. On an encrypted connection any name
    /// will do: the certificate says who we are.
    pub(crate) fn refuse<B>(&self, request: &Request<B>, secure: bool) -> Option<Response<HttpBody>> {
        let header = request.headers().get(HOST).and_then(|host| host.to_str().ok());
        let host = request.uri().host().or_else(|| header.map(without_port));
        match host {
            None if request.version() >= Version::HTTP_11 => {
                let text = "400 Bad Request: missing required Host header";
                Some(error(StatusCode::BAD_REQUEST, text))
            }
            host => {
                let host = host.unwrap_or_default();
                if secure || self.hosts.allows(host) {
                    return None;
                }
                tracing::warn!(host, "rejecting HTTP request to prevent DNS rebinding attacks");
                let text = format!(
                    "The request names the host {host:?}, which this server is not known by.\n\
                     Use TLS, or start the server with --host-whitelist {host:?}.\n\
                     This protects against DNS rebinding (CVE-2018-5702)."
                );
                Some(error(StatusCode::MISDIRECTED_REQUEST, &text))
            }
        }
    }

    /// Adds the CORS headers that the origin of a request gets.
    pub(crate) fn add_cors(&self, request: &HeaderMap, response: &mut HeaderMap) {
        let origin = match &self.origins {
            Allowed::Any => HeaderValue::from_static("*"),
            these => match request.get(ORIGIN) {
                Some(origin) if origin.to_str().is_ok_and(|origin| these.allows(origin)) => origin.clone(),
                _ => return,
            },
        };
        response.insert(ALLOW_METHODS, HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE"));
        response.insert(ALLOW_ORIGIN, origin);
        response.insert(ALLOW_HEADERS, HeaderValue::from_static("accept, content-type, authorization"));
    }
}

/// The host of a `Host` header; brackets of an IPv6 address go as well.
fn without_port(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[')
        && let Some((address, _)) = rest.split_once(']')
    {
        return address;
    }
    match host.rsplit_once(':') {
        Some((name, _)) if !name.contains(':') => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_stripped() {
        for (host, expected) in [("a.b:1", "a.b"), ("a", "a"), ("[::1]:2379", "::1"), ("::1", "::1")] {
            assert_eq!(without_port(host), expected);
        }
    }

    #[test]
    fn lists_with_a_star_allow_everything() {
        assert_eq!(Allowed::from_list(["a", "*"]), Allowed::Any);
        assert_eq!(Allowed::from_list(Vec::<String>::new()), Allowed::Any);
        assert!(!Allowed::from_list(["a"]).allows("b"));
    }
}
