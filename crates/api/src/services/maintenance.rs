//! Alarm, Status, Defragment, Hash, HashKV, Snapshot, MoveLeader, Downgrade.
//!
//! **Source**: etcd `server/etcdserver/api/v3rpc/maintenance.go`.

use std::io::Read;
use std::time::Instant;

use apply::Reply;
use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::membershippb::DowngradeInfoSetRequest;
use sha2::{Digest, Sha256};
use types::{CompatVersion, MemberId, Version};

use super::access;
use super::kv::{off_thread, unexpected};
use crate::error::Error;
use crate::grpc::{CallContext, Responses};
use crate::member::{Headers, Member, Work};

/// Upstream's size of a snapshot message.
const SNAPSHOT_BLOB_BYTES: usize = 32 * 1024;
/// Read from the backend at once.
const SNAPSHOT_READ_BYTES: usize = 32 * SNAPSHOT_BLOB_BYTES;

/// `Maintenance.Alarm`. Listing goes through the log as well.
pub async fn alarm<M: Member>(
    member: &M,
    context: &CallContext,
    request: pb::AlarmRequest,
) -> Result<pb::AlarmResponse, Error> {
    // Upstream ends its process on an action outside the protocol.
    match pb::alarm_request::AlarmAction::try_from(request.action) {
        Ok(pb::alarm_request::AlarmAction::Get) => access::require(member, context).await?,
        Ok(_) => access::administrate(member, context).await?,
        Err(_) => {
            access::administrate(member, context).await?;
            return Err(Error::UnknownMethod);
        }
    }
    let request = pb::InternalRaftRequest { alarm: Some(Box::new(request)), ..Default::default() };
    match access::propose(member, context, request).await? {
        Reply::Alarm(mut response) => {
            member.complete(&mut response.header);
            Ok(response)
        }
        other => Err(unexpected(&other)),
    }
}

/// `Maintenance.Status`.
pub async fn status<M: Member>(
    member: &M,
    context: &CallContext,
    _: pb::StatusRequest,
) -> Result<pb::StatusResponse, Error> {
    match member.config().compat {
        CompatVersion::V3_5 => access::administrate(member, context).await?,
        _ => access::require(member, context).await?,
    }
    let (config, raft) = (member.config(), member.raft());
    let mut errors = Vec::new();
    if raft.leader.is_none() {
        errors.push(Error::NoLeader.to_string());
    }
    let alarms = member.shared().alarms().list(pb::AlarmType::None as i32);
    errors.extend(alarms.iter().map(alarm_text));
    let mut response = pb::StatusResponse {
        header: Some(member.header()),
        version: config.compat.server_version().to_string(),
        db_size: member.backend().size_bytes() as i64,
        db_size_in_use: member.backend().size_in_use_bytes() as i64,
        leader: raft.leader.unwrap_or_default().0,
        raft_index: raft.commit_index,
        raft_applied_index: raft.applied_index,
        raft_term: raft.term,
        errors,
        is_learner: raft.is_learner,
        ..Default::default()
    };
    if config.compat >= CompatVersion::V3_6 {
        let cluster = member.shared().cluster();
        let downgrade = cluster.downgrade();
        response.storage_version =
            member.storage_version().map(|version| version.to_string()).unwrap_or_default();
        response.db_size_quota = config.quota.reported_bytes();
        response.downgrade_info = Some(pb::DowngradeInfo {
            enabled: downgrade.enabled,
            target_version: downgrade.target_version.clone(),
        });
    }
    Ok(response)
}

/// An alarm in protobuf's text form.
fn alarm_text(alarm: &pb::AlarmMember) -> String {
    let mut parts = Vec::new();
    if alarm.member_id != 0 {
        parts.push(format!("memberID:{}", alarm.member_id));
    }
    if alarm.alarm != 0 {
        let name = pb::AlarmType::try_from(alarm.alarm).map(|kind| kind.as_str_name().to_owned());
        parts.push(format!("alarm:{}", name.unwrap_or_else(|_| alarm.alarm.to_string())));
    }
    parts.join(" ")
}

/// `Maintenance.Defragment`. No header.
pub async fn defragment<M: Member>(
    member: &M,
    context: &CallContext,
    _: pb::DefragmentRequest,
) -> Result<pb::DefragmentResponse, Error> {
    access::maintain(member, context).await?;
    member.defragment().await?;
    Ok(pb::DefragmentResponse::default())
}

