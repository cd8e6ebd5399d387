//! From a path to the service function, with the checks that every call passes.
//!
//! **Source**: etcd `server/etcdserver/api/v3rpc/{grpc,interceptor}.go`.

use std::rc::Rc;
use std::sync::Arc;

use http::{Request, Response};
use prost::Message;
use proto::etcdserverpb as pb;

use super::methods::{METHODS, id, path};
use super::{auth, cluster, concurrency, health, kv, lease, maintenance, reflection, watch};
use crate::error::Error;
use crate::grpc::{
    Call, CallContext, Caller, HttpBody, MethodId, MethodInfo, Reply, Requests, Responses, Service,
};
use crate::http::HttpSide;
use crate::json;
use crate::member::{ClientCall, Member};

/// All services of a member on one port: gRPC and HTTP/1.
pub struct EtcdService<M> {
    member: Arc<M>,
    http: Arc<HttpSide>,
}

impl<M> Clone for EtcdService<M> {
    fn clone(&self) -> Self {
        Self { member: self.member.clone(), http: self.http.clone() }
    }
}

/// Whether a learner answers this request.
type OnLearner<Req> = fn(&Req) -> bool;

/// Most requests go to voters only.
fn voters_only<Req>(_: &Req) -> bool {
    false
}

impl<M: Member> EtcdService<M> {
    /// The services of a member.
    pub fn new(member: Arc<M>, http: Arc<HttpSide>) -> Self {
        Self { member, http }
    }

    /// The member behind the services.
    pub fn member(&self) -> &Arc<M> {
        &self.member
    }

    pub(crate) fn http_side(&self) -> &HttpSide {
        &self.http
    }

    /// The methods served, in the order of the counters.
    pub const fn methods() -> &'static [MethodInfo] {
        METHODS
    }

    fn unary<Req, Res, H>(self: &Rc<Self>, call: Call, id: MethodId, handler: H)
    where
        Req: Message + Default + 'static,
        Res: Reply + 'static,
        H: AsyncFnOnce(&M, &CallContext, Req) -> Result<Res, Error> + 'static,
    {
        self.unary_on(call, id, voters_only, handler);
    }

    fn unary_on<Req, Res, H>(
        self: &Rc<Self>,
        call: Call,
        id: MethodId,
        on_learner: OnLearner<Req>,
        handler: H,
    ) where
        Req: Message + Default + 'static,
        Res: Reply + 'static,
        H: AsyncFnOnce(&M, &CallContext, Req) -> Result<Res, Error> + 'static,
    {
        let this = self.clone();
        call.unary(id, async move |request: Req, context: CallContext| {
            let member = &*this.member;
            let outcome = match admit(member, &context, ClientCall::Unary, || on_learner(&request)) {
                Ok(()) => handler(member, &context, request).await,
                Err(error) => Err(error),
            };
            outcome.map_err(|error| error.status_for(member.config().compat))
        });
    }

    /// A call whose handler may wait for long: it is dropped when the caller gives up.
    fn waiting<Req, Res, H>(self: &Rc<Self>, call: Call, id: MethodId, handler: H)
    where
        Req: Message + Default + 'static,
        Res: Reply + 'static,
        H: AsyncFnOnce(&Arc<M>, &CallContext, Req) -> Result<Res, Error> + 'static,
    {
        let this = self.clone();
        call.unary_cancelable(id, async move |request: Req, context: CallContext| {
            let outcome = match admit(&*this.member, &context, ClientCall::Unary, || false) {
                Ok(()) => handler(&this.member, &context, request).await,
                Err(error) => Err(error),
            };
            outcome.map_err(|error| error.status_for(this.member.config().compat))
        });
    }

    fn server_stream<Req, H>(self: &Rc<Self>, call: Call, id: MethodId, on_learner: bool, handler: H)
    where
        Req: Message + Default + 'static,
        H: AsyncFnOnce(&M, &CallContext, Req, &mut Responses) -> Result<(), Error> + 'static,
    {
        let this = self.clone();
        call.server_stream(id, async move |request: Req, context, responses: &mut Responses| {
            let member = &*this.member;
            let work = async {
                admit(member, &context, ClientCall::Stream, || on_learner)?;
                handler(member, &context, request, responses).await
            };
            let outcome = with_leader(member, &context, work).await;
            outcome.map_err(|error| error.status_for(member.config().compat))
        });
    }

    fn bidi<Req, H>(self: &Rc<Self>, call: Call, id: MethodId, handler: H)
    where
        Req: Message + Default + 'static,
        H: AsyncFnOnce(&M, &CallContext, Requests<Req>, &mut Responses) -> Result<(), Error> + 'static,
    {
        let this = self.clone();
        call.bidi(id, async move |requests: Requests<Req>, context, responses: &mut Responses| {
            let member = &*this.member;
            let work = async {
                admit(member, &context, ClientCall::Stream, || false)?;
                handler(member, &context, requests, responses).await
            };
            let outcome = with_leader(member, &context, work).await;
            outcome.map_err(|error| error.status_for(member.config().compat))
        });
    }
}

