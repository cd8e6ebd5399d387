//! URLs as Go's `net/url` reads and prints them, as far as listen and advertise addresses need it.
//!
//! The printed form is an identity: member ids are hashed from it, lists are sorted by it and
//! members compare it, so it must come out byte for byte as Go's `URL.String`.
//!
//! Source: behaviour of Go 1.26 `net/url.Parse`, `net.SplitHostPort` and of etcd's URL lists.

use std::fmt;
use std::net::IpAddr;

use super::scalars::quote;

/// A parsed URL. Equality and order are those of the printed form.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Url {
    text: String,
    scheme: String,
    opaque: String,
    host: String,
    path: String,
}

/// Why a text is not accepted as URL or as address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Refused by the parser itself.
    #[error("parse {}: {reason}", quote(.text))]
    Parse {
        /// The text without its fragment.
        text: String,
        /// Go's words.
        reason: String,
    },
    /// No port, or no host.
    #[error("URL address does not have the form \"host:port\": {0}")]
    HostPort(String),
    /// Something behind the port.
    #[error("URL must not contain a path: {0}")]
    Path(String),
    /// Another scheme, or none.
    #[error("URL scheme must be http, https, unix, or unixs: {0}")]
    Scheme(String),
}

impl Url {
    /// Parses one URL as etcd's lists do: surrounding blanks are dropped, the scheme is one of
    /// four, and http and https need `host:port` and nothing more.
    pub fn parse_address(text: &str) -> Result<Self, UrlError> {
        let text = text.trim();
        let url = Self::parse(text)?;
        match url.scheme.as_str() {
            "http" | "https" => {
                if split_host_port(&url.host).is_err() {
                    return Err(UrlError::HostPort(text.to_owned()));
                }
                if !url.path.is_empty() {
                    return Err(UrlError::Path(text.to_owned()));
                }
                Ok(url)
            }
            "unix" | "unixs" => Ok(url),
            _ => Err(UrlError::Scheme(text.to_owned())),
        }
    }

