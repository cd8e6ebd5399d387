//! Authentication over the wire, on a member without raft: what the tests against the real etcd
//! cannot reach (`crates/interop/tests/auth`).

mod support {
    pub mod client;
    pub mod member;
    pub use client::*;
}

use std::time::Duration;

use api::Error;
use api::grpc::{CallContext, Peer};
use api::member::Config;
use api::services::auth;
use proto::{authpb, etcdserverpb as pb, v3electionpb, v3lockpb};
use support::member::{Fixture, start_with, text};
use support::{Answer, Client, frame, request};
use types::CompatVersion;

const PASSWORD: &str = "pw";

/// Auth on, with root and with `u`, who may do everything with keys from `a` to `c`.
async fn fixture(compat: CompatVersion) -> (Fixture, Client) {
    fixture_with(Config { compat, ..Config::default() }).await
}

async fn fixture_with(config: Config) -> (Fixture, Client) {
    let fixture = start_with(config, |_| {});
    let client = fixture.client().await;
    let nobody = None;
    for name in ["root", "u"] {
        let add =
            pb::AuthUserAddRequest { name: name.into(), password: PASSWORD.into(), ..Default::default() };
        call(&client, nobody, "etcdserverpb.Auth/UserAdd", &add).await.only::<pb::AuthUserAddResponse>();
    }
    for name in ["root", "r"] {
        let add = pb::AuthRoleAddRequest { name: name.into() };
        call(&client, nobody, "etcdserverpb.Auth/RoleAdd", &add).await.only::<pb::AuthRoleAddResponse>();
    }
    for (user, role) in [("root", "root"), ("u", "r")] {
        let grant = pb::AuthUserGrantRoleRequest { user: user.into(), role: role.into() };
        let answer = call(&client, nobody, "etcdserverpb.Auth/UserGrantRole", &grant).await;
        answer.only::<pb::AuthUserGrantRoleResponse>();
    }
    let perm = authpb::Permission { perm_type: 2, key: "a".into(), range_end: "c".into() };
    let grant = pb::AuthRoleGrantPermissionRequest { name: "r".into(), perm: Some(perm) };
    let answer = call(&client, nobody, "etcdserverpb.Auth/RoleGrantPermission", &grant).await;
    answer.only::<pb::AuthRoleGrantPermissionResponse>();
    let answer = call(&client, nobody, "etcdserverpb.Auth/AuthEnable", &pb::AuthEnableRequest {}).await;
    answer.only::<pb::AuthEnableResponse>();
    (fixture, client)
}

async fn call<Req: prost::Message>(
    client: &Client,
    token: Option<&str>,
    path: &str,
    message: &Req,
) -> Answer {
    let head = request(&format!("/{path}"));
    let head = match token {
        Some(token) => head.header("authorization", format!("Bearer {token}")),
        None => head,
    };
    client.call(head, vec![frame(message)]).await
}

async fn login(client: &Client, name: &str) -> String {
    let ask = pb::AuthenticateRequest { name: name.into(), password: PASSWORD.into() };
    call(client, None, "etcdserverpb.Auth/Authenticate", &ask).await.only::<pb::AuthenticateResponse>().token
}

fn verdict(answer: &Answer) -> (u32, String) {
    (answer.code(), answer.text())
}

fn denied() -> (u32, String) {
    (7, text("permission denied"))
}

#[tokio::test]
async fn a_streamed_range_is_checked() {
    let (_fixture, client) = fixture(CompatVersion::V3_7).await;
    let token = login(&client, "u").await;
    let range = |key: &str, end: &str| pb::RangeRequest {
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        ..Default::default()
    };
    for count_only in [false, true] {
        let path = "etcdserverpb.KV/RangeStream";
        let allowed = pb::RangeRequest { count_only, ..range("a", "c") };
        assert_eq!(call(&client, Some(&token), path, &allowed).await.code(), 0);
        let beyond = pb::RangeRequest { count_only, ..range("a", "d") };
        assert_eq!(verdict(&call(&client, Some(&token), path, &beyond).await), denied());
        let answer = call(&client, None, path, &allowed).await;
        assert_eq!(verdict(&answer), (3, text("user name is empty")));
    }
}

