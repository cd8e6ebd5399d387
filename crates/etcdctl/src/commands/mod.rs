//! The commands, by topic.

mod auth;
mod check;
mod endpoint;
mod kv;
mod lease;
mod lock;
mod member;
mod mirror;
mod snapshot;
mod txn;
mod watch;

use crate::failure::Failure;
use crate::session::Session;

/// A command line that says what to do.
pub type Invocation = cli::Invocation<Run>;

/// What a command does; see [`run`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Run {
    Get,
    Put,
    Del,
    Txn,
    Compaction,
    Watch,
    LeaseGrant,
    LeaseRevoke,
    LeaseTimeToLive,
    LeaseList,
    LeaseKeepAlive,
    AlarmList,
    AlarmDisarm,
    Defrag,
    DowngradeValidate,
    DowngradeEnable,
    DowngradeCancel,
    EndpointHealth,
    EndpointStatus,
    EndpointHashKv,
    MemberAdd,
    MemberRemove,
    MemberUpdate,
    MemberPromote,
    MemberList,
    MoveLeader,
    SnapshotSave,
    Elect,
    Lock,
    AuthEnable,
    AuthDisable,
    AuthStatus,
    UserAdd,
    UserDelete,
    UserGet,
    UserList,
    UserPasswd,
    UserGrantRole,
    UserRevokeRole,
    RoleAdd,
    RoleDelete,
    RoleGet,
    RoleList,
    RoleGrantPermission,
    RoleRevokePermission,
    CheckPerf,
    CheckDatascale,
    MakeMirror,
    Version,
    Options,
    Completion,
    Help,
}

/// Carries out a command that talks to a cluster.
pub async fn run(run: Run, invocation: Invocation) -> Result<(), Failure> {
    let mut session = Session { invocation };
    let session = &mut session;
    match run {
        Run::Get => kv::get(session).await,
        Run::Put => kv::put(session).await,
        Run::Del => kv::del(session).await,
        Run::Compaction => kv::compaction(session).await,
        Run::Txn => txn::txn(session).await,
        Run::Watch => watch::watch(session).await,
        Run::LeaseGrant => lease::grant(session).await,
        Run::LeaseRevoke => lease::revoke(session).await,
        Run::LeaseTimeToLive => lease::time_to_live(session).await,
        Run::LeaseList => lease::list(session).await,
        Run::LeaseKeepAlive => lease::keep_alive(session).await,
        Run::AlarmList => member::alarm_list(session).await,
        Run::AlarmDisarm => member::alarm_disarm(session).await,
        Run::MoveLeader => member::move_leader(session).await,
        Run::DowngradeValidate => member::downgrade(session, "validate").await,
        Run::DowngradeEnable => member::downgrade(session, "enable").await,
        Run::DowngradeCancel => member::downgrade(session, "cancel").await,
        Run::MemberAdd => member::add(session).await,
        Run::MemberRemove => member::remove(session).await,
        Run::MemberUpdate => member::update(session).await,
        Run::MemberPromote => member::promote(session).await,
        Run::MemberList => member::list(session).await,
        Run::Defrag => endpoint::defrag(session).await,
        Run::EndpointHealth => endpoint::health(session).await,
        Run::EndpointStatus => endpoint::status(session).await,
        Run::EndpointHashKv => endpoint::hashkv(session).await,
        Run::SnapshotSave => snapshot::save(session).await,
        Run::Elect => lock::elect(session).await,
        Run::Lock => lock::lock(session).await,
        Run::AuthEnable => auth::enable(session).await,
        Run::AuthDisable => auth::disable(session).await,
        Run::AuthStatus => auth::status(session).await,
        Run::UserAdd => auth::user_add(session).await,
        Run::UserDelete => auth::user_delete(session).await,
        Run::UserGet => auth::user_get(session).await,
        Run::UserList => auth::user_list(session).await,
        Run::UserPasswd => auth::user_passwd(session).await,
        Run::UserGrantRole => auth::user_grant_role(session).await,
        Run::UserRevokeRole => auth::user_revoke_role(session).await,
        Run::RoleAdd => auth::role_add(session).await,
        Run::RoleDelete => auth::role_delete(session).await,
        Run::RoleGet => auth::role_get(session).await,
        Run::RoleList => auth::role_list(session).await,
        Run::RoleGrantPermission => auth::role_grant_permission(session).await,
        Run::RoleRevokePermission => auth::role_revoke_permission(session).await,
        Run::CheckPerf => check::perf(session).await,
        Run::CheckDatascale => check::datascale(session).await,
        Run::MakeMirror => mirror::make_mirror(session).await,
        // These need no cluster; `main` carries them out.
        Run::Version | Run::Options | Run::Completion | Run::Help => Ok(()),
    }
}
