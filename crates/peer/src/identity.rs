//! Who this member says it is, in the headers of every request, and what it thinks of others.
//!
//! | header | content |
//! |---|---|
//! | `X-Server-From` | own id |
//! | `X-Server-Version` | version of the server, `x.y.z`; anything else makes etcd panic |
//! | `X-Min-Cluster-Version` | the oldest cluster it works in |
//! | `X-Etcd-Cluster-ID` | id of the cluster |
//! | `X-PeerURLs` | own peer URLs, separated by commas |
//! | `X-Raft-To` | streams only: who is meant |
//!
//! **Source**: etcd `server/etcdserver/api/rafthttp/{util,http}.go`.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::request;
use http::{Method, Request};
use types::{ClusterId, CompatVersion, MemberId, Version};

use crate::log::Log;
use crate::url::{BadUrl, PeerUrl};

pub(crate) const SERVER_FROM: HeaderName = HeaderName::from_static("x-server-from");
pub(crate) const SERVER_VERSION: HeaderName = HeaderName::from_static("x-server-version");
pub(crate) const MIN_CLUSTER_VERSION: HeaderName = HeaderName::from_static("x-min-cluster-version");
pub(crate) const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");
pub(crate) const PEER_URLS: HeaderName = HeaderName::from_static("x-peerurls");
pub(crate) const RAFT_TO: HeaderName = HeaderName::from_static("x-raft-to");

/// The oldest cluster version that any etcd 3 works in.
const MIN_CLUSTER: Version = Version::new(3, 0, 0);
/// What a member without version headers is taken for.
const ANCIENT: Version = Version::new(2, 0, 0);
/// The first release with both streams.
const FIRST_WITH_STREAMS: Version = Version::new(2, 1, 0);

pub(crate) const INCOMPATIBLE: &str = "incompatible version";
pub(crate) const CLUSTER_MISMATCH: &str = "cluster ID mismatch";

/// This member among its peers.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its id.
    pub id: MemberId,
    /// The cluster's.
    pub cluster_id: ClusterId,
    /// The release that it stands in for.
    pub compat: CompatVersion,
    peer_urls: HeaderValue,
}

/// Why a request of another member is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Incompatible,
    ClusterMismatch,
}

impl Refusal {
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Incompatible => INCOMPATIBLE,
            Self::ClusterMismatch => CLUSTER_MISMATCH,
        }
    }
}

/// Why a peer answers 412, as who asked sees it. The texts are upstream's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PreconditionFailed {
    #[error("{INCOMPATIBLE}")]
    Incompatible,
    #[error("{CLUSTER_MISMATCH}")]
    ClusterMismatch,
    #[error("unhandled error {0:?} when precondition failed")]
    Unknown(String),
}

impl PreconditionFailed {
    /// Reads the body of the answer.
    pub(crate) fn read(body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        match text.trim_end_matches('\n') {
            INCOMPATIBLE => Self::Incompatible,
            CLUSTER_MISMATCH => Self::ClusterMismatch,
            other => Self::Unknown(other.to_owned()),
        }
    }
}

impl Identity {
    /// A member with these advertised peer URLs.
    ///
    /// # Errors
    /// A URL that etcd would not take: it must not go out, etcd panics on it.
    pub fn new<U: AsRef<str>>(
        id: MemberId,
        cluster_id: ClusterId,
        compat: CompatVersion,
        peer_urls: &[U],
    ) -> Result<Self, BadUrl> {
        let mut urls = PeerUrl::parse_all(peer_urls)?;
        urls.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        let texts: Vec<_> = urls.iter().map(PeerUrl::as_str).collect();
        let peer_urls = HeaderValue::try_from(texts.join(",")).map_err(|_| BadUrl::unprintable(&texts))?;
        Ok(Self { id, cluster_id, compat, peer_urls })
    }

    /// A request to a peer with the headers that all have.
    pub(crate) fn request(&self, method: Method, url: &PeerUrl, path: &str) -> request::Builder {
        bare_request(method, url, path)
            .header(SERVER_FROM, self.id.to_string())
            .header(SERVER_VERSION, self.compat.server_version().to_string())
            .header(MIN_CLUSTER_VERSION, MIN_CLUSTER.to_string())
            .header(CLUSTER_ID, self.cluster_id.to_string())
            .header(PEER_URLS, self.peer_urls.clone())
    }

