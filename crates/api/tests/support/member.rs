//! A member without raft: every proposal is committed and applied at once, on a disk in memory.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use api::Error;
use api::error::PREFIX;
use api::grpc::{self, Listener, Options, Serving, Workers};
use api::http::HttpSide;
use api::member::{ClientCall, Config, LeaseTimes, Member, RaftStatus};
use api::services::{EtcdService, Passwords};
use apply::{Alarms, Applier, FollowUp, Quota, Reply, Shared};
use backend::Backend;
use env::sim::SimDisk;
use lease::{Lessor, RenewOutcome};
use membership::Cluster;
use mvcc::watch::Hub;
use mvcc::{CompactionJob, Store};
use parking_lot::Mutex;
use prost::Message;
use proto::etcdserverpb as pb;
use types::{ClusterId, CompatVersion, Entry, EntryKind, LeaseId, MemberId, Version};

pub const MEMBER: MemberId = MemberId(0x1234);
pub const CLUSTER: ClusterId = ClusterId(0x77);
pub const TERM: u64 = 2;

pub struct FakeMember {
    machine: Mutex<Machine>,
    store: Arc<Store>,
    hub: Hub,
    hub_worker: Mutex<Option<std::thread::JoinHandle<()>>>,
    backend: Backend,
    shared: Arc<Shared>,
    config: Config,
    pub raft: Mutex<RaftStatus>,
    /// What the next proposals and read indexes fail with.
    pub failure: Mutex<Option<Error>>,
    /// The lease clock.
    pub now: Mutex<Duration>,
    pub read_indexes: AtomicUsize,
    pub compactions_awaited: AtomicUsize,
    pub clients: Mutex<BTreeMap<String, usize>>,
    pub moved_to: Mutex<Option<MemberId>>,
    next_lease: AtomicI64,
    /// Proposals wait while this is set, until the caller gives up.
    pub stuck: AtomicBool,
    passwords: Passwords,
    /// What the health service says.
    pub serving: tokio::sync::watch::Sender<bool>,
}

struct Machine {
    applier: Applier,
    next_index: u64,
    jobs: Vec<CompactionJob>,
}

impl FakeMember {
    pub fn new(config: Config) -> Arc<Self> {
        let config = Config { cluster_id: CLUSTER, member_id: MEMBER, ..config };
        let options = backend::Options { initial_map_bytes: 1 << 26, ..Default::default() };
        let backend = Backend::open(Arc::new(SimDisk::new()), Path::new("db"), options).unwrap();
        let (store, _) = Store::open(backend.clone()).unwrap();
        let store = Arc::new(store);
        let watch_options =
            mvcc::watch::Options { progress_interval: config.progress_notify_interval, ..Default::default() };
        let (hub, worker) = Hub::new(store.clone(), watch_options);
        let started = std::time::Instant::now();
        let worker = std::thread::spawn(move || worker.run(|| started.elapsed(), |error| panic!("{error}")));
        let mut cluster = Cluster::new(CLUSTER, 1);
        let member = membership::Member {
            id: MEMBER,
            peer_urls: vec!["http://127.0.0.1:2380".into()],
            is_learner: false,
            attributes: membership::Attributes {
                name: "fake".into(),
                client_urls: vec!["http://127.0.0.1:2379".into()],
            },
        };
        cluster.apply(&membership::ConfChange::Add(member)).unwrap();
        cluster.set_version(config.compat.cluster_version());
        let mut lessor = Lessor::new(lease::Options::default());
        lessor.promote(Duration::ZERO, Duration::ZERO);
        let shared = Arc::new(Shared::new(cluster, Alarms::default(), lessor));
        let options =
            apply::Options { member: MEMBER, compat: config.compat, quota: config.quota, bcrypt_cost: 4 };
        let applier = Applier::new(options, backend.clone(), store.clone(), shared.clone());
        let raft = RaftStatus {
            leader: Some(MEMBER),
            term: TERM,
            applied_term: TERM,
            commit_index: 0,
            applied_index: 0,
            is_learner: false,
        };
        Arc::new(Self {
            machine: Mutex::new(Machine { applier, next_index: 1, jobs: Vec::new() }),
            store,
            hub,
            hub_worker: Mutex::new(Some(worker)),
            backend,
            shared,
            config,
            raft: Mutex::new(raft),
            failure: Mutex::default(),
            now: Mutex::default(),
            read_indexes: AtomicUsize::new(0),
            compactions_awaited: AtomicUsize::new(0),
            clients: Mutex::default(),
            moved_to: Mutex::default(),
            next_lease: AtomicI64::new(0x7000),
            stuck: AtomicBool::new(false),
            passwords: Passwords::new(4),
            serving: tokio::sync::watch::Sender::new(true),
        })
    }

    fn fail(&self) -> Result<(), Error> {
        self.failure.lock().clone().map_or(Ok(()), Err)
    }

    /// Applies a request now.
    pub fn apply(&self, mut request: pb::InternalRaftRequest) -> Result<Reply, Error> {
        self.fail()?;
        let mut machine = self.machine.lock();
        let index = machine.next_index;
        machine.next_index += 1;
        request.header.get_or_insert_default().id = (MEMBER.0 << 48) | index;
        if request.encoded_len() > self.config.max_request_bytes {
            return Err(Error::RequestTooLarge);
        }
        let data = request.encode_to_vec().into();
        let entry = Entry { index, term: TERM, kind: EntryKind::Normal, data };
        let applied = machine.applier.apply(&entry, *self.now.lock()).unwrap();
        {
            let mut raft = self.raft.lock();
            (raft.commit_index, raft.applied_index) = (index, index);
        }
        let mut raise = false;
        match applied.follow_up {
            Some(FollowUp::Compact(job)) => machine.jobs.push(job),
            Some(FollowUp::RaiseNoSpace) => raise = true,
            _ => {}
        }
        drop(machine);
        self.hub.publish(applied.events);
        if raise {
            let alarm = pb::AlarmRequest { action: 1, member_id: MEMBER.0, alarm: 1 };
            self.apply(pb::InternalRaftRequest { alarm: Some(Box::new(alarm)), ..Default::default() })?;
        }
        applied.result.map_err(Error::from)
    }
}

