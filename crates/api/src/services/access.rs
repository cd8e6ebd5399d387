//! Who calls, and whether he may: the checks of the services.
//!
//! While auth is off each of these is one relaxed load. With auth on a caller is known by a token or
//! by a client certificate; a token that stands for nobody is refused, no token is nobody.
//!
//! What makes a log entry is checked again where it is applied (`apply`); what only reads is
//! checked here, and again afterwards by the auth revision: users and roles that changed meanwhile
//! end the read with "revision of auth store is old", on which clients ask again.
//!
//! In the recovery mode (an empty token kind: nobody can log in) a caller without credentials on the
//! same machine is root for the Auth service, and for nothing else. It is root's name and the current
//! auth revision that go into the log, as for a client certificate of root, so other members see
//! nothing new. The JSON gateway counts as remote: a page in a browser can reach it.
//!
//! **Source**: etcd `server/etcdserver/v3_server.go`, `server/etcdserver/api/v3rpc/{auth,maintenance}.go`.

use apply::Reply;
use apply::access::Access;
use auth::{AuthError, Identity, Tokens, tokens};
use futures_util::future::Either;
use proto::etcdserverpb as pb;
use types::{CompatVersion, LeaseId};

use crate::error::Error;
use crate::grpc::CallContext;
use crate::member::Member;

/// The caller; `None` if it did not say, or while auth is off.
pub async fn identity<M: Member>(member: &M, context: &CallContext) -> Result<Option<Identity>, Error> {
    if !member.shared().auth().is_enabled() {
        return Ok(None);
    }
    let Some(token) = context.token() else { return Ok(certified(member, context)) };
    identify(member, token).await.map(Some)
}

/// Whom a token stands for.
pub async fn identify<M: Member>(member: &M, token: &str) -> Result<Identity, Error> {
    let auth = member.shared().auth();
    if let Tokens::Simple(_) = auth.tokens {
        // Another member may have handed it out, and be ahead: the entry behind the index in the
        // token assigned it.
        let index = tokens::index_of(token).and_then(|index| index.checked_add(1));
        let index = index.ok_or(Error::InvalidAuthToken)?;
        if index > member.raft().applied_index {
            let waiting = member.wait_applied(index);
            let limit = member.config().request_timeout;
            tokio::time::timeout(limit, waiting).await.map_err(|_| Error::InvalidAuthToken)??;
        }
    }
    let unix = std::time::Duration::from_secs(member.unix_seconds());
    auth.tokens.identify(token, auth.revision(), member.now(), unix).map_err(|error| {
        tracing::warn!("token-fingerprint" = tokens::fingerprint(token), "invalid auth token");
        error.into()
    })
}

/// The name in a client's certificate. The gateway's own certificate names nobody.
fn certified<M: Member>(member: &M, context: &CallContext) -> Option<Identity> {
    let username = context.peer.common_name.clone().filter(|_| member.config().client_cert_auth)?;
    if context.metadata("grpcgateway-accept").is_some() {
        tracing::warn!("common-name" = username, "ignoring common name in gRPC-gateway proxy request");
        return None;
    }
    Some(Identity { username, revision: member.shared().auth().revision() })
}

/// Any user will do.
pub async fn require<M: Member>(member: &M, context: &CallContext) -> Result<(), Error> {
    if !member.shared().auth().is_enabled() {
        return Ok(());
    }
    Box::pin(identity(member, context)).await?.map(drop).ok_or(Error::UserEmpty)
}

/// Only root will do.
pub async fn administrate<M: Member>(member: &M, context: &CallContext) -> Result<(), Error> {
    if !member.shared().auth().is_enabled() {
        return Ok(());
    }
    let who = Box::pin(identity(member, context)).await?;
    Ok(member.shared().auth().store().may_administrate(who.as_ref())?)
}

/// [`administrate`] for a method of the Auth service.
pub async fn administrate_users<M: Member>(member: &M, context: &CallContext) -> Result<(), Error> {
    if recovering(member, context).is_some() { Ok(()) } else { administrate(member, context).await }
}

/// The user for whom a caller without credentials stands in the recovery mode.
fn recovering<M: Member>(member: &M, context: &CallContext) -> Option<Identity> {
    let auth = member.shared().auth();
    let applies = member.config().auth_recovery
        && auth.is_enabled()
        && context.peer.is_local
        && context.token().is_none()
        && context.metadata("grpcgateway-accept").is_none()
        && certified(member, context).is_none();
    if applies { auth.store().administrator() } else { None }
}

