//! The drill for a cluster that is full: alarm, refusals, deletes, compaction, defragmentation, disarmed
//! alarm, writes. Nobody is started anew. What operators see is the same with both servers.

use anyhow::ensure;
use interop::cluster::{Cluster, ask, ctl, eventually};
use interop::http;
use interop::member::Member;
use interop::programs::{Program, subject, yardstick};
use interop::scripts::put;
use proto::etcdserverpb::PutResponse;

use crate::said;

const QUOTA: u64 = 6 << 20;

/// Text with `#` for each number: ids, counts, times and revisions differ from run to run.
fn without_numbers(text: &str) -> String {
    let mut out = String::new();
    for symbol in text.chars().map(|symbol| if symbol.is_ascii_digit() { '#' } else { symbol }) {
        if symbol != '#' || !out.ends_with('#') {
            out.push(symbol);
        }
    }
    out
}

/// What a command said, without what differs from run to run. A line that several members caused counts once.
fn shown(member: &Member, words: &str) -> anyhow::Result<String> {
    let ran = ctl(member).run(&words.split(' ').collect::<Vec<_>>())?;
    let mut text = without_numbers(&format!("{}{}", ran.stdout, ran.messages()));
    while text.contains("NOSPACE NOSPACE") {
        text = text.replace("NOSPACE NOSPACE", "NOSPACE");
    }
    let mut lines: Vec<&str> =
        text.lines().map(|line| line.split(" took").next().unwrap_or_default()).collect();
    lines.dedup();
    Ok(format!("{} -> {}: {}", without_numbers(words), ran.code, lines.join("\n")))
}

fn value_of(member: &Member, name: &str) -> anyhow::Result<f64> {
    let page = http::request(&member.authority(), "GET", "/metrics", &[], "")?;
    let page = String::from_utf8_lossy(&page.body).into_owned();
    let line = page.lines().find_map(|line| line.strip_prefix(name).map(str::trim));
    Ok(line.unwrap_or_default().parse()?)
}

fn health(member: &Member) -> anyhow::Result<String> {
    let answer = http::request(&member.authority(), "GET", "/health", &[], "")?;
    Ok(format!("/health -> {} {}", answer.status, String::from_utf8_lossy(&answer.body)))
}

fn drill(program: &Program) -> anyhow::Result<(Vec<String>, Cluster)> {
    let quota = QUOTA.to_string();
    let args = ["--quota-backend-bytes", &quota, "--experimental-stop-grpc-service-on-defrag"];
    let mut cluster = Cluster::start(&[program; 3], &args)?;
    let pids: Vec<_> = cluster.members.iter().map(Member::pid).collect();
    let mut seen = Vec::new();

    let value = "v".repeat(100_000);
    let mut written = 0;
    while ask::<PutResponse>(
        &cluster.members[written % 3],
        "/etcdserverpb.KV/Put",
        &put(&format!("fill/{written:03}"), &value),
    )
    .is_ok()
    {
        written += 1;
        ensure!(written < 500, "the quota is never reached");
    }
    eventually("the alarm is raised", || {
        Ok(ctl(&cluster.members[0]).run(&["alarm", "list"])?.stdout.contains("NOSPACE"))
    })?;
    ensure!(written > 30, "only {written} were written");
    for member in &cluster.members {
        ensure!(value_of(member, "etcd_server_quota_backend_bytes ")? == QUOTA as f64, "the quota's metric");
        for words in ["put a b", "lease grant 60", "get fill/000 --keys-only", "del fill/000", "alarm list"] {
            seen.push(shown(member, words)?);
        }
        seen.push(health(member)?);
        seen.push(shown(member, "endpoint health")?);
    }
    // A transaction that puts is refused, one that only deletes passes.
    for (text, key) in [("\n\nput a b\n\n\n", "a"), ("\n\ndel fill/001\n\n\n", "fill/001")] {
        let ran = ctl(&cluster.members[0]).run_with(&["txn"], &[], text.trim_start_matches('\n').as_bytes());
        let ran = ran?;
        seen.push(format!("txn {key} -> {} {} {}", ran.code, ran.stdout.trim(), ran.messages()));
    }

    seen.push(shown(&cluster.members[1], "del --prefix fill/")?);
    let revision = {
        let json = ctl(&cluster.members[1]).run(&["get", "x", "-w", "json"])?.success()?;
        serde_json::from_str::<serde_json::Value>(&json)?["header"]["revision"].as_i64().unwrap_or_default()
    };
    seen.push(shown(&cluster.members[1], &format!("compact --physical {revision}"))?);
    // Room inside the file is not yet room below the quota.
    seen.push(shown(&cluster.members[1], "put a b")?);
    for member in &cluster.members {
        seen.push(shown(member, "defrag")?);
        eventually("the file is small", || {
            Ok(value_of(member, "etcd_mvcc_db_total_size_in_bytes ")? < QUOTA as f64 / 4.0)
        })?;
        ensure!(value_of(member, "etcd_mvcc_db_total_size_in_use_in_bytes ")? < QUOTA as f64 / 4.0, "in use");
        // The alarm stays until somebody takes it away.
        seen.push(shown(member, "put a b")?);
    }
    seen.push(shown(&cluster.members[2], "alarm disarm")?);
    seen.push(shown(&cluster.members[2], "alarm list")?);
    for member in &cluster.members {
        seen.push(shown(member, "put a b")?);
        seen.push(shown(member, "lease grant 60")?.split(": lease").next().unwrap_or_default().to_owned());
        seen.push(health(member)?);
        seen.push(shown(member, "endpoint health")?);
    }
    cluster.settle()?;
    for (member, pid) in cluster.members.iter_mut().zip(pids) {
        member.check_alive()?;
        ensure!(member.pid() == pid, "it was started anew");
    }
    Ok((seen, cluster))
}

