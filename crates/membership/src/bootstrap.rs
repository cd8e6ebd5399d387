//! The initial cluster that the operator wrote down, and the checks on it.
//!
//! Comparing URLs may need name resolution, which is the caller's: the checks take a closure
//! that says whether two URL lists mean the same addresses. [`same_text`] is the one that
//! resolves nothing.
//!
//! **Source**: etcd `server/config/config.go` (`VerifyBootstrap`, `VerifyJoinExisting`),
//! `client/pkg/types/{urls,urlsmap}.go`, `server/etcdserver/api/membership/cluster.go`
//! (`ValidateClusterAndAssignIDs`), `pkg/netutil/netutil.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use types::MemberId;

use crate::id::member_id;
use crate::member::Member;

/// `name=url[,name=url…]`: the names of the first members and their peer URLs, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InitialCluster {
    members: BTreeMap<String, Vec<String>>,
}

/// A URL that cannot be one of a member. The texts are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// An empty list.
    #[error("no valid URLs given")]
    None,
    /// Host without port, or the other way around.
    #[error("URL address does not have the form \"host:port\": {0}")]
    HostPort(String),
    /// The port is not a number.
    #[error("parse {url:?}: invalid port {port:?} after host")]
    Port {
        /// The URL.
        url: String,
        /// The port with its colon.
        port: String,
    },
    /// There is a path.
    #[error("URL must not contain a path: {0}")]
    Path(String),
    /// Another scheme.
    #[error("URL scheme must be http, https, unix, or unixs: {0}")]
    Scheme(String),
}

/// Two URL lists that do not mean the same addresses, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UrlsDiffer(pub String);

/// What is wrong with an initial cluster. The texts are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BootstrapError {
    /// The own name is not in it.
    #[error("couldn't find local name {0:?} in the initial cluster configuration")]
    NoLocalName(String),
    /// It has own URLs that are not advertised.
    #[error(
        "--initial-cluster has {missing} but missing from --initial-advertise-peer-urls={advertised} ({reason})"
    )]
    NotAdvertised {
        /// `name=url` pairs.
        missing: String,
        /// All advertised URLs.
        advertised: String,
        /// Why the lists differ.
        reason: UrlsDiffer,
    },
    /// URLs are advertised that it lacks.
    #[error("--initial-advertise-peer-urls has {missing} but missing from --initial-cluster={cluster}")]
    NotInCluster {
        /// The URLs.
        missing: String,
        /// `name=url` pairs.
        cluster: String,
    },
    /// Same texts, yet not the same addresses.
    #[error("failed to resolve {advertised} to match --initial-cluster={cluster} ({reason})")]
    Unresolved {
        /// All advertised URLs.
        advertised: String,
        /// `name=url` pairs.
        cluster: String,
        /// Why the lists differ.
        reason: UrlsDiffer,
    },
    /// One URL twice.
    #[error("initial cluster {0} has duplicate url")]
    DuplicateUrl(InitialCluster),
    /// Nothing to start from.
    #[error("initial cluster unset and no discovery endpoints found")]
    Unset,
    /// Joining needs no discovery.
    #[error("discovery URL should not be set when joining existing initial cluster")]
    DiscoveryWhileJoining,
    /// Two members get the same id.
    #[error("member exists with identical ID {0}")]
    SameId(MemberId),
}

/// Why an initial cluster does not match the cluster that is to be joined.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// Not the same number of members.
    #[error("member count is unequal")]
    Count,
    /// A member of the cluster that is not in the initial cluster.
    #[error("PeerURLs: no match found for existing member ({id}, {urls}), last resolver error ({reason})")]
    NoMatch {
        /// The member.
        id: MemberId,
        /// Its URLs, as Go prints a list.
        urls: String,
        /// Why the last comparison failed.
        reason: UrlsDiffer,
    },
}

/// Checks URLs of a member and sorts them.
pub fn parse_urls<U: AsRef<str>>(urls: &[U]) -> Result<Vec<String>, UrlError> {
    if urls.is_empty() {
        return Err(UrlError::None);
    }
    let mut parsed = urls.iter().map(|url| parse_url(url.as_ref().trim())).collect::<Result<Vec<_>, _>>()?;
    parsed.sort_unstable();
    Ok(parsed)
}