/// `Maintenance.Hash`.
pub async fn hash<M: Member>(
    member: &M,
    context: &CallContext,
    _: pb::HashRequest,
) -> Result<pb::HashResponse, Error> {
    access::maintain(member, context).await?;
    let backend = member.backend().clone();
    let start = Instant::now();
    let hash = off_thread(move || backend.hash()).await??;
    member.count_work(Work::Hash, start.elapsed());
    Ok(pb::HashResponse { header: Some(member.header()), hash })
}

/// `Maintenance.HashKV`.
pub async fn hash_kv<M: Member>(
    member: &M,
    context: &CallContext,
    request: pb::HashKvRequest,
) -> Result<pb::HashKvResponse, Error> {
    access::maintain(member, context).await?;
    let store = member.store().clone();
    let start = Instant::now();
    let hash = off_thread(move || store.hash_kv(request.revision)).await??;
    member.count_work(Work::HashRevision, start.elapsed());
    let hash_revision = match member.config().compat {
        CompatVersion::V3_5 => 0,
        _ => hash.hash_revision,
    };
    Ok(pb::HashKvResponse {
        header: Some(member.header_at(hash.current_revision)),
        hash: hash.hash,
        compact_revision: hash.compact_revision,
        hash_revision,
    })
}

/// `Maintenance.Snapshot`: the file in pieces, then its SHA-256. No headers.
pub async fn snapshot<M: Member>(
    member: &M,
    context: &CallContext,
    _: pb::SnapshotRequest,
    responses: &mut Responses,
) -> Result<(), Error> {
    access::maintain(member, context).await?;
    let version = match member.config().compat {
        CompatVersion::V3_5 => String::new(),
        _ => member.storage_version().map(|version| version.to_string()).unwrap_or_default(),
    };
    let start = Instant::now();
    let backend = member.backend().clone();
    let mut reader = off_thread(move || backend.snapshot()).await??;
    let total = reader.size();
    tracing::info!("total-bytes" = total, "storage-version" = version, "sending database snapshot to client");
    let mut digest = Sha256::new();
    let mut left = total;
    while left > 0 {
        let wanted = left.min(SNAPSHOT_READ_BYTES as u64);
        let (back, hashed, data) = off_thread(move || {
            let mut data = Vec::with_capacity(wanted as usize);
            let read = reader.by_ref().take(wanted).read_to_end(&mut data);
            digest.update(&data);
            (reader, digest, read.map(|_| Bytes::from(data)))
        })
        .await?;
        (reader, digest) = (back, hashed);
        let mut data = data.map_err(|error| Error::Other(format!("reading the snapshot: {error}")))?;
        if data.is_empty() {
            return Err(Error::Other(format!("the snapshot ended {left} bytes early")));
        }
        while !data.is_empty() {
            let blob = data.split_to(SNAPSHOT_BLOB_BYTES.min(data.len()));
            left -= blob.len() as u64;
            let part =
                pb::SnapshotResponse { header: None, remaining_bytes: left, blob, version: version.clone() };
            responses.send(&part).await?;
        }
    }
    let blob = Bytes::copy_from_slice(&digest.finalize());
    responses.send(&pb::SnapshotResponse { header: None, remaining_bytes: 0, blob, version }).await?;
    member.count_work(Work::Snapshot, start.elapsed());
    tracing::info!("total-bytes" = total, "successfully sent database snapshot to client");
    Ok(())
}

/// `Maintenance.MoveLeader`. No header.
pub async fn move_leader<M: Member>(
    member: &M,
    context: &CallContext,
    request: pb::MoveLeaderRequest,
) -> Result<pb::MoveLeaderResponse, Error> {
    access::administrate(member, context).await?;
    let leader = member.raft().leader;
    if leader != Some(member.config().member_id) {
        return Err(Error::NotLeader);
    }
    let target = MemberId(request.target_id);
    match member.shared().cluster().member(target) {
        Some(member) if !member.is_learner => {}
        _ => return Err(Error::BadLeaderTransferee),
    }
    if leader != Some(target) {
        member.move_leader(target).await?;
    }
    Ok(pb::MoveLeaderResponse::default())
}