#[test]
fn a_full_cluster_is_made_to_work_again() -> anyhow::Result<()> {
    let (ours, cluster) = drill(&subject())?;
    for member in &cluster.members {
        for message in
            ["alarm raised", "alarm disarmed", "starting defragment", "defragmenting", "finished defragment"]
        {
            ensure!(!said(member, message).is_empty(), "{message} was not logged");
        }
        let done = said(member, "finished defragmenting directory");
        let freed = done[0]["current-db-size-bytes-diff"].as_i64().unwrap_or_default();
        ensure!(freed < -(QUOTA as i64) / 2, "{done:?}");
        let statuses: Vec<_> = said(member, "grpc service status changed")
            .iter()
            .map(|record| record["status"].clone())
            .collect();
        ensure!(statuses == ["SERVING", "NOT_SERVING", "SERVING"], "{statuses:?}");
    }
    let (theirs, _) = drill(&yardstick())?;
    for (ours, theirs) in ours.iter().zip(&theirs) {
        ensure!(ours == theirs, "ours\n{ours}\ntheirs\n{theirs}");
    }
    ensure!(ours.len() == theirs.len(), "not as much was seen");
    Ok(())
}

/// `--bootstrap-defrag-threshold-megabytes`.
#[test]
fn a_start_rewrites_the_database_if_that_frees_enough() -> anyhow::Result<()> {
    for (program, flag) in [
        (subject(), "--bootstrap-defrag-threshold-megabytes"),
        (yardstick(), "--experimental-bootstrap-defrag-threshold-megabytes"),
    ] {
        let mut member = Member::start(&program, &[])?;
        let value = "v".repeat(1_000_000);
        for number in 0..4 {
            ask::<PutResponse>(&member, "/etcdserverpb.KV/Put", &put(&format!("k{number}"), &value))?;
        }
        // What is compacted away before the next commit is never written.
        eventually("the values are in the database", || {
            Ok(value_of(&member, "etcd_mvcc_db_total_size_in_bytes ")? > 4e6)
        })?;
        ctl(&member).run(&["del", "k", "--prefix"])?.success()?;
        ctl(&member).run(&["compact", "--physical", "6"])?.success()?;
        member.stop()?;
        member.add_args(&[flag, "100"]);
        member.run()?;
        let skipped = said(&member, "Skipping defragmentation");
        let field = |name: &str| match skipped[0][name].clone() {
            serde_json::Value::Null => skipped[0][format!("experimental-{name}")].clone(),
            value => value,
        };
        ensure!(field("bootstrap-defrag-threshold-bytes") == 104_857_600, "{skipped:?}");
        ensure!(field("bootstrap-defrag-threshold") == "105 MB", "{skipped:?}");
        ensure!(said(&member, "defragmenting").is_empty(), "it was rewritten");
        member.stop()?;
        member.add_args(&[flag, "1"]);
        member.run()?;
        let done = said(&member, "finished defragmenting directory");
        ensure!(done.len() == 1, "{done:?}");
        let size = value_of(&member, "etcd_mvcc_db_total_size_in_bytes ")?;
        ensure!(size < 1e6, "{size}");
    }
    Ok(())
}
