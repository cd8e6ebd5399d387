//! Whether two lists of URLs mean the same addresses, with names resolved by somebody else.
//!
//! **Source**: etcd `pkg/netutil/netutil.go`.

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::bootstrap::UrlsDiffer;

/// Compares URL lists in any order: their texts first; only where those differ is each name replaced
/// by the address that `look_up(url, "host:port")` finds. `localhost` and unix sockets are never
/// resolved.
///
/// # Errors
/// How they differ, or which name does not resolve.
pub fn same_addresses(
    one: &[String],
    other: &[String],
    mut look_up: impl FnMut(&str, &str) -> io::Result<SocketAddr>,
) -> Result<(), UrlsDiffer> {
    if one.len() != other.len() {
        return Err(UrlsDiffer(format!("len({}) != len({})", go_list(one), go_list(other))));
    }
    let sorted = |urls: &[String]| {
        let mut urls = urls.to_vec();
        urls.sort_unstable();
        urls
    };
    let (one, other) = (sorted(one), sorted(other));
    if first_difference(&one, &other).is_none() {
        return Ok(());
    }
    let mut resolved = |urls: &[String]| -> Result<Vec<String>, UrlsDiffer> {
        let mut urls =
            urls.iter().map(|url| resolve(url, &mut look_up)).collect::<Result<Vec<String>, _>>()?;
        urls.sort_unstable();
        Ok(urls)
    };
    let (one, other) = (resolved(&one)?, resolved(&other)?);
    match first_difference(&one, &other) {
        None => Ok(()),
        Some((one, other)) => Err(UrlsDiffer(format!("resolved urls: {one:?} != {other:?}"))),
    }
}

fn first_difference<'u>(one: &'u [String], other: &'u [String]) -> Option<(&'u str, &'u str)> {
    let mut pairs = one.iter().zip(other);
    pairs.find(|(one, other)| normal(one) != normal(other)).map(|(one, other)| (one.as_str(), other.as_str()))
}

/// A URL with its address in the one form that it has as a number.
fn normal(url: &str) -> String {
    let Some((scheme, host, port)) = parts(url) else { return url.to_owned() };
    match host.parse::<IpAddr>().map(|address| SocketAddr::new(address.to_canonical(), port)) {
        Ok(address) => format!("{scheme}://{address}"),
        Err(_) => format!("{scheme}://{host}:{port}"),
    }
}

/// Scheme, host without brackets, port. `None` where nothing is to be resolved.
fn parts(url: &str) -> Option<(&str, &str, u16)> {
    let (scheme, authority) = url.split_once("://")?;
    if scheme.starts_with("unix") {
        return None;
    }
    let (host, port) = authority.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Some((scheme, host, port.parse().ok()?))
}

/// A URL whose name is replaced by its address.
fn resolve(
    url: &str,
    look_up: &mut impl FnMut(&str, &str) -> io::Result<SocketAddr>,
) -> Result<String, UrlsDiffer> {
    let Some((scheme, ..)) = parts(url).filter(|(_, host, _)| *host != "localhost") else {
        return Ok(url.to_owned());
    };
    let authority = url.split_once("://").map_or(url, |(_, authority)| authority);
    match look_up(url, authority) {
        Ok(address) => Ok(format!("{scheme}://{address}")),
        Err(error) => Err(UrlsDiffer(format!("failed to resolve {url:?} ({error})"))),
    }
}

/// A list as Go's `%q` prints it.
fn go_list(urls: &[String]) -> String {
    let quoted: Vec<_> = urls.iter().map(|url| format!("{url:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(one: &[&str], other: &[&str]) -> Result<(), String> {
        let owned = |urls: &[&str]| urls.iter().map(|url| (*url).to_owned()).collect::<Vec<_>>();
        let look_up = |_: &str, authority: &str| match authority.rsplit_once(':') {
            Some(("a.example" | "10.0.0.1", port)) => Ok(format!("10.0.0.1:{port}").parse().unwrap()),
            Some(("10.0.0.2", port)) => Ok(format!("10.0.0.2:{port}").parse().unwrap()),
            _ => Err(io::Error::other("no such host")),
        };
        same_addresses(&owned(one), &owned(other), look_up).map_err(|error| error.0)
    }

    #[test]
    fn names_are_resolved_where_texts_differ() {
        assert_eq!(
            check(&["http://a.example:1", "http://10.0.0.2:1"], &["http://10.0.0.2:1", "http://10.0.0.1:1"]),
            Ok(())
        );
        assert_eq!(check(&["http://nobody:1"], &["http://nobody:1"]), Ok(()), "same text");
        assert_eq!(check(&["http://[::1]:1"], &["http://[0:0:0:0:0:0:0:1]:1"]), Ok(()), "same number");
        assert_eq!(
            check(&["http://10.0.0.1:1"], &["http://10.0.0.2:1"]).unwrap_err(),
            r#"resolved urls: "http://10.0.0.1:1" != "http://10.0.0.2:1""#
        );
        assert!(check(&["https://a.example:1"], &["http://a.example:1"]).is_err());
        assert_eq!(
            check(&["http://nobody:1"], &["http://10.0.0.1:1"]).unwrap_err(),
            r#"failed to resolve "http://nobody:1" (no such host)"#
        );
        assert!(check(&["http://localhost:1"], &["http://10.0.0.1:1"]).is_err(), "never resolved");
        assert_eq!(check(&["http://a:1"], &[]).unwrap_err(), r#"len(["http://a:1"]) != len([])"#);
    }
}
