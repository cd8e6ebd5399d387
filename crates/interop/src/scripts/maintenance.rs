//! Maintenance, cluster, health.

use proto::etcdserverpb::{
    AlarmRequest, AlarmResponse, DefragmentRequest, DefragmentResponse, HashKvRequest, HashKvResponse,
    HashRequest, HashResponse, MemberListRequest, MemberListResponse, MoveLeaderRequest, MoveLeaderResponse,
    SnapshotRequest, SnapshotResponse, StatusRequest, StatusResponse,
};
use proto::health::{HealthCheckRequest, HealthCheckResponse};

use super::{delete, put};
use crate::script::Script;

const ALARM: &str = "/etcdserverpb.Maintenance/Alarm";
const HASH_KV: &str = "/etcdserverpb.Maintenance/HashKV";
const STATUS: &str = "/etcdserverpb.Maintenance/Status";

async fn hash_kv(s: &mut Script, name: &str, revision: i64) {
    let _ = s.call::<HashKvResponse>(name, HASH_KV, &HashKvRequest { revision }).await;
}

/// Sizes and log positions are the server's own affair.
fn blur_status(answer: &mut StatusResponse) {
    for size in [&mut answer.db_size, &mut answer.db_size_in_use] {
        *size = (*size).signum();
    }
    answer.raft_index = answer.raft_index.min(1);
    answer.raft_applied_index = answer.raft_applied_index.min(1);
}

/// Status, hashes, alarms, and the rest.
pub async fn basics(s: &mut Script) -> anyhow::Result<()> {
    hash_kv(s, "maintenance/hash of an empty store", 0).await;
    for number in 0..6 {
        s.seed(format!("k{}", number % 3), &number.to_string()).await?;
    }
    s.delete("maintenance/delete", delete("k1", "")).await;
    s.put("maintenance/create anew", put("k1", "x")).await;
    let _ = s.call_blurred("maintenance/status", STATUS, &StatusRequest {}, blur_status).await;
    for revision in [0, 2, 5, 8, 9, 10, -1] {
        hash_kv(s, &format!("maintenance/hash at {revision}"), revision).await;
    }
    s.compact("maintenance/compact", 5, true).await;
    for revision in [0, 4, 5, 6, 9] {
        hash_kv(s, &format!("maintenance/hash at {revision} after compaction"), revision).await;
    }
    s.compact("maintenance/compact at the tombstone", 8, true).await;
    hash_kv(s, "maintenance/hash at the tombstone", 8).await;
    hash_kv(s, "maintenance/hash after the second compaction", 0).await;
    let _ = s
        .call_blurred(
            "maintenance/hash of the database",
            "/etcdserverpb.Maintenance/Hash",
            &HashRequest {},
            |answer: &mut HashResponse| {
                answer.hash = 0;
            },
        )
        .await;
    let _ = s
        .call::<DefragmentResponse>(
            "maintenance/defragment",
            "/etcdserverpb.Maintenance/Defragment",
            &DefragmentRequest {},
        )
        .await;
    hash_kv(s, "maintenance/hash after defragmentation", 0).await;
    let list = "/etcdserverpb.Cluster/MemberList";
    let _ = s
        .call::<MemberListResponse>("maintenance/members", list, &MemberListRequest { linearizable: true })
        .await;
    let _ =
        s.call::<MemberListResponse>("maintenance/members, local", list, &MemberListRequest::default()).await;
    let move_leader = "/etcdserverpb.Maintenance/MoveLeader";
    let own = MoveLeaderRequest { target_id: s.member_id };
    let _ = s.call::<MoveLeaderResponse>("maintenance/move leader to itself", move_leader, &own).await;
    let other = MoveLeaderRequest { target_id: 12345 };
    let _ = s.call::<MoveLeaderResponse>("maintenance/move leader to nobody", move_leader, &other).await;
    snapshot(s).await?;
    health(s).await
}

async fn snapshot(s: &mut Script) -> anyhow::Result<()> {
    let method = s.method("/etcdserverpb.Maintenance/Snapshot");
    let mut stream = s.channel.server_stream(&method, &SnapshotRequest {}).await?;
    let (mut total, mut last, mut largest, mut header) = (0, SnapshotResponse::default(), 0, false);
    let mut expected = None;
    while let Some(message) = stream.receive::<SnapshotResponse>().await? {
        total += message.blob.len() as u64;
        largest = largest.max(message.blob.len());
        header |= message.header.is_some();
        expected.get_or_insert(message.remaining_bytes + message.blob.len() as u64);
        last = message;
    }
    let text = format!(
        "announced size is sent: {}; largest blob {largest}; last blob {} with {} remaining; any header: {header}; version {:?}",
        expected.map(|size| size + last.blob.len() as u64) == Some(total),
        last.blob.len(),
        last.remaining_bytes,
        last.version,
    );
    s.note("maintenance/snapshot", &text);
    Ok(())
}

