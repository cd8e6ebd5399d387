//! The Lock and Election services: recipes over transactions and watches, run inside the server.
//!
//! A contender puts a key `<name>/<lease in hex>` that lives as long as its lease; the oldest key
//! under the prefix owns the lock or leads. Everybody waits for the key right before its own.
//!
//! Upstream runs these as a client of its own server, whose errors lose their codes: here, too,
//! they arrive as Unknown with the usual text.
//!
//! **Source**: etcd `server/etcdserver/api/{v3lock,v3election}`, `client/v3/concurrency`.

use std::sync::Arc;

use bytes::Bytes;
use mvcc::EventKind;
use pb::request_op::Request;
use pb::response_op::Response;
use proto::{etcdserverpb as pb, mvccpb, v3electionpb as electionpb, v3lockpb as lockpb};
use types::{KeyRange, LeaseId};

use super::watch::Watcher;
use super::{access, kv, lease};
use crate::error::Error;
use crate::grpc::{CallContext, Code, Responses, Status};
use crate::member::{Headers, Member};

/// TTL of a lease that the server grants for a caller without one. Nobody keeps it alive.
const SESSION_TTL_SECONDS: i64 = 60;

/// `Lock.Lock`. Dropping the future gives the place in the queue back.
pub async fn lock<M: Member>(
    member: &Arc<M>,
    context: &CallContext,
    request: lockpb::LockRequest,
) -> Result<lockpb::LockResponse, Error> {
    try_lock(member, context, request).await.map_err(as_client_error)
}

async fn try_lock<M: Member>(
    member: &Arc<M>,
    context: &CallContext,
    request: lockpb::LockRequest,
) -> Result<lockpb::LockResponse, Error> {
    let lease = session_lease(&**member, context, request.lease).await?;
    let prefix = prefix_of(&request.name);
    let key = contender_key(&prefix, lease);
    let oldest = || op(Request::RequestRange(oldest_under(&prefix)));
    let response =
        contend(&**member, context, &key, lease, Bytes::new(), vec![oldest()], vec![oldest()]).await?;
    let header = response.header;
    let mine = own_revision(&response)?;
    let owner = match response.responses.get(1).map(|response| &response.response) {
        Some(Some(Response::ResponseRange(range))) => range.kvs.first(),
        _ => None,
    };
    if owner.is_none_or(|owner| owner.create_revision == mine) {
        return Ok(lockpb::LockResponse { header, key });
    }
    let place = Place::hold(member, context, &key);
    wait_for_deletions(&**member, context, &prefix, mine - 1).await?;
    let own =
        kv::range(&**member, context, pb::RangeRequest { key: key.clone(), ..Default::default() }).await?;
    place.keep();
    if own.kvs.is_empty() {
        return Err(Error::Other("mutex: session is expired".to_owned()));
    }
    Ok(lockpb::LockResponse { header: own.header, key })
}

/// `Lock.Unlock`. An unknown key is fine.
pub async fn unlock<M: Member>(
    member: &M,
    context: &CallContext,
    request: lockpb::UnlockRequest,
) -> Result<lockpb::UnlockResponse, Error> {
    let delete = pb::DeleteRangeRequest { key: request.key, ..Default::default() };
    let response = kv::delete_range(member, context, delete).await.map_err(as_client_error)?;
    Ok(lockpb::UnlockResponse { header: response.header })
}

/// `Election.Campaign`. Dropping the future withdraws the candidate.
pub async fn campaign<M: Member>(
    member: &Arc<M>,
    context: &CallContext,
    request: electionpb::CampaignRequest,
) -> Result<electionpb::CampaignResponse, Error> {
    try_campaign(member, context, request).await.map_err(as_client_error)
}

