//! Disaster drills: a cluster of three is backed up under load and lost with all its directories; three
//! new directories are made of the backup, and the new cluster holds what the backup holds.
//!
//! Snapshots cross: saved from our members or real ones, restored by our tool or the real one, served by
//! our members or real ones.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, ensure};
use interop::cluster::{Cluster, ctl, eventually, hash};
use interop::ctl::Ctl;
use interop::member::Member;
use interop::programs::{Program, ours, real, subject, subject_as, yardstick};
use interop::utl::Utl;

/// A put that was acknowledged.
#[derive(Clone, Debug)]
struct Put {
    key: String,
    value: String,
    revision: i64,
}

/// Puts as fast as one etcdctl after the other can, until told to stop.
fn load(ctl: Ctl, stop: Arc<AtomicBool>, done: Arc<Mutex<Vec<Put>>>) -> anyhow::Result<()> {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let (key, value) = (format!("load/{:02}", number % 20), format!("value {number}"));
        let answer = ctl.run(&["put", &key, &value, "-w", "json"])?.success()?;
        let json: serde_json::Value = serde_json::from_str(&answer)?;
        let revision = json["header"]["revision"].as_i64().context("a revision")?;
        done.lock().map_err(|_| anyhow::anyhow!("a thread panicked"))?.push(Put { key, value, revision });
    }
    Ok(())
}

/// What is known of a backup.
struct Backup {
    file: PathBuf,
    revision: i64,
    hash: u32,
    puts: Vec<Put>,
    _dir: tempfile::TempDir,
}

/// Starts three members, fills them, saves a snapshot of one under load, and loses everything.
fn backup(from: &Program) -> anyhow::Result<Backup> {
    let cluster = Cluster::start(&[from, from, from], &["--snapshot-count", "50"])?;
    let tool = ctl(&cluster.members[0]);
    for number in 0..30 {
        tool.run(&["put", &format!("key/{number}"), &"x".repeat(number * 100)])?.success()?;
    }
    tool.run(&["del", "--prefix", "key/1"])?.success()?;
    tool.run(&["compaction", "20", "--physical"])?.success()?;
    tool.run(&["lease", "grant", "5000"])?.success()?;

    let dir = tempfile::Builder::new().prefix("retcd-backup-").tempdir()?;
    let file = dir.path().join("backup.db");
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let writer = std::thread::spawn({
        let (ctl, stop, done) = (ctl(&cluster.members[0]), stop.clone(), done.clone());
        move || load(ctl, stop, done)
    });
    let count = || done.lock().map_or(0, |puts| puts.len());
    eventually("some puts are acknowledged", || Ok(count() >= 20))?;
    ctl(&cluster.members[1]).run(&["snapshot", "save", &file.display().to_string()])?.success()?;
    let saved_at = count();
    eventually("puts go on", || Ok(count() >= saved_at + 10))?;
    stop.store(true, Ordering::Relaxed);
    writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;

    let status = Utl { program: ours("etcdutl") }
        .run(dir.path(), &["snapshot", "status", "-w", "json", "backup.db"])?;
    let status: serde_json::Value = serde_json::from_str(&status.stdout)?;
    let revision = status["revision"].as_i64().context("a revision")?;
    // The hash that the lost cluster had at the revision of the backup.
    let answer = ctl(&cluster.members[2]).run(&[
        "endpoint",
        "hashkv",
        "--rev",
        &revision.to_string(),
        "-w",
        "json",
    ])?;
    let answer: serde_json::Value = serde_json::from_str(&answer.success()?)?;
    let hash = answer[0]["HashKV"]["hash"].as_u64().context("a hash")?.try_into()?;
    let puts = done.lock().map_err(|_| anyhow::anyhow!("a thread panicked"))?.clone();
    Ok(Backup { file, revision, hash, puts, _dir: dir })
}

/// Three members restored from a backup.
fn restore(backup: &Backup, tool: &Utl, to: &Program, more: &[&str]) -> anyhow::Result<Cluster> {
    Cluster::start_from(
        &[to, to, to],
        &[],
        |_, _| Ok(()),
        |number, member, cluster| tool.restore(&backup.file, member, &format!("n{number}"), cluster, more),
    )
}

