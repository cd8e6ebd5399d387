//! What a member says when it starts, works and stops, and in which order.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use interop::cluster::{Cluster, ctl, eventually, status};
use interop::http::request;
use interop::member::Member;
use serde_json::Value;

use crate::{alike, records, records_of};

/// A start of a new member up to its first entry.
const START: &[&str] = &[
    "Running: ",
    "configuring peer listeners",
    "configuring client listeners",
    "starting an etcd server",
    "opened backend db",
    "restore consistentIndex",
    "starting local member",
    "simple token is not cryptographically signed",
    "kvstore restored",
    "enabled backend quota with default value",
    "starting etcd server",
    "added member",
    "setting up initial cluster version using v3 API",
    "set initial cluster version",
    "enabled capabilities for version",
    "cluster version is updated",
];
/// Beside that: serving begins when the member is published, whichever of both is written first, and does not wait for
/// the version of the cluster.
const PUBLISHED: &[&str] = &[
    "starting etcd server",
    "published local member to cluster through raft",
    "received signal; shutting down",
];
const SERVING: &[&str] =
    &["starting etcd server", "ready to serve client requests", "received signal; shutting down"];
const PURGES: &[&str] = &["starting etcd server", "started to purge file", "received signal; shutting down"];
const PEERS: &[&str] =
    &["configuring peer listeners", "serving peer traffic", "received signal; shutting down"];
const STOP: &[&str] = &[
    "serving client traffic insecurely; this is strongly discouraged!",
    "received signal; shutting down",
    "closing etcd server",
    "skipped leadership transfer for single voting member cluster",
    "closed etcd server",
];
/// A start of a member that has data.
const AGAIN: &[&str] = &[
    "closed etcd server",
    "server has already been initialized",
    "configuring peer listeners",
    "starting an etcd server",
    "opened backend db",
    "restarting local member",
    "kvstore restored",
    "starting etcd server",
    "ready to serve client requests",
];

/// Whether these messages came, in this order, whatever came between them.
fn in_order(records: &[Value], messages: &[&str]) -> anyhow::Result<()> {
    let mut rest = records.iter();
    for message in messages {
        rest.find(|record| record["msg"] == *message)
            .with_context(|| format!("{message:?} is missing or came too early: {messages:#?}"))?;
    }
    Ok(())
}

#[test]
fn starts_and_stops_are_told_in_order() -> anyhow::Result<()> {
    for program in alike() {
        let mut member = Member::start(&program, &[])?;
        eventually("the version of the cluster", || {
            Ok(!records_of(&member, "cluster version is updated")?.is_empty())
        })?;
        member.stop()?;
        let first = records(&member)?;
        for messages in [START, PUBLISHED, SERVING, PURGES, PEERS, STOP] {
            in_order(&first, messages)?;
        }
        member.run()?;
        // It answers a moment before it says so.
        eventually("it is ready", || Ok(records_of(&member, "ready to serve client requests")?.len() > 1))?;
        in_order(&records(&member)?, AGAIN)?;
    }
    Ok(())
}

#[test]
fn what_happens_to_a_member_is_told_at_its_level() -> anyhow::Result<()> {
    for program in alike() {
        let args =
            ["--snapshot-count=5", "--max-request-bytes=11000000", "--host-whitelist=127.0.0.1,localhost"];
        let mut member = Member::start(&program, &args)?;
        let tool = ctl(&member);
        for number in 0..8 {
            tool.run(&["put", "key", &number.to_string()])?.success()?;
        }
        tool.run(&["compaction", "5"])?.success()?;
        let foreign = [("Host", "elsewhere.example")];
        let refused = request(&member.authority(), "GET", "/version", &foreign, "")?;
        ensure!(refused.status == 421, "{}", refused.status);
        let told = [
            ("exceeded recommended request limit", "warn"),
            ("triggering snapshot", "info"),
            ("saved snapshot to disk", "info"),
            ("finished scheduled compaction", "info"),
            ("rejecting HTTP request to prevent DNS rebinding attacks", "warn"),
        ];
        for (message, level) in told {
            eventually(message, || {
                Ok(records_of(&member, message)?.iter().any(|record| record["level"] == level))
            })?;
        }
        member.stop()?;

        std::fs::write(member.data_dir().join("stray"), "")?;
        member.run()?;
        let stray = records_of(&member, "found invalid file under data directory")?;
        ensure!(stray.iter().any(|record| record["filename"] == "stray"), "{stray:?}");
    }
    Ok(())
}

/// A leader that is held for longer than two heartbeats and shorter than an election says whom it kept waiting.
#[test]
fn late_heartbeats_are_told_for_each_peer() -> anyhow::Result<()> {
    const HELD: Duration = Duration::from_millis(800);
    for program in alike() {
        let args = ["--heartbeat-interval=100", "--election-timeout=2000"];
        let cluster = Cluster::start(&[&program; 3], &args)?;
        let leader = cluster.leader()?;
        let id =
            |member: &Member| Ok(format!("{:x}", status(member)?.header.context("no header")?.member_id));
        let mut others: BTreeSet<String> = cluster.members.iter().map(id).collect::<anyhow::Result<_>>()?;
        others.remove(&id(&cluster.members[leader])?);
        cluster.members[leader].pause()?;
        std::thread::sleep(HELD);
        cluster.members[leader].resume()?;
        let message = "leader failed to send out heartbeat on time; took too long, leader is overloaded likely from slow disk";
        eventually("a record for each", || {
            let told = records_of(&cluster.members[leader], message)?;
            let late = told.iter().filter(|record| {
                record["heartbeat-interval"] == "100ms" && record["expected-duration"] == "200ms"
            });
            let named: BTreeSet<_> =
                late.filter_map(|record| record["to"].as_str().map(str::to_owned)).collect();
            Ok(named == others)
        })?;
    }
    Ok(())
}

#[test]
fn reads_without_a_quorum_are_told() -> anyhow::Result<()> {
    for program in alike() {
        let cluster = Cluster::start(&[&program; 2], &[])?;
        cluster.settle()?;
        let leader = cluster.leader()?;
        let member = &cluster.members[leader];
        cluster.members[1 - leader].pause()?;
        let read = ctl(member).run(&["get", "key", "--command-timeout=3s"])?;
        cluster.members[1 - leader].resume()?;
        ensure!(read.code != 0, "{read:?}");
        let told = records_of(member, "waiting for ReadIndex response took too long, retrying")?;
        ensure!(told.iter().any(|record| record["retry-timeout"] == "500ms"), "{told:?}");
        ensure!(told.iter().all(|record| record["sent-request-id"].is_u64()), "{told:?}");
    }
    Ok(())
}