    /// Parses a comma separated list, sorted by text; repeated entries stay.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, UrlError> {
        let mut urls = text.split(',').map(Self::parse_address).collect::<Result<Vec<_>, _>>()?;
        urls.sort_by(|a, b| a.text.cmp(&b.text));
        Ok(urls)
    }

    /// Parses any URL reference that Go accepts.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let (body, fragment) = match text.split_once('#') {
            Some((body, fragment)) => (body, Some(fragment)),
            None => (text, None),
        };
        let refuse = |reason: String| UrlError::Parse { text: body.to_owned(), reason };
        if body.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
            return Err(refuse("net/url: invalid control character in URL".to_owned()));
        }
        parse_body(body, fragment).map_err(refuse)
    }

    /// The scheme in lower case.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// Host and port as written, for instance `127.0.0.1:2379` or `[::1]:2379`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The path, for instance of `unix:///run/etcd.sock`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether the address is a unix socket (`unix` or `unixs`).
    pub fn is_unix(&self) -> bool {
        matches!(self.scheme.as_str(), "unix" | "unixs")
    }

    /// Whether the traffic is encrypted (`https` or `unixs`).
    pub fn is_tls(&self) -> bool {
        matches!(self.scheme.as_str(), "https" | "unixs")
    }

    /// The host without port and without brackets.
    pub fn hostname(&self) -> &str {
        strip_port(&self.host).0
    }

    /// The port as written, or empty.
    pub fn port(&self) -> &str {
        strip_port(&self.host).1
    }

    /// The text that Go's `URL.String` prints.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// A URL of scheme and `host:port` only.
    pub fn from_parts(scheme: &str, host: &str) -> Self {
        Self {
            text: format!("{scheme}://{host}"),
            scheme: scheme.to_owned(),
            host: host.to_owned(),
            ..Self::default()
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The printed forms of a list.
pub fn texts(urls: &[Url]) -> Vec<String> {
    urls.iter().map(Url::to_string).collect()
}

fn parse_body(body: &str, fragment: Option<&str>) -> Result<Url, String> {
    let (scheme, rest) = split_scheme(body)?;
    let mut url = Url { scheme: scheme.to_ascii_lowercase(), ..Url::default() };
    let (rest, query) = match rest.split_once('?') {
        Some((rest, query)) => (rest, Some(query)),
        None => (rest, None),
    };
    let mut user = "";
    let mut authority_seen = false;
    if !rest.starts_with('/') && !url.scheme.is_empty() {
        url.opaque = rest.to_owned();
    } else {
        let first_segment = rest.split('/').next().unwrap_or_default();
        if !rest.starts_with('/') && first_segment.contains(':') {
            return Err("first path segment in URL cannot contain colon".to_owned());
        }
        let mut path = rest;
        if let Some(authority) = rest.strip_prefix("//")
            && (!url.scheme.is_empty() || !rest.starts_with("///"))
        {
            let end = authority.find('/').unwrap_or(authority.len());
            (user, url.host) = parse_authority(&url.scheme, &authority[..end])?;
            path = &authority[end..];
            authority_seen = true;
        }
        url.path = unescape(path, Part::Path)?;
        let shown = if path.bytes().all(is_valid_in_path) { path.to_owned() } else { escape_path(&url.path) };
        url.text = print(&url, authority_seen, user, &shown);
    }
    if !url.opaque.is_empty() {
        url.text = format!("{}:{}", url.scheme, url.opaque);
    } else if url.text.is_empty() && !url.scheme.is_empty() {
        url.text = format!("{}:", url.scheme);
    }
    if let Some(query) = query {
        url.text.push('?');
        url.text.push_str(query);
    }
    if let Some(fragment) = fragment.filter(|fragment| !fragment.is_empty()) {
        url.text.push('#');
        url.text.push_str(fragment);
    }
    Ok(url)
}

fn print(url: &Url, authority_seen: bool, user: &str, path: &str) -> String {
    let mut text = String::new();
    if !url.scheme.is_empty() {
        text.push_str(&url.scheme);
        text.push(':');
    }
    if authority_seen && !(url.scheme.is_empty() && url.host.is_empty() && user.is_empty()) {
        if !url.host.is_empty() || !path.is_empty() || !user.is_empty() {
            text.push_str("//");
        }
        if !user.is_empty() {
            text.push_str(user);
            text.push('@');
        }
        text.push_str(&escape_host(&url.host));
    }
    text.push_str(path);
    text
}

fn split_scheme(text: &str) -> Result<(&str, &str), String> {
    for (position, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if position > 0 => {}
            b':' if position == 0 => return Err("missing protocol scheme".to_owned()),
            b':' => return Ok((&text[..position], &text[position + 1..])),
            _ => return Ok(("", text)),
        }
    }
    Ok(("", text))
}

fn parse_authority<'t>(scheme: &str, authority: &'t str) -> Result<(&'t str, String), String> {
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (user, host),
        None => ("", authority),
    };
    let host = parse_host(scheme, host)?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&byte);
    if !user.bytes().all(allowed) {
        return Err("net/url: invalid userinfo".to_owned());
    }
    unescape(user, Part::User)?;
    Ok((user, host))
}

fn parse_host(scheme: &str, host: &str) -> Result<String, String> {
    let bad_port = |port: &str| Err(format!("invalid port {} after host", quote(port)));
    match host.rfind('[') {
        Some(0) => {
            let Some(end) = host.rfind(']') else { return Err("missing ']' in host".to_owned()) };
            let port = &host[end + 1..];
            if !is_optional_port(port) {
                return bad_port(port);
            }
            let name = &host[1..end];
            let name = match name.find("%25") {
                Some(zone) => unescape(&name[..zone], Part::Host)? + &unescape(&name[zone..], Part::Zone)?,
                None => unescape(name, Part::Host)?,
            };
            match name.split('%').next().unwrap_or_default().parse::<IpAddr>() {
                Ok(IpAddr::V6(_)) => Ok(format!("[{name}]{port}")),
                Ok(IpAddr::V4(_)) => Err("invalid IP-literal".to_owned()),
                Err(_) => Err(format!("invalid host: ParseAddr({}): unable to parse IP", quote(&name))),
            }
        }
        Some(_) => Err("invalid IP-literal".to_owned()),
        None => {
            let colon = match scheme {
                "http" | "https" => host.find(':'),
                _ => host.rfind(':'),
            };
            if let Some(colon) = colon
                && !is_optional_port(&host[colon..])
            {
                return bad_port(&host[colon..]);
            }
            unescape(host, Part::Host)
        }
    }
}

