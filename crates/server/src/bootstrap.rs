//! From a data directory to the parts of a member: everything that happens before threads start.
//!
//! ```text
//! <data-dir>/member/snap/db        backend
//! <data-dir>/member/snap/*.snap    raft snapshots
//! <data-dir>/member/wal/*.wal      log (or --wal-dir)
//! ```
//!
//! A directory with log segments is a member that restarts: ids come from the log's metadata and
//! `--initial-cluster` is not looked at. Without segments a new cluster of the given members
//! starts, by writing the log that all of them write: one conf change per member.
//!
//! **Source**: etcd `server/etcdserver/bootstrap.go`, `server/storage/storage.go`.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use apply::{Applier, Quota, Shared};
use backend::Backend;
use env::{Clock, Disk};
use lease::Lessor;
use member::{LogState, LogWindow, Member};
use membership::{ConfChange, InitialCluster};
use mvcc::Store;
use prost::Message;
use thiserror::Error;
use types::{ClusterId, CompatVersion, ConfState, Entry, EntryKind, HardState, MemberId, Snapshot, Version};
use wal::Wal;

use crate::defragment::defragment_at_start;
use crate::force_new;
use crate::log;
use crate::resolve::same_urls;
use crate::size;

/// What a member is made from.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the member.
    pub name: String,
    /// Data directory.
    pub data_dir: PathBuf,
    /// Directory of the log, if not inside the data directory.
    pub wal_dir: Option<PathBuf>,
    /// `--initial-cluster`.
    pub initial_cluster: String,
    /// `--initial-cluster-token`.
    pub initial_cluster_token: String,
    /// `--initial-advertise-peer-urls`.
    pub advertise_peer_urls: Vec<String>,
    /// The release to stand in for.
    pub compat: CompatVersion,
    /// Space quota.
    pub quota: Quota,
    /// Length of a tick.
    pub heartbeat: Duration,
    /// Ticks without a leader before an election.
    pub election_ticks: u32,
    /// Whether to ask before an election whether it could be won.
    pub pre_vote: bool,
    /// Applied entries kept in memory.
    pub catch_up_entries: u64,
    /// Largest number of learners.
    pub max_learners: usize,
    /// Operations of a backend batch.
    pub backend_batch_limit: usize,
    /// Records looked at per compaction batch.
    pub compaction_batch_limit: usize,
    /// Time between lease checkpoints, if they are on.
    pub checkpoint_interval: Option<Duration>,
    /// Start over as a cluster of one (`--force-new-cluster`).
    pub force_new_cluster: bool,
    /// Never sync (`--unsafe-no-fsync`).
    pub no_sync: bool,
    /// Keep the database in memory (`--memory-mlock`).
    pub lock_memory: bool,
    /// Rewrite the database at the start if that frees so many bytes.
    pub defragment_from_bytes: Option<u64>,
    /// Size at which a segment of the log is closed.
    pub wal_segment_bytes: u64,
    /// Seed of the election timeouts.
    pub seed: u64,
    /// Kind of auth tokens.
    pub tokens: auth::tokens::TokenOptions,
    /// `--bcrypt-cost`.
    pub bcrypt_cost: u32,
}

impl Options {
    /// Directory of the member's files.
    pub fn member_dir(&self) -> PathBuf {
        self.data_dir.join("member")
    }

    /// Directory of the backend and the snapshots.
    pub fn snap_dir(&self) -> PathBuf {
        self.member_dir().join("snap")
    }

    /// Directory of the log.
    pub fn wal_dir(&self) -> PathBuf {
        self.wal_dir.clone().unwrap_or_else(|| self.member_dir().join("wal"))
    }

    /// The election timeout.
    pub fn election_timeout(&self) -> Duration {
        self.heartbeat * self.election_ticks
    }

    /// How long a request may take: 5 s plus two elections.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.election_timeout()
    }
}

