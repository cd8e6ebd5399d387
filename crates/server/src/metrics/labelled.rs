//! Families whose series appear as they are used.

use std::collections::BTreeMap;
use std::sync::Arc;

use apply::RequestKind;
use parking_lot::RwLock;

use super::kinds::{Bounds, Counter, Gauge, Histogram};
use super::text::{Exposition, Kind, Labels};

/// One value per combination of label values.
#[derive(Debug)]
pub struct Labelled<T, const COUNT: usize> {
    series: RwLock<BTreeMap<[String; COUNT], Arc<T>>>,
}

impl<T, const COUNT: usize> Default for Labelled<T, COUNT> {
    fn default() -> Self {
        Self { series: RwLock::default() }
    }
}

impl<T: Default, const COUNT: usize> Labelled<T, COUNT> {
    /// The value of these labels; keep it where it is used often.
    pub fn with(&self, labels: [&str; COUNT]) -> Arc<T> {
        let key = labels.map(str::to_owned);
        if let Some(value) = self.series.read().get(&key) {
            return value.clone();
        }
        self.series.write().entry(key).or_default().clone()
    }

    /// Forgets all series; for families of which one series at a time holds.
    pub fn clear(&self) {
        self.series.write().clear();
    }

    fn for_each(&self, names: [&'static str; COUNT], mut action: impl FnMut(Labels<'_>, &T)) {
        for (values, value) in self.series.read().iter() {
            let labels: [(&'static str, &str); COUNT] =
                std::array::from_fn(|at| (names[at], values[at].as_str()));
            action(&labels, value);
        }
    }
}

/// What a labelled family prints as.
pub(super) trait Print<const COUNT: usize> {
    fn print(
        &self,
        out: &mut Exposition,
        name: &'static str,
        help: &'static str,
        labels: [&'static str; COUNT],
    );
}

impl<const COUNT: usize> Print<COUNT> for Labelled<Counter, COUNT> {
    fn print(
        &self,
        out: &mut Exposition,
        name: &'static str,
        help: &'static str,
        labels: [&'static str; COUNT],
    ) {
        self.for_each(labels, |labels, value| {
            out.value(name, Kind::Counter, help, labels, value.get() as f64)
        });
    }
}

impl<const COUNT: usize> Print<COUNT> for Labelled<Gauge, COUNT> {
    fn print(
        &self,
        out: &mut Exposition,
        name: &'static str,
        help: &'static str,
        labels: [&'static str; COUNT],
    ) {
        self.for_each(labels, |labels, value| out.value(name, Kind::Gauge, help, labels, value.get() as f64));
    }
}

/// Operations that have latencies of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are those of the requests")]
pub enum Operation {
    Range,
    ReadonlyTxn,
    Put,
    DeleteRange,
    Txn,
    Compaction,
    LeaseGrant,
    LeaseRevoke,
    LeaseCheckpoint,
    Alarm,
    Authenticate,
    AuthEnable,
    AuthDisable,
    AuthStatus,
    AuthUserAdd,
    AuthUserDelete,
    AuthUserChangePassword,
    AuthUserGrantRole,
    AuthUserGet,
    AuthUserRevokeRole,
    AuthUserList,
    AuthRoleAdd,
    AuthRoleGrantPermission,
    AuthRoleGet,
    AuthRoleRevokePermission,
    AuthRoleDelete,
    AuthRoleList,
    ClusterVersionSet,
    ClusterMemberAttrSet,
    DowngradeInfoSet,
    DowngradeVersionTest,
    Unknown,
}

impl From<RequestKind> for Operation {
    fn from(kind: RequestKind) -> Self {
        match kind {
            RequestKind::Put => Self::Put,
            RequestKind::Txn => Self::Txn,
            RequestKind::Range => Self::Range,
            RequestKind::DeleteRange => Self::DeleteRange,
            RequestKind::Compaction => Self::Compaction,
            RequestKind::LeaseGrant => Self::LeaseGrant,
            RequestKind::LeaseRevoke => Self::LeaseRevoke,
            RequestKind::LeaseCheckpoint => Self::LeaseCheckpoint,
            RequestKind::Alarm => Self::Alarm,
            RequestKind::ClusterVersionSet => Self::ClusterVersionSet,
            RequestKind::ClusterMemberAttrSet => Self::ClusterMemberAttrSet,
            RequestKind::DowngradeInfoSet => Self::DowngradeInfoSet,
            RequestKind::DowngradeVersionTest => Self::DowngradeVersionTest,
            RequestKind::Authenticate => Self::Authenticate,
            RequestKind::AuthEnable => Self::AuthEnable,
            RequestKind::AuthDisable => Self::AuthDisable,
            RequestKind::AuthUserAdd => Self::AuthUserAdd,
            RequestKind::AuthUserDelete => Self::AuthUserDelete,
            RequestKind::AuthUserChangePassword => Self::AuthUserChangePassword,
            RequestKind::AuthUserGrantRole => Self::AuthUserGrantRole,
            RequestKind::AuthUserGet => Self::AuthUserGet,
            RequestKind::AuthUserRevokeRole => Self::AuthUserRevokeRole,
            RequestKind::AuthUserList => Self::AuthUserList,
            RequestKind::AuthRoleAdd => Self::AuthRoleAdd,
            RequestKind::AuthRoleGrantPermission => Self::AuthRoleGrantPermission,
            RequestKind::AuthRoleGet => Self::AuthRoleGet,
            RequestKind::AuthRoleRevokePermission => Self::AuthRoleRevokePermission,
            RequestKind::AuthRoleDelete => Self::AuthRoleDelete,
            RequestKind::AuthRoleList => Self::AuthRoleList,
            RequestKind::Unknown => Self::Unknown,
        }
    }
}

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 32] = [
        Self::Range,
        Self::ReadonlyTxn,
        Self::Put,
        Self::DeleteRange,
        Self::Txn,
        Self::Compaction,
        Self::LeaseGrant,
        Self::LeaseRevoke,
        Self::LeaseCheckpoint,
        Self::Alarm,
        Self::Authenticate,
        Self::AuthEnable,
        Self::AuthDisable,
        Self::AuthStatus,
        Self::AuthUserAdd,
        Self::AuthUserDelete,
        Self::AuthUserChangePassword,
        Self::AuthUserGrantRole,
        Self::AuthUserGet,
        Self::AuthUserRevokeRole,
        Self::AuthUserList,
        Self::AuthRoleAdd,
        Self::AuthRoleGrantPermission,
        Self::AuthRoleGet,
        Self::AuthRoleRevokePermission,
        Self::AuthRoleDelete,
        Self::AuthRoleList,
        Self::ClusterVersionSet,
        Self::ClusterMemberAttrSet,
        Self::DowngradeInfoSet,
        Self::DowngradeVersionTest,
        Self::Unknown,
    ];

    /// The label value.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Range => "Range",
            Self::ReadonlyTxn => "ReadonlyTxn",
            Self::Put => "Put",
            Self::DeleteRange => "DeleteRange",
            Self::Txn => "Txn",
            Self::Compaction => "Compaction",
            Self::LeaseGrant => "LeaseGrant",
            Self::LeaseRevoke => "LeaseRevoke",
            Self::LeaseCheckpoint => "LeaseCheckpoint",
            Self::Alarm => "Alarm",
            Self::Authenticate => "Authenticate",
            Self::AuthEnable => "AuthEnable",
            Self::AuthDisable => "AuthDisable",
            Self::AuthStatus => "AuthStatus",
            Self::AuthUserAdd => "AuthUserAdd",
            Self::AuthUserDelete => "AuthUserDelete",
            Self::AuthUserChangePassword => "AuthUserChangePassword",
            Self::AuthUserGrantRole => "AuthUserGrantRole",
            Self::AuthUserGet => "AuthUserGet",
            Self::AuthUserRevokeRole => "AuthUserRevokeRole",
            Self::AuthUserList => "AuthUserList",
            Self::AuthRoleAdd => "AuthRoleAdd",
            Self::AuthRoleGrantPermission => "AuthRoleGrantPermission",
            Self::AuthRoleGet => "AuthRoleGet",
            Self::AuthRoleRevokePermission => "AuthRoleRevokePermission",
            Self::AuthRoleDelete => "AuthRoleDelete",
            Self::AuthRoleList => "AuthRoleList",
            Self::ClusterVersionSet => "ClusterVersionSet",
            Self::ClusterMemberAttrSet => "ClusterMemberAttrSet",
            Self::DowngradeInfoSet => "DowngradeInfoSet",
            Self::DowngradeVersionTest => "DowngradeVersionTest",
            Self::Unknown => "Unknown",
        }
    }

    /// The label value in the family of apply latencies, where two have no name of their own.
    pub const fn apply_name(self) -> &'static str {
        match self {
            Self::AuthStatus | Self::Unknown => "unknown",
            named => named.name(),
        }
    }
}

