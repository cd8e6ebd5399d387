//! A certificate as facts: what verification and logs need of it, owned.

use std::net::IpAddr;

use rustls::pki_types::CertificateDer;
use x509_parser::der_parser::asn1_rs::Oid;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry as oid;
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

use crate::der;
use crate::verify::VerifyError;

/// What an extended key usage extension allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usages {
    /// There is such an extension.
    pub(crate) restricted: bool,
    pub(crate) any: bool,
    pub(crate) server: bool,
    pub(crate) client: bool,
}

/// One subtree of a name constraint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subtree {
    Dns(String),
    /// Address and mask.
    Ip(Vec<u8>),
    Email,
    Uri,
}

/// Constraints that a CA puts on the names below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Constraints {
    pub(crate) permitted: Vec<Subtree>,
    pub(crate) excluded: Vec<Subtree>,
}

/// A parsed certificate.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) subject: Vec<u8>,
    pub(crate) issuer: Vec<u8>,
    pub(crate) common_name: String,
    /// What to call it in a text.
    pub(crate) title: String,
    /// Big-endian without leading zeros.
    pub(crate) serial: Vec<u8>,
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    /// Version 3 has extensions.
    pub(crate) is_v3: bool,
    /// Whether it says that it is a CA; `None` if it says nothing.
    pub(crate) ca: Option<bool>,
    pub(crate) path_len: Option<u32>,
    /// Whether its key may sign certificates; `None` if it says nothing.
    pub(crate) may_sign: Option<bool>,
    pub(crate) usages: Usages,
    pub(crate) constraints: Option<Constraints>,
    pub(crate) has_san: bool,
    pub(crate) dns_names: Vec<String>,
    pub(crate) ip_addresses: Vec<IpAddr>,
    pub(crate) has_email: bool,
    pub(crate) has_uri: bool,
    pub(crate) unhandled_critical: bool,
    /// The key's info as a whole, to compare keys.
    pub(crate) key_info: Vec<u8>,
    pub(crate) key_algorithm: Vec<u8>,
    pub(crate) key: Vec<u8>,
    pub(crate) signed: Vec<u8>,
    pub(crate) signature_algorithm: Vec<u8>,
    pub(crate) signature: Vec<u8>,
}

/// Critical extensions that are understood, beside the parsed ones.
const HARMLESS: [Oid<'static>; 5] = [
    oid::OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER,
    oid::OID_X509_EXT_SUBJECT_KEY_IDENTIFIER,
    oid::OID_X509_EXT_CRL_DISTRIBUTION_POINTS,
    oid::OID_X509_EXT_CERTIFICATE_POLICIES,
    oid::OID_PKIX_AUTHORITY_INFO_ACCESS,
];