#[tokio::test]
async fn locks_and_elections_act_in_the_name_of_the_caller() {
    let (_fixture, client) = fixture(CompatVersion::V3_7).await;
    let token = login(&client, "u").await;
    let lock = |name: &'static str| v3lockpb::LockRequest { name: name.into(), lease: 0 };
    let path = "v3lockpb.Lock/Lock";
    let held = call(&client, Some(&token), path, &lock("a")).await.only::<v3lockpb::LockResponse>();
    // Errors of these services come without their code, as upstream's do.
    assert_eq!(verdict(&call(&client, Some(&token), path, &lock("x")).await), (2, text("permission denied")));
    assert_eq!(verdict(&call(&client, None, path, &lock("a")).await), (2, text("user name is empty")));
    let unlock = v3lockpb::UnlockRequest { key: held.key };
    assert_eq!(call(&client, None, "v3lockpb.Lock/Unlock", &unlock).await.code(), 2);
    assert_eq!(call(&client, Some(&token), "v3lockpb.Lock/Unlock", &unlock).await.code(), 0);

    let campaign = v3electionpb::CampaignRequest { name: "x".into(), lease: 0, value: "v".into() };
    let path = "v3electionpb.Election/Campaign";
    assert_eq!(verdict(&call(&client, Some(&token), path, &campaign).await), (2, text("permission denied")));
    let leader = v3electionpb::LeaderRequest { name: "x".into() };
    let path = "v3electionpb.Election/Leader";
    assert_eq!(verdict(&call(&client, Some(&token), path, &leader).await), (2, text("permission denied")));
    // The stream of leaders just ends, as upstream's does.
    let path = "v3electionpb.Election/Observe";
    assert_eq!(call(&client, Some(&token), path, &leader).await.code(), 0);
}

#[tokio::test]
async fn tokens_end_by_time_and_with_their_user() {
    let (fixture, client) = fixture(CompatVersion::V3_7).await;
    let (root, token) = (login(&client, "root").await, login(&client, "u").await);
    let get = pb::RangeRequest { key: "a".into(), ..Default::default() };
    let look = async |token: &str| call(&client, Some(token), "etcdserverpb.KV/Range", &get).await.code();
    for _ in 0..3 {
        *fixture.member.now.lock() += Duration::from_secs(299);
        assert_eq!((look(&token).await, look(&root).await), (0, 0), "use renews");
    }
    *fixture.member.now.lock() += Duration::from_secs(301);
    assert_eq!(look(&token).await, 16);

    let (root, token) = (login(&client, "root").await, login(&client, "u").await);
    let change = pb::AuthUserChangePasswordRequest {
        name: "u".into(),
        password: "other".into(),
        ..Default::default()
    };
    call(&client, Some(&root), "etcdserverpb.Auth/UserChangePassword", &change)
        .await
        .only::<pb::AuthUserChangePasswordResponse>();
    assert_eq!((look(&token).await, look(&root).await), (16, 0));
    let ask = pb::AuthenticateRequest { name: "u".into(), password: PASSWORD.into() };
    let answer = call(&client, None, "etcdserverpb.Auth/Authenticate", &ask).await;
    assert_eq!(verdict(&answer), (3, text("authentication failed, invalid user ID or password")));
}

