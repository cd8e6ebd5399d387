//! From headers of HTTP to metadata of a call.
//!
//! `Authorization` goes as it is; `Grpc-Metadata-X` as `x`; the headers that every browser and tool
//! sends as `grpcgateway-<name>`, and `Grpc-Timeout` is the deadline. Others stay outside.
//!
//! **Source**: `grpc-gateway/v2` `runtime/context.go` and `mux.go`.

use std::time::Duration;

use gateway::routes::Route;
use http::header::{AUTHORIZATION, HOST, HeaderName};
use http::{HeaderMap, Request};
use http2::{Field, Head};
use tokio::time::Instant;

use crate::grpc::{Caller, Code, Status};

const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED_HOST: &str = "x-forwarded-host";

/// What is passed on as `grpcgateway-<name>`.
const PERMANENT: [&str; 24] = [
    "accept",
    "accept-charset",
    "accept-language",
    "accept-ranges",
    "authorization",
    "cache-control",
    "content-type",
    "cookie",
    "date",
    "expect",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-schedule-tag-match",
    "if-unmodified-since",
    "max-forwards",
    "origin",
    "pragma",
    "referer",
    "user-agent",
    "via",
    "warning",
];

/// The head and the deadline of the call that a request stands for.
pub(super) fn of_request<B>(
    route: &Route,
    headers: &HeaderMap,
    request: &Request<B>,
    caller: &Caller,
) -> Result<(Head, Option<Instant>), Status> {
    let deadline = match headers.get(TIMEOUT).filter(|value| !value.is_empty()) {
        None => None,
        Some(value) => {
            let text = String::from_utf8_lossy(value.as_bytes());
            let wrong = || Status::new(Code::InvalidArgument, format!("invalid grpc-timeout: {text}"));
            deadline(&text).ok_or_else(wrong)?
        }
    };
    let mut head = pairs(Head::request("POST", "http", "", &route.method), headers);
    let host = headers.get(FORWARDED_HOST).or_else(|| headers.get(HOST)).map(|host| host.as_bytes());
    let host = host.or_else(|| request.uri().authority().map(|authority| authority.as_str().as_bytes()));
    if let Some(host) = host {
        head = head.with(Field::literal(FORWARDED_HOST, host));
    }
    let mut senders: Vec<String> = headers
        .get_all(FORWARDED_FOR)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .collect();
    senders.extend(caller.peer().address.map(|address| address.ip().to_string()));
    if !senders.is_empty() {
        head = head.with(Field::literal(FORWARDED_FOR, senders.join(", ")));
    }
    Ok((head, deadline))
}

/// Adds what headers say to a head.
pub(super) fn pairs(mut head: Head, headers: &HeaderMap) -> Head {
    for (name, value) in headers {
        // Only text: what else is there gRPC could not carry.
        if !value.as_bytes().iter().all(|byte| matches!(byte, b' '..=b'~')) {
            continue;
        }
        if name == AUTHORIZATION {
            head = head.with(Field::literal("authorization", value.as_bytes()));
        }
        let name = name.as_str();
        if let Some(rest) = name.strip_prefix("grpc-metadata-") {
            head = head.with(Field::literal(rest, value.as_bytes()));
        } else if PERMANENT.contains(&name) {
            head = head.with(Field::literal(format!("grpcgateway-{name}"), value.as_bytes()));
        }
    }
    head
}

/// `5S`, `-1m`: a number and its unit. Nothing for a malformed one; no deadline for zero, and for one
/// beyond what the clock can say.
fn deadline(text: &str) -> Option<Option<Instant>> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let nanos: u64 = match unit {
        "H" => 3_600_000_000_000,
        "M" => 60_000_000_000,
        "S" => 1_000_000_000,
        "m" => 1_000_000,
        "u" => 1_000,
        "n" => 1,
        _ => return None,
    };
    let number: i64 = number.parse().ok()?;
    let now = Instant::now();
    Some(match number {
        0 => None,
        // Over before it began.
        ..0 => Some(now),
        _ => now.checked_add(Duration::from_nanos(nanos.saturating_mul(number.unsigned_abs()))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_become_metadata() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "abc"),
            ("grpc-metadata-hasleader", "true"),
            ("accept", "*/*"),
            ("x-other", "no"),
            ("user-agent", "curl"),
        ] {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        headers.append("grpc-metadata-odd", http::HeaderValue::from_bytes(b"\xff").unwrap());
        let head = pairs(Head::trailers(), &headers);
        let get = |name| head.get(name).map(|value| String::from_utf8_lossy(value).into_owned());
        assert_eq!(get("authorization").as_deref(), Some("abc"));
        assert_eq!(get("grpcgateway-authorization").as_deref(), Some("abc"));
        assert_eq!(get("hasleader").as_deref(), Some("true"));
        assert_eq!(get("grpcgateway-accept").as_deref(), Some("*/*"));
        assert_eq!(get("grpcgateway-user-agent").as_deref(), Some("curl"));
        assert_eq!((get("x-other"), get("odd"), get("accept")), (None, None, None));
    }

    #[test]
    fn timeouts() {
        for wrong in ["", "5", "S", "5x", "x5S", "5é"] {
            assert_eq!(deadline(wrong), None, "{wrong}");
        }
        assert_eq!(deadline("0S"), Some(None));
        assert!(deadline("-5S").unwrap().unwrap() <= Instant::now());
        assert!(deadline("5S").unwrap().unwrap() > Instant::now() + Duration::from_secs(4));
    }
}
