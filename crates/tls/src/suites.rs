//! Cipher suites and by which names etcd knows them.

use rustls::{CipherSuite, SupportedCipherSuite};

/// Suites that both etcd and we have. Those of TLS 1.3 may be named, but are always offered.
const OFFERED: &[(&str, CipherSuite)] = &[
    ("TLS_AES_128_GCM_SHA256", CipherSuite::TLS13_AES_128_GCM_SHA256),
    ("TLS_AES_256_GCM_SHA384", CipherSuite::TLS13_AES_256_GCM_SHA384),
    ("TLS_CHACHA20_POLY1305_SHA256", CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// Suites that etcd has and we do not.
const NOT_OFFERED: &[&str] = &[
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_RSA_WITH_RC4_128_SHA",
];

/// A suite that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuiteError {
    /// Nobody knows it.
    #[error("unexpected TLS cipher suite {0:?}")]
    Unknown(String),
    /// etcd knows it.
    #[error(
        "TLS cipher suite {0:?} is not offered: no CBC, RC4, 3DES and no plain RSA key exchange here; remove it from --cipher-suites"
    )]
    NotOffered(String),
}

/// The suites of TLS 1.2 that are offered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CipherSuites(Vec<CipherSuite>);

impl CipherSuites {
    /// Reads a flag's list; an empty one offers all.
    ///
    /// # Errors
    /// The first name that cannot be had.
    pub fn from_names<N: AsRef<str>>(names: &[N]) -> Result<Self, SuiteError> {
        let read = |name: &N| {
            let name = name.as_ref();
            match OFFERED.iter().find(|(offered, _)| *offered == name) {
                Some((_, suite)) => Ok(*suite),
                None if NOT_OFFERED.contains(&name) => Err(SuiteError::NotOffered(name.to_owned())),
                None => Err(SuiteError::Unknown(name.to_owned())),
            }
        };
        names.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    pub(crate) fn allows(&self, suite: SupportedCipherSuite) -> bool {
        self.0.is_empty() || suite.tls13().is_some() || self.0.contains(&suite.suite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        let all = rustls::crypto::ring::default_provider().cipher_suites;
        let count = |names: &[&str]| {
            let suites = CipherSuites::from_names(names).unwrap();
            all.iter().filter(|suite| suites.allows(**suite)).count()
        };
        assert_eq!(count(&[]), all.len());
        assert_eq!(
            count(&["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305"]),
            5
        );
        assert_eq!(count(&["TLS_AES_128_GCM_SHA256"]), 3);
        let error = |name: &str| CipherSuites::from_names(&[name]).unwrap_err().to_string();
        assert_eq!(error("TLS_NO"), "unexpected TLS cipher suite \"TLS_NO\"");
        assert!(error("TLS_RSA_WITH_AES_128_CBC_SHA").contains("is not offered"));
    }
}
