//! The published ways around permissions, each by name, against our server.

use interop::block_on;
use interop::programs::subject_as;
use pb::request_op::Request;
use proto::authpb::permission::Type;
use proto::etcdserverpb as pb;

use crate::calls::{PASSWORD, Server};

const DENIED: (u16, &str) = (7, "etcdserver: permission denied");
const NOBODY: (u16, &str) = (3, "etcdserver: user name is empty");

/// A server with auth on, and the tokens of root and of `writer`, who may write `w` and `x`..`z`
/// and read `r` alone.
async fn server() -> anyhow::Result<(Server, String, String)> {
    let server = Server::start(&subject_as("3.7"), &[]).await?;
    server.enable().await?;
    let root = server.login("root", PASSWORD).await?;
    let root = Some(root.as_str());
    server.user(root, "writer").await?;
    server.role(root, "writer").await?;
    server.allow(root, "writer", Type::Write, ("w", "")).await?;
    server.allow(root, "writer", Type::Write, ("x", "z")).await?;
    server.allow(root, "writer", Type::Read, ("r", "")).await?;
    server.give(root, "writer", "writer").await?;
    let (root, writer) = (server.login("root", PASSWORD).await?, server.login("writer", PASSWORD).await?);
    for key in ["w", "r", "secret"] {
        let put = pb::PutRequest { key: key.into(), value: "old".into(), ..Default::default() };
        let _: pb::PutResponse = server.call("KV/Put", Some(&root), &put).await?;
    }
    Ok((server, root, writer))
}

macro_rules! refused {
    ($server:expr, $token:expr, $path:literal, $request:expr, $response:ident, $want:expr) => {{
        let request = &$request;
        let answer = $server.call::<pb::$response>($path, $token, request).await;
        let status = answer.expect_err(concat!($path, " was not refused"));
        assert_eq!((status.code as u16, status.message.as_str()), $want, "{}: {request:?}", $path);
    }};
}

fn put(key: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: "new".into(), ..Default::default() }
}

fn txn(request: Request) -> pb::TxnRequest {
    pb::TxnRequest { success: vec![pb::RequestOp { request: Some(request) }], ..Default::default() }
}

/// CVE-2026-33343: operations of a transaction inside a transaction were not looked at, so whoever
/// might write anything could read and write everything.
#[test]
fn nested_transactions_are_checked_to_the_bottom() -> anyhow::Result<()> {
    block_on(async {
        let (server, root, writer) = server().await?;
        let token = Some(writer.as_str());
        let hidden = [
            Request::RequestRange(pb::RangeRequest { key: "secret".into(), ..Default::default() }),
            Request::RequestPut(put("secret")),
            Request::RequestDeleteRange(pb::DeleteRangeRequest {
                key: "secret".into(),
                ..Default::default()
            }),
        ];
        for request in hidden {
            let mut nested = txn(request);
            for _ in 0..3 {
                refused!(server, token, "KV/Txn", nested, TxnResponse, DENIED);
                // In the branch that is not taken, too.
                let failure = pb::TxnRequest { failure: nested.success.clone(), ..Default::default() };
                refused!(server, token, "KV/Txn", failure, TxnResponse, DENIED);
                nested = txn(Request::RequestTxn(nested));
            }
        }
        // A compare of a nested transaction tells what a key holds.
        let compare = pb::Compare { key: "secret".into(), target: 3, ..Default::default() };
        let asks = txn(Request::RequestTxn(pb::TxnRequest { compare: vec![compare], ..Default::default() }));
        refused!(server, token, "KV/Txn", asks, TxnResponse, DENIED);
        let allowed = txn(Request::RequestTxn(txn(Request::RequestPut(put("w")))));
        let _: pb::TxnResponse = server.call("KV/Txn", token, &allowed).await?;
        let read = pb::RangeRequest { key: "secret".into(), ..Default::default() };
        let answer: pb::RangeResponse = server.call("KV/Range", Some(&root), &read).await?;
        assert_eq!(answer.kvs[0].value, "old");
        Ok(())
    })
}

