//! Questions to the name servers of the system: the servers of a service (SRV), the names of an
//! address (PTR). Names to addresses is the business of the system's own resolver.
//!
//! Why not a library: those there are bring sixty crates along, with caches, security extensions and
//! four more transports, for two questions that are asked once in a while.
//!
//! A question goes to the servers of `/etc/resolv.conf` in turn, over UDP and, if the answer does not
//! fit, again over TCP. Names are asked for as they are, without search domains. Nothing that a
//! server says is believed before its bytes are there, and compressed names end.
//!
//! **Source**: RFC 1035, RFC 2782.

use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

mod message;

pub use message::Srv;
use message::{Answer, Malformed, PTR, Records, SRV, question, read};

/// Patience with one server, once.
const PATIENCE: Duration = Duration::from_secs(5);
/// Rounds through the servers.
const ROUNDS: usize = 2;
/// Longest answer over UDP: more is allowed only to who asks for it.
const DATAGRAM_BYTES: usize = 4096;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The name does not exist, or has nothing of the kind.
    #[error("lookup {name}: no such host")]
    NoSuchHost {
        /// What was asked for.
        name: String,
    },
    /// No server gave an answer; what the last one did.
    #[error("lookup {name} on {server}: {reason}")]
    Failed {
        /// What was asked for.
        name: String,
        /// Who was asked last.
        server: SocketAddr,
        /// What went wrong.
        reason: String,
    },
    /// What was asked for is no name.
    #[error("lookup {name}: not a domain name")]
    NotAName {
        /// It.
        name: String,
    },
}

/// The servers of a service, `_service._proto.domain`, as they came.
///
/// # Errors
/// There are none, or nobody says.
pub async fn srv(name: &str) -> Result<Vec<Srv>, DnsError> {
    Resolver::of_system().srv(name).await
}

/// The names of an address: those in `/etc/hosts`, else those in the DNS.
///
/// # Errors
/// There are none, or nobody says.
pub async fn reverse(address: IpAddr) -> Result<Vec<String>, DnsError> {
    let listed = in_hosts(&fs::read_to_string("/etc/hosts").unwrap_or_default(), address);
    if !listed.is_empty() {
        return Ok(listed);
    }
    Resolver::of_system().reverse(address).await
}

/// Name servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolver {
    servers: Vec<SocketAddr>,
}

impl Resolver {
    /// These servers.
    ///
    /// # Panics
    /// Without a server.
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        assert!(!servers.is_empty(), "somebody has to be asked");
        Self { servers }
    }

    /// Those of `/etc/resolv.conf`; without any, one on this machine.
    pub fn of_system() -> Self {
        Self::new(servers_in(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default()))
    }

    /// See [`srv`].
    ///
    /// # Errors
    /// There are none, or nobody says.
    pub async fn srv(&self, name: &str) -> Result<Vec<Srv>, DnsError> {
        match self.ask(name, SRV).await?.srv {
            found if found.is_empty() => Err(DnsError::NoSuchHost { name: name.to_owned() }),
            found => Ok(found),
        }
    }

    /// See [`reverse`], without the file.
    ///
    /// # Errors
    /// There are none, or nobody says.
    pub async fn reverse(&self, address: IpAddr) -> Result<Vec<String>, DnsError> {
        let name = reverse_name(address);
        match self.ask(&name, PTR).await?.ptr {
            found if found.is_empty() => Err(DnsError::NoSuchHost { name }),
            found => Ok(found),
        }
    }

    async fn ask(&self, name: &str, kind: u16) -> Result<Records, DnsError> {
        let mut last = None;
        for _ in 0..ROUNDS {
            for &server in &self.servers {
                let id = RandomState::new().build_hasher().finish() as u16;
                let Some(query) = question(id, name, kind) else {
                    return Err(DnsError::NotAName { name: name.to_owned() });
                };
                let asked = timeout(PATIENCE, ask_server(server, &query)).await;
                match asked.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "i/o timeout"))) {
                    Ok(Answer::Records(records)) => return Ok(records),
                    Ok(Answer::NoSuchName) => return Err(DnsError::NoSuchHost { name: name.to_owned() }),
                    Ok(Answer::Refused(code)) => {
                        last = Some((server, format!("server misbehaving (code {code})")));
                    }
                    Ok(Answer::Truncated) => last = Some((server, "server misbehaving".to_owned())),
                    Err(error) => last = Some((server, error.to_string())),
                }
            }
        }
        let (server, reason) = last.expect("somebody was asked");
        Err(DnsError::Failed { name: name.to_owned(), server, reason })
    }
}

async fn ask_server(server: SocketAddr, query: &[u8]) -> io::Result<Answer> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    // Only this server's datagrams arrive from here on.
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut bytes = vec![0; DATAGRAM_BYTES];
    loop {
        let count = socket.recv(&mut bytes).await?;
        match read(&bytes[..count], query) {
            Ok(Answer::Truncated) => return ask_over_tcp(server, query).await,
            Ok(answer) => return Ok(answer),
            // An answer to something else, or forged: the right one may still come.
            Err(Malformed) => {}
        }
    }
}

