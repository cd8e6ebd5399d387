//! From a path to what the proxy does with the call.
//!
//! Most calls go up as they are, one message each way. What is different has a handler of its own.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use api::grpc::{
    Call, CallContext, Caller, Code, HttpBody, MethodId, MethodInfo, Reply, Requests, Responses, Service,
    Status,
};
use api::services::methods::{CLIENT_METHODS, id, path};
use bytes::BytesMut;
use client::Rpc;
use http::{Request, Response};
use prost::Message;
use proto::{etcdserverpb as pb, v3electionpb as election, v3lockpb as lock};

use super::payloads::Payloads;
use super::upstream::{broken, is_refusal, status_of};
use super::{Proxied, Proxy, cluster, kv, lease, watch};

impl Proxied {
    /// A call that ends when its caller gives up: what waits for the cluster to come back must not be
    /// carried out long after.
    fn unary<Req, Res, H>(self: &Rc<Self>, call: Call, id: MethodId, handler: H)
    where
        Req: Message + Default + 'static,
        Res: Reply + 'static,
        H: AsyncFnOnce(&Proxy, &CallContext, Req) -> Result<Res, Status> + 'static,
    {
        let proxy = self.proxy.clone();
        call.unary_cancelable(id, async move |request: Req, context: CallContext| {
            let payloads = Payloads::of(&context, proxy.has_payload_log);
            payloads.received(&request);
            let outcome = handler(&proxy, &context, request).await;
            if payloads.wanted() {
                let mut frame = BytesMut::new();
                let written = outcome.as_ref().map(|reply| reply.write_framed(&mut frame));
                payloads.answered(written.map(|()| &frame[..]));
            }
            outcome
        });
    }

    /// Passes a call on as it is.
    fn pass<R: Rpc>(self: &Rc<Self>, call: Call, id: MethodId) {
        self.unary(call, id, async |proxy: &Proxy, context: &CallContext, request: R| {
            proxy.upstream.call(context, request).await
        });
    }

    /// Passes a stream of answers on, until its caller is gone.
    fn pass_stream<Req, Res>(self: &Rc<Self>, call: Call, id: MethodId, path: &'static str)
    where
        Req: Message + Default + Clone + 'static,
        Res: Message + Default + 'static,
    {
        let proxy = self.proxy.clone();
        call.server_stream(id, async move |request: Req, context, responses: &mut Responses| {
            let payloads = Payloads::of(&context, proxy.has_payload_log);
            payloads.received(&request);
            let client = proxy.upstream.client_for(&context);
            let mut stream = tokio::select! {
                stream = client.server_stream::<Req, Res>(request, path) => {
                    stream.map_err(|error| status_of(&error))?
                }
                () = poll_fn(|cx| responses.poll_gone(cx)) => return Err(Status::canceled()),
            };
            loop {
                let answer = tokio::select! {
                    answer = stream.message() => answer.map_err(broken)?,
                    () = poll_fn(|cx| responses.poll_gone(cx)) => return Err(Status::canceled()),
                };
                let Some(answer) = answer else { return Ok(()) };
                let frame = answer.into_frame();
                let sent = responses.send_frames(frame.clone(), 1).await;
                payloads.sent(&frame, &sent);
                sent?;
            }
        });
    }

    fn bidi<Req, H>(self: &Rc<Self>, call: Call, id: MethodId, handler: H)
    where
        Req: Message + Default + 'static,
        H: AsyncFnOnce(&Proxy, &CallContext, Requests<Req>, &mut Responses) -> Result<(), Status> + 'static,
    {
        let proxy = self.proxy.clone();
        call.bidi(id, async move |requests: Requests<Req>, context, responses: &mut Responses| {
            handler(&proxy, &context, requests, responses).await
        });
    }
}

impl Service for Proxied {
    const METHODS: &'static [MethodInfo] = CLIENT_METHODS;

