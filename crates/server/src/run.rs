//! From a configuration to a serving member, and its orderly end.
//!
//! **Source**: etcd `server/embed/etcd.go`, `server/etcdmain/etcd.go`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use apply::Quota;
use env::Random;
use env::real::{OsRandom, RealClock, RealDisk};

use crate::bootstrap;
use crate::compactor::Retention;
use crate::config::auth_token;
use crate::config::duration::GoDuration;
use crate::config::gates::Gate;
use crate::config::url::Url;
use crate::config::{Config, startup};
use crate::discovery;
use crate::discovery::names::NamesError;
use crate::listeners::{Listeners, SocketFile};
use crate::log;
use crate::notes;
use crate::otlp::Tracer;
pub use crate::peers::REMOVED;
use crate::security::{Security, SecurityError};
use crate::start::{self, Running, StartError};

/// Time between two checkpoints of a long lease.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// The record of a start that failed in the registry of discovery, whatever the reason.
pub const TOKEN_USED: &str = "failed to bootstrap; discovery token was already used";

/// Why a member does not start or ends by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// An address could not be bound.
    #[error("listen {network} {address}: bind: {}", types::os_reason(source))]
    Listen {
        /// `tcp` or `unix`.
        network: &'static str,
        /// What was to be bound.
        address: String,
        /// Why not.
        source: std::io::Error,
    },
    /// Too few descriptors.
    #[error("file descriptor limit of etcd process is too low; please set higher")]
    Descriptors {
        /// The limit.
        limit: u64,
        /// What the member needs for itself; there have to be more.
        recommended: u64,
    },
    /// Its TLS.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// The DNS does not say who the first members are.
    #[error(transparent)]
    Names(#[from] NamesError),
    /// The same address twice, for different things.
    #[error("cannot bind both --listen-client-urls and --listen-client-http-urls on the same url {0}")]
    SameUrl(String),
    /// The member had to stop.
    #[error("{0}")]
    Fatal(String),
}

impl RunError {
    /// The record with which the start ends.
    pub fn record(&self) -> &'static str {
        match self {
            Self::Security(error) => error.record(),
            Self::Start(StartError::Discovery(_)) => TOKEN_USED,
            _ => "discovery failed",
        }
    }
}

/// A member that serves clients.
pub struct Serving {
    config: Config,
    running: Running,
    listeners: Vec<api::grpc::Serving>,
    socket_files: Vec<SocketFile>,
    tracer: Option<Arc<Tracer>>,
    runtime: tokio::runtime::Runtime,
}

/// Starts a member and returns when it serves clients. `ended` hears why, if it has to stop by
/// itself later; the disk is as the reason left it, and [`Serving::stop`] does not help any more.
///
/// # Errors
/// It did not start, or had to stop before it served.
pub fn start(config: &Config, ended: impl FnOnce(String) + Send + 'static) -> Result<Serving, RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| RunError::Start(StartError::Thread(source)))?;
    let discovered = discovery::begin(config)?;
    let config = discovered.as_ref().unwrap_or(config);
    let security = Security::new(config)?;
    let peer_security = security.of_peers()?;
    let mut listeners = Listeners::bind(config)?;
    let tracer = start_tracing(config)?;
    announce(config)?;
    notes::warn_of_settings(config);
    let (peers, socket_files) = (listeners.take_peer(&peer_security), listeners.take_files());
    let (disk, clock) = (Arc::new(RealDisk), Arc::new(RealClock::default()));
    let running = start::start(disk, clock, &options(config)?, peers, Some(peer_security))?;
    log::info!(
        "now serving peer/client/metrics",
        "local-member-id" => running.node.id(),
        "initial-advertise-peer-urls" => &config.advertise_peer_urls,
        "listen-peer-urls" => &config.listen_peer_urls,
        "advertise-client-urls" => &config.advertise_client_urls,
        "listen-client-urls" => &config.listen_client_urls,
        "listen-metrics-urls" => &config.listen_metrics_urls
    );
    let mut published = running.published.clone();
    let failed = runtime.block_on(async {
        tokio::select! {
            // The sender lives as long as the member.
            _ = published.wait_for(|published| *published) => None,
            reason = running.fatal.stopped() => Some(reason),
        }
    });
    if let Some(reason) = failed {
        log_end(&reason);
        return Err(RunError::Fatal(reason));
    }
    security.announce_client(config);
    let listeners = listeners.serve(config, &running, &security, tracer.clone())?;
    let fatal = running.fatal.clone();
    running.workers.spawn_on(0, move || async move {
        let reason = fatal.stopped().await;
        log_end(&reason);
        ended(reason);
    });
    Ok(Serving { config: config.clone(), running, listeners, socket_files, tracer, runtime })
}