fn parse_url(url: &str) -> Result<String, UrlError> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let scheme = scheme.to_ascii_lowercase();
    match scheme.as_str() {
        "unix" | "unixs" => return Ok(format!("{scheme}://{rest}")),
        "http" | "https" => {}
        _ => return Err(UrlError::Scheme(url.to_owned())),
    }
    let host_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, tail) = rest.split_at(host_end);
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let (name, port) = host.rsplit_once(':').ok_or_else(|| UrlError::HostPort(url.to_owned()))?;
    let bracketed = name.starts_with('[') && name.ends_with(']');
    if !bracketed && name.contains([':', '[', ']']) {
        return Err(UrlError::HostPort(url.to_owned()));
    }
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(UrlError::Port { url: url.to_owned(), port: format!(":{port}") });
    }
    if tail.starts_with('/') {
        return Err(UrlError::Path(url.to_owned()));
    }
    Ok(format!("{scheme}://{rest}"))
}

/// Compares URL lists as texts, in any order.
pub fn same_text(one: &[String], other: &[String]) -> Result<(), UrlsDiffer> {
    if one.len() != other.len() {
        return Err(UrlsDiffer(format!("len({}) != len({})", go_quoted(one), go_quoted(other))));
    }
    let sorted = |urls: &[String]| urls.iter().cloned().collect::<BTreeSet<_>>();
    match sorted(one).iter().zip(&sorted(other)).find(|(a, b)| a != b) {
        None => Ok(()),
        Some((a, b)) => Err(UrlsDiffer(format!("resolved urls: {a:?} != {b:?}"))),
    }
}