    fn grpc(self: &Rc<Self>, call: Call) {
        match call.path() {
            path::RANGE => self.unary(call, id::RANGE, kv::range),
            path::PUT => self.unary(call, id::PUT, kv::put),
            path::TXN => self.unary(call, id::TXN, kv::txn),
            path::DELETE_RANGE => self.unary(call, id::DELETE_RANGE, kv::delete_range),
            path::RANGE_STREAM => {
                call.server_stream(id::RANGE_STREAM, async |_: pb::RangeRequest, _, _: &mut Responses| {
                    let text = "RangeStream is not supported by the gRPC proxy";
                    Err(Status::new(Code::Unimplemented, text))
                })
            }
            path::COMPACT => self.unary(call, id::COMPACT, kv::compact),
            path::WATCH => self.bidi(call, id::WATCH, watch::watch),
            path::LEASE_GRANT => self.pass::<pb::LeaseGrantRequest>(call, id::LEASE_GRANT),
            path::LEASE_REVOKE => self.pass::<pb::LeaseRevokeRequest>(call, id::LEASE_REVOKE),
            path::LEASE_KEEP_ALIVE => self.bidi(call, id::LEASE_KEEP_ALIVE, lease::keep_alive),
            path::LEASE_TIME_TO_LIVE => self.unary(call, id::LEASE_TIME_TO_LIVE, lease::time_to_live),
            path::LEASE_LEASES => self.pass::<pb::LeaseLeasesRequest>(call, id::LEASE_LEASES),
            path::MEMBER_LIST => self.unary(call, id::MEMBER_LIST, cluster::member_list),
            path::MEMBER_ADD => self.pass::<pb::MemberAddRequest>(call, id::MEMBER_ADD),
            path::MEMBER_REMOVE => self.pass::<pb::MemberRemoveRequest>(call, id::MEMBER_REMOVE),
            path::MEMBER_UPDATE => self.pass::<pb::MemberUpdateRequest>(call, id::MEMBER_UPDATE),
            path::MEMBER_PROMOTE => self.pass::<pb::MemberPromoteRequest>(call, id::MEMBER_PROMOTE),
            path::ALARM => self.pass::<pb::AlarmRequest>(call, id::ALARM),
            path::STATUS => self.pass::<pb::StatusRequest>(call, id::STATUS),
            path::DEFRAGMENT => self.pass::<pb::DefragmentRequest>(call, id::DEFRAGMENT),
            path::HASH => self.pass::<pb::HashRequest>(call, id::HASH),
            path::HASH_KV => self.pass::<pb::HashKvRequest>(call, id::HASH_KV),
            path::SNAPSHOT => {
                self.pass_stream::<pb::SnapshotRequest, pb::SnapshotResponse>(
                    call,
                    id::SNAPSHOT,
                    path::SNAPSHOT,
                );
            }
            path::MOVE_LEADER => self.pass::<pb::MoveLeaderRequest>(call, id::MOVE_LEADER),
            path::DOWNGRADE => self.pass::<pb::DowngradeRequest>(call, id::DOWNGRADE),
            path::LOCK => self.pass::<lock::LockRequest>(call, id::LOCK),
            path::UNLOCK => self.pass::<lock::UnlockRequest>(call, id::UNLOCK),
            path::CAMPAIGN => self.pass::<election::CampaignRequest>(call, id::CAMPAIGN),
            path::PROCLAIM => self.pass::<election::ProclaimRequest>(call, id::PROCLAIM),
            path::LEADER => self.pass::<election::LeaderRequest>(call, id::LEADER),
            path::OBSERVE => {
                self.pass_stream::<election::LeaderRequest, election::LeaderResponse>(
                    call,
                    id::OBSERVE,
                    path::OBSERVE,
                );
            }
            path::RESIGN => self.pass::<election::ResignRequest>(call, id::RESIGN),
            _ => self.auth(call),
        }
    }

    async fn http(
        self: Rc<Self>,
        request: Request<api::grpc::RequestBody>,
        caller: Caller,
    ) -> Response<HttpBody> {
        super::http::answer(&self, request, caller.peer()).await
    }
}

/// Dropped, it forgets what anybody could read until now. What the cluster does later, with a request whose
/// caller has left, it does not see.
struct Forgetting<'a>(&'a Proxy);

impl Drop for Forgetting<'_> {
    fn drop(&mut self) {
        self.0.cache.lock().clear();
        self.0.counters.cache_keys.store(0, Ordering::Relaxed);
        if let Some(leasing) = &self.0.leasing {
            leasing.forget();
        }
    }
}

impl Proxied {
    fn auth(self: &Rc<Self>, call: Call) {
        match call.path() {
            path::AUTH_ENABLE => self.unary(
                call,
                id::AUTH_ENABLE,
                async |proxy: &Proxy, context: &CallContext, request: pb::AuthEnableRequest| {
                    // However this ends, also when nobody waits for it any more; but for a refusal, which
                    // anybody can have.
                    let forgetting = Forgetting(proxy);
                    let outcome = proxy.upstream.client_for(context).call(request).await;
                    if outcome.as_ref().is_err_and(is_refusal) {
                        std::mem::forget(forgetting);
                    }
                    outcome.map_err(|error| status_of(&error))
                },
            ),
            path::AUTH_DISABLE => self.pass::<pb::AuthDisableRequest>(call, id::AUTH_DISABLE),
            path::AUTH_STATUS => self.pass::<pb::AuthStatusRequest>(call, id::AUTH_STATUS),
            path::AUTHENTICATE => self.pass::<pb::AuthenticateRequest>(call, id::AUTHENTICATE),
            path::USER_ADD => self.pass::<pb::AuthUserAddRequest>(call, id::USER_ADD),
            path::USER_GET => self.pass::<pb::AuthUserGetRequest>(call, id::USER_GET),
            path::USER_LIST => self.pass::<pb::AuthUserListRequest>(call, id::USER_LIST),
            path::USER_DELETE => self.pass::<pb::AuthUserDeleteRequest>(call, id::USER_DELETE),
            path::USER_CHANGE_PASSWORD => {
                self.pass::<pb::AuthUserChangePasswordRequest>(call, id::USER_CHANGE_PASSWORD);
            }
            path::USER_GRANT_ROLE => self.pass::<pb::AuthUserGrantRoleRequest>(call, id::USER_GRANT_ROLE),
            path::USER_REVOKE_ROLE => self.pass::<pb::AuthUserRevokeRoleRequest>(call, id::USER_REVOKE_ROLE),
            path::ROLE_ADD => self.pass::<pb::AuthRoleAddRequest>(call, id::ROLE_ADD),
            path::ROLE_GET => self.pass::<pb::AuthRoleGetRequest>(call, id::ROLE_GET),
            path::ROLE_LIST => self.pass::<pb::AuthRoleListRequest>(call, id::ROLE_LIST),
            path::ROLE_DELETE => self.pass::<pb::AuthRoleDeleteRequest>(call, id::ROLE_DELETE),
            path::ROLE_GRANT_PERMISSION => {
                self.pass::<pb::AuthRoleGrantPermissionRequest>(call, id::ROLE_GRANT_PERMISSION);
            }
            path::ROLE_REVOKE_PERMISSION => {
                self.pass::<pb::AuthRoleRevokePermissionRequest>(call, id::ROLE_REVOKE_PERMISSION);
            }
            _ => call.refuse_unknown(|name| CLIENT_METHODS.iter().any(|known| known.service == name)),
        }
    }
}