/// The same for maintenance calls, whose refusals 3.5 sends without a code.
pub async fn maintain<M: Member>(member: &M, context: &CallContext) -> Result<(), Error> {
    if !member.shared().auth().is_enabled() {
        return Ok(());
    }
    let store = member.shared().auth().store();
    let who = Box::pin(identity(member, context)).await;
    let verdict = match &who {
        Ok(who) => store.may_administrate(who.as_ref()),
        Err(Error::InvalidAuthToken) => Err(AuthError::InvalidToken),
        Err(error) => return Err(error.clone()),
    };
    verdict.map_err(|error| match member.config().compat {
        CompatVersion::V3_5 => Error::Other(error.to_string()),
        _ => error.into(),
    })
}

/// Puts a request through the log in the caller's name. Not an async function: the call would hold half a kilobyte of
/// request until the answer is there.
pub fn propose<M: Member>(
    member: &M,
    context: &CallContext,
    request: pb::InternalRaftRequest,
) -> impl Future<Output = Result<Reply, Error>> {
    match member.shared().auth().is_enabled() {
        true => Either::Left(Box::pin(propose_as_caller(member, context, request))),
        false => Either::Right(member.propose(request)),
    }
}

/// [`propose`] for a method of the Auth service.
pub async fn propose_users<M: Member>(
    member: &M,
    context: &CallContext,
    mut request: pb::InternalRaftRequest,
) -> Result<Reply, Error> {
    let Some(Identity { username, revision }) = recovering(member, context) else {
        return propose(member, context, request).await;
    };
    let remote = context.peer.address.map_or_else(|| "unix socket".to_owned(), |address| address.to_string());
    tracing::warn!(
        method = context.headers.path(),
        user = username,
        "remote-addr" = remote,
        "recovery mode: a local caller without credentials acts as this user"
    );
    request.header = Some(pb::RequestHeader { id: 0, username, auth_revision: revision });
    member.propose(request).await
}

async fn propose_as_caller<M: Member>(
    member: &M,
    context: &CallContext,
    mut request: pb::InternalRaftRequest,
) -> Result<Reply, Error> {
    if let Some(Identity { username, revision }) = identity(member, context).await? {
        request.header = Some(pb::RequestHeader { id: 0, username, auth_revision: revision });
    }
    member.propose(request).await
}

/// Reads what the caller may read. Not an async function: it would hold `get` twice.
pub fn read<M: Member, T>(
    member: &M,
    context: &CallContext,
    check: impl Fn(&Access<'_>) -> Result<(), AuthError>,
    get: impl Future<Output = Result<T, Error>>,
) -> impl Future<Output = Result<T, Error>> {
    match member.shared().auth().is_enabled() {
        true => Either::Left(Box::pin(read_as_caller(member, context, check, get))),
        false => Either::Right(get),
    }
}

async fn read_as_caller<M: Member, T>(
    member: &M,
    context: &CallContext,
    check: impl Fn(&Access<'_>) -> Result<(), AuthError>,
    get: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let who = identity(member, context).await?.unwrap_or_default();
    let auth = member.shared().auth();
    {
        let lessor = member.shared().lessor.lock();
        check(&Access { auth: &auth.store(), lessor: &lessor, who: &who })?;
    }
    let read = get.await;
    if who.revision != 0 && who.revision != auth.revision() {
        return Err(Error::AuthOldRevision);
    }
    read
}

/// The caller may read these keys.
pub async fn may_read<M: Member>(
    member: &M,
    context: &CallContext,
    key: &[u8],
    range_end: &[u8],
) -> Result<(), Error> {
    let who = identity(member, context).await?.unwrap_or_default();
    Ok(member.shared().auth().store().may_read(&who, key, range_end)?)
}

/// What a call needs of the keys on a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseKeys {
    /// To name them.
    Read,
    /// To let them live or die.
    Write,
}

/// The caller is somebody, and may do this with all keys of these leases.
pub async fn leases<M: Member>(
    member: &M,
    context: &CallContext,
    leases: &[LeaseId],
    need: LeaseKeys,
) -> Result<(), Error> {
    let auth = member.shared().auth();
    if !auth.is_enabled() {
        return Ok(());
    }
    let revision = auth.revision();
    let who = Box::pin(identity(member, context)).await?.ok_or(Error::UserEmpty)?;
    {
        let store = auth.store();
        let lessor = member.shared().lessor.lock();
        let access = Access { auth: &store, lessor: &lessor, who: &who };
        for lease in leases {
            match need {
                LeaseKeys::Read => access.reads_keys_of(*lease)?,
                LeaseKeys::Write => access.writes_keys_of(*lease)?,
            }
        }
    }
    if auth.revision() == revision { Ok(()) } else { Err(Error::AuthOldRevision) }
}
