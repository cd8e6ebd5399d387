//! Puts the parts of a member on their threads, and takes them down in order.
//!
//! Start: bootstrap, worker pool, log, backend, compaction, snapshot, watch, apply and raft threads,
//! then the duties. The member serves clients when it has published itself.
//! Stop: no more requests (the caller's part), then raft, the peers, apply, log, compaction, snapshots, the
//! backend with a last commit, watch.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use api::grpc::Workers;
use crossbeam_channel::RecvTimeoutError;
use env::{Clock, Disk};
use membership::Attributes;
use mvcc::watch::Hub;
use peer::net::{Dialer, Listener};
use peer::{Client, Identity, Transport};
use proto::etcdserverpb::AlarmType;
use tokio::sync::watch;
use types::{MemberId, Snapshot};

use crate::bootstrap::{self, Existing, Parts};
use crate::compactor::Retention;
use crate::config::gates::{FeatureGates, Gate};
use crate::corruption::{self, Asker};
use crate::discovery::registry::DiscoveryError;
use crate::driver::Input;
use crate::driver::apply_thread::{ApplyThread, ApplyWork};
use crate::driver::log_thread::{LogThread, LogWork, LogWriter};
use crate::driver::raft_thread::RaftThread;
use crate::driver::store_threads::{BackendSignal, CompactionThread, CompactionWork, run_snapshots};
use crate::duties;
use crate::fatal::Fatal;
use crate::join::{ask_cluster, discover};
use crate::lanes::{self, Answers, LANE_COUNT, Lanes};
use crate::log;
use crate::mailbox::{Sender, mailbox};
use crate::metrics::Metrics;
use crate::node::{Inner, Node};
use crate::peers::{self, Inbox, PeerSide};
use crate::progress::Progress;
use crate::reads::Reads;
use crate::versions;

/// Between two pieces of log space: 8 MB/s of zeros. Syncs of a log that grows faster carry many
/// entries each, so they gain less from the zeros than writing them would cost.
const PREPARE_PAUSE: Duration = Duration::from_millis(32);
/// How often old files are looked for.
pub(crate) const PURGE_INTERVAL: Duration = Duration::from_secs(30);

/// How to run a member.
#[derive(Clone, Debug)]
pub struct Options {
    /// What it is made from.
    pub bootstrap: bootstrap::Options,
    /// `--initial-cluster-state existing`.
    pub join_existing: bool,
    /// The registry in which a new cluster finds its members.
    pub discovery: Option<crate::config::Discovery>,
    /// `--initial-election-tick-advance`.
    pub initial_election_tick_advance: bool,
    /// The address that connections to peers come from, if it was chosen.
    pub local_address: Option<std::net::IpAddr>,
    /// `--raft-read-timeout`.
    pub raft_read_timeout: Duration,
    /// `--raft-write-timeout`.
    pub raft_write_timeout: Duration,
    /// `--strict-reconfig-check`.
    pub strict_reconfig_check: bool,
    /// `--client-cert-auth`.
    pub client_cert_auth: bool,
    /// An empty kind of tokens opens the Auth service to callers on this machine.
    pub auth_recovery: bool,
    /// `--advertise-client-urls`.
    pub advertise_client_urls: Vec<String>,
    /// Worker threads; 0 = one per core.
    pub workers: usize,
    /// Largest encoded request in bytes.
    pub max_request_bytes: usize,
    /// `--max-txn-ops`.
    pub max_txn_ops: usize,
    /// Longest time before a backend batch is committed.
    pub backend_batch_interval: Duration,
    /// Pause between two compaction batches.
    pub compaction_pause: Duration,
    /// Requests that take longer to apply or to read are told.
    pub slow_apply: Duration,
    /// Applied entries between two disk snapshots.
    pub snapshot_count: u64,
    /// Log files kept; 0 = all.
    pub max_wals: usize,
    /// Snapshot files kept; 0 = all.
    pub max_snapshots: usize,
    /// Time between progress notifications of idle watchers.
    pub watch_progress_interval: Duration,
    /// What automatic compaction keeps; `None` = everything.
    pub auto_compaction: Option<Retention>,
    /// Features that are on.
    pub feature_gates: FeatureGates,
    /// Whether the data is compared with that of the others before anything is served.
    pub initial_corrupt_check: bool,
    /// How often the leader compares the data of all members, if at all.
    pub corrupt_check_interval: Option<Duration>,
    /// How often the leader compares the hashes of compactions, if at all.
    pub compact_hash_check_interval: Option<Duration>,
    /// How often the leader looks whether a downgrade is complete, if at all.
    pub downgrade_check_interval: Option<Duration>,
}

