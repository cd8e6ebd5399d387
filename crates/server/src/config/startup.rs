//! Steps between a good configuration and the start of the member: defaults that need the machine
//! or the disk, and the long record that opens every log.

use std::fs;
use std::io;
use std::net::UdpSocket;
use std::path::Path;

use super::gates::Gate;
use super::load::Notice;
use super::url::Url;
use super::{Config, DEFAULT_CLIENT_URL, DEFAULT_NAME, DEFAULT_PEER_URL};
use crate::log::{Field, Value};

/// Version of this program.
pub const OWN_VERSION: &str = env!("CARGO_PKG_VERSION");
/// What stands where etcd prints its Go version.
pub const RUNTIME_VERSION: &str = concat!("rust", env!("CARGO_PKG_RUST_VERSION"));
/// Commit of the build, when the build was told.
pub const GIT_SHA: &str = match option_env!("RETCD_GIT_SHA") {
    Some(sha) => sha,
    None => "Not provided (set RETCD_GIT_SHA when building)",
};
/// Operating system in Go's words.
pub const OS: &str = if cfg!(target_os = "macos") { "darwin" } else { std::env::consts::OS };
/// Architecture in Go's words.
pub const ARCH: &str = match std::env::consts::ARCH.as_bytes() {
    b"x86_64" => "amd64",
    b"aarch64" => "arm64",
    b"powerpc64" => "ppc64le",
    _ => std::env::consts::ARCH,
};

/// The address from which this machine would talk to the world.
///
/// Connecting a datagram socket sends nothing; it only makes the system choose the route.
pub fn default_host() -> Result<String, String> {
    let route = || -> io::Result<String> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect("192.0.2.1:9")?;
        Ok(socket.local_addr()?.ip().to_string())
    };
    match route() {
        Ok(host) if host != "0.0.0.0" => Ok(host),
        _ => Err("could not find default route".to_owned()),
    }
}

/// Replaces `localhost` in default advertise URLs when the matching listen URL is `0.0.0.0`, and
/// renames the default cluster after the member. `host` is the answer of [`default_host`].
pub fn resolve_default_host(config: &mut Config, host: Result<String, String>) -> Option<Notice> {
    let default_cluster = Config::default().initial_cluster;
    let rename = |config: &mut Config| {
        if config.name != DEFAULT_NAME && config.initial_cluster == default_cluster {
            config.initial_cluster = config.initial_cluster_from_name(&config.name);
        }
    };
    let host = match host {
        Ok(host) => host,
        Err(error) => {
            rename(config);
            return Some(Notice::info("failed to detect default host").field("error", error));
        }
    };
    let mut used =
        advertise(&config.listen_peer_urls, &mut config.advertise_peer_urls, DEFAULT_PEER_URL, &host);
    rename(config);
    used |=
        advertise(&config.listen_client_urls, &mut config.advertise_client_urls, DEFAULT_CLIENT_URL, &host);
    used.then(|| Notice::info("detected default host for advertise").field("host", host))
}

fn advertise(listen: &[Url], advertise: &mut [Url], default: &str, host: &str) -> bool {
    match (listen.first(), advertise) {
        (Some(listen), [url]) if url.as_str() == default && listen.hostname() == "0.0.0.0" => {
            *url = Url::from_parts(url.scheme(), &format!("{host}:{}", listen.port()));
            true
        }
        _ => false,
    }
}

/// Names the data directory after the member when none was given.
pub fn resolve_data_dir(config: &mut Config) -> Option<Notice> {
    if !config.data_dir.is_empty() {
        return None;
    }
    config.data_dir = format!("{}.etcd", config.name);
    Some(Notice::warn("'data-dir' was empty; using default").field("data-dir", config.data_dir.clone()))
}

/// What a data directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirKind {
    /// Nothing of ours, or no directory.
    Empty,
    /// A member.
    Member,
    /// Only the proxy of old releases.
    Proxy,
}

impl DirKind {
    /// The word in log records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Member => "member",
            Self::Proxy => "proxy",
        }
    }
}

/// A data directory that no member can start from.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Its entries cannot be read.
    #[error("open {dir}: {reason}")]
    List {
        /// The directory.
        dir: String,
        /// Why.
        reason: String,
    },
    /// It holds a member and a proxy.
    #[error("invalid datadir; both member and proxy directories exist")]
    Both,
}

