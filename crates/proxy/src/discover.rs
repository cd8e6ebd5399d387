//! Endpoints from the DNS: `--discovery-srv` of the gateway and of the proxy.
//!
//! Unless told otherwise only those endpoints count that are encrypted by their record and accept a
//! connection; none may be left. Whose certificate they show is looked at by whoever talks to them, as in
//! etcd, which dials no further either.
//!
//! **Source**: etcd `server/etcdmain/util.go`, `client/pkg/srv`, `client/pkg/transport/tls.go`.

use std::sync::Arc;
use std::time::Duration;

use client::DiscoverError;
use dns::Srv;
use server::log;
use tokio::net::TcpStream;

/// Patience with one endpoint that is tried.
const DIAL: Duration = Duration::from_secs(5);

/// What to ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// `--discovery-srv`; nothing is asked if it is empty.
    pub domain: String,
    /// `--discovery-srv-name`.
    pub service_name: String,
    /// `--insecure-discovery`: take the records as they are.
    pub insecure: bool,
    /// CAs of discovered endpoints: the file has to be good.
    pub ca_file: String,
}

/// One endpoint: as a URL, and as its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// `https://host:port` or `http://host:port`.
    pub url: String,
    /// Where it came from.
    pub record: Srv,
}

/// Asks, and tries the endpoints.
///
/// # Errors
/// Neither of the two services is known.
pub async fn discover(question: &Question) -> Result<Vec<Found>, DiscoverError> {
    if question.domain.is_empty() {
        return Ok(Vec::new());
    }
    let (domain, suffix) = (&question.domain, &question.service_name);
    let suffix = if suffix.is_empty() { String::new() } else { format!("-{suffix}") };
    let secure = dns::srv(&format!("_etcd-client-ssl{suffix}._tcp.{domain}")).await;
    let plain = dns::srv(&format!("_etcd-client{suffix}._tcp.{domain}")).await;
    let found = match (secure, plain) {
        (Err(secure), Err(plain)) => {
            return Err(DiscoverError { secure: secure.to_string(), plain: plain.to_string() });
        }
        (secure, plain) => merge(secure.unwrap_or_default(), plain.unwrap_or_default()),
    };
    let urls: Vec<String> = found.iter().map(|found| found.url.clone()).collect();
    log::info!("discovered cluster from SRV", "srv-server" => domain, "endpoints" => &urls);
    if question.insecure {
        return Ok(found);
    }
    log::info!("validating discovered SRV endpoints", "srv-server" => domain, "endpoints" => &urls);
    let (good, faults) = validate(question, found).await;
    let urls: Vec<String> = good.iter().map(|found| found.url.clone()).collect();
    if faults.is_empty() {
        log::info!("using validated discovered SRV endpoints", "srv-server" => domain, "endpoints" => &urls);
    } else {
        log::warn!(
            "failed to validate discovered endpoints",
            "srv-server" => domain,
            "endpoints" => &urls,
            "error" => faults.join(",")
        );
    }
    Ok(good)
}

fn merge(secure: Vec<Srv>, plain: Vec<Srv>) -> Vec<Found> {
    let mut all = Vec::new();
    for (scheme, mut records) in [("https", secure), ("http", plain)] {
        records.sort_by_key(|record| (record.priority, u16::MAX - record.weight));
        all.extend(records.into_iter().map(|record| Found {
            url: format!("{scheme}://{}", host_and_port(&record.target, record.port)),
            record,
        }));
    }
    all
}

fn host_and_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

async fn validate(question: &Question, found: Vec<Found>) -> (Vec<Found>, Vec<String>) {
    let settings = tls::Settings { trusted_ca_file: question.ca_file.clone(), ..tls::Settings::default() };
    if let Err(error) = tls::Connector::new(&settings, &[], Arc::new(|_| {})) {
        return (Vec::new(), vec![error.to_string()]);
    }
    let (mut good, mut faults) = (Vec::new(), Vec::new());
    for found in found {
        let Some(address) = found.url.strip_prefix("https://") else {
            faults.push(format!("{:?} is insecure", found.url));
            continue;
        };
        let fault = |reason: &str| format!("{:?} failed to dial (dial tcp {address}: {reason})", found.url);
        match tokio::time::timeout(DIAL, TcpStream::connect(address)).await {
            Ok(Ok(_)) => good.push(found),
            Ok(Err(error)) => faults.push(fault(&format!("connect: {}", tls::explain(&error)))),
            Err(_) => faults.push(fault("i/o timeout")),
        }
    }
    (good, faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encrypted_endpoints_come_first_and_the_better_record_before_the_worse() {
        let record =
            |priority, weight, host: &str| Srv { priority, weight, target: host.to_owned(), port: 2379 };
        let found =
            merge(vec![record(1, 0, "s")], vec![record(2, 9, "c"), record(1, 1, "b"), record(1, 5, "a")]);
        let urls: Vec<_> = found.iter().map(|found| found.url.as_str()).collect();
        assert_eq!(urls, ["https://s:2379", "http://a:2379", "http://b:2379", "http://c:2379"]);
    }
}
