//! Steady traffic on a cluster while something happens to it: puts and reads at a fixed rate,
//! watchers of everything, a lease that is kept alive.
//!
//! Puts are sent at their time whether or not earlier ones were answered, so that
//! [`Traffic::longest_gap`] is a gap of the cluster and not of a client. A client that loses its
//! connection goes on at the next member, as real clients do; a watcher goes on at the revision
//! behind the last that it has.
//!
//! Runs on a thread of its own. What it saw comes out of [`Traffic::finish`], checked.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bench::wire::{Channel, Duplex, Method, Status};
use bytes::Bytes;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, PutResponse, RangeResponse, WatchCreateRequest,
    WatchRequest, WatchResponse,
};
use proto::mvccpb::Event;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::linearizability::{self, Answer, Call, Op, Story};
use crate::scripts::{get, put};

/// Clients that write; each sends its share of the rate.
const WRITERS: usize = 10;
/// Clients that read.
const READERS: usize = 2;
/// Keys that are written and read.
const KEYS: u64 = 7;
/// Where they are. Nobody else may write there.
const PREFIX: &str = "traffic/";
/// Revision 1 is the empty store.
const FIRST_REVISION: i64 = 2;
/// Reads a second, all readers together.
const READS_PER_SECOND: u32 = 40;
/// Longest wait of a client for an answer.
const CALL_PATIENCE: Duration = Duration::from_secs(10);
/// Pause before the next member is tried.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// Longest wait for a renewal: one member after the other may not know a leader.
const RENEW_PATIENCE: Duration = Duration::from_secs(2);
/// Time between two renewals of the lease.
const RENEW_INTERVAL: Duration = Duration::from_secs(1);
/// How long watchers may take to the last revision.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(30);

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Puts a second.
    pub puts_per_second: u32,
    /// Watchers of all keys.
    pub watchers: usize,
}

/// Traffic under way.
pub struct Traffic {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<anyhow::Result<Seen>>>,
}

struct Shared {
    epoch: Instant,
    /// Where members serve clients.
    members: Mutex<Vec<String>>,
    /// When puts were acknowledged.
    acknowledged: Mutex<Vec<Duration>>,
    stopping: AtomicBool,
    /// Why the traffic ended early.
    failure: Mutex<Option<String>>,
}

/// What came out.
#[derive(Debug)]
pub struct Seen {
    /// Puts and reads.
    pub calls: Vec<Call>,
    /// What every watcher was told.
    pub story: Story,
}

