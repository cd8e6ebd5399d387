//! Watches.

use anyhow::Context;
use proto::etcdserverpb::WatchCreateRequest;
use proto::etcdserverpb::watch_request::RequestUnion;

use super::{FROM_KEY, delete, delete_op, put, put_op};
use crate::script::{Script, bytes};

fn on(key: &str, end: &str) -> WatchCreateRequest {
    WatchCreateRequest { key: bytes(key), range_end: bytes(end), ..Default::default() }
}

/// Live events, history, filters, previous values.
pub async fn events(s: &mut Script) -> anyhow::Result<()> {
    s.seed("old", "1").await?;
    s.seed("old", "2").await?;
    let mut w = s.watch().await?;
    w.create(on("k", "l"))?;
    s.watch_response("watch/created", &mut w).await;
    s.put("watch/put", put("k1", "1")).await;
    s.watch_events("watch/a put", &mut w, 1).await;
    s.put("watch/other key", put("other", "1")).await;
    s.delete("watch/delete", delete("k1", "")).await;
    s.watch_events("watch/a delete", &mut w, 1).await;
    let ops = vec![put_op("k2", "1"), put_op("k3", "1"), delete_op("old", ""), put_op("k4", "1")];
    s.txn("watch/txn", proto::etcdserverpb::TxnRequest { success: ops, ..Default::default() }).await;
    s.watch_events("watch/events of one revision", &mut w, 3).await;
    w.create(WatchCreateRequest { start_revision: 2, ..on("old", "") })?;
    s.watch_response("watch/created with history", &mut w).await;
    s.watch_events("watch/history", &mut w, 3).await;
    w.create(WatchCreateRequest { start_revision: 3, prev_kv: true, ..on("old", "") })?;
    s.watch_response("watch/created with prev_kv", &mut w).await;
    s.watch_events("watch/history with prev_kv", &mut w, 2).await;
    w.create(WatchCreateRequest { start_revision: 2, filters: vec![0], ..on("old", "") })?;
    s.watch_response("watch/created without puts", &mut w).await;
    s.watch_events("watch/only the delete", &mut w, 1).await;
    w.create(WatchCreateRequest { start_revision: 2, filters: vec![1, 7], ..on("old", "") })?;
    s.watch_response("watch/created without deletes", &mut w).await;
    s.watch_events("watch/only the puts", &mut w, 2).await;
    w.create(WatchCreateRequest { start_revision: 7, ..on("", FROM_KEY) })?;
    s.watch_response("watch/created over everything", &mut w).await;
    s.watch_events("watch/everything from 7", &mut w, 4).await;
    Ok(())
}

/// Ids, refusals, cancels.
pub async fn control(s: &mut Script) -> anyhow::Result<()> {
    s.seed("k", "1").await?;
    let mut w = s.watch().await?;
    for name in ["first", "second"] {
        w.create(on("k", ""))?;
        s.watch_response(&format!("watch/{name} assigned id"), &mut w).await;
    }
    w.create(WatchCreateRequest { watch_id: 7, ..on("k", "") })?;
    s.watch_response("watch/chosen id", &mut w).await;
    w.create(WatchCreateRequest { watch_id: 7, ..on("k", "") })?;
    s.watch_response("watch/id in use", &mut w).await;
    w.create(WatchCreateRequest { watch_id: -5, ..on("k", "") })?;
    s.watch_response("watch/negative id", &mut w).await;
    w.create(on("b", "a"))?;
    s.watch_response("watch/reversed range", &mut w).await;
    w.create(on("b", "b"))?;
    s.watch_response("watch/empty range", &mut w).await;
    w.create(WatchCreateRequest { start_revision: -1, ..on("k", "") })?;
    s.watch_response("watch/negative start", &mut w).await;
    w.cancel(1)?;
    s.watch_response("watch/cancel", &mut w).await;
    // An unknown id gets no answer: the next response belongs to the next request.
    w.cancel(99)?;
    w.create(on("k", ""))?;
    s.watch_response("watch/after a cancel of an unknown id", &mut w).await;
    w.cancel(7)?;
    s.watch_response("watch/cancel the chosen id", &mut w).await;
    w.create(WatchCreateRequest { watch_id: 7, ..on("k", "") })?;
    s.watch_response("watch/the id is free again", &mut w).await;
    w.progress()?;
    s.watch_response("watch/progress", &mut w).await;
    w.create(WatchCreateRequest { start_revision: 1000, ..on("k", "") })?;
    s.watch_response("watch/future start", &mut w).await;
    w.half_close()?;
    s.put("watch/put after half-close", put("k", "2")).await;
    s.watch_events("watch/events go on after half-close", &mut w, 4).await;
    Ok(())
}

/// A watch below the compaction point.
pub async fn compacted(s: &mut Script) -> anyhow::Result<()> {
    for number in 0..5 {
        s.seed("k", &number.to_string()).await?;
    }
    s.compact("watch/compact", 4, true).await;
    let mut w = s.watch().await?;
    w.create(WatchCreateRequest { start_revision: 2, ..on("k", "") })?;
    s.watch_response("watch/created below the compaction", &mut w).await;
    s.watch_response("watch/cancelled by the compaction", &mut w).await;
    w.create(WatchCreateRequest { start_revision: 4, prev_kv: true, ..on("k", "") })?;
    s.watch_response("watch/created at the compaction", &mut w).await;
    s.watch_events("watch/history from the compaction", &mut w, 3).await;
    w.cancel(0)?;
    s.watch_response("watch/cancel of the compacted one", &mut w).await;
    // A request without content is ignored: the next response belongs to the next one.
    w.send(RequestUnion::CancelRequest(proto::etcdserverpb::WatchCancelRequest { watch_id: 50 }))?;
    w.create(WatchCreateRequest { progress_notify: true, ..on("k", "") })?;
    s.watch_response("watch/created with progress", &mut w).await;
    s.put("watch/one more", put("k", "last")).await;
    s.watch_events("watch/both see it", &mut w, 2).await;
    let mut quiet = s.watch().await?;
    quiet.create(on("never", ""))?;
    quiet.next().await?.context("the stream ended")?;
    quiet.progress()?;
    s.watch_response("watch/progress of a quiet stream", &mut quiet).await;
    Ok(())
}

/// A response that has to be cut, and one that must not be.
pub async fn fragments(s: &mut Script) -> anyhow::Result<()> {
    let value = "v".repeat(600_000);
    for number in 0..5 {
        s.seed(format!("k{number}"), &value).await?;
    }
    for fragment in [true, false] {
        let mut w = s.watch().await?;
        w.create(WatchCreateRequest { start_revision: 2, fragment, ..on("k", "l") })?;
        w.next().await?.context("the stream ended")?;
        let mut shape = String::new();
        let mut events = 0;
        while events < 5 {
            let response = w.next().await?.context("the stream ended")?;
            events += response.events.len();
            shape += &format!("{} events, fragment {}\n", response.events.len(), response.fragment);
        }
        s.note(&format!("watch/fragments {fragment}"), &shape);
    }
    Ok(())
}
