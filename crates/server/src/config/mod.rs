//! Everything the server program can be told, and how it is told.
//!
//! * [`Config`] holds the settings, typed.
//! * [`table`] is the one list of settings: flag, variable, file key, type, place in [`Config`] and
//!   help text of each. Flags, environment, file, usage text and the "not yet" list all walk it.
//! * [`load()`] reads command line, environment and file and hands back a configuration together
//!   with the log records that the reading produced. It does no I/O of its own except through the
//!   reader it is given, and never logs or exits: the program decides.
//!
//! Precedence: a configuration file, once named, is the only source. Without one a flag wins over
//! a variable over the default, and giving both is refused.
//!
//! Source: behaviour of etcd 3.7.1 `server/embed/config.go`, `server/etcdmain`, `pkg/flags`.

pub mod auth_token;
pub mod duration;
mod environment;
mod file;
mod flags;
pub mod gates;
mod load;
mod removed;
pub mod scalars;
pub mod secrets;
pub mod startup;
pub mod table;
pub mod url;
mod usage;
mod validate;
mod yaml;

use std::collections::BTreeSet;
use std::path::PathBuf;

use types::CompatVersion;

use duration::GoDuration;
use gates::FeatureGates;
use url::Url;

pub use load::{Failure, Loaded, Notice, Outcome, load, read_file};
pub use usage::{USAGE_LINES, flags_text, version_text};
pub use validate::RuleError;

/// Certificates and rules of one kind of listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate of the listener.
    pub cert_file: String,
    /// Key of the listener.
    pub key_file: String,
    /// Certificate shown when this member dials.
    pub client_cert_file: String,
    /// Key of that certificate.
    pub client_key_file: String,
    /// Whether the other side must show a certificate.
    pub client_cert_auth: bool,
    /// CA bundle that the other side is checked against.
    pub trusted_ca_file: String,
    /// Revocation list.
    pub crl_file: String,
    /// Common names that are let in; empty lets all in.
    pub allowed_cns: Vec<String>,
    /// Host names that are let in; empty lets all in.
    pub allowed_hostnames: Vec<String>,
    /// Whether the dialler's address is not compared with its certificate.
    pub skip_client_san_verification: bool,
    /// Generate a self-signed certificate.
    pub auto_tls: bool,
}

/// Access to the registry of discovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// Name of the cluster in the registry.
    pub token: String,
    /// gRPC endpoints of the registry.
    pub endpoints: Vec<String>,
    /// Limit of one dial.
    pub dial_timeout: GoDuration,
    /// Limit of one request.
    pub request_timeout: GoDuration,
    /// Ping period.
    pub keepalive_time: GoDuration,
    /// Wait for the answer to a ping.
    pub keepalive_timeout: GoDuration,
    /// Plain text connections.
    pub insecure_transport: bool,
    /// Do not verify the registry's certificate.
    pub insecure_skip_tls_verify: bool,
    /// Client certificate.
    pub cert_file: String,
    /// Client key.
    pub key_file: String,
    /// CA bundle.
    pub ca_file: String,
    /// Server name expected in the certificate; file only.
    pub server_name: String,
    /// User name.
    pub user: String,
    /// Password.
    pub password: String,
    /// Ready-made token; file only.
    pub auth_token: String,
    /// Largest request; file only.
    pub max_request_bytes: i64,
    /// Largest answer; file only.
    pub max_recv_bytes: i64,
}

/// Export of spans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracing {
    /// Whether spans are exported at all.
    pub enabled: bool,
    /// Collector, `host:port`.
    pub address: String,
    /// Resource attribute `service.name`.
    pub service_name: String,
    /// Resource attribute `service.instance.id`.
    pub instance_id: String,
    /// Samples per million root spans.
    pub sampling_rate_per_million: i64,
}

/// Where log records go and which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logging {
    /// Name of the logging library; `zap` is the only word.
    pub logger: String,
    /// Destinations.
    pub outputs: Vec<String>,
    /// Lowest level written.
    pub level: String,
    /// `json` or `console`.
    pub format: String,
    /// Rotate the one log file.
    pub rotation_enabled: bool,
    /// How to rotate it.
    pub rotation_json: String,
}

