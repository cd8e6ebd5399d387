//! What a member asks others before its first start: about the cluster it is to join, or whether a
//! new one knows it already.
//!
//! **Source**: etcd `server/etcdserver/{bootstrap,cluster_util}.go`.

use std::time::{Duration, Instant};

use env::Disk;
use membership::{InitialCluster, Member};
use peer::{Client, JOIN_TIMEOUT};
use types::{MemberId, Version};

use crate::bootstrap::{self, Existing};
use crate::discovery::registry;
use crate::log;
use crate::start::{Options, StartError};

/// The lowest version of a cluster that anybody can join.
const LOWEST: Version = Version::new(3, 0, 0);
/// How long a member of the cluster may lag behind the change that added this one.
const LAG_PATIENCE: Duration = Duration::from_secs(2);
/// How long a member of the cluster may take to confirm that no downgrade goes on. It does so by a
/// quorum, which may be one that waits for this member: a second voter beside a single one.
const QUORUM_PATIENCE: Duration = Duration::from_secs(1);
/// Between two questions to the cluster meanwhile.
const LAG_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Asks the others about the cluster, to join it, or to be sure that this member is really new. A
/// member with a log asks nobody.
///
/// # Errors
/// The cluster did not answer, cannot be joined, or knows this member.
pub fn ask_cluster(
    disk: &dyn Disk,
    options: &Options,
    client: &Client,
) -> Result<Option<Existing>, StartError> {
    let setup = &options.bootstrap;
    if wal::exists(disk, &setup.wal_dir()).map_err(bootstrap::Error::from)? {
        return Ok(None);
    }
    let initial = InitialCluster::parse(&setup.initial_cluster).map_err(bootstrap::Error::from)?;
    let others = initial.iter().filter(|(name, _)| *name != setup.name);
    let mut urls: Vec<String> = others.flat_map(|(_, urls)| urls.to_vec()).collect();
    urls.sort_unstable();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if options.join_existing {
        let discovery = options.discovery.is_some();
        initial.verify_join(&setup.name, discovery).map_err(bootstrap::Error::from)?;
        let existing =
            find_cluster(&runtime, client, &urls, |found| bootstrap::check_join(setup, &initial, found))?;
        let others: Vec<&Member> =
            existing.members.iter().filter(|member| member.attributes.name != setup.name).collect();
        let own = setup.compat.server_version();
        if !runtime.block_on(is_compatible(client, &others, own, setup.request_timeout())) {
            return Err(StartError::Incompatible);
        }
        return Ok(Some(existing));
    }
    bootstrap::check_initial_cluster(setup)?;
    // What is wrong with the members is bootstrap's to say.
    let members = initial.members(&setup.initial_cluster_token).unwrap_or_default();
    if let Some(own) = members.iter().find(|member| member.attributes.name == setup.name)
        && runtime.block_on(client.is_bootstrapped(&urls, own.id, setup.election_timeout()))
    {
        return Err(StartError::AlreadyBootstrapped(own.id));
    }
    Ok(None)
}

/// Asks the registry of discovery for the first members of a new cluster, if there is one.
///
/// # Errors
/// The registry does not let this member in.
pub fn discover(options: &Options, is_restart: bool) -> Result<Option<InitialCluster>, StartError> {
    let Some(settings) = &options.discovery else { return Ok(None) };
    let setup = &options.bootstrap;
    if is_restart {
        log::warn!("discovery token is ignored since cluster already initialized; valid logs are found",
            "wal-dir" => setup.wal_dir().display().to_string());
        return Ok(None);
    }
    let own = InitialCluster::parse(&setup.initial_cluster).map_err(bootstrap::Error::from)?;
    let members = own.members(&setup.initial_cluster_token).map_err(bootstrap::Error::from)?;
    let Some(member) = members.first() else { return Ok(None) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(Some(runtime.block_on(registry::join(settings, member.id, &own))?))
}

/// The cluster as one of its members describes it, once that fits. Who answers first may not have
/// applied yet that this member was added: that is a matter of moments, so it is asked again.
fn find_cluster(
    runtime: &tokio::runtime::Runtime,
    client: &Client,
    urls: &[String],
    check: impl Fn(&Existing) -> Result<Existing, bootstrap::Error>,
) -> Result<Existing, StartError> {
    let deadline = Instant::now() + LAG_PATIENCE;
    loop {
        let cluster = runtime.block_on(client.cluster(urls, JOIN_TIMEOUT))?;
        let found = Existing { cluster_id: cluster.id, members: cluster.members };
        match check(&found) {
            Err(bootstrap::Error::Join { .. }) if Instant::now() < deadline => {
                std::thread::sleep(LAG_RETRY_INTERVAL);
            }
            checked => return Ok(checked?),
        }
    }
}

/// Whether a server of version `own` fits into the cluster of these members.
async fn is_compatible(client: &Client, others: &[&Member], own: Version, each: Duration) -> bool {
    let ask = others.iter().map(|member| async {
        let told = client.versions(member.id, &member.peer_urls, each).await;
        if let Err(error) = &told {
            log::warn!("failed to get version",
                "remote-member-id" => member.id, "error" => error.to_string());
        }
        (member.id, told.ok().and_then(|versions| versions.cluster_version()))
    });
    let versions = futures_util::future::join_all(ask).await;
    let mut downgrading = false;
    let each = each.min(QUORUM_PATIENCE);
    for member in others {
        match client.downgrade_enabled(member.id, &member.peer_urls, each).await {
            Ok(enabled) => {
                downgrading = enabled;
                break;
            }
            Err(error) => log::warn!("failed to get downgrade enabled status",
                "remote-member-id" => member.id, "error" => error.to_string()),
        }
    }
    fits(&versions, own, downgrading)
}

/// Somebody knows a cluster version, and all known ones are in the window: up to the own version,
/// or during a downgrade exactly the next one.
fn fits(versions: &[(MemberId, Option<Version>)], own: Version, downgrading: bool) -> bool {
    let own = own.without_patch();
    let (lowest, highest) = match downgrading {
        true => (Version::new(own.major, own.minor + 1, 0), Version::new(own.major, own.minor + 1, 0)),
        false => (LOWEST, own),
    };
    let mut known = false;
    for (id, version) in versions {
        let Some(version) = *version else { continue };
        let (direction, limit_name, limit) = if version < lowest {
            ("low", "minimum-cluster-version-supported", lowest)
        } else if version > highest {
            ("high", "maximum-cluster-version-supported", highest)
        } else {
            known = true;
            continue;
        };
        let text = format!("cluster version of remote member is not compatible; too {direction}");
        log::warn(
            &text,
            &[
                ("remote-member-id", (*id).into()),
                ("remote-member-cluster-version", version.to_string().into()),
                (limit_name, limit.to_string().into()),
            ],
        );
        return false;
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_up_to_the_own_version_can_be_joined() {
        let check = |versions: &[Option<&str>], downgrading| {
            let versions: Vec<_> =
                versions.iter().map(|text| (MemberId(1), text.map(|text| text.parse().unwrap()))).collect();
            fits(&versions, Version::new(3, 6, 14), downgrading)
        };
        assert!(check(&[Some("3.5.0"), None], false));
        assert!(check(&[Some("3.6.0")], false));
        assert!(!check(&[Some("3.6.0"), Some("3.7.0")], false));
        assert!(!check(&[None, None], false), "nobody knows");
        assert!(!check(&[], false));
        assert!(!check(&[Some("2.9.0")], false));
        assert!(check(&[Some("3.7.0")], true), "on its way down to us");
        assert!(!check(&[Some("3.6.0")], true));
    }
}
