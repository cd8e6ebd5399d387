//! The one list of settings.
//!
//! Each row names a flag, its key in the configuration file, its type together with its place in
//! [`Config`], the default to show when it is not the value itself, and the help text. Variables
//! follow from the flag name. A new setting is one row here and one field there.
//!
//! Rows of [`Section::FileOnly`] have no flag and no variable; rows of [`Section::Hidden`] are flags
//! of the program itself and are not listed among the settings in the help text.

use types::CompatVersion;

use super::Config;
use super::duration::GoDuration;
use super::gates::FeatureGates;
use super::scalars::{parse_bool, parse_int, parse_uint, quote};
use super::url::{Url, texts};

/// Where a value lives in [`Config`].
pub struct Field<T: 'static> {
    get: fn(&Config) -> &T,
    get_mut: fn(&mut Config) -> &mut T,
}

macro_rules! at {
    ($($path:ident).+) => {
        Field { get: |config| &config.$($path).+, get_mut: |config| &mut config.$($path).+ }
    };
}

/// Type of a setting and the place of its value.
pub enum Slot {
    /// Any text.
    Text(Field<String>),
    /// A boolean; the flag takes no separate word as its value.
    Bool(Field<bool>),
    /// Go `uint`.
    Uint(Field<u64>),
    /// Go `uint64`: as `uint`, with another name in errors about files.
    Uint64(Field<u64>),
    /// Go `uint32` with etcd's own parser and therefore other error words.
    Uint32(Field<u32>),
    /// Go `int`.
    Int(Field<i64>),
    /// Go `int64`.
    Int64(Field<i64>),
    /// Go duration: text in flags, nanoseconds in files.
    Duration(Field<GoDuration>),
    /// Sorted URLs without repetition; an empty text leaves the value alone.
    Urls(Field<Vec<Url>>),
    /// `*` or URLs, kept as text.
    Origins(Field<Vec<String>>),
    /// A sorted set of words, one comma separated text in files.
    Names(Field<Vec<String>>),
    /// A sorted set of words, a list in files.
    SortedList(Field<Vec<String>>),
    /// Words in the order given, a list in files.
    List(Field<Vec<String>>),
    /// One of a few words.
    Choice(Field<String>, &'static [&'static str]),
    /// Several of a few words; repeated flags add up.
    Choices(Field<Vec<String>>, &'static [&'static str]),
    /// Feature gates; repeated flags merge.
    Gates(Field<FeatureGates>),
    /// The etcd release to stand in for.
    Compat(Field<CompatVersion>),
}

/// Heading in the help text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// About this member alone.
    Member,
    /// About the cluster.
    Clustering,
    /// TLS and origins.
    Security,
    /// Users' tokens and passwords.
    Auth,
    /// Metrics and profiles.
    Monitoring,
    /// Logs.
    Logging,
    /// Spans.
    Tracing,
    /// Younger settings.
    Features,
    /// Settings that can lose data.
    Unsafe,
    /// Keys of the file that are no flags.
    FileOnly,
    /// Flags that steer the program itself.
    Hidden,
}

impl Section {
    /// Sections with a heading, in the order of the help text.
    pub const LISTED: [Self; 9] = [
        Self::Member,
        Self::Clustering,
        Self::Security,
        Self::Auth,
        Self::Monitoring,
        Self::Logging,
        Self::Tracing,
        Self::Features,
        Self::Unsafe,
    ];

    /// The heading.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Member => "Member",
            Self::Clustering => "Clustering",
            Self::Security => "Security",
            Self::Auth => "Auth",
            Self::Monitoring => "Profiling and Monitoring",
            Self::Logging => "Logging",
            Self::Tracing => "Distributed tracing",
            Self::Features => "Features",
            Self::Unsafe => "Unsafe feature",
            Self::FileOnly | Self::Hidden => "",
        }
    }
}

/// One row of the table.
pub struct Setting {
    /// Heading it is listed under.
    pub section: Section,
    /// Flag name without dashes; for file-only rows the path in the file.
    pub name: &'static str,
    /// Path in the file, blocks separated by dots.
    pub file_key: Option<&'static str>,
    /// Type and place.
    pub slot: Slot,
    /// Help text.
    pub help: &'static str,
    shown_default: Option<&'static str>,
}

