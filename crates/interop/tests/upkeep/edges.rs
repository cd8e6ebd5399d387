//! Where a member meets the system and other programs: locks, the service manager, what it
//! says about its health, and whether the real tools take its files for good.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use interop::cluster::{ctl, eventually};
use interop::http;
use interop::member::{Member, free_port};
use interop::programs::{ours, real, subject};
use interop::utl::Utl;

use crate::said;

/// Killed on drop.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn db(member: &Member) -> PathBuf {
    member.data_dir().join("member/snap/db")
}

/// Whether another program gets the lock of a file at once.
fn can_lock(path: &Path) -> anyhow::Result<bool> {
    Ok(Command::new("flock").args(["-x", "-n"]).arg(path).arg("true").status()?.success())
}

#[test]
fn locks_hold_against_other_programs() -> anyhow::Result<()> {
    let mut member = Member::start(&subject(), &[])?;
    let db = db(&member);
    ensure!(!can_lock(&db)?, "the database of a member that runs is locked");
    member.stop()?;
    ensure!(can_lock(&db)?, "and no longer");
    // The other way round: the member waits for whoever holds it.
    let mut holder = Command::new("flock");
    holder.arg("-x").arg(&db).args(["sh", "-c", "echo held; exec cat"]);
    let mut holder = Running(holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
    let mut held = [0; 5];
    std::io::Read::read_exact(holder.0.stdout.as_mut().context("its output")?, &mut held)?;
    member.spawn()?;
    eventually("it says what it waits for", || {
        member.check_alive()?;
        Ok(!said(&member, "db file is flocked by another process, or taking too long").is_empty())
    })?;
    drop(holder);
    member.wait_serving()
}

/// The tools of the real one on our file, and the checks of bbolt that they make.
#[test]
fn real_tools_read_our_database() -> anyhow::Result<()> {
    let mut member = Member::start(&subject(), &[])?;
    for number in 0..200 {
        ctl(&member).run(&["put", &format!("k{}", number % 50), &"v".repeat(number * 10)])?.success()?;
    }
    ctl(&member).run(&["compact", "100"])?.success()?;
    ctl(&member).run(&["del", "k7"])?.success()?;
    member.stop()?;
    let dir = member.dir();
    std::fs::copy(db(&member), dir.join("copy.db"))?;
    let run = |program: PathBuf, words: &[&str]| Utl { program }.run(dir, words);
    let mut questions = vec![("3.5", vec!["snapshot", "status", "copy.db", "-w", "json"])];
    if cfg!(feature = "newest") {
        questions.push(("3.7", vec!["hashkv", "copy.db", "-w", "json"]));
    }
    for (version, words) in questions {
        let (ours, theirs) = (run(ours("etcdutl"), &words)?, run(real(version, "etcdutl"), &words)?);
        ensure!(theirs.code == 0, "{words:?}: {theirs:?}");
        let value = |text: &str| -> anyhow::Result<serde_json::Value> { Ok(serde_json::from_str(text)?) };
        let (ours, theirs) = (value(&ours.stdout)?, value(&theirs.stdout)?);
        for (name, value) in theirs.as_object().context("an object")? {
            ensure!(ours[name] == *value, "{words:?}: {ours} and {theirs}");
        }
    }
    Ok(())
}

/// A log from before what the database holds: etcd starts and loses what it had acknowledged.
#[test]
fn a_database_ahead_of_the_log_is_refused() -> anyhow::Result<()> {
    let mut member = Member::start(&subject(), &[])?;
    ctl(&member).run(&["put", "a", "1"])?.success()?;
    member.stop()?;
    let (wal, old) = (member.data_dir().join("member/wal"), member.dir().join("old"));
    let copy = |from: &Path, to: &Path| -> anyhow::Result<()> {
        ensure!(Command::new("cp").arg("-a").args([from, to]).status()?.success(), "cp");
        Ok(())
    };
    copy(&wal, &old)?;
    member.run()?;
    for number in 0..20 {
        ctl(&member).run(&["put", "a", &number.to_string()])?.success()?;
    }
    member.stop()?;
    std::fs::remove_dir_all(&wal)?;
    copy(&old, &wal)?;
    member.spawn()?;
    let status = member.wait_end(Duration::from_secs(20))?;
    ensure!(status.code() == Some(1), "{status}");
    ensure!(member.log_tail().contains("but the log ends at"), "{}", member.log_tail());
    Ok(())
}

/// One datagram, when the member serves.
#[test]
fn the_service_manager_hears_that_it_is_ready() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path)?;
    manager.set_read_timeout(Some(Duration::from_secs(60)))?;
    let (client, peer) =
        (format!("http://127.0.0.1:{}", free_port()?), format!("http://127.0.0.1:{}", free_port()?));
    let mut command = Command::new(ours("etcd"));
    command.arg("--data-dir").arg(dir.path().join("data"));
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("default={peer}")]);
    command.env("NOTIFY_SOCKET", &path).stdout(Stdio::null()).stderr(Stdio::null());
    let member = Running(command.spawn()?);
    let mut buffer = [0; 256];
    let length = manager.recv(&mut buffer).context("nothing was said")?;
    ensure!(
        buffer[..length].trim_ascii_end() == b"READY=1",
        "{:?}",
        String::from_utf8_lossy(&buffer[..length])
    );
    let authority = client.trim_start_matches("http://");
    ensure!(http::request(authority, "GET", "/health", &[], "")?.status == 200, "it serves by then");
    drop(member);
    manager.set_nonblocking(true)?;
    ensure!(manager.recv(&mut buffer).is_err(), "and nothing else");
    Ok(())
}

