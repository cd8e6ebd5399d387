//! Locks and elections, made of leases, transactions and watches on the client's side.
//!
//! All contenders put a key `<name>/<lease id in hex>` attached to their session's lease. The
//! key with the lowest create revision holds the lock or leads; everybody else waits for the
//! deletion of the key just before its own, so one release wakes one waiter.
//!
//! **Source**: etcd `client/v3/concurrency`; keys and order are the same, so our sessions and
//! those of the Go client compete fairly.

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::CompareResult;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::response_op::Response as OpResponse;
use proto::mvccpb::KeyValue;
use proto::mvccpb::event::EventType;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::client::Client;
use crate::error::Error;
use crate::kv::{Compare, Txn, delete, get, prefix_end, put};

/// A lease that is kept alive, to which keys are attached.
pub struct Session {
    client: Client,
    lease: i64,
    over: watch::Receiver<bool>,
    task: AbortHandle,
}

impl Session {
    /// Grants a lease and keeps it alive.
    pub async fn new(client: &Client, ttl_seconds: i64) -> Result<Self, Error> {
        let client = client.without_timeout();
        let lease = client.grant(ttl_seconds).await?.id;
        let mut keep_alive = client.keep_alive(lease);
        let (ending, over) = watch::channel(false);
        let task = tokio::spawn(async move {
            while keep_alive.next().await.is_some() {}
            ending.send_replace(true);
        });
        Ok(Self { client, lease, over, task: task.abort_handle() })
    }

    /// The lease.
    pub fn lease(&self) -> i64 {
        self.lease
    }

    /// Waits until the lease is gone.
    pub async fn done(&self) {
        let _ = self.over.clone().wait_for(|over| *over).await;
    }

    /// Stops the renewals and revokes the lease.
    pub async fn close(self) -> Result<(), Error> {
        self.task.abort();
        self.client.revoke(self.lease).await.map(|_| ())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn own_key(prefix: &[u8], lease: i64) -> Bytes {
    let mut key = prefix.to_vec();
    key.extend_from_slice(format!("{lease:x}").as_bytes());
    key.into()
}

fn prefix_of(name: &[u8]) -> Vec<u8> {
    [name, b"/"].concat()
}

fn first_created(prefix: &[u8]) -> pb::RangeRequest {
    pb::RangeRequest {
        key: Bytes::copy_from_slice(prefix),
        range_end: prefix_end(prefix),
        sort_target: SortTarget::Create.into(),
        sort_order: SortOrder::Ascend.into(),
        limit: 1,
        ..Default::default()
    }
}

fn ranged(response: Option<&pb::ResponseOp>) -> Option<&KeyValue> {
    match response?.response.as_ref()? {
        OpResponse::ResponseRange(range) => range.kvs.first(),
        _ => None,
    }
}

fn attached(key: &Bytes, value: Bytes, lease: i64) -> Op {
    Op::RequestPut(pb::PutRequest { lease, ..put(key.clone(), value) })
}

/// A contender's place in line: its key, and when that was made.
struct Place<'a> {
    session: &'a Session,
    prefix: Vec<u8>,
    key: Bytes,
    /// 0 while there is no key.
    create_revision: i64,
}

impl<'a> Place<'a> {
    fn new(session: &'a Session, name: &[u8]) -> Self {
        let prefix = prefix_of(name);
        let key = own_key(&prefix, session.lease);
        Self { session, prefix, key, create_revision: 0 }
    }

    fn client(&self) -> &'a Client {
        &self.session.client
    }

    /// Puts the own key, unless it is there: then it is read. What else is to be read is read in the
    /// same transaction.
    async fn enter(
        &mut self,
        value: Bytes,
        beside: Option<pb::RangeRequest>,
    ) -> Result<pb::TxnResponse, Error> {
        let mut txn = Txn::new()
            .when(Compare::create_revision(self.key.clone(), CompareResult::Equal, 0))
            .and_then(attached(&self.key, value, self.session.lease))
            .or_else(Op::RequestRange(get(self.key.clone())));
        if let Some(range) = beside {
            txn = txn.and_then(Op::RequestRange(range.clone())).or_else(Op::RequestRange(range));
        }
        let response = self.client().txn(txn).await?;
        self.create_revision = match response.succeeded {
            true => response.header.as_ref().map_or(0, |header| header.revision),
            false => ranged(response.responses.first()).map_or(0, |kv| kv.create_revision),
        };
        Ok(response)
    }