/// Whether and how the file names a setting.
enum File {
    Same,
    No,
    At(&'static str),
}

const fn row(
    section: Section,
    name: &'static str,
    file: File,
    slot: Slot,
    shown_default: Option<&'static str>,
    help: &'static str,
) -> Setting {
    let file_key = match file {
        File::Same => Some(name),
        File::No => None,
        File::At(path) => Some(path),
    };
    Setting { section, name, file_key, slot, help, shown_default }
}

impl Setting {
    /// Whether it is a flag, and with that a variable.
    pub fn is_flag(&self) -> bool {
        self.section != Section::FileOnly
    }

    /// Whether the flag stands alone and takes a value only behind `=`.
    pub fn is_bool(&self) -> bool {
        matches!(self.slot, Slot::Bool(_))
    }

    /// The name of its variable.
    pub fn variable(&self) -> String {
        variable_name(self.name)
    }

    /// The value as text.
    pub fn text(&self, config: &Config) -> String {
        match &self.slot {
            Slot::Text(field) | Slot::Choice(field, _) => (field.get)(config).clone(),
            Slot::Bool(field) => (field.get)(config).to_string(),
            Slot::Uint(field) | Slot::Uint64(field) => (field.get)(config).to_string(),
            Slot::Uint32(field) => (field.get)(config).to_string(),
            Slot::Int(field) | Slot::Int64(field) => (field.get)(config).to_string(),
            Slot::Duration(field) => (field.get)(config).to_string(),
            Slot::Urls(field) => texts((field.get)(config)).join(","),
            Slot::Origins(field)
            | Slot::Names(field)
            | Slot::SortedList(field)
            | Slot::List(field)
            | Slot::Choices(field, _) => (field.get)(config).join(","),
            Slot::Gates(field) => (field.get)(config).to_string(),
            Slot::Compat(field) => (field.get)(config).to_string(),
        }
    }

    /// The default as the help text shows it.
    pub fn shown_default(&self, defaults: &Config) -> String {
        self.shown_default.map_or_else(|| self.text(defaults), str::to_owned)
    }

    /// Sets the value from the text of a flag or variable. The error is the reason alone.
    pub fn set(&self, config: &mut Config, text: &str) -> Result<(), String> {
        match &self.slot {
            Slot::Text(field) => text.clone_into((field.get_mut)(config)),
            Slot::Bool(field) => *(field.get_mut)(config) = parse_bool(text).ok_or("parse error")?,
            Slot::Uint(field) | Slot::Uint64(field) => {
                *(field.get_mut)(config) = parse_uint(text, 64).map_err(|fault| fault.flag_text())?;
            }
            Slot::Uint32(field) => {
                let value = parse_uint(text, 32).map_err(|fault| {
                    format!("strconv.ParseUint: parsing {}: {}", quote(text), fault.strconv_text())
                })?;
                *(field.get_mut)(config) = value as u32;
            }
            Slot::Int(field) | Slot::Int64(field) => {
                *(field.get_mut)(config) = parse_int(text).map_err(|fault| fault.flag_text())?;
            }
            Slot::Duration(field) => {
                *(field.get_mut)(config) = text.parse().map_err(|_| "parse error")?;
            }
            Slot::Urls(field) => set_urls((field.get_mut)(config), text)?,
            Slot::Origins(field) => *(field.get_mut)(config) = origins(text)?,
            Slot::Names(field) | Slot::SortedList(field) => *(field.get_mut)(config) = sorted_words(text),
            Slot::List(field) => *(field.get_mut)(config) = text.split(',').map(str::to_owned).collect(),
            Slot::Choice(field, words) => match words.contains(&text) {
                true => text.clone_into((field.get_mut)(config)),
                false => return Err("invalid value".to_owned()),
            },
            Slot::Choices(field, words) => {
                let value = (field.get_mut)(config);
                for word in text.split(',') {
                    if !words.contains(&word) {
                        return Err(format!("invalid value {}", quote(word)));
                    }
                    value.push(word.to_owned());
                }
                value.sort();
            }
            Slot::Gates(field) => {
                (field.get_mut)(config).merge(text).map_err(|error| error.to_string())?;
            }
            Slot::Compat(field) => {
                *(field.get_mut)(config) = text.parse().map_err(|_| "must be one of 3.5, 3.6, 3.7")?;
            }
        }
        Ok(())
    }