async fn try_campaign<M: Member>(
    member: &Arc<M>,
    context: &CallContext,
    request: electionpb::CampaignRequest,
) -> Result<electionpb::CampaignResponse, Error> {
    let lease = session_lease(&**member, context, request.lease).await?;
    let prefix = prefix_of(&request.name);
    let key = contender_key(&prefix, lease);
    let response = contend(&**member, context, &key, lease, request.value.clone(), vec![], vec![]).await?;
    let rev = own_revision(&response)?;
    let place = Place::hold(member, context, &key);
    let leader = electionpb::LeaderKey { name: request.name, key: key.clone(), rev, lease: lease.0 };
    if let Some(existing) = own_record(&response)
        && existing.value != request.value
    {
        put_if_created_at(&**member, context, &leader, request.value).await?;
    }
    wait_for_deletions(&**member, context, &prefix, rev - 1).await?;
    place.keep();
    Ok(electionpb::CampaignResponse { header: response.header, leader: Some(leader) })
}

/// `Election.Proclaim`.
pub async fn proclaim<M: Member>(
    member: &M,
    context: &CallContext,
    request: electionpb::ProclaimRequest,
) -> Result<electionpb::ProclaimResponse, Error> {
    let leader = request.leader.ok_or_else(missing_leader)?;
    session_lease(member, context, leader.lease).await.map_err(as_client_error)?;
    let header = put_if_created_at(member, context, &leader, request.value).await.map_err(as_client_error)?;
    Ok(electionpb::ProclaimResponse { header })
}

/// `Election.Resign`. Not leading is fine.
pub async fn resign<M: Member>(
    member: &M,
    context: &CallContext,
    request: electionpb::ResignRequest,
) -> Result<electionpb::ResignResponse, Error> {
    let leader = request.leader.ok_or_else(missing_leader)?;
    session_lease(member, context, leader.lease).await.map_err(as_client_error)?;
    let delete = pb::DeleteRangeRequest { key: leader.key.clone(), ..Default::default() };
    let txn = pb::TxnRequest {
        compare: vec![created_at(leader.key, leader.rev)],
        success: vec![op(Request::RequestDeleteRange(delete))],
        failure: vec![],
    };
    let response = kv::txn(member, context, txn).await.map_err(as_client_error)?;
    Ok(electionpb::ResignResponse { header: response.header })
}

/// `Election.Leader`.
pub async fn leader<M: Member>(
    member: &M,
    context: &CallContext,
    request: electionpb::LeaderRequest,
) -> Result<electionpb::LeaderResponse, Error> {
    let reply =
        kv::range(member, context, oldest_under(&prefix_of(&request.name))).await.map_err(as_client_error)?;
    match reply.decode_kvs().map_err(as_client_error)?.pop() {
        Some(kv) => Ok(electionpb::LeaderResponse { header: reply.header, kv: Some(kv) }),
        None => Err(as_client_error(Error::Other("election: no leader".to_owned()))),
    }
}

/// `Election.Observe`: the leader's value now, each new one, then the next leader's. As upstream has
/// it, a refused read or a watch that ends just ends the stream.
pub async fn observe<M: Member>(
    member: &M,
    context: &CallContext,
    request: electionpb::LeaderRequest,
    responses: &mut Responses,
) -> Result<(), Error> {
    match follow_leaders(member, context, request, responses).await {
        Err(Error::Other(_)) => Ok(()),
        outcome => outcome,
    }
}

async fn follow_leaders<M: Member>(
    member: &M,
    context: &CallContext,
    request: electionpb::LeaderRequest,
    responses: &mut Responses,
) -> Result<(), Error> {
    let prefix = prefix_of(&request.name);
    loop {
        let reply = kv::range(member, context, oldest_under(&prefix)).await.map_err(as_client_error)?;
        let read_revision = reply.header.map_or(0, |header| header.revision);
        let (revision, kv) = match reply.decode_kvs()?.pop() {
            Some(kv) => (read_revision, kv),
            None => {
                let end = prefix_end(&prefix);
                let mut puts = watcher(member, context, prefix.clone(), end, read_revision).await?;
                loop {
                    let event = or_gone(puts.next(), responses).await?;
                    if event.kind == EventKind::Put {
                        break (event.kv.mod_revision, event.kv);
                    }
                }
            }
        };
        let key = kv.key.clone();
        let header = Some(member.header_at(revision));
        responses.send(&electionpb::LeaderResponse { header, kv: Some(kv) }).await?;
        let mut changes = watcher(member, context, key, Bytes::new(), revision + 1).await?;
        loop {
            let event = or_gone(changes.next(), responses).await?;
            if event.kind == EventKind::Delete {
                break;
            }
            let header = Some(member.header_at(event.revision));
            responses.send(&electionpb::LeaderResponse { header, kv: Some(event.kv) }).await?;
        }
    }
}