    /// Waits until nobody who came earlier is left.
    async fn wait_turn(&self) -> Result<(), Error> {
        wait_deletes(self.client(), &self.prefix, self.create_revision - 1).await
    }
}

/// A lock.
pub struct Mutex<'a> {
    place: Place<'a>,
}

impl<'a> Mutex<'a> {
    /// A lock of this name. Nothing is sent yet.
    pub fn new(session: &'a Session, name: &[u8]) -> Self {
        Self { place: Place::new(session, name) }
    }

    /// The key that this contender owns.
    pub fn key(&self) -> &Bytes {
        &self.place.key
    }

    /// Waits for the lock. The header of the answer that gave it carries its revision.
    ///
    /// Not cancel-safe: after dropping this call [`Mutex::unlock`] gives up the place in line.
    pub async fn lock(&mut self) -> Result<pb::ResponseHeader, Error> {
        if let Some(header) = self.enter().await? {
            return Ok(header);
        }
        let waited = match self.place.wait_turn().await {
            Ok(()) => self.place.client().get(self.place.key.clone()).await,
            Err(error) => Err(error),
        };
        match waited {
            Ok(response) if response.kvs.is_empty() => Err(Error::SessionExpired),
            Ok(response) => Ok(response.header.unwrap_or_default()),
            Err(error) => {
                let _ = self.unlock().await;
                Err(error)
            }
        }
    }

    /// Takes the lock if nobody holds it.
    pub async fn try_lock(&mut self) -> Result<pb::ResponseHeader, Error> {
        if let Some(header) = self.enter().await? {
            return Ok(header);
        }
        self.unlock().await?;
        Err(Error::Locked)
    }

    /// Gets in line; gives the header if the lock is had with that.
    async fn enter(&mut self) -> Result<Option<pb::ResponseHeader>, Error> {
        let first = first_created(&self.place.prefix);
        let response = self.place.enter(Bytes::new(), Some(first)).await?;
        let own = self.place.create_revision;
        let owner = ranged(response.responses.get(1)).map_or(own, |kv| kv.create_revision);
        Ok((owner == own).then(|| response.header.unwrap_or_default()))
    }

    /// Releases the lock, or the place in line.
    pub async fn unlock(&mut self) -> Result<(), Error> {
        if self.place.create_revision <= 0 {
            return Err(Error::LockReleased);
        }
        self.place.client().delete(self.place.key.clone()).await?;
        self.place.create_revision = 0;
        Ok(())
    }
}

/// Waits until no key below `prefix` with a create revision up to `last` is left.
async fn wait_deletes(client: &Client, prefix: &[u8], last: i64) -> Result<(), Error> {
    loop {
        let request = pb::RangeRequest {
            sort_order: SortOrder::Descend.into(),
            max_create_revision: last,
            ..first_created(prefix)
        };
        let response = client.call(request).await?;
        let Some(before_us) = response.kvs.into_iter().next() else { return Ok(()) };
        let revision = response.header.map_or(0, |header| header.revision);
        wait_delete(client, before_us.key, revision).await?;
    }
}

async fn wait_delete(client: &Client, key: Bytes, from: i64) -> Result<(), Error> {
    let request = pb::WatchCreateRequest { key, start_revision: from, ..Default::default() };
    let mut watch = client.watch(request);
    while let Some(response) = watch.next().await {
        let response = response?;
        if response.events.iter().any(|event| event.r#type() == EventType::Delete) {
            return Ok(());
        }
        if let Some(error) = crate::watch::cancel_error(&response) {
            return Err(error);
        }
    }
    Err(Error::WatchLost)
}

/// An election.
pub struct Election<'a> {
    place: Place<'a>,
}

impl<'a> Election<'a> {
    /// An election of this name. Nothing is sent yet.
    pub fn new(session: &'a Session, name: &[u8]) -> Self {
        Self { place: Place::new(session, name) }
    }