/// A running member.
pub struct Running {
    /// The handle to it.
    pub node: Node,
    /// Its worker threads.
    pub workers: Arc<Workers>,
    /// Where its end is reported.
    pub fatal: Fatal,
    /// Raised when the member has published itself and can serve clients.
    pub published: watch::Receiver<bool>,
    stop: Stop,
}

/// What stopping needs.
struct Stop {
    to_raft: Sender<Input>,
    to_apply: Sender<ApplyWork>,
    to_log: Sender<LogWork>,
    compaction_stop: crossbeam_channel::Sender<()>,
    backend: BackendSignal,
    hub: Hub,
    purge_stop: crossbeam_channel::Sender<()>,
    raft: JoinHandle<()>,
    apply: JoinHandle<()>,
    log: JoinHandle<()>,
    compaction: JoinHandle<()>,
    snapshots: JoinHandle<()>,
    backend_thread: JoinHandle<()>,
    watch: JoinHandle<()>,
    purge: JoinHandle<()>,
    preparer: JoinHandle<()>,
    transport: Transport,
    peer_side: Arc<PeerSide>,
}

/// Why a member did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its directory or its cluster.
    #[error(transparent)]
    Bootstrap(#[from] bootstrap::Error),
    /// A peer URL of this member.
    #[error(transparent)]
    PeerUrl(#[from] peer::BadUrl),
    /// The cluster to join did not answer.
    #[error("cannot fetch cluster info from peer urls: {0}")]
    Join(#[from] peer::ClusterError),
    /// The cluster knows this member, but its data is gone.
    #[error("member {0} has already been bootstrapped")]
    AlreadyBootstrapped(MemberId),
    /// The registry of discovery.
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    /// The cluster to join runs another version.
    #[error("incompatible with current running cluster")]
    Incompatible,
    /// Its data is not that of the others.
    #[error(transparent)]
    Corrupt(#[from] corruption::InitialError),
    /// Threads.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Starts a member. Returns when its threads run; see [`Running::published`]. `security` encrypts
/// connections to peers.
///
/// # Errors
/// Everything that keeps it from starting.
pub fn start(
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    options: &Options,
    listeners: Vec<Listener>,
    security: Option<Arc<dyn peer::net::Security>>,
) -> Result<Running, StartError> {
    let mut options = options.clone();
    let setup = &options.bootstrap;
    let dialer = Dialer::new(setup.election_timeout() + Duration::from_secs(1), security)
        .from_address(options.local_address);
    let client = Client::new(dialer.clone(), peers::log_lines());
    let is_restart = wal::exists(&*disk, &setup.wal_dir()).map_err(bootstrap::Error::from)?;
    let existing = ask_cluster(&*disk, &options, &client)?;
    if let Some(found) = discover(&options, is_restart)? {
        options.bootstrap.initial_cluster = found.to_string();
    }
    let options = &options;
    let lock_wait = Arc::new(|| {
        log::info!("db file is flocked by another process, or taking too long");
    });
    let parts = bootstrap::bootstrap(disk.clone(), &clock, &options.bootstrap, existing.as_ref(), lock_wait)?;
    if is_restart && options.initial_corrupt_check {
        compare_data(options, &parts, &client)?;
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let count = if options.workers == 0 { cores } else { options.workers };
    // One lane stays free of clients for the member's own proposals if there are many cores.
    let workers = Arc::new(Workers::start(count.min(usize::from(LANE_COUNT)), "worker")?);
    let network = Network { dialer, client, listeners, existing };
    Assembly::new(disk, clock, options, parts, workers).run(network)
}

/// What a member talks to others with.
struct Network {
    dialer: Dialer,
    client: Client,
    listeners: Vec<Listener>,
    /// The cluster that is joined.
    existing: Option<Existing>,
}

/// A new member has nothing to compare yet.
fn compare_data(options: &Options, parts: &Parts, client: &Client) -> Result<(), StartError> {
    let asker = Asker {
        client,
        cluster_id: parts.cluster_id,
        own: parts.member_id,
        timeout: options.bootstrap.request_timeout(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let cluster = parts.shared.cluster();
    Ok(runtime.block_on(corruption::check_at_start(&asker, &cluster, &parts.store))?)
}

struct Assembly<'a> {
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    options: &'a Options,
    parts: Parts,
    workers: Arc<Workers>,
    fatal: Fatal,
    metrics: Arc<Metrics>,
    progress: Arc<Progress>,
    lanes: Arc<Lanes>,
}

impl<'a> Assembly<'a> {
    fn new(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        options: &'a Options,
        parts: Parts,
        workers: Arc<Workers>,
    ) -> Self {
        let started_ms = u64::try_from(clock.unix().as_millis()).unwrap_or_default();
        let lanes = Lanes::new(parts.member_id, started_ms);
        Self {
            disk,
            clock,
            options,
            parts,
            workers,
            fatal: Fatal::default(),
            metrics: Arc::default(),
            progress: Arc::default(),
            lanes,
        }
    }

    fn run(self, network: Network) -> Result<Running, StartError> {
        let Self { disk, clock, options, parts, workers, fatal, metrics, progress, lanes } = self;
        let setup = &options.bootstrap;
        let (version, quota) = (setup.compat.server_version(), setup.quota.reported_bytes());
        metrics.identify(parts.member_id, version, &options.feature_gates, quota);
        if let Some(agreed) = parts.shared.cluster().version() {
            metrics.agree_on_cluster_version(agreed);
        }
        progress.applied.store(parts.applied, Ordering::Release);
        progress.applied_term.store(parts.applier.position().term, Ordering::Release);
        let (to_raft, inputs) = mailbox();
        let (to_log, log_work) = mailbox();
        let (to_apply, apply_work) = mailbox();
        let (to_compaction, compaction_work) = mailbox();
        let (to_snapshots, mut snapshot_work) = mailbox::<Snapshot>();
        let (compaction_stop, compaction_stopped) = crossbeam_channel::bounded(1);
        let (to_duties, duty_queue) = tokio::sync::mpsc::unbounded_channel();
        let stopping = watch::Sender::new(false);
        let (compacted, last_compacted) = watch::channel(parts.store.compacted_revision());
        let (published, is_published) = watch::channel(false);
        let backend = BackendSignal::new(parts.backend.clone(), setup.backend_batch_limit);
        let (hub, hub_worker) = Hub::new(parts.store.clone(), watch_options(options));

        if let Some(job) = parts.resume_compaction {
            compacted.send_replace(job.revision() - 1);
            let _ = to_compaction.send(CompactionWork { job });
        }

        let mut preparer = parts.wal.preparer();
        let (prepare, prepare_requests) = crossbeam_channel::bounded::<()>(1);
        let preparer = spawn("wal-prepare", move || {
            let mut asked = prepare_requests.recv();
            while asked.is_ok() {
                match preparer.step() {
                    Ok(wal::Prepared::More) => match prepare_requests.recv_timeout(PREPARE_PAUSE) {
                        Err(RecvTimeoutError::Disconnected) => break,
                        Ok(()) | Err(RecvTimeoutError::Timeout) => continue,
                    },
                    Ok(wal::Prepared::Done) => {}
                    Err(error) => {
                        log::warn!("cannot prepare space for the log", "error" => error.to_string());
                    }
                }
                asked = prepare_requests.recv();
            }
        })?;
        let _ = prepare.try_send(());

        let started_ms = u64::try_from(clock.unix().as_millis()).unwrap_or_default();
        let reads = Arc::new(Reads::new(parts.member_id, started_ms));
        let inbox = Arc::new(Inbox::default());
        let peer_side = Arc::new(PeerSide::new(
            parts.cluster_id,
            parts.shared.clone(),
            inbox.clone(),
            to_raft.clone(),
            to_apply.clone(),
            fatal.clone(),
            &workers,
        ));
        let own_urls = parts.shared.cluster().member(parts.member_id).map(|own| own.peer_urls.clone());
        let own_urls = own_urls.unwrap_or_else(|| setup.advertise_peer_urls.clone());
        let transport = Transport::start(
            peer::Config {
                identity: Identity::new(parts.member_id, parts.cluster_id, setup.compat, &own_urls)?,
                handler: peer_side.clone(),
                dialer: network.dialer,
                read_timeout: options.raft_read_timeout,
                write_timeout: options.raft_write_timeout,
                snapshot_dir: setup.snap_dir(),
                disk: disk.clone(),
                log: peers::log_lines(),
            },
            network.listeners,
        )?;
        for member in network.existing.iter().flat_map(|existing| &existing.members) {
            transport.add_remote(member.id, &member.peer_urls)?;
        }

        let alarms = parts.shared.alarms().list(AlarmType::None as i32);
        let log_writer = LogWriter { wal: parts.wal, prepare, metrics: metrics.clone() };
        let log_writer = Arc::new(parking_lot::Mutex::new(log_writer));
        let log_thread = LogThread {
            log: log_writer.clone(),
            work: log_work,
            to_apply: to_apply.clone(),
            last_snapshot: parts.snapshot_index,
            to_raft: to_raft.clone(),
            disk: disk.clone(),
            snap_dir: setup.snap_dir(),
            metrics: metrics.clone(),
            fatal: fatal.clone(),
        };
        let raft_thread = RaftThread {
            member: parts.member,
            inputs,
            to_log: to_log.clone(),
            log: log_writer,
            handed_over: None,
            to_apply: to_apply.clone(),
            transport: transport.clone(),
            inbox,
            reads: reads.clone(),
            progress: progress.clone(),
            metrics: metrics.clone(),
            heartbeat: setup.heartbeat,
            fatal: fatal.clone(),
        };
        let mut apply_thread = ApplyThread {
            applier: parts.applier,
            member_id: parts.member_id,
            server_version: version,
            shared: parts.shared.clone(),
            work: apply_work,
            to_raft: to_raft.clone(),
            answers: Answers::new(lanes.clone()),
            hub: hub.clone(),
            backend: backend.clone(),
            compactions: to_compaction,
            snapshots: to_snapshots,
            duties: to_duties,
            progress: progress.clone(),
            metrics: metrics.clone(),
            clock: clock.clone(),
            lease_extension: setup.election_timeout(),
            slow_apply: options.slow_apply,
            snapshot_count: options.snapshot_count,
            compaction_batch_limit: setup.compaction_batch_limit,
            last_snapshot: parts.snapshot_index,
            snapshot_wanted: false,
            next_snapshot: Duration::ZERO,
            alarms,
            leadership: member::Leadership::default(),
            transport: transport.clone(),
            peers: BTreeMap::new(),
            reads: reads.clone(),
            disk: disk.clone(),
            snap_dir: setup.snap_dir(),
            fatal: fatal.clone(),
        };
        apply_thread.follow_members();
        let compaction_thread = CompactionThread {
            store: parts.store.clone(),
            backend: backend.clone(),
            work: compaction_work,
            pause: options.compaction_pause,
            stop: compaction_stopped,
            finished: compacted,
            metrics: metrics.clone(),
            fatal: fatal.clone(),
        };

        let watch_clock = clock.clone();
        let node = Node::new(Inner {
            id: parts.member_id,
            cluster_id: parts.cluster_id,
            compat: setup.compat,
            quota: setup.quota,
            max_request_bytes: options.max_request_bytes,
            request_timeout: setup.request_timeout(),
            attributes: Attributes {
                name: setup.name.clone(),
                client_urls: options.advertise_client_urls.clone(),
            },
            store: parts.store,
            backend: parts.backend.clone(),
            shared: parts.shared,
            hub: hub.clone(),
            lanes: lanes.clone(),
            progress: progress.clone(),
            metrics: metrics.clone(),
            clock,
            compacted: last_compacted,
            api: api::member::Config {
                cluster_id: parts.cluster_id,
                member_id: parts.member_id,
                compat: setup.compat,
                max_request_bytes: options.max_request_bytes,
                max_txn_ops: options.max_txn_ops,
                quota: setup.quota,
                progress_notify_interval: options.watch_progress_interval,
                request_timeout: setup.request_timeout(),
                client_cert_auth: options.client_cert_auth,
                auth_recovery: options.auth_recovery,
                slow_apply: options.slow_apply,
                election_timeout: setup.election_timeout(),
            },
            passwords: api::services::Passwords::new(setup.bcrypt_cost),
            transport: transport.clone(),
            client: network.client,
            reads,
            to_raft: to_raft.clone(),
            strict_reconfig_check: options.strict_reconfig_check,
            stopping,
            serving: watch::Sender::new(true),
            stop_serving_on_defrag: options.feature_gates.enabled(Gate::StopGrpcServiceOnDefrag),
            priority_requests: options.feature_gates.enabled(Gate::PriorityRequest),
            db_path: setup.snap_dir().join("db"),
        });
        peer_side.set_node(Some(node.clone()));

        for worker in 0..workers.count() {
            let (lanes, to_raft, progress) = (lanes.clone(), to_raft.clone(), progress.clone());
            let lane = u8::try_from(worker).unwrap_or_default();
            workers.spawn_on(worker, move || lanes::enter(&lanes, lane, to_raft, progress));
        }
        let duties_node = node.clone();
        let duties_fatal = fatal.clone();
        workers.spawn_on(0, move || duties::run(duties_node, duty_queue, published, duties_fatal));
        let starting = node.clone();
        let (wanted, ticks) = (options.initial_election_tick_advance, setup.election_ticks);
        workers.spawn_on(0, move || duties::advance_first_election(starting, wanted, ticks));
        if let Some(retention) = options.auto_compaction {
            let compacting = node.clone();
            workers.spawn_on(0, move || duties::compact(compacting, retention));
        }
        if let Some(period) = options.corrupt_check_interval {
            let checking = node.clone();
            workers.spawn_on(0, move || corruption::watch(checking, period));
        }
        if let Some(period) = options.compact_hash_check_interval {
            let checking = node.clone();
            workers.spawn_on(0, move || corruption::watch_compactions(checking, period));
        }
        if let Some(period) = options.downgrade_check_interval {
            let watching = node.clone();
            workers.spawn_on(0, move || versions::watch_downgrade(watching, period));
        }

        let (purge_stop, purge_stopped) = crossbeam_channel::bounded(1);
        let stop = Stop {
            raft: spawn_prompt("raft", move || raft_thread.run())?,
            apply: spawn_prompt("apply", move || apply_thread.run())?,
            log: spawn_prompt("wal", move || log_thread.run())?,
            compaction: spawn("compaction", move || compaction_thread.run())?,
            snapshots: {
                let (backend, to_log, fatal) = (parts.backend.clone(), to_log.clone(), fatal.clone());
                spawn("snapshot", move || run_snapshots(&mut snapshot_work, &backend, &to_log, &fatal))?
            },
            backend_thread: {
                let (signal, interval) = (backend.clone(), options.backend_batch_interval);
                let (metrics, fatal) = (metrics, fatal.clone());
                spawn("backend", move || signal.run(interval, &metrics, &fatal))?
            },
            watch: spawn("watch", move || {
                hub_worker.run(
                    move || watch_clock.now(),
                    |error| log::error!("watch", "error" => crate::log::Value::error(&error)),
                );
            })?,
            purge: {
                let (disk, options, backend) = (disk, options.clone(), parts.backend.clone());
                spawn("purge", move || {
                    log_purges(&options);
                    while purge_stopped.recv_timeout(PURGE_INTERVAL).is_err_and(|error| error.is_timeout()) {
                        purge(&*disk, &options);
                        // Pages of the mapped file that were read once stay resident otherwise; those
                        // in use come back at the price of a minor fault each.
                        backend.release_resident();
                    }
                })?
            },
            preparer,
            transport,
            peer_side,
            to_raft,
            to_apply,
            to_log,
            compaction_stop,
            backend,
            hub,
            purge_stop,
        };
        Ok(Running { node, workers, fatal, published: is_published, stop })
    }
}

impl Running {
    /// Stops the member: everything that was acknowledged is on disk when this returns. Requests
    /// must have been stopped before. Blocks for the length of a backend commit.
    pub fn stop(self) {
        let Stop {
            to_raft,
            to_apply,
            to_log,
            compaction_stop,
            backend,
            hub,
            purge_stop,
            raft,
            apply,
            log,
            compaction,
            snapshots,
            backend_thread,
            watch,
            purge,
            preparer,
            transport,
            peer_side,
        } = self.stop;
        let _ = purge_stop.try_send(());
        let _ = compaction_stop.try_send(());
        // Each thread ends after the one that feeds it, so that nothing waits in a queue for ever.
        // A send fails, and a join gives an error, when the thread has ended already by itself;
        // then the reason was reported.
        let _ = to_raft.send(Input::Stop);
        let _ = raft.join();
        transport.stop();
        peer_side.set_node(None);
        let _ = to_apply.send(ApplyWork::Stop);
        let _ = apply.join();
        let _ = compaction.join();
        let _ = snapshots.join();
        let _ = to_log.send(LogWork::Stop);
        let _ = log.join();
        backend.stop();
        let _ = backend_thread.join();
        hub.close();
        let _ = watch.join();
        let _ = purge.join();
        let _ = preparer.join();
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
}

/// A thread on the way of every write.
fn spawn_prompt(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    spawn(name, move || {
        env::turns::shorten();
        run();
    })
}

fn purge(disk: &dyn Disk, options: &Options) {
    let setup = &options.bootstrap;
    remove_old(disk, &setup.wal_dir(), ".wal", options.max_wals);
    remove_old(disk, &setup.snap_dir(), ".snap", options.max_snapshots);
    remove_old(disk, &setup.snap_dir(), ".snap.db", options.max_snapshots);
}

fn log_purges(options: &Options) {
    let (snap, wal) = (options.bootstrap.snap_dir(), options.bootstrap.wal_dir());
    for (dir, suffix, keep) in [
        (&snap, "snap.db", options.max_snapshots),
        (&snap, "snap", options.max_snapshots),
        (&wal, "wal", options.max_wals),
    ] {
        if keep > 0 {
            log::info!(
                "started to purge file",
                "dir" => dir.display().to_string(),
                "suffix" => suffix,
                "max" => keep,
                "interval" => PURGE_INTERVAL
            );
        }
    }
}

fn remove_old(disk: &dyn Disk, dir: &Path, suffix: &str, keep: usize) {
    if keep == 0 {
        return;
    }
    match wal::purge(disk, dir, suffix, keep) {
        Ok(removed) => {
            for path in removed {
                log::info!("purged", "path" => path.display().to_string());
            }
        }
        Err(error) => log::warn!("failed to purge old files", "error" => error.to_string()),
    }
}

fn watch_options(options: &Options) -> mvcc::watch::Options {
    mvcc::watch::Options {
        progress_interval: options.watch_progress_interval,
        seed: options.bootstrap.seed,
        ..Default::default()
    }
}