#[tokio::test]
async fn users_without_password_have_no_login() {
    let (_fixture, client) = fixture(CompatVersion::V3_7).await;
    let root = login(&client, "root").await;
    let options = Some(authpb::UserAddOptions { no_password: true });
    let add = pb::AuthUserAddRequest { name: "bare".into(), options, ..Default::default() };
    call(&client, Some(&root), "etcdserverpb.Auth/UserAdd", &add).await.only::<pb::AuthUserAddResponse>();
    let ask = pb::AuthenticateRequest { name: "bare".into(), password: String::new() };
    let answer = call(&client, None, "etcdserverpb.Auth/Authenticate", &ask).await;
    let words = "auth: authentication failed, password was given for no password user";
    assert_eq!(verdict(&answer), (2, words.to_owned()));
    let long = pb::AuthUserAddRequest { name: "long".into(), password: "x".repeat(73), ..Default::default() };
    let answer = call(&client, Some(&root), "etcdserverpb.Auth/UserAdd", &long).await;
    assert_eq!(verdict(&answer), (2, "bcrypt: password length exceeds 72 bytes".to_owned()));
    // Who may not add users costs no hashing.
    let answer = call(&client, None, "etcdserverpb.Auth/UserAdd", &long).await;
    assert_eq!(verdict(&answer), (3, text("user name is empty")));
}

#[tokio::test]
async fn releases_differ_in_what_is_open() {
    let codes = async |compat| {
        let (_fixture, client) = fixture(compat).await;
        let (root, token) = (login(&client, "root").await, login(&client, "u").await);
        let status =
            call(&client, Some(&token), "etcdserverpb.Maintenance/Status", &pb::StatusRequest {}).await;
        let auth = call(&client, None, "etcdserverpb.Auth/AuthStatus", &pb::AuthStatusRequest {}).await;
        let hash = call(&client, Some(&token), "etcdserverpb.Maintenance/Hash", &pb::HashRequest {}).await;
        let get = pb::AuthRoleGetRequest { role: "root".into() };
        let role = call(&client, Some(&root), "etcdserverpb.Auth/RoleGet", &get).await;
        let permissions = role.only::<pb::AuthRoleGetResponse>().perm.len();
        (status.code(), auth.code(), verdict(&hash), permissions)
    };
    assert_eq!(codes(CompatVersion::V3_7).await, (0, 0, denied(), 1));
    assert_eq!(codes(CompatVersion::V3_6).await, (0, 3, denied(), 1));
    assert_eq!(codes(CompatVersion::V3_5).await, (7, 3, (2, "auth: permission denied".to_owned()), 0));
}

/// The recovery mode (`--auth-token=""`) opens the Auth service to programs on this machine, and
/// nothing to anybody else.
#[tokio::test]
async fn only_local_callers_recover() {
    let (fixture, client) = fixture_with(Config { auth_recovery: true, ..Config::default() }).await;
    let list = pb::AuthUserListRequest {};
    let answer = call(&client, None, "etcdserverpb.Auth/UserList", &list).await;
    assert_eq!(answer.only::<pb::AuthUserListResponse>().users, ["root", "u"]);
    let get = pb::RangeRequest { key: "a".into(), ..Default::default() };
    let nobody = (3, text("user name is empty"));
    assert_eq!(verdict(&call(&client, None, "etcdserverpb.KV/Range", &get).await), nobody);
    let token = login(&client, "u").await;
    let answer = call(&client, Some(&token), "etcdserverpb.Auth/UserList", &list).await;
    assert_eq!(verdict(&answer), denied(), "who is somebody is not taken for root");

    let elsewhere = CallContext {
        peer: Peer { address: "192.0.2.1:5".parse().ok(), ..Peer::default() }.into(),
        ..CallContext::local()
    };
    let member = &*fixture.member;
    assert_eq!(auth::user_list(member, &elsewhere, list).await, Err(Error::UserEmpty));
    assert_eq!(auth::disable(member, &elsewhere, pb::AuthDisableRequest {}).await, Err(Error::UserEmpty));
    let change =
        pb::AuthUserChangePasswordRequest { name: "root".into(), password: "x".into(), ..Default::default() };
    assert_eq!(auth::user_change_password(member, &elsewhere, change.clone()).await, Err(Error::UserEmpty));
    let answer = call(&client, None, "etcdserverpb.Auth/UserChangePassword", &change).await;
    assert_eq!(answer.code(), 0);
}
