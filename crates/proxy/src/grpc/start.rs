//! From settings to a proxy that serves.
//!
//! The order, and with it the order of the log, is etcd's: TLS files, the listener, the way up, the
//! services, the metrics listener.
//!
//! **Source**: etcd `server/etcdmain/grpc_proxy.go`.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use api::grpc::{Listener, Options as ListenOptions, Protocols, Serving, Workers};
use api::services::methods::CLIENT_METHODS;
use client::{Client, Options as ClientOptions};
use parking_lot::Mutex;
use proto::etcdserverpb as pb;
use server::metrics::grpc::MethodCounts;
use server::{listen, log};

use super::cache::Cache;
use super::cluster::{self, Identity, Proxies};
use super::counters::Counters;
use super::http::Metrics as ClusterMetrics;
use super::leader::Leader;
use super::lease::Renewals;
use super::leasing::Leasing;
use super::upstream::{Upstream, this_is_worker};
use super::watch::{Hub, Inputs};
use super::{MetricsText, Proxied, Proxy};
use crate::discover::{self, Question};

const DIAL: Duration = Duration::from_secs(5);
/// Longest request that a caller may send: gRPC's own limit.
const MAX_REQUEST_BYTES: usize = 4 << 20;
/// What gRPC does when nobody says otherwise.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(2 * 60 * 60), Duration::from_secs(20));
/// Descriptors that are not for callers.
const RESERVED_DESCRIPTORS: u64 = 150;
const RETRY: Duration = Duration::from_secs(1);

/// The flags.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `--listen-addr`.
    pub listen: String,
    /// `--metrics-addr`; empty for none.
    pub metrics_url: String,
    /// `--endpoints`.
    pub endpoints: Vec<String>,
    /// `--endpoints-auto-sync-interval`; zero for never.
    pub sync_interval: Duration,
    /// `--discovery-srv` and what goes with it.
    pub discovery: Question,
    /// `--dial-keepalive-time`; zero for never.
    pub dial_keepalive_time: Duration,
    /// `--dial-keepalive-timeout`.
    pub dial_keepalive_timeout: Duration,
    /// `--permit-without-stream`.
    pub permit_without_stream: bool,
    /// `--max-send-bytes`; zero or less for the client's own limit.
    pub max_send_bytes: i64,
    /// `--max-recv-bytes`, likewise.
    pub max_receive_bytes: i64,
    /// `--cacert`, `--cert`, `--key`, `--insecure-skip-tls-verify`: towards the cluster.
    pub cluster_tls: tls::Settings,
    /// `--cert-file`, `--key-file`, `--trusted-ca-file`, `--client-crl-file`, suites and versions:
    /// towards callers.
    pub caller_tls: tls::Settings,
    /// `--auto-tls`.
    pub auto_tls: bool,
    /// `--self-signed-cert-validity`.
    pub validity_years: u64,
    /// `--data-dir`.
    pub data_dir: String,
    /// `--advertise-client-url`, `--resolver-prefix`, `--resolver-ttl`.
    pub identity: Identity,
    /// `--namespace`.
    pub namespace: String,
    /// `--experimental-leasing-prefix`; empty for none.
    pub leasing_prefix: String,
    /// `--experimental-serializable-ordering`.
    pub ordering: bool,
    /// `--experimental-enable-grpc-logging`.
    pub payload_log: bool,
    /// `--grpc-keepalive-min-time`.
    pub keepalive_min_time: Duration,
    /// `--grpc-keepalive-interval`.
    pub keepalive_interval: Duration,
    /// `--grpc-keepalive-timeout`.
    pub keepalive_timeout: Duration,
    /// `--max-concurrent-streams`.
    pub max_concurrent_streams: u32,
    /// `--enable-pprof`.
    pub enable_pprof: bool,
}