async fn ask_over_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(server).await?;
    let len = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&len.to_be_bytes(), query].concat()).await?;
    let len = stream.read_u16().await?;
    let mut bytes = vec![0; usize::from(len)];
    stream.read_exact(&mut bytes).await?;
    read(&bytes, query).map_err(|Malformed| io::Error::other("cannot unmarshal DNS message"))
}

fn servers_in(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse::<IpAddr>().ok()).flatten()
    };
    let mut servers: Vec<SocketAddr> =
        text.lines().filter_map(address).map(|address| (address, 53).into()).collect();
    if servers.is_empty() {
        servers.push((Ipv4Addr::LOCALHOST, 53).into());
    }
    servers
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

fn reverse_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let nibbles =
                address.octets().into_iter().rev().map(|byte| format!("{:x}.{:x}.", byte & 15, byte >> 4));
            nibbles.collect::<String>() + "ip6.arpa"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read() {
        let text = "# x\nsearch a.b\nnameserver 10.0.0.1\nnameserver ::1 \nnameserver bad\n";
        assert_eq!(servers_in(text), ["10.0.0.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()]);
        assert_eq!(servers_in(""), ["127.0.0.1:53".parse().unwrap()]);
        let text = "127.0.0.1 localhost me # this\n::1 ip6\n10.0.0.1 a.b\n";
        assert_eq!(in_hosts(text, "127.0.0.1".parse().unwrap()), ["localhost", "me"]);
        assert!(in_hosts(text, "10.0.0.2".parse().unwrap()).is_empty());
    }

    #[test]
    fn addresses_are_turned_round() {
        assert_eq!(reverse_name("10.1.2.3".parse().unwrap()), "3.2.1.10.in-addr.arpa");
        let name = reverse_name("2001:db8::1".parse().unwrap());
        assert!(name.starts_with("1.0.0.0.") && name.ends_with("8.b.d.0.1.0.0.2.ip6.arpa"), "{name}");
    }

    /// What a server says, in pieces: the head's flags and the records behind the question.
    fn answer(query: &[u8], flags: [u8; 2], count: u8, records: &[u8]) -> Vec<u8> {
        let mut bytes = query.to_vec();
        bytes[2..4].copy_from_slice(&flags);
        bytes[7] = count;
        bytes.extend_from_slice(records);
        bytes
    }

    #[tokio::test]
    async fn an_answer_that_does_not_fit_comes_over_tcp() {
        let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(address).await.unwrap();
        let server = async move {
            let mut bytes = [0; 512];
            let (count, from) = udp.recv_from(&mut bytes).await.unwrap();
            // Noise first: the wrong id.
            let mut noise = answer(&bytes[..count], [0x81, 0x80], 0, &[]);
            noise[0] ^= 1;
            udp.send_to(&noise, from).await.unwrap();
            udp.send_to(&answer(&bytes[..count], [0x83, 0x80], 0, &[]), from).await.unwrap();
            let (mut stream, _) = tcp.accept().await.unwrap();
            let len = stream.read_u16().await.unwrap();
            let mut query = vec![0; usize::from(len)];
            stream.read_exact(&mut query).await.unwrap();
            // One record, its owner and part of its target compressed.
            let record = [&[
                0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 9, 0, 11, 0, 1, 0, 2, 0x09, 0x4b, 2, b'm', b'1', 0xc0, 30,
            ][..]]
            .concat();
            let whole = answer(&query, [0x81, 0x80], 1, &record);
            stream.write_all(&(whole.len() as u16).to_be_bytes()).await.unwrap();
            stream.write_all(&whole).await.unwrap();
        };
        let resolver = Resolver::new(vec![address]);
        let ((), found) = tokio::join!(server, resolver.srv("_etcd-client._tcp.example.org"));
        let target = "m1.example.org.".to_owned();
        assert_eq!(found.unwrap(), [Srv { priority: 1, weight: 2, port: 2379, target }]);
    }

    #[tokio::test]
    async fn a_name_that_does_not_exist() {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let resolver = Resolver::new(vec![udp.local_addr().unwrap()]);
        let server = async move {
            let mut bytes = [0; 512];
            let (count, from) = udp.recv_from(&mut bytes).await.unwrap();
            udp.send_to(&answer(&bytes[..count], [0x81, 0x83], 0, &[]), from).await.unwrap();
        };
        let ((), found) = tokio::join!(server, resolver.reverse("10.0.0.9".parse().unwrap()));
        assert_eq!(found.unwrap_err().to_string(), "lookup 9.0.0.10.in-addr.arpa: no such host");
        assert!(matches!(resolver.srv("a..b").await, Err(DnsError::NotAName { .. })));
    }
}