/// CVE-2026-44283 and before: `prev_kv` of a put or a deletion reads, so it needs the permission to.
#[test]
fn prev_kv_needs_the_permission_to_read() -> anyhow::Result<()> {
    block_on(async {
        let (server, _, writer) = server().await?;
        let token = Some(writer.as_str());
        let put = pb::PutRequest { prev_kv: true, ..put("w") };
        refused!(server, token, "KV/Put", put, PutResponse, DENIED);
        refused!(server, token, "KV/Txn", txn(Request::RequestPut(put.clone())), TxnResponse, DENIED);
        let delete = pb::DeleteRangeRequest { key: "w".into(), prev_kv: true, ..Default::default() };
        refused!(server, token, "KV/DeleteRange", delete, DeleteRangeResponse, DENIED);
        let nested = txn(Request::RequestTxn(txn(Request::RequestDeleteRange(delete))));
        refused!(server, token, "KV/Txn", nested, TxnResponse, DENIED);
        Ok(())
    })
}

/// A lease that carries a key of somebody else: who attaches to it, renews it or revokes it decides
/// over that key; who lists its keys learns names.
#[test]
fn leases_with_keys_of_others_are_out_of_reach() -> anyhow::Result<()> {
    block_on(async {
        let (server, root, writer) = server().await?;
        let token = Some(writer.as_str());
        let grant = pb::LeaseGrantRequest { id: 7, ttl: 1000 };
        let _: pb::LeaseGrantResponse = server.call("Lease/LeaseGrant", Some(&root), &grant).await?;
        let held = pb::PutRequest { lease: 7, ..put("secret") };
        let _: pb::PutResponse = server.call("KV/Put", Some(&root), &held).await?;

        let attach = pb::PutRequest { lease: 7, ..put("w") };
        refused!(server, token, "KV/Put", attach, PutResponse, DENIED);
        refused!(server, token, "KV/Txn", txn(Request::RequestPut(attach.clone())), TxnResponse, DENIED);
        refused!(
            server,
            token,
            "Lease/LeaseRevoke",
            pb::LeaseRevokeRequest { id: 7 },
            LeaseRevokeResponse,
            DENIED
        );
        let ask = pb::LeaseTimeToLiveRequest { id: 7, keys: true };
        refused!(server, token, "Lease/LeaseTimeToLive", ask, LeaseTimeToLiveResponse, DENIED);
        refused!(server, token, "Lease/LeaseLeases", pb::LeaseLeasesRequest {}, LeaseLeasesResponse, DENIED);
        let renew = pb::LeaseKeepAliveRequest { id: 7 };
        let answer = server.first::<pb::LeaseKeepAliveResponse>("Lease/LeaseKeepAlive", token, &renew).await;
        assert_eq!(answer.unwrap_err().message, DENIED.1);
        // Without keys the time is nobody's secret.
        let ask = pb::LeaseTimeToLiveRequest { id: 7, keys: false };
        let _: pb::LeaseTimeToLiveResponse = server.call("Lease/LeaseTimeToLive", token, &ask).await?;
        Ok(())
    })
}

/// The server's own revocation of a lease that is over is root's: it must go through whoever's keys
/// hang on it.
#[test]
fn leases_that_are_over_are_revoked_with_auth_on() -> anyhow::Result<()> {
    block_on(async {
        let (server, root, _) = server().await?;
        let grant = pb::LeaseGrantRequest { id: 8, ttl: 1 };
        let _: pb::LeaseGrantResponse = server.call("Lease/LeaseGrant", Some(&root), &grant).await?;
        let held = pb::PutRequest { lease: 8, ..put("secret") };
        let _: pb::PutResponse = server.call("KV/Put", Some(&root), &held).await?;
        let key = pb::WatchCreateRequest { key: "secret".into(), ..Default::default() };
        let union = pb::watch_request::RequestUnion::CreateRequest(key);
        let mut watch = server.channel.open(&server.method("Watch/Watch", Some(&root))).await?;
        watch.send(&pb::WatchRequest { request_union: Some(union) })?;
        let deleted = async {
            while let Some(response) = watch.receive::<pb::WatchResponse>().await? {
                if response.events.iter().any(|event| event.r#type == 1) {
                    return anyhow::Ok(());
                }
            }
            anyhow::bail!("the watch ended")
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), deleted).await?
    })
}

