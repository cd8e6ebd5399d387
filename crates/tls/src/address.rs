//! Whether who connects does so from an address that its certificate names.
//!
//! A certificate without names is good for every address. An address among its addresses does.
//! Otherwise one of its host names has to belong to the address: by reverse lookup, where names with
//! a star cover everything below, or by forward lookup.

use std::net::IpAddr;

use crate::certificate::Certificate;

pub(crate) async fn check(certificate: &Certificate, remote: IpAddr) -> Result<(), String> {
    let remote = remote.to_canonical();
    let (names, addresses) = (&certificate.dns_names, &certificate.ip_addresses);
    if names.is_empty() && addresses.is_empty() {
        return Ok(());
    }
    let by_address = certificate.check_host(&remote.to_string());
    match by_address {
        Ok(()) => return Ok(()),
        Err(error) if names.is_empty() => return Err(error.to_string()),
        Err(_) => {}
    }
    let mut failure = None;
    match dns::reverse(remote).await {
        Ok(found) => {
            if found.iter().any(|found| names.iter().any(|name| covers(name, found))) {
                return Ok(());
            }
        }
        Err(error) => failure = Some(error.to_string()),
    }
    for name in names.iter().filter(|name| !name.starts_with("*.")) {
        match tokio::net::lookup_host((name.as_str(), 0)).await {
            Ok(mut found) => {
                if found.any(|found| found.ip().to_canonical() == remote) {
                    return Ok(());
                }
            }
            Err(error) => failure = Some(format!("lookup {name}: {}", crate::text::reason(&error))),
        }
    }
    let failure = failure.map(|failure| format!(" ({failure})")).unwrap_or_default();
    let remote = remote.to_string();
    Err(format!("tls: {remote:?} does not match any of DNSNames {names:?}{failure}"))
}

fn covers(name: &str, found: &str) -> bool {
    match name.strip_prefix('*') {
        Some(behind) if behind.starts_with('.') => found.ends_with(behind),
        _ => name == found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_cover_what_is_below() {
        assert!(covers("*.b", "a.b") && covers("a.b", "a.b") && !covers("*.b", "b") && !covers("a", "b"));
    }
}
