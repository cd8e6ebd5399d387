//! The values of a scrape that nobody counts: sizes, revisions, positions, watchers.

use std::sync::atomic::Ordering::Acquire;

use api::grpc::MethodCounts as Counts;

use crate::metrics::Metrics;
use crate::metrics::grpc::MethodCounts;
use crate::node::Node;

/// The body of `/metrics`.
pub fn metrics(node: &Node, calls: &api::grpc::Metrics) -> String {
    let metrics = node.metrics();
    refresh(node, metrics);
    let counts = calls.snapshot();
    let methods: Vec<MethodCounts<'_>> = counts.iter().map(method).collect();
    metrics.render(&methods)
}

fn method(counts: &Counts) -> MethodCounts<'_> {
    MethodCounts {
        service: counts.info.service,
        method: counts.info.method,
        shape: counts.info.shape.label(),
        started: counts.started,
        received: counts.received,
        sent: counts.sent,
        handled: counts.handled,
        handling: None,
    }
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
    metrics.leader_changes_seen.set(progress.leader_changes());
    let watch = parts.hub.stats();
    metrics.watchers.set_count(watch.watchers as u64);
    metrics.slow_watchers.set_count(watch.slow_watchers as u64);
    metrics.watch_streams.set_count(watch.streams as u64);
    metrics.events.set(watch.delivered_events);
}

/// The body of `/debug/vars`.
pub fn debug_vars(node: &Node) -> String {
    let progress = node.progress();
    let value = serde_json::json!({
        "cmdline": std::env::args().collect::<Vec<_>>(),
        "file_descriptor_limit": crate::metrics::process::descriptor_limit(),
        "memstats": {},
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
