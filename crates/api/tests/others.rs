//! Lease, maintenance, cluster, auth status, health, and the HTTP endpoints.

mod support {
    pub mod client;
    pub mod member;
    pub use client::*;
}

use api::Member;
use api::http::{AccessControl, Allowed};
use api::member::Config;
use proto::etcdserverpb as pb;
use proto::health as healthpb;
use sha2::{Digest, Sha256};
use support::member::{CLUSTER, Fixture, MEMBER, TERM, start, start_as, start_with, text};
use support::{Answer, Client, Incoming, frame, request, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use types::{CompatVersion, MemberId};

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { cluster_id: CLUSTER.0, member_id: MEMBER.0, revision, raft_term: TERM })
}

fn put(fixture: &Fixture, request: pb::PutRequest) {
    fixture.member.apply(pb::InternalRaftRequest { put: Some(request), ..Default::default() }).unwrap();
}

async fn call<Req: prost::Message>(client: &Client, method: &str, message: &Req) -> Answer {
    client.unary(&format!("/etcdserverpb.{method}"), message).await
}

#[tokio::test]
async fn leases_are_granted_renewed_and_revoked() {
    let fixture = start();
    let client = fixture.client().await;
    let grant = |id, ttl| pb::LeaseGrantRequest { id, ttl };
    let chosen: pb::LeaseGrantResponse = call(&client, "Lease/LeaseGrant", &grant(0, 1)).await.only();
    assert!(chosen.id > 0);
    assert_eq!((chosen.header, chosen.ttl, &chosen.error[..]), (header(1), 2, ""));
    let given: pb::LeaseGrantResponse = call(&client, "Lease/LeaseGrant", &grant(-7, 60)).await.only();
    assert_eq!((given.id, given.ttl), (-7, 60));
    let answer = call(&client, "Lease/LeaseGrant", &grant(-7, 60)).await;
    assert_eq!((answer.code(), answer.text()), (9, text("lease already exists")));
    let answer = call(&client, "Lease/LeaseGrant", &grant(-7, 9_000_000_001)).await;
    assert_eq!((answer.code(), answer.text()), (11, text("too large lease TTL")));

    put(&fixture, pb::PutRequest { key: "k".into(), lease: -7, ..Default::default() });
    *fixture.member.now.lock() = std::time::Duration::from_millis(10_500);
    let times = pb::LeaseTimeToLiveRequest { id: -7, keys: true };
    let response: pb::LeaseTimeToLiveResponse = call(&client, "Lease/LeaseTimeToLive", &times).await.only();
    assert_eq!((response.header, response.id, response.ttl, response.granted_ttl), (header(2), -7, 49, 60));
    assert_eq!(response.keys, ["k"]);
    let unknown = pb::LeaseTimeToLiveRequest { id: 99, keys: true };
    let response: pb::LeaseTimeToLiveResponse = call(&client, "Lease/LeaseTimeToLive", &unknown).await.only();
    assert_eq!((response.id, response.ttl, response.granted_ttl), (99, -1, 0));

    let renewals: Vec<_> = [-7, 99, -7].map(|id| frame(&pb::LeaseKeepAliveRequest { id })).into();
    let answer = client.call(request("/etcdserverpb.Lease/LeaseKeepAlive"), renewals).await;
    let decode = |message: &bytes::Bytes| -> pb::LeaseKeepAliveResponse {
        prost::Message::decode(message.clone()).unwrap()
    };
    let renewed: Vec<_> =
        answer.messages.iter().map(decode).map(|renewed| (renewed.id, renewed.ttl)).collect();
    assert_eq!((renewed, answer.code()), (vec![(-7, 60), (99, 0), (-7, 60)], 0));

    let leases: pb::LeaseLeasesResponse =
        call(&client, "Lease/LeaseLeases", &pb::LeaseLeasesRequest {}).await.only();
    assert_eq!(leases.leases.len(), 2);
    let revoke = pb::LeaseRevokeRequest { id: -7 };
    let response: pb::LeaseRevokeResponse = call(&client, "Lease/LeaseRevoke", &revoke).await.only();
    assert_eq!(response.header, header(3));
    let answer = call(&client, "Lease/LeaseRevoke", &revoke).await;
    assert_eq!((answer.code(), answer.text()), (5, text("requested lease not found")));
}