async fn health(s: &mut Script) -> anyhow::Result<()> {
    let check = "/grpc.health.v1.Health/Check";
    let _ = s.call::<HealthCheckResponse>("health/check", check, &HealthCheckRequest::default()).await;
    for service in ["etcdserverpb.KV", "nosuch"] {
        let request = HealthCheckRequest { service: service.into() };
        let _ = s.call::<HealthCheckResponse>(&format!("health/check {service}"), check, &request).await;
    }
    let method = s.method("/grpc.health.v1.Health/Watch");
    let mut stream = s.channel.server_stream(&method, &HealthCheckRequest::default()).await?;
    let first = stream.receive::<HealthCheckResponse>().await?;
    s.note("health/watch", &format!("{first:#?}"));
    Ok(())
}

/// Alarms: raised, listed, lifted; what they block.
pub async fn alarms(s: &mut Script) -> anyhow::Result<()> {
    const GET: i32 = 0;
    const ACTIVATE: i32 = 1;
    const DEACTIVATE: i32 = 2;
    const NONE: i32 = 0;
    const NOSPACE: i32 = 1;
    const CORRUPT: i32 = 2;
    let id = s.member_id;
    let alarm = |action, alarm, member_id| AlarmRequest { action, member_id, alarm };
    let steps = [
        ("none at first", alarm(GET, NONE, 0)),
        ("activate none", alarm(ACTIVATE, NONE, id)),
        ("deactivate an absent one", alarm(DEACTIVATE, NOSPACE, id)),
        ("activate NOSPACE", alarm(ACTIVATE, NOSPACE, id)),
        ("activate it again", alarm(ACTIVATE, NOSPACE, id)),
        ("activate for member 0", alarm(ACTIVATE, NOSPACE, 0)),
        ("all", alarm(GET, NONE, 0)),
        ("get by type", alarm(GET, NOSPACE, 5)),
        ("get another type", alarm(GET, CORRUPT, 0)),
    ];
    for (name, request) in steps {
        let blur =
            |answer: &mut AlarmResponse| answer.alarms.sort_by_key(|alarm| (alarm.member_id, alarm.alarm));
        let _ = s.call_blurred(&format!("alarm/{name}"), ALARM, &request, blur).await;
    }
    s.put("alarm/put without space", put("k", "v")).await;
    s.put("alarm/put without space and key", put("", "v")).await;
    s.delete("alarm/delete without space", delete("k", "")).await;
    s.range("alarm/read without space", super::get("k")).await;
    s.txn(
        "alarm/txn without space",
        proto::etcdserverpb::TxnRequest {
            success: vec![super::delete_op("k", "")],
            failure: vec![super::put_op("k", "v")],
            ..Default::default()
        },
    )
    .await;
    let _ = s
        .call::<proto::etcdserverpb::LeaseGrantResponse>(
            "alarm/lease grant without space",
            "/etcdserverpb.Lease/LeaseGrant",
            &proto::etcdserverpb::LeaseGrantRequest { id: 3, ttl: 60 },
        )
        .await;
    s.http("alarm/health without space", "GET", "/health", &[]).await?;
    s.http("alarm/health, excluded", "GET", "/health?exclude=NOSPACE", &[]).await?;
    for member in [0, id] {
        let request = alarm(DEACTIVATE, NOSPACE, member);
        let name = if member == 0 { "deactivate for member 0" } else { "deactivate" };
        let _ = s.call::<AlarmResponse>(&format!("alarm/{name}"), ALARM, &request).await;
    }
    s.put("alarm/put works again", put("k", "v")).await;
    let _ = s.call::<AlarmResponse>("alarm/activate CORRUPT", ALARM, &alarm(ACTIVATE, CORRUPT, id)).await;
    s.put("alarm/put while corrupt", put("k", "v")).await;
    s.compact("alarm/compact while corrupt", 2, false).await;
    s.range("alarm/read while corrupt", super::get("k")).await;
    s.http("alarm/health while corrupt", "GET", "/health", &[]).await?;
    s.http("alarm/readyz while corrupt", "GET", "/readyz/data_corruption", &[]).await?;
    let _ = s.call::<AlarmResponse>("alarm/deactivate CORRUPT", ALARM, &alarm(DEACTIVATE, CORRUPT, id)).await;
    s.put("alarm/put after all", put("k", "v")).await;
    Ok(())
}
