//! Active alarms: a set of (member, kind), stored one backend key per pair.
//!
//! **Source**: etcd `server/etcdserver/api/v3alarm`.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb::{AlarmMember, AlarmType};

/// The alarms of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alarms {
    active: BTreeSet<(u64, i32)>,
}

impl Alarms {
    /// Reads the keys of the `alarm` bucket. Keys that are no alarm are skipped, as upstream does.
    pub fn restore<'a>(keys: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let decode = |key: &[u8]| AlarmMember::decode(key).ok();
        let active =
            keys.into_iter().filter_map(decode).map(|alarm| (alarm.member_id, alarm.alarm)).collect();
        Self { active }
    }

    /// Whether any member raised `kind`.
    pub fn is_active(&self, kind: AlarmType) -> bool {
        self.active.iter().any(|(_, alarm)| *alarm == kind as i32)
    }

    /// The alarms of one kind, or all of them for `NONE`, by member.
    pub fn list(&self, kind: i32) -> Vec<AlarmMember> {
        let wanted = |alarm: i32| kind == AlarmType::None as i32 || alarm == kind;
        self.active
            .iter()
            .filter(|(_, alarm)| wanted(*alarm))
            .map(|(member_id, alarm)| AlarmMember { member_id: *member_id, alarm: *alarm })
            .collect()
    }

    /// Raises an alarm. Returns whether it is new.
    pub(crate) fn activate(&mut self, alarm: &AlarmMember) -> bool {
        self.active.insert((alarm.member_id, alarm.alarm))
    }

    /// Clears an alarm. Returns whether it was on.
    pub(crate) fn deactivate(&mut self, alarm: &AlarmMember) -> bool {
        self.active.remove(&(alarm.member_id, alarm.alarm))
    }
}

/// The backend key of an alarm.
pub(crate) fn key(alarm: &AlarmMember) -> Bytes {
    alarm.encode_to_vec().into()
}
