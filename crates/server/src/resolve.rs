//! Whether two lists of URLs mean the same addresses, asking the system for those of names.
//!
//! A name that does not resolve yet is asked for again each second, up to [`PATIENCE`]: members of a new
//! cluster often start before their names are known.
//!
//! **Source**: etcd `pkg/netutil/netutil.go`.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use membership::UrlsDiffer;

use crate::log;

/// How long names may take to resolve, all of one comparison together.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two questions for the same name.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Compares after resolving names.
///
/// # Errors
/// How they differ, or which name does not resolve.
pub fn same_urls(one: &[String], other: &[String]) -> Result<(), UrlsDiffer> {
    let deadline = Instant::now() + PATIENCE;
    membership::same_addresses(one, other, |url, authority| {
        let address = look_up_until(authority, deadline)?;
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        log::info!("resolved URL Host",
            "url" => url, "host" => host, "resolved-addr" => address.to_string());
        Ok(address)
    })
}

fn look_up_until(authority: &str, deadline: Instant) -> io::Result<SocketAddr> {
    loop {
        let answer = authority.to_socket_addrs().and_then(|mut addresses| {
            addresses.next().ok_or_else(|| io::Error::other("the name has no address"))
        });
        let Err(error) = answer else { return answer };
        log::warn!("failed to resolve URL Host",
            "host" => authority, "retry-interval" => RETRY_INTERVAL, "error" => error.to_string());
        if Instant::now() + RETRY_INTERVAL > deadline {
            return Err(error);
        }
        std::thread::sleep(RETRY_INTERVAL);
    }
}
