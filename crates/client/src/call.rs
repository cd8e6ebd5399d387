//! One generic way to make a call, and the table of calls.
//!
//! A call is repeated when that is safe: always when the request certainly never left, and for
//! [`Rpc::REPEATABLE`] requests also when the server was unavailable. Failures that an expired
//! token explains fetch a new token first.
//!
//! **Source**: etcd `client/v3/retry.go`, `retry_interceptor.go`.

use std::future::Future;
use std::time::Duration;

use http::uri::PathAndQuery;
use prost::Message;
use proto::etcdserverpb as pb;
use proto::{v3electionpb as election, v3lockpb as lock};
use tokio::time::Instant;
use tokio_stream::Stream;
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Request, Streaming};
use tonic_prost::ProstCodec;

use crate::client::{Client, FailedAttempt};
use crate::connection::Connection;
use crate::error::Error;

/// A request message that has a method of its own.
pub trait Rpc: Message + Default + Clone + 'static {
    /// What the server answers.
    type Response: Message + Default + 'static;
    /// `/package.Service/Method`.
    const PATH: &'static str;
    /// Whether a second execution does no harm.
    const REPEATABLE: bool;
}

macro_rules! rpcs {
    ($($path:literal: $request:ty => $response:ty, $repeatable:literal;)*) => {
        $(impl Rpc for $request {
            type Response = $response;
            const PATH: &'static str = $path;
            const REPEATABLE: bool = $repeatable;
        })*
    };
}

rpcs! {
    "/etcdserverpb.KV/Range": pb::RangeRequest => pb::RangeResponse, true;
    "/etcdserverpb.KV/Put": pb::PutRequest => pb::PutResponse, false;
    "/etcdserverpb.KV/DeleteRange": pb::DeleteRangeRequest => pb::DeleteRangeResponse, false;
    "/etcdserverpb.KV/Txn": pb::TxnRequest => pb::TxnResponse, false;
    "/etcdserverpb.KV/Compact": pb::CompactionRequest => pb::CompactionResponse, false;
    "/etcdserverpb.Lease/LeaseGrant": pb::LeaseGrantRequest => pb::LeaseGrantResponse, true;
    "/etcdserverpb.Lease/LeaseRevoke": pb::LeaseRevokeRequest => pb::LeaseRevokeResponse, true;
    "/etcdserverpb.Lease/LeaseTimeToLive": pb::LeaseTimeToLiveRequest => pb::LeaseTimeToLiveResponse, true;
    "/etcdserverpb.Lease/LeaseLeases": pb::LeaseLeasesRequest => pb::LeaseLeasesResponse, true;
    "/etcdserverpb.Cluster/MemberAdd": pb::MemberAddRequest => pb::MemberAddResponse, false;
    "/etcdserverpb.Cluster/MemberRemove": pb::MemberRemoveRequest => pb::MemberRemoveResponse, false;
    "/etcdserverpb.Cluster/MemberUpdate": pb::MemberUpdateRequest => pb::MemberUpdateResponse, false;
    "/etcdserverpb.Cluster/MemberPromote": pb::MemberPromoteRequest => pb::MemberPromoteResponse, false;
    "/etcdserverpb.Cluster/MemberList": pb::MemberListRequest => pb::MemberListResponse, true;
    "/etcdserverpb.Maintenance/Alarm": pb::AlarmRequest => pb::AlarmResponse, true;
    "/etcdserverpb.Maintenance/Status": pb::StatusRequest => pb::StatusResponse, true;
    "/etcdserverpb.Maintenance/Defragment": pb::DefragmentRequest => pb::DefragmentResponse, false;
    "/etcdserverpb.Maintenance/Hash": pb::HashRequest => pb::HashResponse, true;
    "/etcdserverpb.Maintenance/HashKV": pb::HashKvRequest => pb::HashKvResponse, true;
    "/etcdserverpb.Maintenance/MoveLeader": pb::MoveLeaderRequest => pb::MoveLeaderResponse, true;
    "/etcdserverpb.Maintenance/Downgrade": pb::DowngradeRequest => pb::DowngradeResponse, false;
    "/etcdserverpb.Auth/AuthEnable": pb::AuthEnableRequest => pb::AuthEnableResponse, false;
    "/etcdserverpb.Auth/AuthDisable": pb::AuthDisableRequest => pb::AuthDisableResponse, false;
    "/etcdserverpb.Auth/AuthStatus": pb::AuthStatusRequest => pb::AuthStatusResponse, false;
    "/etcdserverpb.Auth/Authenticate": pb::AuthenticateRequest => pb::AuthenticateResponse, false;
    "/etcdserverpb.Auth/UserAdd": pb::AuthUserAddRequest => pb::AuthUserAddResponse, false;
    "/etcdserverpb.Auth/UserGet": pb::AuthUserGetRequest => pb::AuthUserGetResponse, true;
    "/etcdserverpb.Auth/UserList": pb::AuthUserListRequest => pb::AuthUserListResponse, true;
    "/etcdserverpb.Auth/UserDelete": pb::AuthUserDeleteRequest => pb::AuthUserDeleteResponse, false;
    "/etcdserverpb.Auth/UserChangePassword":
        pb::AuthUserChangePasswordRequest => pb::AuthUserChangePasswordResponse, false;
    "/etcdserverpb.Auth/UserGrantRole": pb::AuthUserGrantRoleRequest => pb::AuthUserGrantRoleResponse, false;
    "/etcdserverpb.Auth/UserRevokeRole": pb::AuthUserRevokeRoleRequest => pb::AuthUserRevokeRoleResponse, false;
    "/etcdserverpb.Auth/RoleAdd": pb::AuthRoleAddRequest => pb::AuthRoleAddResponse, false;
    "/etcdserverpb.Auth/RoleGet": pb::AuthRoleGetRequest => pb::AuthRoleGetResponse, true;
    "/etcdserverpb.Auth/RoleList": pb::AuthRoleListRequest => pb::AuthRoleListResponse, true;
    "/etcdserverpb.Auth/RoleDelete": pb::AuthRoleDeleteRequest => pb::AuthRoleDeleteResponse, false;
    "/etcdserverpb.Auth/RoleGrantPermission":
        pb::AuthRoleGrantPermissionRequest => pb::AuthRoleGrantPermissionResponse, false;
    "/etcdserverpb.Auth/RoleRevokePermission":
        pb::AuthRoleRevokePermissionRequest => pb::AuthRoleRevokePermissionResponse, false;
    "/v3lockpb.Lock/Lock": lock::LockRequest => lock::LockResponse, false;
    "/v3lockpb.Lock/Unlock": lock::UnlockRequest => lock::UnlockResponse, false;
    "/v3electionpb.Election/Campaign": election::CampaignRequest => election::CampaignResponse, false;
    "/v3electionpb.Election/Proclaim": election::ProclaimRequest => election::ProclaimResponse, false;
    "/v3electionpb.Election/Leader": election::LeaderRequest => election::LeaderResponse, true;
    "/v3electionpb.Election/Resign": election::ResignRequest => election::ResignResponse, false;
}

