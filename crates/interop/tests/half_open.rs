//! Connections that are opened and then say nothing, or not enough: more of them than the member
//! may have descriptors. Who has something to ask is served all the same, and memory stays bounded.
//!
//! `RETCD_HALF_OPEN=19000` opens that many and leaves the member the limit that this process has, which
//! must be above that.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use anyhow::{Context, ensure};
use bench::wire::{Channel, Method};
use interop::block_on;
use interop::ctl::Ctl;
use interop::member::Member;
use interop::programs::{ours, subject};
use proto::etcdserverpb::{PutRequest, PutResponse};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tls::authority::{Authority, Leaf};

/// Descriptors of the member.
const MEMBER_DESCRIPTORS: u64 = 700;
/// Connections to it.
const HALF_OPEN: usize = 2_500;
/// Resident memory that one connection may cost, and what serving costs besides.
const BYTES_PER_CONNECTION: u64 = 40 << 10;
const BYTES_BESIDES: u64 = 64 << 20;
/// How many stand open between two requests of somebody honest.
const STRIDE: usize = 250;

/// The first half of a client's first message.
const HALF_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03half of it";

fn resident(member: &Member) -> anyhow::Result<u64> {
    let pid = member.pid().context("the member runs")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kib << 10)
}

fn set_descriptors(current: u64) -> anyhow::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit { current: Some(current), maximum: maximum.map(|maximum| maximum.max(current)) };
    setrlimit(Resource::Nofile, raised).with_context(|| format!("{current} descriptors are not to be had"))
}

fn encrypted_member(dir: &Path) -> anyhow::Result<Member> {
    let authority = Authority::new("ca")?;
    let (cert, key) = authority.issue(&Leaf::new("server", &["127.0.0.1"]))?.write(dir, "server")?;
    let ca = authority.write(dir, "ca")?;
    bench::wire::encrypt(&tls::Settings { trusted_ca_file: ca, ..tls::Settings::default() })?;
    let mut member = Member::prepare(&subject(), &[], &dir.join("member"))?;
    let url = format!("https://{}", member.authority());
    member.add_args(&["--listen-client-urls", &url, "--advertise-client-urls", &url]);
    member.add_args(&["--cert-file", &cert, "--key-file", &key]);
    member.spawn()?;
    member.wait_serving()?;
    Ok(member)
}

async fn put(channel: &mut Channel, method: &Method) -> anyhow::Result<()> {
    let request = PutRequest { key: "a".into(), value: "b".into(), ..Default::default() };
    channel.call::<PutResponse>(method, &request).await?;
    Ok(())
}

#[test]
fn half_open_connections_make_room() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let many = std::env::var("RETCD_HALF_OPEN").ok().map(|count| count.parse::<usize>()).transpose()?;
    let count = many.unwrap_or(HALF_OPEN);
    let usual = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let member_limit = if many.is_some() { usual } else { MEMBER_DESCRIPTORS };
    // A child inherits the limit of the moment it is started.
    set_descriptors(member_limit)?;
    let member = encrypted_member(dir.path())?;
    set_descriptors(usual)?;
    let authority = member.authority();
    let ca = dir.path().join("ca.crt");
    let tool = Ctl { program: ours("etcdctl"), endpoint: format!("https://{authority}") };
    block_on(async {
        let method = Method::new(&authority, "/etcdserverpb.KV/Put")?;
        let mut steady = Channel::connect(&authority).await?;
        put(&mut steady, &method).await?;
        let idle = resident(&member)?;
        let mut open = Vec::with_capacity(count);
        for number in 0..count {
            let mut socket = TcpStream::connect(&authority).context("a connection is not taken")?;
            if number % 2 == 1 {
                // Its place may already have been given to somebody else.
                let _ = socket.write_all(HALF_HELLO);
            }
            open.push(socket);
            if number % STRIDE == STRIDE - 1 {
                put(&mut steady, &method).await.context("who was there before is no longer served")?;
                let mut fresh = Channel::connect(&authority).await.context("nobody new is let in")?;
                put(&mut fresh, &method).await.context("somebody new is not served")?;
                let grown = resident(&member)?.saturating_sub(idle);
                let allowed = BYTES_BESIDES + BYTES_PER_CONNECTION * open.len() as u64;
                ensure!(grown <= allowed, "{grown} bytes for {} connections", open.len());
            }
        }
        let grown = resident(&member)?.saturating_sub(idle);
        println!("{count} connections, {} KiB more resident", grown >> 10);
        // Whoever came first and said nothing has made room, where there was none for all.
        if count as u64 > member_limit {
            let mut answer = [0; 64];
            let first = open.first_mut().context("there is one")?;
            ensure!(matches!(first.read(&mut answer), Ok(0) | Err(_)), "the first one is still there");
        }
        anyhow::Ok(())
    })?;
    let shown = format!("--cacert={}", ca.display());
    ensure!(tool.run(&[&shown, "get", "a", "--print-value-only"])?.success()?.trim() == "b");
    Ok(())
}
