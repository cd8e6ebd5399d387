//! `etcd gateway start`: where to, and whether that makes sense.
//!
//! Faults of addresses go to standard output, as etcd has it.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::process::exit;
use std::time::Duration;

use cli::Flags;
use proxy::discover::{Found, Question, discover};
use proxy::gateway::{Endpoint, Gateway};
use server::{listen, log, systemd};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

use super::{fail, log_from};

/// A target: host, port, and what an SRV record says of it.
struct Target {
    host: String,
    port: u16,
    priority: u16,
    weight: u16,
}

pub fn start(words: &[String], flags: &Flags) -> ! {
    log_from(log::Level::Info);
    log::info!("Running: ", "args" => words);
    let runtime = match Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => fail(error),
    };
    let targets = targets(&runtime, flags);
    let listen = flags.text("listen-addr");
    check(&targets, &listen);
    let bound = runtime.block_on(async { bind(&listen) });
    let listener = match bound {
        Ok(listener) => listener,
        Err(error) => fail(format!("listen tcp {listen}: bind: {}", tls::explain(&error))),
    };
    let interval = flags.duration("retry-delay");
    serve(&runtime, targets, interval, listener)
}

/// Inside of a runtime.
fn bind(address: &str) -> io::Result<TcpListener> {
    let listener = listen::tcp(address, listen::Options::default())?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

fn serve(runtime: &Runtime, targets: Vec<Target>, interval: Duration, listener: TcpListener) -> ! {
    let endpoints = targets.into_iter().map(|target| Endpoint {
        priority: target.priority,
        weight: target.weight,
        ..Endpoint::new(&target.host, target.port)
    });
    let gateway = Gateway::new(endpoints.collect(), interval);
    systemd::notify_ready();
    runtime.block_on(async {
        gateway.run(listener).await;
        std::future::pending().await
    })
}

/// The discovered targets, else those of `--endpoints`.
fn targets(runtime: &Runtime, flags: &Flags) -> Vec<Target> {
    let question = Question {
        domain: flags.text("discovery-srv"),
        service_name: flags.text("discovery-srv-name"),
        insecure: flags.bool("insecure-discovery"),
        ca_file: flags.text("trusted-ca-file"),
    };
    let found = match runtime.block_on(discover(&question)) {
        Ok(found) => found,
        Err(error) => fail(error),
    };
    if !found.is_empty() {
        let target = |Found { record, .. }: Found| Target {
            host: record.target,
            port: record.port,
            priority: record.priority,
            weight: record.weight,
        };
        return found.into_iter().map(target).collect();
    }
    let endpoints = flags.list("endpoints");
    endpoints.iter().map(|text| target(without_scheme(text))).collect()
}

/// The host of a URL; what is none stays as it is.
fn without_scheme(text: &str) -> &str {
    match text.split_once("://") {
        Some((_, rest)) => rest.split(['/', '?', '#']).next().filter(|host| !host.is_empty()).unwrap_or(text),
        None => text,
    }
}

fn target(endpoint: &str) -> Target {
    let Some((host, port)) = split(endpoint) else {
        print!("error parsing endpoint {endpoint:?}");
        let _ = std::io::Write::flush(&mut std::io::stdout());
        exit(1)
    };
    // A port without a number leads nowhere, which shows when it is connected to.
    let port = port.parse().unwrap_or(0);
    Target { host: host.to_owned(), port, priority: 0, weight: 0 }
}

/// `host:port`, the host without brackets.
fn split(text: &str) -> Option<(&str, &str)> {
    let (host, port) = text.rsplit_once(':')?;
    match host.strip_prefix('[') {
        Some(inner) => Some((inner.strip_suffix(']')?, port)),
        None if host.contains(':') => None,
        None => Some((host, port)),
    }
}

/// Refuses what cannot work: names without an address, and a gateway that leads to itself.
fn check(targets: &[Target], listen: &str) {
    let Some((host, port)) = split(listen) else {
        refuse(&format!("failed to validate listen address: {listen}"))
    };
    let Some(own) = resolve(host) else { refuse(&format!("failed to resolve listen host: {host}")) };
    for target in targets {
        let name = &target.host;
        let Some(addresses) = resolve(name) else {
            refuse(&format!("failed to resolve endpoint host: {name}"))
        };
        if target.port.to_string() != port {
            continue;
        }
        if let Some(address) = addresses.intersection(&own).next() {
            let port = target.port;
            refuse(&format!(
                "SRV or endpoint ({name}:{port}->{address}:{port}) should not resolve to the gateway listen addr ({listen})"
            ));
        }
    }
    if targets.is_empty() {
        refuse("no endpoints found");
    }
}

fn refuse(text: &str) -> ! {
    println!("{text}");
    exit(1)
}

fn resolve(host: &str) -> Option<HashSet<IpAddr>> {
    if host.is_empty() {
        return None;
    }
    let addresses = (host, 0).to_socket_addrs().ok()?;
    Some(addresses.map(|address| address.ip()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_taken_apart() {
        assert_eq!(without_scheme("https://a:1/x"), "a:1");
        assert_eq!(without_scheme("a:1"), "a:1");
        assert_eq!(split("a:1"), Some(("a", "1")));
        assert_eq!(split("[::1]:1"), Some(("::1", "1")));
        assert_eq!(split("::1:1"), None);
        assert_eq!(split("a"), None);
    }
}
