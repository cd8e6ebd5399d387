//! Files that are looked at for each handshake and read when they have changed.
//!
//! A certificate and its key are replaced one after the other: between the two they do not fit.
//! Then, and when one is missing for a moment, the pair that was good before goes on being used, and
//! a warning says so once.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Version};

use crate::certificate::Certificate;
use crate::settings::{Report, Warning};
use crate::text;
use crate::verify::VerifyError;

/// A file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// It is not there.
    #[error("open {path}: no such file or directory")]
    Missing {
        /// Its path.
        path: String,
    },
    /// It cannot be read.
    #[error("open {path}: {reason}")]
    Read {
        /// Its path.
        path: String,
        /// Why not.
        reason: String,
    },
    /// A certificate, key or CA file holds something else; the text is Go's.
    #[error("{0}")]
    Content(String),
}

fn read(path: &str) -> Result<Vec<u8>, FileError> {
    fs::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => FileError::Missing { path: path.to_owned() },
        _ => FileError::Read { path: path.to_owned(), reason: text::reason(&error) },
    })
}

fn content<T>(text: impl Into<String>) -> Result<T, FileError> {
    Err(FileError::Content(text.into()))
}

/// The common name in the certificate of a file; empty if it has none.
///
/// # Errors
/// The file cannot be read, or holds no certificate.
pub fn common_name(path: &str) -> Result<String, FileError> {
    let bytes = read(path)?;
    let Ok(der) = CertificateDer::from_pem_slice(&bytes) else {
        return content(format!("{path}: tls: failed to find any PEM data in certificate input"));
    };
    match Certificate::parse(&der) {
        Ok(certificate) => Ok(certificate.common_name),
        Err(error) => content(format!("{path}: {}", error.reason())),
    }
}

/// What tells one state of a file from another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp(Option<[i64; 7]>);

impl Stamp {
    fn of(path: &str) -> Self {
        Self(fs::metadata(path).ok().map(|meta| {
            [
                meta.dev() as i64,
                meta.ino() as i64,
                meta.size() as i64,
                meta.mtime(),
                meta.mtime_nsec(),
                meta.ctime(),
                meta.ctime_nsec(),
            ]
        }))
    }
}

/// A certificate with its key, in two files.
pub(crate) struct KeyPair {
    certificate: String,
    key: String,
    provider: Arc<CryptoProvider>,
    /// What to call it in warnings: `peer` or `client`.
    role: &'static str,
    report: Report,
    state: Mutex<State>,
}

struct State {
    stamps: (Stamp, Stamp),
    good: Arc<CertifiedKey>,
}

impl KeyPair {
    /// Reads both files.
    pub(crate) fn open(
        certificate: &str,
        key: &str,
        provider: &Arc<CryptoProvider>,
        role: &'static str,
        report: &Report,
    ) -> Result<Self, FileError> {
        let stamps = (Stamp::of(certificate), Stamp::of(key));
        let good = load_pair(certificate, key, provider)?;
        Ok(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            provider: provider.clone(),
            role,
            report: report.clone(),
            state: Mutex::new(State { stamps, good }),
        })
    }

    /// The pair as it is now.
    pub(crate) fn current(&self) -> Arc<CertifiedKey> {
        let stamps = (Stamp::of(&self.certificate), Stamp::of(&self.key));
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.stamps == stamps {
            return state.good.clone();
        }
        state.stamps = stamps;
        match load_pair(&self.certificate, &self.key, &self.provider) {
            Ok(pair) => state.good = pair,
            Err(error) => {
                let text = match error {
                    FileError::Missing { .. } => format!("failed to find {} cert files", self.role),
                    _ => format!("failed to create {} certificate", self.role),
                };
                (self.report)(&Warning {
                    text,
                    fields: vec![
                        ("cert-file", self.certificate.clone()),
                        ("key-file", self.key.clone()),
                        ("error", error.to_string()),
                        ("in-use", "the certificate and key that were read before".to_owned()),
                    ],
                });
            }
        }
        state.good.clone()
    }
}