/// Why a proxy does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The certificate that was to be generated.
    #[error(transparent)]
    SelfSigned(#[from] tls::GenerateError),
    /// The files for callers.
    #[error("{0}")]
    CallerTls(String),
    /// The files for the cluster.
    #[error(transparent)]
    ClusterTls(#[from] tls::SetupError),
    /// The same.
    #[error(transparent)]
    ClusterFile(#[from] tls::FileError),
    /// A certificate for the cluster that names somebody: the cluster would take every caller for him.
    #[error("cert has non empty Common Name ({name}): {file}")]
    CommonName {
        /// The name.
        name: String,
        /// The certificate's file.
        file: String,
    },
    /// An address.
    #[error("listen tcp {address}: bind: {reason}")]
    Listen {
        /// It.
        address: String,
        /// Why not.
        reason: String,
    },
    /// `--metrics-addr`.
    #[error("cannot parse {0:?}")]
    MetricsUrl(String),
    /// Neither service is in the DNS.
    #[error(transparent)]
    Discover(#[from] client::DiscoverError),
    /// The way up.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// Threads and sockets.
    #[error("{0}")]
    System(#[from] io::Error),
}

/// A proxy that serves, until it is dropped.
pub struct Prepared {
    serving: Vec<Serving>,
    _workers: Arc<Workers>,
}

impl Prepared {
    /// Starts a proxy and comes back when it serves.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(mut settings: Settings) -> Result<Self, StartError> {
        let caller_tls = caller_tls(&settings)?;
        let listener = bind(&settings.listen)?;
        let security = match &caller_tls {
            Some(tls) => Some(encryption(tls, &settings.listen)?),
            None => None,
        };
        log::info!("listening for gRPC proxy client requests", "address" => &settings.listen);
        let discovering = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let found = discovering.block_on(discover::discover(&settings.discovery))?;
        drop(discovering);
        if !found.is_empty() {
            settings.endpoints = found.into_iter().map(|found| found.url).collect();
        }
        let cluster = cluster_client(&settings)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = Arc::new(Workers::start(cores, "worker")?);
        let clients = connect_all(&workers, &cluster)?;
        let methods = api::grpc::Metrics::new(CLIENT_METHODS);
        let proxy = Arc::new(assemble(&settings, &workers, clients, caller_tls.as_ref(), methods.clone())?);
        let service = Proxied { proxy, has_profiles: settings.enable_pprof };
        if settings.enable_pprof {
            log::info!("gRPC proxy enabled pprof", "path" => "/debug/pprof");
        }
        let mut serving = Vec::new();
        let options = listen_options(&settings, security.clone(), Protocols::Both);
        let listening = api::grpc::serve_counted(&workers, listener, options, service.clone(), methods);
        serving.push(listening?);
        if !settings.metrics_url.is_empty() {
            let (listener, secure) = bind_metrics(&settings.metrics_url, security.is_some())?;
            log::info!("gRPC proxy listening for metrics", "address" => &settings.metrics_url);
            let options = listen_options(&settings, security.filter(|_| secure), Protocols::Http);
            let service = Proxied { has_profiles: false, ..service };
            serving.push(api::grpc::serve(&workers, listener, options, service)?);
            log::info!("gRPC proxy server metrics URL serving");
        }
        log::info!("started gRPC proxy", "address" => &settings.listen);
        Ok(Self { serving, _workers: workers })
    }

    /// Where it serves.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.serving.first().and_then(Serving::local_addr)
    }
}

/// The settings towards callers, with a generated certificate if there is to be one; `None` for plain
/// text.
fn caller_tls(settings: &Settings) -> Result<Option<tls::Settings>, StartError> {
    let mut tls = settings.caller_tls.clone();
    if tls.is_empty() && tls.trusted_ca_file.is_empty() {
        if !settings.auto_tls {
            return Ok(None);
        }
        let dir = Path::new(&settings.data_dir).join("fixtures").join("proxy");
        let made = tls::self_signed(&dir, &[&settings.listen], settings.validity_years)?;
        if made.is_new {
            log::warn!("automatically generate certificates", "validity-years" => settings.validity_years);
            log::info!("created cert file", "path" => &made.cert_file);
            log::info!("created key file", "path" => &made.key_file);
        }
        // What is made here is for our own look at ourselves as well.
        tls = tls::Settings {
            cert_file: made.cert_file,
            key_file: made.key_file,
            insecure_skip_verify: true,
            ..tls
        };
    }
    log::info!("gRPC proxy server TLS", "tls-info" => tls.to_string());
    Ok(Some(tls))
}

fn report() -> tls::Report {
    Arc::new(|warning| {
        let fields: Vec<log::Field<'_>> =
            warning.fields.iter().map(|(name, value)| (*name, value.as_str().into())).collect();
        log::warn(&warning.text, &fields);
    })
}

fn encryption(settings: &tls::Settings, address: &str) -> Result<api::grpc::Security, StartError> {
    let settings = tls::Settings { check_client_address: true, ..settings.clone() };
    if settings.is_empty() {
        return Err(without_certificate(address));
    }
    let acceptor = tls::Acceptor::new(&settings, &["h2", "http/1.1"], report())
        .map_err(|error| StartError::CallerTls(error.to_string()))?;
    let on_rejected = Arc::new(|remote: &str, rejected: &tls::Rejected| {
        let level = if rejected.is_silent { log::Level::Debug } else { log::Level::Warn };
        let fields: [log::Field<'_>; 3] = [
            ("remote-addr", remote.into()),
            ("server-name", (&rejected.server_name).into()),
            ("error", (&rejected.reason).into()),
        ];
        log::log(level, "rejected connection", &fields);
    });
    Ok(api::grpc::Security { acceptor, plain_too: false, on_rejected })
}

fn without_certificate(address: &str) -> StartError {
    let text = format!("cannot listen on TLS for {address}: KeyFile and CertFile are not presented");
    StartError::CallerTls(text)
}

fn cluster_client(settings: &Settings) -> Result<ClientOptions, StartError> {
    let mut options = ClientOptions::new(settings.endpoints.clone());
    options.dial_timeout = DIAL;
    options.keepalive_time = settings.dial_keepalive_time;
    options.keepalive_timeout = settings.dial_keepalive_timeout;
    options.keepalive_while_idle = settings.permit_without_stream;
    options.max_send_bytes = usize::try_from(settings.max_send_bytes).unwrap_or(0);
    options.max_receive_bytes = usize::try_from(settings.max_receive_bytes).unwrap_or(0);
    let tls = &settings.cluster_tls;
    let has_files = !(tls.trusted_ca_file.is_empty() && tls.cert_file.is_empty() && tls.key_file.is_empty());
    if has_files || tls.insecure_skip_verify {
        options.tls = Some(tls::Connector::new(tls, &["h2"], report())?);
        if !tls.cert_file.is_empty() {
            let name = tls::common_name(&tls.cert_file)?;
            if !name.is_empty() {
                return Err(StartError::CommonName { name, file: tls.cert_file.clone() });
            }
        }
        if tls.insecure_skip_verify {
            log::warn!(
                "--insecure-skip-tls-verify was given, this grpc proxy process skips authentication of etcd server TLS certificates. This option should be enabled only for testing purposes."
            );
        }
        log::info!("gRPC proxy client TLS", "tls-info" => tls.to_string());
    }
    Ok(options)
}

/// A client for each worker, made on its thread.
fn connect_all(workers: &Arc<Workers>, options: &ClientOptions) -> Result<Vec<Client>, StartError> {
    let mut clients = Vec::new();
    for number in 0..workers.count() {
        let options = options.clone();
        let client = on_worker(workers, number, move || async move {
            this_is_worker(number);
            Client::connect(options).await
        });
        clients.push(client?.map_err(StartError::Client)?);
    }
    Ok(clients)
}

/// Runs something on a worker and waits for its result.
fn on_worker<T, F>(
    workers: &Workers,
    number: usize,
    make: impl FnOnce() -> F + Send + 'static,
) -> io::Result<T>
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    let (sender, receiver) = mpsc::sync_channel(1);
    workers.spawn_on(number, move || async move {
        // Who waits is below.
        let _ = sender.send(make().await);
    });
    receiver.recv().map_err(|_| io::Error::other("a worker thread ended at its start"))
}

/// What runs on the first worker.
struct Central {
    leasing: Option<Arc<Leasing>>,
    hub: Inputs,
    renewals: Renewals,
    leader: Leader,
    itself: Option<Client>,
}

fn assemble(
    settings: &Settings,
    workers: &Arc<Workers>,
    clients: Vec<Client>,
    caller_tls: Option<&tls::Settings>,
    methods: api::grpc::Metrics,
) -> Result<Proxy, StartError> {
    let identity = settings.identity.clone();
    let (counters, proxies) = (Arc::<Counters>::default(), Proxies::default());
    let upstream = Arc::new(Upstream::new(clients.clone(), &settings.namespace, settings.ordering));
    let client = clients[0].clone();
    if settings.ordering {
        log::info!("waiting for linearized read from cluster to recover ordering");
        let client = client.clone();
        let header = on_worker(workers, 0, move || async move { recover_ordering(&client).await })?;
        upstream.shown(header.as_ref());
    }
    let itself = match identity.advertise.is_empty() {
        true => None,
        false => Some(own_client(&identity.advertise, caller_tls)?),
    };
    if itself.is_some() {
        log::info!("create proxy client", "grpcProxyAdvertiseClientURL" => &identity.advertise);
    }
    let (namespace, shared_counters) = (upstream.namespace.clone(), counters.clone());
    let (known, who) = (proxies.clone(), identity.clone());
    let sync_interval = settings.sync_interval;
    let (leasing_prefix, way_up) = (settings.leasing_prefix.clone(), upstream.clone());
    let central = on_worker(workers, 0, move || async move {
        let (hub, queue) = Hub::new(client.clone(), namespace.clone(), shared_counters);
        let inputs = hub.inputs();
        tokio::spawn(hub.run(queue));
        if !who.prefix.is_empty() {
            tokio::spawn(cluster::register(client.clone(), namespace.clone(), who.clone()));
            tokio::spawn(cluster::observe(client.clone(), namespace, who.prefix, known));
        }
        if !sync_interval.is_zero() {
            tokio::spawn(follow_members(clients, sync_interval));
        }
        let itself = match itself {
            Some(options) => Some(Client::connect(options).await?),
            None => None,
        };
        let leasing = (!leasing_prefix.is_empty()).then(|| Leasing::start(way_up, &leasing_prefix));
        let (renewals, leader) = (Renewals::new(client.clone()), Leader::new(client));
        Ok::<_, client::Error>(Central { leasing, hub: inputs, renewals, leader, itself })
    });
    let Central { leasing, hub, renewals, leader, itself } = central??;
    let cluster_metrics = ClusterMetrics::new(&settings.endpoints, metrics_connector(settings)?);
    let own_metrics = own_metrics(counters.clone(), methods);
    let cache = Mutex::new(Cache::default());
    Ok(Proxy {
        upstream,
        leasing,
        cache,
        counters,
        hub,
        renewals,
        leader,
        identity,
        proxies,
        cluster_metrics,
        own_metrics,
        has_payload_log: settings.payload_log,
        itself,
    })
}

/// Waits until the cluster has answered a linearizable read: older answers than that one, whose header
/// this gives, do not count from then on.
async fn recover_ordering(client: &Client) -> Option<pb::ResponseHeader> {
    let look = pb::RangeRequest { key: "_".into(), keys_only: true, ..Default::default() };
    loop {
        match client.call(look.clone()).await {
            Ok(response) => return response.header,
            Err(error) => {
                log::warn!("ordering recovery failed, retrying in 1s", "error" => error.to_string());
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

fn own_client(advertise: &str, tls: Option<&tls::Settings>) -> Result<ClientOptions, StartError> {
    let mut options = ClientOptions::new([advertise]);
    options.dial_timeout = DIAL;
    if let Some(tls) = tls {
        options.tls = Some(tls::Connector::new(tls, &["h2"], report())?);
    }
    Ok(options)
}

fn metrics_connector(settings: &Settings) -> Result<Option<tls::Connector>, StartError> {
    let tls = &settings.cluster_tls;
    let has_all = !(tls.trusted_ca_file.is_empty() || tls.is_empty());
    if !has_all && !tls.insecure_skip_verify && tls.trusted_ca_file.is_empty() {
        return Ok(None);
    }
    Ok(Some(tls::Connector::new(tls, &["http/1.1"], report())?))
}

fn own_metrics(counters: Arc<Counters>, methods: api::grpc::Metrics) -> MetricsText {
    let metrics = server::metrics::Metrics::default();
    Box::new(move || {
        counters.fill(&metrics);
        let counts = methods.snapshot();
        let methods: Vec<_> = counts.iter().map(|counts| MethodCounts::of(counts, None)).collect();
        metrics.render(&methods, None)
    })
}

/// Follows the addresses that the members have now, for ever.
async fn follow_members(clients: Vec<Client>, interval: Duration) {
    let mut followed: Vec<String> = Vec::new();
    loop {
        tokio::time::sleep(interval).await;
        match clients[0].with_timeout(DIAL).call(pb::MemberListRequest::default()).await {
            Ok(list) => {
                let started = list.members.into_iter().filter(|member| !member.name.is_empty());
                let voters = started.filter(|member| !member.is_learner);
                let endpoints: Vec<String> = voters.flat_map(|member| member.client_ur_ls).collect();
                clients.iter().for_each(|client| client.set_endpoints(&endpoints));
                if endpoints != followed {
                    log::info!("following the member list", "endpoints" => &endpoints);
                    followed = endpoints;
                }
            }
            Err(error) => log::info!("Auto sync endpoints failed.", "error" => error.to_string()),
        }
    }
}

fn listen_options(
    settings: &Settings,
    security: Option<api::grpc::Security>,
    protocols: Protocols,
) -> ListenOptions {
    let or = |given: Duration, default| if given.is_zero() { default } else { given };
    let limit = server::metrics::process::descriptor_limit().unwrap_or(u64::MAX);
    let limit = limit.saturating_sub(RESERVED_DESCRIPTORS).max(RESERVED_DESCRIPTORS);
    ListenOptions {
        max_receive_bytes: MAX_REQUEST_BYTES,
        max_concurrent_streams: settings.max_concurrent_streams,
        max_connections: usize::try_from(limit).unwrap_or(usize::MAX),
        keepalive_interval: or(settings.keepalive_interval, KEEPALIVE.0),
        keepalive_timeout: or(settings.keepalive_timeout, KEEPALIVE.1),
        keepalive_min_time: settings.keepalive_min_time,
        protocols,
        security,
        observation: None,
    }
}

fn bind(address: &str) -> Result<Listener, StartError> {
    let failed =
        |error: io::Error| StartError::Listen { address: address.to_owned(), reason: tls::explain(&error) };
    listen::tcp(address, listen::Options::default()).map(Listener::Tcp).map_err(failed)
}

/// The listener of `scheme://host:port`, and whether it is encrypted.
fn bind_metrics(url: &str, has_certificate: bool) -> Result<(Listener, bool), StartError> {
    let unreadable = || StartError::MetricsUrl(url.to_owned());
    let (scheme, address) = url.split_once("://").ok_or_else(unreadable)?;
    let address = address.split('/').next().unwrap_or_default();
    match (scheme, has_certificate) {
        ("http", _) => Ok((bind(address)?, false)),
        ("https", true) => Ok((bind(address)?, true)),
        ("https", false) => Err(without_certificate(address)),
        _ => Err(unreadable()),
    }
}
