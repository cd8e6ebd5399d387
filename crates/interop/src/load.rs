//! Clients that go on through faults, and remember everything for a check at the end.
//!
//! - *Clients* put, swap, delete and read a few keys (`kv/`), each through one member for some calls,
//!   or until it fails or does not answer in time, then through the next ([`crate::linearizability`] checks
//!   them).
//! - *Watchers* watch everything, and resume at the next member behind the last revision that they
//!   got, when a stream ends or is silent for too long. What they got in all must be the story,
//!   without gap or duplicate.
//! - *Holders* keep a lease with a key alive through all members. A key must not go before the TTL
//!   is over that was counted from the sending of the last confirmed renewal, and must go in the end.
//!
//! All of them live on one thread of their own: the test may block. Values are `client-number`, so
//! they are unique.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bench::load::ops::Draw;
use bench::wire::{Channel, Duplex, Method, Status};
use bytes::Bytes;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::response_op::Response;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{
    Compare, DeleteRangeResponse, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest,
    LeaseKeepAliveResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, ResponseHeader, TxnRequest,
    TxnResponse, WatchCreateRequest, WatchRequest, WatchResponse,
};
use proto::mvccpb::Event;
use proto::mvccpb::event::EventType;
use tokio::sync::watch;

use crate::block_on;
use crate::cluster::eventually;
use crate::linearizability::{self, Answer, Call, Op, Story, Summary};
use crate::scripts::{delete, get, put_op, range_op};

/// Keys of the clients begin like this.
pub const PREFIX: &str = "kv/";
const PREFIX_END: &str = "kv0";
/// How long a connection may take.
const CONNECT_PATIENCE: Duration = Duration::from_millis(500);
/// Pause after a member did not take a connection.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// A client moves on after so many calls, so that all members are always in use.
const CALLS_PER_MEMBER: usize = 20;
/// A watcher moves on when it hears nothing for so long.
const SILENCE: Duration = Duration::from_millis(1500);

/// Who is there.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Clients.
    pub clients: usize,
    /// Watchers.
    pub watchers: usize,
    /// Holders of leases.
    pub holders: usize,
    /// Keys that the clients share.
    pub keys: u64,
    /// Pause of a client after each answer, about.
    pub pause: Duration,
    /// How long a client waits for an answer.
    pub patience: Duration,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            clients: 6,
            watchers: 3,
            holders: 2,
            keys: 8,
            pause: Duration::from_millis(3),
            patience: Duration::from_secs(2),
        }
    }
}

struct Shared {
    plan: Plan,
    begun: Instant,
    members: Mutex<Vec<String>>,
    /// Writes acknowledged, in all and by member.
    written: AtomicU64,
    written_by: Mutex<BTreeMap<String, u64>>,
    /// Clients and holders that still work.
    busy: AtomicU64,
    stop: watch::Sender<bool>,
    /// Watchers end when they have got this revision.
    last: watch::Sender<Option<i64>>,
}

impl Shared {
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn member(&self, number: usize) -> String {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members[number % members.len()].clone()
    }

    fn stopped(&self) -> bool {
        *self.stop.borrow()
    }

    fn note_write(&self, member: &str) {
        self.written.fetch_add(1, Release);
        let mut by = self.written_by.lock().unwrap_or_else(PoisonError::into_inner);
        *by.entry(member.to_owned()).or_default() += 1;
    }
}

/// What was recorded.
#[derive(Default)]
struct Record {
    calls: Vec<Call>,
    watched: Vec<Vec<(Duration, Event)>>,
    leases: Vec<Held>,
}

/// A lease as its holder knows it.
struct Held {
    key: String,
    ttl: Duration,
    /// When each renewal that was confirmed later was sent; the grant is the first.
    confirmed: Vec<Duration>,
    /// When a member said that it is no more.
    lost: Option<Duration>,
}

/// Load on a cluster. See the module documentation.
pub struct Load {
    shared: Arc<Shared>,
    thread: JoinHandle<Record>,
}

/// What the check at the end found, for the log of a test.
#[derive(Debug)]
pub struct Report {
    /// The calls.
    pub summary: Summary,
    /// Revisions.
    pub revision: i64,
    /// Leases that were held.
    pub leases: usize,
    /// All calls.
    pub calls: Vec<Call>,
}

