//! A member that holds still: reads are answered from a few keys, every proposal is refused.
//!
//! So one member serves all inputs of a run and no input leaves anything behind for the next.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use api::Error;
use api::member::{Config, LeaseTimes, Member, RaftStatus};
use api::services::Passwords;
use apply::{Alarms, Applier, Reply, Shared};
use backend::Backend;
use env::sim::SimDisk;
use lease::Lessor;
use membership::Cluster;
use mvcc::Store;
use mvcc::watch::Hub;
use prost::Message as _;
use proto::etcdserverpb as pb;
use types::{ClusterId, Entry, EntryKind, LeaseId, MemberId, Version};

const ID: MemberId = MemberId(1);

pub(crate) struct StillMember {
    store: Arc<Store>,
    hub: Hub,
    backend: Backend,
    shared: Shared,
    config: Config,
    passwords: Passwords,
}

/// The one member, whose watch thread runs until the process ends.
pub(crate) fn member() -> &'static Arc<StillMember> {
    static MEMBER: OnceLock<Arc<StillMember>> = OnceLock::new();
    MEMBER.get_or_init(|| Arc::new(StillMember::new().expect("a member on a healthy disk")))
}

impl StillMember {
    fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let options = backend::Options { initial_map_bytes: 1 << 20, ..Default::default() };
        let backend = Backend::open(Arc::new(SimDisk::new()), Path::new("db"), options)?;
        let (store, _) = Store::open(backend.clone())?;
        let store = Arc::new(store);
        let (hub, worker) = Hub::new(store.clone(), mvcc::watch::Options::default());
        std::thread::Builder::new().name("watch".into()).spawn(move || {
            worker.run(|| Duration::ZERO, |error| panic!("the watch worker failed: {error}"));
        })?;
        let config = Config { cluster_id: ClusterId(7), member_id: ID, ..Config::default() };
        let mut lessor = Lessor::new(lease::Options::default());
        lessor.promote(Duration::ZERO, Duration::ZERO);
        let shared = Arc::new(Shared::new(Cluster::new(ClusterId(7), 1), Alarms::default(), lessor));
        let options =
            apply::Options { member: ID, compat: config.compat, quota: config.quota, bcrypt_cost: 4 };
        let mut applier = Applier::new(options, backend.clone(), store.clone(), shared.clone());
        for (request, index) in content().into_iter().zip(1..) {
            let entry =
                Entry { index, term: 1, kind: EntryKind::Normal, data: request.encode_to_vec().into() };
            applier.apply(&entry, Duration::ZERO)?.result.map_err(|error| format!("{error:?}"))?;
        }
        drop(applier);
        let shared = Arc::into_inner(shared).ok_or("the applier has ended")?;
        Ok(Self { store, hub, backend, shared, config, passwords: Passwords::new(4) })
    }
}

fn content() -> Vec<pb::InternalRaftRequest> {
    let lease = pb::LeaseGrantRequest { id: 5, ttl: 1000 };
    let grant = pb::InternalRaftRequest { lease_grant: Some(lease), ..Default::default() };
    let put = |number: u8| pb::InternalRaftRequest {
        put: Some(pb::PutRequest {
            key: vec![b'k', b'0' + number % 5].into(),
            value: vec![number; usize::from(number)].into(),
            lease: i64::from(number % 2) * 5,
            ..Default::default()
        }),
        ..Default::default()
    };
    std::iter::once(grant).chain((0..12).map(put)).collect()
}

impl Member for StillMember {
    async fn propose(&self, _: pb::InternalRaftRequest) -> Result<Reply, Error> {
        Err(Error::TooManyRequests)
    }

    async fn read_index(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn compaction_finished(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn renew_lease(&self, id: LeaseId) -> Result<i64, Error> {
        Ok(if id == LeaseId(5) { 1000 } else { 0 })
    }

    async fn lease_times(&self, id: LeaseId, keys: bool) -> Result<Option<LeaseTimes>, Error> {
        let lessor = self.shared.lessor.lock();
        Ok(lessor.time_to_live(id, Duration::ZERO).map(|times| LeaseTimes {
            granted_seconds: times.granted_seconds,
            remaining_seconds: times.granted_seconds,
            keys: if keys { lessor.keys(id).unwrap_or_default() } else { Vec::new() },
        }))
    }

    fn new_lease_id(&self) -> LeaseId {
        LeaseId(0x7000)
    }

    async fn move_leader(&self, _: MemberId) -> Result<(), Error> {
        Ok(())
    }

    async fn change_members(&self, _: membership::ConfChange, _: Option<&str>) -> Result<(), Error> {
        Err(Error::TooManyRequests)
    }

    async fn wait_applied(&self, _: u64) -> Result<(), Error> {
        Ok(())
    }

    fn passwords(&self) -> &Passwords {
        &self.passwords
    }

    fn now(&self) -> Duration {
        Duration::ZERO
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
        RaftStatus {
            leader: Some(ID),
            term: 1,
            applied_term: 1,
            commit_index: 13,
            applied_index: 13,
            is_learner: false,
        }
    }

    fn config(&self) -> &Config {
        &self.config
    }

    fn storage_version(&self) -> Option<Version> {
        self.config.compat.storage_version()
    }
}
