//! Members that find each other by the DNS.
//!
//! The test starts itself again in namespaces of its own, where port 53 is free and `/etc/resolv.conf` is
//! another file; a name server in the test answers. Where the system allows no namespaces it says so and
//! passes.

use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use interop::cluster::ctl;
use interop::member::Member;
use interop::programs::{Program, subject, yardstick};

use crate::said;

/// Set in the process inside.
const INSIDE: &str = "RETCD_TEST_NAMESPACE";
const DOMAIN: &str = "retcd.test";

#[test]
fn members_find_each_other_by_the_dns() -> anyhow::Result<()> {
    if std::env::var_os(INSIDE).is_some() {
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
        .args(["--exact", "names::members_find_each_other_by_the_dns", "--nocapture"])
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

fn inside() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let resolv = dir.path().join("resolv.conf");
    std::fs::write(&resolv, "nameserver 127.0.0.1\n")?;
    run(&["ip", "link", "set", "lo", "up"])?;
    run(&["mount", "--bind", &resolv.to_string_lossy(), "/etc/resolv.conf"])?;

    let programs = [subject(), yardstick(), subject()];
    let mut members = Vec::new();
    for (number, program) in programs.iter().enumerate() {
        members.push(member(program, &dir.path().join(format!("n{number}")), number)?);
    }
    let ports: Vec<u16> = members.iter().map(|(_, port)| *port).collect();
    // A port of somebody who is not among them.
    let socket = UdpSocket::bind("127.0.0.1:53").context("port 53")?;
    std::thread::spawn(move || answer_all(&socket, &ports));

    for (member, _) in &mut members {
        member.add_args(&["--discovery-srv", DOMAIN, "--discovery-srv-name", "club"]);
        member.spawn()?;
    }
    for (member, _) in &mut members {
        member.wait_serving()?;
    }
    for (number, (member, _)) in members.iter().enumerate() {
        ctl(member).run(&["put", &format!("k{number}"), "v"])?.success()?;
        let list = ctl(member).run(&["member", "list"])?.success()?;
        ensure!(list.lines().count() == 3, "{list}");
        for other in 0..3 {
            ensure!(list.contains(&format!("http://m{other}.{DOMAIN}:")), "{list}");
            ensure!(list.contains(&format!(", n{other}, ")), "names are published: {list}");
        }
    }
    let found = said(&members[0].0, "get cluster for etcd-server SRV");
    ensure!(found[0]["service-name"] == "etcd-server-club", "{found:?}");
    ensure!(found[0]["found-cluster"].as_array().is_some_and(|found| found.len() == 3), "{found:?}");
    ensure!(said(&members[0].0, "got bootstrap from DNS for etcd-server").len() == 3, "one for each");

    // What is wrong is said in the same words.
    for (domain, wanted) in [
        (DOMAIN, "cannot find local etcd member \"n7\" in SRV records"),
        (
            "nowhere.test",
            "error querying DNS SRV records for _etcd-server-club lookup _etcd-server-club._tcp.nowhere.test",
        ),
    ] {
        for program in &programs[..2] {
            let (mut stranger, _) =
                member(program, &dir.path().join(format!("{domain}-{}", program.args.len())), 7)?;
            stranger.add_args(&["--discovery-srv", domain, "--discovery-srv-name", "club"]);
            stranger.spawn()?;
            let status = stranger.wait_end(Duration::from_secs(20))?;
            ensure!(status.code() == Some(1), "{status}");
            let failed = said(&stranger, "discovery failed");
            let error = failed.last().and_then(|record| record["error"].as_str()).unwrap_or_default();
            ensure!(error.starts_with("error setting up initial cluster: "), "{error}");
            ensure!(error.contains(wanted), "{}: {error}", program.path.display());
        }
    }
    Ok(())
}

/// A member `n<number>` that is reached as `m<number>`, and its peer port.
fn member(program: &Program, dir: &std::path::Path, number: usize) -> anyhow::Result<(Member, u16)> {
    let mut member = Member::prepare(program, &[], dir)?;
    member.discover();
    let port: u16 = member.peer_authority().rsplit(':').next().context("a port")?.parse()?;
    let url = format!("http://m{number}.{DOMAIN}:{port}");
    member.add_args(&["--name", &format!("n{number}"), "--initial-advertise-peer-urls", &url]);
    Ok((member, port))
}

/// Answers every question: `m<n>` is this machine, the service has a record for each port.
fn answer_all(socket: &UdpSocket, ports: &[u16]) {
    let mut bytes = [0; 1500];
    while let Ok((count, from)) = socket.recv_from(&mut bytes) {
        if let Some(answer) = answer(&bytes[..count], ports) {
            let _ = socket.send_to(&answer, from);
        }
    }
}

const A: u16 = 1;
const SRV: u16 = 33;

fn answer(query: &[u8], ports: &[u16]) -> Option<Vec<u8>> {
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
    let host = name.strip_suffix(&format!(".{DOMAIN}"));
    let record = |data: &[u8]| {
        let mut record = vec![0xc0, 12];
        record.extend(kind.to_be_bytes());
        record.extend([0, 1, 0, 0, 0, 9]);
        record.extend((data.len() as u16).to_be_bytes());
        record.extend(data);
        record
    };
    let mut records = Vec::new();
    let is_known = match host {
        Some("_etcd-server-club._tcp") => {
            for (number, port) in ports.iter().enumerate().filter(|_| kind == SRV) {
                let mut data = vec![0, 0, 0, 0];
                data.extend(port.to_be_bytes());
                for label in format!("m{number}.{DOMAIN}").split('.') {
                    data.push(label.len() as u8);
                    data.extend(label.as_bytes());
                }
                data.push(0);
                records.push(record(&data));
            }
            true
        }
        Some(host) if host.starts_with('m') => {
            if kind == A {
                records.push(record(&[127, 0, 0, 1]));
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
