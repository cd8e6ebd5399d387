//! The watchers of a load run.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};

use super::ops::{Methods, Shared, Workload};
use super::report::{Class, Samples};
use super::{LoadPlan, Window};
use crate::wire::{Channel, Duplex};

/// Watchers over the whole prefix in the `kube` workload: one per API server of a usual cluster.
const KUBE_WATCHERS: usize = 3;
/// Streams per connection.
const STREAMS_PER_CONNECTION: usize = 10;

pub(super) struct Watchers {
    streams: Vec<Duplex>,
    timed: bool,
    epoch: Instant,
    _channels: Vec<Channel>,
}

/// Opens all watchers and waits until each is confirmed.
pub(super) async fn open(
    plan: &LoadPlan,
    shared: &Shared,
    servers: &[(String, Rc<Methods>)],
) -> anyhow::Result<Watchers> {
    let fan_out = shared.workload == Workload::Watch;
    let (watchers, streams) = if fan_out {
        (plan.watchers, plan.watch_streams.clamp(1, plan.watchers.max(1)))
    } else {
        (KUBE_WATCHERS, KUBE_WATCHERS)
    };
    let mut channels = Vec::new();
    let mut opened = Vec::new();
    for number in 0..streams {
        let (authority, methods) = &servers[number % servers.len()];
        if number.is_multiple_of(STREAMS_PER_CONNECTION) {
            channels.push(Channel::connect(authority).await?);
        }
        let channel = channels.last().context("no connection")?;
        let mut stream = channel.open(&methods.watch).await?;
        let mut expected = 0;
        for watcher in (number..watchers).step_by(streams) {
            let (key, range_end) = match fan_out {
                true => (shared.space.key(watcher as u64 % shared.space.keys), Bytes::new()),
                false => (Bytes::from(shared.space.prefix.clone()), shared.space.end()),
            };
            let create = WatchCreateRequest { key, range_end, ..Default::default() };
            stream.send(&WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) })?;
            expected += 1;
        }
        while expected > 0 {
            let answer: WatchResponse = stream.receive().await?.context("the watch stream ended")?;
            ensure!(answer.created && !answer.canceled, "a watcher was refused: {}", answer.cancel_reason);
            expected -= 1;
        }
        opened.push(stream);
    }
    Ok(Watchers { streams: opened, timed: fan_out, epoch: shared.epoch, _channels: channels })
}

impl Watchers {
    /// Starts reading events.
    pub(super) fn read(self, samples: Rc<RefCell<Samples>>, window: Window) -> Readers {
        let tasks = self
            .streams
            .into_iter()
            .map(|stream| {
                let samples = samples.clone();
                tokio::task::spawn_local(read_stream(stream, samples, window, self.timed, self.epoch))
            })
            .collect();
        Readers { tasks, _channels: self._channels }
    }
}

pub(super) struct Readers {
    tasks: Vec<tokio::task::JoinHandle<anyhow::Result<()>>>,
    _channels: Vec<Channel>,
}

impl Readers {
    /// Stops reading; a reader that ended before is a failure.
    pub(super) async fn finish(self) -> anyhow::Result<()> {
        for task in self.tasks {
            if task.is_finished() {
                task.await??;
            } else {
                task.abort();
            }
        }
        Ok(())
    }
}

async fn read_stream(
    mut stream: Duplex,
    samples: Rc<RefCell<Samples>>,
    window: Window,
    timed: bool,
    epoch: Instant,
) -> anyhow::Result<()> {
    loop {
        let response: WatchResponse = stream.receive().await?.context("the watch stream ended")?;
        let now = Instant::now();
        ensure!(!response.canceled, "a watcher was cancelled: {}", response.cancel_reason);
        if !window.covers(now) {
            continue;
        }
        let arrived = now - epoch;
        let mut samples = samples.borrow_mut();
        for event in &response.events {
            let value = event.kv.as_ref().map_or(&[][..], |kv| &kv.value[..]);
            let latency = match value.first_chunk::<8>() {
                Some(sent) if timed => {
                    arrived.saturating_sub(Duration::from_nanos(u64::from_be_bytes(*sent)))
                }
                _ => Duration::ZERO,
            };
            samples.record(Class::Event, latency);
        }
    }
}
