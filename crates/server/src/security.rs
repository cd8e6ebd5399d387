//! TLS of a member: from flags to acceptors and connectors, with etcd's words in the log.
//!
//! Peers' files are read before anything is bound, clients' as well, so that a member that cannot
//! serve does not join its cluster first. (etcd finds out about the clients' only when it serves.)
//!
//! **Source**: etcd `server/embed/{etcd,config,config_logging}.go`.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::{fmt, io};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use peer::net::BoxIo;
use tls::{Acceptor, CipherSuites, Connector, Rejected, Report, Settings, Versions};

use crate::config::url::Url;
use crate::config::{Config, TlsFiles};
use crate::log;

/// What peers and clients are offered over TLS.
const PEER_PROTOCOLS: [&str; 1] = ["http/1.1"];
const BOTH_PROTOCOLS: [&str; 2] = ["h2", "http/1.1"];
const GRPC_PROTOCOLS: [&str; 1] = ["h2"];

/// Why a member's TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// A suite.
    #[error(transparent)]
    Suite(#[from] tls::SuiteError),
    /// An encrypted address without a certificate.
    #[error("TLS key/cert (--cert-file, --key-file) must be provided for client url {0} with HTTPS scheme")]
    ClientUrl(String),
    /// The same for metrics.
    #[error("client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url")]
    MetricsUrl,
    /// The same for peers.
    #[error("cannot listen on TLS for {0}: KeyFile and CertFile are not presented")]
    PeerUrl(String),
    /// The peers' files.
    #[error(transparent)]
    Peer(tls::SetupError),
    /// The clients' files.
    #[error("{0}")]
    Client(tls::SetupError),
    /// A certificate that was to be generated.
    #[error("{error}")]
    SelfSigned {
        /// `client` or `peer`.
        side: &'static str,
        /// Why not.
        error: tls::GenerateError,
    },
}

impl SecurityError {
    /// The record with which the start ends.
    pub fn record(&self) -> &'static str {
        match self {
            Self::Client(_) => "listener failed",
            Self::SelfSigned { side: "peer", .. } => "failed to get peer self-signed certs",
            Self::SelfSigned { .. } => "failed to get client self-signed certs",
            _ => "discovery failed",
        }
    }
}

/// TLS of one member.
pub struct Security {
    client: Option<Settings>,
    peer: Settings,
    peer_acceptor: Option<Acceptor>,
    /// The name that all peers have to show; empty for that of each URL.
    peer_server_name: String,
}

impl Security {
    /// Checks the flags, makes certificates if told to, and reads all files.
    ///
    /// # Errors
    /// Flags and files that do not hold together.
    pub fn new(config: &Config) -> Result<Self, SecurityError> {
        let suites = CipherSuites::from_names(&config.cipher_suites)?;
        let versions = Versions::from_names(&config.tls_min_version, &config.tls_max_version);
        let settings = |files: TlsFiles| Settings {
            cert_file: files.cert_file,
            key_file: files.key_file,
            client_cert_file: files.client_cert_file,
            client_key_file: files.client_key_file,
            trusted_ca_file: files.trusted_ca_file,
            client_cert_auth: files.client_cert_auth,
            crl_file: files.crl_file,
            allowed_cns: files.allowed_cns,
            allowed_hostnames: files.allowed_hostnames,
            check_client_address: !files.skip_client_san_verification,
            insecure_skip_verify: false,
            suites: suites.clone(),
            versions,
        };
        let peer = match with_generated(config, "peer", &config.peer_tls, &[&config.listen_peer_urls])? {
            // Members that generate their certificates do not verify each other.
            Some(files) => Settings { insecure_skip_verify: true, ..settings(files) },
            None => settings(config.peer_tls.clone()),
        };
        for url in config.listen_peer_urls.iter().filter(|url| url.is_tls()) {
            if peer.is_empty() {
                return Err(SecurityError::PeerUrl(url.host().to_owned()));
            }
        }
        let mut peer_acceptor = None;
        if !peer.is_empty() {
            log::info!(
                "starting with peer TLS",
                "tls-info" => peer.to_string(),
                "cipher-suites" => &config.cipher_suites
            );
            peer_acceptor =
                Some(Acceptor::new(&peer, &PEER_PROTOCOLS, report()).map_err(SecurityError::Peer)?);
        }
        for url in config.listen_peer_urls.iter().filter(|url| !url.is_tls()) {
            if !peer.is_empty() {
                let text = "scheme is HTTP while key and cert files are present; ignoring key and cert files";
                log::warn!(text, "peer-url" => url);
            }
            if peer.client_cert_auth {
                let text = "scheme is HTTP while --peer-client-cert-auth is enabled; ignoring client cert auth for this URL";
                log::warn!(text, "peer-url" => url);
            }
        }
        let lists = [&config.listen_client_urls, &config.listen_client_http_urls];
        let client = match with_generated(config, "client", &config.client_tls, &lists)? {
            Some(files) => settings(files),
            None => settings(config.client_tls.clone()),
        };
        check_client_urls(config, &client)?;
        let security = Self {
            client: Some(client).filter(|client| !client.is_empty()),
            peer,
            peer_acceptor,
            peer_server_name: config.peer_server_name.clone(),
        };
        if security.client.is_some() {
            security.client_acceptor(true)?;
        }
        Ok(security)
    }

