//! The watchers of a load run.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};

use super::ops::{Methods, Shared, Workload};
use super::report::{Class, Samples};
use super::{LoadPlan, Window};
use crate::wire::{Channel, Duplex};

/// Watchers over the whole prefix in the `kube` workload, each with its own connection: one per API server of
/// a usual cluster.
const KUBE_WATCHERS: usize = 3;
/// Streams per connection of the `watch` workload.
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
    let (watchers, streams, streams_per_connection) = if fan_out {
        (plan.watchers, plan.watch_streams.clamp(1, plan.watchers.max(1)), STREAMS_PER_CONNECTION)
    } else {
        (KUBE_WATCHERS, KUBE_WATCHERS, 1)
    };
    let mut channels = Vec::new();
    let mut opened = Vec::new();
    for number in 0..streams {
        let (authority, methods) = &servers[number % servers.len()];
        if number.is_multiple_of(streams_per_connection) {
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
    /// Reads events to the end of the window. A stream that ends before is a failure.
    pub(super) async fn read(self, window: Window) -> anyhow::Result<Samples> {
        let samples = Rc::new(RefCell::new(Samples::default()));
        let readers = self
            .streams
            .into_iter()
            .map(|stream| read_stream(stream, samples.clone(), window, self.timed, self.epoch))
            .map(tokio::task::spawn_local)
            .collect::<Vec<_>>();
        tokio::time::sleep_until(tokio::time::Instant::from_std(window.end)).await;
        for reader in readers {
            if reader.is_finished() {
                reader.await??;
            } else {
                reader.abort();
            }
        }
        Ok(samples.take())
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
        let response: Changes = stream.receive().await?.context("the watch stream ended")?;
        let now = Instant::now();
        ensure!(!response.canceled, "a watcher was cancelled: {}", response.cancel_reason);
        if !window.covers(now) {
            continue;
        }
        let arrived = now - epoch;
        let mut samples = samples.borrow_mut();
        for event in response.events {
            let latency = match timed.then(|| sent_at(event)).transpose()?.flatten() {
                Some(sent) => arrived.saturating_sub(sent),
                None => Duration::ZERO,
            };
            samples.record(Class::Event, latency);
        }
    }
}

/// What has to be known of a `WatchResponse`; the rest is skipped unread, as what the load uses of a core that it
/// shares with the server is missing there.
#[derive(Clone, PartialEq, Message)]
struct Changes {
    #[prost(bool, tag = "4")]
    canceled: bool,
    #[prost(string, tag = "6")]
    cancel_reason: String,
    /// `Event` each.
    #[prost(bytes = "bytes", repeated, tag = "11")]
    events: Vec<Bytes>,
}

/// What has to be known of an `Event`.
#[derive(Clone, PartialEq, Message)]
struct Change {
    #[prost(message, optional, tag = "2")]
    kv: Option<Written>,
}

/// What has to be known of a `KeyValue`.
#[derive(Clone, PartialEq, Message)]
struct Written {
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}

/// When the put of an event was sent, by the beginning of its value, since the epoch.
fn sent_at(event: Bytes) -> anyhow::Result<Option<Duration>> {
    let value = Change::decode(event)?.kv.unwrap_or_default().value;
    Ok(value.first_chunk::<8>().map(|sent| Duration::from_nanos(u64::from_be_bytes(*sent))))
}

#[cfg(test)]
mod tests {
    use proto::etcdserverpb::ResponseHeader;
    use proto::mvccpb::{Event, KeyValue};

    use super::*;

    #[test]
    fn of_a_response_its_changes_are_known() {
        let kv =
            |value: &'static [u8]| KeyValue { key: "k".into(), value: value.into(), ..Default::default() };
        let event = |value| Event { kv: Some(kv(value)), prev_kv: Some(kv(b"before")), ..Default::default() };
        let response = WatchResponse {
            header: Some(ResponseHeader { revision: 7, ..Default::default() }),
            watch_id: 3,
            canceled: true,
            cancel_reason: "why".into(),
            compact_revision: 5,
            events: vec![event(b"\0\0\0\0\0\0\x01\0and more"), event(b"short")],
            ..Default::default()
        };
        let changes = Changes::decode(response.encode_to_vec().as_slice()).unwrap();
        assert!(changes.canceled);
        assert_eq!(changes.cancel_reason, "why");
        let sent: Vec<_> = changes.events.into_iter().map(|event| sent_at(event).unwrap()).collect();
        assert_eq!(sent, [Some(Duration::from_nanos(256)), None]);
    }
}
