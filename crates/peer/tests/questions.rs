//! What members ask each other beside raft: the client against the endpoints.

mod common;

use std::time::Duration;

use common::{CLUSTER, Node, Setting, dialer, node};
use membership::Member;
use peer::{
    AskError, Client, ClusterError, HashKv, HashKvError, LeaseError, LeaseTimes, Log, PromoteError,
    RemoteCluster,
};
use types::{ClusterId, LeaseId, MemberId, Version};

const LIMIT: Duration = Duration::from_secs(20);
/// Nobody listens on port 1.
const NOBODY: &str = "http://127.0.0.1:1";

fn one_member() -> (Node, Client, Vec<Member>) {
    let node = node(1, Setting::default());
    let mut member = Member::new(node.id, vec![node.url.clone()]);
    member.attributes.name = "one <1>".to_owned();
    member.attributes.client_urls = vec!["http://127.0.0.1:2379".to_owned()];
    let mut learner = Member::new(MemberId(u64::MAX), vec!["http://127.0.0.1:9".to_owned()]);
    learner.is_learner = true;
    let members = vec![member, learner];
    *node.member.members.lock() = members.clone();
    (node, Client::new(dialer(), Log::silent()), members)
}

#[tokio::test]
async fn who_is_there() {
    let (node, client, members) = one_member();
    let urls = [NOBODY, &node.url];
    let cluster = client.cluster(&urls, LIMIT).await;
    assert_eq!(cluster, Ok(RemoteCluster { id: CLUSTER, members }));
    assert!(client.is_bootstrapped(&urls, node.id, LIMIT).await);
    assert!(!client.is_bootstrapped(&urls, MemberId(u64::MAX), LIMIT).await);
    assert!(!client.is_bootstrapped(&urls, MemberId(5), LIMIT).await);
    assert_eq!(client.cluster(&[NOBODY], LIMIT).await, Err(ClusterError::NoAnswer));
    node.member.members.lock().clear();
    assert_eq!(client.cluster(&urls, LIMIT).await, Err(ClusterError::NoMembers));
}

#[tokio::test]
async fn which_versions() {
    let (node, client, _) = one_member();
    let versions = client.versions(node.id, &[NOBODY, &node.url], LIMIT).await.unwrap();
    assert_eq!(versions.server_version(), Some(Version::new(3, 7, 1)));
    assert_eq!(versions.cluster_version(), Some(Version::new(3, 5, 0)));
    assert_eq!(versions.storage, "unknown");
    assert!(client.downgrade_enabled(node.id, &[NOBODY, &node.url], LIMIT).await.unwrap());
    let error = client.versions(node.id, &[NOBODY], LIMIT).await.unwrap_err();
    assert!(matches!(error, AskError::Link(_)), "{error}");
    let none: [&str; 0] = [];
    assert!(matches!(client.versions(node.id, &none, LIMIT).await, Err(AskError::NoUrl)));
}

#[tokio::test]
async fn hashes() {
    let (node, client, _) = one_member();
    let hash = |cluster, revision| {
        let (client, url) = (client.clone(), node.url.clone());
        async move { client.hash_kv(&url, cluster, revision, LIMIT).await }
    };
    let expected = HashKv { hash: 77, compact_revision: -1, hash_revision: 5, current_revision: 9 };
    assert_eq!(hash(CLUSTER, 5).await, Ok(expected));
    assert_eq!(hash(CLUSTER, 0).await, Ok(HashKv { hash_revision: 0, ..expected }));
    assert_eq!(hash(CLUSTER, 10).await, Err(HashKvError::FutureRevision));
    assert_eq!(hash(CLUSTER, 11).await, Err(HashKvError::Compacted));
    assert_eq!(hash(ClusterId(9), 5).await, Err(HashKvError::ClusterIdMismatch));
}