    /// The clients' certificate, for the log.
    pub fn announce_client(&self, config: &Config) {
        if let Some(client) = &self.client {
            log::info!(
                "starting with client TLS",
                "tls-info" => client.to_string(),
                "cipher-suites" => &config.cipher_suites
            );
        }
    }

    fn client_acceptor(&self, with_http: bool) -> Result<Option<Acceptor>, SecurityError> {
        let Some(client) = &self.client else { return Ok(None) };
        // The address of who connects counts for peers and metrics only.
        let client = Settings { check_client_address: false, ..client.clone() };
        let protocols = if with_http { &BOTH_PROTOCOLS[..] } else { &GRPC_PROTOCOLS[..] };
        Acceptor::new(&client, protocols, report()).map(Some).map_err(SecurityError::Client)
    }

    /// Encryption of a listener for clients.
    ///
    /// # Errors
    /// Files that went bad since the start.
    pub fn of_clients(
        &self,
        with_http: bool,
        plain_too: bool,
    ) -> Result<Option<api::grpc::Security>, SecurityError> {
        let acceptor = self.client_acceptor(with_http)?;
        Ok(acceptor.map(|acceptor| encryption(acceptor, plain_too)))
    }

    /// Encryption of a listener for metrics.
    ///
    /// # Errors
    /// Files that went bad since the start.
    pub fn of_metrics(&self) -> Result<Option<api::grpc::Security>, SecurityError> {
        let Some(client) = &self.client else { return Ok(None) };
        let acceptor = Acceptor::new(client, &BOTH_PROTOCOLS, report()).map_err(SecurityError::Client)?;
        Ok(Some(encryption(acceptor, false)))
    }

    /// What encrypts connections of peers, in both directions.
    ///
    /// # Errors
    /// The certificate shown to peers cannot be used.
    pub fn of_peers(&self) -> Result<Arc<dyn peer::net::Security>, SecurityError> {
        let peers = Peers {
            acceptor: self.peer_acceptor.clone(),
            settings: self.peer.clone(),
            server_name: self.peer_server_name.clone(),
            connector: OnceLock::new(),
        };
        if self.peer != Settings::default() && !(self.peer.is_empty() && self.peer.trusted_ca_file.is_empty())
        {
            peers
                .connector
                .get_or_init(|| peers.connect_by())
                .as_ref()
                .map_err(|error| SecurityError::Peer(error.clone()))?;
        }
        Ok(Arc::new(peers))
    }
}

fn encryption(acceptor: Acceptor, plain_too: bool) -> api::grpc::Security {
    let on_rejected = Arc::new(|remote: &str, rejected: &Rejected| {
        log_rejected("rejected connection on client endpoint", remote, rejected)
    });
    api::grpc::Security { acceptor, plain_too, on_rejected }
}

