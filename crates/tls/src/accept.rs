//! The accepting side.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::ServerStream;
use crate::address;
use crate::certificate::Certificate;
use crate::crypto;
use crate::files::{KeyPair, RevocationList, load_roots, system_roots};
use crate::settings::{Report, Settings, SetupError, Versions};
use crate::text;
use crate::verify::{Purpose, VerifyError, verify};

/// Longest time for one handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// What a refused connection may still send, and for how long.
const DRAIN: Duration = Duration::from_secs(1);
const DRAIN_BYTES: usize = 64 << 10;

/// Accepts connections by the rules of one listener. Clones share everything.
#[derive(Clone)]
pub struct Acceptor(Arc<Inner>);

struct Inner {
    provider: Arc<CryptoProvider>,
    versions: Versions,
    protocols: Vec<Vec<u8>>,
    pair: KeyPair,
    rules: Option<Arc<Rules>>,
    check_address: bool,
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

/// What is demanded of the certificates of those who connect.
pub(crate) struct Rules {
    pub(crate) roots: Vec<Certificate>,
    pub(crate) allowed: Allowed,
    pub(crate) revoked: Option<RevocationList>,
}

/// Whom a certificate has to name.
#[derive(Default)]
pub(crate) struct Allowed {
    cns: Vec<String>,
    hostnames: Vec<String>,
}

impl Allowed {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self { cns: settings.allowed_cns.clone(), hostnames: settings.allowed_hostnames.clone() }
    }

    pub(crate) fn is_restricted(&self) -> bool {
        !self.cns.is_empty() || !self.hostnames.is_empty()
    }

    pub(crate) fn check(&self, leaf: &Certificate) -> Result<(), VerifyError> {
        let named = self.cns.contains(&leaf.common_name)
            || self.hostnames.iter().any(|host| leaf.check_host(host).is_ok());
        if named || !self.is_restricted() { Ok(()) } else { Err(VerifyError::NotAllowed) }
    }
}

/// Who the other side has shown to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Whether it showed a certificate, which then counts.
    pub certificate: bool,
    /// Common name of the certificate.
    pub common_name: String,
}

/// Why a connection was refused, and what is known of who wanted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The reason, in Go's words.
    pub reason: String,
    /// Nobody said anything: not worth a warning.
    pub is_silent: bool,
    /// The name that the other side asked for.
    pub server_name: String,
    /// Addresses and host names in its certificate, if it showed one.
    pub names: Option<(Vec<String>, Vec<String>)>,
}

impl Acceptor {
    /// Reads all files. `protocols` are offered in this order: `h2`, `http/1.1`; who asks for none
    /// gets none.
    ///
    /// # Errors
    /// Settings that do not hold together, files that cannot be used.
    pub fn new(settings: &Settings, protocols: &[&str], report: Report) -> Result<Self, SetupError> {
        settings.check()?;
        let provider = crypto::provider(&settings.suites);
        let pair = KeyPair::open(&settings.cert_file, &settings.key_file, &provider, "peer", &report)?;
        if !settings.client_cert_file.is_empty() {
            KeyPair::open(
                &settings.client_cert_file,
                &settings.client_key_file,
                &provider,
                "client",
                &report,
            )?;
        }
        let roots = match settings.trusted_ca_file.as_str() {
            "" if settings.client_cert_auth => Some(system_roots()),
            "" => None,
            file => Some(load_roots(file)?),
        };
        let revoked =
            Some(&settings.crl_file).filter(|file| !file.is_empty()).map(|file| RevocationList::new(file));
        let rules = roots.map(|roots| Arc::new(Rules { roots, allowed: Allowed::new(settings), revoked }));
        let inner = Inner {
            provider,
            versions: settings.versions,
            protocols: protocols.iter().map(|name| name.as_bytes().to_vec()).collect(),
            pair,
            rules,
            check_address: settings.check_client_address,
        };
        inner.config(None, Arc::default()).map_err(|error| SetupError::NothingLeft(error.to_string()))?;
        Ok(Self(Arc::new(inner)))
    }

    /// The handshake with a connection from `remote`; a Unix socket has no address.
    ///
    /// # Errors
    /// Whatever kept it from succeeding, within ten seconds.
    pub async fn accept<IO>(
        &self,
        io: IO,
        remote: Option<SocketAddr>,
    ) -> Result<(ServerStream<IO>, Shown), Rejected>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let notes = Arc::new(Notes::default());
        match tokio::time::timeout(HANDSHAKE, self.shake_hands(io, remote, &notes)).await {
            Ok(Ok(stream)) => Ok((stream, notes.shown())),
            Ok(Err((reason, is_silent))) => Err(notes.rejected(reason, is_silent)),
            Err(_) => Err(notes.rejected("i/o timeout".to_owned(), false)),
        }
    }

    async fn shake_hands<IO>(
        &self,
        io: IO,
        remote: Option<SocketAddr>,
        notes: &Arc<Notes>,
    ) -> Result<ServerStream<IO>, (String, bool)>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let inner = &self.0;
        let verifier =
            inner.rules.as_ref().map(|rules| Verifier { rules: rules.clone(), notes: notes.clone() });
        let config = inner.config(verifier, notes.clone()).map_err(|error| (error.to_string(), false))?;
        let handshake = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(io).into_fallible();
        let stream = match handshake.await {
            Ok(stream) => stream,
            Err((error, io)) => {
                let is_silent = error.kind() == io::ErrorKind::UnexpectedEof;
                if !is_silent {
                    close_gently(io).await;
                }
                return Err(match notes.reason() {
                    Some(reason) => (reason, false),
                    None => (text::explain(&error), is_silent),
                });
            }
        };
        if let (true, Some(remote), Some(leaf)) = (inner.check_address, remote, notes.leaf()) {
            address::check(&leaf, remote.ip()).await.map_err(|reason| (reason, false))?;
        }
        Ok(stream)
    }
}

