//! Routing of a decoded request, and the small ones: leases, alarms, versions.

use backend::{BucketId, Change};
use bytes::Bytes;
use lease::GrantError;
use pb::{AlarmType, alarm_request::AlarmAction};
use proto::etcdserverpb as pb;
use types::{KeyRange, LeaseId, Version};

use crate::outcome::{Applied, ApplyError, FatalApplyError, FollowUp, Reply};
use crate::quota;
use crate::{Applier, Context, alarms};

impl Applier {
    /// Applies the request that is set. Version and attribute requests come first, as upstream
    /// looks for them first; a request that is not known is fatal, never skipped.
    pub(crate) fn dispatch(
        &mut self,
        request: pb::InternalRaftRequest,
        context: &Context,
    ) -> Result<Applied, FatalApplyError> {
        if let Some(set) = &request.cluster_version_set {
            return Ok(self.set_cluster_version(&set.ver, context));
        }
        if let Some(set) = &request.cluster_member_attr_set {
            return Ok(self.set_attributes(set, context));
        }
        if let Some(set) = &request.downgrade_info_set {
            return Ok(self.set_downgrade(set, context));
        }
        if request.downgrade_version_test.is_some() {
            self.backend.append(context.write_set());
            return Ok(Applied::nothing());
        }
        if let Some(error) = self.blocked_by_alarm(&request) {
            return Ok(self.refuse(error, context));
        }
        if self.shared.auth().is_enabled()
            && let Err(error) = self.check_access(&request)
        {
            return Ok(self.refuse(error.into(), context));
        }
        let over_quota = !self.options.quota.allows(self.backend.size_bytes(), quota::cost(&request));
        let mut applied = self.dispatch_keyed(request, context)?;
        if over_quota && applied.result.is_ok() {
            // Applied all the same: members with other quotas must not part from this one.
            applied.result = Err(ApplyError::NoSpace);
            applied.follow_up = Some(FollowUp::RaiseNoSpace);
        }
        Ok(applied)
    }

    fn dispatch_keyed(
        &mut self,
        request: pb::InternalRaftRequest,
        context: &Context,
    ) -> Result<Applied, FatalApplyError> {
        if let Some(put) = &request.put {
            self.put(put, context)
        } else if let Some(txn) = &request.txn {
            self.txn(txn, context)
        } else if let Some(range) = &request.range {
            self.range(range, context)
        } else if let Some(delete) = &request.delete_range {
            self.delete_range(delete, context)
        } else if let Some(compaction) = &request.compaction {
            self.compact(compaction, context)
        } else if let Some(grant) = &request.lease_grant {
            Ok(self.grant(grant, context))
        } else if let Some(revoke) = &request.lease_revoke {
            self.revoke(LeaseId(revoke.id), context)
        } else if let Some(checkpoints) = &request.lease_checkpoint {
            Ok(self.checkpoint(checkpoints, context))
        } else if let Some(alarm) = &request.alarm {
            Ok(self.alarm(alarm, context))
        } else {
            match self.auth_request(request, context) {
                Some(applied) => Ok(applied),
                None => Err(FatalApplyError::Unsupported { index: context.position.index }),
            }
        }
    }

    fn blocked_by_alarm(&self, request: &pb::InternalRaftRequest) -> Option<ApplyError> {
        let alarms = self.shared.alarms();
        let writes = request.put.is_some()
            || request.txn.is_some()
            || request.delete_range.is_some()
            || request.compaction.is_some()
            || request.lease_grant.is_some()
            || request.lease_revoke.is_some();
        if writes && alarms.is_active(AlarmType::Corrupt) {
            return Some(ApplyError::Corrupt);
        }
        (quota::cost(request) > 0 && alarms.is_active(AlarmType::Nospace)).then_some(ApplyError::NoSpace)
    }

