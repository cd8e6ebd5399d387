//! The membership and the cluster version, as loaded from the buckets and changed by the log.
//!
//! ```text
//! members         <hex id>        member JSON
//! members_removed <hex id>        "removed"
//! cluster         clusterVersion  "X.Y.0"
//! cluster         downgrade       {"target-version":"X.Y.0","enabled":true}
//! ```
//!
//! Owned by the apply thread, which publishes a copy after each change. Changes that come from
//! the log (conf changes, attributes, version, downgrade) change the copy in memory and return
//! the writes that belong into the same transaction as the entry's index.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use types::{ClusterId, MemberId, Version};

use crate::change::{ChangeError, ConfChange};
use crate::json::JsonError;
use crate::member::{Attributes, Member};
use crate::version::{DowngradeInfo, InvalidDowngrade, next_cluster_version};

/// Buckets that this crate reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bucket {
    /// `cluster`
    Cluster,
    /// `members`
    Members,
    /// `members_removed`
    MembersRemoved,
}

/// One write to a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketWrite {
    /// Where.
    pub bucket: Bucket,
    /// Key.
    pub key: Bytes,
    /// New value; `None` deletes the key.
    pub value: Option<Bytes>,
}

/// Stored membership that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A key that is not a member id.
    #[error("bucket {bucket}: key {key:?} is not a member id")]
    Key {
        /// Name of the bucket.
        bucket: &'static str,
        /// The key, as text.
        key: String,
    },
    /// A member that is not JSON.
    #[error("bucket members: member {id} cannot be read")]
    Member {
        /// The member.
        id: MemberId,
        /// What is wrong.
        #[source]
        source: JsonError,
    },
    /// `clusterVersion` is not a version.
    #[error("bucket cluster: clusterVersion {text:?} is not a version")]
    Version {
        /// The stored text.
        text: String,
    },
    /// `downgrade` is not JSON.
    #[error("bucket cluster: the downgrade job cannot be read")]
    Downgrade(#[source] JsonError),
}

const CLUSTER_VERSION_KEY: &[u8] = b"clusterVersion";
const DOWNGRADE_KEY: &[u8] = b"downgrade";
const REMOVED: &[u8] = b"removed";

/// The cluster as one member sees it. See the module documentation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    id: ClusterId,
    max_learners: usize,
    members: BTreeMap<MemberId, Member>,
    removed: BTreeSet<MemberId>,
    version: Option<Version>,
    downgrade: DowngradeInfo,
}

impl Cluster {
    /// A cluster nobody has joined yet; `max_learners` is `--max-learners`, 1 by default.
    pub fn new(id: ClusterId, max_learners: usize) -> Self {
        Self { id, max_learners, ..Self::default() }
    }

    /// The cluster as stored: all pairs of the three buckets. Unknown keys of bucket `cluster`
    /// are left alone.
    pub fn load<'a>(
        id: ClusterId,
        max_learners: usize,
        members: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
        removed: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
        cluster: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<Self, LoadError> {
        let mut loaded = Self::new(id, max_learners);
        for (key, value) in members {
            let id = parse_id("members", key)?;
            let member = Member::from_json(value).map_err(|source| LoadError::Member { id, source })?;
            loaded.members.insert(id, Member { id, ..member });
        }
        for (key, _) in removed {
            loaded.removed.insert(parse_id("members_removed", key)?);
        }
        for (key, value) in cluster {
            match key {
                CLUSTER_VERSION_KEY => loaded.version = Some(parse_version(value)?),
                DOWNGRADE_KEY => {
                    loaded.downgrade = DowngradeInfo::from_json(value).map_err(LoadError::Downgrade)?;
                }
                _ => {}
            }
        }
        Ok(loaded)
    }

    /// Largest number of learners.
    pub fn max_learners(&self) -> usize {
        self.max_learners
    }

    /// A cluster from parts, for instance those found in a v2 store.
    pub fn from_parts(
        id: ClusterId,
        max_learners: usize,
        members: impl IntoIterator<Item = Member>,
        removed: impl IntoIterator<Item = MemberId>,
        version: Option<Version>,
    ) -> Self {
        let mut cluster = Self::new(id, max_learners);
        cluster.members = members.into_iter().map(|member| (member.id, member)).collect();
        cluster.removed = removed.into_iter().collect();
        cluster.version = version;
        cluster
    }

