//! Listeners for HTTP alone, encrypted.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use interop::cluster::eventually;
use interop::member::{Member, free_port};
use interop::programs::{Program, subject, yardstick};
use tls::authority::{Authority, Leaf};

/// What a path answers over TLS.
fn get(address: &str, ca: &str, path: &str) -> anyhow::Result<String> {
    let mut child = Command::new("openssl")
        .args(["s_client", "-quiet", "-verify_return_error", "-ign_eof", "-connect", address, "-CAfile", ca])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    child.stdin.take().context("its input")?.write_all(request.as_bytes())?;
    Ok(String::from_utf8_lossy(&child.wait_with_output()?.stdout).into_owned())
}

#[test]
fn metrics_and_http_are_served_over_tls() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("ca")?;
    let ca = authority.write(dir.path(), "ca")?;
    let issued = authority.issue(&Leaf::new("member", &["127.0.0.1"]))?;
    let (cert, key) = issued.write(dir.path(), "member")?;
    let check = |program: &Program| -> anyhow::Result<Vec<String>> {
        let mut member = Member::prepare(program, &[], &dir.path().join(program.args.len().to_string()))?;
        let (http, metrics) = (format!("127.0.0.1:{}", free_port()?), format!("127.0.0.1:{}", free_port()?));
        member.add_args(&["--listen-client-http-urls", &format!("https://{http}")]);
        member.add_args(&["--listen-metrics-urls", &format!("https://{metrics}")]);
        member.add_args(&["--cert-file", &cert, "--key-file", &key]);
        member.spawn()?;
        eventually("it serves", || Ok(get(&http, &ca, "/health")?.contains("\"health\":\"true\"")))?;
        let mut seen = Vec::new();
        for (address, path) in
            [(&http, "/version"), (&http, "/health"), (&metrics, "/health"), (&metrics, "/version")]
        {
            let answer = get(address, &ca, path)?;
            let (head, body) = answer.split_once("\r\n\r\n").context("an answer")?;
            seen.push(format!("{path} {} {}", head.lines().next().unwrap_or_default(), body.trim()));
        }
        ensure!(get(&metrics, &ca, "/metrics")?.contains("\netcd_server_has_leader 1"), "metrics");
        Ok(seen)
    };
    let (ours, theirs) = (check(&subject())?, check(&yardstick())?);
    ensure!(ours == theirs, "ours {ours:?}\ntheirs {theirs:?}");
    Ok(())
}
