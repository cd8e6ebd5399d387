//! What a caller sends beside the message: headers, deadline, address.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http2::Head;
use tokio::time::Instant;

/// The caller's end of a connection.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// Address of the caller; `None` on a unix socket.
    pub address: Option<SocketAddr>,
    /// Our end; `None` on a unix socket.
    pub own: Option<SocketAddr>,
    /// The caller is a program on this machine: it came by a unix socket, or both ends of the
    /// connection have loopback addresses.
    pub is_local: bool,
    /// Common name of a verified client certificate.
    pub common_name: Option<String>,
    /// Whether the connection is encrypted.
    pub secure: bool,
}

impl Peer {
    /// A caller by TCP. `own` is our end of the connection.
    pub fn tcp(address: SocketAddr, own: Option<SocketAddr>) -> Self {
        let is_loopback = |address: SocketAddr| address.ip().to_canonical().is_loopback();
        let is_local = is_loopback(address) && own.is_some_and(is_loopback);
        Self { address: Some(address), own, is_local, ..Self::default() }
    }
}

/// Everything about one call that is not its message.
#[derive(Clone, Debug)]
pub struct CallContext {
    /// Request headers, reserved ones included.
    pub headers: Rc<Head>,
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
    /// The caller.
    pub peer: Rc<Peer>,
}

impl CallContext {
    /// A context without metadata, for calls that the server makes itself.
    pub fn local() -> Self {
        Self { headers: Rc::default(), deadline: None, peer: Rc::default() }
    }

    /// The first value of a metadata key as raw bytes.
    pub fn metadata(&self, key: &str) -> Option<&[u8]> {
        self.headers.get(key)
    }

    /// The caller asked to be refused or cut off while there is no leader.
    pub fn requires_leader(&self) -> bool {
        self.metadata("hasleader") == Some(b"true")
    }

    /// The auth token: `token` first, else `authorization`, without `Bearer `.
    ///
    /// What is no text is no token of anybody: it comes as the empty text.
    pub fn token(&self) -> Option<&str> {
        let value = self.metadata("token").or_else(|| self.metadata("authorization"))?;
        let value = std::str::from_utf8(value).unwrap_or_default();
        Some(value.strip_prefix("Bearer ").unwrap_or(value))
    }
}

/// Reads a `grpc-timeout` header; the error is what follows `malformed grpc-timeout: `.
pub(crate) fn parse_timeout(value: &[u8]) -> Result<Duration, String> {
    let text = String::from_utf8_lossy(value);
    if value.len() < 2 {
        return Err(format!("transport: timeout string is too short: {text:?}"));
    }
    if value.len() > 9 {
        return Err(format!("transport: timeout string is too long: {text:?}"));
    }
    let (digits, unit) = value.split_at(value.len() - 1);
    let nanos_per_unit: u64 = match unit {
        b"H" => 3_600_000_000_000,
        b"M" => 60_000_000_000,
        b"S" => 1_000_000_000,
        b"m" => 1_000_000,
        b"u" => 1_000,
        b"n" => 1,
        _ => return Err(format!("transport: timeout unit is not recognized: {text:?}")),
    };
    if !digits.iter().all(u8::is_ascii_digit) {
        let digits = String::from_utf8_lossy(digits);
        return Err(format!("strconv.ParseUint: parsing {digits:?}: invalid syntax"));
    }
    let number = digits.iter().fold(0_u64, |number, digit| number * 10 + u64::from(digit - b'0'));
    Ok(Duration::from_nanos(number.saturating_mul(nanos_per_unit).min(i64::MAX as u64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_of_a_local_connection_are_loopback() {
        let is_local =
            |address: &str, own: &str| Peer::tcp(address.parse().unwrap(), own.parse().ok()).is_local;
        assert!(is_local("127.0.0.1:1", "127.0.0.1:2379") && is_local("[::1]:1", "[::1]:2379"));
        assert!(is_local("[::ffff:127.0.0.2]:1", "127.0.0.1:2379"));
        assert!(!is_local("192.0.2.1:1", "127.0.0.1:2379") && !is_local("127.0.0.1:1", "192.0.2.1:2379"));
        assert!(!is_local("127.0.0.1:1", "gone"));
    }

    #[test]
    fn timeouts() {
        assert_eq!(parse_timeout(b"5S"), Ok(Duration::from_secs(5)));
        assert_eq!(parse_timeout(b"4999999u"), Ok(Duration::from_micros(4_999_999)));
        assert_eq!(parse_timeout(b"99999999H"), Ok(Duration::from_nanos(i64::MAX as u64)));
        for junk in [&b""[..], b"S", b"5", b"5X", b"-1S", b"+1S", b"123456789S", b"\xff\xffS"] {
            assert!(parse_timeout(junk).is_err(), "{junk:?}");
        }
    }

    #[test]
    fn tokens_lose_the_bearer_prefix() {
        let mut context = CallContext::local();
        assert_eq!(context.token(), None);
        let bearer = http2::Field::new("authorization", "Bearer abc.1");
        context.headers = Rc::new(Head::trailers().with(bearer.clone()));
        assert_eq!(context.token(), Some("abc.1"));
        context.headers = Rc::new(Head::trailers().with(bearer).with(http2::Field::new("token", "bearer x")));
        assert_eq!(context.token(), Some("bearer x"));
    }
}
