//! Self-signed certificates: `--auto-tls` and `--peer-auto-tls`.
//!
//! As etcd's, except for the curve: P-256 here, P-521 there, since `ring` has no P-521. A pair that
//! etcd made is moved aside and replaced: nobody is meant to rely on it.

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use crate::text;

const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Where a generated certificate and its key lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// The certificate.
    pub cert_file: String,
    /// Its key.
    pub key_file: String,
    /// Whether it was made just now.
    pub is_new: bool,
    /// Whether another one, whose key is of no use here, was moved aside for it.
    pub moved_aside: bool,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// It would have expired at once.
    #[error("selfSignedCertValidity is invalid,it should be greater than 0")]
    NoValidity,
    /// A file or a directory.
    #[error("{path}: {}", text::reason(.source))]
    File {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It could not be made.
    #[error("cannot generate a certificate: {0}")]
    Crypto(#[from] rcgen::Error),
}

/// The certificate in `dir`, made for `hosts` (`host:port`) if there is none. One that exists is used
/// as it is, expired or not.
///
/// # Errors
/// See [`GenerateError`].
pub fn self_signed(dir: &Path, hosts: &[&str], years: u64) -> Result<Generated, GenerateError> {
    if years == 0 {
        return Err(GenerateError::NoValidity);
    }
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| GenerateError::File { path, source }
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed(dir))?;
    let dir = fs::canonicalize(dir).map_err(failed(dir))?;
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    let exists = cert.exists() && key.exists();
    let moved_aside = exists && !is_usable(&key);
    if moved_aside {
        for path in [&cert, &key] {
            fs::rename(path, path.with_extension("pem.unusable")).map_err(failed(path))?;
        }
    }
    let is_new = !exists || moved_aside;
    if is_new {
        let (cert_text, key_text) = generate(hosts, years)?;
        // The key first: who finds both files finds a pair.
        write(&key, &key_text, 0o600).map_err(failed(&key))?;
        write(&cert, &cert_text, 0o644).map_err(failed(&cert))?;
    }
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    Ok(Generated { cert_file: text(cert), key_file: text(key), is_new, moved_aside })
}

/// Anything but a good key of an unknown kind is left to who reads it.
fn is_usable(key: &Path) -> bool {
    match PrivateKeyDer::from_pem_file(key) {
        Ok(key) => ring::default_provider().key_provider.load_private_key(key).is_ok(),
        Err(_) => true,
    }
}

fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn generate(hosts: &[&str], years: u64) -> Result<(String, String), GenerateError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "etcd");
    let now = SystemTime::now();
    params.not_before = now.into();
    let years = u32::try_from(years).unwrap_or(u32::MAX).min(1_000);
    params.not_after = (now + YEAR * years).into();
    params.key_usages =
        vec![KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    for host in hosts {
        let name = host.rsplit_once(':').map_or(*host, |(name, _)| name);
        let name = name.trim_start_matches('[').trim_end_matches(']');
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.try_into()?),
        });
    }
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::Certificate;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn files_are_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("fixtures/client");
        let made = self_signed(&at, &["127.0.0.1:2379", "[::1]:1", "a.example:2"], 2).unwrap();
        assert!(made.is_new);
        assert_eq!(fs::metadata(&made.key_file).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&at).unwrap().mode() & 0o777, 0o700);
        let certificate = CertificateDer::from_pem_file(&made.cert_file).unwrap();
        let facts = Certificate::parse(&certificate).unwrap();
        assert_eq!(facts.dns_names, ["a.example"]);
        assert_eq!(facts.ip_addresses.len(), 2);
        assert!(facts.ca == Some(true) && facts.usages.server && !facts.usages.client);
        assert_eq!(facts.not_after - facts.not_before, 2 * 365 * 86_400);
        assert_eq!(facts.title, "etcd");
        let again = self_signed(&at, &["other:1"], 1).unwrap();
        assert!(!again.is_new);
        assert_eq!(CertificateDer::from_pem_file(&again.cert_file).unwrap(), certificate);
        // What etcd makes.
        let data = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/");
        fs::copy(format!("{data}etcd-auto.crt"), &made.cert_file).unwrap();
        fs::copy(format!("{data}etcd-auto.key"), &made.key_file).unwrap();
        let replaced = self_signed(&at, &["127.0.0.1:1"], 1).unwrap();
        assert!(replaced.is_new && replaced.moved_aside);
        assert!(at.join("key.pem.unusable").exists() && is_usable(&at.join("key.pem")));
        assert!(matches!(self_signed(&at, &[], 0), Err(GenerateError::NoValidity)));
    }
}