fn drill(from: &Program, tool: PathBuf, to: &Program) -> anyhow::Result<()> {
    let backup = backup(from)?;
    let cluster = restore(&backup, &Utl { program: tool }, to, &[])?;
    for member in &cluster.members {
        let (revision, found, _) = hash(member)?;
        ensure!(revision == backup.revision, "revision {revision}, the backup has {}", backup.revision);
        ensure!(found == backup.hash, "HashKV {found}, the lost cluster had {}", backup.hash);
    }
    check_puts(&backup, &cluster.members[1])?;
    let members = ctl(&cluster.members[0]).run(&["member", "list"])?.success()?;
    ensure!(members.lines().filter(|line| line.contains(", started, n")).count() == 3, "{members}");
    ensure!(ctl(&cluster.members[0]).run(&["lease", "list"])?.success()?.starts_with("found 1 leases"));
    cluster.put_and_get_anywhere("after the disaster")?;
    cluster.settle()
}

/// Every acknowledged put that the backup covers is there, unless a later one that it covers replaced it.
fn check_puts(backup: &Backup, member: &Member) -> anyhow::Result<()> {
    let covered: Vec<_> = backup.puts.iter().filter(|put| put.revision <= backup.revision).collect();
    ensure!(!covered.is_empty(), "the backup covers no put of the load");
    ensure!(covered.len() < backup.puts.len(), "no put came after the backup");
    for put in &covered {
        let newest = covered.iter().rfind(|other| other.key == put.key).context("a put of this key")?;
        let found = ctl(member).run(&["get", "--print-value-only", &put.key])?.success()?;
        ensure!(found.trim_end() == newest.value, "{}: {found:?} instead of {:?}", put.key, newest.value);
    }
    Ok(())
}

#[test]
fn ours_restored_by_ours() -> anyhow::Result<()> {
    drill(&subject(), ours("etcdutl"), &subject())
}

#[test]
fn ours_restored_by_ours_for_the_real_one() -> anyhow::Result<()> {
    drill(&subject(), ours("etcdutl"), &yardstick())
}

#[test]
fn the_real_one_restored_by_ours_for_ours() -> anyhow::Result<()> {
    drill(&yardstick(), ours("etcdutl"), &subject())
}

#[test]
fn the_real_one_restored_by_the_real_tool_for_ours() -> anyhow::Result<()> {
    drill(&yardstick(), real("3.5", "etcdutl"), &subject())
}

#[test]
fn ours_as_3_7_restored_by_ours() -> anyhow::Result<()> {
    drill(&subject_as("3.7"), ours("etcdutl"), &subject_as("3.7"))
}

/// The newest release, which Debian does not have.
#[cfg(feature = "newest")]
#[test]
fn the_newest_release_both_ways() -> anyhow::Result<()> {
    let newest = Program::plain(real("3.7", "etcd"));
    drill(&newest, ours("etcdutl"), &subject_as("3.7"))?;
    drill(&subject_as("3.7"), ours("etcdutl"), &newest)?;
    drill(&subject_as("3.7"), real("3.7", "etcdutl"), &subject_as("3.7"))
}

/// With a raised revision clients that saw the lost cluster never see a revision twice: whatever they
/// remember counts as compacted.
fn raised(to: &Program) -> anyhow::Result<()> {
    let backup = backup(&subject())?;
    let tool = Utl { program: ours("etcdutl") };
    let cluster = restore(&backup, &tool, to, &["--bump-revision", "1000000", "--mark-compacted"])?;
    let tool = ctl(&cluster.members[2]);
    let raised = backup.revision + 1_000_000;
    for member in &cluster.members {
        ensure!(hash(member)?.0 == raised, "revision {}, wanted {raised}", hash(member)?.0);
    }
    check_puts(&backup, &cluster.members[0])?;
    let old = tool.run(&["get", "key/2", "--rev", &backup.revision.to_string()])?;
    ensure!(old.messages() == "Error: etcdserver: mvcc: required revision has been compacted", "{old:?}");
    let watch = tool.run(&["watch", "key/2", "--rev", &backup.revision.to_string()])?;
    ensure!(
        watch.code == 5 && watch.messages().contains("required revision has been compacted"),
        "{watch:?}"
    );
    let put = tool.run(&["put", "new", "one", "-w", "json"])?.success()?;
    ensure!(put.contains(&format!("\"revision\":{}", raised + 1)), "{put}");
    cluster.settle()
}

#[test]
fn a_raised_revision_on_ours() -> anyhow::Result<()> {
    raised(&subject())
}

#[test]
fn a_raised_revision_on_the_real_one() -> anyhow::Result<()> {
    raised(&yardstick())
}