const MAX_ATTEMPTS: usize = 100;
/// The pause after a whole quorum of endpoints failed.
const PAUSE: Duration = Duration::from_millis(25);
const API_VERSION: &str = "3.7";

impl Client {
    /// Makes one unary call.
    ///
    /// Cancel-safe in the sense that dropping it drops the request; the server may still have
    /// executed it.
    pub async fn call<R: Rpc>(&self, request: R) -> Result<R::Response, Error> {
        self.within_deadline(R::PATH, self.attempts(request)).await
    }

    async fn attempts<R: Rpc>(&self, request: R) -> Result<R::Response, Error> {
        if let Err(error) = self.check_size(&request) {
            self.report(R::PATH, 0, None, &error);
            return Err(error);
        }
        let mut attempt = 0;
        loop {
            let connection = self.shared.pool.ready().await;
            let peer = connection.peer().clone();
            let mut message = Request::new(request.clone());
            self.decorate(&mut message, false);
            let error = match self.unary(connection, message, R::PATH).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            self.report(R::PATH, attempt, Some(&peer), &error);
            attempt += 1;
            let again = error.is_not_sent()
                || (R::REPEATABLE && error.code() == Some(Code::Unavailable))
                || self.renew_token(R::PATH, &error).await?;
            if !again || attempt == MAX_ATTEMPTS {
                return Err(error);
            }
            if attempt % self.shared.pool.quorum() == 0 {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn unary<Q: Message + 'static, A: Message + Default + 'static>(
        &self,
        connection: Connection,
        message: Request<Q>,
        path: &'static str,
    ) -> Result<A, Error> {
        let mut grpc = self.grpc(connection);
        grpc.ready().await.map_err(Error::from)?;
        let codec = ProstCodec::<Q, A>::default();
        Ok(grpc.unary(message, PathAndQuery::from_static(path), codec).await?.into_inner())
    }

    /// Opens a stream that the server fills.
    ///
    /// # Errors
    /// The call was refused, or no server could be reached.
    pub async fn server_stream<Q, A>(&self, request: Q, path: &'static str) -> Result<Streaming<A>, Error>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        self.check_size(&request)?;
        self.refresh_for_stream().await?;
        loop {
            let mut grpc = self.grpc(self.shared.pool.ready().await);
            let mut message = Request::new(request.clone());
            self.decorate(&mut message, false);
            let codec = ProstCodec::<Q, A>::default();
            let opened = match grpc.ready().await {
                Ok(()) => grpc.server_streaming(message, PathAndQuery::from_static(path), codec).await,
                Err(status) => Err(status),
            };
            match opened.map_err(Error::from) {
                Ok(response) => return Ok(response.into_inner()),
                Err(error) if error.is_not_sent() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Opens a stream in both directions. It has no deadline.
    ///
    /// # Errors
    /// The call was refused, or the connection broke.
    pub async fn open_stream<Q, A, S>(
        &self,
        requests: S,
        path: &'static str,
        require_leader: bool,
    ) -> Result<Streaming<A>, Error>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
        S: Stream<Item = Q> + Send + 'static,
    {
        self.refresh_for_stream().await?;
        let mut grpc = self.grpc(self.shared.pool.ready().await);
        grpc.ready().await.map_err(Error::from)?;
        let mut message = Request::new(requests);
        self.decorate(&mut message, require_leader);
        let codec = ProstCodec::<Q, A>::default();
        Ok(grpc.streaming(message, PathAndQuery::from_static(path), codec).await?.into_inner())
    }

    /// Runs `work` up to the client's deadline.
    pub(crate) async fn within_deadline<T>(
        &self,
        path: &'static str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let Some(deadline) = self.deadline else { return work.await };
        match tokio::time::timeout_at(deadline, work).await {
            // The server keeps the same deadline and may notice first.
            Ok(Err(error)) if error.code() == Some(Code::DeadlineExceeded) && Instant::now() >= deadline => {
                Err(Error::DeadlineExceeded)
            }
            Ok(result) => result,
            Err(_) => {
                let message = match self.shared.pool.last_failure() {
                    Some(text) => format!(
                        "latest balancer error: last connection error: connection error: desc = \"{text}\""
                    ),
                    None => "context deadline exceeded".to_owned(),
                };
                self.report(path, 0, None, &Error::Rpc { code: Code::DeadlineExceeded, message });
                Err(Error::DeadlineExceeded)
            }
        }
    }

    fn grpc(&self, connection: Connection) -> Grpc<Connection> {
        Grpc::new(connection)
            .max_encoding_message_size(usize::MAX)
            .max_decoding_message_size(self.shared.options.max_receive_bytes)
    }

    fn check_size(&self, request: &impl Message) -> Result<(), Error> {
        let (length, limit) = (request.encoded_len(), self.shared.options.max_send_bytes);
        match length <= limit {
            true => Ok(()),
            false => Err(Error::Rpc {
                code: Code::ResourceExhausted,
                message: format!("trying to send message larger than max ({length} vs. {limit})"),
            }),
        }
    }

    fn decorate<T>(&self, request: &mut Request<T>, require_leader: bool) {
        if let Some(deadline) = self.deadline {
            request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        }
        let metadata = request.metadata_mut();
        metadata.insert("client-api-version", MetadataValue::from_static(API_VERSION));
        if require_leader {
            metadata.insert("hasleader", MetadataValue::from_static("true"));
        }
        let token: Option<MetadataValue<Ascii>> = self.token.clone().or_else(|| self.shared.token());
        if let Some(token) = token {
            metadata.insert("token", token);
        }
    }

    fn report(&self, method: &'static str, attempt: usize, peer: Option<&str>, error: &Error) {
        if let Some(hook) = &self.shared.options.on_failure {
            hook(&FailedAttempt { method, attempt, peer, error });
        }
    }
}
