//! The connecting side.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, IpAddr, Ipv4Addr, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::ClientStream;
use crate::accept::Allowed;
use crate::certificate::Certificate;
use crate::crypto;
use crate::files::{KeyPair, load_roots, system_roots};
use crate::settings::{Report, Settings, SetupError, Versions};
use crate::text;
use crate::verify::{VerifyError, verify_server};

/// Connects by the rules of one client. Clones share everything.
#[derive(Clone)]
pub struct Connector(Arc<Inner>);

struct Inner {
    provider: Arc<CryptoProvider>,
    versions: Versions,
    protocols: Vec<Vec<u8>>,
    pair: Option<KeyPair>,
    rules: Arc<Rules>,
}

struct Rules {
    /// `None` if anybody will do.
    roots: Option<Vec<Certificate>>,
    allowed: Allowed,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

impl Connector {
    /// Reads all files. Without a certificate none is shown; without CAs those of the system count.
    ///
    /// # Errors
    /// Settings that do not hold together, files that cannot be used.
    pub fn new(settings: &Settings, protocols: &[&str], report: Report) -> Result<Self, SetupError> {
        let provider = crypto::provider(&settings.suites);
        let pair = match settings.is_empty() {
            true => None,
            false => {
                settings.check()?;
                let own = (&settings.cert_file, &settings.key_file);
                let (cert, key) = match settings.client_cert_file.as_str() {
                    "" => own,
                    _ => (&settings.client_cert_file, &settings.client_key_file),
                };
                Some(KeyPair::open(cert, key, &provider, "client", &report)?)
            }
        };
        let roots = match (settings.insecure_skip_verify, settings.trusted_ca_file.as_str()) {
            (true, "") => None,
            (true, file) => {
                // Not used, but a mistake in it is worth knowing.
                load_roots(file)?;
                None
            }
            (false, "") => Some(system_roots()),
            (false, file) => Some(load_roots(file)?),
        };
        let inner = Inner {
            provider,
            versions: settings.versions,
            protocols: protocols.iter().map(|name| name.as_bytes().to_vec()).collect(),
            pair,
            rules: Arc::new(Rules { roots, allowed: Allowed::new(settings) }),
        };
        let verifier = Verifier { rules: inner.rules.clone(), host: String::new(), reason: Arc::default() };
        inner.config(verifier).map_err(|error| SetupError::NothingLeft(error.to_string()))?;
        Ok(Self(Arc::new(inner)))
    }

    /// The handshake with `host`, a name or an address without port.
    ///
    /// # Errors
    /// What kept it from succeeding, in Go's words.
    pub async fn connect<IO>(&self, io: IO, host: &str) -> io::Result<ClientStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let reason = Arc::new(Mutex::new(None));
        let verifier =
            Verifier { rules: self.0.rules.clone(), host: host.to_owned(), reason: reason.clone() };
        let config = self.0.config(verifier).map_err(io::Error::other)?;
        // Only what is sent as the name depends on it: the verifier has the host itself.
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(bare.to_owned())
            .unwrap_or(ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0, 0, 0, 0]))));
        let handshake = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, io);
        handshake.await.map_err(|error| {
            let reason = reason.lock().unwrap_or_else(PoisonError::into_inner).take();
            io::Error::new(error.kind(), reason.unwrap_or_else(|| text::explain(&error)))
        })
    }
}

impl Inner {
    fn config(&self, verifier: Verifier) -> Result<ClientConfig, Error> {
        let builder = ClientConfig::builder_with_provider(self.provider.clone());
        let builder = builder.with_protocol_versions(self.versions.list())?;
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &self.pair {
            None => builder.with_no_client_auth(),
            Some(pair) => builder.with_client_cert_resolver(Arc::new(Resolver(pair.current()))),
        };
        config.alpn_protocols = self.protocols.clone();
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

#[derive(Debug)]
struct Resolver(Arc<CertifiedKey>);

impl ResolvesClientCert for Resolver {
    /// The one certificate, whatever CAs are hinted at: who asked will say if it does not do.
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

struct Verifier {
    rules: Arc<Rules>,
    host: String,
    reason: Arc<Mutex<Option<String>>>,
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
        let Some(roots) = &self.rules.roots else {
            // Without a verified chain nobody is on the list.
            return if self.rules.allowed.is_restricted() { Err(VerifyError::NotAllowed) } else { Ok(()) };
        };
        let leaf = Certificate::parse(leaf)?;
        let others = others.iter().map(|other| Certificate::parse(other)).collect::<Result<Vec<_>, _>>()?;
        verify_server(&leaf, &others, roots, &self.host, now)?;
        self.rules.allowed.check(&leaf)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.judge(leaf, others, i64::try_from(now.as_secs()).unwrap_or(i64::MAX)) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(error) => {
                let reason = error.reason();
                *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
                // Go tells servers no more than that their certificate is bad.
                Err(Error::InvalidCertificate(match error {
                    VerifyError::Expired(_) => CertificateError::Expired,
                    _ => CertificateError::BadEncoding,
                }))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.rules.roots {
            None => Ok(HandshakeSignatureValid::assertion()),
            Some(_) => crypto::verify_handshake(message, certificate, signed, false),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.rules.roots {
            None => Ok(HandshakeSignatureValid::assertion()),
            Some(_) => crypto::verify_handshake(message, certificate, signed, true),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let mut schemes = crypto::schemes();
        if self.rules.roots.is_none() {
            // etcd's generated certificates have such keys, and here nobody checks signatures.
            schemes.push(SignatureScheme::ECDSA_NISTP521_SHA512);
        }
        schemes
    }
}