#[tokio::test]
async fn streams_that_need_a_leader_end_without_one() {
    let election_timeout = std::time::Duration::from_millis(10);
    let fixture = start_with(Config { election_timeout, ..Default::default() }, |_| {});
    let client = fixture.client().await;
    let open = async |head: http::request::Builder| {
        let mut send = client.send.clone().ready().await.unwrap();
        let (response, mut body) = send.send_request(head.body(()).unwrap(), false).unwrap();
        body.send_data(frame(&pb::LeaseKeepAliveRequest { id: 5 }), false).unwrap();
        let mut incoming = Incoming::new(within(response).await.unwrap().into_body());
        incoming.next::<pb::LeaseKeepAliveResponse>().await.unwrap();
        (incoming, body)
    };
    const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
    let (mut needy, _needy_body) = open(request(KEEP_ALIVE).header("hasleader", "true")).await;
    let (mut patient, mut patient_body) = open(request(KEEP_ALIVE)).await;
    fixture.member.raft.lock().leader = None;
    assert_eq!(needy.next::<pb::LeaseKeepAliveResponse>().await, None);
    assert_eq!(needy.status().await, (14, text("no leader")));
    patient_body.send_data(frame(&pb::LeaseKeepAliveRequest { id: 5 }), true).unwrap();
    assert_eq!(patient.next::<pb::LeaseKeepAliveResponse>().await.unwrap().ttl, 0);
    assert_eq!(patient.next::<pb::LeaseKeepAliveResponse>().await, None);
    assert_eq!(patient.status().await.0, 0);
}

#[tokio::test]
async fn status_and_alarms() {
    let fixture = start();
    let client = fixture.client().await;
    let get = pb::AlarmRequest::default();
    let raise = pb::AlarmRequest { action: 1, member_id: 123, alarm: 1 };
    let response: pb::AlarmResponse = call(&client, "Maintenance/Alarm", &raise).await.only();
    assert_eq!((response.header, response.alarms.len()), (header(1), 1));
    let response: pb::AlarmResponse = call(&client, "Maintenance/Alarm", &get).await.only();
    assert_eq!(response.alarms, [pb::AlarmMember { member_id: 123, alarm: 1 }]);
    let answer = call(&client, "Maintenance/Alarm", &pb::AlarmRequest { action: 9, ..raise }).await;
    assert_eq!((answer.code(), answer.text()), (2, text("unknown method")));

    fixture.member.raft.lock().leader = None;
    let status: pb::StatusResponse = call(&client, "Maintenance/Status", &pb::StatusRequest {}).await.only();
    assert_eq!(status.errors, ["etcdserver: no leader", "memberID:123 alarm:NOSPACE"]);
    assert_eq!((&status.version[..], &status.storage_version[..]), ("3.7.1", "3.7.0"));
    assert_eq!((status.header, status.leader, status.raft_term), (header(1), 0, TERM));
    assert_eq!((status.raft_index, status.raft_applied_index), (2, 2));
    assert_eq!(status.db_size_quota, 2_147_483_648);
    assert_eq!(status.downgrade_info, Some(pb::DowngradeInfo::default()));
    assert!(status.db_size >= status.db_size_in_use && status.db_size > 0);

    let old = start_as(CompatVersion::V3_5);
    let status: pb::StatusResponse =
        call(&old.client().await, "Maintenance/Status", &pb::StatusRequest {}).await.only();
    assert_eq!((&status.version[..], &status.storage_version[..]), ("3.5.30", ""));
    assert_eq!((status.db_size_quota, status.downgrade_info, status.leader), (0, None, MEMBER.0));
}