/// The settings of one member. Units are in the names; spans of time are typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The etcd release this member stands in for.
    pub compat_version: CompatVersion,

    /// Human-readable name.
    pub name: String,
    /// Directory that holds `member/`; empty until [`startup::resolve_data_dir`] fills it.
    pub data_dir: String,
    /// Directory of the log segments; empty means below `data_dir`.
    pub wal_dir: String,
    /// Applied entries between raft snapshots; 0 means the built-in count, see [`Config::snapshot_count`].
    pub snapshot_count: u64,
    /// Log entries kept behind a compaction for slow followers; 0 means 5,000.
    pub snapshot_catchup_entries: u64,
    /// Raft snapshot files kept; 0 keeps all.
    pub max_snapshots: u64,
    /// Log segments kept; 0 keeps all.
    pub max_wals: u64,
    /// Length of a raft tick.
    pub heartbeat_interval_millis: u64,
    /// Silence of the leader after which a follower campaigns.
    pub election_timeout_millis: u64,
    /// Skip most of the first election timeout.
    pub initial_election_tick_advance: bool,

    /// Longest time before the backend batch commits; 0 means 100 ms.
    pub backend_batch_interval: GoDuration,
    /// Operations before the backend batch commits; 0 means 10,000.
    pub backend_batch_limit: i64,
    /// `array`, or anything else for the map.
    pub backend_freelist_type: String,
    /// Backend size that raises NOSPACE; 0 means 2 GiB, negative turns the quota off.
    pub quota_backend_bytes: i64,
    /// Operations in one branch of a transaction.
    pub max_txn_ops: u64,
    /// Largest client request.
    pub max_request_bytes: u64,
    /// HTTP/2 streams per client connection.
    pub max_concurrent_streams: u32,
    /// Shortest interval between pings of a client.
    pub grpc_keepalive_min_time: GoDuration,
    /// Interval between pings of the server.
    pub grpc_keepalive_interval: GoDuration,
    /// Wait for the answer to a ping.
    pub grpc_keepalive_timeout: GoDuration,
    /// SO_REUSEPORT on listeners.
    pub socket_reuse_port: bool,
    /// SO_REUSEADDR on listeners.
    pub socket_reuse_address: bool,
    /// Read deadline of peer connections.
    pub raft_read_timeout: GoDuration,
    /// Write deadline of peer connections.
    pub raft_write_timeout: GoDuration,
    /// Keep the member's memory out of swap.
    pub memory_mlock: bool,

    /// Addresses for peers.
    pub listen_peer_urls: Vec<Url>,
    /// Addresses for clients: gRPC, and HTTP unless that is split off.
    pub listen_client_urls: Vec<Url>,
    /// Addresses for HTTP alone.
    pub listen_client_http_urls: Vec<Url>,
    /// Extra addresses for metrics and health.
    pub listen_metrics_urls: Vec<Url>,
    /// Peer addresses told to the cluster.
    pub advertise_peer_urls: Vec<Url>,
    /// Client addresses told to the cluster.
    pub advertise_client_urls: Vec<Url>,

    /// `name=url,…` of the first members.
    pub initial_cluster: String,
    /// `new` or `existing`.
    pub initial_cluster_state: String,
    /// Salt of cluster and member ids.
    pub initial_cluster_token: String,
    /// Discovery through a registry.
    pub discovery: Discovery,
    /// Discovery through DNS: the domain.
    pub discovery_srv: String,
    /// Discovery through DNS: suffix of the service names.
    pub discovery_srv_name: String,
    /// Only `exit` is left.
    pub discovery_fallback: String,
    /// The name that peers have to show in their certificates, whatever their address; empty for that of
    /// each URL. No setting: follows from discovery by the DNS.
    pub peer_server_name: String,
    /// Refuse membership changes that would lose the quorum.
    pub strict_reconfig_check: bool,
    /// Raft pre-vote.
    pub pre_vote: bool,
    /// `periodic` or `revision`.
    pub auto_compaction_mode: String,
    /// How much history stays; see [`Config::compaction_retention`].
    pub auto_compaction_retention: String,
    /// Accepted and without effect.
    pub v2_deprecation: Vec<String>,

    /// Client side TLS.
    pub client_tls: TlsFiles,
    /// Peer side TLS.
    pub peer_tls: TlsFiles,
    /// Lifetime of generated certificates in years.
    pub self_signed_cert_validity_years: u64,
    /// TLS 1.2 suites.
    pub cipher_suites: Vec<String>,
    /// Lowest TLS version.
    pub tls_min_version: String,
    /// Highest TLS version, empty for the highest there is.
    pub tls_max_version: String,
    /// Origins allowed by CORS.
    pub cors: Vec<String>,
    /// Host headers accepted on plain HTTP.
    pub host_whitelist: Vec<String>,

    /// Token provider and its options.
    pub auth_token: String,
    /// `on`: an empty kind of tokens lets local callers manage users; `off`: it lets nobody.
    pub auth_recovery: String,
    /// Cost of a password hash.
    pub bcrypt_cost: u64,
    /// Idle lifetime of simple tokens.
    pub auth_token_ttl_seconds: u64,

    /// Serve `/debug/pprof/`.
    pub enable_pprof: bool,
    /// `basic` or `extensive`.
    pub metrics: String,
    /// Logging.
    pub log: Logging,
    /// Unary calls slower than this are logged at warn.
    pub warning_unary_request_duration: GoDuration,
    /// Tracing.
    pub tracing: Tracing,

    /// JSON gateway below `/v3/`.
    pub enable_grpc_gateway: bool,
    /// Feature gates.
    pub feature_gates: FeatureGates,
    /// Period of the full comparison of data; 0 is off.
    pub corrupt_check_time: GoDuration,
    /// Period of the comparison of compaction hashes.
    pub compact_hash_check_time: GoDuration,
    /// Revisions deleted per step of a compaction; 0 means 1,000.
    pub compaction_batch_limit: i64,
    /// Pause between two steps; 0 means 10 ms.
    pub compaction_sleep_interval: GoDuration,
    /// Period of progress messages; 0 means 10 minutes.
    pub watch_progress_notify_interval: GoDuration,
    /// Period of the downgrade check.
    pub downgrade_check_time: GoDuration,
    /// Applying slower than this is logged at warn.
    pub warning_apply_duration: GoDuration,
    /// Defragment at start when at least this much is free; 0 is off.
    pub bootstrap_defrag_threshold_megabytes: u64,
    /// Most learners in the cluster.
    pub max_learners: i64,

    /// Never sync.
    pub unsafe_no_fsync: bool,
    /// Start over as a cluster of one.
    pub force_new_cluster: bool,

    /// The configuration file that was read, or empty.
    pub config_file: String,
    /// Settings that were given, by flag name or top-level file key.
    pub given: BTreeSet<String>,

    /// `--version` was asked for.
    pub show_version: bool,
}

