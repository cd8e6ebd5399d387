//! State that the applier changes and everybody reads.

use std::sync::Arc;

use lease::Lessor;
use membership::Cluster;
use parking_lot::{Mutex, RwLock};

use crate::alarms::Alarms;

/// Views of the replicated state outside the key space.
///
/// The applier is the only writer of `cluster` and `alarms`; readers take a whole, immutable value.
/// `lessor` is shared with keep-alives, which renew leases in the leader's memory.
pub struct Shared {
    cluster: RwLock<Arc<Cluster>>,
    alarms: RwLock<Arc<Alarms>>,
    /// The leases. Held briefly, never across I/O or an await.
    pub lessor: Mutex<Lessor>,
}

impl Shared {
    /// The views at start.
    pub fn new(cluster: Cluster, alarms: Alarms, lessor: Lessor) -> Self {
        Self {
            cluster: RwLock::new(Arc::new(cluster)),
            alarms: RwLock::new(Arc::new(alarms)),
            lessor: Mutex::new(lessor),
        }
    }

    /// The membership now.
    pub fn cluster(&self) -> Arc<Cluster> {
        self.cluster.read().clone()
    }

    /// The alarms now.
    pub fn alarms(&self) -> Arc<Alarms> {
        self.alarms.read().clone()
    }

    pub(crate) fn change_cluster<T>(&self, change: impl FnOnce(&mut Cluster) -> T) -> T {
        let mut cluster = Cluster::clone(&self.cluster());
        let result = change(&mut cluster);
        *self.cluster.write() = Arc::new(cluster);
        result
    }

    pub(crate) fn change_alarms<T>(&self, change: impl FnOnce(&mut Alarms) -> T) -> T {
        let mut alarms = Alarms::clone(&self.alarms());
        let result = change(&mut alarms);
        *self.alarms.write() = Arc::new(alarms);
        result
    }
}
