//! Whether who connects does so from an address that its certificate names.
//!
//! A certificate without names is good for every address. An address among its addresses does.
//! Otherwise one of its host names has to belong to the address: by reverse lookup, where names with
//! a star cover everything below, or by forward lookup.

use std::net::IpAddr;

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::RData;

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
    match reverse(remote).await {
        Ok(found) => {
            if found.iter().any(|found| names.iter().any(|name| covers(name, found))) {
                return Ok(());
            }
        }
        Err(error) => failure = Some(error),
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

/// The names of an address: those in the file of hosts, else those in the DNS.
async fn reverse(address: IpAddr) -> Result<Vec<String>, String> {
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let listed = in_hosts(&hosts, address);
    if !listed.is_empty() {
        return Ok(listed);
    }
    let failed = |error: &dyn std::fmt::Display| format!("lookup {address}: {error}");
    let resolver = TokioResolver::builder_tokio().map_err(|error| failed(&error))?;
    let resolver = resolver.build().map_err(|error| failed(&error))?;
    let answer = resolver.reverse_lookup(address).await.map_err(|error| failed(&error))?;
    let name = |data: &RData| match data {
        RData::PTR(name) => Some(name.0.to_utf8().trim_end_matches('.').to_owned()),
        _ => None,
    };
    Ok(answer.answers().iter().filter_map(|record| name(&record.data)).collect())
}

fn in_hosts(text: &str, address: IpAddr) -> Vec<String> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().split_whitespace());
    let mut names = Vec::new();
    for mut words in lines {
        if words.next().and_then(|word| word.parse::<IpAddr>().ok()) == Some(address) {
            names.extend(words.map(str::to_owned));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_stars() {
        let text = "127.0.0.1 localhost me # this\n::1 ip6\n10.0.0.1 a.b\n";
        assert_eq!(in_hosts(text, "127.0.0.1".parse().unwrap()), ["localhost", "me"]);
        assert!(in_hosts(text, "10.0.0.2".parse().unwrap()).is_empty());
        assert!(covers("*.b", "a.b") && covers("a.b", "a.b") && !covers("*.b", "b") && !covers("a", "b"));
    }
}
