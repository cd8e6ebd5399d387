//! Rules between settings, in the order and the words of etcd.

use std::net::IpAddr;

use super::gates::Gate;
use super::load::Notice;
use super::scalars::{quote, quote_list};
use super::url::{Url, split_host_port, texts};
use super::{Config, DEFAULT_NAME};
use crate::log::{self, Format, Rotation, Settings};

const MAX_ELECTION_MILLIS: u64 = 50_000;

/// A rule that is broken; prints etcd's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each text says what its variant means")]
pub enum RuleError {
    #[error("unknown logger option {}", quote(.0))]
    UnknownLogger(String),
    #[error("--logger=capnslog is removed in v3.5")]
    Capnslog,
    #[error("multi logoutput for \"default\" is not supported yet")]
    SeveralOutputs,
    #[error(
        "running with systemd/journal but other '--log-outputs' values ({0}) are configured with 'default'; override 'default' value with something else"
    )]
    JournalAndOthers(String),
    #[error("unknown log format: {0}, supported values json, console")]
    LogFormat(String),
    #[error("--log-outputs requires a single file path when --log-rotate-config-json is defined")]
    RotationOutputs,
    #[error("improperly formatted log rotation config: {0}")]
    RotationSyntax(String),
    #[error("invalid log rotation config: {0}")]
    RotationValue(String),
    #[error("address {0}")]
    Address(String),
    #[error("expected IP in URL for binding ({0})")]
    BindHost(String),
    #[error("--initial-advertise-peer-urls {} must be \"host:port\" ({reason})", quote(.urls))]
    AdvertisePeer { urls: String, reason: String },
    #[error("--advertise-client-urls {} must be in the format \"host:port\", \"unix:/path/to/socket\" or \"unixs:/path/to/socket\" ({reason})", quote(.urls))]
    AdvertiseClient { urls: String, reason: String },
    #[error("unexpected clusterState {}", quote(.0))]
    ClusterState(String),
    #[error(
        "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\""
    )]
    BootstrapConflict,
    #[error("both --discovery-token and --discovery-endpoints must be set")]
    DiscoveryPair,
    #[error("--discovery-endpoints must not contain empty endpoints")]
    EmptyEndpoint,
    #[error("--heartbeat-interval must be >0 (set to 0ms)")]
    HeartbeatZero,
    #[error("--election-timeout must be >0 (set to 0ms)")]
    ElectionZero,
    #[error(
        "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]"
    )]
    Ratio { election: u64, heartbeat: u64 },
    #[error("--election-timeout[{0}ms] is too long, and should be set less than {MAX_ELECTION_MILLIS}ms")]
    ElectionLong(u64),
    #[error("--advertise-client-urls is required when --listen-client-urls is set explicitly")]
    AdvertiseMissing,
    #[error("undefined auto-compaction-mode")]
    NoCompactionMode,
    #[error("unknown auto-compaction-mode {}", quote(.0))]
    CompactionMode(String),
    #[error("distributed tracing configurition is not valid: (tracing sampling rate must be positive)")]
    SamplingNegative,
    #[error(
        "distributed tracing configurition is not valid: (tracing sampling rate must be less than 1000000)"
    )]
    SamplingLarge,
    #[error("enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint")]
    CheckpointGates,
    #[error("--compact-hash-check-time must be >0 (set to {0})")]
    CompactHashTime(super::duration::GoDuration),
    #[error("unexpected TLS version {} (must be one of: TLS1.2, TLS1.3)", quote(.0))]
    TlsVersion(String),
    #[error("min version ({min}) is greater than max version ({max})")]
    TlsOrder { min: String, max: String },
    #[error("cipher suites cannot be configured when only TLS1.3 is enabled")]
    Tls13Suites,
    #[error("v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"")]
    FallbackProxy,
}

/// A level that nobody knows ends the process like a Go panic; everything else is a broken rule.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LogFault {
    Rule(RuleError),
    Level(log::ParseLevelError),
}