/// Takes what is still under way before the socket is closed: else the system resets the connection,
/// and who was refused may never see the alert that says why.
async fn close_gently<IO: AsyncRead + AsyncWrite + Unpin>(mut io: IO) {
    let drain = async {
        let mut left = DRAIN_BYTES;
        let mut bytes = [0; 1024];
        io.shutdown().await?;
        while left > 0 {
            match io.read(&mut bytes).await? {
                0 => break,
                count => left = left.saturating_sub(count),
            }
        }
        Ok::<(), io::Error>(())
    };
    // Whatever happens now, the connection ends.
    let _ = tokio::time::timeout(DRAIN, drain).await;
}

impl Inner {
    /// Made anew for each connection: it is a few pointers, and so everything that concerns one
    /// connection has a place of its own.
    fn config(&self, verifier: Option<Verifier>, notes: Arc<Notes>) -> Result<ServerConfig, Error> {
        let builder = ServerConfig::builder_with_provider(self.provider.clone());
        let builder = builder.with_protocol_versions(self.versions.list())?;
        let builder = match verifier {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(Arc::new(verifier)),
        };
        let mut config = builder.with_cert_resolver(Arc::new(Resolver { key: self.pair.current(), notes }));
        config.alpn_protocols = self.protocols.clone();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

/// What a handshake leaves behind beside its result.
#[derive(Default)]
struct Notes(Mutex<Noted>);

#[derive(Default)]
struct Noted {
    reason: Option<String>,
    server_name: String,
    leaf: Option<Arc<Certificate>>,
}

impl std::fmt::Debug for Notes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Notes")
    }
}

impl Notes {
    fn with<R>(&self, action: impl FnOnce(&mut Noted) -> R) -> R {
        action(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn reason(&self) -> Option<String> {
        self.with(|noted| noted.reason.clone())
    }

    fn leaf(&self) -> Option<Arc<Certificate>> {
        self.with(|noted| noted.leaf.clone())
    }

    fn shown(&self) -> Shown {
        match self.leaf() {
            None => Shown::default(),
            Some(leaf) => Shown { certificate: true, common_name: leaf.common_name.clone() },
        }
    }

    fn rejected(&self, reason: String, is_silent: bool) -> Rejected {
        let names = self.leaf().map(|leaf| {
            let addresses = leaf.ip_addresses.iter().map(|address| address.to_string()).collect();
            (addresses, leaf.dns_names.clone())
        });
        Rejected { reason, is_silent, server_name: self.with(|noted| noted.server_name.clone()), names }
    }
}

#[derive(Debug)]
struct Resolver {
    key: Arc<CertifiedKey>,
    notes: Arc<Notes>,
}

impl ResolvesServerCert for Resolver {
    /// The one certificate, whatever name is asked for.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().unwrap_or_default().to_owned();
        self.notes.with(|noted| noted.server_name = name);
        Some(self.key.clone())
    }
}

struct Verifier {
    rules: Arc<Rules>,
    notes: Arc<Notes>,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier")
    }
}

impl Verifier {
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: i64,
    ) -> Result<(), VerifyError> {
        let leaf = Arc::new(Certificate::parse(leaf)?);
        self.notes.with(|noted| noted.leaf = Some(leaf.clone()));
        let others = others.iter().map(|other| Certificate::parse(other)).collect::<Result<Vec<_>, _>>()?;
        verify(&leaf, &others, &self.rules.roots, Purpose::Client, now)?;
        self.rules.allowed.check(&leaf)?;
        match &self.rules.revoked {
            None => Ok(()),
            Some(list) => {
                let shown: Vec<&Certificate> = std::iter::once(&*leaf).chain(&others).collect();
                list.check(&shown)
            }
        }
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Go names them, but does not need them: its clients show what they have. Others do, too.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.judge(leaf, others, i64::try_from(now.as_secs()).unwrap_or(i64::MAX)) {
            Ok(()) => Ok(ClientCertVerified::assertion()),
            Err(error) => {
                let reason = error.reason();
                self.notes.with(|noted| noted.reason = Some(reason));
                Err(Error::InvalidCertificate(alert(&error)))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_handshake(message, certificate, signed, false)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_handshake(message, certificate, signed, true)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crypto::schemes()
    }
}

/// What the other side is told: as Go tells it, except that a revoked certificate is called so.
fn alert(error: &VerifyError) -> CertificateError {
    match error {
        VerifyError::Expired(_) => CertificateError::Expired,
        VerifyError::UnknownAuthority(_) => CertificateError::UnknownIssuer,
        VerifyError::Revoked(_) => CertificateError::Revoked,
        _ => CertificateError::BadEncoding,
    }
}
