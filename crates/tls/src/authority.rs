//! A CA in memory, for tests and measurements.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber,
};

const DAY: Duration = Duration::from_secs(86_400);

/// A CA.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// What to certify. Begins with a certificate for both sides that is valid for a day.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// Common name; empty for none.
    pub common_name: String,
    /// Host names and addresses.
    pub hosts: Vec<String>,
    /// Serial number.
    pub serial: u64,
    /// When it begins to count.
    pub not_before: SystemTime,
    /// When it no longer counts.
    pub not_after: SystemTime,
    /// For the accepting side.
    pub server: bool,
    /// For the connecting side.
    pub client: bool,
    /// Says of itself that it is a CA.
    pub ca: bool,
}

impl Leaf {
    /// A certificate with this common name for these hosts.
    pub fn new(common_name: &str, hosts: &[&str]) -> Self {
        let now = SystemTime::now();
        Self {
            common_name: common_name.to_owned(),
            hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
            serial: 1,
            not_before: now - DAY,
            not_after: now + DAY,
            server: true,
            client: true,
            ca: false,
        }
    }
}

/// A certificate and its key, as PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate.
    pub cert: String,
    /// The key.
    pub key: String,
}

impl Issued {
    /// Writes `<name>.crt` and `<name>.key`; hands out the two paths. Each file is replaced as a whole.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, dir: &Path, name: &str) -> io::Result<(String, String)> {
        let cert = replace(&dir.join(format!("{name}.crt")), self.cert.as_bytes())?;
        Ok((cert, replace(&dir.join(format!("{name}.key")), self.key.as_bytes())?))
    }
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<String> {
    let beside = path.with_extension("new");
    fs::write(&beside, bytes)?;
    fs::rename(&beside, path)?;
    Ok(path.to_string_lossy().into_owned())
}

impl Authority {
    /// A root.
    ///
    /// # Errors
    /// None that is expected.
    pub fn new(name: &str) -> Result<Self, rcgen::Error> {
        let (params, key) = (ca(name), KeyPair::generate()?);
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// A CA below this one.
    ///
    /// # Errors
    /// None that is expected.
    pub fn below(&self, name: &str) -> Result<Self, rcgen::Error> {
        let (params, key) = (ca(name), KeyPair::generate()?);
        let pem = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// Its certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Writes its certificate to `<name>.crt`; hands out the path.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, dir: &Path, name: &str) -> io::Result<String> {
        replace(&dir.join(format!("{name}.crt")), self.pem.as_bytes())
    }

    /// Certifies.
    ///
    /// # Errors
    /// Host names that are none.
    pub fn issue(&self, leaf: &Leaf) -> Result<Issued, rcgen::Error> {
        let key = KeyPair::generate()?;
        let cert = params(leaf)?.signed_by(&key, &self.issuer)?.pem();
        Ok(Issued { cert, key: key.serialize_pem() })
    }

    /// A revocation list as DER.
    ///
    /// # Errors
    /// None that is expected.
    pub fn revoke(&self, serials: &[u64]) -> Result<Vec<u8>, rcgen::Error> {
        let now = SystemTime::now();
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now.into(),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now.into(),
            next_update: (now + DAY).into(),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.der().to_vec())
    }
}

/// A certificate that nobody else vouches for.
///
/// # Errors
/// Host names that are none.
pub fn self_made(leaf: &Leaf) -> Result<Issued, rcgen::Error> {
    let key = KeyPair::generate()?;
    let cert = params(leaf)?.self_signed(&key)?.pem();
    Ok(Issued { cert, key: key.serialize_pem() })
}

fn ca(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn params(leaf: &Leaf) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if !leaf.common_name.is_empty() {
        params.distinguished_name.push(DnType::CommonName, leaf.common_name.as_str());
    }
    params.serial_number = Some(SerialNumber::from(leaf.serial));
    params.not_before = leaf.not_before.into();
    params.not_after = leaf.not_after.into();
    params.is_ca = if leaf.ca { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::ExplicitNoCa };
    if leaf.server {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    if leaf.client {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    }
    for host in &leaf.hosts {
        params.subject_alt_names.push(match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(host.as_str().try_into()?),
        });
    }
    Ok(params)
}