    /// Places for values that a file gives in its own notation.
    pub(super) fn text_field<'c>(&self, config: &'c mut Config) -> Option<&'c mut String> {
        match &self.slot {
            Slot::Text(field) | Slot::Choice(field, _) => Some((field.get_mut)(config)),
            _ => None,
        }
    }

    /// The list that a file gives as a list.
    pub(super) fn list_field<'c>(&self, config: &'c mut Config) -> Option<&'c mut Vec<String>> {
        match &self.slot {
            Slot::List(field) | Slot::SortedList(field) => Some((field.get_mut)(config)),
            _ => None,
        }
    }

    /// The URLs that a file gives as one text, in which repetition is kept.
    pub(super) fn urls_field<'c>(&self, config: &'c mut Config) -> Option<&'c mut Vec<Url>> {
        match &self.slot {
            Slot::Urls(field) => Some((field.get_mut)(config)),
            _ => None,
        }
    }

    /// The duration that a file gives in nanoseconds.
    pub(super) fn duration_field<'c>(&self, config: &'c mut Config) -> Option<&'c mut GoDuration> {
        match &self.slot {
            Slot::Duration(field) => Some((field.get_mut)(config)),
            _ => None,
        }
    }
}

/// The variable of a flag: `ETCD_` and the name in upper case, dashes as underscores, dots kept.
pub fn variable_name(flag: &str) -> String {
    format!("ETCD_{}", flag.replace('-', "_").to_uppercase())
}

/// The row of a flag.
pub fn flag(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.is_flag() && setting.name == name)
}

fn set_urls(value: &mut Vec<Url>, text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Ok(());
    }
    let mut urls = Url::parse_list(text).map_err(|error| error.to_string())?;
    urls.dedup_by(|a, b| a.as_str() == b.as_str());
    *value = urls;
    Ok(())
}

fn origins(text: &str) -> Result<Vec<String>, String> {
    if text == "*" {
        return Ok(vec![text.to_owned()]);
    }
    let mut origins = texts(&Url::parse_list(text).map_err(|error| error.to_string())?);
    origins.dedup();
    Ok(origins)
}

fn sorted_words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = text.split(',').map(str::to_owned).collect();
    words.sort();
    words.dedup();
    words
}

