//! The version of the cluster, that of the storage, and the way down.
//!
//! ```text
//!  servers' versions ──(leader, 4 s)──▶ cluster version ──(each member, 4 s)──▶ storage version
//!        ▲                                    ▲
//!        └── operator replaces binaries       └── a downgrade job asks for one minor less
//! ```
//!
//! Upward nobody asks: the cluster version follows the oldest server. Downward an operator starts a
//! job; the leader lowers the cluster version, each member then its storage version and says that it
//! is ready. When all servers are at the target the leader ends the job. Up to then a cancelled job
//! just lets everything rise again.
//!
//! A member claims a release (`--compat-version`), and here it counts as a server of that release:
//! "replacing the binary" may be starting again with a lower one.
//!
//! **Source**: etcd `server/etcdserver/version/monitor.go`, `server/etcdserver/server.go`.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Acquire;
use std::time::Duration;

use backend::Backend;
use backend::schema::{self, VersionError};
use proto::{etcdserverpb as pb, membershippb};
use types::{CompatVersion, MemberId, Version};

use crate::log;
use crate::node::Node;

/// How often the versions of the cluster are compared.
pub const VERSION_INTERVAL: Duration = Duration::from_secs(4);
/// How long a member may take to tell its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(2);
/// What a cluster runs that knows nothing of its members yet.
const LOWEST: Version = Version::new(3, 0, 0);

/// The leader raises the cluster version to what all members support, or lowers it as a downgrade
/// job says.
pub async fn settle_cluster_version(node: Rc<Node>, settling: Rc<tokio::sync::Semaphore>) {
    // One at a time: a member that does not answer takes its while.
    let Ok(_permit) = settling.try_acquire() else { return };
    if !node.progress().leads_and_caught_up.load(Acquire) {
        return;
    }
    let servers = server_versions(&node).await;
    warn_of_newer(&node, &servers);
    let cluster = node.shared().cluster();
    let current = cluster.version();
    let target = match cluster.next_version(servers.iter().map(|(_, version)| *version)) {
        Ok(Some(target)) => target,
        Ok(None) => return,
        Err(error) => {
            return log::error!("Failed to monitor cluster version",
                "error" => error.to_string(), "downgrade-target" => &cluster.downgrade().target_version,
                "cluster-version" => current.map(|version| version.to_string()).unwrap_or_default());
        }
    };
    match current {
        None => log::info!("setting up initial cluster version using v3 API",
            "cluster-version" => minor(target)),
        Some(current) => log::info!("updating cluster version using v3 API",
            "from" => minor(current), "to" => minor(target)),
    }
    let request = pb::InternalRaftRequest {
        cluster_version_set: Some(Box::new(membershippb::ClusterVersionSetRequest {
            ver: target.to_string(),
        })),
        ..Default::default()
    };
    if let Err(error) = node.propose_internal(request).await {
        log::warn!("failed to update cluster version", "error" => error.to_string());
    }
}

fn warn_of_newer(node: &Node, servers: &[(MemberId, Option<Version>)]) {
    let own = node.compat().server_version();
    let known = servers.iter().filter_map(|(id, version)| Some((*id, (*version)?)));
    for (id, version) in known.filter(|(_, version)| *version > own) {
        log::warn!("leader found higher-versioned member",
            "local-member-version" => own.to_string(), "remote-member-id" => id,
            "remote-member-version" => version.to_string());
    }
}

/// Versions of all members, `None` where unknown.
async fn server_versions(node: &Node) -> Vec<(MemberId, Option<Version>)> {
    let members: Vec<_> = node.shared().cluster().members().cloned().collect();
    let ask = members.into_iter().map(|member| async move {
        if member.id == node.id() {
            return (member.id, Some(node.compat().server_version()));
        }
        let client = &node.parts().client;
        let told = client.versions(member.id, &member.peer_urls, VERSION_TIMEOUT).await;
        (member.id, told.ok().and_then(|versions| versions.server_version()))
    });
    futures_util::future::join_all(ask).await
}

/// The cluster version was set.
pub fn log_cluster_version(node: &Node, previous: Option<Version>, current: Version) {
    let (cluster, member) = (node.cluster_id(), node.id());
    match previous {
        None => log::info!("set initial cluster version",
            "cluster-id" => cluster, "local-member-id" => member, "cluster-version" => minor(current)),
        Some(previous) => log::info!("updated cluster version",
            "cluster-id" => cluster, "local-member-id" => member,
            "from" => minor(previous), "to" => minor(current)),
    }
    log::info!("enabled capabilities for version", "cluster-version" => minor(current));
    log::info!("cluster version is updated", "cluster-version" => minor(current));
}

/// `3.6`
fn minor(version: Version) -> String {
    format!("{}.{}", version.major, version.minor)
}