#[test]
fn an_unhealthy_member_says_why() -> anyhow::Result<()> {
    let member = Member::start(&subject(), &[])?;
    let get =
        |path: &str| Ok::<_, anyhow::Error>(http::request(&member.authority(), "GET", path, &[], "")?.status);
    ensure!(get("/health")? == 200 && get("/readyz")? == 200);
    let raise = r#"{"action":"ACTIVATE","alarm":"CORRUPT"}"#;
    let raised = http::request(&member.authority(), "POST", "/v3/maintenance/alarm", &[], raise)?;
    ensure!(raised.status == 200, "{raised:?}");
    ensure!(get("/health")? == 503 && get("/readyz")? == 503);
    for message in ["serving /health false due to an alarm", "/health error", "Health check error"] {
        eventually(message, || Ok(!said(&member, message).is_empty()))?;
    }
    Ok(())
}

/// A data directory that everybody may read.
#[test]
fn the_start_warns_of_permissions() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut member = Member::prepare(&subject(), &[], dir.path())?;
    std::fs::create_dir(member.data_dir())?;
    std::fs::set_permissions(member.data_dir(), std::fs::Permissions::from_mode(0o755))?;
    member.run()?;
    let warned = said(&member, "check file permission");
    ensure!(
        warned.iter().any(|record| record["error"].as_str().is_some_and(|text| text.contains("drwxr-xr-x"))),
        "{warned:?}"
    );
    Ok(())
}

/// Counters begin at zero with the process.
#[test]
fn counters_are_reset_by_a_start() -> anyhow::Result<()> {
    let mut member = Member::start(&subject(), &[])?;
    let puts = |member: &Member| -> anyhow::Result<f64> {
        let page = http::request(&member.authority(), "GET", "/metrics", &[], "")?.body;
        let page = String::from_utf8_lossy(&page).into_owned();
        let line = page.lines().find_map(|line| line.strip_prefix("etcd_mvcc_put_total "));
        Ok(line.context("no such counter")?.parse()?)
    };
    for _ in 0..3 {
        ctl(&member).run(&["put", "a", "1"])?.success()?;
    }
    ensure!(puts(&member)? == 3.0);
    member.stop()?;
    member.run()?;
    ensure!(puts(&member)? == 0.0, "a start begins anew");
    ctl(&member).run(&["put", "a", "1"])?.success()?;
    ensure!(puts(&member)? == 1.0);
    Ok(())
}
