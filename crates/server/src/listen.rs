//! What an address to listen on means: one socket, and which one where a name has several addresses.
//!
//! A name stands for its first address of version 4, else its first; `localhost` is `127.0.0.1`, whatever
//! the resolver prefers. No host at all, `0.0.0.0` and `[::]` stand for all addresses of both versions:
//! one socket takes both, or those of version 4 where the system knows no others.
//!
//! **Source**: behaviour of Go's `net.Listen`.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};

use socket2::{Domain, Socket, Type};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// How to listen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Several processes may listen on the address.
    pub reuse_port: bool,
}

/// Listens on `host:port`.
///
/// # Errors
/// The text cannot be read or resolved, or the system refuses.
pub fn tcp(text: &str, options: Options) -> io::Result<TcpListener> {
    let address = address_of(text)?;
    if !address.ip().is_unspecified() {
        return open(address, options);
    }
    match open((Ipv6Addr::UNSPECIFIED, address.port()).into(), options) {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            open((Ipv4Addr::UNSPECIFIED, address.port()).into(), options)
        }
        opened => opened,
    }
}

fn address_of(text: &str) -> io::Result<SocketAddr> {
    if let Some(port) = text.strip_prefix(':') {
        let invalid = |_| io::Error::new(io::ErrorKind::InvalidInput, "invalid port value");
        return Ok((Ipv6Addr::UNSPECIFIED, port.parse::<u16>().map_err(invalid)?).into());
    }
    choose(text.to_socket_addrs()?).ok_or_else(|| io::Error::other("the host has no address"))
}

fn choose(mut addresses: impl Iterator<Item = SocketAddr>) -> Option<SocketAddr> {
    let first = addresses.next()?;
    if first.is_ipv4() { Some(first) } else { addresses.find(SocketAddr::is_ipv4).or(Some(first)) }
}

fn open(address: SocketAddr, options: Options) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Go sets it on every listener; `--socket-reuse-address` only adds it to what Go does by itself.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(options.reuse_port)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    fn listen(text: &str) -> TcpListener {
        tcp(text, Options::default()).unwrap()
    }

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
    fn a_name_is_one_address() {
        assert_eq!(listen("localhost:0").local_addr().unwrap().ip(), Ipv4Addr::LOCALHOST);
        assert_eq!(address_of("[::1]:7").unwrap(), "[::1]:7".parse().unwrap());
        for text in ["", ":", "localhost", ":x", ":65536"] {
            assert!(tcp(text, Options::default()).is_err(), "{text:?}");
        }
    }

    /// The proxies took `0.0.0.0` for version 4 alone.
    #[test]
    fn every_address_means_both_versions() {
        for text in [":0", "0.0.0.0:0", "[::]:0"] {
            let listener = listen(text);
            let port = listener.local_addr().unwrap().port();
            TcpStream::connect(("127.0.0.1", port)).unwrap();
            // Where the machine has the other version at all.
            if TcpListener::bind("[::1]:0").is_ok() {
                TcpStream::connect(("::1", port)).unwrap();
            }
        }
    }

    #[test]
    fn a_port_is_shared_only_where_that_was_asked_for() {
        let shared = Options { reuse_port: true };
        let first = tcp("127.0.0.1:0", shared).unwrap();
        let address = first.local_addr().unwrap().to_string();
        assert!(tcp(&address, shared).is_ok());
        let refused = tcp(&address, Options::default()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        // The port of all addresses is in use as well: no second attempt goes around that.
        let all = format!("0.0.0.0:{}", first.local_addr().unwrap().port());
        assert!(tcp(&all, Options::default()).is_err());
    }
}