const DEFAULT_PEER_URL: &str = "http://localhost:2380";
const DEFAULT_CLIENT_URL: &str = "http://localhost:2379";
const DEFAULT_NAME: &str = "default";
pub(crate) const DEFAULT_ROTATION: &str =
    r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#;
const DEFAULT_SNAPSHOT_COUNT: u64 = 10_000;
const SNAPSHOT_COUNT_3_5: u64 = 100_000;

impl Default for Config {
    fn default() -> Self {
        let peer = vec![Url::from_parts("http", "localhost:2380")];
        let client = vec![Url::from_parts("http", "localhost:2379")];
        Self {
            compat_version: CompatVersion::default(),
            name: DEFAULT_NAME.to_owned(),
            data_dir: String::new(),
            wal_dir: String::new(),
            snapshot_count: DEFAULT_SNAPSHOT_COUNT,
            snapshot_catchup_entries: 5_000,
            max_snapshots: 5,
            max_wals: 5,
            heartbeat_interval_millis: 100,
            election_timeout_millis: 1_000,
            initial_election_tick_advance: true,
            backend_batch_interval: GoDuration::ZERO,
            backend_batch_limit: 0,
            backend_freelist_type: String::new(),
            quota_backend_bytes: 0,
            max_txn_ops: 128,
            max_request_bytes: 1_572_864,
            max_concurrent_streams: u32::MAX,
            grpc_keepalive_min_time: GoDuration::from_secs(5),
            grpc_keepalive_interval: GoDuration::from_secs(7_200),
            grpc_keepalive_timeout: GoDuration::from_secs(20),
            socket_reuse_port: false,
            socket_reuse_address: false,
            raft_read_timeout: GoDuration::from_secs(5),
            raft_write_timeout: GoDuration::from_secs(5),
            memory_mlock: false,
            listen_peer_urls: peer.clone(),
            listen_client_urls: client.clone(),
            listen_client_http_urls: Vec::new(),
            listen_metrics_urls: Vec::new(),
            advertise_peer_urls: peer,
            advertise_client_urls: client,
            initial_cluster: format!("{DEFAULT_NAME}={DEFAULT_PEER_URL}"),
            initial_cluster_state: "new".to_owned(),
            initial_cluster_token: "etcd-cluster".to_owned(),
            discovery: Discovery::default(),
            discovery_srv: String::new(),
            discovery_srv_name: String::new(),
            discovery_fallback: "exit".to_owned(),
            peer_server_name: String::new(),
            strict_reconfig_check: true,
            pre_vote: true,
            auto_compaction_mode: "periodic".to_owned(),
            auto_compaction_retention: "0".to_owned(),
            v2_deprecation: Vec::new(),
            client_tls: TlsFiles::default(),
            peer_tls: TlsFiles::default(),
            self_signed_cert_validity_years: 1,
            cipher_suites: Vec::new(),
            tls_min_version: "TLS1.2".to_owned(),
            tls_max_version: String::new(),
            cors: vec!["*".to_owned()],
            host_whitelist: vec!["*".to_owned()],
            auth_token: "simple".to_owned(),
            auth_recovery: "on".to_owned(),
            bcrypt_cost: 10,
            auth_token_ttl_seconds: 300,
            enable_pprof: false,
            metrics: "basic".to_owned(),
            log: Logging::default(),
            warning_unary_request_duration: GoDuration::from_millis(300),
            tracing: Tracing::default(),
            enable_grpc_gateway: true,
            feature_gates: FeatureGates::default(),
            corrupt_check_time: GoDuration::ZERO,
            compact_hash_check_time: GoDuration::from_secs(60),
            compaction_batch_limit: 0,
            compaction_sleep_interval: GoDuration::ZERO,
            watch_progress_notify_interval: GoDuration::ZERO,
            downgrade_check_time: GoDuration::from_secs(5),
            warning_apply_duration: GoDuration::from_millis(100),
            bootstrap_defrag_threshold_megabytes: 0,
            max_learners: 1,
            unsafe_no_fsync: false,
            force_new_cluster: false,
            config_file: String::new(),
            given: BTreeSet::new(),
            show_version: false,
        }
    }
}