impl Load {
    /// Begins on these members (`host:port`).
    pub fn start(members: Vec<String>, plan: Plan, seed: u64) -> anyhow::Result<Self> {
        ensure!(!members.is_empty(), "no members");
        let shared = Arc::new(Shared {
            plan,
            begun: Instant::now(),
            members: Mutex::new(members),
            written: AtomicU64::new(0),
            written_by: Mutex::default(),
            busy: AtomicU64::new((plan.clients + plan.holders) as u64),
            stop: watch::Sender::new(false),
            last: watch::Sender::new(None),
        });
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new()
            .name("traffic".to_owned())
            .spawn(move || block_on(everybody(of_thread, seed)))?;
        Ok(Self { shared, thread })
    }

    /// Changes the members that are used, for everybody's next choice.
    pub fn use_members(&self, members: Vec<String>) {
        *self.shared.members.lock().unwrap_or_else(PoisonError::into_inner) = members;
    }

    /// Time since the beginning, as in the calls.
    pub fn now(&self) -> Duration {
        self.shared.now()
    }

    /// Writes acknowledged so far.
    pub fn written(&self) -> u64 {
        self.shared.written.load(Acquire)
    }

    /// Writes acknowledged so far by one member.
    pub fn written_by(&self, member: &str) -> u64 {
        let by = self.shared.written_by.lock().unwrap_or_else(PoisonError::into_inner);
        by.get(member).copied().unwrap_or(0)
    }

    /// Waits for so many more acknowledged writes.
    pub fn more(&self, writes: u64) -> anyhow::Result<()> {
        let goal = self.written() + writes;
        eventually(&format!("{writes} more writes are acknowledged"), || Ok(self.written() >= goal))
    }

    /// Waits for so many more acknowledged writes by one member.
    pub fn more_by(&self, member: &str, writes: u64) -> anyhow::Result<()> {
        let goal = self.written_by(member) + writes;
        eventually(&format!("{member} acknowledges {writes} more writes"), || {
            Ok(self.written_by(member) >= goal)
        })
    }

    /// Ends the traffic and checks all that was recorded against what each of these members holds.
    /// They must be well by now.
    pub fn finish(self, members: &[String]) -> anyhow::Result<Report> {
        self.shared.stop.send_replace(true);
        eventually("the clients end", || Ok(self.shared.busy.load(Acquire) == 0))?;
        self.use_members(members.to_vec());
        // Nobody renews the leases any more.
        let first = members.first().context("no members")?;
        eventually("the leases end", || {
            let left: RangeResponse = block_on(ask(first, "KV/Range", &range("lease/", "lease0")))?;
            Ok(left.kvs.is_empty())
        })?;
        let now: RangeResponse = block_on(ask(first, "KV/Range", &get("any")))?;
        let revision = revision_of(now.header);
        let mut stories = Vec::new();
        for member in members {
            let events =
                block_on(tell(member, revision)).with_context(|| format!("the story of {member}"))?;
            stories.push(Story::new(events).with_context(|| format!("the story of {member}"))?);
        }
        let story = &stories[0];
        ensure!(story.revision() == revision, "the story ends at {}, not {revision}", story.revision());
        for (other, member) in stories.iter().zip(members) {
            ensure!(other.events == story.events, "{member} tells another story than {first}");
        }
        self.shared.last.send_replace(Some(revision));
        let record = self.thread.join().ok().context("the traffic panicked")?;
        for (number, watched) in record.watched.iter().enumerate() {
            check_watched(watched, story).with_context(|| format!("watcher {number}"))?;
        }
        for held in &record.leases {
            check_lease(held, &record.watched)?;
        }
        let summary = linearizability::check(&record.calls, story, PREFIX)?;
        Ok(Report { summary, revision, leases: record.leases.len(), calls: record.calls })
    }
}

async fn everybody(shared: Arc<Shared>, seed: u64) -> Record {
    let plan = shared.plan;
    let clients = (0..plan.clients).map(|number| client(&shared, number, seed));
    let watchers = (0..plan.watchers).map(|number| watcher(&shared, number));
    let holders = (0..plan.holders).map(|number| holder(&shared, number));
    let (calls, watched, leases) = tokio::join!(
        futures_util::future::join_all(clients),
        futures_util::future::join_all(watchers),
        futures_util::future::join_all(holders),
    );
    Record {
        calls: calls.into_iter().flatten().collect(),
        watched,
        leases: leases.into_iter().flatten().collect(),
    }
}