/// Waits for an event, or for the caller to take the call back.
async fn or_gone<T>(
    next: impl Future<Output = Result<T, Error>>,
    responses: &mut Responses,
) -> Result<T, Error> {
    let gone = std::future::poll_fn(|cx| responses.poll_gone(cx));
    tokio::select! {
        biased;
        next = next => next.map_err(as_client_error),
        () = gone => Err(Error::Status(Status::canceled())),
    }
}

/// The lease to contend with: the caller's, or a new one.
async fn session_lease<M: Member>(member: &M, context: &CallContext, id: i64) -> Result<LeaseId, Error> {
    if id != 0 {
        return Ok(LeaseId(id));
    }
    let grant = pb::LeaseGrantRequest { id: 0, ttl: SESSION_TTL_SECONDS };
    lease::grant(member, context, grant).await.map(|granted| LeaseId(granted.id))
}

fn prefix_of(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// Go prints a negative number in hex with a minus sign.
fn contender_key(prefix: &[u8], lease: LeaseId) -> Bytes {
    let sign = if lease.0 < 0 { "-" } else { "" };
    [prefix, format!("{sign}{:x}", lease.0.unsigned_abs()).as_bytes()].concat().into()
}

/// First key behind all that begin with `prefix`.
fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(b"\0")
}

fn oldest_under(prefix: &Bytes) -> pb::RangeRequest {
    by_creation(prefix, pb::range_request::SortOrder::Ascend)
}

fn by_creation(prefix: &Bytes, order: pb::range_request::SortOrder) -> pb::RangeRequest {
    pb::RangeRequest {
        key: prefix.clone(),
        range_end: prefix_end(prefix),
        limit: 1,
        sort_order: order as i32,
        sort_target: pb::range_request::SortTarget::Create as i32,
        ..Default::default()
    }
}