impl Default for Discovery {
    fn default() -> Self {
        Self {
            token: String::new(),
            endpoints: Vec::new(),
            dial_timeout: GoDuration::from_secs(2),
            request_timeout: GoDuration::from_secs(5),
            keepalive_time: GoDuration::from_secs(2),
            keepalive_timeout: GoDuration::from_secs(6),
            insecure_transport: true,
            insecure_skip_tls_verify: false,
            cert_file: String::new(),
            key_file: String::new(),
            ca_file: String::new(),
            server_name: String::new(),
            user: String::new(),
            password: String::new(),
            auth_token: String::new(),
            max_request_bytes: 0,
            max_recv_bytes: 0,
        }
    }
}

impl Default for Tracing {
    fn default() -> Self {
        Self {
            enabled: false,
            address: "localhost:4317".to_owned(),
            service_name: "etcd".to_owned(),
            instance_id: String::new(),
            sampling_rate_per_million: 0,
        }
    }
}

impl Default for Logging {
    fn default() -> Self {
        Self {
            logger: "zap".to_owned(),
            outputs: vec!["default".to_owned()],
            level: "info".to_owned(),
            format: "json".to_owned(),
            rotation_enabled: false,
            rotation_json: DEFAULT_ROTATION.to_owned(),
        }
    }
}

