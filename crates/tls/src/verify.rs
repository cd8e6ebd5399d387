//! Which certificates count: chains from a leaf to a root, by Go's rules.
//!
//! Beyond RFC 5280's common ground, and on purpose as in Go:
//! - a leaf that is itself among the roots needs no chain;
//! - version 1 leaves and roots count, and leaves that say they are a CA;
//! - roots expire like everybody else;
//! - extended key usages nest: a CA that lists some restricts what is below it;
//! - the common name never counts as a host name.
//!
//! Policies are not evaluated; a critical extension about them makes a certificate unusable.

use x509_parser::time::ASN1Time;

use crate::certificate::{Certificate, Constraints, Subtree};
use crate::crypto;

/// Signatures checked per chain search: a hostile set of certificates must not keep us busy.
const MAX_SIGNATURES: usize = 100;
/// Certificates in a chain.
const MAX_DEPTH: usize = 16;

/// Why a certificate does not count. The texts are Go's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// Not a certificate, or one that cannot be read.
    #[error("x509: malformed certificate: {0}")]
    Malformed(String),
    /// It demands what is not known.
    #[error("x509: unhandled critical extension")]
    UnhandledCritical,
    /// Outside of its time.
    #[error("x509: certificate has expired or is not yet valid: {0}")]
    Expired(String),
    /// It signs, but is no CA.
    #[error("x509: certificate is not authorized to sign other certificates")]
    NotAuthorizedToSign,
    /// A CA allows fewer CAs below it.
    #[error("x509: too many intermediates for path length constraint")]
    TooManyIntermediates,
    /// It is for something else.
    #[error("x509: certificate specifies an incompatible key usage")]
    IncompatibleUsage,
    /// A CA does not sign for this name.
    #[error("x509: a root or intermediate certificate is not authorized to sign for this name: {0}")]
    NameConstraint(String),
    /// No chain ends at a root.
    #[error("x509: certificate signed by unknown authority{}", hint(.0))]
    UnknownAuthority(Option<(String, String)>),
    /// The search was given up.
    #[error("x509: signature check attempts limit reached while verifying certificate chain")]
    TooManySignatures,
    /// It is valid for others.
    #[error("{0}")]
    Hostname(String),
    /// Its names are not among those let in.
    #[error("client certificate authentication failed")]
    NotAllowed,
    /// It is on the revocation list; the serial in hexadecimal.
    #[error("transport: certificate serial {0} revoked")]
    Revoked(String),
    /// The revocation list cannot be used.
    #[error("{0}")]
    RevocationList(String),
}

fn hint(hint: &Option<(String, String)>) -> String {
    match hint {
        None => String::new(),
        Some((error, name)) => format!(
            " (possibly because of {error:?} while trying to verify candidate authority certificate {name:?})"
        ),
    }
}

impl VerifyError {
    /// What Go makes of it: a failed verification, or the error as it is.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::NotAllowed | Self::Revoked(_) | Self::RevocationList(_) => self.to_string(),
            chain => format!("tls: failed to verify certificate: {chain}"),
        }
    }
}

/// What a certificate has to be good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Server,
    Client,
}

/// Whether a server that shows these certificates, the leaf first, is `host` at this time (seconds
/// since 1970) for somebody who trusts these roots; all as DER.
///
/// # Errors
///
/// Why it is not believed; also where no certificate is shown or one cannot be read.
pub fn check_server(shown: &[&[u8]], roots: &[&[u8]], host: &str, now: i64) -> Result<(), VerifyError> {
    let parse =
        |list: &[&[u8]]| list.iter().map(|der| Certificate::parse(der)).collect::<Result<Vec<_>, _>>();
    let (shown, roots) = (parse(shown)?, parse(roots)?);
    let Some((leaf, others)) = shown.split_first() else { return Err(VerifyError::UnknownAuthority(None)) };
    verify_server(leaf, others, &roots, host, now)
}

/// Chain and name of a server: Go looks at time, then name, then chain.
pub(crate) fn verify_server(
    leaf: &Certificate,
    others: &[Certificate],
    roots: &[Certificate],
    host: &str,
    now: i64,
) -> Result<(), VerifyError> {
    match verify(leaf, others, roots, Purpose::Server, now) {
        Err(error @ (VerifyError::Expired(_) | VerifyError::UnhandledCritical)) => Err(error),
        chain => leaf.check_host(host).and(chain),
    }
}