#[tokio::test]
async fn hashes_and_snapshots_cover_the_store() {
    let fixture = start();
    let client = fixture.client().await;
    for number in 0..100 {
        put(
            &fixture,
            pb::PutRequest {
                key: format!("k{number}").into(),
                value: vec![7; 3000].into(),
                ..Default::default()
            },
        );
    }
    let _: pb::DefragmentResponse =
        call(&client, "Maintenance/Defragment", &pb::DefragmentRequest {}).await.only();
    let response: pb::HashResponse = call(&client, "Maintenance/Hash", &pb::HashRequest {}).await.only();
    assert_eq!(response.header, header(101));
    let hash: pb::HashKvResponse =
        call(&client, "Maintenance/HashKV", &pb::HashKvRequest { revision: 0 }).await.only();
    assert_eq!((hash.header, hash.hash_revision, hash.compact_revision), (header(101), 101, -1));
    let answer = call(&client, "Maintenance/HashKV", &pb::HashKvRequest { revision: 102 }).await;
    assert_eq!((answer.code(), answer.text()), (11, text("mvcc: required revision is a future revision")));

    let answer = call(&client, "Maintenance/Snapshot", &pb::SnapshotRequest {}).await;
    assert_eq!(answer.code(), 0);
    let decode =
        |message: &bytes::Bytes| -> pb::SnapshotResponse { prost::Message::decode(message.clone()).unwrap() };
    let parts: Vec<_> = answer.messages.iter().map(decode).collect();
    let (digest, parts) = parts.split_last().unwrap();
    let mut left = parts.iter().map(|part| part.blob.len() as u64).sum::<u64>();
    let mut hasher = Sha256::new();
    for part in parts {
        left -= part.blob.len() as u64;
        assert_eq!((part.remaining_bytes, &part.version[..], part.header), (left, "3.7.0", None));
        assert!(part.blob.len() == 32 * 1024 || left == 0);
        hasher.update(&part.blob);
    }
    assert!(parts.len() > 9);
    assert_eq!((&digest.blob[..], digest.remaining_bytes), (&hasher.finalize()[..], 0));
}

#[tokio::test]
async fn leadership_and_downgrades_check_their_targets() {
    let fixture = start();
    let client = fixture.client().await;
    let move_to = |target_id| pb::MoveLeaderRequest { target_id };
    let answer = call(&client, "Maintenance/MoveLeader", &move_to(9)).await;
    assert_eq!((answer.code(), answer.text()), (9, text("bad leader transferee")));
    let response: pb::MoveLeaderResponse =
        call(&client, "Maintenance/MoveLeader", &move_to(MEMBER.0)).await.only();
    assert_eq!((response.header, *fixture.member.moved_to.lock()), (None, None));
    fixture.member.raft.lock().leader = Some(MemberId(9));
    let answer = call(&client, "Maintenance/MoveLeader", &move_to(MEMBER.0)).await;
    assert_eq!((answer.code(), answer.text()), (9, text("not leader")));

    let downgrade = |action, version: &str| pb::DowngradeRequest { action, version: version.to_owned() };
    let response: pb::DowngradeResponse =
        call(&client, "Maintenance/Downgrade", &downgrade(0, "3.6")).await.only();
    assert_eq!((response.header, &response.version[..]), (header(1), "3.7"));
    for (request, code, expected) in [
        (downgrade(0, "x"), 3, "wrong downgrade target version format"),
        (downgrade(0, "3.5.0"), 3, "invalid downgrade target version"),
        (downgrade(9, "3.6"), 2, "unknown method"),
        (downgrade(1, "3.5"), 3, "invalid downgrade target version"),
        (downgrade(1, ""), 3, "wrong downgrade target version format"),
    ] {
        let answer = call(&client, "Maintenance/Downgrade", &request).await;
        assert_eq!((answer.code(), answer.text()), (code, text(expected)));
    }

    let job = || fixture.member.shared().cluster().downgrade().clone();
    let response: pb::DowngradeResponse =
        call(&client, "Maintenance/Downgrade", &downgrade(1, "3.6.2")).await.only();
    assert_eq!(&response.version[..], "3.7", "the version that is left");
    assert_eq!((job().enabled, &job().target_version[..]), (true, "3.6.0"));
    for action in [0, 1] {
        let answer = call(&client, "Maintenance/Downgrade", &downgrade(action, "3.6")).await;
        let expected = text("cluster has a downgrade job in progress");
        assert_eq!((answer.code(), answer.text()), (9, expected));
    }
    // Without a job a cancellation changes nothing and says so only in the log.
    for _ in 0..2 {
        let response: pb::DowngradeResponse =
            call(&client, "Maintenance/Downgrade", &downgrade(2, "")).await.only();
        assert_eq!((&response.version[..], job().enabled), ("3.7", false));
    }

    let old = start_as(CompatVersion::V3_5);
    let answer = call(&old.client().await, "Maintenance/Downgrade", &downgrade(2, "")).await;
    assert_eq!((answer.code(), answer.text()), (9, text("no inflight downgrade job")));
}