impl Config {
    /// `<data-dir>/member`.
    pub fn member_dir(&self) -> PathBuf {
        PathBuf::from(&self.data_dir).join("member")
    }

    /// Directory of raft snapshots and of the backend file.
    pub fn snap_dir(&self) -> PathBuf {
        self.member_dir().join("snap")
    }

    /// Path of the backend file.
    pub fn backend_path(&self) -> PathBuf {
        self.snap_dir().join("db")
    }

    /// Directory of the log segments.
    pub fn wal_path(&self) -> PathBuf {
        match self.wal_dir.as_str() {
            "" => self.member_dir().join("wal"),
            dir => PathBuf::from(dir),
        }
    }

    /// Heartbeats in an election timeout.
    pub fn election_ticks(&self) -> u64 {
        self.election_timeout_millis / self.heartbeat_interval_millis.max(1)
    }

    /// Applied entries between raft snapshots, with 0 replaced by the built-in count.
    pub fn snapshot_count(&self) -> u64 {
        match self.snapshot_count {
            0 => built_in_snapshot_count(self.compat_version),
            count => count,
        }
    }

    /// Log entries kept for slow followers, with 0 replaced by 5,000.
    pub fn snapshot_catchup_entries(&self) -> u64 {
        match self.snapshot_catchup_entries {
            0 => 5_000,
            count => count,
        }
    }

    /// The effective quota: 0 replaced by 2 GiB; negative means none.
    pub fn quota_bytes(&self) -> i64 {
        match self.quota_backend_bytes {
            0 => 2 << 30,
            bytes => bytes,
        }
    }

    /// Longest time before a backend commit, with 0 replaced by 100 ms.
    pub fn batch_interval(&self) -> std::time::Duration {
        or_default(self.backend_batch_interval, 100)
    }

    /// Operations before a backend commit, with 0 replaced by 10,000.
    pub fn batch_limit(&self) -> usize {
        match usize::try_from(self.backend_batch_limit) {
            Ok(limit) if limit > 0 => limit,
            _ => 10_000,
        }
    }

    /// Revisions deleted per compaction step, with 0 replaced by 1,000.
    pub fn compaction_batch(&self) -> usize {
        match usize::try_from(self.compaction_batch_limit) {
            Ok(limit) if limit > 0 => limit,
            _ => 1_000,
        }
    }

    /// Pause between compaction steps, with 0 replaced by 10 ms.
    pub fn compaction_pause(&self) -> std::time::Duration {
        or_default(self.compaction_sleep_interval, 10)
    }

    /// Period of watch progress messages: 0 means 10 minutes, and never below 100 ms.
    pub fn progress_interval(&self) -> std::time::Duration {
        or_default(self.watch_progress_notify_interval, 600_000).max(std::time::Duration::from_millis(100))
    }

    /// Bound of one client request: 5 s and two election timeouts.
    pub fn request_timeout(&self) -> std::time::Duration {
        std::time::Duration::from_millis(5_000 + 2 * self.election_timeout_millis)
    }

    /// Whether `--initial-cluster-state` is `new`.
    pub fn is_new_cluster(&self) -> bool {
        self.initial_cluster_state == "new"
    }

    /// Whether a setting was given by flag, variable or file.
    pub fn is_given(&self, name: &str) -> bool {
        self.given.contains(name)
    }

    /// What `--initial-cluster` becomes when only the name is known.
    pub fn initial_cluster_from_name(&self, name: &str) -> String {
        let name = if name.is_empty() { DEFAULT_NAME } else { name };
        let entries: Vec<String> =
            self.advertise_peer_urls.iter().map(|url| format!("{name}={url}")).collect();
        entries.join(",")
    }
}

fn or_default(span: GoDuration, default_millis: u64) -> std::time::Duration {
    match span.as_nanos() {
        nanos if nanos <= 0 => std::time::Duration::from_millis(default_millis),
        _ => span.to_std(),
    }
}

fn built_in_snapshot_count(compat: CompatVersion) -> u64 {
    match compat {
        CompatVersion::V3_5 => SNAPSHOT_COUNT_3_5,
        _ => DEFAULT_SNAPSHOT_COUNT,
    }
}