impl Drop for FakeMember {
    fn drop(&mut self) {
        self.hub.close();
        if let Some(worker) = self.hub_worker.lock().take() {
            worker.join().unwrap();
        }
    }
}

impl Member for FakeMember {
    async fn propose(&self, request: pb::InternalRaftRequest) -> Result<Reply, Error> {
        if self.stuck.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        self.apply(request)
    }

    async fn read_index(&self) -> Result<(), Error> {
        self.read_indexes.fetch_add(1, Ordering::SeqCst);
        self.fail()
    }

    async fn compaction_finished(&self) -> Result<(), Error> {
        self.compactions_awaited.fetch_add(1, Ordering::SeqCst);
        let jobs = std::mem::take(&mut self.machine.lock().jobs);
        for mut job in jobs {
            while !self.store.compaction_step(&mut job)?.finished {}
        }
        self.backend.commit()?;
        Ok(())
    }

    async fn renew_lease(&self, id: LeaseId) -> Result<i64, Error> {
        self.fail()?;
        match self.shared.lessor.lock().renew(id, *self.now.lock()) {
            RenewOutcome::Renewed(ttl_seconds) => Ok(ttl_seconds),
            RenewOutcome::NotFound | RenewOutcome::ExpiredPending | RenewOutcome::ClearCheckpointFirst => {
                Err(Error::LeaseNotFound)
            }
            RenewOutcome::NotPrimary => Err(Error::NoLeader),
        }
    }

    async fn lease_times(&self, id: LeaseId, keys: bool) -> Result<Option<LeaseTimes>, Error> {
        let lessor = self.shared.lessor.lock();
        Ok(lessor.time_to_live(id, *self.now.lock()).map(|times| LeaseTimes {
            granted_seconds: times.granted_seconds,
            remaining_seconds: times.remaining_seconds.unwrap_or(times.granted_seconds),
            keys: if keys { lessor.keys(id).unwrap_or_default() } else { Vec::new() },
        }))
    }

    fn new_lease_id(&self) -> LeaseId {
        LeaseId(self.next_lease.fetch_add(1, Ordering::SeqCst))
    }

    async fn move_leader(&self, to: MemberId) -> Result<(), Error> {
        *self.moved_to.lock() = Some(to);
        Ok(())
    }

    async fn change_members(&self, change: membership::ConfChange, _: Option<&str>) -> Result<(), Error> {
        self.fail()?;
        Ok(self.shared.cluster().validate(&change)?)
    }

    async fn wait_applied(&self, index: u64) -> Result<(), Error> {
        while self.raft.lock().applied_index < index {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn serving(&self) -> tokio::sync::watch::Receiver<bool> {
        self.serving.subscribe()
    }

    fn passwords(&self) -> &Passwords {
        &self.passwords
    }

    fn now(&self) -> Duration {
        *self.now.lock()
    }

    fn unix_seconds(&self) -> u64 {
        1_700_000_000
    }

    fn store(&self) -> &Arc<Store> {
        &self.store
    }

    fn hub(&self) -> &Hub {
        &self.hub
    }

    fn backend(&self) -> &Backend {
        &self.backend
    }

    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn raft(&self) -> RaftStatus {
        *self.raft.lock()
    }

    fn config(&self) -> &Config {
        &self.config
    }

    fn storage_version(&self) -> Option<Version> {
        self.config.compat.storage_version()
    }

    fn count_client(&self, kind: ClientCall, version: &str) {
        *self.clients.lock().entry(format!("{kind:?} {version}")).or_default() += 1;
    }
}

/// A member that is served.
pub struct Fixture {
    pub member: Arc<FakeMember>,
    pub workers: Arc<Workers>,
    pub serving: Serving,
}

pub fn start() -> Fixture {
    start_with(Config::default(), |_| {})
}

pub fn start_as(compat: CompatVersion) -> Fixture {
    start_with(Config { compat, ..Default::default() }, |_| {})
}

pub fn start_with(config: Config, adapt: impl FnOnce(&mut HttpSide)) -> Fixture {
    let member = FakeMember::new(config);
    let mut http = HttpSide::new(Box::new(|| "metric 1\n".into()), Box::new(|| "{}".into()));
    adapt(&mut http);
    let service = EtcdService::new(member.clone(), Arc::new(http));
    let workers = Arc::new(Workers::start(2, "api").unwrap());
    let listener = Listener::tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let serving = grpc::serve(&workers, listener, Options::default(), service).unwrap();
    Fixture { member, workers, serving }
}

impl Fixture {
    pub async fn client(&self) -> super::Client {
        super::Client::connect(self.serving.local_addr().unwrap()).await
    }
}

/// The text of a table error as it stands on the wire.
pub fn text(text: &str) -> String {
    format!("{PREFIX}{text}")
}

pub fn quota(bytes: i64) -> Config {
    Config { quota: Quota::from_flag(bytes), ..Default::default() }
}