fn is_optional_port(text: &str) -> bool {
    text.is_empty()
        || text.strip_prefix(':').is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

#[derive(Clone, Copy, PartialEq)]
enum Part {
    Host,
    Zone,
    Path,
    User,
}

fn unescape(text: &str, part: Part) -> Result<String, String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            let digits = bytes.get(at + 1..at + 3).and_then(|digits| {
                let high = (digits[0] as char).to_digit(16)?;
                let low = (digits[1] as char).to_digit(16)?;
                Some((high * 16 + low) as u8)
            });
            let shown = || String::from_utf8_lossy(&bytes[at..bytes.len().min(at + 3)]).into_owned();
            let Some(value) = digits else { return Err(format!("invalid URL escape {}", quote(&shown()))) };
            if part == Part::Host && value < 0x80 && value != b'%' {
                return Err(format!("invalid URL escape {}", quote(&shown())));
            }
            if part == Part::Zone && value != b'%' && value != b' ' && !is_host_byte(value) {
                return Err(format!("invalid URL escape {}", quote(&shown())));
            }
            out.push(value);
            at += 3;
            continue;
        }
        if matches!(part, Part::Host | Part::Zone) && bytes[at] < 0x80 && !is_host_byte(bytes[at]) {
            return Err(format!("invalid character {} in host name", quote(&text[at..=at])));
        }
        out.push(bytes[at]);
        at += 1;
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte)
}

fn is_host_byte(byte: u8) -> bool {
    is_unreserved(byte) || b"!$&'()*+,;=:[]<>\"".contains(&byte)
}

fn is_valid_in_path(byte: u8) -> bool {
    is_unreserved(byte) || b"!$&'()*+,;=:@[]%/".contains(&byte)
}

fn escape_path(path: &str) -> String {
    escape(path, |byte| is_unreserved(byte) || b"$&+,/:;=@".contains(&byte))
}

fn escape_host(host: &str) -> String {
    escape(host, is_host_byte)
}

fn escape(text: &str, keep: impl Fn(u8) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match keep(byte) {
            true => out.push(byte as char),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn strip_port(host: &str) -> (&str, &str) {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (name, port),
        _ => (host, ""),
    };
    match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(inner) => (inner, port),
        None => (name, port),
    }
}

