//! Endpoints as users write them: `host:port`, `http://host:port`, `unix:///path`, `unix:path`, and the
//! encrypted ones with `https` and `unixs`.

use std::fmt;
use std::path::PathBuf;

/// Whether an endpoint is reached encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// `https`, `unixs`.
    Always,
    /// `http`.
    Never,
    /// Without a scheme, or a plain Unix socket: if the client was given certificates or CAs.
    IfAsked,
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
    /// The name that the server's certificate has to be valid for.
    pub server_name: String,
    /// Whether it is reached encrypted.
    pub encryption: Encryption,
}

impl Endpoint {
    /// Reads an endpoint. Nothing is refused: an address that leads nowhere shows when connecting, as
    /// it may lead somewhere later.
    pub fn parse(text: &str) -> Self {
        let tcp = |rest: &str, encryption| {
            let host = rest.split(['/', '?']).next().unwrap_or_default().to_owned();
            Self {
                text: text.to_owned(),
                address: Address::Tcp(host.clone()),
                server_name: without_port(&host).to_owned(),
                authority: host,
                encryption,
            }
        };
        let unix = |rest: &str, encryption| {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            let file = path.rsplit('/').next().unwrap_or_default();
            Self {
                text: text.to_owned(),
                address: Address::Unix(PathBuf::from(path)),
                server_name: without_port(file).to_owned(),
                authority: "localhost".to_owned(),
                encryption,
            }
        };
        match text.split_once(':') {
            Some(("http", rest)) if rest.starts_with("//") => tcp(&rest[2..], Encryption::Never),
            Some(("https", rest)) if rest.starts_with("//") => tcp(&rest[2..], Encryption::Always),
            Some(("unixs", rest)) => unix(rest, Encryption::Always),
            Some(("unix", rest)) => unix(rest, Encryption::IfAsked),
            _ => tcp(text, Encryption::IfAsked),
        }
    }
}

impl Endpoint {
    /// Whether it is reached encrypted by a client that has certificates or CAs, or has none.
    pub(crate) fn is_encrypted(&self, has_tls: bool) -> bool {
        match self.encryption {
            Encryption::Always => true,
            Encryption::Never => false,
            Encryption::IfAsked => has_tls,
        }
    }

    /// Whether both lead to the same server in the same way, however they are written.
    pub(crate) fn is_same(&self, other: &Self, has_tls: bool) -> bool {
        self.address == other.address
            && self.authority == other.authority
            && self.server_name == other.server_name
            && self.is_encrypted(has_tls) == other.is_encrypted(has_tls)
    }
}

fn without_port(host: &str) -> &str {
    let host = match host.rsplit_once(':') {
        Some((name, _)) if !name.contains(':') || name.ends_with(']') => name,
        _ => host,
    };
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let check = |text: &str, address: Address, name: &str, encryption| {
            let endpoint = Endpoint::parse(text);
            assert_eq!(endpoint.address, address, "{text}");
            assert_eq!((endpoint.server_name.as_str(), endpoint.encryption), (name, encryption), "{text}");
        };
        let tcp = |text: &str| Address::Tcp(text.to_owned());
        let unix = |text: &str| Address::Unix(text.into());
        check("127.0.0.1:2379", tcp("127.0.0.1:2379"), "127.0.0.1", Encryption::IfAsked);
        check("http://[::1]:2379/", tcp("[::1]:2379"), "::1", Encryption::Never);
        check("https://a.example:1", tcp("a.example:1"), "a.example", Encryption::Always);
        check("unix:///run/etcd.sock", unix("/run/etcd.sock"), "etcd.sock", Encryption::IfAsked);
        check("unix://localhost:m0", unix("localhost:m0"), "localhost", Encryption::IfAsked);
        check("unix:etcd.sock", unix("etcd.sock"), "etcd.sock", Encryption::IfAsked);
        check("unixs:///run/me:1", unix("/run/me:1"), "me", Encryption::Always);
    }

    #[test]
    fn the_same_server_in_other_words() {
        let check = |one: &str, other: &str, has_tls: bool, same: bool| {
            let (one, other) = (Endpoint::parse(one), Endpoint::parse(other));
            assert_eq!(one.is_same(&other, has_tls), same, "{one:?} and {other:?}");
        };
        check("a:1", "http://a:1", false, true);
        check("a:1", "http://a:1/", true, false);
        check("a:1", "https://a:1", true, true);
        check("http://a:1", "https://a:1", false, false);
        check("a:1", "a:2", false, false);
        check("unix:///run/m", "unix:/run/m", false, true);
        let named = Endpoint { server_name: "m".to_owned(), ..Endpoint::parse("https://a:1") };
        assert!(!named.is_same(&Endpoint::parse("https://a:1"), true));
    }
}
