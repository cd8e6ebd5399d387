//! A name server for programs that find each other by the DNS.
//!
//! A program asks the servers of `/etc/resolv.conf`, so a test starts itself again in namespaces of its own,
//! where port 53 is free and that file is another one. Where the system allows no namespaces the test says so
//! and passes; in CI it fails.

use std::net::UdpSocket;
use std::process::Command;

use anyhow::{Context, ensure};

/// Set in the process inside.
const INSIDE: &str = "RETCD_TEST_NAMESPACE";
const A: u16 = 1;
const SRV: u16 = 33;

/// Runs `inside` where the name server is to be found. `test` is the name of the test that calls this.
pub fn with_own_names(test: &str, inside: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        let dir = tempfile::tempdir()?;
        let resolv = dir.path().join("resolv.conf");
        std::fs::write(&resolv, "nameserver 127.0.0.1\n")?;
        run(&["ip", "link", "set", "lo", "up"])?;
        run(&["mount", "--bind", &resolv.to_string_lossy(), "/etc/resolv.conf"])?;
        return inside();
    }
    let namespaces = ["--user", "--map-root-user", "--net", "--mount"];
    let possible = Command::new("unshare").args(namespaces).args(["ip", "link", "set", "lo", "up"]).status();
    if !possible.is_ok_and(|status| status.success()) {
        ensure!(std::env::var_os("CI").is_none(), "no namespaces here, or no `ip`");
        eprintln!("passed over: no namespaces here");
        return Ok(());
    }
    let status = Command::new("unshare")
        .args(namespaces)
        .arg(std::env::current_exe()?)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status()?;
    ensure!(status.success(), "inside: {status}");
    Ok(())
}

fn run(words: &[&str]) -> anyhow::Result<()> {
    let status = Command::new(words[0]).args(&words[1..]).status()?;
    ensure!(status.success(), "{words:?}: {status}");
    Ok(())
}

/// What the name server knows: `m<n>.<domain>` is this machine, and the services are where they are.
pub struct Zone {
    /// All names end in it.
    pub domain: &'static str,
    /// Names of services without the domain, and for each its records: number of the host, port.
    pub services: Vec<(&'static str, Vec<(usize, u16)>)>,
}

impl Zone {
    /// Answers every question from now on.
    ///
    /// # Errors
    /// The port of name servers is not free.
    pub fn serve(self) -> anyhow::Result<()> {
        let socket = UdpSocket::bind("127.0.0.1:53").context("port 53")?;
        std::thread::spawn(move || {
            let mut bytes = [0; 1500];
            while let Ok((count, from)) = socket.recv_from(&mut bytes) {
                if let Some(answer) = self.answer(&bytes[..count]) {
                    // Who asked may have gone.
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Ok(())
    }

    fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        let (mut at, mut labels) = (12, Vec::new());
        loop {
            let len = usize::from(*query.get(at)?);
            at += 1;
            if len == 0 {
                break;
            }
            labels.push(String::from_utf8_lossy(query.get(at..at + len)?).to_lowercase());
            at += len;
        }
        let name = labels.join(".");
        let kind = u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]);
        let question = query.get(12..at + 4)?;
        let host = name.strip_suffix(&format!(".{}", self.domain));
        let service = self.services.iter().find(|(service, _)| host == Some(*service));
        let mut records = Vec::new();
        let is_known = match (service, host) {
            (Some((_, places)), _) => {
                for (number, port) in places.iter().filter(|_| kind == SRV) {
                    records.push(record(kind, &self.place(*number, *port)));
                }
                true
            }
            (None, Some(host)) if host.starts_with('m') => {
                if kind == A {
                    records.push(record(kind, &[127, 0, 0, 1]));
                }
                true
            }
            _ => false,
        };
        let mut answer = query[..2].to_vec();
        answer.extend([0x81, if is_known { 0x80 } else { 0x83 }, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
        answer.extend(question);
        answer.extend(records.concat());
        Some(answer)
    }

    /// The data of an SRV record.
    fn place(&self, number: usize, port: u16) -> Vec<u8> {
        let mut data = vec![0, 0, 0, 0];
        data.extend(port.to_be_bytes());
        for label in format!("m{number}.{}", self.domain).split('.') {
            data.push(label.len() as u8);
            data.extend(label.as_bytes());
        }
        data.push(0);
        data
    }
}

/// A record for the name of the question.
fn record(kind: u16, data: &[u8]) -> Vec<u8> {
    let mut record = vec![0xc0, 12];
    record.extend(kind.to_be_bytes());
    record.extend([0, 1, 0, 0, 0, 9]);
    record.extend((data.len() as u16).to_be_bytes());
    record.extend(data);
    record
}