impl<M: Member> Service for EtcdService<M> {
    const METHODS: &'static [MethodInfo] = METHODS;

    fn grpc(self: &Rc<Self>, call: Call) {
        match call.path() {
            path::PUT => self.unary(call, id::PUT, kv::put),
            path::RANGE => {
                self.unary_on(call, id::RANGE, |request: &pb::RangeRequest| request.serializable, kv::range);
            }
            path::TXN => self.unary(call, id::TXN, kv::txn),
            path::DELETE_RANGE => self.unary(call, id::DELETE_RANGE, kv::delete_range),
            path::RANGE_STREAM => self.server_stream(call, id::RANGE_STREAM, false, kv::range_stream),
            path::COMPACT => self.unary(call, id::COMPACT, kv::compact),
            path::WATCH => self.bidi(call, id::WATCH, watch::watch),
            path::LEASE_GRANT => self.unary(call, id::LEASE_GRANT, lease::grant),
            path::LEASE_REVOKE => self.unary(call, id::LEASE_REVOKE, lease::revoke),
            path::LEASE_KEEP_ALIVE => self.bidi(call, id::LEASE_KEEP_ALIVE, lease::keep_alive),
            path::LEASE_TIME_TO_LIVE => self.unary(call, id::LEASE_TIME_TO_LIVE, lease::time_to_live),
            path::LEASE_LEASES => self.unary(call, id::LEASE_LEASES, lease::leases),
            path::MEMBER_LIST => self.unary(call, id::MEMBER_LIST, cluster::member_list),
            path::MEMBER_ADD => self.unary(call, id::MEMBER_ADD, cluster::member_add),
            path::MEMBER_REMOVE => self.unary(call, id::MEMBER_REMOVE, cluster::member_remove),
            path::MEMBER_UPDATE => self.unary(call, id::MEMBER_UPDATE, cluster::member_update),
            path::MEMBER_PROMOTE => self.unary(call, id::MEMBER_PROMOTE, cluster::member_promote),
            path::ALARM => self.unary(call, id::ALARM, maintenance::alarm),
            path::STATUS => {
                self.unary_on(call, id::STATUS, |_: &pb::StatusRequest| true, maintenance::status)
            }
            path::DEFRAGMENT => self.unary(call, id::DEFRAGMENT, maintenance::defragment),
            path::HASH => self.unary(call, id::HASH, maintenance::hash),
            path::HASH_KV => self.unary(call, id::HASH_KV, maintenance::hash_kv),
            path::SNAPSHOT => self.server_stream(call, id::SNAPSHOT, true, maintenance::snapshot),
            path::MOVE_LEADER => self.waiting(
                call,
                id::MOVE_LEADER,
                async |member: &Arc<M>, context: &CallContext, request| {
                    maintenance::move_leader(&**member, context, request).await
                },
            ),
            path::DOWNGRADE => self.unary(call, id::DOWNGRADE, maintenance::downgrade),
            path::AUTH_STATUS => self.unary(call, id::AUTH_STATUS, auth::status),
            path::AUTHENTICATE => self.unary(call, id::AUTHENTICATE, auth::authenticate),
            path::HEALTH_CHECK => {
                self.unary(call, id::HEALTH_CHECK, health::check::<M>);
            }
            path::HEALTH_LIST => self.unary(call, id::HEALTH_LIST, health::list::<M>),
            path::HEALTH_WATCH => self.server_stream(call, id::HEALTH_WATCH, false, health::watch::<M>),
            path::LOCK => self.waiting(call, id::LOCK, concurrency::lock::<M>),
            path::UNLOCK => self.unary(call, id::UNLOCK, concurrency::unlock),
            path::CAMPAIGN => self.waiting(call, id::CAMPAIGN, concurrency::campaign::<M>),
            path::PROCLAIM => self.unary(call, id::PROCLAIM, concurrency::proclaim),
            path::LEADER => self.unary(call, id::LEADER, concurrency::leader),
            path::OBSERVE => self.server_stream(call, id::OBSERVE, false, concurrency::observe),
            path::RESIGN => self.unary(call, id::RESIGN, concurrency::resign),
            path::AUTH_ENABLE => self.unary(call, id::AUTH_ENABLE, auth::enable),
            path::AUTH_DISABLE => self.unary(call, id::AUTH_DISABLE, auth::disable),
            path::USER_ADD => self.unary(call, id::USER_ADD, auth::user_add),
            path::USER_GET => self.unary(call, id::USER_GET, auth::user_get),
            path::USER_LIST => self.unary(call, id::USER_LIST, auth::user_list),
            path::USER_DELETE => self.unary(call, id::USER_DELETE, auth::user_delete),
            path::USER_CHANGE_PASSWORD => {
                self.unary(call, id::USER_CHANGE_PASSWORD, auth::user_change_password)
            }
            path::USER_GRANT_ROLE => self.unary(call, id::USER_GRANT_ROLE, auth::user_grant_role),
            path::USER_REVOKE_ROLE => self.unary(call, id::USER_REVOKE_ROLE, auth::user_revoke_role),
            path::ROLE_ADD => self.unary(call, id::ROLE_ADD, auth::role_add),
            path::ROLE_GET => self.unary(call, id::ROLE_GET, auth::role_get),
            path::ROLE_LIST => self.unary(call, id::ROLE_LIST, auth::role_list),
            path::ROLE_DELETE => self.unary(call, id::ROLE_DELETE, auth::role_delete),
            path::ROLE_GRANT_PERMISSION => {
                self.unary(call, id::ROLE_GRANT_PERMISSION, auth::role_grant_permission)
            }
            path::ROLE_REVOKE_PERMISSION => {
                self.unary(call, id::ROLE_REVOKE_PERMISSION, auth::role_revoke_permission)
            }
            path::REFLECTION => self.bidi(call, id::REFLECTION, reflection::info::<M>),
            path::REFLECTION_V1ALPHA => self.bidi(call, id::REFLECTION_V1ALPHA, reflection::info::<M>),
            _ => call.refuse_unknown(|name| METHODS.iter().any(|known| known.service == name)),
        }
    }