    /// The writes that make empty buckets hold this cluster.
    pub fn save(&self) -> Vec<BucketWrite> {
        let mut writes: Vec<_> = self.members.values().map(save_member).collect();
        writes.extend(self.removed.iter().map(|id| save_removed(*id)));
        writes.extend(self.version.map(save_version));
        if self.downgrade != DowngradeInfo::default() {
            writes.push(save_downgrade(&self.downgrade));
        }
        writes
    }

    /// Id of the cluster.
    pub fn id(&self) -> ClusterId {
        self.id
    }

    /// All members, by ascending id.
    pub fn members(&self) -> impl ExactSizeIterator<Item = &Member> + Clone {
        self.members.values()
    }

    /// The members with a vote, by ascending id.
    pub fn voters(&self) -> impl Iterator<Item = &Member> + Clone {
        self.members.values().filter(|member| !member.is_learner)
    }

    /// The members without a vote, by ascending id.
    pub fn learners(&self) -> impl Iterator<Item = &Member> + Clone {
        self.members.values().filter(|member| member.is_learner)
    }

    /// One member.
    pub fn member(&self, id: MemberId) -> Option<&Member> {
        self.members.get(&id)
    }

    /// Whether a member of this id left.
    pub fn is_removed(&self, id: MemberId) -> bool {
        self.removed.contains(&id)
    }

    /// The ids of members that left, ascending.
    pub fn removed(&self) -> impl ExactSizeIterator<Item = MemberId> + Clone {
        self.removed.iter().copied()
    }

    /// The peer URLs of all members, sorted.
    pub fn peer_urls(&self) -> Vec<&str> {
        self.sorted_urls(|member| &member.peer_urls)
    }

    /// The client URLs of all members, sorted.
    pub fn client_urls(&self) -> Vec<&str> {
        self.sorted_urls(|member| &member.attributes.client_urls)
    }

    fn sorted_urls(&self, urls: fn(&Member) -> &Vec<String>) -> Vec<&str> {
        let mut all: Vec<_> = self.members.values().flat_map(urls).map(String::as_str).collect();
        all.sort_unstable();
        all
    }

    /// The cluster version, `X.Y.0`; `None` while undecided.
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// The downgrade job.
    pub fn downgrade(&self) -> &DowngradeInfo {
        &self.downgrade
    }

    /// Whether a change holds against the present membership.
    pub fn validate(&self, change: &ConfChange) -> Result<(), ChangeError> {
        let id = change.member_id();
        if self.removed.contains(&id) {
            return Err(ChangeError::IdRemoved);
        }
        let known = self.members.get(&id);
        match change {
            ConfChange::Add(_) if known.is_some() => Err(ChangeError::IdExists),
            ConfChange::Add(member) => {
                self.check_urls(member)?;
                let learners = self.learners().count() + 1;
                let fits = !member.is_learner || learners <= self.max_learners;
                fits.then_some(()).ok_or(ChangeError::TooManyLearners)
            }
            ConfChange::Promote(_) => {
                let member = known.ok_or(ChangeError::IdNotFound)?;
                member.is_learner.then_some(()).ok_or(ChangeError::NotLearner)
            }
            ConfChange::UpdatePeerUrls(member) => {
                known.ok_or(ChangeError::IdNotFound)?;
                self.check_urls(member)
            }
            ConfChange::Remove(_) => known.map(|_| ()).ok_or(ChangeError::IdNotFound),
        }
    }

    /// No *other* member may have one of the URLs.
    fn check_urls(&self, candidate: &Member) -> Result<(), ChangeError> {
        let mut others = self.members.values().filter(|member| member.id != candidate.id);
        let taken = others.any(|other| other.peer_urls.iter().any(|url| candidate.peer_urls.contains(url)));
        if taken { Err(ChangeError::PeerUrlExists) } else { Ok(()) }
    }