/// CVE-2026-33413 among others: a watch was allowed by its first key alone.
#[test]
fn a_watch_needs_every_key_that_it_watches() -> anyhow::Result<()> {
    block_on(async {
        let (server, _, writer) = server().await?;
        let watch = async |token: Option<&str>, key: &str, range_end: &str| {
            let create = pb::WatchCreateRequest {
                key: key.to_owned().into(),
                range_end: range_end.to_owned().into(),
                ..Default::default()
            };
            let union = pb::watch_request::RequestUnion::CreateRequest(create);
            let request = pb::WatchRequest { request_union: Some(union) };
            let answer = server.first::<pb::WatchResponse>("Watch/Watch", token, &request).await?;
            anyhow::Ok(answer.map(|answer| answer.cancel_reason).unwrap_or_default())
        };
        let token = Some(writer.as_str());
        assert_eq!(watch(token, "r", "").await?, "");
        for (key, range_end) in
            [("r", "\0"), ("r", "s"), ("r", "r\0a"), ("q", "rr"), ("", ""), ("", "\0"), ("w", "")]
        {
            let reason = watch(token, key, range_end).await?;
            assert_eq!(
                reason, "rpc error: code = PermissionDenied desc = etcdserver: permission denied",
                "{key:?} to {range_end:?}"
            );
        }
        assert_eq!(
            watch(None, "r", "").await?,
            "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"
        );
        assert_eq!(
            watch(Some("x.1"), "r", "").await?,
            "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"
        );
        Ok(())
    })
}

/// CVE-2026-33413 and before: calls that asked for nobody's name.
#[test]
fn nobody_gets_in_anywhere() -> anyhow::Result<()> {
    block_on(async {
        let (server, _, writer) = server().await?;
        for (token, want) in [(None, NOBODY), (Some(writer.as_str()), DENIED)] {
            refused!(
                server,
                token,
                "KV/Compact",
                pb::CompactionRequest { revision: 1, physical: false },
                CompactionResponse,
                want
            );
            refused!(
                server,
                token,
                "Maintenance/Defragment",
                pb::DefragmentRequest {},
                DefragmentResponse,
                want
            );
            refused!(server, token, "Maintenance/Hash", pb::HashRequest {}, HashResponse, want);
            refused!(
                server,
                token,
                "Maintenance/HashKV",
                pb::HashKvRequest { revision: 0 },
                HashKvResponse,
                want
            );
            refused!(
                server,
                token,
                "Maintenance/MoveLeader",
                pb::MoveLeaderRequest { target_id: 1 },
                MoveLeaderResponse,
                want
            );
            refused!(
                server,
                token,
                "Maintenance/Downgrade",
                pb::DowngradeRequest { action: 0, version: "3.6".into() },
                DowngradeResponse,
                want
            );
            refused!(
                server,
                token,
                "Maintenance/Alarm",
                pb::AlarmRequest { action: 1, member_id: 1, alarm: 1 },
                AlarmResponse,
                want
            );
            let peer_ur_ls = vec!["http://127.0.0.1:1".to_owned()];
            refused!(
                server,
                token,
                "Cluster/MemberAdd",
                pb::MemberAddRequest { peer_ur_ls: peer_ur_ls.clone(), is_learner: true },
                MemberAddResponse,
                want
            );
            refused!(
                server,
                token,
                "Cluster/MemberUpdate",
                pb::MemberUpdateRequest { id: 1, peer_ur_ls },
                MemberUpdateResponse,
                want
            );
            refused!(
                server,
                token,
                "Cluster/MemberRemove",
                pb::MemberRemoveRequest { id: 1 },
                MemberRemoveResponse,
                want
            );
            refused!(
                server,
                token,
                "Cluster/MemberPromote",
                pb::MemberPromoteRequest { id: 1 },
                MemberPromoteResponse,
                want
            );
            refused!(server, token, "Auth/UserList", pb::AuthUserListRequest {}, AuthUserListResponse, want);
            refused!(
                server,
                token,
                "Auth/UserGet",
                pb::AuthUserGetRequest { name: "root".into() },
                AuthUserGetResponse,
                want
            );
            refused!(
                server,
                token,
                "Auth/RoleGet",
                pb::AuthRoleGetRequest { role: "root".into() },
                AuthRoleGetResponse,
                want
            );
            refused!(server, token, "Auth/AuthDisable", pb::AuthDisableRequest {}, AuthDisableResponse, want);
            let mut stream = server
                .channel
                .server_stream(&server.method("Maintenance/Snapshot", token), &pb::SnapshotRequest {})
                .await?;
            let status = stream.receive::<pb::SnapshotResponse>().await.unwrap_err();
            assert_eq!((status.code as u16, status.message.as_str()), want);
        }
        let token = None;
        refused!(server, token, "Maintenance/Status", pb::StatusRequest {}, StatusResponse, NOBODY);
        refused!(
            server,
            token,
            "Maintenance/Alarm",
            pb::AlarmRequest { action: 0, member_id: 0, alarm: 0 },
            AlarmResponse,
            NOBODY
        );
        refused!(
            server,
            token,
            "Cluster/MemberList",
            pb::MemberListRequest { linearizable: false },
            MemberListResponse,
            NOBODY
        );
        refused!(
            server,
            token,
            "Lease/LeaseGrant",
            pb::LeaseGrantRequest { id: 0, ttl: 10 },
            LeaseGrantResponse,
            NOBODY
        );
        refused!(
            server,
            token,
            "Lease/LeaseRevoke",
            pb::LeaseRevokeRequest { id: 77 },
            LeaseRevokeResponse,
            NOBODY
        );
        refused!(server, token, "Lease/LeaseLeases", pb::LeaseLeasesRequest {}, LeaseLeasesResponse, NOBODY);
        refused!(
            server,
            token,
            "Lease/LeaseTimeToLive",
            pb::LeaseTimeToLiveRequest { id: 77, keys: false },
            LeaseTimeToLiveResponse,
            NOBODY
        );
        let bad = Some("abc.1");
        let want = (16, "etcdserver: invalid auth token");
        refused!(server, bad, "KV/Put", put("w"), PutResponse, want);
        refused!(
            server,
            bad,
            "KV/Range",
            pb::RangeRequest { key: "r".into(), ..Default::default() },
            RangeResponse,
            want
        );
        refused!(server, bad, "Auth/AuthStatus", pb::AuthStatusRequest {}, AuthStatusResponse, want);
        Ok(())
    })
}