#[tokio::test]
async fn leases() {
    let (node, client, _) = one_member();
    let urls = [NOBODY, &node.url];
    assert_eq!(client.renew_lease(&urls, LeaseId(7), LIMIT).await, Ok(30));
    assert_eq!(client.renew_lease(&urls, LeaseId(1), LIMIT).await, Err(LeaseError::NotFound));
    assert_eq!(client.renew_lease(&urls, LeaseId(8), LIMIT).await, Err(LeaseError::Timeout));
    let error = client.renew_lease(&urls, LeaseId(9), LIMIT).await.unwrap_err();
    assert_eq!(error.to_string(), "lease: unknown error(not a primary lessor)");
    let times = client.lease_times(&urls, LeaseId(7), true, LIMIT).await.unwrap();
    let keys = vec!["a".into(), "b".into()];
    assert_eq!(times, LeaseTimes { granted_seconds: 60, remaining_seconds: 30, keys });
    let times = client.lease_times(&urls, LeaseId(7), false, LIMIT).await.unwrap();
    assert!(times.keys.is_empty());
    assert_eq!(client.lease_times(&urls, LeaseId(1), true, LIMIT).await, Err(LeaseError::NotFound));
}

#[tokio::test]
async fn promotion() {
    let (node, client, members) = one_member();
    let urls = [NOBODY, &node.url];
    let promote = |id, token| {
        let client = client.clone();
        async move { client.promote(&urls, MemberId(id), token, LIMIT).await }
    };
    assert_eq!(promote(2, Some("secret")).await, Ok(members));
    assert_eq!(promote(3, None).await, Err(PromoteError::NotLearner));
    assert_eq!(promote(4, None).await, Err(PromoteError::NotReady));
    assert_eq!(promote(5, None).await, Err(PromoteError::NotFound));
    // What else went wrong over there stays there, as with etcd.
    let error = promote(2, None).await.unwrap_err().to_string();
    assert!(error.starts_with("member promote: unknown error(") && !error.contains("auth"), "{error}");
}

#[tokio::test]
async fn the_shape_of_answers() {
    let (node, _, _) = one_member();
    let get = |path: &'static str| talk(&node, format!("GET {path} HTTP/1.1\r\nHost: x\r\n"));
    let members = get("/members").await;
    assert!(members.contains("X-Etcd-Cluster-Id: c1\r\n"), "{members}");
    assert!(members.contains("Content-Type: application/json\r\n"), "{members}");
    let json = format!(
        r#"[{{"id":1,"peerURLs":["{}"],"name":"one \u003c1\u003e","clientURLs":["http://127.0.0.1:2379"]}},"#,
        node.url
    );
    assert!(members.contains(&json), "{members}");
    assert!(members.ends_with("\"isLearner\":true}]\n"), "{members}");
    let version = get("/version").await;
    assert!(
        version.ends_with(r#"{"etcdserver":"3.7.1","etcdcluster":"3.5.0","storage":"unknown"}"#),
        "{version}"
    );
    assert!(get("/raft/probing").await.contains(r#"{"OK":true,"Now":"2"#));
    assert!(get("/downgrade/enabled").await.ends_with("\r\n\r\ntrue"));
    for path in ["/", "/config", "/members/", "/raft/", "/raft/other", "/metrics", "/health"] {
        let answer = get(path).await;
        assert!(answer.starts_with("HTTP/1.1 404 ") && answer.ends_with("404 page not found\n"), "{answer}");
    }
    for path in ["/leases", "/leases/internal", "/members/promote/1", "/raft", "/raft/snapshot"] {
        let answer = get(path).await;
        assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("Allow: POST\r\n"), "{answer}");
    }
    let long = format!(
        "POST /leases HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 70000\r\n\r\n{}",
        " ".repeat(70_000)
    );
    assert!(talk_raw(&node, &long).await.starts_with("HTTP/1.1 413 "));
    let decimal = talk(&node, "POST /members/promote/xyz HTTP/1.1\r\nHost: x\r\n".to_owned()).await;
    assert!(decimal.ends_with("member xyz not found in cluster\n"), "{decimal}");
}

async fn talk(node: &Node, head: String) -> String {
    talk_raw(node, &format!("{head}Connection: close\r\n\r\n")).await
}

async fn talk_raw(node: &Node, request: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(node.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    // A refused body may end the connection with a reset, behind the answer.
    while let Ok(len @ 1..) = stream.read(&mut buffer).await {
        answer.extend_from_slice(&buffer[..len]);
    }
    String::from_utf8(answer).unwrap()
}