impl Certificate {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, VerifyError> {
        let malformed = |reason: &str| VerifyError::Malformed(reason.to_owned());
        let (rest, parsed) =
            X509Certificate::from_der(bytes).map_err(|error| malformed(&error.to_string()))?;
        if !rest.is_empty() {
            return Err(malformed("trailing data"));
        }
        if parsed.signature_algorithm != parsed.tbs_certificate.signature {
            return Err(malformed("inner and outer signature algorithm identifiers don't match"));
        }
        let raw = Raw::cut(bytes).ok_or_else(|| malformed("its parts are not where they belong"))?;
        let key_info = parsed.public_key().raw;
        let key = Raw::cut_key(key_info).ok_or_else(|| malformed("its key is not where it belongs"))?;
        let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            value.as_str().unwrap_or_default().to_owned()
        };
        let subject = parsed.subject();
        // Go takes the last one.
        let common_name = subject.iter_common_name().last().map(text).unwrap_or_default();
        let serial: Vec<u8> = parsed.raw_serial().iter().copied().skip_while(|byte| *byte == 0).collect();
        let title = match (&*common_name, subject.iter_organization().next().map(text)) {
            ("", Some(organization)) if !organization.is_empty() => organization,
            ("", _) => format!("serial:{}", parsed.serial),
            (name, _) => name.to_owned(),
        };
        let mut certificate = Self {
            der: CertificateDer::from(bytes.to_vec()),
            subject: subject.as_raw().to_vec(),
            issuer: parsed.issuer().as_raw().to_vec(),
            common_name,
            title,
            serial,
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
            is_v3: parsed.version() == X509Version::V3,
            ca: None,
            path_len: None,
            may_sign: None,
            usages: Usages::default(),
            constraints: None,
            has_san: false,
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            has_email: false,
            has_uri: false,
            unhandled_critical: false,
            key_info: key_info.to_vec(),
            key_algorithm: key.0.to_vec(),
            key: key.1.to_vec(),
            signed: raw.signed.to_vec(),
            signature_algorithm: raw.algorithm.to_vec(),
            signature: raw.signature.to_vec(),
        };
        let mut seen = std::collections::BTreeSet::new();
        for extension in parsed.extensions() {
            if !seen.insert(extension.oid.to_string()) {
                return Err(malformed("an extension stands there twice"));
            }
            certificate.note(extension.parsed_extension(), extension.critical, &extension.oid)?;
        }
        Ok(certificate)
    }

    fn note(
        &mut self,
        extension: &ParsedExtension<'_>,
        critical: bool,
        oid: &Oid<'_>,
    ) -> Result<(), VerifyError> {
        match extension {
            ParsedExtension::BasicConstraints(basic) => {
                self.ca = Some(basic.ca);
                self.path_len = basic.path_len_constraint;
            }
            ParsedExtension::KeyUsage(usage) => {
                self.may_sign = (usage.flags != 0).then(|| usage.key_cert_sign());
            }
            ParsedExtension::ExtendedKeyUsage(usage) => {
                self.usages = Usages {
                    restricted: true,
                    any: usage.any,
                    server: usage.server_auth,
                    client: usage.client_auth,
                };
            }
            ParsedExtension::SubjectAlternativeName(names) => {
                self.has_san = true;
                for name in &names.general_names {
                    match name {
                        GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
                        GeneralName::IPAddress(bytes) => {
                            self.ip_addresses.push(address(bytes).ok_or_else(|| {
                                VerifyError::Malformed("cannot parse IP address of its names".to_owned())
                            })?)
                        }
                        GeneralName::RFC822Name(_) => self.has_email = true,
                        GeneralName::URI(_) => self.has_uri = true,
                        _ => {}
                    }
                }
            }
            ParsedExtension::NameConstraints(constraints) => {
                let (mut unknown, mut malformed) = (false, None);
                let mut read = |list: &Option<Vec<x509_parser::extensions::GeneralSubtree<'_>>>| {
                    let mut subtrees = Vec::new();
                    for subtree in list.iter().flatten() {
                        subtrees.push(match &subtree.base {
                            GeneralName::DNSName(name) => Subtree::Dns((*name).to_owned()),
                            GeneralName::IPAddress(bytes) if [8, 32].contains(&bytes.len()) => {
                                Subtree::Ip(bytes.to_vec())
                            }
                            // What restricts nothing that exists must not pass for no restriction.
                            GeneralName::IPAddress(_) => {
                                malformed = Some("a name constraint is no network".to_owned());
                                continue;
                            }
                            GeneralName::RFC822Name(_) => Subtree::Email,
                            GeneralName::URI(_) => Subtree::Uri,
                            _ => {
                                unknown = true;
                                continue;
                            }
                        });
                    }
                    subtrees
                };
                let (permitted, excluded) =
                    (read(&constraints.permitted_subtrees), read(&constraints.excluded_subtrees));
                if let Some(reason) = malformed {
                    return Err(VerifyError::Malformed(reason));
                }
                self.constraints = Some(Constraints { permitted, excluded });
                self.unhandled_critical |= unknown && critical;
            }
            ParsedExtension::ParseError { error } if !HARMLESS.contains(oid) => {
                return Err(VerifyError::Malformed(format!("extension {oid}: {error}")));
            }
            _ => self.unhandled_critical |= critical && !HARMLESS.contains(oid),
        }
        Ok(())
    }

    /// Whether it is valid for a host name or an address.
    pub(crate) fn check_host(&self, host: &str) -> Result<(), VerifyError> {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = bare.parse::<IpAddr>() {
            if self.ip_addresses.iter().any(|candidate| candidate.to_canonical() == address.to_canonical()) {
                return Ok(());
            }
            return Err(VerifyError::Hostname(self.wrong_address(bare)));
        }
        let wanted = host.to_ascii_lowercase();
        let matches =
            self.dns_names.iter().any(|pattern| match is_host(&wanted, false) && is_host(pattern, true) {
                true => matches_pattern(pattern, &wanted),
                false => !["", "."].contains(&pattern.as_str()) && pattern.eq_ignore_ascii_case(&wanted),
            });
        match matches {
            true => Ok(()),
            false => Err(VerifyError::Hostname(self.wrong_name(host))),
        }
    }

    fn wrong_address(&self, host: &str) -> String {
        if self.ip_addresses.is_empty() {
            return format!(
                "x509: cannot validate certificate for {host} because it doesn't contain any IP SANs"
            );
        }
        let names: Vec<String> = self.ip_addresses.iter().map(IpAddr::to_string).collect();
        format!("x509: certificate is valid for {}, not {host}", names.join(", "))
    }

    fn wrong_name(&self, host: &str) -> String {
        if !self.has_san && matches_pattern(&self.common_name, &host.to_ascii_lowercase()) {
            return "x509: certificate relies on legacy Common Name field, use SANs instead".to_owned();
        }
        match self.dns_names.is_empty() {
            true => format!("x509: certificate is not valid for any names, but wanted to match {host}"),
            false => format!("x509: certificate is valid for {}, not {host}", self.dns_names.join(", ")),
        }
    }
}

