//! HTTP endpoints on the client port.

use std::collections::BTreeSet;

use crate::script::Script;

/// Families that not all releases have: 3.5 still counts the v2 store, 3.6 and 3.7 added some, and
/// 3.7 has dropped old names which we still print. Whether they are there is the release's affair.
const NOT_IN_ALL_RELEASES: [&str; 15] = [
    "debugging_store_reads_total",
    "debugging_store_writes_total",
    "debugging_server_watch_send_loop_control_stream_duration_seconds",
    "debugging_server_watch_send_loop_progress_duration_seconds",
    "debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds",
    "debugging_server_watch_send_loop_watch_stream_duration_seconds",
    "network_known_peers",
    "server_feature_enabled",
    "server_range_duration_seconds",
    "server_request_duration_seconds",
    "debugging_mvcc_db_total_size_in_bytes",
    "debugging_mvcc_delete_total",
    "debugging_mvcc_put_total",
    "debugging_mvcc_range_total",
    "debugging_mvcc_txn_total",
];

/// Health, version, metrics, unknown paths, access control.
pub async fn endpoints(s: &mut Script) -> anyhow::Result<()> {
    let paths = [
        "/health",
        "/health?serializable=true",
        "/health?exclude=NOSPACE&exclude=CORRUPT",
        "/livez",
        "/livez/serializable_read",
        "/livez?exclude=serializable_read",
        "/livez?exclude=nosuch",
        "/livez/nosuch",
        "/readyz",
        "/readyz/linearizable_read",
        "/readyz/serializable_read",
        "/readyz/data_corruption",
        "/readyz?exclude=linearizable_read",
        "/version",
        "/",
        "/nosuch",
        "/config/local/log",
        "/v2/keys",
        "/v2/members",
        "/v3alpha/kv/range",
        "/debug/pprof/",
        "/debug/requests",
    ];
    for path in paths {
        s.http(&format!("http/GET {path}"), "GET", path, &[]).await?;
    }
    s.http("http/livez, verbose", "GET", "/livez?verbose", &[]).await?;
    let verbose = s.http_quiet("GET", "/readyz?verbose", &[]).await?;
    let mut lines: Vec<_> = String::from_utf8_lossy(&verbose.body).lines().map(str::to_owned).collect();
    lines.sort();
    s.note("http/readyz, verbose, sorted", &lines.join("\n"));
    for verb in ["POST", "PUT", "DELETE", "HEAD"] {
        s.http(&format!("http/{verb} /health"), verb, "/health", &[]).await?;
        s.http(&format!("http/{verb} /version"), verb, "/version", &[]).await?;
    }
    s.http("http/OPTIONS /health", "OPTIONS", "/health", &[]).await?;
    s.http("http/OPTIONS of an unknown path", "OPTIONS", "/nosuch", &[]).await?;
    s.http("http/with an origin", "GET", "/health", &[("Origin", "http://example.com")]).await?;
    s.http("http/with another host", "GET", "/health", &[("Host", "elsewhere.example")]).await?;
    let metrics = s.http_quiet("GET", "/metrics", &[]).await?;
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    let in_all = |family: &&str| {
        let name = family.split(' ').next().unwrap_or_default();
        !NOT_IN_ALL_RELEASES.contains(&name)
    };
    let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE etcd_"));
    let families: BTreeSet<_> = families.filter(in_all).collect();
    let kind = metrics.header("content-type").unwrap_or_default();
    let kind = kind.split(';').take(2).collect::<Vec<_>>().join(";");
    s.note("http/metrics, status and type", &format!("{} {kind}", metrics.status));
    s.note("http/metrics, families of etcd", &families.into_iter().collect::<Vec<_>>().join("\n"));
    Ok(())
}
