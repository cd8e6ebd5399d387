//! The values of a scrape that nobody counts: sizes, revisions, positions, watchers.

use std::sync::atomic::Ordering::{Acquire, Relaxed};

use api::http::HealthCounters;
use proto::etcdserverpb::AlarmType;

use crate::metrics::Metrics;
use crate::metrics::grpc::MethodCounts;
use crate::metrics::kinds::{CALL, Histogram};
use crate::node::Node;

/// The body of `/metrics`.
pub fn metrics(node: &Node, calls: &api::grpc::Metrics, health: &HealthCounters) -> String {
    let metrics = node.metrics();
    refresh(node, metrics);
    refresh_health(health, metrics);
    let (received, sent) = calls.bytes();
    metrics.client_received_bytes.set(received);
    metrics.client_sent_bytes.set(sent);
    for saved in node.parts().transport.metrics().take_saved() {
        metrics.snap_db_save_duration.observe(saved.total);
        metrics.snap_db_fsync_duration.observe(saved.sync);
    }
    let counts = calls.snapshot();
    let times: Vec<Option<Histogram>> = counts.iter().map(|counts| counts.handling.map(histogram)).collect();
    let methods: Vec<MethodCounts<'_>> =
        counts.iter().zip(&times).map(|(counts, times)| MethodCounts::of(counts, times.as_ref())).collect();
    metrics.render(&methods, Some(node.parts().transport.metrics()))
}

fn histogram(handling: api::grpc::Handling) -> Histogram {
    Histogram::of(&CALL, &handling.counts, handling.sum_nanos)
}

fn refresh(node: &Node, metrics: &Metrics) {
    let (parts, progress) = (node.parts(), node.progress());
    metrics.db_total_size.set_count(parts.backend.size_bytes());
    metrics.db_in_use_size.set_count(parts.backend.size_in_use_bytes());
    metrics.db_open_reads.set_count(parts.backend.open_readers() as u64);
    metrics.current_revision.set(parts.store.current_revision());
    metrics.compact_revision.set(parts.store.compacted_revision());
    metrics.keys.set_count(parts.store.live_keys() as u64);
    metrics.proposals_committed.set_count(progress.commit.load(Acquire));
    metrics.proposals_applied.set_count(progress.applied.load(Acquire));
    let leader = progress.leader().0 != 0;
    metrics.has_leader.set(i64::from(leader));
    metrics.is_leader.set(i64::from(progress.is_leader()));
    metrics.is_learner.set(i64::from(progress.is_learner.load(Relaxed)));
    metrics.leader_changes_seen.set(progress.leader_changes());
    metrics.slow_read_indexes.set(parts.reads.slow());
    let watch = parts.hub.stats();
    metrics.watchers.set_count(watch.watchers as u64);
    metrics.slow_watchers.set_count(watch.slow_watchers as u64);
    metrics.watch_streams.set_count(watch.streams as u64);
    metrics.events.set(watch.delivered_events);
    metrics.auth_revision.set_count(parts.shared.auth().revision());
    let done = parts.store.counters();
    metrics.mvcc_range.set(done.ranges.load(Relaxed));
    metrics.mvcc_put.set(done.puts.load(Relaxed));
    metrics.mvcc_delete.set(done.deletes.load(Relaxed));
    metrics.mvcc_txn.set(done.txns.load(Relaxed));
    metrics.put_size_bytes.set_count(done.put_bytes.load(Relaxed));
    refresh_cluster(node, metrics);
}

fn refresh_cluster(node: &Node, metrics: &Metrics) {
    let own = node.id().to_string();
    metrics.known_peers.clear();
    for member in node.shared().cluster().members() {
        metrics.known_peers.with([&own, &member.id.to_string()]).set(1);
    }
    metrics.alarms.clear();
    for alarm in node.shared().alarms().list(AlarmType::None as i32) {
        if let Ok(kind) = AlarmType::try_from(alarm.alarm) {
            let member = types::MemberId(alarm.member_id).to_string();
            metrics.alarms.with([kind.as_str_name(), &member]).set(1);
        }
    }
}

fn refresh_health(health: &HealthCounters, metrics: &Metrics) {
    metrics.health_success.set(health.success());
    metrics.health_failures.set(health.failures());
    for ((probe, name), counts) in health.checks() {
        metrics.healthcheck.with([name, probe]).set(i64::from(counts.healthy));
        for (status, count) in [("success", counts.successes), ("error", counts.errors)] {
            if count > 0 {
                metrics.healthchecks.with([name, status, probe]).set(count);
            }
        }
    }
}

/// Those of Go's figures that mean the same here: memory that the allocator may use.
fn memory_figures() -> serde_json::Value {
    match crate::profile::allocator() {
        Some(figures) => {
            serde_json::json!({ "Sys": figures.committed_bytes, "HeapSys": figures.committed_bytes })
        }
        None => serde_json::json!({}),
    }
}

/// The body of `/debug/vars`.
pub fn debug_vars(node: &Node) -> String {
    let progress = node.progress();
    let value = serde_json::json!({
        "cmdline": crate::config::secrets::shown_words(&std::env::args().collect::<Vec<_>>()),
        "file_descriptor_limit": crate::metrics::process::descriptor_limit(),
        "memstats": memory_figures(),
        "raft.status": {
            "id": node.id().to_string(),
            "term": progress.term(),
            "lead": progress.leader().to_string(),
            "commit": progress.commit.load(Acquire),
            "applied": progress.applied.load(Acquire),
        },
    });
    value.to_string()
}
