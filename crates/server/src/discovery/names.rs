//! The first members of a cluster as the DNS names them: `--discovery-srv`.
//!
//! ```text
//! _etcd-server-ssl._tcp.<domain>     members whose peer URLs are https
//! _etcd-server._tcp.<domain>         those with http
//! ```
//!
//! `--discovery-srv-name x` appends `-x` to the services. Both are asked, and what they say is put together;
//! one of them is enough. A record that leads to an advertised peer URL of this member gets its name, the
//! others are called 0, 1 and so on: names of members play no part in their ids.
//!
//! **Source**: etcd `client/pkg/srv/srv.go`, `server/embed/config.go`.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use membership::InitialCluster;

use crate::config::Config;
use crate::log::{self, Field};

/// Why the DNS does not say who the members are.
#[derive(Debug, thiserror::Error)]
pub enum NamesError {
    /// Neither service.
    #[error("error setting up initial cluster: {0}")]
    Lookup(String),
    /// None of the records leads here.
    #[error("error setting up initial cluster: cannot find local etcd member {0:?} in SRV records")]
    NotAmong(String),
    /// A record that is no address.
    #[error("error setting up initial cluster: {0}")]
    Url(#[from] membership::UrlError),
}

/// Who answers questions about names.
trait Resolver {
    /// The servers of a service.
    fn servers(&self, name: &str) -> Result<Vec<dns::Srv>, String>;
    /// The address of `host:port`.
    fn address(&self, authority: &str) -> io::Result<SocketAddr>;
}

/// That of the machine.
struct System(tokio::runtime::Runtime);

impl Resolver for System {
    fn servers(&self, name: &str) -> Result<Vec<dns::Srv>, String> {
        self.0.block_on(dns::srv(name)).map_err(|error| error.to_string())
    }

    fn address(&self, authority: &str) -> io::Result<SocketAddr> {
        let found = authority.to_socket_addrs()?.next();
        found.ok_or_else(|| io::Error::other(format!("lookup {authority}: no such host")))
    }
}

/// Asks the DNS for the initial cluster.
///
/// # Errors
/// There are no members, or this one is not among them.
pub fn initial_cluster(config: &Config) -> Result<InitialCluster, NamesError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| NamesError::Lookup(error.to_string()))?;
    ask(config, &System(runtime))
}

fn ask(config: &Config, resolver: &impl Resolver) -> Result<InitialCluster, NamesError> {
    let mut members = Vec::new();
    let mut errors = Vec::new();
    let suffix = match config.discovery_srv_name.as_str() {
        "" => String::new(),
        name => format!("-{name}"),
    };
    for (scheme, service) in [("https", "etcd-server-ssl"), ("http", "etcd-server")] {
        let full_name = format!("{service}{suffix}");
        let found = members_of(config, resolver, scheme, &full_name);
        let error = match found {
            Ok(found) => {
                members.extend(found);
                None
            }
            Err(error) => {
                errors.push(error.clone());
                Some(error)
            }
        };
        let mut fields: Vec<Field<'_>> = vec![
            ("service-scheme", scheme.into()),
            ("service-name", full_name.into()),
            ("server-name", (&config.name).into()),
            ("discovery-srv", (&config.discovery_srv).into()),
            ("advertise-peer-urls", (&config.advertise_peer_urls).into()),
            ("found-cluster", (&members).into()),
        ];
        fields.extend(error.map(|error| ("error", error.into())));
        log::info(&format!("get cluster for {service} SRV"), &fields);
    }
    if !errors.is_empty() {
        log::warn!("failed to resolve during SRV discovery", "error" => errors.join("\n"));
    }
    if members.is_empty() {
        return Err(NamesError::Lookup(errors.join("\n")));
    }
    for member in &members {
        log::info!("got bootstrap from DNS for etcd-server", "node" => member);
    }
    let cluster = InitialCluster::parse(&members.join(","))?;
    match cluster.urls(&config.name) {
        Some(_) => Ok(cluster),
        None => Err(NamesError::NotAmong(config.name.clone())),
    }
}

