//! The hub: runs [`Groups`] and has the cluster's side done.
//!
//! One task on the first worker owns all of it; streams on any worker tell it what they want, and take
//! what they get from their [`Outlet`]. The queue to it is unbounded, but every watch in it was answered
//! by the cluster first, and what comes from the cluster waits nowhere else.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use client::{Client, Watcher};
use proto::etcdserverpb as pb;
use server::log;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::AbortHandle;

use super::body::Body;
use super::groups::{BroadcastId, Effect, Groups, Range, StreamId, Watch};
use super::outlet::Outlet;
use crate::grpc::counters::Counters;
use crate::grpc::namespace::Namespace;

/// What the hub is told.
pub(crate) enum Input {
    /// A watch that may be.
    Add(Watch),
    /// An answer to a request that made no watch, in its place among the others.
    Refuse(Arc<Outlet>, Arc<Body>),
    /// A watch is no longer wanted.
    Cancel(StreamId, i64),
    /// A stream has ended.
    Gone(StreamId),
    /// From the cluster.
    Response(BroadcastId, Box<pb::WatchResponse>),
    /// The cluster ended a watch that asked for a leader, since there is none.
    LeaderLost(BroadcastId),
}

/// The way to the hub.
pub(crate) type Inputs = UnboundedSender<Input>;

/// What the hub works with.
pub(crate) struct Hub {
    client: Client,
    namespace: Namespace,
    counters: Arc<Counters>,
    groups: Groups,
    inputs: Inputs,
    open: HashMap<BroadcastId, Open>,
    watchers: HashMap<Wish, Shared>,
}

/// A watch at the cluster.
struct Open {
    task: AbortHandle,
    wish: Wish,
}

/// On whose behalf a stream is open, and whether it ends when there is no leader.
type Wish = (Option<Arc<str>>, bool);

/// One stream for all watches with the same wish.
struct Shared {
    watcher: Watcher,
    watches: usize,
}

impl Hub {
    pub(crate) fn new(
        client: Client,
        namespace: Namespace,
        counters: Arc<Counters>,
    ) -> (Self, UnboundedReceiver<Input>) {
        let (inputs, queue) = mpsc::unbounded_channel();
        let (groups, open, watchers) = (Groups::default(), HashMap::new(), HashMap::new());
        (Self { client, namespace, counters, groups, inputs, open, watchers }, queue)
    }

    pub(crate) fn inputs(&self) -> Inputs {
        self.inputs.clone()
    }

    /// Runs for ever.
    pub(crate) async fn run(mut self, mut queue: UnboundedReceiver<Input>) {
        while let Some(input) = queue.recv().await {
            self.handle(input);
            for effect in self.groups.take_effects() {
                match effect {
                    Effect::Open { id, range, start_revision, token } => {
                        self.open(id, range, start_revision, token);
                    }
                    Effect::Close { id } => self.close(id),
                }
            }
            self.counters.watchers_coalescing.store(self.groups.coalesced, Ordering::Relaxed);
            self.counters.events_coalescing.store(self.groups.spared, Ordering::Relaxed);
        }
    }

    fn handle(&mut self, input: Input) {
        match input {
            Input::Add(watch) => self.groups.add(watch),
            Input::Refuse(outlet, body) => outlet.push(-1, &body),
            Input::Cancel(stream, id) => self.groups.cancel(stream, id),
            Input::Gone(stream) => self.groups.stream_gone(stream),
            Input::Response(id, response) => self.groups.response(id, &response),
            Input::LeaderLost(id) => self.groups.leader_lost(id),
        }
    }

    fn open(&mut self, id: BroadcastId, range: Range, start_revision: i64, token: Option<Arc<str>>) {
        log::debug!("watch", "key" => String::from_utf8_lossy(&range.key).into_owned());
        let Range { mut key, mut range_end, needs_leader } = range;
        let wish = (token, needs_leader);
        let shared = self.watchers.entry(wish.clone()).or_insert_with(|| {
            let client = match &wish.0 {
                Some(token) => self.client.with_token(token),
                None => self.client.clone(),
            };
            Shared { watcher: client.watcher(needs_leader), watches: 0 }
        });
        shared.watches += 1;
        self.namespace.enter(&mut key, &mut range_end);
        let mut watch = shared.watcher.watch(pb::WatchCreateRequest {
            key,
            range_end,
            start_revision,
            progress_notify: true,
            prev_kv: true,
            ..Default::default()
        });
        let (inputs, namespace) = (self.inputs.clone(), self.namespace.clone());
        let task = tokio::spawn(async move {
            while let Some(answer) = watch.next().await {
                let input = match answer {
                    Ok(mut response) => {
                        namespace.leave_events(&mut response.events);
                        Input::Response(id, Box::new(response))
                    }
                    Err(error) if needs_leader && error.is_server("no leader") => Input::LeaderLost(id),
                    Err(error) => Input::Response(id, Box::new(ended(&error))),
                };
                // The hub ends after this task, if at all.
                let _ = inputs.send(input);
            }
        });
        self.open.insert(id, Open { task: task.abort_handle(), wish });
    }

    fn close(&mut self, id: BroadcastId) {
        let Some(open) = self.open.remove(&id) else { return };
        open.task.abort();
        if let Some(shared) = self.watchers.get_mut(&open.wish) {
            shared.watches -= 1;
            if shared.watches == 0 {
                self.watchers.remove(&open.wish);
            }
        }
    }
}

/// What callers are told when the way to the cluster fails for good.
fn ended(error: &client::Error) -> pb::WatchResponse {
    pb::WatchResponse { canceled: true, cancel_reason: error.to_string(), ..Default::default() }
}