fn revision_of(header: Option<ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

fn range(key: &str, end: &str) -> RangeRequest {
    crate::scripts::range(key, end)
}

async fn within<T>(patience: Duration, work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let late = Status { code: 4, message: "no answer in time".to_owned() };
    tokio::time::timeout(patience, work).await.unwrap_or(Err(late))
}

async fn connect(member: &str) -> Option<Channel> {
    let connected = within(CONNECT_PATIENCE, Channel::connect(member)).await;
    if connected.is_err() {
        tokio::time::sleep(RETRY_PAUSE).await;
    }
    connected.ok()
}

fn method(member: &str, name: &str) -> Method {
    Method::new(member, &format!("/etcdserverpb.{name}")).expect("a member has a valid address")
}

/// One call with a connection of its own.
async fn ask<R: prost::Message + Default>(
    member: &str,
    name: &str,
    request: &impl prost::Message,
) -> anyhow::Result<R> {
    let call = async { Channel::connect(member).await?.call(&method(member, name), request).await };
    Ok(within(crate::cluster::PATIENCE, call).await?)
}

// Clients

async fn client(shared: &Shared, number: usize, seed: u64) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut client = Client {
        number,
        draw: Draw::new(seed.wrapping_add(number as u64 + 1)),
        written: 0,
        seen: BTreeMap::new(),
    };
    let mut place = number;
    while !shared.stopped() {
        let member = shared.member(place);
        if let Some(channel) = connect(&member).await {
            client.work(shared, &member, &channel, &mut calls).await;
        }
        place += 1;
    }
    shared.busy.fetch_sub(1, Release);
    calls
}

struct Client {
    number: usize,
    draw: Draw,
    written: u64,
    /// Modification revision of each key when last seen.
    seen: BTreeMap<Bytes, i64>,
}

impl Client {
    /// Asks one member for a while, or until it fails.
    async fn work(&mut self, shared: &Shared, member: &str, channel: &Channel, calls: &mut Vec<Call>) {
        for _ in 0..CALLS_PER_MEMBER {
            if shared.stopped() {
                return;
            }
            let op = self.draw_op(shared.plan.keys);
            let called = shared.now();
            let answer = within(shared.plan.patience, perform(channel, member, &op)).await;
            let returned = shared.now();
            if let Ok((revision, answer)) = &answer {
                self.note(&op, *revision, answer);
                if *answer == Answer::Written {
                    shared.note_write(member);
                }
            }
            let failed = answer.is_err();
            let answer = answer.map_err(|status| status.to_string());
            calls.push(Call { client: self.number, member: member.to_owned(), op, called, returned, answer });
            if failed {
                return;
            }
            let pause = shared.plan.pause.as_micros() as u64;
            tokio::time::sleep(Duration::from_micros(self.draw.below(2 * pause + 1))).await;
        }
    }

    fn draw_op(&mut self, keys: u64) -> Op {
        let key: Bytes = format!("{PREFIX}{:02}", self.draw.below(keys)).into();
        match self.draw.below(100) {
            0..35 => Op::Put { key, value: self.value() },
            35..58 => {
                let expected = self.seen.get(&key).copied().unwrap_or(0);
                Op::Swap { key, expected, value: self.value() }
            }
            58..65 => Op::Delete { key },
            65..85 => Op::Read { key, end: Bytes::new(), serializable: false },
            85..92 => Op::Read { key, end: Bytes::new(), serializable: true },
            _ => Op::Read { key: PREFIX.into(), end: PREFIX_END.into(), serializable: false },
        }
    }

    fn value(&mut self) -> Bytes {
        self.written += 1;
        format!("{}-{}", self.number, self.written).into()
    }

    fn note(&mut self, op: &Op, revision: i64, answer: &Answer) {
        match (op, answer) {
            (Op::Put { key, .. } | Op::Swap { key, .. }, Answer::Written) => {
                self.seen.insert(key.clone(), revision);
            }
            (Op::Delete { key }, _) => drop(self.seen.remove(key)),
            (Op::Swap { key, .. }, Answer::Different(held)) => {
                self.seen.insert(key.clone(), held.as_ref().map_or(0, |kv| kv.mod_revision));
            }
            (_, Answer::Kvs(kvs)) => {
                self.seen.extend(kvs.iter().map(|kv| (kv.key.clone(), kv.mod_revision)));
            }
            _ => {}
        }
    }
}

