//! Endpoints as users write them: `host:port`, `http://host:port`, `unix:///path`, `unix:path`.

use std::fmt;
use std::path::PathBuf;

/// An endpoint that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// The endpoint asks for TLS.
    #[error("endpoint {0}: TLS is not supported yet, use http:// or unix://")]
    Tls(String),
}

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `host:port`; a name is resolved at each attempt.
    Tcp(String),
    /// A path in the file system.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(text) => f.write_str(text),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// One parsed endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// As the user wrote it.
    pub text: String,
    /// Where it leads.
    pub address: Address,
    /// The `:authority` of requests.
    pub authority: String,
}

impl Endpoint {
    /// Reads an endpoint. Only a wish for TLS is refused here; an address that leads nowhere
    /// shows when connecting, as it may lead somewhere later.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        let tcp = |rest: &str| {
            let host = rest.split(['/', '?']).next().unwrap_or_default().to_owned();
            Self { text: text.to_owned(), address: Address::Tcp(host.clone()), authority: host }
        };
        let unix = |path: &str| Self {
            text: text.to_owned(),
            address: Address::Unix(PathBuf::from(path)),
            authority: "localhost".to_owned(),
        };
        match text.split_once(':') {
            Some(("http", rest)) if rest.starts_with("//") => Ok(tcp(&rest[2..])),
            Some(("https", rest)) if rest.starts_with("//") => Err(EndpointError::Tls(text.to_owned())),
            Some(("unixs", _)) => Err(EndpointError::Tls(text.to_owned())),
            Some(("unix", rest)) => Ok(unix(rest.strip_prefix("//").unwrap_or(rest))),
            _ => Ok(tcp(text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let address = |text: &str| Endpoint::parse(text).map(|endpoint| endpoint.address);
        assert_eq!(address("127.0.0.1:2379"), Ok(Address::Tcp("127.0.0.1:2379".into())));
        assert_eq!(address("http://[::1]:2379/"), Ok(Address::Tcp("[::1]:2379".into())));
        assert_eq!(address("unix:///run/etcd.sock"), Ok(Address::Unix("/run/etcd.sock".into())));
        assert_eq!(address("unix://localhost:m0"), Ok(Address::Unix("localhost:m0".into())));
        assert_eq!(address("unix:etcd.sock"), Ok(Address::Unix("etcd.sock".into())));
        assert_eq!(address("https://a:1"), Err(EndpointError::Tls("https://a:1".into())));
        assert_eq!(address("unixs:///a"), Err(EndpointError::Tls("unixs:///a".into())));
    }
}
