//! Real client libraries, and the official `etcdctl` of two releases, against the server.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use interop::clients::Client;
use interop::ctl::{Ctl, Ran};
use interop::member::Member;
use interop::programs::{real, subject};

fn run(client: &Client) -> anyhow::Result<()> {
    client.run(&mut Member::start(&subject(), &[])?)
}

#[test]
fn python_aetcd() -> anyhow::Result<()> {
    run(&Client::python()?)
}

#[test]
fn python_etcd3gw() -> anyhow::Result<()> {
    run(&Client::python_gateway()?)
}

#[test]
fn node_etcd3() -> anyhow::Result<()> {
    run(&Client::node()?)
}

#[test]
fn rust_etcd_client() -> anyhow::Result<()> {
    run(&Client::rust()?)
}

#[test]
fn etcdctl_3_5() -> anyhow::Result<()> {
    etcdctl("3.5")
}

#[test]
fn etcdctl_3_4() -> anyhow::Result<()> {
    etcdctl("3.4")
}

/// A tool that runs on until it is killed: watch, lock, elect.
struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Running {
    fn start(ctl: &Ctl, args: &[&str]) -> anyhow::Result<Self> {
        let mut child = Command::new(&ctl.program)
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &ctl.endpoint])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        Ok(Self { child, lines })
    }

    fn say(&mut self, line: &str) -> anyhow::Result<()> {
        writeln!(self.child.stdin.as_mut().context("no stdin")?, "{line}")?;
        Ok(())
    }

    /// The next lines; a tool that prints nothing more is stopped by the test runner's own limit.
    fn expect(&mut self, expected: &[&str]) -> anyhow::Result<()> {
        for expected in expected {
            let line = self.lines.next().context("the tool ended")??;
            ensure!(line == *expected, "{line:?} instead of {expected:?}");
        }
        Ok(())
    }

    fn interrupt(&mut self) -> anyhow::Result<()> {
        let pid =
            rustix::process::Pid::from_raw(self.child.id() as i32).context("process id out of range")?;
        rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn etcdctl(version: &str) -> anyhow::Result<()> {
    let mut member = Member::start(&subject(), &[])?;
    let ctl = Ctl { program: real(version, "etcdctl"), endpoint: member.client_url() };
    let ok = |args: &[&str]| ctl.run(args).and_then(Ran::success);
    ensure!(ok(&["put", "k", "v"])? == "OK\n");
    // In these 3.4 puts the whole URL where HTTP/2 wants a host.
    let status = ok(&["endpoint", "status"])?;
    ensure!(status.contains(&ctl.endpoint), "{status}");
    ok(&["endpoint", "hashkv"])?;
    ok(&["defrag"])?;
    ensure!(ok(&["get", "k"])? == "k\nv\n");
    ensure!(ok(&["put", "k", "w", "--prev-kv"])? == "OK\nk\nv\n");
    ensure!(ok(&["del", "k"])? == "1\n");
    let txn = ctl.run_with(&["txn"], &[], b"ver(\"k\") = \"0\"\n\nput k 1\nget k\n\nput k 2\n\n")?;
    ensure!(txn.success()? == "SUCCESS\n\nOK\n\nk\n1\n");

    let granted = ok(&["lease", "grant", "600"])?;
    let lease = granted.split(' ').nth(1).context("a grant names its lease")?;
    ok(&["put", "leased", "x", "--lease", lease])?;
    let renewed = ok(&["lease", "keep-alive", "--once", lease])?;
    ensure!(renewed.contains("keepalived with TTL(600)"), "{renewed}");
    let left = ok(&["lease", "timetolive", lease, "--keys"])?;
    ensure!(left.contains("granted with TTL(600s)") && left.contains("attached keys([leased])"), "{left}");
    ok(&["lease", "revoke", lease])?;
    ensure!(ok(&["get", "leased"])?.is_empty());

    // The tool resumes its watch by itself after a kill of the server.
    let mut watch = Running::start(&ctl, &["watch", "-i"])?;
    watch.say("watch --prefix w/")?;
    // Events only come once the watcher is there, so it is asked to look back.
    watch.say("watch --rev=1 k")?;
    watch.expect(&["PUT", "k", "v", "PUT", "k", "w", "DELETE", "k", "", "PUT", "k", "1"])?;
    ok(&["put", "w/1", "before"])?;
    watch.expect(&["PUT", "w/1", "before"])?;
    member.kill()?;
    member.run()?;
    ok(&["put", "w/2", "after"])?;
    watch.expect(&["PUT", "w/2", "after"])?;
    drop(watch);

    let mut first = Running::start(&ctl, &["lock", "l"])?;
    let key = first.lines.next().context("the lock ended")??;
    ensure!(key.starts_with("l/"), "{key}");
    let mut second = Running::start(&ctl, &["lock", "l"])?;
    while ok(&["get", "--prefix", "l/", "--keys-only"])?.lines().filter(|line| !line.is_empty()).count() < 2 {
        ensure!(second.child.try_wait()?.is_none(), "the second lock ended");
    }
    first.interrupt()?;
    let other = second.lines.next().context("the lock ended")??;
    ensure!(other.starts_with("l/") && other != key, "{other} after {key}");
    second.interrupt()?;
    ensure!(ok(&["get", "--prefix", "l/"])?.is_empty(), "a lock key is left");

    let mut leader = Running::start(&ctl, &["elect", "e", "me"])?;
    let key = leader.lines.next().context("the election ended")??;
    leader.expect(&["me"])?;
    let mut observer = Running::start(&ctl, &["elect", "-l", "e"])?;
    observer.expect(&[&key, "me"])?;
    leader.interrupt()?;

    let health = ctl.run(&["endpoint", "health"])?;
    ensure!(health.code == 0, "{}", health.stderr);
    let file = member.dir().join("backup.db").display().to_string();
    ok(&["snapshot", "save", &file])?;
    ok(&["compaction", "3"])?;
    ok(&["defrag"])?;
    ensure!(ok(&["member", "list"])?.contains("started, m1"));
    Ok(())
}