/// Every setting, grouped as in the help text.
#[rustfmt::skip]
pub static SETTINGS: &[Setting] = &[
    row(Section::Member, "name", File::Same, Slot::Text(at!(name)), None, "Name of this member, for humans and for its entry in --initial-cluster."),
    row(Section::Member, "data-dir", File::Same, Slot::Text(at!(data_dir)), Some("${name}.etcd"), "Directory that holds everything the member stores."),
    row(Section::Member, "wal-dir", File::Same, Slot::Text(at!(wal_dir)), None, "Separate directory for the write-ahead log."),
    row(Section::Member, "snapshot-count", File::Same, Slot::Uint64(at!(snapshot_count)), None, "Applied entries after which a raft snapshot is taken (100000 when standing in for 3.5)."),
    row(Section::Member, "heartbeat-interval", File::Same, Slot::Uint(at!(heartbeat_interval_millis)), None, "Milliseconds between heartbeats."),
    row(Section::Member, "election-timeout", File::Same, Slot::Uint(at!(election_timeout_millis)), None, "Milliseconds without a leader after which a member campaigns."),
    row(Section::Member, "initial-election-tick-advance", File::Same, Slot::Bool(at!(initial_election_tick_advance)), None, "Skip most of the first election timeout after a start."),
    row(Section::Member, "listen-peer-urls", File::Same, Slot::Urls(at!(listen_peer_urls)), None, "URLs to listen on for peers."),
    row(Section::Member, "listen-client-urls", File::Same, Slot::Urls(at!(listen_client_urls)), None, "URLs to listen on for clients: gRPC, and HTTP unless --listen-client-http-urls is given."),
    row(Section::Member, "listen-client-http-urls", File::Same, Slot::Urls(at!(listen_client_http_urls)), None, "URLs that serve HTTP alone; then --listen-client-urls serve gRPC alone."),
    row(Section::Member, "max-snapshots", File::Same, Slot::Uint(at!(max_snapshots)), None, "Raft snapshot files to keep, 0 for all. Deprecated since 3.6, goes in 3.8."),
    row(Section::Member, "max-wals", File::Same, Slot::Uint(at!(max_wals)), None, "Write-ahead log files to keep, 0 for all."),
    row(Section::Member, "memory-mlock", File::Same, Slot::Bool(at!(memory_mlock)), None, "Keep the memory of the process out of swap."),
    row(Section::Member, "quota-backend-bytes", File::Same, Slot::Int64(at!(quota_backend_bytes)), None, "Size of the database at which writes are refused; 0 means 2 GiB, negative means no limit."),
    row(Section::Member, "backend-bbolt-freelist-type", File::Same, Slot::Text(at!(backend_freelist_type)), Some("map"), "Form of the free page list: array or map."),
    row(Section::Member, "backend-batch-interval", File::Same, Slot::Duration(at!(backend_batch_interval)), None, "Longest time before written data is committed to the database; 0 means 100ms."),
    row(Section::Member, "backend-batch-limit", File::Same, Slot::Int(at!(backend_batch_limit)), None, "Operations after which written data is committed to the database; 0 means 10000."),
    row(Section::Member, "max-txn-ops", File::Same, Slot::Uint(at!(max_txn_ops)), None, "Most operations in one branch of a transaction."),
    row(Section::Member, "max-request-bytes", File::Same, Slot::Uint(at!(max_request_bytes)), None, "Largest client request in bytes."),
    row(Section::Member, "max-concurrent-streams", File::Same, Slot::Uint32(at!(max_concurrent_streams)), None, "Most concurrent streams on one client connection."),
    row(Section::Member, "grpc-keepalive-min-time", File::Same, Slot::Duration(at!(grpc_keepalive_min_time)), None, "Shortest interval at which a client may ping."),
    row(Section::Member, "grpc-keepalive-interval", File::Same, Slot::Duration(at!(grpc_keepalive_interval)), None, "Interval at which the server pings a client, 0 for never."),
    row(Section::Member, "grpc-keepalive-timeout", File::Same, Slot::Duration(at!(grpc_keepalive_timeout)), None, "How long the server waits for the answer to its ping before it hangs up, 0 for never."),
    row(Section::Member, "socket-reuse-port", File::At("socket-options.reuse-port"), Slot::Bool(at!(socket_reuse_port)), None, "Set SO_REUSEPORT on listeners."),
    row(Section::Member, "socket-reuse-address", File::At("socket-options.reuse-address"), Slot::Bool(at!(socket_reuse_address)), None, "Set SO_REUSEADDR on listeners."),
    row(Section::Member, "enable-grpc-gateway", File::Same, Slot::Bool(at!(enable_grpc_gateway)), None, "Serve the JSON gateway under /v3/."),
    row(Section::Member, "raft-read-timeout", File::No, Slot::Duration(at!(raft_read_timeout)), None, "Read deadline of peer connections, at least 5s."),
    row(Section::Member, "raft-write-timeout", File::No, Slot::Duration(at!(raft_write_timeout)), None, "Write deadline of peer connections, at least 5s."),
    row(Section::Member, "feature-gates", File::Same, Slot::Gates(at!(feature_gates)), None, "Name=true|false pairs that switch single features:"),
    row(Section::Member, "compat-version", File::Same, Slot::Compat(at!(compat_version)), None, "The etcd release this member stands in for: 3.5, 3.6 or 3.7. Decides the version it reports and the formats it writes. Not a flag of etcd."),
    row(Section::Clustering, "initial-advertise-peer-urls", File::Same, Slot::Urls(at!(advertise_peer_urls)), None, "Peer URLs of this member as told to the others."),
    row(Section::Clustering, "initial-cluster", File::Same, Slot::Text(at!(initial_cluster)), None, "Members of the cluster at its start, as name=url,..."),
    row(Section::Clustering, "initial-cluster-state", File::Same, Slot::Choice(at!(initial_cluster_state), &["new", "existing"]), None, "Whether to found a cluster (new) or to join one (existing). Without effect once the member has data."),
    row(Section::Clustering, "initial-cluster-token", File::Same, Slot::Text(at!(initial_cluster_token)), None, "Keeps clusters apart that are founded with the same names and URLs."),
    row(Section::Clustering, "advertise-client-urls", File::Same, Slot::Urls(at!(advertise_client_urls)), None, "Client URLs of this member as told to clients; must be reachable for them."),
    row(Section::Clustering, "discovery-token", File::At("discovery-config.token"), Slot::Text(at!(discovery.token)), None, "V3 discovery: name of this cluster in the registry."),
    row(Section::Clustering, "discovery-endpoints", File::At("discovery-config.client.endpoints"), Slot::SortedList(at!(discovery.endpoints)), None, "V3 discovery: gRPC endpoints of the registry."),
    row(Section::Clustering, "discovery-dial-timeout", File::At("discovery-config.client.dial-timeout"), Slot::Duration(at!(discovery.dial_timeout)), None, "V3 discovery: limit of connecting."),
    row(Section::Clustering, "discovery-request-timeout", File::At("discovery-config.client.request-timeout"), Slot::Duration(at!(discovery.request_timeout)), None, "V3 discovery: limit of one request."),
    row(Section::Clustering, "discovery-keepalive-time", File::At("discovery-config.client.keepalive-time"), Slot::Duration(at!(discovery.keepalive_time)), None, "V3 discovery: interval of pings."),
    row(Section::Clustering, "discovery-keepalive-timeout", File::At("discovery-config.client.keepalive-timeout"), Slot::Duration(at!(discovery.keepalive_timeout)), None, "V3 discovery: how long to wait for the answer to a ping."),
    row(Section::Clustering, "discovery-insecure-transport", File::At("discovery-config.client.secure.insecure-transport"), Slot::Bool(at!(discovery.insecure_transport)), None, "V3 discovery: connect without TLS."),
    row(Section::Clustering, "discovery-insecure-skip-tls-verify", File::At("discovery-config.client.secure.insecure-skip-tls-verify"), Slot::Bool(at!(discovery.insecure_skip_tls_verify)), None, "V3 discovery: do not verify the registry's certificate (for tests)."),
    row(Section::Clustering, "discovery-cert", File::At("discovery-config.client.secure.cert"), Slot::Text(at!(discovery.cert_file)), None, "V3 discovery: client certificate file."),
    row(Section::Clustering, "discovery-key", File::At("discovery-config.client.secure.key"), Slot::Text(at!(discovery.key_file)), None, "V3 discovery: client key file."),
    row(Section::Clustering, "discovery-cacert", File::At("discovery-config.client.secure.cacert"), Slot::Text(at!(discovery.ca_file)), None, "V3 discovery: CA bundle to verify the registry with."),
    row(Section::Clustering, "discovery-user", File::At("discovery-config.client.auth.username"), Slot::Text(at!(discovery.user)), None, "V3 discovery: user name."),
    row(Section::Clustering, "discovery-password", File::At("discovery-config.client.auth.password"), Slot::Text(at!(discovery.password)), None, "V3 discovery: password."),
    row(Section::Clustering, "discovery-fallback", File::No, Slot::Choice(at!(discovery_fallback), &["exit", "proxy"]), None, "What to do when discovery fails; only 'exit' is left."),
    row(Section::Clustering, "discovery-srv", File::Same, Slot::Text(at!(discovery_srv)), None, "DNS domain whose SRV records name the members."),
    row(Section::Clustering, "discovery-srv-name", File::Same, Slot::Text(at!(discovery_srv_name)), None, "Suffix of the SRV service names."),
    row(Section::Clustering, "strict-reconfig-check", File::Same, Slot::Bool(at!(strict_reconfig_check)), None, "Refuse membership changes that would cost the quorum."),
    row(Section::Clustering, "pre-vote", File::Same, Slot::Bool(at!(pre_vote)), None, "Ask for votes before raising the term, so that a returning member does not disturb the cluster."),
    row(Section::Clustering, "auto-compaction-retention", File::Same, Slot::Text(at!(auto_compaction_retention)), None, "How much history automatic compaction keeps, 0 for all."),
    row(Section::Clustering, "auto-compaction-mode", File::Same, Slot::Text(at!(auto_compaction_mode)), None, "How --auto-compaction-retention counts: periodic (a duration, bare numbers are hours) or revision (a number of revisions)."),
    row(Section::Clustering, "v2-deprecation", File::Same, Slot::Choices(at!(v2_deprecation), &["write-only", "write-only-skip-check", "write-only-drop-data", "gone"]), Some("write-only"), "Stage of the removal of the v2 store. Deprecated, goes in 3.8; the value is ignored."),
    row(Section::Security, "cert-file", File::At("client-transport-security.cert-file"), Slot::Text(at!(client_tls.cert_file)), None, "Certificate of the client listeners."),
    row(Section::Security, "key-file", File::At("client-transport-security.key-file"), Slot::Text(at!(client_tls.key_file)), None, "Key of the client listeners."),
    row(Section::Security, "client-cert-auth", File::At("client-transport-security.client-cert-auth"), Slot::Bool(at!(client_tls.client_cert_auth)), None, "Demand a certificate from clients."),
    row(Section::Security, "client-cert-file", File::At("client-transport-security.client-cert-file"), Slot::Text(at!(client_tls.client_cert_file)), None, "Certificate this member shows when it dials a client port; --cert-file if not given."),
    row(Section::Security, "client-key-file", File::At("client-transport-security.client-key-file"), Slot::Text(at!(client_tls.client_key_file)), None, "Key of --client-cert-file."),
    row(Section::Security, "client-crl-file", File::At("ClientTLSInfo.CRLFile"), Slot::Text(at!(client_tls.crl_file)), None, "Revocation list for client certificates."),
    row(Section::Security, "client-cert-allowed-hostname", File::At("client-transport-security.allowed-hostname"), Slot::List(at!(client_tls.allowed_hostnames)), None, "Host names allowed in client certificates, comma separated."),
    row(Section::Security, "trusted-ca-file", File::At("client-transport-security.trusted-ca-file"), Slot::Text(at!(client_tls.trusted_ca_file)), None, "CA bundle for client certificates."),
    row(Section::Security, "auto-tls", File::At("client-transport-security.auto-tls"), Slot::Bool(at!(client_tls.auto_tls)), None, "Generate a certificate for the client listeners."),
    row(Section::Security, "peer-cert-file", File::At("peer-transport-security.cert-file"), Slot::Text(at!(peer_tls.cert_file)), None, "Certificate of the peer listeners."),
    row(Section::Security, "peer-key-file", File::At("peer-transport-security.key-file"), Slot::Text(at!(peer_tls.key_file)), None, "Key of the peer listeners."),
    row(Section::Security, "peer-client-cert-auth", File::At("peer-transport-security.client-cert-auth"), Slot::Bool(at!(peer_tls.client_cert_auth)), None, "Demand a certificate from peers."),
    row(Section::Security, "peer-client-cert-file", File::At("peer-transport-security.client-cert-file"), Slot::Text(at!(peer_tls.client_cert_file)), None, "Certificate shown when dialling peers; --peer-cert-file if not given."),
    row(Section::Security, "peer-client-key-file", File::At("peer-transport-security.client-key-file"), Slot::Text(at!(peer_tls.client_key_file)), None, "Key of --peer-client-cert-file."),
    row(Section::Security, "peer-trusted-ca-file", File::At("peer-transport-security.trusted-ca-file"), Slot::Text(at!(peer_tls.trusted_ca_file)), None, "CA bundle for peer certificates."),
    row(Section::Security, "peer-cert-allowed-cn", File::At("peer-transport-security.allowed-cn"), Slot::List(at!(peer_tls.allowed_cns)), None, "Common names allowed in peer certificates, comma separated."),
    row(Section::Security, "peer-cert-allowed-hostname", File::At("peer-transport-security.allowed-hostname"), Slot::List(at!(peer_tls.allowed_hostnames)), None, "Host names allowed in peer certificates, comma separated."),
    row(Section::Security, "peer-auto-tls", File::At("peer-transport-security.auto-tls"), Slot::Bool(at!(peer_tls.auto_tls)), None, "Generate a certificate for the peer listeners."),
    row(Section::Security, "self-signed-cert-validity", File::Same, Slot::Uint(at!(self_signed_cert_validity_years)), None, "Years that generated certificates are valid."),
    row(Section::Security, "peer-crl-file", File::At("PeerTLSInfo.CRLFile"), Slot::Text(at!(peer_tls.crl_file)), None, "Revocation list for peer certificates."),
    row(Section::Security, "cipher-suites", File::Same, Slot::List(at!(cipher_suites)), None, "TLS 1.2 cipher suites, comma separated; the library's choice if empty."),
    row(Section::Security, "cors", File::Same, Slot::Origins(at!(cors)), None, "Origins allowed for cross-origin requests, comma separated, * for all."),
    row(Section::Security, "host-whitelist", File::Same, Slot::Names(at!(host_whitelist)), None, "Host names accepted in plain HTTP requests, * or empty for all."),
    row(Section::Security, "tls-min-version", File::Same, Slot::Text(at!(tls_min_version)), None, "Lowest TLS version: TLS1.2 or TLS1.3."),
    row(Section::Security, "tls-max-version", File::Same, Slot::Text(at!(tls_max_version)), None, "Highest TLS version: TLS1.2 or TLS1.3, the newest if empty."),
    row(Section::FileOnly, "client-transport-security.allowed-cn", File::Same, Slot::List(at!(client_tls.allowed_cns)), None, ""),
    row(Section::FileOnly, "client-transport-security.skip-client-san-verification", File::Same, Slot::Bool(at!(client_tls.skip_client_san_verification)), None, ""),
    row(Section::FileOnly, "discovery-config.client.secure.server-name", File::Same, Slot::Text(at!(discovery.server_name)), None, ""),
    row(Section::FileOnly, "discovery-config.client.auth.token", File::Same, Slot::Text(at!(discovery.auth_token)), None, ""),
    row(Section::FileOnly, "discovery-config.client.max-request-bytes", File::Same, Slot::Int(at!(discovery.max_request_bytes)), None, ""),
    row(Section::FileOnly, "discovery-config.client.max-recv-bytes", File::Same, Slot::Int(at!(discovery.max_recv_bytes)), None, ""),
    row(Section::Auth, "auth-token", File::Same, Slot::Text(at!(auth_token)), None, "Kind of auth token and its options: simple or jwt,..."),
    row(Section::Auth, "auth-recovery", File::Same, Slot::Choice(at!(auth_recovery), &["on", "off"]), None, "Whether an empty --auth-token lets callers on this machine without credentials manage users, roles and the auth switch, for a forgotten root password. Not a flag of etcd."),
    row(Section::Auth, "bcrypt-cost", File::Same, Slot::Uint(at!(bcrypt_cost)), None, "Cost of hashing a password, 4 to 31."),
    row(Section::Auth, "auth-token-ttl", File::Same, Slot::Uint(at!(auth_token_ttl_seconds)), None, "Seconds that an unused simple token lives."),
    row(Section::Monitoring, "enable-pprof", File::Same, Slot::Bool(at!(enable_pprof)), None, "Serve profiles under /debug/pprof/ on the client URLs."),
    row(Section::Monitoring, "metrics", File::Same, Slot::Text(at!(metrics)), None, "Detail of metrics: basic, or extensive to add gRPC latency histograms."),
    row(Section::Monitoring, "listen-metrics-urls", File::Same, Slot::Urls(at!(listen_metrics_urls)), None, "Extra URLs that serve /metrics and health alone."),
    row(Section::Logging, "logger", File::Same, Slot::Text(at!(log.logger)), None, "Kind of logger, 'zap' only."),
    row(Section::Logging, "log-outputs", File::Same, Slot::SortedList(at!(log.outputs)), None, "Where logs go: default, stderr, stdout, systemd/journal or files, comma separated."),
    row(Section::Logging, "log-level", File::Same, Slot::Text(at!(log.level)), None, "Lowest level logged: debug, info, warn, error, panic or fatal."),
    row(Section::Logging, "log-format", File::Same, Slot::Text(at!(log.format)), None, "Form of log records: json or console."),
    row(Section::Logging, "enable-log-rotation", File::Same, Slot::Bool(at!(log.rotation_enabled)), None, "Rotate the log file; needs exactly one file in --log-outputs."),
    row(Section::Logging, "log-rotation-config-json", File::Same, Slot::Text(at!(log.rotation_json)), None, "How to rotate: maxsize (MB), maxage (days), maxbackups, localtime, compress."),
    row(Section::Logging, "warning-unary-request-duration", File::Same, Slot::Duration(at!(warning_unary_request_duration)), None, "Requests slower than this are logged as warnings."),
    row(Section::Tracing, "enable-distributed-tracing", File::Same, Slot::Bool(at!(tracing.enabled)), None, "Export spans over OTLP."),
    row(Section::Tracing, "distributed-tracing-address", File::Same, Slot::Text(at!(tracing.address)), None, "Address of the collector."),
    row(Section::Tracing, "distributed-tracing-service-name", File::Same, Slot::Text(at!(tracing.service_name)), None, "Name of the service, the same on all members."),
    row(Section::Tracing, "distributed-tracing-instance-id", File::Same, Slot::Text(at!(tracing.instance_id)), None, "Name of the instance, different on each member."),
    row(Section::Tracing, "distributed-tracing-sampling-rate", File::Same, Slot::Int(at!(tracing.sampling_rate_per_million)), None, "Spans sampled of each million."),
    row(Section::Features, "corrupt-check-time", File::Same, Slot::Duration(at!(corrupt_check_time)), None, "Interval at which members compare their data, 0 for never."),
    row(Section::Features, "compact-hash-check-time", File::Same, Slot::Duration(at!(compact_hash_check_time)), None, "Interval at which the leader compares compaction hashes."),
    row(Section::Features, "compaction-batch-limit", File::Same, Slot::Int(at!(compaction_batch_limit)), None, "Revisions deleted in one step of a compaction; 0 means 1000."),
    row(Section::Features, "compaction-sleep-interval", File::Same, Slot::Duration(at!(compaction_sleep_interval)), None, "Pause between two steps of a compaction; 0 means 10ms."),
    row(Section::Features, "peer-skip-client-san-verification", File::At("peer-transport-security.skip-client-san-verification"), Slot::Bool(at!(peer_tls.skip_client_san_verification)), None, "Do not compare the address of a dialling peer with its certificate."),
    row(Section::Features, "watch-progress-notify-interval", File::Same, Slot::Duration(at!(watch_progress_notify_interval)), None, "Interval of progress messages to idle watchers; 0 means 10m."),
    row(Section::Features, "downgrade-check-time", File::Same, Slot::Duration(at!(downgrade_check_time)), None, "Interval at which the state of a downgrade is looked at."),
    row(Section::Features, "warning-apply-duration", File::Same, Slot::Duration(at!(warning_apply_duration)), None, "Requests that take longer to apply are logged as warnings."),
    row(Section::Features, "bootstrap-defrag-threshold-megabytes", File::Same, Slot::Uint(at!(bootstrap_defrag_threshold_megabytes)), None, "Defragment at start if that frees at least this much, 0 for never."),
    row(Section::Features, "max-learners", File::Same, Slot::Int(at!(max_learners)), None, "Most learners in the cluster."),
    row(Section::Features, "snapshot-catchup-entries", File::Same, Slot::Uint64(at!(snapshot_catchup_entries)), None, "Log entries kept behind a raft snapshot for slow followers."),
    row(Section::Unsafe, "force-new-cluster", File::Same, Slot::Bool(at!(force_new_cluster)), None, "Start over as a cluster of one with the data at hand."),
    row(Section::Unsafe, "unsafe-no-fsync", File::Same, Slot::Bool(at!(unsafe_no_fsync)), None, "Never wait for the disk; a crash loses data."),
    row(Section::Hidden, "config-file", File::No, Slot::Text(at!(config_file)), None, ""),
    row(Section::Hidden, "version", File::No, Slot::Bool(at!(show_version)), None, ""),];