/// Moves the storage version to the cluster version, up or down, as far as the claimed release
/// knows one. One at a time; who comes while one is under way is not needed.
pub fn follow_cluster_version(node: &Rc<Node>, moving: &Arc<tokio::sync::Semaphore>) {
    let (Some(cluster), Some(own)) = (node.shared().cluster().version(), node.compat().storage_version())
    else {
        return;
    };
    let target = cluster.min(own);
    let stored = schema::storage_version(&node.backend().view());
    if cluster == LOWEST || matches!(stored, Ok(Some(stored)) if stored == target) {
        return;
    }
    let Ok(permit) = moving.clone().try_acquire_owned() else { return };
    let node = node.clone();
    tokio::task::spawn_local(async move {
        // Commits block: not on a worker.
        let (backend, compat) = (node.backend().clone(), node.compat());
        let moved = tokio::task::spawn_blocking(move || {
            let moved = migrate(&backend, compat, target);
            drop(permit);
            moved
        });
        match moved.await {
            Ok(Ok(true)) => say_ready(&node),
            // Nothing to do, or the member stops.
            Ok(Ok(false)) | Err(_) => {}
            Ok(Err(error)) => log::error!("failed to update storage version",
                "cluster-version" => cluster.to_string(), "error" => error.to_string()),
        }
    });
}

fn say_ready(node: &Node) {
    let cluster = node.shared().cluster();
    if cluster.downgrade().enabled {
        log::info!("The server is ready to downgrade",
            "target-version" => &cluster.downgrade().target_version,
            "server-version" => node.compat().server_version().to_string());
    }
}

/// Takes the stored schema to `target`, one minor version at a time. Returns whether it moved.
///
/// Nothing that members of this release put into the log is beyond the reader of the lowest storage
/// version there is, so the log never forbids a step down.
fn migrate(backend: &Backend, compat: CompatVersion, target: Version) -> Result<bool, VersionError> {
    // The stored term, which tells 3.5 from what was before it, is written by a commit.
    backend.commit()?;
    let mut current = schema::detect_version(&backend.view())?;
    if current == target {
        return Ok(false);
    }
    log::info!("cluster version differs from storage version.",
        "cluster-version" => target.to_string(), "storage-version" => current.to_string());
    while current != target {
        let next = if current < target { current.minor + 1 } else { current.minor.saturating_sub(1) };
        current = Version::new(current.major, next, 0);
        backend.migrate(current, compat, None)?;
        log::info!("updated storage version", "new-storage-version" => current.to_string());
    }
    Ok(true)
}

/// The leader ends a downgrade job when all servers are at its target.
pub async fn watch_downgrade(node: Node, period: Duration) {
    loop {
        tokio::time::sleep(period).await;
        if !node.progress().is_leader() || !node.shared().cluster().downgrade().enabled {
            continue;
        }
        let servers = server_versions(&node).await;
        let cluster = node.shared().cluster();
        let Some(target) = cluster.downgrade().target() else { continue };
        if !cluster.is_downgrade_complete(servers.iter().map(|(_, version)| *version)) {
            warn_of_others(&servers, target);
            continue;
        }
        log::info!("the cluster has been downgraded",
            "cluster-version" => &cluster.downgrade().target_version);
        let end = membershippb::DowngradeInfoSetRequest { enabled: false, ver: String::new() };
        let request =
            pb::InternalRaftRequest { downgrade_info_set: Some(Box::new(end)), ..Default::default() };
        if let Err(error) = node.propose_internal(request).await {
            log::warn!("failed to cancel downgrade", "error" => error.to_string());
        }
    }
}

/// Names the first server that keeps the job going.
fn warn_of_others(servers: &[(MemberId, Option<Version>)], target: Version) {
    let mut known = servers.iter().filter_map(|(id, version)| Some((*id, (*version)?.without_patch())));
    if let Some((id, version)) = known.find(|(_, version)| *version != target) {
        log::warn!("remotes server has mismatching etcd version",
            "remote-member-id" => id, "current-server-version" => version.to_string(),
            "target-version" => target.to_string());
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use backend::WriteSet;
    use env::sim::SimDisk;
    use types::LogPosition;

    use super::*;

    #[test]
    fn the_storage_version_goes_up_and_down() {
        let backend =
            Backend::open(Arc::new(SimDisk::new()), Path::new("db"), backend::Options::default()).unwrap();
        let version = |minor| Version::new(3, minor, 0);
        let go =
            |minor| migrate(&backend, CompatVersion::V3_7, version(minor)).map_err(|error| error.to_string());
        let stored = || schema::storage_version(&backend.view()).unwrap();
        assert_eq!(go(7).unwrap_err(), "cannot detect storage schema version: missing term information");
        backend.append(WriteSet { applied: Some(LogPosition { index: 3, term: 2 }), ..WriteSet::default() });
        assert_eq!((go(7), stored()), (Ok(true), Some(version(7))));
        assert_eq!((go(7), stored()), (Ok(false), Some(version(7))));
        assert_eq!((go(5), stored()), (Ok(true), None), "3.5 knows no storage version");
        assert_eq!((go(6), stored()), (Ok(true), Some(version(6))));
        assert!(go(4).is_err() && stored().is_none());
    }
}