/// Finds a chain from `leaf` to one of `roots`.
pub(crate) fn verify(
    leaf: &Certificate,
    intermediates: &[Certificate],
    roots: &[Certificate],
    purpose: Purpose,
    now: i64,
) -> Result<(), VerifyError> {
    check_candidate(leaf, &[], Role::Leaf, now)?;
    let mut search =
        Search { intermediates, roots, purpose, now, signatures: 0, refused: None, found: false };
    if roots.iter().any(|root| root.der == leaf.der) {
        search.judge(&[leaf]);
    } else {
        search.extend(&mut vec![leaf])?;
    }
    match (search.found, search.refused) {
        (true, _) => Ok(()),
        (false, Some(error)) => Err(error),
        (false, None) => Err(VerifyError::UnknownAuthority(None)),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Leaf,
    Intermediate,
    Root,
}

struct Search<'c> {
    intermediates: &'c [Certificate],
    roots: &'c [Certificate],
    purpose: Purpose,
    now: i64,
    signatures: usize,
    /// Why a whole chain did not do.
    refused: Option<VerifyError>,
    found: bool,
}

impl<'c> Search<'c> {
    /// Continues a chain with everybody who may have signed its end.
    fn extend(&mut self, chain: &mut Vec<&'c Certificate>) -> Result<(), VerifyError> {
        let Some(&child) = chain.last() else { return Ok(()) };
        let mut reason: Option<(String, String)> = None;
        let mut reached = false;
        let candidates = (self.roots.iter().map(|root| (Role::Root, root)))
            .chain(self.intermediates.iter().map(|other| (Role::Intermediate, other)));
        let mut deeper = None;
        for (role, candidate) in candidates {
            if self.found {
                return Ok(());
            }
            if candidate.subject != child.issuer || chain.iter().any(|member| is_same(member, candidate)) {
                continue;
            }
            self.signatures += 1;
            if self.signatures > MAX_SIGNATURES {
                return Err(VerifyError::TooManySignatures);
            }
            let fits = check_signature(child, candidate).and_then(|()| {
                check_candidate(candidate, chain, role, self.now).map_err(|error| error.to_string())
            });
            if let Err(error) = fits {
                reason.get_or_insert((error, candidate.title.clone()));
                continue;
            }
            chain.push(candidate);
            if role == Role::Root {
                reached = true;
                self.judge(chain);
            } else if chain.len() < MAX_DEPTH {
                match self.extend(chain) {
                    Ok(()) => reached = true,
                    Err(error) => deeper = Some(error),
                }
            }
            chain.pop();
        }
        match (reached, deeper) {
            (true, _) => Ok(()),
            (false, Some(error)) => Err(error),
            (false, None) => Err(VerifyError::UnknownAuthority(reason)),
        }
    }

    /// What can only be said of a whole chain.
    fn judge(&mut self, chain: &[&Certificate]) {
        let verdict = check_usages(chain, self.purpose).and_then(|()| check_constraints(chain));
        match verdict {
            Ok(()) => self.found = true,
            Err(error) => self.refused = Some(error),
        }
    }
}

/// The same subject with the same key and names: a CA signed twice must not make a circle.
fn is_same(one: &Certificate, other: &Certificate) -> bool {
    one.subject == other.subject
        && one.key_info == other.key_info
        && one.dns_names == other.dns_names
        && one.ip_addresses == other.ip_addresses
}

fn check_signature(child: &Certificate, issuer: &Certificate) -> Result<(), String> {
    let may_sign = match issuer.ca {
        None => !issuer.is_v3,
        Some(ca) => ca,
    };
    if !may_sign || issuer.may_sign == Some(false) {
        return Err(
            "x509: invalid signature: parent certificate cannot sign this kind of certificate".to_owned()
        );
    }
    match crypto::is_signed_by(child, issuer) {
        Some(true) => Ok(()),
        Some(false) => Err("x509: invalid signature".to_owned()),
        None => Err("x509: cannot verify signature: algorithm unimplemented".to_owned()),
    }
}

fn check_candidate(
    candidate: &Certificate,
    chain: &[&Certificate],
    role: Role,
    now: i64,
) -> Result<(), VerifyError> {
    if candidate.unhandled_critical {
        return Err(VerifyError::UnhandledCritical);
    }
    let bound = match now {
        _ if now < candidate.not_before => Some(("before", candidate.not_before)),
        _ if now > candidate.not_after => Some(("after", candidate.not_after)),
        _ => None,
    };
    if let Some((side, bound)) = bound {
        let detail = format!("current time {} is {side} {}", date(now), date(bound));
        return Err(VerifyError::Expired(detail));
    }
    if role == Role::Intermediate && candidate.ca != Some(true) {
        return Err(VerifyError::NotAuthorizedToSign);
    }
    let below = chain.len().saturating_sub(1);
    if candidate.ca == Some(true) && candidate.path_len.is_some_and(|limit| below > limit as usize) {
        return Err(VerifyError::TooManyIntermediates);
    }
    Ok(())
}

/// A point in time as RFC 3339 writes it.
fn date(seconds: i64) -> String {
    let Ok(time) = ASN1Time::from_timestamp(seconds) else { return format!("@{seconds}") };
    let time = time.to_datetime();
    let (hour, minute, second) = time.to_hms();
    format!(
        "{:04}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z",
        time.year(),
        u8::from(time.month()),
        time.day()
    )
}