impl Traffic {
    /// Starts traffic on the members that serve at `members`; `lease` is kept alive.
    pub fn start(members: Vec<String>, rates: Rates, lease: Option<i64>) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            epoch: Instant::now(),
            members: Mutex::new(members),
            acknowledged: Mutex::default(),
            stopping: AtomicBool::new(false),
            failure: Mutex::default(),
        });
        let given = shared.clone();
        let thread = std::thread::Builder::new().name("traffic".to_owned()).spawn(move || {
            let seen = crate::block_on(Run::new(given.clone()).run(rates, lease));
            *lock(&given.failure) = seen.as_ref().err().map(|error| format!("{error:#}"));
            seen
        })?;
        let traffic = Self { shared, thread: Some(thread) };
        traffic.wait_for_acknowledged(1)?;
        Ok(traffic)
    }

    /// From now on clients that look for a member look here.
    pub fn set_members(&self, members: Vec<String>) {
        *lock(&self.shared.members) = members;
    }

    /// The longest time between two acknowledged puts since a moment.
    pub fn longest_gap(&self, since: Instant) -> Duration {
        let since = since.saturating_duration_since(self.shared.epoch);
        let now = self.shared.epoch.elapsed();
        let mut moments: Vec<Duration> = vec![since, now];
        moments.extend(lock(&self.shared.acknowledged).iter().filter(|at| (since..now).contains(*at)));
        moments.sort_unstable();
        moments.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// How many puts were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        lock(&self.shared.acknowledged).len()
    }

    /// Waits until so many more puts are acknowledged.
    ///
    /// # Errors
    /// They are not, in a time that is ample.
    pub fn wait_for_acknowledged(&self, more: usize) -> anyhow::Result<()> {
        let due = self.acknowledged() + more;
        crate::cluster::eventually("puts are acknowledged", || {
            let failure = lock(&self.shared.failure).clone();
            ensure!(failure.is_none(), "the traffic has ended: {}", failure.unwrap_or_default());
            Ok(self.acknowledged() >= due)
        })
    }

    /// Stops, waits until every watcher has everything, and checks that one order explains it all.
    ///
    /// # Errors
    /// A write was lost, a watcher missed something or got it twice, or a read was stale.
    pub fn finish(mut self) -> anyhow::Result<Seen> {
        self.shared.stopping.store(true, Relaxed);
        let thread = self.thread.take().context("the traffic runs")?;
        let Ok(seen) = thread.join() else { bail!("the traffic panicked") };
        let seen = seen?;
        linearizability::check(&seen.calls, &seen.story, PREFIX)?;
        Ok(seen)
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The clients of one run; all on one thread.
struct Run {
    shared: Arc<Shared>,
    next_value: Cell<u64>,
    /// The newest revision that any answer named.
    newest: Cell<i64>,
    /// No client will name another one.
    clients_done: Cell<bool>,
    calls: RefCell<Vec<Call>>,
    /// By revision: what the first watcher was told.
    told: RefCell<BTreeMap<i64, Vec<Event>>>,
}

impl Run {
    fn new(shared: Arc<Shared>) -> Rc<Self> {
        Rc::new(Self {
            shared,
            next_value: Cell::default(),
            newest: Cell::default(),
            clients_done: Cell::default(),
            calls: RefCell::default(),
            told: RefCell::default(),
        })
    }

    async fn run(self: Rc<Self>, rates: Rates, lease: Option<i64>) -> anyhow::Result<Seen> {
        let mut watchers = tokio::task::JoinSet::new();
        for number in 0..rates.watchers {
            watchers.spawn_local(self.clone().watch(Connection::new(self.clone(), number)));
        }
        let mut clients = tokio::task::JoinSet::new();
        for number in 0..WRITERS {
            let pause = Duration::from_secs(1) * WRITERS as u32 / rates.puts_per_second;
            clients.spawn_local(self.clone().write(Connection::new(self.clone(), number), pause));
        }
        for number in 0..READERS {
            let pause = Duration::from_secs(1) * READERS as u32 / READS_PER_SECOND;
            clients.spawn_local(self.clone().read(Connection::new(self.clone(), number), pause));
        }
        if let Some(lease) = lease {
            clients.spawn_local(self.clone().renew(Connection::new(self.clone(), 0), lease));
        }
        // A watcher that fails ends the run at once.
        while !clients.is_empty() {
            tokio::select! {
                client = clients.join_next() => client.context("a client")???,
                Some(watcher) = watchers.join_next() => {
                    watcher??;
                    bail!("a watcher ended");
                }
            }
        }
        self.clients_done.set(true);
        while let Some(watcher) = watchers.join_next().await {
            watcher??;
        }
        let events = self.told.take().into_values().flatten().collect();
        Ok(Seen { calls: self.calls.take(), story: Story::new(events)? })
    }

    fn stopping(&self) -> bool {
        self.shared.stopping.load(Relaxed)
    }

    fn now(&self) -> Duration {
        self.shared.epoch.elapsed()
    }

    /// Sends a put per tick.
    async fn write(self: Rc<Self>, connection: Connection, pause: Duration) -> anyhow::Result<()> {
        let connection = Rc::new(connection);
        let mut tick = interval(pause);
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut puts = tokio::task::JoinSet::new();
        while !self.stopping() {
            tick.tick().await;
            let Ok((channel, authority)) = connection.get().await else { continue };
            let (run, connection) = (self.clone(), connection.clone());
            puts.spawn_local(async move { run.put(&connection, &channel, &authority).await });
            while let Some(done) = puts.try_join_next() {
                done??;
            }
        }
        while let Some(done) = puts.join_next().await {
            done??;
        }
        Ok(())
    }

    async fn put(&self, connection: &Connection, channel: &Channel, authority: &str) -> anyhow::Result<()> {
        let number = self.next_value.replace(self.next_value.get() + 1);
        let (key, value) = (key(number), number.to_string());
        let method = Method::new(authority, "/etcdserverpb.KV/Put")?;
        let called = self.now();
        let result = timeout(CALL_PATIENCE, channel.call::<PutResponse>(&method, &put(&key, &value))).await;
        let answer = match result {
            Ok(Ok(answer)) => {
                let revision = answer.header.context("a header")?.revision;
                self.newest.set(self.newest.get().max(revision));
                let now = self.now();
                lock(&self.shared.acknowledged).push(now);
                Ok((revision, Answer::Written))
            }
            Ok(Err(status)) => {
                connection.failed(authority, &status);
                Err(status.to_string())
            }
            Err(_) => Err("no answer in time".to_owned()),
        };
        let op = Op::Put { key: key.into(), value: value.into() };
        self.note(connection, authority, op, called, answer);
        Ok(())
    }

    async fn read(self: Rc<Self>, connection: Connection, pause: Duration) -> anyhow::Result<()> {
        let mut tick = interval(pause);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut number = 0;
        while !self.stopping() {
            tick.tick().await;
            number += 1;
            // Every member is asked in turn.
            if number % 20 == 0 {
                connection.leave();
            }
            let Ok((channel, authority)) = connection.get().await else { continue };
            let key = key(number);
            let method = Method::new(&authority, "/etcdserverpb.KV/Range")?;
            let called = self.now();
            let result = timeout(CALL_PATIENCE, channel.call::<RangeResponse>(&method, &get(&key))).await;
            let answer = match result {
                Ok(Ok(answer)) => answer,
                Ok(Err(status)) => {
                    connection.failed(&authority, &status);
                    continue;
                }
                Err(_) => continue,
            };
            let revision = answer.header.context("a header")?.revision;
            self.newest.set(self.newest.get().max(revision));
            let op = Op::Read { key: key.into(), end: Bytes::new(), serializable: false };
            self.note(&connection, &authority, op, called, Ok((revision, Answer::Kvs(answer.kvs))));
        }
        Ok(())
    }

    fn note(
        &self,
        client: &Connection,
        member: &str,
        op: Op,
        called: Duration,
        answer: Result<(i64, Answer), String>,
    ) {
        let (client, member, returned) = (client.number, member.to_owned(), self.now());
        self.calls.borrow_mut().push(Call { client, member, op, called, returned, answer });
    }

    /// Renews a lease; it must never be gone.
    async fn renew(self: Rc<Self>, connection: Connection, lease: i64) -> anyhow::Result<()> {
        let mut tick = interval(RENEW_INTERVAL);
        while !self.stopping() {
            tick.tick().await;
            let Ok((channel, authority)) = connection.get().await else { continue };
            let renewed = timeout(RENEW_PATIENCE, renew_once(&channel, &authority, lease)).await;
            match renewed {
                Ok(Ok(ttl)) => ensure!(ttl > 0, "the lease that was kept alive is gone"),
                Ok(Err(status)) => connection.failed(&authority, &status),
                Err(_) => connection.leave(),
            }
        }
        Ok(())
    }

    /// Watches everything that ever happens, over reconnects.
    async fn watch(self: Rc<Self>, connection: Connection) -> anyhow::Result<()> {
        let mut next = FIRST_REVISION;
        loop {
            let Ok((channel, authority)) = connection.get().await else { continue };
            let ended = self.watch_once(&channel, &authority, &mut next).await;
            match ended {
                Ok(()) => return Ok(()),
                Err(Ended::Stream(_)) => connection.leave(),
                Err(Ended::Wrong(error)) => {
                    return Err(error.context(format!("a watcher at {authority}")));
                }
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    async fn watch_once(&self, channel: &Channel, authority: &str, next: &mut i64) -> Result<(), Ended> {
        let mut stream = open_watch(channel, authority, *next).await?;
        let mut until = None;
        loop {
            if self.clients_done.get() {
                let last = self.newest.get();
                let until = *until.get_or_insert_with(|| Instant::now() + CATCH_UP_PATIENCE);
                if *next > last {
                    return Ok(());
                }
                if Instant::now() > until {
                    let text = format!("it waits for revision {next}, {last} was answered");
                    return Err(Ended::Wrong(anyhow::anyhow!(text)));
                }
            }
            let Ok(received) = timeout(RENEW_INTERVAL, stream.receive::<WatchResponse>()).await else {
                continue;
            };
            let Some(response) = received? else {
                return Err(Ended::Stream(Status { code: 14, message: "the stream ended".to_owned() }));
            };
            if response.canceled {
                let why = format!("canceled at revision {next}: {}", response.cancel_reason);
                // A member that stops may say so before it goes.
                return Err(match response.compact_revision {
                    0 => Ended::Stream(Status { code: 14, message: why }),
                    _ => Ended::Wrong(anyhow::anyhow!(why)),
                });
            }
            self.take_events(response.events, next).map_err(Ended::Wrong)?;
        }
    }

    /// Every revision changes something, so none may be missing.
    fn take_events(&self, events: Vec<Event>, next: &mut i64) -> anyhow::Result<()> {
        let revision_of = |event: &Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
        let mut told = self.told.borrow_mut();
        for group in events.chunk_by(|left, right| revision_of(left) == revision_of(right)) {
            let revision = revision_of(&group[0]);
            ensure!(revision == *next, "revision {next} should follow, {revision} came");
            let known = told.entry(revision).or_insert_with(|| group.to_vec());
            ensure!(*known == group, "others were told {known:?} at revision {revision}, this one {group:?}");
            *next += 1;
        }
        Ok(())
    }
}

/// Why a watch is over.
enum Ended {
    /// The connection or the member.
    Stream(#[expect(dead_code, reason = "for the debugger")] Status),
    /// What it told cannot be.
    Wrong(anyhow::Error),
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        Self::Stream(status)
    }
}

fn key(number: u64) -> String {
    format!("{PREFIX}{}", number % KEYS)
}

async fn open_watch(channel: &Channel, authority: &str, from: i64) -> Result<Duplex, Status> {
    let method = Method::new(authority, "/etcdserverpb.Watch/Watch")
        .map_err(|error| Status { code: 3, message: error.to_string() })?;
    let mut stream = channel.open(&method).await?;
    let create = WatchCreateRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        start_revision: from,
        ..Default::default()
    };
    stream.send(&WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) })?;
    Ok(stream)
}

async fn renew_once(channel: &Channel, authority: &str, lease: i64) -> Result<i64, Status> {
    let method = Method::new(authority, "/etcdserverpb.Lease/LeaseKeepAlive")
        .map_err(|error| Status { code: 3, message: error.to_string() })?;
    let mut stream = channel.open(&method).await?;
    stream.send(&LeaseKeepAliveRequest { id: lease })?;
    let answer: Option<LeaseKeepAliveResponse> = stream.receive().await?;
    answer.map(|answer| answer.ttl).ok_or(Status { code: 14, message: "the stream ended".to_owned() })
}

/// A client's connection to one member after the other.
struct Connection {
    run: Rc<Run>,
    number: usize,
    turn: Cell<usize>,
    open: RefCell<Option<(Channel, String)>>,
}

impl Connection {
    fn new(run: Rc<Run>, number: usize) -> Self {
        Self { run, number, turn: Cell::new(number), open: RefCell::default() }
    }

    /// The connection, made if there is none; pauses if it cannot be made.
    async fn get(&self) -> Result<(Channel, String), Status> {
        if let Some(open) = &*self.open.borrow() {
            return Ok(open.clone());
        }
        let authority = {
            let members = lock(&self.run.shared.members);
            members[self.turn.get() % members.len()].clone()
        };
        match Channel::connect(&authority).await {
            Ok(channel) => {
                *self.open.borrow_mut() = Some((channel.clone(), authority.clone()));
                Ok((channel, authority))
            }
            Err(status) => {
                self.turn.set(self.turn.get() + 1);
                tokio::time::sleep(RETRY_PAUSE).await;
                Err(status)
            }
        }
    }

    /// Goes to the next member if a call to this one found nobody there.
    fn failed(&self, authority: &str, status: &Status) {
        let stops = status.message.starts_with("transport:") || status.message.contains("server stopped");
        let current = self.open.borrow().as_ref().is_some_and(|(_, open)| open == authority);
        if stops && current {
            self.leave();
        }
    }

    /// Goes to the next member.
    fn leave(&self) {
        self.open.take();
        self.turn.set(self.turn.get() + 1);
    }
}