/// The parts of a member, ready to be driven.
pub struct Parts {
    /// Id of the member.
    pub member_id: MemberId,
    /// Id of the cluster.
    pub cluster_id: ClusterId,
    /// The backend.
    pub backend: Backend,
    /// The key-value store.
    pub store: Arc<Store>,
    /// State beside the key space.
    pub shared: Arc<Shared>,
    /// The state machine.
    pub applier: Applier,
    /// The core.
    pub member: Member,
    /// The log.
    pub wal: Wal,
    /// Index of the last disk snapshot.
    pub snapshot_index: u64,
    /// Index up to which everything is applied already.
    pub applied: u64,
    /// A compaction that has to be finished.
    pub resume_compaction: Option<mvcc::CompactionJob>,
}

/// Why a member cannot start.
#[derive(Debug, Error)]
pub enum Error {
    /// A file operation failed.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The log cannot be used.
    #[error(transparent)]
    Wal(#[from] wal::Error),
    /// A snapshot file cannot be used.
    #[error(transparent)]
    Snap(#[from] wal::snap::Error),
    /// The backend cannot be used.
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// The store in it cannot be used.
    #[error(transparent)]
    Store(#[from] mvcc::ReadError),
    /// What is beside the keys in it cannot be used.
    #[error(transparent)]
    Restore(#[from] apply::restore::RestoreError),
    /// A URL of the initial cluster is not usable.
    #[error(transparent)]
    InitialCluster(#[from] membership::UrlError),
    /// The initial cluster does not fit the cluster that is joined.
    #[error("error validating peerURLs {cluster}: {reason}")]
    Join {
        /// The cluster.
        cluster: Existing,
        /// What does not fit.
        reason: membership::JoinError,
    },
    /// The stored version does not fit.
    #[error(transparent)]
    StorageVersion(#[from] backend::schema::VersionError),
    /// The log's metadata cannot be read.
    #[error("log in {dir}: its metadata record cannot be read: {reason}")]
    Metadata {
        /// Directory of the log.
        dir: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The initial cluster does not fit this member.
    #[error(transparent)]
    Bootstrap(#[from] membership::BootstrapError),
    /// Consensus refuses the stored state.
    #[error(transparent)]
    Consensus(#[from] consensus::Error),
    /// The log of an existing member has no backend.
    #[error("database file ({path}) of the backend is missing")]
    BackendMissing {
        /// Where it should be.
        path: PathBuf,
    },
    /// The backend is older than the snapshot that the log starts from.
    #[error(
        "failed to find database snapshot file (snap: snapshot file doesn't exist): database file ({path} \
         index {index}) does not match with snapshot (index {snapshot}); restore the member from a snapshot or \
         from its peers"
    )]
    BackendBehind {
        /// The backend.
        path: PathBuf,
        /// Its consistent index.
        index: u64,
        /// Index of the snapshot.
        snapshot: u64,
    },
    /// The backend holds entries that the log does not.
    #[error(
        "database file ({path}) holds entries up to index {index} but the log ends at {last}: the log was cut or \
         exchanged; restore the member from a snapshot or from its peers"
    )]
    LogBehind {
        /// The backend.
        path: PathBuf,
        /// Its consistent index.
        index: u64,
        /// Last index in the log.
        last: u64,
    },
    /// The cluster runs a newer version than this member claims.
    #[error(
        "invalid downgrade; server version is lower than determined cluster version \
         (current-server-version {server}, determined-cluster-version {cluster})"
    )]
    ServerTooOld {
        /// What this member claims.
        server: Version,
        /// What the cluster runs.
        cluster: Version,
    },
    /// The keys of auth tokens.
    #[error(transparent)]
    TokenKey(#[from] auth::tokens::KeyError),
    /// More members without a vote than allowed.
    #[error(transparent)]
    TooManyLearners(membership::ChangeError),
    /// A conf change in the log cannot be read.
    #[error("log in {dir}: a conf change cannot be read: {source}")]
    ConfChange {
        /// Directory of the log.
        dir: PathBuf,
        /// What is wrong with it.
        source: prost::DecodeError,
    },
}

/// A running cluster that a new member joins, as one of its members describes it.
#[derive(Clone, Debug)]
pub struct Existing {
    /// Its id.
    pub cluster_id: ClusterId,
    /// Its members, the new one among them.
    pub members: Vec<membership::Member>,
}

impl fmt::Display for Existing {
    /// As upstream's error texts show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{ClusterID:{} Members:[", self.cluster_id)?;
        for (number, member) in self.members.iter().enumerate() {
            let membership::Member { id, peer_urls, is_learner, attributes } = member;
            let blank = if number > 0 { " " } else { "" };
            write!(
                f,
                "{blank}&{{ID:{id} RaftAttributes:{{PeerURLs:[{}] IsLearner:{is_learner}}} \
                 Attributes:{{Name:{} ClientURLs:[{}]}}}}",
                peer_urls.join(" "),
                attributes.name,
                attributes.client_urls.join(" ")
            )?;
        }
        f.write_str("] RemovedMemberIDs:[]}")
    }
}

/// Makes the parts of a member from its data directory, creating it if it is new: as one of a new
/// cluster, after [`check_initial_cluster`], or to join an `existing` one, after [`check_join`].
///
/// # Errors
/// Everything that keeps the member from starting, with what to do about it.
pub fn bootstrap(
    disk: Arc<dyn Disk>,
    clock: &Arc<dyn Clock>,
    options: &Options,
    existing: Option<&Existing>,
    on_lock_wait: Arc<dyn Fn() + Send + Sync>,
) -> Result<Parts, Error> {
    let (snap_dir, wal_dir) = (options.snap_dir(), options.wal_dir());
    make_dir(&*disk, &options.data_dir)?;
    check_writable(&*disk, &options.data_dir)?;
    make_dir(&*disk, &options.member_dir())?;
    make_dir(&*disk, &snap_dir)?;
    let restart = wal::exists(&*disk, &wal_dir)?;
    for path in wal::snap::remove_left_overs(&*disk, &snap_dir)? {
        log::info!("found orphaned defragmentation file; deleting", "path" => path.display().to_string());
    }
    let db_path = snap_dir.join("db");
    let db_existed = disk.exists(&db_path).map_err(io_error("look for", &db_path))?;
    if restart && !db_existed {
        return Err(Error::BackendMissing { path: db_path });
    }
    let initial = match (restart, existing) {
        (true, _) => None,
        (false, Some(existing)) => Some(Initial::Join(existing.clone())),
        (false, None) => Some(Initial::New(InitialCluster::parse(&options.initial_cluster)?)),
    };

    let backend_options = backend::Options {
        batch_limit: options.backend_batch_limit,
        no_sync: options.no_sync,
        lock_memory: options.lock_memory,
        clock: Some(clock.clone()),
        on_lock_wait: Some(on_lock_wait),
        ..backend::Options::default()
    };
    if restart {
        adopt_received_db(&disk, options, &db_path, &backend_options)?;
    }
    let start = clock.now();
    let backend = Backend::open(disk.clone(), &db_path, backend_options)?;
    log::info!(
        "opened backend db",
        "path" => db_path.display().to_string(),
        "took" => clock.now().saturating_sub(start)
    );
    if let Some(threshold) = options.defragment_from_bytes {
        defragment_at_start(&backend, &db_path, threshold)?;
    }
    log::info!("restore consistentIndex", "index" => backend.consistent_position().index);
    let log = match initial {
        Some(Initial::New(initial)) => create_log(disk.clone(), options, &wal_dir, &initial)?,
        Some(Initial::Join(joined)) => create_empty_log(disk.clone(), options, &wal_dir, &joined)?,
        None => open_log(disk.clone(), options, &snap_dir, &wal_dir, &backend, &db_path)?,
    };
    assemble(options, backend, log)
}

/// The log of a member with what it says.
struct OpenLog {
    wal: Wal,
    member_id: MemberId,
    cluster_id: ClusterId,
    snapshot: Snapshot,
    entries: Vec<Entry>,
    hard_state: HardState,
    conf_state: ConfState,
}

/// How a new member begins.
enum Initial {
    /// With the others of a new cluster.
    New(InitialCluster),
    /// In a cluster that exists.
    Join(Existing),
}

/// The checks before a new cluster is started.
///
/// # Errors
/// The initial cluster does not fit this member. Names that do not resolve are waited for.
pub fn check_initial_cluster(options: &Options) -> Result<(), Error> {
    let initial = InitialCluster::parse(&options.initial_cluster)?;
    initial.verify_bootstrap(&options.name, &options.advertise_peer_urls, false, same_urls)?;
    Ok(())
}

/// Matches the initial cluster with the cluster that is joined: names from the flag, ids from the
/// cluster.
///
/// # Errors
/// They do not match. Names that do not resolve are waited for.
pub fn check_join(
    options: &Options,
    initial: &InitialCluster,
    existing: &Existing,
) -> Result<Existing, Error> {
    let matched = initial.match_existing(&existing.members, same_urls);
    let members = matched.map_err(|reason| Error::Join { cluster: existing.clone(), reason })?;
    check_learners(options, existing.members.iter())?;
    Ok(Existing { cluster_id: existing.cluster_id, members })
}

/// `--max-learners`.
fn check_learners<'m>(
    options: &Options,
    members: impl Iterator<Item = &'m membership::Member>,
) -> Result<(), Error> {
    match members.filter(|member| member.is_learner).count() {
        learners if learners > options.max_learners => {
            Err(Error::TooManyLearners(membership::ChangeError::TooManyLearners))
        }
        _ => Ok(()),
    }
}

/// The log of a member that joins: everything comes from the leader.
fn create_empty_log(
    disk: Arc<dyn Disk>,
    options: &Options,
    wal_dir: &Path,
    joined: &Existing,
) -> Result<OpenLog, Error> {
    let own = joined.members.iter().find(|member| member.attributes.name == options.name);
    let own = own.ok_or_else(|| membership::BootstrapError::NoLocalName(options.name.clone()))?;
    let (member_id, cluster_id) = (own.id, joined.cluster_id);
    let metadata = wal::format::encode_metadata(&wal::Metadata { member: member_id, cluster: cluster_id });
    let wal = Wal::create(disk, wal_dir, &metadata, wal_options(options))?;
    log::info!("starting local member", "local-member-id" => member_id, "cluster-id" => cluster_id);
    Ok(OpenLog {
        wal,
        member_id,
        cluster_id,
        snapshot: Snapshot::default(),
        entries: Vec::new(),
        hard_state: HardState::default(),
        conf_state: ConfState::default(),
    })
}

/// Finishes the installation of a snapshot that a crash interrupted: the log begins at the
/// snapshot, and the database that came with it still has the name under which it was received.
///
/// **Source**: etcd `server/storage/backend.go` (`RecoverSnapshotBackend`).
fn adopt_received_db(
    disk: &Arc<dyn Disk>,
    options: &Options,
    db_path: &Path,
    backend_options: &backend::Options,
) -> Result<(), Error> {
    let (snap_dir, wal_dir) = (options.snap_dir(), options.wal_dir());
    let newest = wal::newest_valid_snapshot(&**disk, &wal_dir, |_| true)?.unwrap_or_default();
    let received = snap_dir.join(wal::snap::db_file_name(newest.position.index));
    if !disk.exists(&received).map_err(io_error("look for", &received))? {
        return Ok(());
    }
    let stored = Backend::open(disk.clone(), db_path, backend_options.clone())?.stored_consistent_position();
    if stored.index < newest.position.index {
        disk.rename(&received, db_path).map_err(io_error("rename to the database", &received))?;
        disk.sync_dir(&snap_dir).map_err(io_error("sync", &snap_dir))?;
        log::info!("recovered database of a received snapshot", "snapshot-index" => newest.position.index);
    }
    Ok(())
}

/// Writes the log that every member of a new cluster writes: one conf change per member, all
/// committed in term 1.
fn create_log(
    disk: Arc<dyn Disk>,
    options: &Options,
    wal_dir: &Path,
    initial: &InitialCluster,
) -> Result<OpenLog, Error> {
    let members = initial.members(&options.initial_cluster_token)?;
    let ids: Vec<MemberId> = members.iter().map(|member| member.id).collect();
    let cluster_id = membership::cluster_id(ids.iter().copied());
    let member_id = members
        .iter()
        .find(|member| member.attributes.name == options.name)
        .map(|member| member.id)
        .unwrap_or_default();
    let metadata = wal::format::encode_metadata(&wal::Metadata { member: member_id, cluster: cluster_id });
    let mut wal = Wal::create(disk, wal_dir, &metadata, wal_options(options))?;
    let entries: Vec<Entry> = members
        .iter()
        .zip(1..)
        .map(|(member, index)| {
            let change = ConfChange::Add(member.clone()).encode(0);
            Entry { index, term: 1, kind: EntryKind::ConfChange, data: change.encode_to_vec().into() }
        })
        .collect();
    let hard_state = HardState { term: 1, vote: 0, commit: entries.len() as u64 };
    wal.append(&wal::Batch { entries: &entries, hard_state: Some(hard_state) })?;
    wal.sync()?;
    log::info!(
        "starting local member",
        "local-member-id" => member_id,
        "cluster-id" => cluster_id
    );
    let conf_state = ConfState::new(ids.iter().map(|id| id.0).collect(), Vec::new());
    Ok(OpenLog { wal, member_id, cluster_id, snapshot: Snapshot::default(), entries, hard_state, conf_state })
}

/// Opens the log of a member that ran before, from the newest snapshot that the backend covers.
fn open_log(
    disk: Arc<dyn Disk>,
    options: &Options,
    snap_dir: &Path,
    wal_dir: &Path,
    backend: &Backend,
    db_path: &Path,
) -> Result<OpenLog, Error> {
    let newest = wal::newest_valid_snapshot(&*disk, wal_dir, |_| true)?.unwrap_or_default();
    let consistent = backend.consistent_position();
    if consistent.index < newest.position.index {
        return Err(Error::BackendBehind {
            path: db_path.to_owned(),
            index: consistent.index,
            snapshot: newest.position.index,
        });
    }
    let snapshot = if newest.position.index == 0 {
        Snapshot::default()
    } else {
        load_snapshot(&*disk, snap_dir, &newest)?
    };
    let (mut wal, replayed) = Wal::open(disk, wal_dir, newest.position, wal_options(options))?;
    if let Some(copy) = &replayed.repaired {
        log::warn!(
            "the log ended in a torn write, as a crash leaves it; the segment was copied and cut behind the last \
             whole record",
            "copy" => copy.display().to_string()
        );
    }
    let metadata = wal::format::decode_metadata(&replayed.metadata)
        .map_err(|error| Error::Metadata { dir: wal_dir.to_owned(), reason: error.to_string() })?;
    let last = replayed.entries.last().map_or(newest.position.index, |entry| entry.index);
    if consistent.index > last {
        return Err(Error::LogBehind { path: db_path.to_owned(), index: consistent.index, last });
    }
    let mut hard_state = replayed.hard_state;
    // A commit index is written without a sync, so it may be behind what was applied.
    hard_state.commit = hard_state.commit.max(newest.position.index).max(consistent.index);
    let mut entries = replayed.entries;
    if options.force_new_cluster {
        let (conf_state, index) = configuration(backend, &metadata, &snapshot)?;
        let added = force_new::start_over(metadata.member, &mut entries, &mut hard_state, &conf_state, index)
            .map_err(|source| Error::ConfChange { dir: wal_dir.to_owned(), source })?;
        wal.append(&wal::Batch { entries: &added, hard_state: Some(hard_state) })?;
        wal.sync()?;
        log::info!(
            "forcing restart member",
            "cluster-id" => metadata.cluster,
            "local-member-id" => metadata.member,
            "wal-commit-index" => replayed.hard_state.commit,
            "commit-index" => hard_state.commit
        );
    } else {
        log::info!(
            "restarting local member",
            "cluster-id" => metadata.cluster,
            "local-member-id" => metadata.member,
            "commit-index" => hard_state.commit
        );
    }
    Ok(OpenLog {
        wal,
        member_id: metadata.member,
        cluster_id: metadata.cluster,
        conf_state: snapshot.conf_state.clone(),
        snapshot,
        entries,
        hard_state,
    })
}

/// The newest configuration that is stored, and its index: that of the backend's members, or the
/// snapshot's where the backend has none.
fn configuration(
    backend: &Backend,
    metadata: &wal::Metadata,
    snapshot: &Snapshot,
) -> Result<(ConfState, u64), Error> {
    let consistent = backend.consistent_position().index;
    let cluster = apply::restore::cluster(&backend.view(), metadata.cluster, usize::MAX, &snapshot.data)?;
    let stored = apply::members::conf_state(&cluster);
    Ok(match stored.voters.is_empty() && stored.learners.is_empty() {
        true => (snapshot.conf_state.clone(), snapshot.position.index),
        false => (stored, consistent.max(snapshot.position.index)),
    })
}

/// The snapshot of a log record: from its file, or from the record alone where the file is gone
/// (the members come from the backend in any case).
fn load_snapshot(disk: &dyn Disk, snap_dir: &Path, record: &wal::WalSnapshot) -> Result<Snapshot, Error> {
    let loaded = wal::snap::load_newest(disk, snap_dir, &[record.position])?;
    for (path, reason) in &loaded.broken {
        log::warn!(
            "a snapshot file cannot be used and was set aside",
            "path" => path.display().to_string(),
            "error" => reason.to_string()
        );
    }
    Ok(match loaded.found {
        Some((_, snapshot)) => snapshot,
        None => Snapshot {
            position: record.position,
            conf_state: record.conf_state.clone().unwrap_or_default(),
            ..Snapshot::default()
        },
    })
}

fn assemble(options: &Options, backend: Backend, log: OpenLog) -> Result<Parts, Error> {
    if matches!(options.tokens, auth::tokens::TokenOptions::Simple { .. }) {
        log::warn!("simple token is not cryptographically signed");
    }
    let (store, restored) = Store::open(backend.clone())?;
    // The restore has touched every page of the file; hardly any of them is needed now.
    backend.release_resident();
    log::info!("kvstore restored", "current-rev" => store.current_revision());
    log_quota(options.quota);
    let store = Arc::new(store);

    let mut lessor = Lessor::new(lease::Options {
        minimum_ttl_seconds: lease::minimum_ttl_seconds(options.election_ticks, options.heartbeat),
        retry_interval: options.request_timeout(),
        checkpoint_interval: options.checkpoint_interval,
    });
    let view = backend.view();
    let lost = lessor.restore(apply::restore::leases(&view)?, restored.attachments);
    if lost > 0 {
        log::warn!("keys name leases that do not exist; they stay without a lease", "count" => lost as i64);
    }
    let alarms = apply::restore::alarms(&view)?;
    let cluster = apply::restore::cluster(&view, log.cluster_id, options.max_learners, &log.snapshot.data)?;
    check_learners(options, cluster.members())?;
    let server = options.compat.server_version();
    if let Some(version) = cluster.version() {
        if membership::is_server_too_old(server, Some(version)) {
            return Err(Error::ServerTooOld { server, cluster: version });
        }
        let text = format!("{}.{}", version.major, version.minor);
        log::info!("set cluster version from store", "cluster-version" => text);
    }
    let decided = cluster.version().map(|version| format!("{}.{}", version.major, version.minor));
    log::info!(
        "starting etcd server",
        "local-member-id" => log.member_id,
        "local-server-version" => server.to_string(),
        "cluster-version" => decided.unwrap_or_else(|| "to_be_decided".to_owned())
    );
    backend::schema::validate(&view, options.compat)?;
    let mut users = apply::restore::auth(&view)?;
    drop(view);
    if let Some(record) = users.begin() {
        let changes = vec![apply::auth_change(record)];
        backend.append(backend::WriteSet { changes, ..backend::WriteSet::default() });
    }

    let shared = Shared::new(cluster, alarms, lessor).with_auth(users, options.tokens.build()?);
    let shared = Arc::new(shared);
    let applier = Applier::new(
        apply::Options {
            member: log.member_id,
            compat: options.compat,
            quota: options.quota,
            bcrypt_cost: options.bcrypt_cost,
        },
        backend.clone(),
        store.clone(),
        shared.clone(),
    );
    // What the backend holds was decided when it was applied, refusals included: consensus goes on
    // from there. The members stored with it are the configuration at that entry.
    let consistent = backend.consistent_position().index;
    let (applied, conf_state) = match apply::members::conf_state(&shared.cluster()) {
        stored if consistent > log.snapshot.position.index && !stored.voters.is_empty() => {
            (consistent, stored)
        }
        _ => (log.snapshot.position.index, log.conf_state),
    };
    let config = member::Config {
        election_ticks: options.election_ticks as usize,
        pre_vote: options.pre_vote,
        applied,
        log: Some(Arc::new(raft_line)),
        ..member::Config::new(log.member_id.0)
    };
    let state = LogState {
        entries: log.entries,
        hard_state: log.hard_state,
        conf_state,
        snapshot: log.snapshot.position,
    };
    let step = options.catch_up_entries.clamp(1, 1000);
    let window = LogWindow::new(options.catch_up_entries, step, MAX_LOG_BYTES_IN_MEMORY);
    let member = Member::new(config, state, options.seed, window)?;
    Ok(Parts {
        member_id: log.member_id,
        cluster_id: log.cluster_id,
        backend,
        store,
        shared,
        applier,
        member,
        wal: log.wal,
        snapshot_index: log.snapshot.position.index,
        applied,
        resume_compaction: restored
            .resume_compaction
            .map(|job| job.with_batch(options.compaction_batch_limit)),
    })
}

/// A larger quota is taken, and warned of.
const MAX_QUOTA_BYTES: i64 = 8 << 30;

/// Says which quota holds.
fn log_quota(quota: Quota) {
    let bytes = quota.reported_bytes();
    let text = size::text(u64::try_from(bytes).unwrap_or_default());
    let is_default = bytes == Quota::from_flag(0).reported_bytes();
    let (name, size_field) = (("quota-name", "v3-applier".into()), ("quota-size-bytes", bytes.into()));
    match bytes {
        ..0 => log::info("disabled backend quota", &[name, size_field]),
        _ if is_default => {
            log::info(
                "enabled backend quota with default value",
                &[name, size_field, ("quota-size", text.into())],
            );
        }
        _ => {
            if bytes > MAX_QUOTA_BYTES {
                let most = size::text(MAX_QUOTA_BYTES as u64);
                log::warn!(
                    "quota exceeds the maximum value",
                    "quota-name" => "v3-applier",
                    "quota-size-bytes" => bytes,
                    "quota-size" => &text,
                    "quota-maximum-size-bytes" => MAX_QUOTA_BYTES,
                    "quota-maximum-size" => most
                );
            }
            log::info("enabled backend quota", &[name, size_field, ("quota-size", text.into())]);
        }
    }
}

/// A line of the consensus library, as upstream's logger `raft` prints them.
fn raft_line(level: consensus::Level, text: &str) {
    let raft = crate::log::named("raft");
    match level {
        consensus::Level::Debug => raft.debug(text, &[]),
        consensus::Level::Info => raft.info(text, &[]),
        consensus::Level::Warn => raft.warn(text, &[]),
        consensus::Level::Error => raft.error(text, &[]),
    }
}

/// Payload bytes of applied entries that stay in memory at most.
const MAX_LOG_BYTES_IN_MEMORY: u64 = 64 << 20;

fn wal_options(options: &Options) -> wal::Options {
    wal::Options { no_sync: options.no_sync, segment_bytes: options.wal_segment_bytes }
}

fn make_dir(disk: &dyn Disk, path: &Path) -> Result<(), Error> {
    disk.create_dir_all(path, 0o700).map_err(io_error("create directory", path))
}

/// Creates and removes a file, so that a read-only directory is found now and not at the first
/// write.
fn check_writable(disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
    let path = dir.join(".touch");
    disk.open(&path, env::OpenMode::Truncate(0o600)).map_err(io_error("cannot write to", dir))?;
    disk.remove_file(&path).map_err(io_error("remove", &path))
}

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::Io { action, path: path.to_owned(), source }
}