    async fn http(
        self: Rc<Self>,
        request: Request<crate::grpc::RequestBody>,
        caller: Caller,
    ) -> Response<HttpBody> {
        match self.http.json_path(&request) {
            Some(path) => json::answer(&self, &path, request, caller).await,
            None => self.http.answer(&*self.member, request, caller.peer()).await,
        }
    }
}

/// The checks before every handler, in upstream's order.
fn admit<M: Member>(
    member: &M,
    context: &CallContext,
    kind: ClientCall,
    on_learner: impl FnOnce() -> bool,
) -> Result<(), Error> {
    let raft = member.raft();
    if raft.is_learner && !on_learner() {
        return Err(Error::NotSupportedForLearner);
    }
    match std::str::from_utf8(context.metadata("client-api-version").unwrap_or(b"unknown")) {
        Ok(version) => member.count_client(kind, version),
        Err(_) if member.config().compat >= types::CompatVersion::V3_6 => {
            return Err(Error::InvalidClientApiVersion);
        }
        Err(_) => {}
    }
    if context.requires_leader() && raft.leader.is_none() {
        return Err(Error::NoLeader);
    }
    Ok(())
}

/// Ends a stream that asked for it when three looks in a row, an election timeout apart, find no
/// leader.
async fn with_leader<M: Member, T>(
    member: &M,
    context: &CallContext,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    if !context.requires_leader() {
        return work.await;
    }
    let lost = async {
        let mut ticker = tokio::time::interval(member.config().election_timeout);
        let mut missed = 0;
        while missed < 3 {
            ticker.tick().await;
            missed = if member.raft().leader.is_none() { missed + 1 } else { 0 };
        }
    };
    tokio::select! {
        biased;
        outcome = work => outcome,
        () = lost => Err(Error::NoLeader),
    }
}