    fn grant(&self, request: &pb::LeaseGrantRequest, context: &Context) -> Applied {
        let id = LeaseId(request.id);
        let granted = self.shared.lessor.lock().grant(id, request.ttl, context.now);
        match granted {
            Ok(record) => {
                let mut set = context.write_set();
                set.changes.push(lease_record(id, Some(&record)));
                self.backend.append(set);
                let (header, ttl) = (self.header(), record.ttl_seconds);
                let response = pb::LeaseGrantResponse { header, id: id.0, ttl, error: String::new() };
                Applied::reply(Reply::LeaseGrant(response))
            }
            Err(error) => self.refuse(refused_grant(error, id), context),
        }
    }

    /// Deletes the lease and all its keys, the keys in ascending order and in one revision.
    fn revoke(&self, id: LeaseId, context: &Context) -> Result<Applied, FatalApplyError> {
        let Some(keys) = self.shared.lessor.lock().revoke(id) else {
            return Ok(self.refuse(ApplyError::LeaseNotFound(id), context));
        };
        let mut txn = self.store.write();
        for key in keys {
            txn.delete_range(&KeyRange::Single(key))
                .map_err(|source| FatalApplyError::Store { index: context.position.index, source })?;
        }
        let mut set = context.write_set();
        set.changes.push(lease_record(id, None));
        let events = txn.commit(set).events;
        let response = pb::LeaseRevokeResponse { header: self.header() };
        Ok(Applied { events, ..Applied::reply(Reply::LeaseRevoke(response)) })
    }

    fn checkpoint(&self, request: &pb::LeaseCheckpointRequest, context: &Context) -> Applied {
        let persists =
            self.shared.cluster().version().is_some_and(|version| version >= Version::new(3, 6, 0));
        let mut set = context.write_set();
        let mut refused = None;
        {
            let mut lessor = self.shared.lessor.lock();
            for checkpoint in &request.checkpoints {
                let id = LeaseId(checkpoint.id);
                // Upstream stops at the first unknown lease.
                if !lessor.contains(id) {
                    refused = Some(ApplyError::LeaseNotFound(id));
                    break;
                }
                if let Some(record) = lessor.checkpoint(id, checkpoint.remaining_ttl, persists, context.now) {
                    set.changes.push(lease_record(id, Some(&record)));
                }
            }
        }
        self.backend.append(set);
        match refused {
            Some(error) => Applied::refuse(error),
            None => {
                Applied::reply(Reply::LeaseCheckpoint(pb::LeaseCheckpointResponse { header: self.header() }))
            }
        }
    }

    fn alarm(&self, request: &pb::AlarmRequest, context: &Context) -> Applied {
        let mut set = context.write_set();
        let alarm = pb::AlarmMember { member_id: request.member_id, alarm: request.alarm };
        let is_none = request.alarm == AlarmType::None as i32;
        let listed = match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => self.shared.alarms().list(request.alarm),
            Ok(AlarmAction::Activate) if is_none => Vec::new(),
            Ok(AlarmAction::Activate) => {
                if self.shared.change_alarms(|alarms| alarms.activate(&alarm)) {
                    set.changes.push(alarm_record(&alarm, Some(Bytes::new())));
                }
                vec![alarm]
            }
            Ok(AlarmAction::Deactivate) => {
                if self.shared.change_alarms(|alarms| alarms.deactivate(&alarm)) {
                    set.changes.push(alarm_record(&alarm, None));
                    vec![alarm]
                } else {
                    Vec::new()
                }
            }
            Err(_) => return self.refuse(ApplyError::UnknownAlarmAction, context),
        };
        self.backend.append(set);
        Applied::reply(Reply::Alarm(pb::AlarmResponse { header: self.header(), alarms: listed }))
    }
}

fn lease_record(id: LeaseId, record: Option<&lease::Record>) -> Change {
    Change { bucket: BucketId::Lease, key: lease::record_key(id), value: record.map(lease::encode_record) }
}

fn alarm_record(alarm: &pb::AlarmMember, value: Option<Bytes>) -> Change {
    Change { bucket: BucketId::Alarm, key: alarms::key(alarm), value }
}

fn refused_grant(error: GrantError, id: LeaseId) -> ApplyError {
    match error {
        GrantError::Exists => ApplyError::LeaseExists(id),
        GrantError::TtlTooLarge => ApplyError::LeaseTtlTooLarge,
        GrantError::ZeroId => ApplyError::LeaseNotFound(id),
    }
}
