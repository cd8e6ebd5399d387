//! URLs of peers, and which of a peer's URLs to use next.

use std::sync::Arc;

use parking_lot::Mutex;

/// How a URL is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// TCP.
    Http,
    /// TLS over TCP.
    Https,
    /// A Unix socket.
    Unix,
    /// TLS over a Unix socket.
    Unixs,
}

impl Scheme {
    /// Whether the connection is encrypted.
    pub const fn is_secure(self) -> bool {
        matches!(self, Self::Https | Self::Unixs)
    }
}

/// One URL of a peer, checked. Clones are cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerUrl {
    scheme: Scheme,
    text: Arc<str>,
    /// Where `text`'s authority begins.
    authority: usize,
}

/// A URL that no peer can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct BadUrl(#[from] membership::UrlError);

impl BadUrl {
    /// URLs that cannot stand in a header.
    pub(crate) fn unprintable(urls: &[&str]) -> Self {
        Self(membership::UrlError::HostPort(format!("{:?}", urls.join(","))))
    }
}

impl PeerUrl {
    /// Checks a URL: scheme http, https, unix or unixs, host and port, no path.
    ///
    /// # Errors
    /// With upstream's text for what is wrong.
    pub fn parse(text: &str) -> Result<Self, BadUrl> {
        let checked = membership::parse_urls(&[text])?;
        let text = checked.into_iter().next().unwrap_or_default();
        let (scheme, authority) = match text.split_once("://") {
            Some(("http", _)) => (Scheme::Http, "http://".len()),
            Some(("https", _)) => (Scheme::Https, "https://".len()),
            Some(("unix", _)) => (Scheme::Unix, "unix://".len()),
            Some(("unixs", _)) => (Scheme::Unixs, "unixs://".len()),
            _ => return Err(BadUrl(membership::UrlError::Scheme(text))),
        };
        Ok(Self { scheme, text: text.into(), authority })
    }

    /// Checks several.
    ///
    /// # Errors
    /// The first that is wrong, or that there is none.
    pub fn parse_all<U: AsRef<str>>(urls: &[U]) -> Result<Vec<Self>, BadUrl> {
        if urls.is_empty() {
            return Err(BadUrl(membership::UrlError::None));
        }
        urls.iter().map(|url| Self::parse(url.as_ref())).collect()
    }

    /// How it is reached.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// `host:port`, or the path of a Unix socket.
    pub fn authority(&self) -> &str {
        let rest = &self.text[self.authority..];
        let rest = rest.split_once(['?', '#']).map_or(rest, |(before, _)| before);
        rest.rsplit_once('@').map_or(rest, |(_, host)| host)
    }

    /// The host without port and brackets.
    pub fn host(&self) -> &str {
        let authority = self.authority();
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl std::fmt::Display for PeerUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// Keeps to one URL of a peer until it fails, then goes round.
#[derive(Debug)]
pub(crate) struct UrlPicker(Mutex<(Vec<PeerUrl>, usize)>);

impl UrlPicker {
    /// # Panics
    /// Without URLs.
    pub(crate) fn new(urls: Vec<PeerUrl>) -> Self {
        assert!(!urls.is_empty(), "a peer has at least one URL");
        Self(Mutex::new((urls, 0)))
    }

    pub(crate) fn update(&self, urls: Vec<PeerUrl>) {
        assert!(!urls.is_empty(), "a peer has at least one URL");
        *self.0.lock() = (urls, 0);
    }

    pub(crate) fn pick(&self) -> PeerUrl {
        let state = self.0.lock();
        state.0[state.1].clone()
    }

    /// `url` did not work: the next pick is another, unless somebody else moved on already.
    pub(crate) fn unreachable(&self, url: &PeerUrl) {
        let mut state = self.0.lock();
        if state.0[state.1] == *url {
            state.1 = (state.1 + 1) % state.0.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_come_apart() {
        let url = PeerUrl::parse("http://[::1]:2380").unwrap();
        assert_eq!((url.authority(), url.host(), url.scheme()), ("[::1]:2380", "::1", Scheme::Http));
        let url = PeerUrl::parse("https://user@peer.example:2380").unwrap();
        assert_eq!((url.authority(), url.host()), ("peer.example:2380", "peer.example"));
        assert!(url.scheme().is_secure());
        assert_eq!(PeerUrl::parse("unix://m1:0").unwrap().authority(), "m1:0");
        for junk in ["", "peer:2380", "ftp://a:1", "http://a", "http://a:1/path", "http://a:b"] {
            assert!(PeerUrl::parse(junk).is_err(), "{junk:?}");
        }
        assert!(PeerUrl::parse_all::<&str>(&[]).is_err());
    }

    #[test]
    fn a_failing_url_gives_way_to_the_next() {
        let urls = PeerUrl::parse_all(&["http://a:1", "http://b:1"]).unwrap();
        let picker = UrlPicker::new(urls.clone());
        assert_eq!(picker.pick(), urls[0]);
        picker.unreachable(&urls[1]);
        assert_eq!(picker.pick(), urls[0]);
        picker.unreachable(&urls[0]);
        picker.unreachable(&urls[0]);
        assert_eq!(picker.pick(), urls[1]);
        picker.unreachable(&urls[1]);
        assert_eq!(picker.pick(), urls[0]);
    }
}