async fn perform(channel: &Channel, member: &str, op: &Op) -> Result<(i64, Answer), Status> {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    match op {
        Op::Put { key, value } => {
            let request = PutRequest { key: key.clone(), value: value.clone(), ..Default::default() };
            let answer: PutResponse = channel.call(&method(member, "KV/Put"), &request).await?;
            Ok((revision_of(answer.header), Answer::Written))
        }
        Op::Delete { key } => {
            let request = delete(&text(key), "");
            let answer: DeleteRangeResponse =
                channel.call(&method(member, "KV/DeleteRange"), &request).await?;
            let told = if answer.deleted > 0 { Answer::Written } else { Answer::NothingThere };
            Ok((revision_of(answer.header), told))
        }
        Op::Read { key, end, serializable } => {
            let request = RangeRequest {
                key: key.clone(),
                range_end: end.clone(),
                serializable: *serializable,
                ..Default::default()
            };
            let answer: RangeResponse = channel.call(&method(member, "KV/Range"), &request).await?;
            Ok((revision_of(answer.header), Answer::Kvs(answer.kvs)))
        }
        Op::Swap { key, expected, value } => {
            let compare = Compare {
                result: CompareResult::Equal.into(),
                target: CompareTarget::Mod.into(),
                key: key.clone(),
                target_union: Some(TargetUnion::ModRevision(*expected)),
                ..Default::default()
            };
            let request = TxnRequest {
                compare: vec![compare],
                success: vec![put_op(&text(key), &text(value))],
                failure: vec![range_op(get(&text(key)))],
            };
            let answer: TxnResponse = channel.call(&method(member, "KV/Txn"), &request).await?;
            let revision = revision_of(answer.header);
            if answer.succeeded {
                return Ok((revision, Answer::Written));
            }
            match answer.responses.into_iter().next().and_then(|op| op.response) {
                Some(Response::ResponseRange(range)) => {
                    Ok((revision, Answer::Different(range.kvs.into_iter().next())))
                }
                other => Err(Status { code: 13, message: format!("a failed swap answers {other:?}") }),
            }
        }
    }
}

// Watchers

async fn open_watch(channel: &Channel, member: &str, start_revision: i64) -> Result<Duplex, Status> {
    let mut stream = channel.open(&method(member, "Watch/Watch")).await?;
    let everything = Bytes::from_static(b"\0");
    let create = WatchCreateRequest {
        key: everything.clone(),
        range_end: everything,
        start_revision,
        ..Default::default()
    };
    stream.send(&WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) })?;
    Ok(stream)
}

/// The events of the next response; none when it is about something else.
async fn next_events(stream: &mut Duplex) -> Result<Vec<Event>, Status> {
    let ended = || Status { code: 13, message: "the stream ended".to_owned() };
    let response: WatchResponse = stream.receive().await?.ok_or_else(ended)?;
    if response.canceled {
        return Err(Status { code: 13, message: format!("cancelled: {}", response.cancel_reason) });
    }
    Ok(response.events)
}

fn behind(events: &[Event]) -> Option<i64> {
    events.last().and_then(|event| event.kv.as_ref()).map(|kv| kv.mod_revision + 1)
}

/// Everything that a member knows up to a revision.
async fn tell(member: &str, revision: i64) -> anyhow::Result<Vec<Event>> {
    let channel = within(CONNECT_PATIENCE, Channel::connect(member)).await?;
    let mut stream = open_watch(&channel, member, 1).await?;
    let mut told = Vec::new();
    while behind(&told).unwrap_or(2) <= revision {
        told.extend(within(crate::cluster::PATIENCE, next_events(&mut stream)).await?);
    }
    told.retain(|event: &Event| event.kv.as_ref().is_some_and(|kv| kv.mod_revision <= revision));
    Ok(told)
}

