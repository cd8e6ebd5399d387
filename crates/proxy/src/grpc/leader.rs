//! Whether the cluster has a leader: for renewals whose callers ask to be cut off when it has none. Watches
//! hear of it by themselves.
//!
//! A watch on a key that nobody writes, at a revision that never comes, on a stream that the cluster
//! itself cuts off. It begins when the first caller asks. With auth on the cluster refuses it, and
//! callers are not cut off.
//!
//! **Source**: etcd `server/proxy/grpcproxy/leader.go`.

use std::sync::Once;
use std::time::Duration;

use api::grpc::{CallContext, Code, Status};
use client::Client;
use proto::etcdserverpb as pb;
use tokio::sync::watch;

const KEY: &str = "__lostleader";
const NEVER: i64 = i64::MAX - 2;
/// What callers are told.
pub(crate) const NO_LEADER: &str = "etcdserver: no leader";
const RETRY: Duration = Duration::from_millis(500);

/// What is known of the leader.
pub(crate) struct Leader {
    client: Client,
    runtime: tokio::runtime::Handle,
    begin: Once,
    /// `None` until the cluster was asked.
    known: watch::Sender<Option<bool>>,
}

impl Leader {
    /// To be made on the thread whose client this is; the watch will run there.
    pub(crate) fn new(client: Client) -> Self {
        let runtime = tokio::runtime::Handle::current();
        Self { client, runtime, begin: Once::new(), known: watch::channel(None).0 }
    }

    /// Comes back when a caller who wants a leader has none; for all others never.
    pub(crate) async fn lost_for(&self, context: &CallContext) -> Status {
        if !context.requires_leader() {
            return std::future::pending().await;
        }
        self.begin.call_once(|| {
            self.runtime.spawn(observe(self.client.clone(), self.known.clone()));
        });
        let mut known = self.known.subscribe();
        // The sender lives as long as we do.
        let _ = known.wait_for(|known| *known == Some(false)).await;
        Status::new(Code::Unavailable, NO_LEADER)
    }
}

async fn observe(client: Client, known: watch::Sender<Option<bool>>) {
    loop {
        let watcher = client.watcher(true);
        let mut watch = watcher.watch_and_notify(pb::WatchCreateRequest {
            key: KEY.into(),
            start_revision: NEVER,
            ..Default::default()
        });
        let lost = loop {
            match watch.next().await {
                Some(Ok(response)) if !response.canceled => drop(known.send_replace(Some(true))),
                Some(Err(error)) => break error.is_server("no leader"),
                // With auth on nobody in particular may watch, so nothing is known.
                Some(Ok(_)) | None => break false,
            }
        };
        known.send_replace(Some(!lost));
        tokio::time::sleep(RETRY).await;
    }
}