fn load_pair(
    certificate: &str,
    key: &str,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, FileError> {
    let chain = read(certificate)?;
    let key = read(key)?;
    let chain = certificates(&chain)?;
    let Some(leaf) = chain.first() else {
        return content("tls: failed to find any PEM data in certificate input");
    };
    let leaf = Certificate::parse(leaf).map_err(|error| FileError::Content(error.to_string()))?;
    let key = match PrivateKeyDer::from_pem_slice(&key) {
        Ok(key) => key,
        Err(pem::Error::NoItemsFound) => return content("tls: failed to find any PEM data in key input"),
        Err(error) => return content(format!("tls: failed to parse private key: {error}")),
    };
    let key = match provider.key_provider.load_private_key(key) {
        Ok(key) => key,
        Err(error) => return content(format!("tls: failed to parse private key: {error}")),
    };
    if key.public_key().is_some_and(|info| *info != *leaf.key_info) {
        return content("tls: private key does not match public key");
    }
    Ok(Arc::new(CertifiedKey::new(chain, key)))
}

/// All certificates of a PEM text; other blocks are passed over.
fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let read = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    read.map_err(|error| FileError::Content(format!("tls: failed to parse certificate: {error}")))
}

/// The roots in a CA file.
pub(crate) fn load_roots(path: &str) -> Result<Vec<Certificate>, FileError> {
    let parse = |der: CertificateDer<'static>| {
        Certificate::parse(&der).map_err(|error| FileError::Content(error.to_string()))
    };
    certificates(&read(path)?)?.into_iter().map(parse).collect()
}

const SYSTEM_FILES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
const SYSTEM_DIRS: [&str; 2] = ["/etc/ssl/certs", "/etc/pki/tls/certs"];

/// The roots of the operating system, or of `SSL_CERT_FILE` and `SSL_CERT_DIR`. What cannot be read
/// is passed over: it is not ours.
pub(crate) fn system_roots() -> Vec<Certificate> {
    let named = |variable: &str| std::env::var(variable).ok().filter(|value| !value.is_empty());
    let files = match named("SSL_CERT_FILE") {
        Some(file) => vec![file],
        None => SYSTEM_FILES.map(str::to_owned).to_vec(),
    };
    let from_text = |text: Vec<u8>| -> Vec<Certificate> {
        let ders = CertificateDer::pem_slice_iter(&text).flatten();
        ders.filter_map(|der| Certificate::parse(&der).ok()).collect()
    };
    let mut roots = files.iter().find_map(|file| fs::read(file).ok()).map(from_text).unwrap_or_default();
    let dirs: Vec<String> = match named("SSL_CERT_DIR") {
        Some(dirs) => dirs.split(':').map(str::to_owned).collect(),
        // A bundle holds what the directories hold.
        None if !roots.is_empty() => Vec::new(),
        None => SYSTEM_DIRS.map(str::to_owned).to_vec(),
    };
    for entry in dirs.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten() {
        roots.extend(fs::read(entry.path()).map(from_text).unwrap_or_default());
    }
    roots
}

/// A certificate revocation list: serial numbers that no certificate shown may have, whoever issued it.
pub(crate) struct RevocationList {
    path: String,
    state: Mutex<Option<(Stamp, Arc<Revoked>)>>,
}

type Revoked = Result<HashSet<Vec<u8>>, VerifyError>;

impl RevocationList {
    pub(crate) fn new(path: &str) -> Self {
        Self { path: path.to_owned(), state: Mutex::new(None) }
    }

    /// Refuses certificates that are on the list, and all if it cannot be read.
    pub(crate) fn check(&self, shown: &[&Certificate]) -> Result<(), VerifyError> {
        let revoked = self.current();
        let revoked = revoked.as_ref().as_ref().map_err(VerifyError::clone)?;
        match shown.iter().find(|certificate| revoked.contains(&certificate.serial)) {
            None => Ok(()),
            Some(certificate) => Err(VerifyError::Revoked(text::hex(&certificate.serial))),
        }
    }

    fn current(&self) -> Arc<Revoked> {
        let stamp = Stamp::of(&self.path);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            Some((known, revoked)) if *known == stamp => revoked.clone(),
            _ => {
                let revoked = Arc::new(load_list(&self.path).map_err(VerifyError::RevocationList));
                *state = Some((stamp, revoked.clone()));
                revoked
            }
        }
    }
}

fn load_list(path: &str) -> Result<HashSet<Vec<u8>>, String> {
    let bytes = read(path).map_err(|error| error.to_string())?;
    // etcd takes DER only, and refuses everybody when it is given PEM.
    let bytes = match CertificateRevocationListDer::from_pem_slice(&bytes) {
        Ok(list) => list.to_vec(),
        Err(_) => bytes,
    };
    let list = match CertificateRevocationList::from_der(&bytes) {
        Ok((_, list)) => list,
        Err(_) => return Err("x509: malformed crl".to_owned()),
    };
    if list.version() != Some(X509Version::V2) {
        return Err("x509: unsupported crl version".to_owned());
    }
    let serials = list.iter_revoked_certificates();
    Ok(serials.map(|revoked| revoked.serial().to_bytes_be()).collect())
}