    /// The key that this candidate owns.
    pub fn key(&self) -> &Bytes {
        &self.place.key
    }

    /// Stands for election with this proposal, until elected.
    ///
    /// Not cancel-safe: after dropping this call [`Election::resign`] gives up the candidacy.
    pub async fn campaign(&mut self, proposal: Bytes) -> Result<(), Error> {
        let response = self.place.enter(proposal.clone(), None).await?;
        if let Some(standing) = ranged(response.responses.first()).filter(|_| !response.succeeded)
            && standing.value != proposal
            && let Err(error) = self.proclaim(proposal).await
        {
            let _ = self.resign().await;
            return Err(error);
        }
        self.place.wait_turn().await
    }

    /// Changes the proposal without a new election.
    pub async fn proclaim(&mut self, proposal: Bytes) -> Result<(), Error> {
        if self.place.create_revision == 0 {
            return Err(Error::NotLeader);
        }
        let txn = self.if_mine().and_then(attached(&self.place.key, proposal, self.place.session.lease));
        match self.place.client().txn(txn).await?.succeeded {
            true => Ok(()),
            false => Err(Error::NotLeader),
        }
    }

    /// Gives up the leadership or the candidacy.
    pub async fn resign(&mut self) -> Result<(), Error> {
        if self.place.create_revision == 0 {
            return Ok(());
        }
        let txn = self.if_mine().and_then(Op::RequestDeleteRange(delete(self.place.key.clone())));
        self.place.create_revision = 0;
        self.place.client().txn(txn).await.map(|_| ())
    }

    fn if_mine(&self) -> Txn {
        let key = self.place.key.clone();
        Txn::new().when(Compare::create_revision(key, CompareResult::Equal, self.place.create_revision))
    }

    /// Calls `seen` with every proposal of every leader, as a read of the leader's key would show
    /// it, until the watch is lost.
    pub async fn observe(&self, mut seen: impl FnMut(pb::RangeResponse)) -> Result<(), Error> {
        loop {
            let (header, kv) = self.next_leader().await?;
            let (key, from) = (kv.key.clone(), header.revision + 1);
            seen(pb::RangeResponse { header: Some(header), kvs: vec![kv], ..Default::default() });
            self.follow(key, from, &mut seen).await?;
        }
    }

    async fn next_leader(&self) -> Result<(pb::ResponseHeader, KeyValue), Error> {
        let client = self.place.client();
        let response = client.call(first_created(&self.place.prefix)).await?;
        let header = response.header.unwrap_or_default();
        if let Some(leader) = response.kvs.into_iter().next() {
            return Ok((header, leader));
        }
        let mut watch = client.watch(pb::WatchCreateRequest {
            key: Bytes::copy_from_slice(&self.place.prefix),
            range_end: prefix_end(&self.place.prefix),
            start_revision: header.revision,
            ..Default::default()
        });
        while let Some(response) = watch.next().await {
            let response = response?;
            if let Some(error) = crate::watch::cancel_error(&response) {
                return Err(error);
            }
            let mut header = response.header.unwrap_or_default();
            let put = response.events.into_iter().find(|event| event.r#type() == EventType::Put);
            if let Some(kv) = put.and_then(|event| event.kv) {
                header.revision = kv.mod_revision;
                return Ok((header, kv));
            }
        }
        Err(Error::WatchLost)
    }

    /// Reports the proposals of one leader until its key is deleted.
    async fn follow(
        &self,
        key: Bytes,
        from: i64,
        seen: &mut impl FnMut(pb::RangeResponse),
    ) -> Result<(), Error> {
        let request = pb::WatchCreateRequest { key, start_revision: from, ..Default::default() };
        let mut watch = self.place.client().watch(request);
        while let Some(response) = watch.next().await {
            let response = response?;
            if let Some(error) = crate::watch::cancel_error(&response) {
                return Err(error);
            }
            for event in response.events {
                if event.r#type() == EventType::Delete {
                    return Ok(());
                }
                let header = response.header;
                seen(pb::RangeResponse { header, kvs: event.kv.into_iter().collect(), ..Default::default() });
            }
        }
        Err(Error::WatchLost)
    }
}
