//! The cluster version and the job that lowers it.
//!
//! The leader proposes the cluster version from the server versions of all members: the lowest
//! one, upward only, unless a downgrade job asks for one minor less.
//!
//! **Source**: etcd `server/etcdserver/version/{monitor,downgrade}.go`.

use types::Version;

use crate::json::{JsonError, Object, ObjectWriter};

/// The downgrade job, as kept under `cluster/downgrade`. A finished or cancelled job is kept as
/// the default value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DowngradeInfo {
    /// Target as text `X.Y.0`; empty without a job.
    pub target_version: String,
    /// Whether a job runs.
    pub enabled: bool,
}

impl DowngradeInfo {
    /// The stored JSON form.
    pub fn to_json(&self) -> String {
        let mut writer = ObjectWriter::new();
        writer.string("target-version", &self.target_version);
        writer.raw("enabled", if self.enabled { "true" } else { "false" });
        writer.finish()
    }

    /// Reads the stored JSON form.
    pub fn from_json(json: &[u8]) -> Result<Self, JsonError> {
        let object = Object::parse(json)?;
        Ok(Self { target_version: object.string("target-version")?, enabled: object.bool("enabled")? })
    }

    /// The target of a running job.
    pub fn target(&self) -> Option<Version> {
        if self.enabled { self.target_version.parse().ok() } else { None }
    }
}

/// A downgrade job whose target is not one minor below where the cluster or its servers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid downgrade target")]
pub struct InvalidDowngrade;

/// The only version that a cluster at `version` can be lowered to.
pub fn allowed_downgrade_target(version: Version) -> Option<Version> {
    Some(Version::new(version.major, version.minor.checked_sub(1)?, 0))
}

/// Whether a server must refuse to run in a cluster of this version
/// (`invalid downgrade; server version is lower than determined cluster version`).
pub fn is_server_too_old(server: Version, cluster: Option<Version>) -> bool {
    cluster.is_some_and(|cluster| server.without_patch() < cluster)
}

/// What the leader should propose as cluster version; `None` leaves it as it is. `servers` are
/// the server versions of all members, `None` where unknown.
pub(crate) fn next_cluster_version(
    current: Option<Version>,
    downgrade: &DowngradeInfo,
    servers: impl IntoIterator<Item = Option<Version>>,
) -> Result<Option<Version>, InvalidDowngrade> {
    let lowest = servers.into_iter().collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().min());
    let (current, lowest) = match (current, lowest) {
        (None, lowest) => return Ok(Some(lowest.unwrap_or(Version::new(3, 0, 0)).without_patch())),
        (Some(_), None) => return Ok(None),
        (Some(current), Some(lowest)) => (current, lowest.without_patch()),
    };
    if downgrade.enabled {
        let target = downgrade.target().ok_or(InvalidDowngrade)?;
        if target == current {
            return Ok(None);
        }
        let from_both = [current, lowest].map(allowed_downgrade_target);
        return if from_both == [Some(target); 2] { Ok(Some(target)) } else { Err(InvalidDowngrade) };
    }
    let rises = current.major == lowest.major && current.without_patch() < lowest;
    Ok(rises.then_some(lowest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v(text: &str) -> Version {
        text.parse().unwrap()
    }

    #[test]
    fn the_job_has_upstreams_json() {
        let job = DowngradeInfo { target_version: "3.6.0".to_owned(), enabled: true };
        assert_eq!(job.to_json(), r#"{"target-version":"3.6.0","enabled":true}"#);
        assert_eq!(DowngradeInfo::default().to_json(), r#"{"target-version":"","enabled":false}"#);
        assert_eq!(DowngradeInfo::from_json(job.to_json().as_bytes()).unwrap(), job);
        assert_eq!(job.target(), Some(v("3.6.0")));
        assert_eq!(DowngradeInfo::default().target(), None);
    }

    #[test]
    fn the_cluster_version_follows_the_oldest_server() {
        let idle = DowngradeInfo::default();
        let next = |current: Option<&str>, servers: &[Option<&str>]| {
            let servers = servers.iter().map(|server| server.map(v));
            next_cluster_version(current.map(v), &idle, servers).unwrap().map(|version| version.to_string())
        };
        assert_eq!(next(None, &[Some("3.7.1"), Some("3.6.14")]).as_deref(), Some("3.6.0"));
        assert_eq!(next(None, &[Some("3.7.1"), None]).as_deref(), Some("3.0.0"));
        assert_eq!(next(Some("3.5.0"), &[Some("3.7.1"), Some("3.6.14")]).as_deref(), Some("3.6.0"));
        assert_eq!(next(Some("3.5.0"), &[Some("3.7.1"), None]), None);
        assert_eq!(next(Some("3.7.0"), &[Some("3.6.14")]), None);
        assert_eq!(next(Some("3.7.0"), &[Some("3.7.1")]), None);
    }

    #[test]
    fn a_downgrade_goes_one_minor_down() {
        let job = |target: &str| DowngradeInfo { target_version: target.to_owned(), enabled: true };
        let next = |current: &str, target: &str, servers: &[&str]| {
            next_cluster_version(Some(v(current)), &job(target), servers.iter().map(|server| Some(v(server))))
        };
        assert_eq!(next("3.7.0", "3.6.0", &["3.7.1"]), Ok(Some(v("3.6.0"))));
        assert_eq!(next("3.6.0", "3.6.0", &["3.7.1", "3.6.14"]), Ok(None));
        assert_eq!(next("3.7.0", "3.5.0", &["3.7.1"]), Err(InvalidDowngrade));
        assert_eq!(next("3.7.0", "junk", &["3.7.1"]), Err(InvalidDowngrade));
        assert_eq!(allowed_downgrade_target(v("3.0.0")), None);
    }

    #[test]
    fn old_servers_are_told_apart() {
        assert!(is_server_too_old(v("3.6.14"), Some(v("3.7.0"))));
        assert!(!is_server_too_old(v("3.7.1"), Some(v("3.7.0"))));
        assert!(!is_server_too_old(v("3.5.30"), None));
    }
}