/// The log settings, which come first because they decide where everything after is reported.
pub(super) fn log_settings(config: &Config) -> Result<Settings, LogFault> {
    let rule = |error| Err(LogFault::Rule(error));
    let logging = &config.log;
    match logging.logger.as_str() {
        "zap" => {}
        "capnslog" => return rule(RuleError::Capnslog),
        other => return rule(RuleError::UnknownLogger(other.to_owned())),
    }
    let outputs = match logging.outputs.is_empty() {
        true => vec!["default".to_owned()],
        false => logging.outputs.clone(),
    };
    if outputs.len() > 1 && outputs.iter().any(|output| output == "default") {
        return rule(RuleError::SeveralOutputs);
    }
    if logging.rotation_enabled {
        check_rotation(&outputs, &logging.rotation_json).map_err(LogFault::Rule)?;
    }
    if outputs.len() > 1 && outputs.iter().any(|output| output == "systemd/journal") {
        return rule(RuleError::JournalAndOthers(quote_list(&outputs)));
    }
    let level = logging.level.parse().map_err(LogFault::Level)?;
    let format = match logging.format.as_str() {
        "" | "json" => Format::Json,
        "console" => Format::Console,
        other => return rule(RuleError::LogFormat(other.to_owned())),
    };
    let rotation = logging.rotation_enabled.then(|| Rotation::from_json(&logging.rotation_json));
    Ok(Settings { level, format, outputs, rotation })
}

fn check_rotation(outputs: &[String], json: &str) -> Result<(), RuleError> {
    let files =
        outputs.iter().filter(|output| !matches!(output.as_str(), "default" | "stderr" | "stdout")).count();
    if files > 1 || (outputs.len() == 1 && files == 0) {
        return Err(RuleError::RotationOutputs);
    }
    let value: serde_json::Value = serde_json::from_str(json).map_err(|error| match error.is_eof() {
        true => RuleError::RotationSyntax("unexpected end of JSON input".to_owned()),
        false => RuleError::RotationSyntax(error.to_string()),
    })?;
    let cannot = |value: &serde_json::Value, place: &str| {
        RuleError::RotationValue(format!("json: cannot unmarshal {} into Go {place}", json_kind(value)))
    };
    let Some(object) = value.as_object() else {
        return Err(cannot(&value, "value of type embed.logRotationConfig"));
    };
    for (key, value) in object {
        let key = key.to_lowercase();
        let (fits, go_type) = match key.as_str() {
            "maxsize" | "maxage" | "maxbackups" => (value.is_i64(), "int"),
            "localtime" | "compress" => (value.is_boolean(), "bool"),
            _ => (true, ""),
        };
        if !fits && !value.is_null() {
            return Err(cannot(
                value,
                &format!("struct field logRotationConfig.Logger.{key} of type {go_type}"),
            ));
        }
    }
    Ok(())
}

fn json_kind(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => "null".to_owned(),
        serde_json::Value::Bool(_) => "bool".to_owned(),
        serde_json::Value::Number(number) => format!("number {number}"),
        serde_json::Value::String(_) => "string".to_owned(),
        serde_json::Value::Array(_) => "array".to_owned(),
        serde_json::Value::Object(_) => "object".to_owned(),
    }
}

/// Checks everything but the log settings; warnings on the way go to `notices`.
pub(super) fn validate(config: &Config, notices: &mut Vec<Notice>) -> Result<(), RuleError> {
    check_bind_urls(&config.listen_peer_urls)?;
    check_bind_urls(&config.listen_client_urls)?;
    check_bind_urls(&config.listen_client_http_urls)?;
    if config.listen_client_http_urls.is_empty() {
        notices.push(Notice::warn(
            "Running http and grpc server on single port. This is not recommended for production.",
        ));
    }
    check_bind_urls(&config.listen_metrics_urls)?;
    check_host_urls(&config.advertise_peer_urls).map_err(|reason| RuleError::AdvertisePeer {
        urls: texts(&config.advertise_peer_urls).join(","),
        reason,
    })?;
    check_host_urls(&config.advertise_client_urls).map_err(|reason| RuleError::AdvertiseClient {
        urls: texts(&config.advertise_client_urls).join(","),
        reason,
    })?;
    check_bootstrap(config)?;
    check_timing(config)?;
    if !config.listen_client_urls.is_empty() && config.advertise_client_urls.is_empty() {
        return Err(RuleError::AdvertiseMissing);
    }
    match config.auto_compaction_mode.as_str() {
        "periodic" | "revision" => {}
        "" => return Err(RuleError::NoCompactionMode),
        other => return Err(RuleError::CompactionMode(other.to_owned())),
    }
    if config.tracing.enabled {
        match config.tracing.sampling_rate_per_million {
            rate if rate < 0 => return Err(RuleError::SamplingNegative),
            rate if rate > 1_000_000 => return Err(RuleError::SamplingLarge),
            _ => {}
        }
    }
    check_gates(config, notices)?;
    if config.compact_hash_check_time.as_nanos() <= 0 {
        return Err(RuleError::CompactHashTime(config.compact_hash_check_time));
    }
    if config.name == DEFAULT_NAME {
        notices.push(
            Notice::warn(
                "it isn't recommended to use default name, please set a value for --name. Note that etcd might \
                 run into issue when multiple members have the same default name",
            )
            .field("name", config.name.clone()),
        );
    }
    check_tls(config)
}

