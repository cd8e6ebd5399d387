//! HTTP endpoints on the client port.

use std::collections::BTreeSet;

use crate::script::Script;

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
    let families: BTreeSet<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE etcd_")).collect();
    let kind = metrics.header("content-type").unwrap_or_default();
    let kind = kind.split(';').take(2).collect::<Vec<_>>().join(";");
    s.note("http/metrics, status and type", &format!("{} {kind}", metrics.status));
    s.note("http/metrics, families of etcd", &families.into_iter().collect::<Vec<_>>().join("\n"));
    Ok(())
}