/// `name=url` of each server of a service.
fn members_of(
    config: &Config,
    resolver: &impl Resolver,
    scheme: &str,
    service: &str,
) -> Result<Vec<String>, String> {
    let mut own = HashMap::new();
    for url in &config.advertise_peer_urls {
        let address = resolver.address(url.host()).map_err(|error| types::os_reason(&error))?;
        own.insert(address, url);
    }
    let asked = |error| format!("error querying DNS SRV records for _{service} {error}");
    let servers = resolver.servers(&format!("_{service}._tcp.{}", config.discovery_srv)).map_err(asked)?;
    let (mut members, mut unnamed, mut last_error) = (Vec::new(), 0, None);
    for server in servers {
        // The name in the record ends with a dot: so nobody adds a domain of his own to it, but not every file
        // of names knows it like that.
        let host = server.target.strip_suffix('.').unwrap_or(&server.target);
        let spellings = [server.target.as_str(), host].map(|name| authority(name, server.port));
        let found = resolver.address(&spellings[0]);
        let address = match found.or_else(|error| resolver.address(&spellings[1]).map_err(|_| error)) {
            Ok(address) => address,
            Err(error) => {
                last_error = Some(types::os_reason(&error));
                continue;
            }
        };
        let url = format!("{scheme}://{}", authority(host, server.port));
        let name = match own.get(&address) {
            Some(expected) if expected.scheme() != scheme => {
                last_error = Some(format!(
                    "bootstrap at {url} from DNS for {service} has scheme mismatch with expected peer {expected}"
                ));
                continue;
            }
            Some(_) => config.name.clone(),
            None => {
                unnamed += 1;
                (unnamed - 1).to_string()
            }
        };
        members.push(format!("{name}={url}"));
    }
    match last_error {
        Some(error) if members.is_empty() => Err(asked(error)),
        _ => Ok(members),
    }
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use dns::Srv;

    use super::*;
    use crate::config::url::Url;

    /// Answers from lists; `m<n>.` has the address 10.0.0.n.
    struct Fixed(Vec<(&'static str, Vec<&'static str>)>);

    impl Resolver for Fixed {
        fn servers(&self, name: &str) -> Result<Vec<Srv>, String> {
            let found = self.0.iter().find(|(listed, _)| *listed == name);
            let (_, targets) = found.ok_or_else(|| format!("lookup {name}: no such host"))?;
            let server = |target: &&str| Srv { priority: 0, weight: 0, port: 2380, target: (*target).into() };
            Ok(targets.iter().map(server).collect())
        }

        fn address(&self, authority: &str) -> io::Result<SocketAddr> {
            let (host, port) = authority.rsplit_once(':').unwrap();
            let number =
                host.trim_end_matches('.').strip_prefix('m').and_then(|rest| rest.parse::<u8>().ok());
            let number = number.ok_or_else(|| io::Error::other(format!("lookup {host}: no such host")))?;
            Ok(([10, 0, 0, number], port.parse().unwrap()).into())
        }
    }

    fn check(records: &[(&'static str, &[&'static str])], own: &str, expected: &str) {
        let resolver = Fixed(records.iter().map(|(name, targets)| (*name, targets.to_vec())).collect());
        let (scheme, host) = own.split_once("://").unwrap();
        let config = Config {
            name: "own".to_owned(),
            discovery_srv: "example.org".to_owned(),
            discovery_srv_name: if records.iter().any(|(name, _)| name.contains("-x.")) { "x" } else { "" }
                .to_owned(),
            advertise_peer_urls: vec![Url::from_parts(scheme, host)],
            ..Config::default()
        };
        let found = ask(&config, &resolver).map_or_else(|error| error.to_string(), |found| found.to_string());
        assert_eq!(found, expected);
    }

    const PLAIN: &str = "_etcd-server._tcp.example.org";
    const SECURE: &str = "_etcd-server-ssl._tcp.example.org";

    #[test]
    fn the_own_record_gets_the_own_name() {
        check(
            &[(PLAIN, &["m1.", "m2.", "m3."])],
            "http://m2:2380",
            "0=http://m1:2380,1=http://m3:2380,own=http://m2:2380",
        );
        check(&[(SECURE, &["m1.", "m2."])], "https://m1:2380", "0=https://m2:2380,own=https://m1:2380");
        check(&[("_etcd-server-x._tcp.example.org", &["m1."])], "http://m1:2380", "own=http://m1:2380");
    }

    #[test]
    fn both_services_are_put_together() {
        let both: [(&str, &[&str]); 2] = [(PLAIN, &["m1.", "m2."]), (SECURE, &["m3."])];
        check(&both, "http://m2:2380", "0=http://m1:2380,0=https://m3:2380,own=http://m2:2380");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let failed = "error setting up initial cluster: error querying DNS SRV records for _etcd-server-ssl lookup \
                      _etcd-server-ssl._tcp.example.org: no such host\nerror querying DNS SRV records for ";
        let nobody = "_etcd-server lookup _etcd-server._tcp.example.org: no such host";
        check(&[], "http://m1:2380", &format!("{failed}{nobody}"));
        check(
            &[(PLAIN, &["q."])],
            "http://m1:2380",
            &format!("{failed}_etcd-server lookup q.: no such host"),
        );
        let mismatch = "_etcd-server bootstrap at http://m1:2380 from DNS for etcd-server has scheme mismatch with \
                        expected peer https://m1:2380";
        check(&[(PLAIN, &["m1."])], "https://m1:2380", &format!("{failed}{mismatch}"));
        check(
            &[(PLAIN, &["m1.", "m2."])],
            "http://m3:2380",
            "error setting up initial cluster: cannot find local etcd member \"own\" in SRV records",
        );
        // A record that leads nowhere does not keep the others out.
        check(&[(PLAIN, &["m1.", "q."])], "http://m1:2380", "own=http://m1:2380");
    }
}