#[tokio::test]
async fn members_auth_and_health() {
    let fixture = start();
    let client = fixture.client().await;
    let request = pb::MemberListRequest { linearizable: true };
    let list: pb::MemberListResponse = call(&client, "Cluster/MemberList", &request).await.only();
    assert_eq!(list.header, header(0));
    assert_eq!((list.members[0].id, &list.members[0].name[..]), (MEMBER.0, "fake"));
    assert_eq!(list.members[0].client_ur_ls, ["http://127.0.0.1:2379"]);
    let peer_ur_ls = vec!["http://127.0.0.1".to_owned()];
    let update = pb::MemberUpdateRequest { id: MEMBER.0, peer_ur_ls: peer_ur_ls.clone() };
    let add = pb::MemberAddRequest { peer_ur_ls, is_learner: false };
    for answer in
        [call(&client, "Cluster/MemberUpdate", &update).await, call(&client, "Cluster/MemberAdd", &add).await]
    {
        assert_eq!((answer.code(), answer.text()), (3, text("given member URLs are invalid")));
    }
    let status: pb::AuthStatusResponse =
        call(&client, "Auth/AuthStatus", &pb::AuthStatusRequest {}).await.only();
    assert_eq!((status.enabled, status.auth_revision), (false, 1));
    let answer = call(&client, "Auth/Authenticate", &pb::AuthenticateRequest::default()).await;
    assert_eq!((answer.code(), answer.text()), (9, text("authentication is not enabled")));
    let answer = call(&client, "Auth/UserAdd", &pb::AuthUserAddRequest::default()).await;
    assert_eq!((answer.code(), answer.text()), (3, text("user name is empty")));

    let ask = |service: &str| healthpb::HealthCheckRequest { service: service.to_owned() };
    let health: healthpb::HealthCheckResponse =
        client.unary("/grpc.health.v1.Health/Check", &ask("")).await.only();
    assert_eq!(health.status, 1);
    let answer = client.unary("/grpc.health.v1.Health/Check", &ask("x")).await;
    assert_eq!((answer.code(), answer.text()), (5, "unknown service".to_owned()));
    let list: healthpb::HealthListResponse =
        client.unary("/grpc.health.v1.Health/List", &healthpb::HealthListRequest {}).await.only();
    assert_eq!(list.statuses[""].status, 1);
    let answer = client.unary("/grpc.channelz.v1.Channelz/GetServers", &ask("")).await;
    assert_eq!((answer.code(), answer.text()), (12, "unknown service grpc.channelz.v1.Channelz".to_owned()));
}

#[tokio::test]
async fn the_health_service_follows_the_member() {
    let fixture = start();
    let client = fixture.client().await;
    let ask = |service: &str| healthpb::HealthCheckRequest { service: service.to_owned() };
    let open = async |service: &str| {
        let mut send = client.send.clone().ready().await.unwrap();
        let head = request("/grpc.health.v1.Health/Watch").body(()).unwrap();
        let (response, mut body) = send.send_request(head, false).unwrap();
        body.send_data(frame(&ask(service)), true).unwrap();
        Incoming::new(within(response).await.unwrap().into_body())
    };
    let (mut watch, mut unknown) = (open("").await, open("x").await);
    for (serving, status) in [(None, 1), (Some(false), 2), (Some(true), 1)] {
        if let Some(serving) = serving {
            fixture.member.serving.send_replace(serving);
        }
        let told: healthpb::HealthCheckResponse = watch.next().await.unwrap();
        assert_eq!(told.status, status);
        let health: healthpb::HealthCheckResponse =
            client.unary("/grpc.health.v1.Health/Check", &ask("")).await.only();
        assert_eq!(health.status, status);
        let list: healthpb::HealthListResponse =
            client.unary("/grpc.health.v1.Health/List", &healthpb::HealthListRequest {}).await.only();
        assert_eq!(list.statuses[""].status, status);
    }
    let told: healthpb::HealthCheckResponse = unknown.next().await.unwrap();
    assert_eq!(told.status, 3);
}

struct Page {
    status: u16,
    head: String,
    body: String,
}

