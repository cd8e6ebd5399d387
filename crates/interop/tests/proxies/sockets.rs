//! What stands behind the calls: who is still there is looked at, and profiles are served.

use std::net::TcpStream;

use super::*;
use interop::caller::holds;
use interop::member::free_port;

/// Sockets of a process that are connected: local port, remote port, whether a timer for silence runs.
fn connected(process: u32) -> anyhow::Result<Vec<(u16, u16, bool)>> {
    const ESTABLISHED: &str = "01";
    const KEEPALIVE: &str = "02";
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    let rows = table.lines().skip(1).filter_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let port = |word: &str| u16::from_str_radix(word.rsplit_once(':')?.1, 16).ok();
        let (local, remote) = (port(words.get(1)?)?, port(words.get(2)?)?);
        let inode = words.get(9)?.parse().ok()?;
        let is_ours = *words.get(3)? == ESTABLISHED && holds(process, inode);
        is_ours.then_some((local, remote, words.get(5)?.starts_with(KEEPALIVE)))
    });
    Ok(rows.collect())
}

/// A member or a client that is gone without a word was noticed by nobody.
#[test]
fn silence_is_probed_on_both_sides() -> anyhow::Result<()> {
    let member = Member::start(&our_program(), &[])?;
    let port_of =
        |authority: String| anyhow::Ok(authority.rsplit_once(':').context("a port")?.1.parse::<u16>()?);
    let upstream = port_of(member.authority())?;
    for kind in ["gateway", "grpc-proxy"] {
        let front = Front::start(&our_program(), kind, &[member.authority()], &[])?;
        let own = port_of(front.authority())?;
        let _caller = TcpStream::connect(front.authority())?;
        // While bytes are under way another timer runs.
        eventually(&format!("{kind} probes both sides"), || {
            let sockets = connected(front.pid())?;
            let probes = |side: fn(&(u16, u16, bool)) -> u16, port: u16| {
                let mut side = sockets.iter().filter(|socket| side(socket) == port).peekable();
                side.peek().is_some() && side.all(|(_, _, probed)| *probed)
            };
            Ok(probes(|(local, ..)| *local, own) && probes(|(_, remote, _)| *remote, upstream))
        })?;
    }
    Ok(())
}

#[test]
fn profiles_are_served_where_they_were_asked_for() -> anyhow::Result<()> {
    let member = Member::start(&our_program(), &[])?;
    let metrics = format!("127.0.0.1:{}", free_port()?);
    let front = proxy(&[&member], &["--enable-pprof", &format!("--metrics-addr=http://{metrics}")])?;
    let page = |authority: &str, path: &str| http::request(authority, "GET", path, &[], "");
    eventually("the metrics are served", || Ok(TcpStream::connect(&metrics).is_ok()))?;
    let index = page(&front.authority(), "/debug/pprof/")?;
    ensure!(index.status == 200 && String::from_utf8_lossy(&index.body).contains("goroutine"), "{index:?}");
    let words = page(&front.authority(), "/debug/pprof/cmdline")?;
    ensure!(String::from_utf8_lossy(&words.body).contains("grpc-proxy\0start"), "{words:?}");
    let profile = page(&front.authority(), "/debug/pprof/profile?seconds=1")?;
    ensure!(profile.status == 200 && profile.body.starts_with(&[0x1f, 0x8b]), "{}", profile.status);
    ensure!(page(&front.authority(), "/debug/requests")?.status == 404);
    ensure!(page(&metrics, "/debug/pprof/")?.status == 404);
    ensure!(page(&metrics, "/proxy/metrics")?.status == 200);
    ensure!(
        front.log().contains(r#""msg":"gRPC proxy enabled pprof","path":"/debug/pprof""#),
        "{}",
        front.log()
    );
    let plain = proxy(&[&member], &[])?;
    ensure!(page(&plain.authority(), "/debug/pprof/")?.status == 404);
    Ok(())
}
