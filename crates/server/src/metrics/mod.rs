//! Metrics: the families of etcd 3.7 that make sense for one member, in Go's text form.
//!
//! * [`Metrics`] holds every family; one per member, shared. Threads count into it with relaxed
//!   atomics.
//! * Values that others keep (sizes, revisions, watchers) are plain gauges here; whoever answers a
//!   scrape sets them right before [`Metrics::render`].
//! * The gRPC layer keeps its own counts per method and worker; its sums are handed to `render`.
//!
//! Counters start at 0 on each start. Names are etcd's and part of the interface; help texts are
//! ours. Not here: the Go runtime (`go_*` but for `go_threads`), peers (they come with the peer
//! protocol), the counters of the v2 store beyond the three that are always 0.
//!
//! Families whose name begins with `retcd_` are our own.

pub mod grpc;
pub mod kinds;
mod labelled;
pub mod process;
mod reads;
mod text;

use std::time::Duration;

use api::member::{ReadTimes, WatchSent};
use apply::RequestKind;
use types::{MemberId, Version};

use crate::config::gates::{FeatureGates, Gate};
use crate::config::startup::RUNTIME_VERSION;
use grpc::MethodCounts;
use kinds::{APPLY, Bounds, Counter, Gauge, Histogram};
use labelled::{OperationHistograms, Print};
use reads::Reads;
use text::Kind;

pub use labelled::Labelled;
pub use text::{CONTENT_TYPE, Exposition};