/// CVE-2021-28235: a password must not stay behind where a log or a dump shows it, nor may a token or
/// a key that signs them.
#[test]
fn secrets_are_in_no_file_and_no_metric() -> anyhow::Result<()> {
    secrets_stay_secret(&[])?;
    let dir = tempfile::tempdir()?;
    let key = dir.path().join("key");
    std::fs::write(&key, "Kq9-unmistakable")?;
    secrets_stay_secret(&["--auth-token", &format!("jwt,sign-method=HS256,priv-key={}", key.display())])
}

fn secrets_stay_secret(args: &[&str]) -> anyhow::Result<()> {
    block_on(async {
        let args = [args, &["--log-level", "debug", "--discovery-password", "Dq8-unmistakable"]].concat();
        let server = Server::start(&subject_as("3.7"), &args).await?;
        let secret = "Xq7-unmistakable";
        let add = pb::AuthUserAddRequest { name: "u".into(), password: secret.into(), ..Default::default() };
        let _: pb::AuthUserAddResponse = server.call("Auth/UserAdd", None, &add).await?;
        server.enable().await?;
        let token = server.login("u", secret).await?;
        assert!(server.login("u", "Xq7-unmistakable2").await.is_err());
        // Used rightly, wrongly, and where it does not belong.
        let read = pb::RangeRequest { key: "k".into(), ..Default::default() };
        let denied = server.call::<pb::RangeResponse>("KV/Range", Some(&token), &read).await;
        assert_eq!(denied.unwrap_err().message, DENIED.1);
        let spoilt = format!("{token}0");
        assert!(server.call::<pb::RangeResponse>("KV/Range", Some(&spoilt), &read).await.is_err());
        let change = pb::AuthUserChangePasswordRequest {
            name: "u".into(),
            password: "Yq7-unmistakable".into(),
            ..Default::default()
        };
        let root = server.login("root", PASSWORD).await?;
        let _: pb::AuthUserChangePasswordResponse =
            server.call("Auth/UserChangePassword", Some(&root), &change).await?;
        let secrets = [
            secret,
            "Xq7-unmistakable2",
            "Yq7-unmistakable",
            "Kq9-unmistakable",
            "Dq8-unmistakable",
            &token,
            &root,
        ];
        let holds = |content: &[u8]| {
            let within =
                |secret: &&&str| content.windows(secret.len()).any(|window| window == secret.as_bytes());
            secrets.iter().find(within).copied()
        };
        let authority = server.member.authority();
        let metrics = tokio::task::spawn_blocking(move || {
            interop::http::request(&authority, "GET", "/metrics", &[("Authorization", "Bearer none")], "")
        });
        assert_eq!(holds(&metrics.await??.body), None, "in the metrics");
        let mut places = vec![server.member.dir().to_owned()];
        while let Some(place) = places.pop() {
            for entry in std::fs::read_dir(&place)? {
                let path = entry?.path();
                if path.is_dir() {
                    places.push(path);
                } else {
                    // The log holds the letters of a simple token, which every member must know. They
                    // are one half of it.
                    assert_eq!(holds(&std::fs::read(&path)?), None, "in {}", path.display());
                }
            }
        }
        Ok(())
    })
}