/// The parts that the parser does not hand out as they are.
struct Raw<'b> {
    signed: &'b [u8],
    algorithm: &'b [u8],
    signature: &'b [u8],
}

impl<'b> Raw<'b> {
    fn cut(certificate: &'b [u8]) -> Option<Self> {
        let whole = der::expect(certificate, der::SEQUENCE)?;
        let signed = der::expect(whole.content, der::SEQUENCE)?;
        let algorithm = der::expect(signed.rest, der::SEQUENCE)?;
        Some(Self {
            signed: signed.whole,
            algorithm: algorithm.content,
            signature: der::bits(algorithm.rest)?,
        })
    }

    /// Algorithm and key of a key's info.
    fn cut_key(info: &'b [u8]) -> Option<(&'b [u8], &'b [u8])> {
        let algorithm = der::expect(der::expect(info, der::SEQUENCE)?.content, der::SEQUENCE)?;
        Some((algorithm.content, der::bits(algorithm.rest)?))
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

/// Whether this looks like a host name, as Go sees it.
fn is_host(host: &str, pattern: bool) -> bool {
    let host = if pattern { host } else { host.strip_suffix('.').unwrap_or(host) };
    if host.is_empty() || host == "*" {
        return false;
    }
    host.split('.').enumerate().all(|(index, label)| {
        let star = pattern && index == 0 && label == "*";
        let fine = |(place, byte): (usize, u8)| {
            byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' && place > 0
        };
        star || !label.is_empty() && label.bytes().enumerate().all(fine)
    })
}

/// A star stands for the whole first label. `host` is in small letters.
fn matches_pattern(pattern: &str, host: &str) -> bool {
    let pattern = pattern.to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(host);
    if pattern.is_empty() || host.is_empty() || pattern.split('.').count() != host.split('.').count() {
        return false;
    }
    pattern
        .split('.')
        .zip(host.split('.'))
        .enumerate()
        .all(|(index, (pattern, label))| index == 0 && pattern == "*" || pattern == label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_in_go() {
        for (pattern, host, expected) in [
            ("a.example", "a.example", true),
            ("A.example", "a.example", true),
            ("*.example", "a.example", true),
            ("*.example", "a.b.example", false),
            ("*.example", "example", false),
            ("a.*", "a.example", false),
            ("a.example", "a.example.", true),
            ("", "a", false),
        ] {
            assert_eq!(matches_pattern(pattern, host), expected, "{pattern} {host}");
        }
        assert!(is_host("a_b.c-d", false) && !is_host("-a", false) && !is_host("a..b", false));
        assert!(is_host("*.a", true) && !is_host("*.a", false) && !is_host("*", true));
    }
}