async fn fetch(fixture: &Fixture, request_line: &str, headers: &str) -> Page {
    let mut socket = tokio::net::TcpStream::connect(fixture.serving.local_addr().unwrap()).await.unwrap();
    let text =
        format!("{request_line} HTTP/1.1\r\nhost: 127.0.0.1:2379\r\nconnection: close\r\n{headers}\r\n");
    socket.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(socket.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Page { status, head: head.to_owned(), body: body.to_owned() }
}

#[tokio::test]
async fn http_endpoints_answer_as_upstreams() {
    let fixture = start();
    let check = async |line: &str, status: u16, body: &str| {
        let page = fetch(&fixture, line, "").await;
        assert_eq!((page.status, &page.body[..]), (status, body), "{line}");
        page
    };
    let page = check("GET /health", 200, r#"{"health":"true","reason":""}"#).await;
    assert!(page.head.contains("content-type: text/plain; charset=utf-8"));
    assert!(page.head.contains("access-control-allow-origin: *"));
    let page = check("POST /health", 405, "Method Not Allowed\n").await;
    assert!(page.head.contains("allow: GET"));
    check("GET /version", 200, r#"{"etcdserver":"3.7.1","etcdcluster":"3.7.0","storage":"3.7.0"}"#).await;
    let page = check("GET /metrics", 200, "metric 1\n").await;
    assert!(page.head.contains("content-type: text/plain; version=0.0.4"));
    check("GET /debug/vars", 200, "{}").await;
    check("GET /v2/keys", 404, "404 page not found\n").await;
    check("OPTIONS /anything", 200, "").await;
    let moved = "<a href=\"/health?x=1\">Temporary Redirect</a>.\n\n";
    let page = check("GET //health?x=1", 307, moved).await;
    assert!(page.head.contains("location: /health?x=1"));
    check("GET /livez", 200, "ok\n").await;
    check("GET /livez?verbose", 200, "[+]serializable_read ok\nok\n").await;
    check("GET /readyz", 200, "ok\n").await;
    let all =
        "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n";
    check("GET /readyz?verbose=1&exclude=nothing", 200, all).await;
    check("GET /readyz/non_learner?verbose", 200, "[+]non_learner ok\nok\n").await;
    check("GET /readyz/nothing", 404, "404 page not found\n").await;
    check("GET /livezz", 404, "404 page not found\n").await;
    check("PUT /readyz", 405, "Method Not Allowed\n").await;

    fixture.member.raft.lock().leader = None;
    check("GET /health", 503, "{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}\n").await;
    check("GET /health?serializable=true", 200, r#"{"health":"true","reason":""}"#).await;
    fixture.member.raft.lock().leader = Some(MEMBER);
    *fixture.member.failure.lock() = Some(api::Error::Timeout);
    check(
        "GET /health",
        503,
        "{\"health\":\"false\",\"reason\":\"RANGE ERROR:etcdserver: request timed out\"}\n",
    )
    .await;
    let failed = "[+]data_corruption ok\n[+]serializable_read ok\n[-]linearizable_read failed: etcdserver: request timed out\n[+]non_learner ok\n\n";
    check("GET /readyz", 503, failed).await;
    check("GET /readyz?exclude=linearizable_read", 200, "ok\n").await;
    *fixture.member.failure.lock() = None;

    let alarm = pb::AlarmRequest { action: 1, member_id: 5, alarm: 1 };
    fixture
        .member
        .apply(pb::InternalRaftRequest { alarm: Some(Box::new(alarm)), ..Default::default() })
        .unwrap();
    check("GET /health", 503, "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n").await;
    check("GET /health?exclude=NOSPACE", 200, r#"{"health":"true","reason":""}"#).await;
    check("GET /readyz", 200, "ok\n").await;
    let alarm = pb::AlarmRequest { alarm: 2, ..alarm };
    fixture
        .member
        .apply(pb::InternalRaftRequest { alarm: Some(Box::new(alarm)), ..Default::default() })
        .unwrap();
    check("GET /readyz/data_corruption", 503, "[-]data_corruption failed: alarm activated: CORRUPT\n\n")
        .await;
    assert!(fixture.member.shared().alarms().is_active(pb::AlarmType::Corrupt));
}

#[tokio::test]
async fn hosts_and_origins_can_be_restricted() {
    let fixture = start_with(Config::default(), |http| {
        let (hosts, origins) = (Allowed::from_list(["127.0.0.1"]), Allowed::from_list(["http://good"]));
        http.access = AccessControl { hosts, origins };
        http.metrics_and_health_only = true;
    });
    let page = fetch(&fixture, "GET /health", "origin: http://good\r\n").await;
    assert!(page.status == 200 && page.head.contains("access-control-allow-origin: http://good"));
    let page = fetch(&fixture, "GET /health", "origin: http://bad\r\n").await;
    assert!(page.status == 200 && !page.head.contains("access-control"));
    let page = fetch(&fixture, "GET http://evil.example/health", "").await;
    assert_eq!(page.status, 421);
    assert!(page.body.contains("evil.example"), "{}", page.body);
    assert_eq!(fetch(&fixture, "GET /version", "").await.status, 404);
    assert_eq!(fetch(&fixture, "GET /metrics", "").await.status, 200);
}