/// A list as Go's `%q` prints it.
fn go_quoted(urls: &[String]) -> String {
    let quoted: Vec<_> = urls.iter().map(|url| format!("{url:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

impl InitialCluster {
    /// Reads the flag's form. Empty parts are skipped; one name may come several times.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let mut members = BTreeMap::<_, Vec<_>>::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (name, url) = part.split_once('=').unwrap_or((part, ""));
            members.entry(name.to_owned()).or_default().push(url);
        }
        let checked = members.into_iter().map(|(name, urls)| Ok((name, parse_urls(&urls)?)));
        Ok(Self { members: checked.collect::<Result<_, UrlError>>()? })
    }

    /// Whether nobody is in it.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Names and URLs.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &[String])> {
        self.members.iter().map(|(name, urls)| (name.as_str(), urls.as_slice()))
    }

    /// URLs of one member.
    pub fn urls(&self, name: &str) -> Option<&[String]> {
        self.members.get(name).map(Vec::as_slice)
    }

    /// The checks before a new cluster is started. `same(advertised, in_cluster)` compares.
    pub fn verify_bootstrap(
        &self,
        name: &str,
        advertised: &[String],
        discovery: bool,
        same: impl FnOnce(&[String], &[String]) -> Result<(), UrlsDiffer>,
    ) -> Result<(), BootstrapError> {
        self.verify_advertised(name, advertised, same)?;
        self.verify_unique()?;
        if self.is_empty() && !discovery { Err(BootstrapError::Unset) } else { Ok(()) }
    }

    /// The checks before an existing cluster is joined.
    pub fn verify_join(&self, name: &str, discovery: bool) -> Result<(), BootstrapError> {
        self.own_urls(name)?;
        self.verify_unique()?;
        if discovery { Err(BootstrapError::DiscoveryWhileJoining) } else { Ok(()) }
    }

    fn own_urls(&self, name: &str) -> Result<&[String], BootstrapError> {
        self.urls(name).ok_or_else(|| BootstrapError::NoLocalName(name.to_owned()))
    }

    fn verify_advertised(
        &self,
        name: &str,
        advertised: &[String],
        same: impl FnOnce(&[String], &[String]) -> Result<(), UrlsDiffer>,
    ) -> Result<(), BootstrapError> {
        let own = self.own_urls(name)?;
        let mut advertised = advertised.to_vec();
        advertised.sort_unstable();
        let Err(reason) = same(&advertised, own) else { return Ok(()) };

        let lacks = |all: &[String], wanted: &[String]| -> Vec<String> {
            wanted.iter().filter(|url| !all.contains(url)).cloned().collect()
        };
        let pairs = |urls: &[String]| {
            let pairs: Vec<_> = urls.iter().map(|url| format!("{name}={url}")).collect();
            pairs.join(",")
        };
        let missing = lacks(&advertised, own);
        if !missing.is_empty() {
            let (missing, advertised) = (pairs(&missing), advertised.join(","));
            return Err(BootstrapError::NotAdvertised { missing, advertised, reason });
        }
        // Upstream prints the advertised URLs here too, as pairs.
        let cluster = pairs(&advertised);
        let missing = lacks(own, &advertised);
        if !missing.is_empty() {
            return Err(BootstrapError::NotInCluster { missing: missing.join(","), cluster });
        }
        Err(BootstrapError::Unresolved { advertised: advertised.join(","), cluster, reason })
    }

    /// Whether one URL is there twice.
    pub fn has_duplicate_url(&self) -> bool {
        let mut seen = BTreeSet::new();
        !self.members.values().flatten().all(|url| seen.insert(url))
    }

    fn verify_unique(&self) -> Result<(), BootstrapError> {
        if self.has_duplicate_url() { Err(BootstrapError::DuplicateUrl(self.clone())) } else { Ok(()) }
    }

    /// The members of the new cluster by ascending id, with names.
    pub fn members(&self, token: &str) -> Result<Vec<Member>, BootstrapError> {
        let mut members = BTreeMap::new();
        for (name, urls) in &self.members {
            let mut member = Member::new(member_id(urls, token, None), urls.clone());
            member.attributes.name.clone_from(name);
            if let Some(twin) = members.insert(member.id, member) {
                return Err(BootstrapError::SameId(twin.id));
            }
        }
        Ok(members.into_values().collect())
    }

    /// Matches this against the members of the cluster that is joined, by peer URLs: names from
    /// here, ids from there.
    pub fn match_existing(
        &self,
        existing: &[Member],
        mut same: impl FnMut(&[String], &[String]) -> Result<(), UrlsDiffer>,
    ) -> Result<Vec<Member>, JoinError> {
        if existing.len() != self.members.len() {
            return Err(JoinError::Count);
        }
        let mut matched = Vec::new();
        for member in existing {
            let mut reason = UrlsDiffer(String::new());
            let found = self.members.iter().find(|(_, urls)| match same(&member.peer_urls, urls) {
                Ok(()) => true,
                Err(differ) => {
                    reason = differ;
                    false
                }
            });
            let Some((name, urls)) = found else {
                let urls = format!("[{}]", member.peer_urls.join(" "));
                return Err(JoinError::NoMatch { id: member.id, urls, reason });
            };
            let mut own = Member { is_learner: member.is_learner, ..Member::new(member.id, urls.clone()) };
            own.attributes.name.clone_from(name);
            matched.push(own);
        }
        matched.sort_by_key(|member| member.id);
        Ok(matched)
    }
}