fn check_bind_urls(urls: &[Url]) -> Result<(), RuleError> {
    for url in urls.iter().filter(|url| !url.is_unix()) {
        let (host, _) = split_host_port(url.host())
            .map_err(|error| RuleError::Address(format!("{}: {}", error.address, error.reason)))?;
        if host != "localhost" && host.parse::<IpAddr>().is_err() {
            return Err(RuleError::BindHost(url.to_string()));
        }
    }
    Ok(())
}

fn check_host_urls(urls: &[Url]) -> Result<(), String> {
    for url in urls.iter().filter(|url| !url.is_unix()) {
        let (host, _) = split_host_port(url.host()).map_err(|error| error.to_string())?;
        if host.is_empty() {
            return Err(format!("unexpected empty host ({url})"));
        }
    }
    Ok(())
}

fn check_bootstrap(config: &Config) -> Result<(), RuleError> {
    let discovery = &config.discovery;
    if !matches!(config.initial_cluster_state.as_str(), "new" | "existing") {
        return Err(RuleError::ClusterState(config.initial_cluster_state.clone()));
    }
    let ways = [
        !config.initial_cluster.is_empty(),
        !config.discovery_srv.is_empty(),
        !discovery.endpoints.is_empty(),
    ];
    if ways.into_iter().filter(|used| *used).count() > 1 {
        return Err(RuleError::BootstrapConflict);
    }
    if discovery.token.is_empty() != discovery.endpoints.is_empty() {
        return Err(RuleError::DiscoveryPair);
    }
    match discovery.endpoints.iter().any(|endpoint| endpoint.trim().is_empty()) {
        true => Err(RuleError::EmptyEndpoint),
        false => Ok(()),
    }
}

fn check_timing(config: &Config) -> Result<(), RuleError> {
    let (heartbeat, election) = (config.heartbeat_interval_millis, config.election_timeout_millis);
    match () {
        () if heartbeat == 0 => Err(RuleError::HeartbeatZero),
        () if election == 0 => Err(RuleError::ElectionZero),
        () if heartbeat.saturating_mul(5) > election => Err(RuleError::Ratio { election, heartbeat }),
        () if election > MAX_ELECTION_MILLIS => Err(RuleError::ElectionLong(election)),
        () => Ok(()),
    }
}

fn check_gates(config: &Config, notices: &mut Vec<Notice>) -> Result<(), RuleError> {
    let gates = &config.feature_gates;
    match (gates.enabled(Gate::LeaseCheckpoint), gates.enabled(Gate::LeaseCheckpointPersist)) {
        (true, false) => notices.push(Notice::warn(
            "Detected that checkpointing is enabled without persistence. Consider enabling feature gate LeaseCheckpointPersist",
        )),
        (false, true) => return Err(RuleError::CheckpointGates),
        _ => {}
    }
    Ok(())
}

fn check_tls(config: &Config) -> Result<(), RuleError> {
    let rank = |version: &str| match version {
        "" => Ok(0),
        "TLS1.2" => Ok(2),
        "TLS1.3" => Ok(3),
        other => Err(RuleError::TlsVersion(other.to_owned())),
    };
    let (min, max) = (rank(&config.tls_min_version)?, rank(&config.tls_max_version)?);
    if max != 0 && min > max {
        return Err(RuleError::TlsOrder {
            min: config.tls_min_version.clone(),
            max: config.tls_max_version.clone(),
        });
    }
    match min == 3 && !config.cipher_suites.is_empty() {
        true => Err(RuleError::Tls13Suites),
        false => Ok(()),
    }
}