fn check_usages(chain: &[&Certificate], purpose: Purpose) -> Result<(), VerifyError> {
    let good = chain.iter().all(|certificate| {
        let usages = &certificate.usages;
        let named = match purpose {
            Purpose::Server => usages.server,
            Purpose::Client => usages.client,
        };
        !usages.restricted || usages.any || named
    });
    if good { Ok(()) } else { Err(VerifyError::IncompatibleUsage) }
}

fn check_constraints(chain: &[&Certificate]) -> Result<(), VerifyError> {
    for (place, issuer) in chain.iter().enumerate().skip(1) {
        let Some(constraints) = &issuer.constraints else { continue };
        for below in &chain[..place] {
            check_names(below, constraints).map_err(VerifyError::NameConstraint)?;
        }
    }
    Ok(())
}

fn check_names(certificate: &Certificate, constraints: &Constraints) -> Result<(), String> {
    for name in &certificate.dns_names {
        let within = |subtree: &Subtree| matches!(subtree, Subtree::Dns(tree) if in_domain(name, tree));
        let kind = |subtree: &Subtree| matches!(subtree, Subtree::Dns(_));
        // A star, which is one label, must not stand for a name that is excluded.
        let base = name.strip_prefix("*.");
        let touched = constraints.excluded.iter().any(|subtree| match (subtree, base) {
            (Subtree::Dns(tree), Some(base)) => {
                tree.split_once('.').is_some_and(|(_, parent)| parent.eq_ignore_ascii_case(base))
            }
            _ => false,
        });
        if touched {
            return Err(format!("DNS name {name:?} is excluded by a constraint"));
        }
        check_subtrees(constraints, kind, within, &format!("DNS name {name:?}"))?;
    }
    for address in &certificate.ip_addresses {
        let bytes = match address {
            std::net::IpAddr::V4(address) => address.octets().to_vec(),
            std::net::IpAddr::V6(address) => address.octets().to_vec(),
        };
        let within = |subtree: &Subtree| matches!(subtree, Subtree::Ip(tree) if in_network(&bytes, tree));
        let kind = |subtree: &Subtree| matches!(subtree, Subtree::Ip(_));
        check_subtrees(constraints, kind, within, &format!("IP address {address}"))?;
    }
    // Mail addresses and URIs have no use here: where a CA restricts them, nobody may have them.
    let restricts = |wanted: &Subtree| {
        constraints.permitted.iter().chain(&constraints.excluded).any(|subtree| subtree == wanted)
    };
    if certificate.has_email && restricts(&Subtree::Email) || certificate.has_uri && restricts(&Subtree::Uri)
    {
        return Err("its mail addresses or URIs are restricted".to_owned());
    }
    Ok(())
}

fn check_subtrees(
    constraints: &Constraints,
    kind: impl Fn(&Subtree) -> bool,
    within: impl Fn(&Subtree) -> bool,
    name: &str,
) -> Result<(), String> {
    if constraints.excluded.iter().any(&within) {
        return Err(format!("{name} is excluded by a constraint"));
    }
    if constraints.permitted.iter().any(kind) && !constraints.permitted.iter().any(within) {
        return Err(format!("{name} is not permitted by any constraint"));
    }
    Ok(())
}

/// `example.org` covers itself and everything below, `.example.org` only what is below.
fn in_domain(name: &str, tree: &str) -> bool {
    let (name, tree) = (name.to_ascii_lowercase(), tree.to_ascii_lowercase());
    let bare = tree.strip_prefix('.').unwrap_or(&tree);
    let below = name.strip_suffix(bare).is_some_and(|rest| rest.ends_with('.'));
    tree.is_empty() || below || name == tree
}

fn in_network(address: &[u8], tree: &[u8]) -> bool {
    if tree.len() != 2 * address.len() {
        return false;
    }
    let (network, mask) = tree.split_at(address.len());
    address.iter().zip(network).zip(mask).all(|((byte, network), mask)| byte & mask == network & mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(date(0), "1970-01-01T00:00:00Z");
        assert_eq!(date(1_795_249_564), "2026-11-21T08:26:04Z");
    }

    #[test]
    fn subtrees() {
        for (name, tree, expected) in [
            ("a.example.org", "example.org", true),
            ("example.org", "example.org", true),
            ("badexample.org", "example.org", false),
            ("example.org", ".example.org", false),
            ("a.example.org", ".example.org", true),
            ("anything", "", true),
        ] {
            assert_eq!(in_domain(name, tree), expected, "{name} {tree}");
        }
        assert!(in_network(&[10, 1, 2, 3], &[10, 0, 0, 0, 255, 0, 0, 0]));
        assert!(!in_network(&[11, 1, 2, 3], &[10, 0, 0, 0, 255, 0, 0, 0]));
        assert!(!in_network(&[11, 1, 2, 3], &[0; 32]));
    }
}
