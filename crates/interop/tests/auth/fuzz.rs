//! Random users, roles and ranges, and random requests of every kind, on ours and on the real one:
//! the verdicts must be equal.
//!
//! `RETCD_AUTH_CASES=200000` for a long run, `RETCD_AUTH_SEED` for another one.

use anyhow::ensure;
use env_random::Dice;
use interop::block_on;
use interop::programs::{subject, yardstick};
use pb::request_op::Request;
use proto::{authpb, etcdserverpb as pb};

use crate::calls::{PASSWORD, Server, Verdict, passed, shown};

const DEFAULT_CASES: usize = 4000;
/// Requests between two changes of users and roles.
const CASES_PER_ROUND: usize = 40;
const USERS: [&str; 4] = ["root", "u1", "u2", "u3"];
const ROLES: [&str; 4] = ["r1", "r2", "r3", "r4"];
const KEYS: [&str; 7] = ["a", "ab", "b", "c", "d", "e", "zz"];
const ENDS: [&str; 9] = ["", "", "", "\0", "b", "c", "d", "f", "zzz"];
const LEASES: [i64; 4] = [101, 102, 103, 104];

mod env_random {
    /// A small generator with a seed (SplitMix64).
    pub struct Dice(pub u64);

    impl Dice {
        pub fn below(&mut self, bound: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = self.0;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((mixed ^ (mixed >> 31)) % bound as u64) as usize
        }

        pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
            choices[self.below(choices.len())]
        }

        pub fn one_in(&mut self, count: usize) -> bool {
            self.below(count) == 0
        }
    }
}