    /// Validates a change and makes it.
    pub fn apply(&mut self, change: &ConfChange) -> Result<Vec<BucketWrite>, ChangeError> {
        self.validate(change)?;
        let id = change.member_id();
        match change {
            ConfChange::Add(member) => {
                self.members.insert(id, member.clone());
            }
            ConfChange::Promote(_) => {
                if let Some(member) = self.members.get_mut(&id) {
                    member.is_learner = false;
                }
            }
            ConfChange::UpdatePeerUrls(update) => {
                if let Some(member) = self.members.get_mut(&id) {
                    member.peer_urls.clone_from(&update.peer_urls);
                }
            }
            ConfChange::Remove(_) => {
                self.members.remove(&id);
                self.removed.insert(id);
            }
        }
        Ok(match self.members.get(&id) {
            Some(member) => vec![save_member(member)],
            None => {
                vec![BucketWrite { bucket: Bucket::Members, key: id_key(id), value: None }, save_removed(id)]
            }
        })
    }

    /// Takes over what a member published about itself. A member that left is ignored, an
    /// unknown one is an error.
    pub fn set_attributes(
        &mut self,
        id: MemberId,
        attributes: Attributes,
    ) -> Result<Vec<BucketWrite>, ChangeError> {
        match self.members.get_mut(&id) {
            Some(member) => {
                member.attributes = attributes;
                Ok(vec![save_member(member)])
            }
            None if self.removed.contains(&id) => Ok(Vec::new()),
            None => Err(ChangeError::IdNotFound),
        }
    }

    /// Takes over a new cluster version.
    pub fn set_version(&mut self, version: Version) -> Vec<BucketWrite> {
        self.version = Some(version);
        vec![save_version(version)]
    }

    /// Starts (`Some(target)`) or ends (`None`) a downgrade job.
    pub fn set_downgrade(&mut self, target: Option<&str>) -> Vec<BucketWrite> {
        self.downgrade = DowngradeInfo {
            target_version: target.unwrap_or_default().to_owned(),
            enabled: target.is_some(),
        };
        vec![save_downgrade(&self.downgrade)]
    }

    /// What the leader should propose as cluster version, given the server versions of all
    /// members (`None` where unknown); `Ok(None)` leaves it as it is.
    pub fn next_version(
        &self,
        servers: impl IntoIterator<Item = Option<Version>>,
    ) -> Result<Option<Version>, InvalidDowngrade> {
        next_cluster_version(self.version, &self.downgrade, servers)
    }

    /// Whether a running downgrade job is finished: every server has the target's major.minor.
    pub fn is_downgrade_complete(&self, servers: impl IntoIterator<Item = Option<Version>>) -> bool {
        let Some(target) = self.downgrade.target() else { return false };
        servers
            .into_iter()
            .all(|server| server.is_some_and(|server| server.without_patch() == target.without_patch()))
    }
}

fn id_key(id: MemberId) -> Bytes {
    id.to_string().into()
}

fn save_member(member: &Member) -> BucketWrite {
    BucketWrite { bucket: Bucket::Members, key: id_key(member.id), value: Some(member.to_json().into()) }
}

fn save_removed(id: MemberId) -> BucketWrite {
    BucketWrite { bucket: Bucket::MembersRemoved, key: id_key(id), value: Some(REMOVED.into()) }
}

fn save_version(version: Version) -> BucketWrite {
    let value = Some(version.to_string().into());
    BucketWrite { bucket: Bucket::Cluster, key: CLUSTER_VERSION_KEY.into(), value }
}

fn save_downgrade(job: &DowngradeInfo) -> BucketWrite {
    BucketWrite { bucket: Bucket::Cluster, key: DOWNGRADE_KEY.into(), value: Some(job.to_json().into()) }
}

fn parse_id(bucket: &'static str, key: &[u8]) -> Result<MemberId, LoadError> {
    let text = String::from_utf8_lossy(key);
    text.parse().map_err(|_| LoadError::Key { bucket, key: text.into_owned() })
}

fn parse_version(value: &[u8]) -> Result<Version, LoadError> {
    let text = String::from_utf8_lossy(value);
    text.parse().map_err(|_| LoadError::Version { text: text.into_owned() })
}
