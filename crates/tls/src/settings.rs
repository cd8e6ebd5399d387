//! What a listener or a client is told about TLS.

use std::sync::Arc;

use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};

use crate::files::FileError;
use crate::suites::{CipherSuites, SuiteError};

/// Something an operator may want to know, with named values. The words are etcd's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What happened.
    pub text: String,
    /// To what.
    pub fields: Vec<(&'static str, String)>,
}

/// Takes warnings to the log.
pub type Report = Arc<dyn Fn(&Warning) + Send + Sync>;

/// Lowest and highest version of the protocol. `None` leaves it to us: 1.2 and 1.3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Versions {
    /// TLS 1.2 and TLS 1.3.
    #[default]
    All,
    /// TLS 1.2 only.
    Only12,
    /// TLS 1.3 only.
    Only13,
}

impl Versions {
    /// From `--tls-min-version` and `--tls-max-version`: `TLS1.2`, `TLS1.3` or nothing.
    pub fn from_names(min: &str, max: &str) -> Self {
        match (min, max) {
            ("TLS1.3", _) => Self::Only13,
            (_, "TLS1.2") => Self::Only12,
            _ => Self::All,
        }
    }

    pub(crate) fn list(self) -> &'static [&'static SupportedProtocolVersion] {
        static ALL: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];
        match self {
            Self::All => &ALL,
            Self::Only12 => &ALL[..1],
            Self::Only13 => &ALL[1..],
        }
    }
}

/// Files and rules of one kind of connection. Empty texts and lists mean that there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Certificate of the accepting side, and of the connecting one unless that has its own.
    pub cert_file: String,
    /// Its key.
    pub key_file: String,
    /// Certificate shown when connecting.
    pub client_cert_file: String,
    /// Its key.
    pub client_key_file: String,
    /// CAs that the other side is checked against; those of the system if empty.
    pub trusted_ca_file: String,
    /// Demand a certificate from who connects; given CAs demand it as well.
    pub client_cert_auth: bool,
    /// Revocation list.
    pub crl_file: String,
    /// Common names that are let in.
    pub allowed_cns: Vec<String>,
    /// Host names or addresses, one of which the other side's certificate must be valid for.
    pub allowed_hostnames: Vec<String>,
    /// Compare the address of who connects with the names in its certificate.
    pub check_client_address: bool,
    /// Connect to anybody who speaks TLS.
    pub insecure_skip_verify: bool,
    /// Cipher suites of TLS 1.2.
    pub suites: CipherSuites,
    /// Versions.
    pub versions: Versions,
}

/// Settings that do not hold together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// A certificate without its key, or the other way round.
    #[error("KeyFile and CertFile must both be present[key: {key}, cert: {cert}]")]
    Pair {
        /// The certificate's file.
        cert: String,
        /// The key's file.
        key: String,
    },
    /// The same for the connecting side.
    #[error(
        "ClientKeyFile and ClientCertFile must both be present or both absent: key: {key}, cert: {cert}]"
    )]
    ClientPair {
        /// The certificate's file.
        cert: String,
        /// The key's file.
        key: String,
    },
    /// Both kinds of rules.
    #[error("AllowedCNs and AllowedHostnames are mutually exclusive (cns={}, hostnames={})", quoted(.cns), quoted(.hostnames))]
    BothRules {
        /// Common names.
        cns: Vec<String>,
        /// Host names.
        hostnames: Vec<String>,
    },
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A cipher suite.
    #[error(transparent)]
    Suite(#[from] SuiteError),
    /// Suites and versions leave nothing to offer.
    #[error("tls: no cipher suite is left for the versions asked for: {0}")]
    NothingLeft(String),
}

/// A list as Go prints it.
fn quoted(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    format!("[{}]", names.join(" "))
}

impl Settings {
    /// Whether there is a certificate to listen with.
    pub fn is_empty(&self) -> bool {
        self.cert_file.is_empty() && self.key_file.is_empty()
    }

    /// Whether who connects has to show a certificate.
    pub fn demands_client_certificate(&self) -> bool {
        self.client_cert_auth || !self.trusted_ca_file.is_empty()
    }

    pub(crate) fn check(&self) -> Result<(), SetupError> {
        if self.cert_file.is_empty() || self.key_file.is_empty() {
            return Err(SetupError::Pair { cert: self.cert_file.clone(), key: self.key_file.clone() });
        }
        if self.client_cert_file.is_empty() != self.client_key_file.is_empty() {
            return Err(SetupError::ClientPair {
                cert: self.client_cert_file.clone(),
                key: self.client_key_file.clone(),
            });
        }
        if !self.allowed_cns.is_empty() && !self.allowed_hostnames.is_empty() {
            return Err(SetupError::BothRules {
                cns: self.allowed_cns.clone(),
                hostnames: self.allowed_hostnames.clone(),
            });
        }
        Ok(())
    }
}

impl std::fmt::Display for Settings {
    /// As etcd writes it into its log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "cert = {}, key = {}, client-cert={}, client-key={}, trusted-ca = {}, client-cert-auth = {}, crl-file = {}",
            self.cert_file,
            self.key_file,
            self.client_cert_file,
            self.client_key_file,
            self.trusted_ca_file,
            self.client_cert_auth,
            self.crl_file
        )
    }
}