/// The files of a generated certificate, if there is to be one. They stand for all other settings.
fn with_generated(
    config: &Config,
    side: &'static str,
    files: &TlsFiles,
    urls: &[&Vec<Url>],
) -> Result<Option<TlsFiles>, SecurityError> {
    if !files.auto_tls {
        return Ok(None);
    }
    if !(files.cert_file.is_empty() && files.key_file.is_empty()) {
        match side {
            "peer" => log::warn!("ignoring peer auto TLS since certs given"),
            _ => log::warn!("ignoring client auto TLS since certs given"),
        }
        return Ok(None);
    }
    let dir = Path::new(&config.data_dir).join("fixtures").join(side);
    let hosts: Vec<&str> = urls.iter().flat_map(|urls| urls.iter()).map(Url::host).collect();
    let made = tls::self_signed(&dir, &hosts, config.self_signed_cert_validity_years)
        .map_err(|error| SecurityError::SelfSigned { side, error })?;
    if made.moved_aside {
        let text = "moved generated certificate aside: its key is of a kind that is not supported";
        log::warn!(text, "path" => &made.cert_file);
    }
    if made.is_new {
        let years = config.self_signed_cert_validity_years;
        log::warn!("automatically generate certificates", "validity-years" => years);
        log::info!("created cert file", "path" => &made.cert_file);
        log::info!("created key file", "path" => &made.key_file);
    }
    Ok(Some(TlsFiles {
        cert_file: made.cert_file.clone(),
        key_file: made.key_file.clone(),
        client_cert_file: made.cert_file,
        client_key_file: made.key_file,
        ..TlsFiles::default()
    }))
}

fn check_client_urls(config: &Config, client: &Settings) -> Result<(), SecurityError> {
    for url in config.listen_client_urls.iter().chain(&config.listen_client_http_urls) {
        match (url.is_tls(), client.is_empty()) {
            (true, true) => return Err(SecurityError::ClientUrl(url.to_string())),
            (false, false) => {
                let text = "scheme is http or unix while key and cert files are present; ignoring key and cert files";
                log::warn!(text, "client-url" => url);
            }
            _ => {}
        }
        if !url.is_tls() && client.client_cert_auth {
            let text = "scheme is http or unix while --client-cert-auth is enabled; ignoring client cert auth for this URL";
            log::warn!(text, "client-url" => url);
        }
    }
    match config.listen_metrics_urls.iter().any(Url::is_tls) && client.is_empty() {
        true => Err(SecurityError::MetricsUrl),
        false => Ok(()),
    }
}

pub(crate) fn report() -> Report {
    Arc::new(|warning| {
        let fields: Vec<log::Field<'_>> =
            warning.fields.iter().map(|(name, value)| (*name, value.as_str().into())).collect();
        log::warn(&warning.text, &fields);
    })
}

fn log_rejected(text: &str, remote: &str, rejected: &Rejected) {
    let mut fields: Vec<log::Field<'_>> =
        vec![("remote-addr", remote.into()), ("server-name", (&rejected.server_name).into())];
    if let Some((addresses, names)) = &rejected.names {
        fields.push(("ip-addresses", addresses.into()));
        fields.push(("dns-names", names.into()));
    }
    fields.push(("error", (&rejected.reason).into()));
    // Who connects and says nothing, as load balancers do to look whether we live, is no news.
    let level = if rejected.is_silent { log::Level::Debug } else { log::Level::Warn };
    log::log(level, text, &fields);
}

/// Connections of peers.
struct Peers {
    acceptor: Option<Acceptor>,
    settings: Settings,
    server_name: String,
    /// Made when it is needed: without files of our own it reads the CAs of the system.
    connector: OnceLock<Result<Connector, tls::SetupError>>,
}

impl Peers {
    fn connect_by(&self) -> Result<Connector, tls::SetupError> {
        Connector::new(&self.settings, &PEER_PROTOCOLS, report())
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Peers")
    }
}

impl peer::net::Security for Peers {
    fn accept(&self, io: BoxIo, remote: String) -> BoxFuture<'static, Option<BoxIo>> {
        let acceptor = self.acceptor.clone();
        async move {
            // Encrypted listeners need a certificate, see `Security::new`.
            let acceptor = acceptor?;
            match acceptor.accept(io, remote.parse().ok()).await {
                Ok((stream, _)) => Some(Box::new(stream) as BoxIo),
                Err(rejected) => {
                    log_rejected("rejected connection on peer endpoint", &remote, &rejected);
                    None
                }
            }
        }
        .boxed()
    }

    fn connect(&self, io: BoxIo, host: String) -> BoxFuture<'static, io::Result<BoxIo>> {
        let connector = self.connector.get_or_init(|| self.connect_by()).clone();
        let host = if self.server_name.is_empty() { host } else { self.server_name.clone() };
        async move {
            let connector = connector.map_err(io::Error::other)?;
            Ok(Box::new(connector.connect(io, &host).await?) as BoxIo)
        }
        .boxed()
    }
}
