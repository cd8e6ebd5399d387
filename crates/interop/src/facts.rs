//! Everything a client can see of a member's data: what must be equal after a restart with
//! another program.

use anyhow::{Context, ensure};
use bench::wire::{Channel, Method};
use proto::etcdserverpb::{
    AlarmRequest, AlarmResponse, HashKvRequest, HashKvResponse, LeaseLeasesRequest, LeaseLeasesResponse,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, MemberListRequest, MemberListResponse, RangeRequest,
    RangeResponse,
};
use proto::mvccpb::KeyValue;

/// A lease: id, granted seconds, attached keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseFacts {
    /// The id.
    pub id: i64,
    /// Seconds granted.
    pub granted_ttl: i64,
    /// Keys, sorted.
    pub keys: Vec<Vec<u8>>,
}

/// The data of a member.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// Current revision.
    pub revision: i64,
    /// All live keys in order.
    pub kvs: Vec<KeyValue>,
    /// Leases by id.
    pub leases: Vec<LeaseFacts>,
    /// HashKV of the current revision.
    pub hash: u32,
    /// The compaction point, as HashKV tells it.
    pub compact_revision: i64,
    /// Members: id, name, peer URLs.
    pub members: Vec<(u64, String, Vec<String>)>,
    /// Alarms: member, type.
    pub alarms: Vec<(u64, i32)>,
    /// The cluster's id.
    pub cluster_id: u64,
}

impl Facts {
    /// Asks a member for everything.
    pub async fn collect(authority: &str) -> anyhow::Result<Self> {
        let channel = Channel::connect(authority).await?;
        let method = |path| Method::new(authority, path);
        let everything = RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
        let range: RangeResponse = channel.call(&method("/etcdserverpb.KV/Range")?, &everything).await?;
        let header = range.header.context("an answer without header")?;
        let hash_request = HashKvRequest { revision: header.revision };
        let hash: HashKvResponse =
            channel.call(&method("/etcdserverpb.Maintenance/HashKV")?, &hash_request).await?;
        let list: LeaseLeasesResponse =
            channel.call(&method("/etcdserverpb.Lease/LeaseLeases")?, &LeaseLeasesRequest {}).await?;
        let mut leases = Vec::new();
        for lease in &list.leases {
            let request = LeaseTimeToLiveRequest { id: lease.id, keys: true };
            let answer: LeaseTimeToLiveResponse =
                channel.call(&method("/etcdserverpb.Lease/LeaseTimeToLive")?, &request).await?;
            let mut keys: Vec<_> = answer.keys.iter().map(|key| key.to_vec()).collect();
            keys.sort();
            leases.push(LeaseFacts { id: answer.id, granted_ttl: answer.granted_ttl, keys });
        }
        leases.sort_by_key(|lease| lease.id);
        let members: MemberListResponse =
            channel.call(&method("/etcdserverpb.Cluster/MemberList")?, &MemberListRequest::default()).await?;
        let alarms: AlarmResponse =
            channel.call(&method("/etcdserverpb.Maintenance/Alarm")?, &AlarmRequest::default()).await?;
        Ok(Self {
            revision: header.revision,
            kvs: range.kvs,
            leases,
            hash: hash.hash,
            compact_revision: hash.compact_revision,
            members: members
                .members
                .into_iter()
                .map(|member| (member.id, member.name, member.peer_ur_ls))
                .collect(),
            alarms: alarms.alarms.iter().map(|alarm| (alarm.member_id, alarm.alarm)).collect(),
            cluster_id: header.cluster_id,
        })
    }

    /// Fails with the first thing that differs.
    pub fn check_equal(&self, other: &Self) -> anyhow::Result<()> {
        let (mine, theirs) = (self, other);
        ensure!(mine.revision == theirs.revision, "revision {} became {}", mine.revision, theirs.revision);
        for (left, right) in mine.kvs.iter().zip(&theirs.kvs) {
            ensure!(left == right, "a key changed:\n{left:?}\n{right:?}");
        }
        ensure!(mine.kvs.len() == theirs.kvs.len(), "{} keys became {}", mine.kvs.len(), theirs.kvs.len());
        let points = (mine.compact_revision, theirs.compact_revision);
        ensure!(points.0 == points.1, "compaction point {} became {}", points.0, points.1);
        ensure!(mine.hash == theirs.hash, "HashKV {} became {}", mine.hash, theirs.hash);
        ensure!(mine.leases == theirs.leases, "leases changed:\n{:?}\n{:?}", mine.leases, theirs.leases);
        ensure!(
            mine.members == theirs.members,
            "members changed: {:?} to {:?}",
            mine.members,
            theirs.members
        );
        ensure!(mine == theirs, "alarms or cluster id changed");
        Ok(())
    }
}
