//! The state beside the key space as the backend holds it, and the state of another member that
//! takes the place of this one's.
//!
//! A member loads these at its start; it loads them again when a snapshot from the leader replaces
//! its backend ([`Applier::install`]).

use std::path::Path;

use auth::AuthStore;
use backend::{BucketId, View};
use bytes::Bytes;
use membership::Cluster;
use mvcc::CompactionJob;
use thiserror::Error;
use types::{ClusterId, LeaseId, Snapshot};

use crate::{Alarms, Applier};

/// Why the stored state cannot be used.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// The backend cannot be read.
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// The store in it cannot be used.
    #[error(transparent)]
    Store(#[from] mvcc::ReadError),
    /// A lease in it cannot be used.
    #[error(transparent)]
    Lease(#[from] lease::DecodeError),
    /// Users or roles in it cannot be used.
    #[error(transparent)]
    Auth(#[from] auth::LoadError),
    /// The members in it cannot be used.
    #[error(transparent)]
    Members(#[from] membership::LoadError),
    /// The members in the snapshot cannot be used.
    #[error(transparent)]
    V2Store(#[from] membership::V2StoreError),
    /// A received database does not belong to the snapshot that it came with.
    #[error(
        "the database received with the snapshot of index {snapshot} holds entries up to index {index}: \
         it is incomplete or belongs to another snapshot"
    )]
    WrongDatabase {
        /// Index of the snapshot.
        snapshot: u64,
        /// Consistent index of the database.
        index: u64,
    },
}

/// The lease records.
///
/// # Errors
/// The backend, or a record in it, cannot be read.
pub fn leases(view: &View) -> Result<Vec<lease::Record>, RestoreError> {
    let stored = view.scan(BucketId::Lease)?;
    let decode = |(key, value): &(Bytes, Bytes)| lease::decode_record(key, value);
    Ok(stored.iter().map(decode).collect::<Result<_, _>>()?)
}

/// The alarms.
///
/// # Errors
/// The backend cannot be read.
pub fn alarms(view: &View) -> Result<Alarms, RestoreError> {
    let stored = view.scan(BucketId::Alarm)?;
    Ok(Alarms::restore(stored.iter().map(|(key, _)| &key[..])))
}

/// Users, roles and the auth switch.
///
/// # Errors
/// The backend, or a record in it, cannot be read.
pub fn auth(view: &View) -> Result<AuthStore, RestoreError> {
    let (auth, users, roles) =
        (view.scan(BucketId::Auth)?, view.scan(BucketId::AuthUsers)?, view.scan(BucketId::AuthRoles)?);
    Ok(AuthStore::load(auth, users, roles)?)
}

/// The members, from the backend or, where a release kept them in the v2 store alone, from
/// `v2_store`, the data of the raft snapshot.
///
/// # Errors
/// Neither can be read.
pub fn cluster(
    view: &View,
    id: ClusterId,
    max_learners: usize,
    v2_store: &[u8],
) -> Result<Cluster, RestoreError> {
    let (members, removed, versions) =
        (view.scan(BucketId::Members)?, view.scan(BucketId::MembersRemoved)?, view.scan(BucketId::Cluster)?);
    let cluster = Cluster::load(id, max_learners, slices(&members), slices(&removed), slices(&versions))?;
    if cluster.members().len() > 0 || v2_store.is_empty() {
        return Ok(cluster);
    }
    let stored = membership::read_v2_store(v2_store)?;
    Ok(Cluster::from_parts(id, max_learners, stored.members, stored.removed, stored.version))
}

fn slices(pairs: &[(Bytes, Bytes)]) -> impl Iterator<Item = (&[u8], &[u8])> {
    pairs.iter().map(|(key, value)| (&key[..], &value[..]))
}

/// What is left to do after [`Applier::install`].
#[derive(Debug)]
pub struct Installed {
    /// A compaction that the new state has begun and not finished.
    pub resume_compaction: Option<CompactionJob>,
    /// Keys whose lease does not exist; they stay without.
    pub lost_leases: usize,
}

impl Applier {
    /// Lets a received database, the file `db`, take the place of the state of this member.
    ///
    /// Call it on the apply thread when the snapshot's log record is on disk, and before the first
    /// entry behind the snapshot is applied. Readers see the old state or the new one. Afterwards
    /// the driver tells the watch hub ([`mvcc::watch::Hub::resync`]), resumes the compaction and
    /// reports the snapshot's index to consensus as applied. The lessor stops its clock.
    ///
    /// # Errors
    /// The database cannot be used. The member must stop.
    pub fn install(&mut self, db: &Path, snapshot: &Snapshot) -> Result<Installed, RestoreError> {
        let restored = self.store.replace(db)?;
        let position = self.backend.consistent_position();
        if position.index != snapshot.position.index {
            let (index, snapshot) = (position.index, snapshot.position.index);
            return Err(RestoreError::WrongDatabase { snapshot, index });
        }
        let lost_leases = self.replace_shared(snapshot, restored.attachments)?;
        (self.position, self.restored) = (position, position);
        Ok(Installed { resume_compaction: restored.resume_compaction, lost_leases })
    }

    fn replace_shared(
        &self,
        snapshot: &Snapshot,
        attachments: Vec<(Bytes, LeaseId)>,
    ) -> Result<usize, RestoreError> {
        let view = self.backend.view();
        let old = self.shared.cluster();
        let new = cluster(&view, old.id(), old.max_learners(), &snapshot.data)?;
        let alarms = alarms(&view)?;
        let auth = auth(&view)?;
        let lost = self.shared.lessor.lock().restore(leases(&view)?, attachments);
        self.shared.change_cluster(|cluster| *cluster = new);
        self.shared.change_alarms(|active| *active = alarms);
        self.shared.auth().publish(auth);
        Ok(lost)
    }
}