async fn watcher(shared: &Shared, number: usize) -> Vec<(Duration, Event)> {
    let mut seen = Vec::new();
    let mut next = 1;
    let mut place = number;
    let done = |next: i64| shared.last.borrow().is_some_and(|last| next > last);
    while !done(next) {
        let member = shared.member(place);
        place += 1;
        let Some(channel) = connect(&member).await else { continue };
        let Ok(mut stream) = open_watch(&channel, &member, next).await else { continue };
        let mut last = shared.last.subscribe();
        while !done(next) {
            let events = tokio::select! {
                events = within(SILENCE, next_events(&mut stream)) => events,
                _ = last.changed() => continue,
            };
            let Ok(events) = events else { break };
            next = behind(&events).unwrap_or(next);
            let now = shared.now();
            seen.extend(events.into_iter().map(|event| (now, event)));
        }
    }
    seen
}

/// Whether a watcher got the story from its beginning, all of it, once.
fn check_watched(watched: &[(Duration, Event)], story: &Story) -> anyhow::Result<()> {
    let mut expected = story.events.iter();
    for (time, event) in watched {
        let Some(due) = expected.next() else {
            // It may have heard of what happened after the story was told.
            return Ok(());
        };
        ensure!(event == due, "at {time:?} it was told {event:?}; what comes next is {due:?}");
    }
    match expected.next() {
        Some(missing) => bail!("it was never told {missing:?}"),
        None => Ok(()),
    }
}

// Holders of leases

async fn holder(shared: &Shared, number: usize) -> Vec<Held> {
    let mut leases = Vec::new();
    let mut place = number;
    while !shared.stopped() {
        place += 1;
        let key = format!("lease/{number}/{place}");
        let asked = shared.now();
        let Ok((id, ttl)) = grant(&shared.member(place), &key, 3).await else {
            tokio::time::sleep(RETRY_PAUSE).await;
            continue;
        };
        let ttl = Duration::from_secs(ttl as u64);
        let mut held = Held { key, ttl, confirmed: vec![asked], lost: None };
        while !shared.stopped() && held.lost.is_none() {
            tokio::time::sleep(ttl / 6).await;
            place += 1;
            let asked = shared.now();
            match within(ttl / 4, renew(&shared.member(place), id)).await {
                Ok(0) => held.lost = Some(shared.now()),
                Ok(_) => held.confirmed.push(asked),
                Err(_) => {}
            }
        }
        leases.push(held);
    }
    shared.busy.fetch_sub(1, Release);
    leases
}

async fn grant(member: &str, key: &str, ttl: i64) -> Result<(i64, i64), Status> {
    let work = async {
        let channel = Channel::connect(member).await?;
        let request = LeaseGrantRequest { id: 0, ttl };
        let answer: LeaseGrantResponse = channel.call(&method(member, "Lease/LeaseGrant"), &request).await?;
        let put =
            PutRequest { key: key.to_owned().into(), lease: answer.id, ..crate::scripts::put(key, "held") };
        let _: PutResponse = channel.call(&method(member, "KV/Put"), &put).await?;
        Ok((answer.id, answer.ttl))
    };
    // A lease that ends before its key is put is tried again.
    within(Duration::from_secs(1), work).await
}

async fn renew(member: &str, id: i64) -> Result<i64, Status> {
    let channel = Channel::connect(member).await?;
    let mut stream = channel.open(&method(member, "Lease/LeaseKeepAlive")).await?;
    stream.send(&LeaseKeepAliveRequest { id })?;
    stream.half_close()?;
    let ended = || Status { code: 13, message: "the stream ended".to_owned() };
    let answer: LeaseKeepAliveResponse = stream.receive().await?.ok_or_else(ended)?;
    Ok(answer.ttl)
}

/// Whether a lease lasted as long as it had to. Its end is when the first watcher was told of it.
fn check_lease(held: &Held, watched: &[Vec<(Duration, Event)>]) -> anyhow::Result<()> {
    let gone = |event: &Event| {
        let named = event.kv.as_ref().is_some_and(|kv| kv.key == held.key.as_bytes());
        named && event.r#type() == EventType::Delete
    };
    let told = watched.iter().filter_map(|events| events.iter().find(|(_, event)| gone(event)));
    let ends = told.map(|(time, _)| *time).chain(held.lost).min();
    let end = ends.with_context(|| format!("{} never ended", held.key))?;
    let last = held.confirmed.iter().filter(|asked| **asked <= end).max();
    let due = last.map_or(Duration::ZERO, |asked| *asked + held.ttl);
    ensure!(
        end >= due,
        "{} of {:?} ended at {end:?}, but was confirmed for a renewal at {last:?}",
        held.key,
        held.ttl
    );
    Ok(())
}