macro_rules! families {
    (
        counters { $($counter:ident $counter_name:literal $counter_help:literal;)* }
        gauges { $($gauge:ident $gauge_name:literal $gauge_help:literal;)* }
        histograms { $($histogram:ident $bounds:ident $histogram_name:literal $histogram_help:literal;)* }
        labelled { $($labelled:ident: $kind:ty, [$($label:literal),*] $labelled_name:literal $labelled_help:literal;)* }
    ) => {
        /// Every family that is always there, and those that come with use.
        #[derive(Debug)]
        pub struct Metrics {
            $(#[doc = $counter_help] pub $counter: Counter,)*
            $(#[doc = $gauge_help] pub $gauge: Gauge,)*
            $(#[doc = $histogram_help] pub $histogram: Histogram,)*
            $(#[doc = $labelled_help] pub $labelled: $kind,)*
            /// Latency of applying, by operation.
            apply_duration: OperationHistograms,
            /// Latency of requests from entry to result, by operation.
            request_duration: OperationHistograms,
            /// Latency of reads.
            reads: Reads,
        }

        impl Default for Metrics {
            fn default() -> Self {
                Self {
                    $($counter: Counter::default(),)*
                    $($gauge: Gauge::default(),)*
                    $($histogram: Histogram::new(&kinds::$bounds),)*
                    $($labelled: Default::default(),)*
                    apply_duration: OperationHistograms::new(&APPLY),
                    request_duration: OperationHistograms::new(&kinds::DISK),
                    reads: Reads::default(),
                }
            }
        }

        impl Metrics {
            fn print_families(&self, out: &mut Exposition) {
                $(out.value($counter_name, Kind::Counter, $counter_help, &[], self.$counter.get() as f64);)*
                $(out.value($gauge_name, Kind::Gauge, $gauge_help, &[], self.$gauge.get() as f64);)*
                $(out.histogram($histogram_name, $histogram_help, &[], &self.$histogram);)*
                $(self.$labelled.print(out, $labelled_name, $labelled_help, [$($label),*]);)*
            }
        }
    };
}

families! {
    counters {
        leader_changes_seen "etcd_server_leader_changes_seen_total" "Leaders seen, each change counting.";
        heartbeat_send_failures "etcd_server_heartbeat_send_failures_total" "Heartbeats of this leader that left late.";
        slow_apply "etcd_server_slow_apply_total" "Requests that took long to apply.";
        proposals_failed "etcd_server_proposals_failed_total" "Proposals without a result.";
        slow_read_indexes "etcd_server_slow_read_indexes_total" "Read index answers that came late or not at all.";
        read_indexes_failed "etcd_server_read_indexes_failed_total" "Read index requests that failed.";
        learner_promote_successes "etcd_server_learner_promote_successes" "Learners promoted by this leader.";
        health_success "etcd_server_health_success" "Health requests answered with healthy.";
        health_failures "etcd_server_health_failures" "Health requests answered with unhealthy.";
        client_received_bytes "etcd_network_client_grpc_received_bytes_total" "Bytes received in messages of gRPC clients.";
        client_sent_bytes "etcd_network_client_grpc_sent_bytes_total" "Bytes sent in messages to gRPC clients.";
        mvcc_range "etcd_mvcc_range_total" "Ranges executed.";
        mvcc_put "etcd_mvcc_put_total" "Puts executed.";
        mvcc_delete "etcd_mvcc_delete_total" "Deletions executed.";
        mvcc_txn "etcd_mvcc_txn_total" "Transactions with more than one operation executed.";
        events "etcd_debugging_mvcc_events_total" "Events handed to watch streams.";
        compaction_keys "etcd_debugging_mvcc_db_compaction_keys_total" "Revisions deleted by compactions.";
        lease_granted "etcd_debugging_lease_granted_total" "Leases granted.";
        lease_revoked "etcd_debugging_lease_revoked_total" "Leases revoked.";
        lease_renewed "etcd_debugging_lease_renewed_total" "Leases renewed by this leader.";
        leases_expired "etcd_debugging_server_lease_expired_total" "Leases expired on this leader.";
        store_expires "etcd_debugging_store_expires_total" "Expired keys of the v2 store, which is gone.";
        store_watch_requests "etcd_debugging_store_watch_requests_total" "Watch requests to the v2 store, which is gone.";
        proxy_events_coalescing "etcd_grpc_proxy_events_coalescing_total" "Events fanned out by the gRPC proxy.";
        apply_batch_entries "retcd_apply_batch_entries_total" "Entries applied.";
    }
    gauges {
        has_leader "etcd_server_has_leader" "1 if there is a leader, 0 if not.";
        is_leader "etcd_server_is_leader" "1 if this member leads, 0 if not.";
        is_learner "etcd_server_is_learner" "1 if this member is a learner, 0 if not.";
        snapshot_apply_in_progress "etcd_server_snapshot_apply_in_progress_total" "1 while a received snapshot is applied, else 0.";
        proposals_committed "etcd_server_proposals_committed_total" "Index of the last entry committed.";
        proposals_applied "etcd_server_proposals_applied_total" "Index of the last entry applied.";
        proposals_pending "etcd_server_proposals_pending" "Proposals that wait for their result.";
        quota_backend_bytes "etcd_server_quota_backend_bytes" "Size of the database at which writes are refused.";
        wal_write_bytes "etcd_disk_wal_write_bytes_total" "Bytes written to the log.";
        defrag_inflight "etcd_disk_defrag_inflight" "1 during defragmentation, else 0.";
        db_total_size "etcd_mvcc_db_total_size_in_bytes" "Size of the database file in bytes.";
        db_in_use_size "etcd_mvcc_db_total_size_in_use_in_bytes" "Bytes of the database file in use.";
        db_open_reads "etcd_mvcc_db_open_read_transactions" "Open read transactions of the database.";
        keys "etcd_debugging_mvcc_keys_total" "Keys that exist.";
        pending_events "etcd_debugging_mvcc_pending_events_total" "Events that wait to be sent.";
        watchers "etcd_debugging_mvcc_watcher_total" "Watchers.";
        watch_streams "etcd_debugging_mvcc_watch_stream_total" "Watch streams.";
        slow_watchers "etcd_debugging_mvcc_slow_watcher_total" "Watchers that lag behind.";
        put_size_bytes "etcd_debugging_mvcc_total_put_size_in_bytes" "Bytes of all keys and values put.";
        current_revision "etcd_debugging_mvcc_current_revision" "Revision of the store.";
        compact_revision "etcd_debugging_mvcc_compact_revision" "Revision of the last compaction.";
        compaction_last_seconds "etcd_debugging_mvcc_db_compaction_last" "End of the last compaction in seconds since the epoch.";
        auth_revision "etcd_debugging_auth_revision" "Revision of users and roles.";
        store_watchers "etcd_debugging_store_watchers" "Watchers of the v2 store, which is gone.";
        proxy_cache_hits "etcd_grpc_proxy_cache_hits_total" "Ranges that the gRPC proxy answered itself.";
        proxy_cache_misses "etcd_grpc_proxy_cache_misses_total" "Ranges that the gRPC proxy passed on.";
        proxy_cache_keys "etcd_grpc_proxy_cache_keys_total" "Ranges in the cache of the gRPC proxy.";
        proxy_watchers_coalescing "etcd_grpc_proxy_watchers_coalescing_total" "Watchers of the gRPC proxy that share one watch.";
        fd_used "os_fd_used" "File descriptors in use.";
        fd_limit "os_fd_limit" "File descriptors allowed.";
    }
    histograms {
        wal_fsync_duration DISK "etcd_disk_wal_fsync_duration_seconds" "Latency of syncing the log.";
        wal_write_duration DISK "etcd_disk_wal_write_duration_seconds" "Latency of writing to the log.";
        backend_commit_duration DISK "etcd_disk_backend_commit_duration_seconds" "Latency of commits of the database.";
        backend_defrag_duration DEFRAG "etcd_disk_backend_defrag_duration_seconds" "Duration of defragmentations.";
        backend_snapshot_duration SNAPSHOT "etcd_disk_backend_snapshot_duration_seconds" "Duration of streaming the database.";
        commit_rebalance_duration DISK "etcd_debugging_disk_backend_commit_rebalance_duration_seconds" "Part of commits that rebalances pages.";
        commit_spill_duration DISK "etcd_debugging_disk_backend_commit_spill_duration_seconds" "Part of commits that lays out pages.";
        commit_write_duration DISK "etcd_debugging_disk_backend_commit_write_duration_seconds" "Part of commits that writes pages.";
        snap_db_fsync_duration DISK "etcd_snap_db_fsync_duration_seconds" "Latency of syncing a received database.";
        snap_db_save_duration TRANSFER "etcd_snap_db_save_total_duration_seconds" "Duration of saving a received database.";
        snap_fsync_duration DISK "etcd_snap_fsync_duration_seconds" "Latency of syncing a raft snapshot.";
        snap_marshalling_duration DISK "etcd_debugging_snap_save_marshalling_duration_seconds" "Latency of encoding a raft snapshot.";
        snap_save_duration DISK "etcd_debugging_snap_save_total_duration_seconds" "Latency of saving a raft snapshot.";
        hash_duration HASH "etcd_mvcc_hash_duration_seconds" "Duration of hashing the database.";
        hash_rev_duration HASH "etcd_mvcc_hash_rev_duration_seconds" "Duration of hashing up to a revision.";
        compaction_pause COMPACTION_PAUSE "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds" "Duration of one step of a compaction.";
        compaction_total COMPACTION_TOTAL "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds" "Duration of compactions.";
        index_compaction_pause INDEX_PAUSE "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds" "Duration of compacting the index.";
        lease_ttl TTL "etcd_debugging_lease_ttl_total" "Lifetimes of granted leases in seconds.";
        watch_events_duration DISK "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds" "Latency of sending a batch of watch events.";
        watch_per_event_duration DISK "etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds" "Latency of sending a batch of watch events, divided by their number.";
        watch_control_duration DISK "etcd_debugging_server_watch_send_loop_control_stream_duration_seconds" "Latency of sending an answer about a watch.";
        watch_progress_duration DISK "etcd_debugging_server_watch_send_loop_progress_duration_seconds" "Latency of sending watch progress.";
        apply_batch_duration APPLY "retcd_apply_batch_duration_seconds" "Duration of applying what was committed together.";
    }
    labelled {
        cluster_version: Labelled<Gauge, 1>, ["cluster_version"] "etcd_cluster_version" "The version the cluster agreed on.";
        server_version: Labelled<Gauge, 1>, ["server_version"] "etcd_server_version" "The version this member stands in for.";
        server_runtime: Labelled<Gauge, 1>, ["server_go_version"] "etcd_server_go_version" "What this member was built with.";
        server_id: Labelled<Gauge, 1>, ["server_id"] "etcd_server_id" "The id of this member.";
        feature_enabled: Labelled<Gauge, 2>, ["name", "stage"] "etcd_server_feature_enabled" "1 if the feature is on, 0 if not.";
        client_requests: Labelled<Counter, 2>, ["client_api_version", "type"] "etcd_server_client_requests_total" "Calls by the version of the client.";
        learner_promote_failures: Labelled<Counter, 1>, ["Reason"] "etcd_server_learner_promote_failures" "Promotions refused by this leader.";
        healthcheck: Labelled<Gauge, 2>, ["name", "type"] "etcd_server_healthcheck" "Last outcome of a health check, 1 for good.";
        healthchecks: Labelled<Counter, 3>, ["name", "status", "type"] "etcd_server_healthchecks_total" "Runs of health checks.";
        alarms: Labelled<Gauge, 2>, ["alarm_type", "server_id"] "etcd_debugging_server_alarms" "Alarms raised.";
        known_peers: Labelled<Gauge, 2>, ["Local", "Remote"] "etcd_network_known_peers" "Members of the cluster.";
        stream_failures: Labelled<Counter, 2>, ["API", "Type"] "etcd_network_server_stream_failures_total" "Streams of clients that broke.";
        scrapes: Labelled<Counter, 1>, ["code"] "promhttp_metric_handler_requests_total" "Scrapes by HTTP status.";
        scrapes_in_flight: Labelled<Gauge, 0>, [] "promhttp_metric_handler_requests_in_flight" "Scrapes being answered.";
    }
}

/// Old names that dashboards still ask for, with the name that carries the value.
const ALIASES: [(&str, &str, Kind); 5] = [
    ("etcd_debugging_mvcc_range_total", "etcd_mvcc_range_total", Kind::Counter),
    ("etcd_debugging_mvcc_put_total", "etcd_mvcc_put_total", Kind::Counter),
    ("etcd_debugging_mvcc_delete_total", "etcd_mvcc_delete_total", Kind::Counter),
    ("etcd_debugging_mvcc_txn_total", "etcd_mvcc_txn_total", Kind::Counter),
    ("etcd_debugging_mvcc_db_total_size_in_bytes", "etcd_mvcc_db_total_size_in_bytes", Kind::Gauge),
];

impl Metrics {
    /// Sets what does not change while the member runs.
    pub fn identify(&self, member: MemberId, version: Version, gates: &FeatureGates, quota_bytes: i64) {
        self.server_id.with([&member.to_string()]).set(1);
        self.server_version.with([&version.to_string()]).set(1);
        self.server_runtime.with([RUNTIME_VERSION]).set(1);
        for gate in Gate::ALL {
            let on = i64::from(gates.enabled(gate));
            self.feature_enabled.with([gate.name(), &gate.stage().to_string()]).set(on);
        }
        self.quota_backend_bytes.set(quota_bytes);
        self.compact_revision.set(-1);
        for code in ["200", "500", "503"] {
            self.scrapes.with([code]);
        }
        self.refresh_descriptors();
    }

    /// The cluster agreed on a version.
    pub fn agree_on_cluster_version(&self, version: Version) {
        self.cluster_version.clear();
        self.cluster_version.with([&format!("{}.{}", version.major, version.minor)]).set(1);
    }

    /// Reads `os_fd_used` and `os_fd_limit`; etcd does so at start and every 10 minutes. Returns
    /// them when at least 80 % are used.
    pub fn refresh_descriptors(&self) -> Option<(u64, u64)> {
        let (used, limit) = (process::open_descriptors()?, process::descriptor_limit()?);
        self.fd_used.set_count(used);
        self.fd_limit.set_count(limit);
        (used >= limit / 5 * 4).then_some((used, limit))
    }

    /// The soft state of raft changed.
    pub fn leader_changed(&self, has_leader: bool, is_leader: bool, other_than_before: bool) {
        self.has_leader.set(i64::from(has_leader));
        self.is_leader.set(i64::from(is_leader));
        if has_leader && other_than_before {
            self.leader_changes_seen.inc();
        }
    }

    /// A sync of the log.
    pub fn wal_fsync(&self, took: Duration) {
        self.wal_fsync_duration.observe(took);
    }

    /// A write to the log.
    pub fn wal_written(&self, bytes: u64) {
        self.wal_write_bytes.add(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// A commit of the backend that had something to write, with its parts.
    pub fn backend_commit(&self, took: Duration, parts: &bolt::CommitStats) {
        self.backend_commit_duration.observe(took);
        self.commit_rebalance_duration.observe(parts.rebalance);
        self.commit_spill_duration.observe(parts.spill);
        self.commit_write_duration.observe(parts.write);
    }

    /// Watch responses that left together.
    pub fn watch_sent(&self, sent: &WatchSent, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        if sent.batches > 0 {
            self.watch_events_duration.observe_many(nanos, sent.batches);
            self.watch_per_event_duration.observe_many(nanos / sent.events.max(1), sent.batches);
        }
        self.watch_control_duration.observe_many(nanos, sent.controls);
        self.watch_progress_duration.observe_many(nanos, sent.progress);
    }

    /// Entries that were applied together.
    pub fn applied(&self, entries: usize, took: Duration) {
        self.apply_batch_entries.add(entries as u64);
        self.apply_batch_duration.observe(took);
    }

    /// Entries of one kind and outcome that were applied together with others; `mean` is the time of
    /// the whole batch divided by its entries.
    pub fn applied_operations(&self, kind: RequestKind, success: bool, mean: Duration, times: u64) {
        // One kind has no name of its own in this family.
        let kind = if kind == RequestKind::AuthStatus { RequestKind::Unknown } else { kind };
        let nanos = u64::try_from(mean.as_nanos()).unwrap_or(u64::MAX);
        self.apply_duration.observe_many(kind, success, nanos, times);
    }

    /// A snapshot file encoded, written and synced.
    pub fn snapshot_saved(&self, encoded: Duration, total: Duration) {
        self.snap_marshalling_duration.observe(encoded);
        self.snap_fsync_duration.observe(total.saturating_sub(encoded));
        self.snap_save_duration.observe(total);
    }

    /// A proposed request, from entry to result.
    pub fn request(&self, kind: RequestKind, success: bool, took: Duration) {
        self.request_duration.observe(kind, success, took);
    }

    /// A range or a transaction that only reads.
    pub fn read(&self, times: &ReadTimes) {
        self.reads.observe(times);
    }

    /// Proposals handed to raft, or below zero ended.
    pub fn proposal_pending(&self, change: i64) {
        self.proposals_pending.add(change);
    }

    /// A proposal without a result.
    pub fn proposal_failed(&self) {
        self.proposals_failed.inc();
    }

    /// A read index request that failed.
    pub fn read_index_failed(&self) {
        self.read_indexes_failed.inc();
    }

    /// A lease whose revocation this leader began.
    pub fn lease_expired(&self) {
        self.leases_expired.inc();
    }

    /// A compaction that ended.
    pub fn compaction(&self, took: Duration, deleted: u64) {
        self.compaction_total.observe_whole_millis(took);
        self.compaction_keys.add(deleted);
        self.compaction_last_seconds.set(jiff::Timestamp::now().as_second());
    }

    /// One step of a compaction.
    pub fn compaction_step(&self, took: Duration) {
        self.compaction_pause.observe_whole_millis(took);
    }

    /// A lease granted.
    pub fn lease_granted(&self, ttl_seconds: i64) {
        self.lease_granted.inc();
        self.lease_ttl.observe_raw(u64::try_from(ttl_seconds).unwrap_or(0));
    }

    /// The answer to a scrape.
    pub fn render(&self, methods: &[MethodCounts<'_>], peers: Option<&peer::Metrics>) -> String {
        self.scrapes_in_flight.with([]).add(1);
        let mut out = Exposition::default();
        self.print_families(&mut out);
        for (alias, name, kind) in ALIASES {
            let value = match name {
                "etcd_mvcc_range_total" => self.mvcc_range.get() as f64,
                "etcd_mvcc_put_total" => self.mvcc_put.get() as f64,
                "etcd_mvcc_delete_total" => self.mvcc_delete.get() as f64,
                "etcd_mvcc_txn_total" => self.mvcc_txn.get() as f64,
                _ => self.db_total_size.get() as f64,
            };
            out.value(alias, kind, "Old name of the family without debugging.", &[], value);
        }
        self.apply_duration.for_each(|kind, success, histogram| {
            let name = if kind == RequestKind::Unknown { "unknown" } else { kind.name() };
            let labels = [("op", name), ("success", success), ("version", "v3")];
            out.histogram("etcd_server_apply_duration_seconds", "Latency of applying.", &labels, histogram);
        });
        let mut request = |kind, success, histogram: &Histogram| {
            let labels = [("success", success), ("type", kind)];
            out.histogram(
                "etcd_server_request_duration_seconds",
                "Latency of requests from entry to result.",
                &labels,
                histogram,
            );
        };
        self.request_duration.for_each(|kind, success, histogram| request(kind.name(), success, histogram));
        self.reads.for_each_request(request);
        self.reads.for_each_range(|success, histogram| {
            let labels = [("success", success)];
            out.histogram("etcd_server_range_duration_seconds", "Latency of ranges.", &labels, histogram);
        });
        for method in methods {
            method.print(&mut out);
        }
        if let Some(peers) = peers {
            peers.visit(|series| out.peer_series(&series));
        }
        process::collect(&mut out);
        self.scrapes_in_flight.with([]).add(-1);
        self.scrapes.with(["200"]).inc();
        out.finish()
    }

    /// An empty histogram of call latencies, one per method with `--metrics=extensive`.
    pub fn call_histogram() -> Histogram {
        static CALL: &Bounds = &kinds::CALL;
        Histogram::new(CALL)
    }
}
