//! Metrics that move: the same work on a cluster of ours and on a real one, and every family that moved there
//! has moved here.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use interop::cluster::{Cluster, ask, ctl, eventually};
use interop::ctl::Until;
use interop::http;
use interop::member::Member;
use interop::programs::{Program, subject, yardstick};
use interop::scripts::put;
use proto::etcdserverpb::{HashRequest, HashResponse, PutResponse};

/// Families that need not move, and why.
const EXCUSED: [(&str, &str); 10] = [
    ("etcd_server_proposals_failed_total", "how slow a machine is"),
    ("etcd_server_proposals_pending", "of the moment"),
    ("go_", "there is no Go runtime"),
    ("process_", "of the process, whatever it does"),
    ("etcd_debugging_store_", "there is no v2 store"),
    ("etcd_debugging_snap_save_marshalling_duration_seconds", "the snapshots of 3.5 hold the v2 store"),
    ("etcd_debugging_mvcc_pending_events_total", "who falls behind reads history, nothing is queued for him"),
    ("etcd_server_slow_", "how slow a machine is"),
    ("etcd_network_disconnected_peers_total", "whether a connection fails once while all start"),
    ("etcd_server_heartbeat_send_failures_total", "how slow a machine is"),
];

/// The largest value of each family; of a histogram, its largest count.
fn families(member: &Member) -> anyhow::Result<BTreeMap<String, f64>> {
    let page = http::request(&member.authority(), "GET", "/metrics", &[], "")?;
    let page = String::from_utf8(page.body)?;
    let (mut kinds, mut values) = (BTreeMap::new(), BTreeMap::<String, f64>::new());
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').context("a type")?;
            kinds.insert(name.to_owned(), kind.to_owned());
            values.entry(name.to_owned()).or_default();
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').context("a value")?;
            let name = series.split('{').next().unwrap_or_default();
            let counted = name
                .strip_suffix("_count")
                .filter(|name| kinds.get(*name).is_some_and(|kind| kind != "gauge"));
            let Some(name) = counted.or_else(|| values.contains_key(name).then_some(name)) else { continue };
            let value: f64 = value.parse()?;
            let largest = values.entry(name.to_owned()).or_default();
            *largest = largest.max(value);
        }
    }
    Ok(values)
}

/// A bit of everything, on the leader if it can be chosen.
fn work(program: &Program) -> anyhow::Result<BTreeMap<String, f64>> {
    let short_log = ["--snapshot-count", "20", "--experimental-snapshot-catchup-entries", "20"];
    let mut cluster = Cluster::start(&[program; 3], &short_log)?;
    let leader = cluster.leader()?;
    let tool = ctl(&cluster.members[leader]);
    let run = |words: &str| tool.run(&words.split(' ').collect::<Vec<_>>());
    for number in 0..250 {
        let request = put(&format!("k{number}"), "v");
        ask::<PutResponse>(&cluster.members[leader], "/etcdserverpb.KV/Put", &request)?;
    }
    for words in [
        "get k1",
        "get k --prefix",
        "get k1 --consistency=s",
        "del k2",
        "lease list",
        "user list",
        "auth status",
        "role add r",
        "endpoint status",
        "endpoint hashkv",
        "alarm list",
        "member list",
        "defrag",
    ] {
        run(words)?.success()?;
    }
    tool.run_with(&["txn"], &[], b"value(\"k1\") = \"v\"\n\nput k1 w\nput k3 w\n\n\n")?.success()?;
    let granted = run("lease grant 600")?.success()?;
    let id = granted.split(' ').nth(1).context("an id")?;
    for words in [
        format!("put --lease={id} leased v"),
        format!("lease keep-alive --once {id}"),
        format!("lease timetolive {id}"),
        format!("lease revoke {id}"),
    ] {
        run(&words)?.success()?;
    }
    run("lease grant 1")?.success()?;
    tool.run_until(&["watch", "--rev=1", "--progress-notify", "k", "--prefix"], "", Until::Lines(9))?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("s.db");
    tool.run(&["snapshot", "save", &file.to_string_lossy()])?.success()?;
    ask::<HashResponse>(&cluster.members[leader], "/etcdserverpb.Maintenance/Hash", &HashRequest::default())?;
    run("compact --physical 40")?.success()?;
    // Somebody without a vote, who cannot be promoted twice.
    let learner = cluster.join(program, &["--learner"], &short_log)?;
    eventually("the learner holds the data", || {
        let read = ctl(&cluster.members[learner]).run(&["get", "k1", "--consistency=s"])?;
        Ok(read.stdout.starts_with("k1"))
    })?;
    let list = tool.run(&["member", "list"])?.success()?;
    let id = list
        .lines()
        .find(|line| line.ends_with("true"))
        .and_then(|line| line.split(',').next())
        .context("a learner")?;
    eventually("it is promoted", || Ok(run(&format!("member promote {id}"))?.code == 0))?;
    ensure!(run(&format!("member promote {id}"))?.code != 0, "it was promoted twice");
    for path in ["/health", "/metrics", "/version", "/livez", "/readyz"] {
        http::request(&cluster.members[leader].authority(), "GET", path, &[], "")?;
    }
    eventually("the short lease is over", || {
        Ok(families(&cluster.members[leader])?.get("etcd_debugging_server_lease_expired_total") >= Some(&1.0))
    })?;
    // Whoever waits no more does not count any more, however he left.
    eventually("no proposal is pending", || {
        Ok(families(&cluster.members[leader])?.get("etcd_server_proposals_pending") == Some(&0.0))
    })?;
    let leading = families(&cluster.members[leader])?;
    // The one that joined got a snapshot.
    let mut all = families(&cluster.members[learner])?;
    for (name, value) in leading {
        let largest = all.entry(name).or_default();
        *largest = largest.max(value);
    }
    Ok(all)
}

#[test]
fn what_moves_there_moves_here() -> anyhow::Result<()> {
    let (ours, theirs) = (work(&subject())?, work(&yardstick())?);
    let excused = |name: &str| EXCUSED.iter().any(|(prefix, _)| name.starts_with(prefix));
    let still: Vec<_> = theirs
        .iter()
        .filter(|(name, value)| {
            **value > 0.0 && !excused(name) && ours.get(*name).is_none_or(|value| *value <= 0.0)
        })
        .collect();
    ensure!(still.is_empty(), "moved there and not here: {still:?}");
    // What only newer releases have.
    for name in [
        "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds",
        "etcd_server_range_duration_seconds",
        "etcd_disk_wal_write_duration_seconds",
        "etcd_server_request_duration_seconds",
        "etcd_server_feature_enabled",
    ] {
        ensure!(ours.get(name).is_some_and(|value| *value > 0.0), "{name} does not move");
    }
    Ok(())
}