/// Looks at the entries of the data directory; strangers among them are reported.
pub fn identify_data_dir(dir: &str) -> Result<(DirKind, Vec<Notice>), DataDirError> {
    let list =
        |error: io::Error| DataDirError::List { dir: dir.to_owned(), reason: types::os_reason(&error) };
    let entries = match fs::read_dir(Path::new(dir)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((DirKind::Empty, Vec::new())),
        Err(error) => return Err(list(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(list)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let strangers = names.iter().filter(|name| !matches!(name.as_str(), "member" | "proxy"));
    let notices = strangers
        .map(|name| {
            Notice::warn("found invalid file under data directory")
                .field("filename", name.clone())
                .field("data-dir", dir.to_owned())
        })
        .collect();
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    match (has("member"), has("proxy")) {
        (true, true) => Err(DataDirError::Both),
        (true, false) => Ok((DirKind::Member, notices)),
        (false, true) => Ok((DirKind::Proxy, notices)),
        (false, false) => Ok((DirKind::Empty, notices)),
    }
}

/// What the opening record says besides the configuration.
#[derive(Clone, Debug)]
pub struct StartFacts {
    /// Whether the data directory already holds a member's log.
    pub member_initialized: bool,
    /// Threads the process may use.
    pub cpus: usize,
    /// The effective `--initial-cluster`; empty for an initialized member.
    pub initial_cluster: String,
    /// Parsed `--auto-compaction-retention`.
    pub compaction_retention: super::duration::GoDuration,
}

/// The fields of `starting an etcd server`, in etcd's order.
pub fn start_fields<'c>(config: &'c Config, facts: &StartFacts) -> Vec<Field<'c>> {
    let millis = |millis: u64| Value::from(std::time::Duration::from_millis(millis));
    let retention = facts.compaction_retention;
    let discovery = &config.discovery;
    vec![
        ("etcd-version", config.compat_version.server_version().to_string().into()),
        ("git-sha", GIT_SHA.into()),
        ("go-version", RUNTIME_VERSION.into()),
        ("go-os", OS.into()),
        ("go-arch", ARCH.into()),
        ("max-cpu-set", facts.cpus.into()),
        ("max-cpu-available", facts.cpus.into()),
        ("member-initialized", facts.member_initialized.into()),
        ("name", (&config.name).into()),
        ("data-dir", (&config.data_dir).into()),
        ("wal-dir", (&config.wal_dir).into()),
        ("wal-dir-dedicated", (&config.wal_dir).into()),
        ("member-dir", config.member_dir().to_string_lossy().into_owned().into()),
        ("force-new-cluster", config.force_new_cluster.into()),
        ("heartbeat-interval", millis(config.heartbeat_interval_millis)),
        ("election-timeout", millis(config.election_ticks() * config.heartbeat_interval_millis)),
        ("initial-election-tick-advance", config.initial_election_tick_advance.into()),
        ("snapshot-count", config.snapshot_count.into()),
        ("max-wals", config.max_wals.into()),
        ("max-snapshots", config.max_snapshots.into()),
        ("snapshot-catchup-entries", config.snapshot_catchup_entries.into()),
        ("initial-advertise-peer-urls", (&config.advertise_peer_urls).into()),
        ("listen-peer-urls", (&config.listen_peer_urls).into()),
        ("advertise-client-urls", (&config.advertise_client_urls).into()),
        ("listen-client-urls", (&config.listen_client_urls).into()),
        ("listen-metrics-urls", (&config.listen_metrics_urls).into()),
        ("local-address", "".into()),
        ("cors", (&config.cors).into()),
        ("host-whitelist", (&config.host_whitelist).into()),
        ("initial-cluster", facts.initial_cluster.clone().into()),
        ("initial-cluster-state", (&config.initial_cluster_state).into()),
        ("initial-cluster-token", (&config.initial_cluster_token).into()),
        ("quota-backend-bytes", config.quota_bytes().into()),
        ("max-request-bytes", config.max_request_bytes.into()),
        ("max-concurrent-streams", config.max_concurrent_streams.into()),
        ("pre-vote", config.pre_vote.into()),
        ("feature-gates", config.feature_gates.to_string().into()),
        ("initial-corrupt-check", config.feature_gates.enabled(Gate::InitialCorruptCheck).into()),
        ("corrupt-check-time-interval", config.corrupt_check_time.into()),
        ("compact-check-time-interval", config.compact_hash_check_time.into()),
        ("auto-compaction-mode", (&config.auto_compaction_mode).into()),
        ("auto-compaction-retention", retention.into()),
        ("auto-compaction-interval", retention.to_string().into()),
        ("discovery-token", (&discovery.token).into()),
        ("discovery-endpoints", discovery.endpoints.join(",").into()),
        ("discovery-dial-timeout", discovery.dial_timeout.into()),
        ("discovery-request-timeout", discovery.request_timeout.into()),
        ("discovery-keepalive-time", discovery.keepalive_time.into()),
        ("discovery-keepalive-timeout", discovery.keepalive_timeout.into()),
        ("discovery-insecure-transport", discovery.insecure_transport.into()),
        ("discovery-insecure-skip-tls-verify", discovery.insecure_skip_tls_verify.into()),
        ("discovery-cert", (&discovery.cert_file).into()),
        ("discovery-key", (&discovery.key_file).into()),
        ("discovery-cacert", (&discovery.ca_file).into()),
        ("discovery-user", (&discovery.user).into()),
        ("downgrade-check-interval", config.downgrade_check_time.into()),
        ("max-learners", config.max_learners.into()),
        ("v2-deprecation", "write-only".into()),
    ]
}

impl Config {
    /// `--auto-compaction-retention` as etcd reads it: bare numbers are hours in periodic mode and
    /// revisions in revision mode; revisions travel in the nanoseconds.
    pub fn compaction_retention(&self) -> Result<super::duration::GoDuration, String> {
        use super::duration::GoDuration;
        let text = match self.auto_compaction_retention.as_str() {
            "" => "0",
            text => text,
        };
        // Go's Atoi: decimal only, one optional sign.
        if let Ok(number) = text.parse::<i64>()
            && number >= 0
        {
            return Ok(match self.auto_compaction_mode.as_str() {
                "revision" => GoDuration::from_nanos(number),
                _ => GoDuration::from_nanos(number.wrapping_mul(3_600_000_000_000)),
            });
        }
        text.parse().map_err(|error| format!("error parsing CompactionRetention: {error}"))
    }
}
