//! Rewriting the database without its holes, with everything around it: records, metrics, and what the
//! health service says meanwhile.
//!
//! Reads and writes go on during it, so by itself it is no reason to keep clients away; the gate
//! `StopGRPCServiceOnDefrag` is for load balancers that were set up for etcd, where it is.
//!
//! **Source**: etcd `server/storage/backend/backend.go` (`defrag`), `server/etcdserver/bootstrap.go`
//! (`maybeDefragBackend`), `server/etcdserver/api/v3rpc/{maintenance,health}.go`.

use std::path::Path;
use std::time::Instant;

use backend::Backend;

use crate::log::{self, Field};
use crate::metrics::Metrics;
use crate::node::Node;
use crate::size;

/// Rewrites the database; blocks until that is done.
///
/// # Errors
/// The backend's.
pub fn defragment(backend: &Backend, path: &Path, metrics: Option<&Metrics>) -> Result<(), backend::Error> {
    let start = Instant::now();
    if let Some(metrics) = metrics {
        metrics.defrag_inflight.set(1);
    }
    let before = (backend.size_bytes(), backend.size_in_use_bytes());
    let mut fields: Vec<Field<'_>> = vec![("path", path.display().to_string().into())];
    fields.extend(sizes(before));
    log::info("defragmenting", &fields);
    let done = backend.defragment();
    if let Some(metrics) = metrics {
        metrics.defrag_inflight.set(0);
        metrics.backend_defrag_duration.observe(start.elapsed());
    }
    done?;
    let after = (backend.size_bytes(), backend.size_in_use_bytes());
    let [total, total_text, used, used_text] = sizes(after);
    let change = |before: u64, after: u64| after as i64 - before as i64;
    log::info(
        "finished defragmenting directory",
        &[
            ("path", path.display().to_string().into()),
            ("current-db-size-bytes-diff", change(before.0, after.0).into()),
            total,
            total_text,
            ("current-db-size-in-use-bytes-diff", change(before.1, after.1).into()),
            used,
            used_text,
            ("took", start.elapsed().into()),
        ],
    );
    Ok(())
}

/// `--bootstrap-defrag-threshold-megabytes`: rewrites the database at the start if that frees so much.
///
/// # Errors
/// The backend's.
pub fn defragment_at_start(
    backend: &Backend,
    path: &Path,
    threshold_bytes: u64,
) -> Result<(), backend::Error> {
    let (total, used) = (backend.size_bytes(), backend.size_in_use_bytes());
    if total.saturating_sub(used) >= threshold_bytes {
        return defragment(backend, path, None);
    }
    let mut fields: Vec<Field<'_>> = sizes((total, used)).into();
    fields.push(("bootstrap-defrag-threshold-bytes", threshold_bytes.into()));
    fields.push(("bootstrap-defrag-threshold", size::text(threshold_bytes).into()));
    log::info("Skipping defragmentation", &fields);
    Ok(())
}

/// A client asked for it.
///
/// # Errors
/// The backend's, or the member stops.
pub async fn on_request(node: Node) -> Result<(), api::error::Error> {
    log::info!("starting defragment");
    let stops = node.parts().stop_serving_on_defrag;
    if stops {
        node.parts().serving.send_replace(false);
        log::warn!("grpc service status changed",
            "service" => "", "status" => "NOT_SERVING", "reason" => "defrag is active");
    }
    let running = node.clone();
    // A task of its own: who asked may leave, and the service goes on only when this has ended.
    let done = tokio::task::spawn_blocking(move || {
        let parts = running.parts();
        let done = defragment(&parts.backend, &parts.db_path, Some(&parts.metrics));
        parts.serving.send_replace(true);
        log::info!("grpc service status changed", "service" => "", "status" => "SERVING");
        done
    });
    match done.await {
        Ok(Ok(())) => {
            log::info!("finished defragment");
            Ok(())
        }
        Ok(Err(error)) => {
            log::warn!("failed to defragment", "error" => error.to_string());
            Err(error.into())
        }
        Err(_) => Err(api::error::Error::Stopped),
    }
}

fn sizes((total, used): (u64, u64)) -> [Field<'static>; 4] {
    [
        ("current-db-size-bytes", total.into()),
        ("current-db-size", size::text(total).into()),
        ("current-db-size-in-use-bytes", used.into()),
        ("current-db-size-in-use", size::text(used).into()),
    ]
}
