//! Membership: conf changes, published attributes, cluster version, downgrade.

use backend::{BucketId, Change, WriteSet, schema};
use bytes::Bytes;
use membership::{Attributes, Bucket, BucketWrite, ConfChange};
use prost::Message;
use proto::{etcdserverpb as pb, membershippb, raftpb};
use types::{ConfState, MemberId, RequestId, Version};

use crate::outcome::{Applied, FatalApplyError, FollowUp};
use crate::{Applier, Context};

impl Applier {
    /// Applies a conf change: validates it, changes the membership, and reports what consensus
    /// has to do. A refused change is reported with node id 0, which consensus takes as a no-op.
    ///
    /// A replayed one only reaches consensus: the membership was restored from the backend, which
    /// already held its effect.
    pub(crate) fn apply_conf_change(
        &mut self,
        data: &Bytes,
        context: &Context,
        replayed: bool,
    ) -> Result<Applied, FatalApplyError> {
        let index = context.position.index;
        let undecodable = |source| FatalApplyError::Undecodable { index, source };
        let mut raft_change =
            raftpb::ConfChange::decode(data.clone()).map_err(|error| undecodable(error.into()))?;
        let mut applied = Applied::nothing();
        if replayed {
            return Ok(applied.with(FollowUp::ConfChange { change: raft_change }));
        }
        let change = ConfChange::decode(&raft_change).map_err(|error| undecodable(error.into()))?;
        applied.request = Some(RequestId(raft_change.id())).filter(|id| id.0 != 0);
        let mut set = context.write_set();
        match self.shared.change_cluster(|cluster| cluster.apply(&change)) {
            Ok(writes) => {
                push(&mut set, writes);
                let state = conf_state(&self.shared.cluster());
                set.conf_state =
                    Some(schema::encode_conf_state(&state.voters, &state.learners, &[], &[], false));
            }
            Err(error) => {
                raft_change.node_id = Some(0);
                applied.result = Err(error.into());
            }
        }
        self.backend.append(set);
        Ok(applied.with(FollowUp::ConfChange { change: raft_change }))
    }

    pub(crate) fn set_attributes(
        &self,
        request: &membershippb::ClusterMemberAttrSetRequest,
        context: &Context,
    ) -> Applied {
        let member = MemberId(request.member_id);
        let published = request.member_attributes.clone().unwrap_or_default();
        let attributes = Attributes { name: published.name, client_urls: published.client_urls };
        let mut set = context.write_set();
        let result = self.shared.change_cluster(|cluster| cluster.set_attributes(member, attributes));
        let applied = match result {
            Ok(writes) => {
                push(&mut set, writes);
                Applied::follow_up(FollowUp::AttributesPublished { member })
            }
            Err(error) => Applied::refuse(error),
        };
        self.backend.append(set);
        applied
    }

    pub(crate) fn set_cluster_version(&self, text: &str, context: &Context) -> Applied {
        let mut set = context.write_set();
        // Upstream stops on a version that is none; nobody proposes such a thing.
        let Ok(version) = text.parse::<Version>() else {
            self.backend.append(set);
            return Applied::nothing();
        };
        let version = version.without_patch();
        let previous = self.shared.cluster().version();
        push(&mut set, self.shared.change_cluster(|cluster| cluster.set_version(version)));
        self.backend.append(set);
        Applied::follow_up(FollowUp::ClusterVersionSet { previous, current: version })
    }

    pub(crate) fn set_downgrade(
        &self,
        request: &membershippb::DowngradeInfoSetRequest,
        context: &Context,
    ) -> Applied {
        let target = request.enabled.then_some(request.ver.as_str());
        let mut set = context.write_set();
        push(&mut set, self.shared.change_cluster(|cluster| cluster.set_downgrade(target)));
        self.backend.append(set);
        Applied::nothing()
    }
}

fn push(set: &mut WriteSet, writes: Vec<BucketWrite>) {
    set.changes.extend(writes.into_iter().map(|write| {
        let bucket = match write.bucket {
            Bucket::Cluster => BucketId::Cluster,
            Bucket::Members => BucketId::Members,
            Bucket::MembersRemoved => BucketId::MembersRemoved,
        };
        Change { bucket, key: write.key, value: write.value }
    }));
}

/// The raft configuration that a membership means.
pub fn conf_state(cluster: &membership::Cluster) -> ConfState {
    ConfState::new(
        cluster.voters().map(|member| member.id.0).collect(),
        cluster.learners().map(|member| member.id.0).collect(),
    )
}

/// The members as the client API shows them, by ascending id.
pub fn list(cluster: &membership::Cluster) -> Vec<pb::Member> {
    cluster.members().map(membership::Member::to_proto).collect()
}
