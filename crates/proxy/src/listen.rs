//! What an address to listen on means: one socket, and which one where a name has several addresses.
//!
//! Go takes the first address of version 4, else the first; `localhost` is `127.0.0.1` for it, whatever
//! the resolver prefers. Without a host it takes all addresses of both versions.
//!
//! **Source**: behaviour of Go's `net.Listen`.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

/// The addresses of `host:port`, to be bound to the first of them that works: several only without a host,
/// where a system without version 6 listens on version 4 alone.
///
/// # Errors
/// What cannot be read or resolved, or has no address.
pub fn listen_addresses(text: &str) -> io::Result<Vec<SocketAddr>> {
    match text.strip_prefix(':') {
        Some(port) => {
            let invalid = |_| io::Error::new(io::ErrorKind::InvalidInput, "invalid port value");
            let port: u16 = port.parse().map_err(invalid)?;
            Ok(vec![(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()])
        }
        None => choose(text.to_socket_addrs()?)
            .map(|address| vec![address])
            .ok_or_else(|| io::Error::other("the host has no address")),
    }
}

fn choose(mut addresses: impl Iterator<Item = SocketAddr>) -> Option<SocketAddr> {
    let first = addresses.next()?;
    if first.is_ipv4() { Some(first) } else { addresses.find(SocketAddr::is_ipv4).or(Some(first)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_four_goes_first() {
        let check = |addresses: &[&str], chosen: Option<&str>| {
            let addresses = addresses.iter().map(|text| text.parse().unwrap());
            assert_eq!(choose(addresses), chosen.map(|text| text.parse().unwrap()));
        };
        check(&["[::1]:1", "127.0.0.1:1"], Some("127.0.0.1:1"));
        check(&["127.0.0.2:1", "127.0.0.1:1"], Some("127.0.0.2:1"));
        check(&["[::1]:1", "[::2]:1"], Some("[::1]:1"));
        check(&[], None);
    }

    #[test]
    fn a_name_is_one_address_and_none_is_all() {
        assert_eq!(listen_addresses("[::1]:7").unwrap(), ["[::1]:7".parse().unwrap()]);
        assert_eq!(listen_addresses("localhost:7").unwrap(), ["127.0.0.1:7".parse().unwrap()]);
        let all = ["[::]:7".parse().unwrap(), "0.0.0.0:7".parse().unwrap()];
        assert_eq!(listen_addresses(":7").unwrap(), all);
        for text in ["", ":", "localhost", ":x", ":65536"] {
            assert!(listen_addresses(text).is_err(), "{text:?}");
        }
    }
}