fn op(request: Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn created_at(key: Bytes, revision: i64) -> pb::Compare {
    pb::Compare {
        result: pb::compare::CompareResult::Equal as i32,
        target: pb::compare::CompareTarget::Create as i32,
        key,
        target_union: Some(pb::compare::TargetUnion::CreateRevision(revision)),
        ..Default::default()
    }
}

/// Enters the queue, or finds the own key there.
async fn contend<M: Member>(
    member: &M,
    context: &CallContext,
    key: &Bytes,
    lease: LeaseId,
    value: Bytes,
    mut if_new: Vec<pb::RequestOp>,
    mut if_there: Vec<pb::RequestOp>,
) -> Result<pb::TxnResponse, Error> {
    let put = pb::PutRequest { key: key.clone(), value, lease: lease.0, ..Default::default() };
    if_new.insert(0, op(Request::RequestPut(put)));
    let get = pb::RangeRequest { key: key.clone(), ..Default::default() };
    if_there.insert(0, op(Request::RequestRange(get)));
    let txn =
        pb::TxnRequest { compare: vec![created_at(key.clone(), 0)], success: if_new, failure: if_there };
    kv::txn(member, context, txn).await
}

/// The own key as it was found.
fn own_record(response: &pb::TxnResponse) -> Option<&mvccpb::KeyValue> {
    match response.responses.first().map(|response| &response.response) {
        Some(Some(Response::ResponseRange(range))) => range.kvs.first(),
        _ => None,
    }
}

/// Creation revision of the own key.
fn own_revision(response: &pb::TxnResponse) -> Result<i64, Error> {
    if response.succeeded {
        return Ok(response.header.map_or(0, |header| header.revision));
    }
    let found = own_record(response).map(|kv| kv.create_revision);
    found.ok_or_else(|| {
        Error::Other("etcdserver: the contender's key is missing in its transaction".to_owned())
    })
}

async fn put_if_created_at<M: Member>(
    member: &M,
    context: &CallContext,
    leader: &electionpb::LeaderKey,
    value: Bytes,
) -> Result<Option<pb::ResponseHeader>, Error> {
    let put = pb::PutRequest { key: leader.key.clone(), value, lease: leader.lease, ..Default::default() };
    let txn = pb::TxnRequest {
        compare: vec![created_at(leader.key.clone(), leader.rev)],
        success: vec![op(Request::RequestPut(put))],
        failure: vec![],
    };
    let response = kv::txn(member, context, txn).await?;
    match response.succeeded {
        true => Ok(response.header),
        false => Err(Error::Other("election: not leader".to_owned())),
    }
}

/// Returns when no key under the prefix is as old as `max_create_revision`.
async fn wait_for_deletions<M: Member>(
    member: &M,
    context: &CallContext,
    prefix: &Bytes,
    max_create_revision: i64,
) -> Result<(), Error> {
    loop {
        let newest_before = pb::RangeRequest {
            max_create_revision,
            ..by_creation(prefix, pb::range_request::SortOrder::Descend)
        };
        let reply = kv::range(member, context, newest_before).await?;
        let Some(before) = reply.decode_kvs()?.pop() else { return Ok(()) };
        let revision = reply.header.map_or(0, |header| header.revision);
        let mut changes = watcher(member, context, before.key, Bytes::new(), revision).await?;
        while changes.next().await?.kind != EventKind::Delete {}
    }
}

/// A watcher in the caller's name.
async fn watcher<M: Member>(
    member: &M,
    context: &CallContext,
    key: Bytes,
    range_end: Bytes,
    start_revision: i64,
) -> Result<Watcher, Error> {
    if member.shared().auth().is_enabled() {
        Box::pin(access::may_read(member, context, &key, &range_end)).await?;
    }
    let range = KeyRange::from_wire(key, range_end);
    Watcher::new(member, range, start_revision).map_err(|error| Error::Other(error.to_string()))
}

/// A place in the queue that is given back unless it is kept.
struct Place<M: Member> {
    member: Arc<M>,
    context: CallContext,
    key: Option<Bytes>,
}

impl<M: Member> Place<M> {
    fn hold(member: &Arc<M>, context: &CallContext, key: &Bytes) -> Self {
        Self { member: member.clone(), context: context.clone(), key: Some(key.clone()) }
    }

    fn keep(mut self) {
        self.key = None;
    }
}

impl<M: Member> Drop for Place<M> {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let (member, context) = (self.member.clone(), self.context.clone());
        // The caller has gone; the deletion goes on without it.
        tokio::task::spawn_local(async move {
            let delete = pb::DeleteRangeRequest { key, ..Default::default() };
            if let Err(error) = kv::delete_range(&*member, &context, delete).await {
                tracing::warn!(%error, "failed to delete the key of a contender that gave up");
            }
        });
    }
}

fn missing_leader() -> Error {
    Error::Status(Status::new(Code::Unknown, "\"leader\" field must be provided"))
}

/// The same text with the code that a client's error object has on the server.
fn as_client_error(error: Error) -> Error {
    match error {
        Error::Status(status) if status.code == Code::Canceled => Error::Status(status),
        error => Error::Other(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_recipes() {
        assert_eq!(contender_key(b"name/", LeaseId(0x1f)), "name/1f");
        assert_eq!(contender_key(b"name/", LeaseId(-1)), "name/-1");
        assert_eq!(prefix_end(b"name/"), "name0");
        assert_eq!(&prefix_end(b"a\xff")[..], b"b");
        assert_eq!(&prefix_end(b"\xff")[..], b"\0");
    }
}