/// Latencies by operation and success; observing is two additions and no lock.
#[derive(Debug)]
pub struct OperationHistograms {
    /// Indexed by operation, failures first.
    cells: Box<[[Histogram; 2]]>,
}

impl OperationHistograms {
    pub(super) fn new(bounds: &'static Bounds) -> Self {
        Self { cells: Operation::ALL.map(|_| [Histogram::new(bounds), Histogram::new(bounds)]).into() }
    }

    /// Adds one operation.
    pub fn observe(&self, operation: Operation, success: bool, took: std::time::Duration) {
        self.cells[operation as usize][usize::from(success)].observe(took);
    }

    /// Adds several of the same operation, each of which took this many nanoseconds.
    pub fn observe_many(&self, operation: Operation, success: bool, nanos: u64, times: u64) {
        self.cells[operation as usize][usize::from(success)].observe_many(nanos, times);
    }

    /// Calls `action` with each series in use: operation, success as text, latencies.
    pub(super) fn for_each(&self, mut action: impl FnMut(Operation, &'static str, &Histogram)) {
        for (operation, cells) in Operation::ALL.into_iter().zip(&self.cells) {
            for (success, histogram) in ["false", "true"].into_iter().zip(cells) {
                if !histogram.is_empty() {
                    action(operation, success, histogram);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_listed_in_order() {
        for (position, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, position);
        }
    }
}