/// Begins to export spans, if that is wanted.
fn start_tracing(config: &Config) -> Result<Option<Arc<Tracer>>, RunError> {
    let tracer =
        Tracer::start(&config.tracing).map_err(|error| RunError::Start(StartError::Thread(error)))?;
    if tracer.is_some() {
        log::info!("distributed tracing setup enabled");
        log::debug!(
            "distributed tracing enabled",
            "address" => &config.tracing.address,
            "service-name" => &config.tracing.service_name,
            "service-instance-id" => &config.tracing.instance_id,
            "sampling-rate" => config.tracing.sampling_rate_per_million
        );
    }
    Ok(tracer.map(Arc::new))
}

/// What an operator has to know about a member that was removed. Other reasons are reported by
/// whoever ends the process.
fn log_end(reason: &str) {
    if reason == REMOVED {
        log::warn!("server error", "error" => reason);
        log::warn!("data-dir used by this member must be removed");
    }
}

/// Writes the record that opens the log of every start.
fn announce(config: &Config) -> Result<(), RunError> {
    let wal_dir = config.wal_path();
    let member_initialized = wal::exists(&RealDisk, &wal_dir)
        .map_err(|error| RunError::Start(StartError::Bootstrap(error.into())))?;
    let initial_cluster = if member_initialized { String::new() } else { config.initial_cluster.clone() };
    let facts = startup::StartFacts {
        member_initialized,
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        initial_cluster,
        compaction_retention: config.compaction_retention().map_err(RunError::Fatal)?,
    };
    log::info("starting an etcd server", &startup::start_fields(config, &facts));
    Ok(())
}

impl Serving {
    /// Stops the member in order: requests, then everything that writes. What was acknowledged is
    /// on disk when this returns.
    pub fn stop(self) {
        let Self { config, running, listeners, socket_files, tracer, runtime } = self;
        log::info!("closing etcd server", "name" => &config.name, "data-dir" => &config.data_dir);
        running.node.begin_stop();
        let patience = config.request_timeout();
        let stops = listeners.iter().map(|listener| listener.shutdown(patience));
        runtime.block_on(futures_util::future::join_all(stops));
        runtime.block_on(running.node.leave_leadership());
        running.stop();
        socket_files.iter().for_each(SocketFile::remove);
        // A collector that does not answer may take its time here: nobody waits for this member.
        if let Some(tracer) = tracer {
            tracer.stop();
        }
        log::info!("closed etcd server", "name" => &config.name, "data-dir" => &config.data_dir);
    }
}