/// An address that is not `host:port`; prints Go's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("address {address}: {reason}")]
pub struct AddressError {
    /// The address as given.
    pub address: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Splits `host:port` or `[v6]:port`; both parts may be empty.
pub fn split_host_port(address: &str) -> Result<(&str, &str), AddressError> {
    let refuse = |reason| Err(AddressError { address: address.to_owned(), reason });
    let Some(colon) = address.rfind(':') else { return refuse("missing port in address") };
    let (host, brackets_from, brackets_behind) = if address.starts_with('[') {
        let Some(end) = address.find(']') else { return refuse("missing ']' in address") };
        match end + 1 {
            next if next == address.len() => return refuse("missing port in address"),
            next if next == colon => {}
            next if address[next..].starts_with(':') => return refuse("too many colons in address"),
            _ => return refuse("missing port in address"),
        }
        (&address[1..end], 1, end + 1)
    } else {
        let host = &address[..colon];
        if host.contains(':') {
            return refuse("too many colons in address");
        }
        (host, 0, 0)
    };
    if address[brackets_from..].contains('[') {
        return refuse("unexpected '[' in address");
    }
    if address[brackets_behind..].contains(']') {
        return refuse("unexpected ']' in address");
    }
    Ok((host, &address[colon + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: Result<&str, &str>) {
        let got = Url::parse_address(text).map(|url| url.to_string()).map_err(|error| error.to_string());
        assert_eq!(got, want.map(str::to_owned).map_err(str::to_owned), "{text}");
    }

    #[test]
    fn addresses_print_as_they_came() {
        for text in [
            "http://localhost:2379",
            "https://10.0.0.1:2380",
            "http://[::1]:2379",
            "http://:2379",
            "http://a:",
            "unix:///run/etcd.sock",
            "unix://name:2379",
            "unixs://localhost:m1",
            "unix:name",
            "http://a:1?x=y",
        ] {
            match text {
                "unixs://localhost:m1" => {
                    check(text, Err("parse \"unixs://localhost:m1\": invalid port \":m1\" after host"));
                }
                text => check(text, Ok(text)),
            }
        }
        check(" HTTP://a:1 ", Ok("http://a:1"));
        check("unix:///run/a b", Ok("unix:///run/a%20b"));
    }

    #[test]
    fn refusals_use_the_known_words() {
        check("127.0.0.1:1", Err("parse \"127.0.0.1:1\": first path segment in URL cannot contain colon"));
        check("localhost", Err("URL scheme must be http, https, unix, or unixs: localhost"));
        check("localhost:2379", Err("URL scheme must be http, https, unix, or unixs: localhost:2379"));
        check("", Err("URL scheme must be http, https, unix, or unixs: "));
        check("*", Err("URL scheme must be http, https, unix, or unixs: *"));
        check("ftp://a:1", Err("URL scheme must be http, https, unix, or unixs: ftp://a:1"));
        check("http://a", Err("URL address does not have the form \"host:port\": http://a"));
        check("http:a", Err("URL address does not have the form \"host:port\": http:a"));
        check("http://a:1/", Err("URL must not contain a path: http://a:1/"));
        check("http://a:xx", Err("parse \"http://a:xx\": invalid port \":xx\" after host"));
        check("http://a:1:2", Err("parse \"http://a:1:2\": invalid port \":1:2\" after host"));
        check("http://a b:1", Err("parse \"http://a b:1\": invalid character \" \" in host name"));
        check("http://a%zz:1", Err("parse \"http://a%zz:1\": invalid URL escape \"%zz\""));
        check("http://a%20b:1", Err("parse \"http://a%20b:1\": invalid URL escape \"%20\""));
        check(":2379", Err("parse \":2379\": missing protocol scheme"));
        check("http://[::1:1", Err("parse \"http://[::1:1\": missing ']' in host"));
        check("http://a\u{1}:1", Err("parse \"http://a\\x01:1\": net/url: invalid control character in URL"));
    }

    #[test]
    fn lists_are_sorted_by_text() {
        let urls = Url::parse_list("http://b:2, http://a:1,http://b:2").unwrap();
        assert_eq!(texts(&urls), ["http://a:1", "http://b:2", "http://b:2"]);
        assert_eq!(urls[0].hostname(), "a");
        assert_eq!(urls[0].port(), "1");
        assert_eq!(Url::parse("http://[fe80::1]:80").unwrap().hostname(), "fe80::1");
    }

    #[test]
    fn host_and_port_split_like_go() {
        assert_eq!(split_host_port("a:1"), Ok(("a", "1")));
        assert_eq!(split_host_port("[::1]:1"), Ok(("::1", "1")));
        assert_eq!(split_host_port(":1"), Ok(("", "1")));
        for (address, want) in [
            ("a", "address a: missing port in address"),
            ("", "address : missing port in address"),
            ("::1:1", "address ::1:1: too many colons in address"),
            ("[::1]", "address [::1]: missing port in address"),
            ("[::1:1", "address [::1:1: missing ']' in address"),
            ("[a]b:1", "address [a]b:1: missing port in address"),
            ("a]:1", "address a]:1: unexpected ']' in address"),
        ] {
            assert_eq!(split_host_port(address).unwrap_err().to_string(), want);
        }
    }
}