    /// Whether the sender of these headers may talk to this member.
    pub(crate) fn check(&self, headers: &HeaderMap, log: &Log) -> Result<(), Refusal> {
        let own = self.compat.server_version();
        let name = text(headers, &SERVER_FROM);
        let server = version(headers, &SERVER_VERSION);
        let min_cluster = version(headers, &MIN_CLUSTER_VERSION);
        let shown = |version: Option<Version>| version.map(|version| version.to_string()).unwrap_or_default();
        let fields = || {
            vec![
                ("local-member-id", self.id.into()),
                ("local-member-cluster-id", self.cluster_id.into()),
                ("local-member-server-version", own.to_string().into()),
                ("local-member-server-minimum-cluster-version", MIN_CLUSTER.to_string().into()),
                ("remote-peer-server-name", name.to_owned().into()),
                ("remote-peer-server-version", shown(server).into()),
                ("remote-peer-server-minimum-cluster-version", shown(min_cluster).into()),
            ]
        };
        if let Some(error) = incompatible(name, server, min_cluster, own) {
            let mut fields = fields();
            fields.push(("error", error.into()));
            log.warn("failed version compatibility check", &fields);
            return Err(Refusal::Incompatible);
        }
        let cluster = text(headers, &CLUSTER_ID);
        if cluster != self.cluster_id.to_string() {
            let mut fields = fields();
            fields.push(("remote-peer-cluster-id", cluster.to_owned().into()));
            log.warn("request cluster ID mismatch", &fields);
            return Err(Refusal::ClusterMismatch);
        }
        Ok(())
    }
}

/// A request without identity, as bootstrap and other programs make them.
pub(crate) fn bare_request(method: Method, url: &PeerUrl, path: &str) -> request::Builder {
    Request::builder().method(method).uri(path).header(http::header::HOST, host_header(url))
}

/// A path of a Unix socket is no host name, and Go refuses it as one.
fn host_header(url: &PeerUrl) -> HeaderValue {
    let authority = Some(url.authority()).filter(|authority| !authority.contains('/'));
    let header = authority.and_then(|authority| HeaderValue::from_str(authority).ok());
    header.unwrap_or(HeaderValue::from_static("localhost"))
}

fn incompatible(
    name: &str,
    server: Option<Version>,
    min_cluster: Option<Version>,
    own: Version,
) -> Option<String> {
    let (Some(server), Some(min_cluster)) = (server, min_cluster) else {
        return Some(format!("remote version is malformed: remote[{name}], local={own}"));
    };
    if server.without_patch() < MIN_CLUSTER.without_patch() {
        return Some(format!("remote version is too low: remote[{name}]={server}, local={own}"));
    }
    if min_cluster.without_patch() > own.without_patch() {
        return Some(format!("local version is too low: remote[{name}]={server}, local={own}"));
    }
    None
}

/// Whether a server that answered with these headers has the streams.
pub(crate) fn has_streams(headers: &HeaderMap) -> bool {
    version(headers, &SERVER_VERSION).is_some_and(|version| version >= FIRST_WITH_STREAMS)
}

/// The value of a header, empty if it is missing or no text.
pub(crate) fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> &'h str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// A version header; `None` if it is malformed.
fn version(headers: &HeaderMap, name: &HeaderName) -> Option<Version> {
    match text(headers, name) {
        "" => Some(ANCIENT),
        text => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(compat: CompatVersion) -> Identity {
        let urls = ["http://b:1", "http://a:1"];
        Identity::new(MemberId(0xa), ClusterId(0xc1), compat, &urls).unwrap()
    }

    fn check(compat: CompatVersion, headers: &[(&HeaderName, &str)]) -> Result<(), Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        identity(compat).check(&map, &Log::silent())
    }

    #[test]
    fn requests_carry_who_asks() {
        let url = PeerUrl::parse("http://x:2380").unwrap();
        let request = identity(CompatVersion::V3_6).request(Method::GET, &url, "/raft").body(()).unwrap();
        let header = |name: &str| request.headers()[name].to_str().unwrap();
        assert_eq!(header("host"), "x:2380");
        assert_eq!(header("X-Server-From"), "a");
        assert_eq!(header("X-Server-Version"), "3.6.14");
        assert_eq!(header("X-Min-Cluster-Version"), "3.0.0");
        assert_eq!(header("X-Etcd-Cluster-ID"), "c1");
        assert_eq!(header("X-PeerURLs"), "http://a:1,http://b:1");
        assert!(Identity::new(MemberId(1), ClusterId(1), CompatVersion::V3_7, &["http://a:1/p"]).is_err());
    }

    #[test]
    fn others_are_measured_as_upstream_does() {
        let (server, min, cluster) = (&SERVER_VERSION, &MIN_CLUSTER_VERSION, &CLUSTER_ID);
        let good = [(server, "3.4.0"), (min, "3.0.0"), (cluster, "c1")];
        assert_eq!(check(CompatVersion::V3_7, &good), Ok(()));
        assert_eq!(check(CompatVersion::V3_5, &[(min, "3.5.9"), good[0], good[2]]), Ok(()));
        let incompatible = Err(Refusal::Incompatible);
        assert_eq!(check(CompatVersion::V3_5, &[(min, "3.6.0"), good[0], good[2]]), incompatible);
        assert_eq!(check(CompatVersion::V3_7, &[(server, "2.3.8"), good[1], good[2]]), incompatible);
        assert_eq!(check(CompatVersion::V3_7, &[(server, "junk"), good[1], good[2]]), incompatible);
        assert_eq!(check(CompatVersion::V3_7, &good[2..]), incompatible);
        let mismatch = Err(Refusal::ClusterMismatch);
        assert_eq!(check(CompatVersion::V3_7, &[good[0], good[1], (cluster, "c2")]), mismatch);
        assert_eq!(check(CompatVersion::V3_7, &good[..2]), mismatch);
    }
}