/// What the flags mean for the member.
fn options(config: &Config) -> Result<start::Options, RunError> {
    let texts = |urls: &[Url]| urls.iter().map(|url| url.as_str().to_owned()).collect::<Vec<_>>();
    let checkpoints = config.feature_gates.enabled(Gate::LeaseCheckpoint);
    Ok(start::Options {
        bootstrap: bootstrap::Options {
            name: config.name.clone(),
            data_dir: PathBuf::from(&config.data_dir),
            wal_dir: Some(PathBuf::from(&config.wal_dir)).filter(|_| !config.wal_dir.is_empty()),
            initial_cluster: config.initial_cluster.clone(),
            initial_cluster_token: config.initial_cluster_token.clone(),
            advertise_peer_urls: texts(&config.advertise_peer_urls),
            compat: config.compat_version,
            quota: Quota::from_flag(config.quota_backend_bytes),
            heartbeat: Duration::from_millis(config.heartbeat_interval_millis),
            election_ticks: u32::try_from(config.election_ticks()).unwrap_or(u32::MAX),
            pre_vote: config.pre_vote,
            catch_up_entries: config.snapshot_catchup_entries(),
            max_learners: usize::try_from(config.max_learners).unwrap_or_default(),
            backend_batch_limit: config.batch_limit(),
            compaction_batch_limit: config.compaction_batch(),
            checkpoint_interval: checkpoints.then_some(CHECKPOINT_INTERVAL),
            force_new_cluster: config.force_new_cluster,
            no_sync: config.unsafe_no_fsync,
            lock_memory: config.memory_mlock,
            defragment_from_bytes: Some(config.bootstrap_defrag_threshold_megabytes.saturating_mul(1 << 20))
                .filter(|bytes| *bytes > 0),
            wal_segment_bytes: wal::SEGMENT_BYTES,
            seed: OsRandom.next_u64(),
            tokens: auth_token::token_options(
                &config.auth_token,
                Duration::from_secs(config.auth_token_ttl_seconds),
            )
            .map_err(|error| RunError::Fatal(error.to_string()))?,
            bcrypt_cost: bcrypt_cost(config.bcrypt_cost),
        },
        initial_election_tick_advance: config.initial_election_tick_advance,
        local_address: local_address(config),
        raft_read_timeout: config.raft_read_timeout.to_std(),
        raft_write_timeout: config.raft_write_timeout.to_std(),
        strict_reconfig_check: config.strict_reconfig_check,
        client_cert_auth: config.client_tls.client_cert_auth,
        auth_recovery: config.auth_token.is_empty() && config.auth_recovery == "on",
        join_existing: !config.is_new_cluster(),
        discovery: Some(config.discovery.clone()).filter(|discovery| !discovery.endpoints.is_empty()),
        advertise_client_urls: texts(&config.advertise_client_urls),
        workers: 0,
        max_request_bytes: usize::try_from(config.max_request_bytes).unwrap_or(usize::MAX),
        max_txn_ops: usize::try_from(config.max_txn_ops).unwrap_or(usize::MAX),
        backend_batch_interval: config.batch_interval(),
        compaction_pause: config.compaction_pause(),
        slow_apply: config.warning_apply_duration.to_std(),
        snapshot_count: config.snapshot_count(),
        max_wals: usize::try_from(config.max_wals).unwrap_or_default(),
        max_snapshots: usize::try_from(config.max_snapshots).unwrap_or_default(),
        watch_progress_interval: config.progress_interval(),
        auto_compaction: retention(config)?,
        feature_gates: config.feature_gates.clone(),
        initial_corrupt_check: config.feature_gates.enabled(Gate::InitialCorruptCheck),
        corrupt_check_interval: interval(config.corrupt_check_time),
        compact_hash_check_interval: interval(config.compact_hash_check_time)
            .filter(|_| config.feature_gates.enabled(Gate::CompactHashCheck)),
        downgrade_check_interval: interval(config.downgrade_check_time),
    })
}

/// The gate `SetMemberLocalAddr`: connections to peers come from the first advertised address that
/// others can reach.
fn local_address(config: &Config) -> Option<std::net::IpAddr> {
    if !config.feature_gates.enabled(Gate::SetMemberLocalAddr) {
        return None;
    }
    let urls = &config.advertise_peer_urls;
    log::info!("searching for a suitable member local address in AdvertisePeerURLs",
        "advertise-peer-urls" => urls);
    let found = reachable_address(urls);
    match found {
        Some(address) => log::info!("setting member local address", "LocalAddr" => address.to_string()),
        None => log::warn!(
            "unable to set a member local address due to lack of suitable local addresses",
            "advertise-peer-urls" => urls
        ),
    }
    found
}