/// `Maintenance.Downgrade`. A job that was begun is carried out by the members, see crate `server`.
pub async fn downgrade<M: Member>(
    member: &M,
    context: &CallContext,
    request: pb::DowngradeRequest,
) -> Result<pb::DowngradeResponse, Error> {
    access::administrate(member, context).await?;
    use pb::downgrade_request::DowngradeAction;
    let action = DowngradeAction::try_from(request.action).map_err(|_| Error::UnknownMethod)?;
    let done = match action {
        DowngradeAction::Validate => validate_downgrade(member, &request.version).await.map(drop),
        DowngradeAction::Enable => enable_downgrade(member, &request.version).await,
        DowngradeAction::Cancel => cancel_downgrade(member).await,
    };
    if let Err(error) = done {
        match action {
            DowngradeAction::Validate => return Err(error),
            DowngradeAction::Enable => {
                tracing::warn!(error = %error, "reject downgrade request");
                return Err(error);
            }
            DowngradeAction::Cancel => {
                tracing::warn!(error = %error, "failed to cancel downgrade");
                // Since 3.6 that is all the caller hears of it.
                if member.config().compat == CompatVersion::V3_5 {
                    return Err(error);
                }
            }
        }
    }
    let current = member.shared().cluster().version().ok_or(Error::ClusterVersionUnavailable)?;
    let version = match member.config().compat {
        CompatVersion::V3_5 => current.to_string(),
        _ => format!("{}.{}", current.major, current.minor),
    };
    Ok(pb::DowngradeResponse { header: Some(member.header()), version })
}

/// Whether the cluster can be lowered to this version now.
async fn validate_downgrade<M: Member>(member: &M, target: &str) -> Result<Version, Error> {
    let target = parse_target(target).ok_or(Error::WrongDowngradeVersionFormat)?;
    if member.shared().cluster().version().is_none() {
        return Err(Error::ClusterVersionUnavailable);
    }
    member.read_index().await?;
    let cluster = member.shared().cluster();
    let current = cluster.version().ok_or(Error::ClusterVersionUnavailable)?;
    if membership::allowed_downgrade_target(current).map(Version::without_patch) != Some(target) {
        return Err(Error::InvalidDowngradeTargetVersion);
    }
    if cluster.downgrade().enabled {
        return Err(Error::DowngradeInProcess);
    }
    Ok(target)
}

async fn enable_downgrade<M: Member>(member: &M, target: &str) -> Result<(), Error> {
    let target = validate_downgrade(member, target).await?;
    set_downgrade(member, DowngradeInfoSetRequest { enabled: true, ver: target.to_string() }).await
}

async fn cancel_downgrade<M: Member>(member: &M) -> Result<(), Error> {
    member.read_index().await?;
    if !member.shared().cluster().downgrade().enabled {
        return Err(Error::NoInflightDowngrade);
    }
    set_downgrade(member, DowngradeInfoSetRequest { enabled: false, ver: String::new() }).await
}

async fn set_downgrade<M: Member>(member: &M, job: DowngradeInfoSetRequest) -> Result<(), Error> {
    let request = pb::InternalRaftRequest { downgrade_info_set: Some(Box::new(job)), ..Default::default() };
    member.propose(request).await.map(drop)
}

/// `3.6` or `3.6.0` with any patch.
fn parse_target(text: &str) -> Option<Version> {
    let whole: Result<Version, _> = match text.bytes().filter(|byte| *byte == b'.').count() {
        1 => format!("{text}.0").parse(),
        _ => text.parse(),
    };
    whole.ok().map(Version::without_patch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_print_as_protobuf_text() {
        let alarm = |member_id, alarm| alarm_text(&pb::AlarmMember { member_id, alarm });
        assert_eq!(alarm(123, 1), "memberID:123 alarm:NOSPACE");
        assert_eq!(alarm(0, 2), "alarm:CORRUPT");
        assert_eq!(alarm(5, 9), "memberID:5 alarm:9");
    }

    #[test]
    fn downgrade_targets() {
        assert_eq!(parse_target("3.6"), Some(Version::new(3, 6, 0)));
        assert_eq!(parse_target("3.6.9"), Some(Version::new(3, 6, 0)));
        for junk in ["", "3", "a.b", "3.6.x", "3.6.0.0"] {
            assert_eq!(parse_target(junk), None, "{junk}");
        }
    }
}