/// Everything that a case can be.
#[derive(Clone, Debug)]
enum Case {
    Range(pb::RangeRequest),
    Put(pb::PutRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact,
    Watch(pb::WatchCreateRequest),
    Grant(i64),
    Revoke(i64),
    KeepAlive(i64),
    TimeToLive(i64, bool),
    Leases,
    Alarm(i32),
    Status,
    Defragment,
    Hash,
    HashKv,
    Snapshot,
    MoveLeader,
    Downgrade,
    MemberList(bool),
    MemberAdd,
    MemberRemove,
    MemberUpdate,
    MemberPromote,
    UserGet(&'static str),
    UserList,
    RoleGet(&'static str),
    RoleList,
    UserAdd(&'static str),
    UserDelete(&'static str),
    ChangePassword(&'static str),
    RoleAdd(&'static str),
    RoleDelete(&'static str),
    GrantRole(&'static str, &'static str),
    RevokeRole(&'static str, &'static str),
    GrantPermission(&'static str, authpb::Permission),
    RevokePermission(&'static str, &'static str, &'static str),
    Enable,
    Disable,
    AuthStatus,
    Authenticate(&'static str, &'static str),
}

fn range(dice: &mut Dice) -> (bytes::Bytes, bytes::Bytes) {
    (dice.of(&KEYS).into(), dice.of(&ENDS).into())
}

fn range_request(dice: &mut Dice, (key, range_end): (bytes::Bytes, bytes::Bytes)) -> pb::RangeRequest {
    pb::RangeRequest { key, range_end, serializable: dice.one_in(2), ..Default::default() }
}

fn put(dice: &mut Dice) -> pb::PutRequest {
    pb::PutRequest {
        key: dice.of(&KEYS).into(),
        value: "v".into(),
        lease: if dice.one_in(3) { dice.of(&LEASES) } else { 0 },
        prev_kv: dice.one_in(3),
        ..Default::default()
    }
}

fn delete(dice: &mut Dice, (key, range_end): (bytes::Bytes, bytes::Bytes)) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key, range_end, prev_kv: dice.one_in(3) }
}

/// A range that does not end before it begins.
fn ordered_range(dice: &mut Dice) -> (bytes::Bytes, bytes::Bytes) {
    loop {
        let (key, range_end) = range(dice);
        if !is_inverted(&key, &range_end) {
            return (key, range_end);
        }
    }
}

fn is_inverted(key: &[u8], range_end: &[u8]) -> bool {
    range_end.len() > usize::from(range_end == b"\0") && range_end <= key
}

/// A transaction. Ranges that hold no key stay out: where verdicts on them differ (K40), what the
/// other operations write would differ from there on.
fn txn(dice: &mut Dice, depth: usize) -> pb::TxnRequest {
    let compare = (0..dice.below(2)).map(|_| {
        let (key, range_end) = ordered_range(dice);
        let target_union = Some(pb::compare::TargetUnion::Version(0));
        pb::Compare { key, range_end, result: 0, target: 0, target_union }
    });
    let compare = compare.collect();
    let branch = |dice: &mut Dice| {
        (0..dice.below(3))
            .map(|_| {
                let request = match dice.below(if depth > 0 { 4 } else { 3 }) {
                    0 => {
                        let range = ordered_range(dice);
                        Request::RequestRange(range_request(dice, range))
                    }
                    1 => Request::RequestPut(put(dice)),
                    2 => {
                        let range = ordered_range(dice);
                        Request::RequestDeleteRange(delete(dice, range))
                    }
                    _ => Request::RequestTxn(txn(dice, depth - 1)),
                };
                pb::RequestOp { request: Some(request) }
            })
            .collect()
    };
    let (success, failure) = (branch(dice), branch(dice));
    pb::TxnRequest { compare, success, failure }
}

fn permission(dice: &mut Dice) -> authpb::Permission {
    let (key, range_end) = range(dice);
    authpb::Permission { perm_type: dice.below(3) as i32, key, range_end }
}

fn request(dice: &mut Dice) -> Case {
    match dice.below(60) {
        0..=9 => {
            let range = range(dice);
            Case::Range(range_request(dice, range))
        }
        10..=18 => Case::Put(put(dice)),
        19..=24 => {
            let range = range(dice);
            Case::Delete(delete(dice, range))
        }
        25..=36 => Case::Txn(txn(dice, 2)),
        37..=40 => {
            let (key, range_end) = range(dice);
            let start_revision = if dice.one_in(8) { -1 } else { 0 };
            Case::Watch(pb::WatchCreateRequest { key, range_end, start_revision, ..Default::default() })
        }
        41 | 42 => Case::Grant(dice.of(&LEASES)),
        43 => Case::Revoke(dice.of(&LEASES)),
        44 => Case::KeepAlive(dice.of(&LEASES)),
        45 => Case::TimeToLive(dice.of(&LEASES), dice.one_in(2)),
        46 => Case::Leases,
        47 => Case::Alarm(dice.below(3) as i32),
        48 => [Case::Compact, Case::Status, Case::Hash][dice.below(3)].clone(),
        49 => [Case::HashKv, Case::Snapshot, Case::MoveLeader][dice.below(3)].clone(),
        50 => [Case::Downgrade, Case::MemberList(true), Case::MemberList(false)][dice.below(3)].clone(),
        51 => [Case::MemberAdd, Case::MemberRemove, Case::MemberUpdate, Case::MemberPromote][dice.below(4)]
            .clone(),
        52 => Case::UserGet(dice.of(&USERS)),
        53 => [Case::UserList, Case::RoleList, Case::AuthStatus][dice.below(3)].clone(),
        54 => Case::RoleGet(dice.of(&ROLES)),
        55 => Case::Authenticate(dice.of(&["root", "u1", "nobody", ""]), dice.of(&[PASSWORD, "wrong", ""])),
        56 if dice.one_in(4) => Case::Defragment,
        _ => change(dice),
    }
}

fn change(dice: &mut Dice) -> Case {
    match dice.below(14) {
        0 => Case::UserAdd(dice.of(&["u1", "u2", "u3", ""])),
        1 if dice.one_in(3) => Case::UserDelete(dice.of(&USERS)),
        2 if dice.one_in(3) => Case::ChangePassword(dice.of(&USERS)),
        3 => Case::RoleAdd(dice.of(&["r1", "r2", "r3", "root", ""])),
        4 => Case::RoleDelete(dice.of(&["r1", "r4", "root", ""])),
        5..=7 => Case::GrantRole(dice.of(&["u1", "u2", "u3", "nobody"]), dice.of(&ROLES)),
        8 => Case::RevokeRole(dice.of(&USERS), dice.of(&["r1", "r2", "r3", "root"])),
        9 | 10 => Case::RevokePermission(dice.of(&ROLES), dice.of(&KEYS), dice.of(&ENDS)),
        11 if dice.one_in(20) => Case::Enable,
        12 if dice.one_in(20) => Case::Disable,
        _ => Case::GrantPermission(dice.of(&ROLES), permission(dice)),
    }
}

/// The records of a range without what differs between clusters.
fn kvs(kvs: &[proto::mvccpb::KeyValue]) -> String {
    format!("{:?}", kvs.iter().map(|kv| (&kv.key, kv.mod_revision, kv.version, kv.lease)).collect::<Vec<_>>())
}

fn revision(header: Option<pb::ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

fn txn_shape(answer: &pb::TxnResponse) -> String {
    use pb::response_op::Response;
    let ops = answer.responses.iter().map(|op| match &op.response {
        Some(Response::ResponseRange(range)) => format!("range {} {}", range.count, kvs(&range.kvs)),
        Some(Response::ResponsePut(put)) => format!("put {}", kvs(put.prev_kv.as_slice())),
        Some(Response::ResponseDeleteRange(delete)) => {
            format!("delete {} {}", delete.deleted, kvs(&delete.prev_kvs))
        }
        Some(Response::ResponseTxn(txn)) => txn_shape(txn),
        None => String::new(),
    });
    format!("{} {:?}", answer.succeeded, ops.collect::<Vec<_>>())
}

async fn run(server: &Server, token: Option<&str>, case: &Case) -> Verdict {
    macro_rules! call {
        ($path:literal, $request:expr, $response:ident) => {
            passed(server.call::<pb::$response>($path, token, &$request).await)
        };
        ($path:literal, $request:expr, $response:ident, $show:expr) => {
            shown(server.call::<pb::$response>($path, token, &$request).await, $show)
        };
    }
    match case.clone() {
        Case::Range(request) => call!("KV/Range", request, RangeResponse, |answer| {
            format!("{} {} {}", revision(answer.header), answer.count, kvs(&answer.kvs))
        }),
        Case::Put(request) => call!("KV/Put", request, PutResponse, |answer| {
            format!("{} {}", revision(answer.header), kvs(answer.prev_kv.as_slice()))
        }),
        Case::Delete(request) => call!("KV/DeleteRange", request, DeleteRangeResponse, |answer| {
            format!("{} {} {}", revision(answer.header), answer.deleted, kvs(&answer.prev_kvs))
        }),
        Case::Txn(request) => call!("KV/Txn", request, TxnResponse, |answer| txn_shape(&answer)),
        Case::Compact => {
            call!("KV/Compact", pb::CompactionRequest { revision: 1, physical: false }, CompactionResponse)
        }
        Case::Watch(create) => {
            let union = pb::watch_request::RequestUnion::CreateRequest(create);
            let request = pb::WatchRequest { request_union: Some(union) };
            shown(server.first::<pb::WatchResponse>("Watch/Watch", token, &request).await, |answer| {
                answer.map_or("end".to_owned(), |answer| {
                    format!(
                        "{} {} {} {}",
                        answer.watch_id, answer.created, answer.canceled, answer.cancel_reason
                    )
                })
            })
        }
        Case::Grant(id) => {
            call!("Lease/LeaseGrant", pb::LeaseGrantRequest { id, ttl: 100_000 }, LeaseGrantResponse)
        }
        Case::Revoke(id) => call!("Lease/LeaseRevoke", pb::LeaseRevokeRequest { id }, LeaseRevokeResponse),
        Case::KeepAlive(id) => {
            let request = pb::LeaseKeepAliveRequest { id };
            shown(
                server.first::<pb::LeaseKeepAliveResponse>("Lease/LeaseKeepAlive", token, &request).await,
                |answer| answer.map_or("end".to_owned(), |answer| format!("{} {}", answer.id, answer.ttl)),
            )
        }
        Case::TimeToLive(id, keys) => {
            call!(
                "Lease/LeaseTimeToLive",
                pb::LeaseTimeToLiveRequest { id, keys },
                LeaseTimeToLiveResponse,
                |answer| {
                    let mut keys = answer.keys;
                    keys.sort();
                    format!("{} {keys:?}", answer.granted_ttl)
                }
            )
        }
        Case::Leases => {
            call!("Lease/LeaseLeases", pb::LeaseLeasesRequest {}, LeaseLeasesResponse, |answer| {
                let mut ids: Vec<_> = answer.leases.iter().map(|lease| lease.id).collect();
                ids.sort_unstable();
                format!("{ids:?}")
            })
        }
        Case::Alarm(action) => {
            call!("Maintenance/Alarm", pb::AlarmRequest { action, member_id: 0, alarm: 0 }, AlarmResponse)
        }
        Case::Status => call!("Maintenance/Status", pb::StatusRequest {}, StatusResponse),
        Case::Defragment => call!("Maintenance/Defragment", pb::DefragmentRequest {}, DefragmentResponse),
        Case::Hash => call!("Maintenance/Hash", pb::HashRequest {}, HashResponse),
        Case::HashKv => {
            call!("Maintenance/HashKV", pb::HashKvRequest { revision: 0 }, HashKvResponse, |answer| {
                answer.hash.to_string()
            })
        }
        Case::Snapshot => {
            let mut stream = match server
                .channel
                .server_stream(&server.method("Maintenance/Snapshot", token), &pb::SnapshotRequest {})
                .await
            {
                Ok(stream) => stream,
                Err(status) => return passed::<()>(Err(status)),
            };
            passed(stream.receive::<pb::SnapshotResponse>().await)
        }
        Case::MoveLeader => {
            call!("Maintenance/MoveLeader", pb::MoveLeaderRequest { target_id: 1 }, MoveLeaderResponse)
        }
        Case::Downgrade => {
            call!(
                "Maintenance/Downgrade",
                pb::DowngradeRequest { action: 0, version: "x".into() },
                DowngradeResponse
            )
        }
        Case::MemberList(linearizable) => {
            call!("Cluster/MemberList", pb::MemberListRequest { linearizable }, MemberListResponse)
        }
        // None of these fits the cluster, so none changes it.
        Case::MemberAdd => {
            let peer_ur_ls = vec![format!("http://{}", server.member.peer_authority())];
            call!(
                "Cluster/MemberAdd",
                pb::MemberAddRequest { peer_ur_ls, is_learner: true },
                MemberAddResponse
            )
        }
        Case::MemberRemove => {
            call!("Cluster/MemberRemove", pb::MemberRemoveRequest { id: 1 }, MemberRemoveResponse)
        }
        Case::MemberUpdate => {
            let peer_ur_ls = vec!["http://127.0.0.1:1".to_owned()];
            call!("Cluster/MemberUpdate", pb::MemberUpdateRequest { id: 1, peer_ur_ls }, MemberUpdateResponse)
        }
        Case::MemberPromote => {
            call!("Cluster/MemberPromote", pb::MemberPromoteRequest { id: 1 }, MemberPromoteResponse)
        }
        Case::UserGet(name) => call!(
            "Auth/UserGet",
            pb::AuthUserGetRequest { name: name.into() },
            AuthUserGetResponse,
            |answer| { format!("{:?}", answer.roles) }
        ),
        Case::UserList => {
            call!("Auth/UserList", pb::AuthUserListRequest {}, AuthUserListResponse, |answer| {
                format!("{:?}", answer.users)
            })
        }
        Case::RoleGet(role) => call!(
            "Auth/RoleGet",
            pb::AuthRoleGetRequest { role: role.into() },
            AuthRoleGetResponse,
            |answer| { format!("{:?}", answer.perm) }
        ),
        Case::RoleList => {
            call!("Auth/RoleList", pb::AuthRoleListRequest {}, AuthRoleListResponse, |answer| {
                format!("{:?}", answer.roles)
            })
        }
        Case::UserAdd(name) => {
            let request =
                pb::AuthUserAddRequest { name: name.into(), password: PASSWORD.into(), ..Default::default() };
            call!("Auth/UserAdd", request, AuthUserAddResponse)
        }
        Case::UserDelete(name) => {
            call!("Auth/UserDelete", pb::AuthUserDeleteRequest { name: name.into() }, AuthUserDeleteResponse)
        }
        Case::ChangePassword(name) => {
            let request = pb::AuthUserChangePasswordRequest {
                name: name.into(),
                password: PASSWORD.into(),
                ..Default::default()
            };
            call!("Auth/UserChangePassword", request, AuthUserChangePasswordResponse)
        }
        Case::RoleAdd(name) => {
            call!("Auth/RoleAdd", pb::AuthRoleAddRequest { name: name.into() }, AuthRoleAddResponse)
        }
        Case::RoleDelete(role) => {
            call!("Auth/RoleDelete", pb::AuthRoleDeleteRequest { role: role.into() }, AuthRoleDeleteResponse)
        }
        Case::GrantRole(user, role) => {
            let request = pb::AuthUserGrantRoleRequest { user: user.into(), role: role.into() };
            call!("Auth/UserGrantRole", request, AuthUserGrantRoleResponse)
        }
        Case::RevokeRole(name, role) => {
            let request = pb::AuthUserRevokeRoleRequest { name: name.into(), role: role.into() };
            call!("Auth/UserRevokeRole", request, AuthUserRevokeRoleResponse)
        }
        Case::GrantPermission(name, perm) => {
            let request = pb::AuthRoleGrantPermissionRequest { name: name.into(), perm: Some(perm) };
            call!("Auth/RoleGrantPermission", request, AuthRoleGrantPermissionResponse)
        }
        Case::RevokePermission(role, key, range_end) => {
            let request = pb::AuthRoleRevokePermissionRequest {
                role: role.into(),
                key: key.into(),
                range_end: range_end.into(),
            };
            call!("Auth/RoleRevokePermission", request, AuthRoleRevokePermissionResponse)
        }
        Case::Enable => call!("Auth/AuthEnable", pb::AuthEnableRequest {}, AuthEnableResponse),
        Case::Disable => call!("Auth/AuthDisable", pb::AuthDisableRequest {}, AuthDisableResponse),
        Case::AuthStatus => {
            call!("Auth/AuthStatus", pb::AuthStatusRequest {}, AuthStatusResponse, |answer| {
                format!("{} {}", answer.enabled, answer.auth_revision)
            })
        }
        Case::Authenticate(name, password) => {
            let request = pb::AuthenticateRequest { name: name.into(), password: password.into() };
            call!("Auth/Authenticate", request, AuthenticateResponse)
        }
    }
}

/// The differences that stay, each with its row in COMPAT.md.
fn is_known(case: &Case, ours: &Verdict, theirs: &Verdict) -> bool {
    let denied = |verdict: &Verdict| match verdict {
        Ok(text) => text.ends_with("permission denied"),
        Err((_, text)) => text == "etcdserver: permission denied",
    };
    match case {
        // K40: etcd's verdict depends on the shape of a tree; nothing is read or written.
        Case::Range(pb::RangeRequest { key, range_end, .. })
        | Case::Delete(pb::DeleteRangeRequest { key, range_end, .. })
        | Case::Watch(pb::WatchCreateRequest { key, range_end, .. })
            if is_inverted(key, range_end) =>
        {
            !denied(ours) && denied(theirs)
        }
        // K33: 3.5 looks at the first key of a watch without end; that is the published leak.
        Case::Watch(create) if create.range_end == "\0" => denied(ours) && !denied(theirs),
        _ => false,
    }
}

/// One login per user and server, renewed when users change.
struct Tokens(Vec<[Option<String>; 2]>);

impl Tokens {
    async fn take(servers: &[Server; 2]) -> Self {
        let mut tokens = Vec::new();
        for user in USERS {
            let mut pair = [None, None];
            for (token, server) in pair.iter_mut().zip(servers) {
                *token = server.login(user, PASSWORD).await.ok();
            }
            tokens.push(pair);
        }
        Self(tokens)
    }
}

fn compare(args: &[&str], seed_offset: u64) -> anyhow::Result<()> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let cases = number("RETCD_AUTH_CASES").map_or(DEFAULT_CASES, |cases| cases as usize) / 2;
    let seed = number("RETCD_AUTH_SEED").unwrap_or(1) + seed_offset;
    block_on(async {
        let servers = [Server::start(&subject(), args).await?, Server::start(&yardstick(), args).await?];
        let mut dice = Dice(seed);
        for server in &servers {
            server.enable().await?;
            let root = server.login("root", PASSWORD).await?;
            for (user, role) in USERS[1..].iter().zip(ROLES) {
                server.user(Some(&root), user).await?;
                let root = server.login("root", PASSWORD).await?;
                server.role(Some(&root), role).await?;
                server.give(Some(&server.login("root", PASSWORD).await?), user, role).await?;
            }
        }
        let mut known = 0;
        for number in 0..cases {
            if number % CASES_PER_ROUND == 0 {
                prepare(&servers, &mut dice).await?;
            }
            // Stale tokens are part of the game: new ones come now and then.
            let tokens = if dice.one_in(4) { Some(Tokens::take(&servers).await) } else { None };
            let who = dice.below(USERS.len() + 2);
            let case = request(&mut dice);
            let token = |server: usize| -> Option<String> {
                match (who, &tokens) {
                    (who, _) if who == USERS.len() => Some("nonsense".to_owned()),
                    (who, Some(Tokens(tokens))) if who < USERS.len() => tokens[who][server].clone(),
                    (who, None) if who < USERS.len() => {
                        LAST.with_borrow(|last| last.get(who).and_then(|pair| pair[server].clone()))
                    }
                    _ => None,
                }
            };
            let (own, other) = (token(0), token(1));
            let (ours, theirs) = futures_util::future::join(
                run(&servers[0], own.as_deref(), &case),
                run(&servers[1], other.as_deref(), &case),
            )
            .await;
            if let Some(Tokens(tokens)) = tokens {
                LAST.set(tokens);
            }
            if ours != theirs {
                ensure!(
                    is_known(&case, &ours, &theirs),
                    "seed {seed}, case {number}, user {:?}: {case:#?}\nours:   {ours:?}\netcd's: {theirs:?}",
                    USERS.get(who)
                );
                known += 1;
            }
        }
        println!("{cases} cases with seed {seed} agree; {known} known differences among them");
        Ok(())
    })
}

thread_local! {
    /// The tokens of the last login.
    static LAST: std::cell::RefCell<Vec<[Option<String>; 2]>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Brings both servers back to auth switched on and some users with roles, by root.
async fn prepare(servers: &[Server; 2], dice: &mut Dice) -> anyhow::Result<()> {
    let mut changes: Vec<Case> = vec![Case::Enable];
    changes.extend(USERS[1..].iter().map(|user| Case::UserAdd(user)));
    changes.extend(ROLES.iter().map(|role| Case::RoleAdd(role)));
    changes.extend((0..6).map(|_| Case::GrantPermission(dice.of(&ROLES), permission(dice))));
    changes.extend((0..4).map(|_| Case::GrantRole(dice.of(&USERS[1..]), dice.of(&ROLES))));
    changes.extend((0..2).map(|_| Case::RevokeRole(dice.of(&USERS[1..]), dice.of(&ROLES))));
    changes.extend(LEASES.map(Case::Grant));
    for change in changes {
        let mut verdicts = Vec::new();
        for server in servers {
            let root = server.login("root", PASSWORD).await.ok();
            verdicts.push(run(server, root.as_deref(), &change).await);
        }
        ensure!(verdicts[0] == verdicts[1], "{change:?}: {verdicts:?}");
    }
    LAST.set(Tokens::take(servers).await.0);
    Ok(())
}

#[test]
fn verdicts_are_equal_with_simple_tokens() -> anyhow::Result<()> {
    compare(&[], 0)
}

/// Signed tokens carry the auth revision of their login: the ones of before are refused.
#[test]
fn verdicts_are_equal_with_signed_tokens() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let key = dir.path().join("key");
    std::fs::write(&key, "a secret of both servers")?;
    compare(&["--auth-token", &format!("jwt,sign-method=HS256,priv-key={},ttl=1h", key.display())], 1000)
}