/// The first address among these URLs that means this machine to others.
fn reachable_address(urls: &[Url]) -> Option<std::net::IpAddr> {
    let mut addresses = urls.iter().filter_map(|url| url.hostname().parse::<std::net::IpAddr>().ok());
    addresses.find(|address| !address.is_loopback() && !address.is_unspecified())
}

/// The cost of hashing passwords; one that cannot be used is replaced, as upstream does.
fn bcrypt_cost(given: u64) -> u32 {
    use auth::password::{DEFAULT_COST, MAX_COST, MIN_COST};
    match u32::try_from(given) {
        Ok(cost) if (MIN_COST..=MAX_COST).contains(&cost) => cost,
        _ => {
            log::warn!(
                "use default bcrypt cost instead of the invalid given cost",
                "min-cost" => MIN_COST, "max-cost" => MAX_COST, "default-cost" => DEFAULT_COST, "given-cost" => given
            );
            DEFAULT_COST
        }
    }
}

/// A period; zero and less switch off what it is for.
fn interval(period: GoDuration) -> Option<Duration> {
    (period.as_nanos() > 0).then(|| period.to_std())
}

/// What automatic compaction keeps.
fn retention(config: &Config) -> Result<Option<Retention>, RunError> {
    let kept = config.compaction_retention().map_err(RunError::Fatal)?;
    Ok(match (kept.as_nanos(), config.auto_compaction_mode.as_str()) {
        (..=0, _) => None,
        (revisions, "revision") => Some(Retention::Revisions(revisions)),
        _ => Some(Retention::Period(kept.to_std())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_of_peer_connections_is_chosen() {
        let urls =
            |hosts: &[&str]| hosts.iter().map(|host| Url::from_parts("http", host)).collect::<Vec<_>>();
        let chosen = |hosts: &[&str]| reachable_address(&urls(hosts)).map(|address| address.to_string());
        assert_eq!(chosen(&["localhost:2380", "127.0.0.1:2380", "0.0.0.0:2380", "[::1]:2380"]), None);
        assert_eq!(
            chosen(&["localhost:2380", "10.0.0.7:2380", "10.0.0.8:2380"]).as_deref(),
            Some("10.0.0.7")
        );
        assert_eq!(chosen(&["[fd00::7]:2380"]).as_deref(), Some("fd00::7"));
    }

    #[test]
    fn intervals_are_upstreams() {
        let seconds = Duration::from_secs;
        let config = Config::default();
        assert_eq!((config.batch_interval(), config.batch_limit()), (Duration::from_millis(100), 10_000));
        assert_eq!(config.downgrade_check_time.to_std(), seconds(5));
        assert_eq!(config.compact_hash_check_time.to_std(), seconds(60));
        assert_eq!(config.progress_interval(), seconds(600));
        assert_eq!(config.request_timeout(), seconds(7));
        assert_eq!(crate::versions::VERSION_INTERVAL, seconds(4));
        assert_eq!(crate::duties::LEASE_INTERVAL, Duration::from_millis(500));
        assert_eq!(crate::duties::DESCRIPTOR_INTERVAL, seconds(600));
        assert_eq!(crate::start::PURGE_INTERVAL, seconds(30));
        assert_eq!(crate::driver::raft_thread::READ_INDEX_RETRY, Duration::from_millis(500));
        assert_eq!(CHECKPOINT_INTERVAL, seconds(300));
        assert!(
            retention(&config).is_ok_and(|kept| kept.is_none()),
            "nothing is compacted or rewritten by itself"
        );
        assert!(options(&config).is_ok_and(|options| options.bootstrap.defragment_from_bytes.is_none()));
    }
}