impl fmt::Display for InitialCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut pairs: Vec<_> = self
            .members
            .iter()
            .flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}")))
            .collect();
        pairs.sort_unstable();
        f.write_str(&pairs.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::cluster_id;

    fn cluster(text: &str) -> InitialCluster {
        InitialCluster::parse(text).unwrap()
    }

    fn urls(urls: &[&str]) -> Vec<String> {
        urls.iter().map(|url| (*url).to_owned()).collect()
    }

    #[test]
    fn the_flag_is_parsed_and_printed() {
        let three = cluster("b=http://b:2380,a=http://a:2,,a=http://a:1,c=unix://c:1");
        assert_eq!(three.to_string(), "a=http://a:1,a=http://a:2,b=http://b:2380,c=unix://c:1");
        assert_eq!(three.urls("a"), Some(&urls(&["http://a:1", "http://a:2"])[..]));
        assert_eq!(three.len(), 3);
        assert!(cluster("").is_empty());
        assert_eq!(cluster("a=http://[::1]:2380").to_string(), "a=http://[::1]:2380");
    }

    #[test]
    fn bad_urls_have_upstreams_texts() {
        for (text, expected) in [
            ("a", "URL scheme must be http, https, unix, or unixs: "),
            ("a=ftp://h:1", "URL scheme must be http, https, unix, or unixs: ftp://h:1"),
            ("a=http://h", "URL address does not have the form \"host:port\": http://h"),
            ("a=http://::1:1", "URL address does not have the form \"host:port\": http://::1:1"),
            ("a=http://h:1/", "URL must not contain a path: http://h:1/"),
            ("a=http://h:x", "parse \"http://h:x\": invalid port \":x\" after host"),
        ] {
            assert_eq!(InitialCluster::parse(text).unwrap_err().to_string(), expected);
        }
        assert_eq!(parse_urls::<&str>(&[]).unwrap_err().to_string(), "no valid URLs given");
    }

    #[test]
    fn bootstrap_checks_have_upstreams_texts() {
        let check = |text: &str, name: &str, advertised: &[&str]| {
            let verdict = cluster(text).verify_bootstrap(name, &urls(advertised), false, same_text);
            verdict.map_err(|error| error.to_string())
        };
        assert_eq!(check("a=http://a:1,b=http://b:1", "a", &["http://a:1"]), Ok(()));
        for (text, name, advertised, expected) in [
            (
                "b=http://b:1",
                "a",
                &["http://a:1"][..],
                "couldn't find local name \"a\" in the initial cluster configuration",
            ),
            (
                "a=http://a:1,a=http://a:2",
                "a",
                &["http://a:1"],
                "--initial-cluster has a=http://a:2 but missing from --initial-advertise-peer-urls=http://a:1 \
                 (len([\"http://a:1\"]) != len([\"http://a:1\" \"http://a:2\"]))",
            ),
            (
                "a=http://a:1",
                "a",
                &["http://a:2", "http://a:1"],
                "--initial-advertise-peer-urls has http://a:2 but missing from \
                 --initial-cluster=a=http://a:1,a=http://a:2",
            ),
            (
                "a=http://a:1,b=http://a:1",
                "a",
                &["http://a:1"],
                "initial cluster a=http://a:1,b=http://a:1 has duplicate url",
            ),
        ] {
            assert_eq!(check(text, name, advertised).unwrap_err(), expected);
        }
        let unresolved =
            cluster("a=http://a:1").verify_bootstrap("a", &urls(&["http://a:1"]), false, |_, _| {
                Err(UrlsDiffer("no such host".to_owned()))
            });
        assert_eq!(
            unresolved.unwrap_err().to_string(),
            "failed to resolve http://a:1 to match --initial-cluster=a=http://a:1 (no such host)"
        );
    }

    #[test]
    fn joining_takes_names_from_here_and_ids_from_there() {
        let existing = [
            Member::new(MemberId(9), urls(&["http://a:1"])),
            Member::new(MemberId(5), urls(&["http://b:1"])),
        ];
        let joined = cluster("a=http://a:1,b=http://b:1").match_existing(&existing, same_text).unwrap();
        let named: Vec<_> =
            joined.iter().map(|member| (member.id.0, member.attributes.name.as_str())).collect();
        assert_eq!(named, [(5, "b"), (9, "a")]);

        let error = cluster("a=http://a:1,c=http://c:1").match_existing(&existing, same_text).unwrap_err();
        assert_eq!(
            error.to_string(),
            "PeerURLs: no match found for existing member (5, [http://b:1]), \
             last resolver error (resolved urls: \"http://b:1\" != \"http://c:1\")"
        );
        assert_eq!(cluster("a=http://a:1").match_existing(&existing, same_text), Err(JoinError::Count));
        assert!(cluster("a=http://a:1").verify_join("a", false).is_ok());
        assert_eq!(
            cluster("a=http://a:1").verify_join("a", true),
            Err(BootstrapError::DiscoveryWhileJoining)
        );
    }

    #[test]
    fn ids_follow_from_urls_and_token() {
        let members = cluster("fx1=http://127.0.0.1:22380").members("fixture-token").unwrap();
        assert_eq!(members[0].id.to_string(), "f1805392ad554020");
        assert_eq!(cluster_id(members.iter().map(|member| member.id)).to_string(), "8408e75e887d4f16");
        assert_eq!(
            members[0].to_json(),
            r#"{"id":17402000849597972512,"peerURLs":["http://127.0.0.1:22380"],"name":"fx1"}"#
        );
    }
}
