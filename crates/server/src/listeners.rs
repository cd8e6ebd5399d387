//! The addresses of a member: bound before it starts, served when it has published itself.
//!
//! One address may be given as `http` and as `https`: then it takes both.
//!
//! **Source**: etcd `server/embed/{etcd,serve}.go`.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::grpc::{Listener, Options as ListenOptions, Protocols};
use api::http::{AccessControl, Allowed, HttpSide};
use api::services::EtcdService;

use crate::config::Config;
use crate::config::url::Url;
use crate::listen;
use crate::log;
use crate::node::Node;
use crate::observe::Watcher;
use crate::otlp::Tracer;
use crate::run::RunError;
use crate::security::Security;
use crate::start::{Running, StartError};

/// Descriptors that are not for client connections.
pub(crate) const RESERVED_DESCRIPTORS: u64 = 150;

/// A bound address.
struct Bound {
    url: Url,
    plain: bool,
    secure: bool,
    listener: Listener,
}

/// The file of a unix socket that this process listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and number: what tells it from a successor's of the same name.
    identity: (u64, u64),
}

impl SocketFile {
    fn at(path: &Path) -> std::io::Result<Self> {
        let facts = std::fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), identity: (facts.dev(), facts.ino()) })
    }

    /// Removes it, unless another one has taken its place.
    pub(crate) fn remove(&self) {
        if Self::at(&self.path).is_ok_and(|there| there == *self) {
            // Who removed it before did what was to be done.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The bound addresses of a member.
pub(crate) struct Listeners {
    client: Vec<Bound>,
    http: Vec<Bound>,
    metrics: Vec<Bound>,
    peer: Vec<Bound>,
    /// Of all of them, to be removed at the end.
    files: Vec<SocketFile>,
}

impl Listeners {
    pub(crate) fn bind(config: &Config) -> Result<Self, RunError> {
        if config.socket_reuse_address || config.socket_reuse_port {
            log::info!("configuring socket options",
                "reuse-address" => config.socket_reuse_address, "reuse-port" => config.socket_reuse_port);
        }
        log::info!("configuring peer listeners", "listen-peer-urls" => &config.listen_peer_urls);
        let mut files = Vec::new();
        let peer = bind_all(&config.listen_peer_urls, config, &mut files).inspect_err(|error| {
            if matches!(error, RunError::Listen { .. }) {
                log::error!("creating peer listener failed", "error" => error.to_string());
            }
        })?;
        log::info!("configuring client listeners", "listen-client-urls" => &config.listen_client_urls);
        if config.enable_pprof {
            log::info!("pprof is enabled", "path" => "/debug/pprof");
        }
        let clients = &config.listen_client_urls;
        let twice = |url: &&Url| clients.iter().any(|other| address_of(other) == address_of(url));
        if let Some(url) = config.listen_client_http_urls.iter().find(twice) {
            return Err(RunError::SameUrl(url.to_string()));
        }
        Ok(Self {
            client: bind_all(&config.listen_client_urls, config, &mut files)?,
            http: bind_all(&config.listen_client_http_urls, config, &mut files)?,
            metrics: bind_all(&config.listen_metrics_urls, config, &mut files)?,
            peer,
            files,
        })
    }

    /// The files of unix sockets.
    pub(crate) fn take_files(&mut self) -> Vec<SocketFile> {
        std::mem::take(&mut self.files)
    }

    /// The peers' listeners, for the transport.
    pub(crate) fn take_peer(&mut self, security: &Arc<dyn peer::net::Security>) -> Vec<peer::net::Listener> {
        let taken = std::mem::take(&mut self.peer).into_iter();
        taken
            .map(|bound| peer::net::Listener {
                socket: match bound.listener {
                    Listener::Tcp(listener) => peer::net::Socket::Tcp(listener),
                    Listener::Unix(listener) => peer::net::Socket::Unix(listener),
                },
                security: bound.secure.then(|| security.clone()),
                name: bound.url.as_str().to_owned(),
            })
            .collect()
    }

    pub(crate) fn serve(
        self,
        config: &Config,
        running: &Running,
        security: &Security,
        tracer: Option<Arc<Tracer>>,
    ) -> Result<Vec<api::grpc::Serving>, RunError> {
        let split = !self.http.is_empty();
        let access = || AccessControl {
            hosts: Allowed::from_list(config.host_whitelist.clone()),
            origins: Allowed::from_list(config.cors.clone()),
        };
        let member = Arc::new(running.node.clone());
        let counters = api::grpc::Metrics::new(EtcdService::<Node>::methods());
        let counters = counters.timed(config.metrics == "extensive");
        let observation = Watcher::new(config.warning_unary_request_duration.to_std(), tracer).observation();
        let health = Arc::new(api::http::HealthCounters::default());
        let side = |metrics_and_health_only: bool| {
            let (node, calls, checks) = (running.node.clone(), counters.clone(), health.clone());
            let metrics = Box::new(move || crate::scrape::metrics(&node, &calls, &checks));
            let node = running.node.clone();
            let debug_vars = Box::new(move || crate::scrape::debug_vars(&node));
            let mut side = HttpSide::new(metrics, debug_vars);
            side.access = access();
            side.health = health.clone();
            side.json_gateway = config.enable_grpc_gateway;
            side.metrics_and_health_only = metrics_and_health_only;
            // At the lowest level upstream opens these as well.
            if config.enable_pprof || log::enabled(log::Level::Debug) {
                side.debug_pages = Some(Arc::new(crate::profile::answer));
            }
            Arc::new(side)
        };
        let mut serving = Vec::new();
        let mut start = |listeners: Vec<Bound>, protocols, only, traffic: &str| {
            let http = side(only);
            for bound in listeners {
                let mut options = listen_options(config, protocols);
                options.observation = Some(observation.clone());
                options.security = match (bound.secure, only) {
                    (false, _) => None,
                    (true, true) => security.of_metrics()?,
                    (true, false) => security.of_clients(protocols != Protocols::Grpc, bound.plain)?,
                };
                let service = EtcdService::new(member.clone(), http.clone());
                let shared = counters.clone();
                let served =
                    api::grpc::serve_counted(&running.workers, bound.listener, options, service, shared);
                serving.push(served.map_err(StartError::Thread)?);
                if traffic.is_empty() {
                    continue;
                }
                log::info!("ready to serve client requests");
                let address = bound.url.host();
                if bound.plain {
                    log::info!(
                        "serving client traffic insecurely; this is strongly discouraged!",
                        "traffic" => traffic,
                        "address" => address
                    );
                }
                if bound.secure {
                    log::info!("serving client traffic securely", "traffic" => traffic, "address" => address);
                }
            }
            Ok::<(), RunError>(())
        };
        let (protocols, traffic) =
            if split { (Protocols::Grpc, "grpc") } else { (Protocols::Both, "grpc+http") };
        start(self.client, protocols, false, traffic)?;
        start(self.http, Protocols::Http, false, "http")?;
        start(self.metrics, Protocols::Http, true, "")?;
        log::info!("grpc service status changed", "service" => "", "status" => "SERVING");
        Ok(serving)
    }
}

fn listen_options(config: &Config, protocols: Protocols) -> ListenOptions {
    let limit = descriptor_limit().saturating_sub(RESERVED_DESCRIPTORS);
    // Both or none: without one of them gRPC's own values hold.
    let given = (config.grpc_keepalive_interval.to_std(), config.grpc_keepalive_timeout.to_std());
    let (keepalive_interval, keepalive_timeout) = match given.0.min(given.1) {
        Duration::ZERO => (Duration::from_secs(2 * 60 * 60), Duration::from_secs(20)),
        _ => given,
    };
    ListenOptions {
        max_receive_bytes: usize::try_from(config.max_request_bytes).unwrap_or(usize::MAX / 2) + 512 * 1024,
        max_concurrent_streams: config.max_concurrent_streams,
        max_connections: usize::try_from(limit).unwrap_or(usize::MAX),
        keepalive_interval,
        keepalive_timeout,
        keepalive_min_time: config.grpc_keepalive_min_time.to_std(),
        protocols,
        security: None,
        observation: None,
    }
}

fn descriptor_limit() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// What tells two addresses apart, whatever the scheme.
fn address_of(url: &Url) -> String {
    if url.is_unix() { format!("unix:{}{}", url.host(), url.path()) } else { url.host().to_owned() }
}

fn bind_all(urls: &[Url], config: &Config, files: &mut Vec<SocketFile>) -> Result<Vec<Bound>, RunError> {
    let limit = descriptor_limit();
    if limit <= RESERVED_DESCRIPTORS {
        return Err(RunError::Descriptors { limit, recommended: RESERVED_DESCRIPTORS });
    }
    let mut all: Vec<Bound> = Vec::new();
    for url in urls {
        let (plain, secure) = (!url.is_tls(), url.is_tls());
        if let Some(bound) = all.iter_mut().find(|bound| address_of(&bound.url) == address_of(url)) {
            bound.plain |= plain;
            bound.secure |= secure;
            continue;
        }
        let network = if url.is_unix() { "unix" } else { "tcp" };
        let address = format!("{}{}", url.host(), url.path());
        let bound = bind(url, config, files);
        let listener = bound.map_err(|source| RunError::Listen { network, address, source })?;
        all.push(Bound { url: url.clone(), plain, secure, listener });
    }
    Ok(all)
}

fn bind(url: &Url, config: &Config, files: &mut Vec<SocketFile>) -> std::io::Result<Listener> {
    if url.is_unix() {
        // unix:///abs/path has its path behind the host; unix://name:port is a file of that name.
        let path = PathBuf::from(format!("{}{}", url.host(), url.path()));
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = std::os::unix::net::UnixListener::bind(&path)?;
        files.push(SocketFile::at(&path)?);
        return Ok(Listener::Unix(listener));
    }
    let options = listen::Options { reuse_port: config.socket_reuse_port };
    listen::tcp(url.host(), options).map(Listener::Tcp)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A member that is slow to end must not take the socket of the one that was started after it.
    #[test]
    fn a_socket_is_removed_by_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let url = Url::parse(&format!("unix://{}", path.display())).unwrap();
        let (mut first, mut second) = (Vec::new(), Vec::new());
        let config = Config::default();
        let _older = bind(&url, &config, &mut first).unwrap();
        let _newer = bind(&url, &config, &mut second).unwrap();
        first[0].remove();
        assert!(path.exists());
        second[0].remove();
        assert!(!path.exists());
        second[0].remove();
    }
}
