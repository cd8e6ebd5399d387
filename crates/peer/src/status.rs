//! Whether a peer can be reached, as the last success or failure of any kind told.

use std::fmt::Display;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;
use types::MemberId;

use crate::log::Log;
use crate::metrics::PeerMetrics;

/// What failed: the channel and what was done on it. The words are those of etcd's log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    pub(crate) source: &'static str,
    pub(crate) action: &'static str,
}

#[derive(Debug)]
pub(crate) struct PeerStatus {
    id: MemberId,
    log: Log,
    metrics: Arc<PeerMetrics>,
    active_since: Mutex<Option<Instant>>,
}

impl PeerStatus {
    pub(crate) fn new(id: MemberId, log: Log, metrics: Arc<PeerMetrics>) -> Self {
        Self { id, log, metrics, active_since: Mutex::new(None) }
    }

    pub(crate) fn activate(&self) {
        let mut since = self.active_since.lock();
        if since.is_none() {
            *since = Some(Instant::now());
            self.metrics.active.add(1);
            drop(since);
            self.log.info("peer became active", &[("peer-id", self.id.into())]);
        }
    }

    pub(crate) fn deactivate(&self, failure: Failure, reason: impl Display) {
        let was_active = self.active_since.lock().take().is_some();
        let Failure { source, action } = failure;
        let error = format!("failed to {action} {} on {source} ({reason})", self.id);
        let fields = [("peer-id", self.id.into()), ("error", error.into())];
        if was_active {
            self.metrics.active.add(-1);
            self.metrics.disconnected.inc();
            self.log.warn("peer became inactive (message send to peer failed)", &fields);
        } else {
            self.log.debug("peer deactivated again", &fields);
        }
    }

    pub(crate) fn active_since(&self) -> Option<Instant> {
        *self.active_since.lock()
    }

    pub(crate) fn is_active(&self) -> bool {
        self.active_since().is_some()
    }
}

impl Drop for PeerStatus {
    /// A peer that is removed is no active one any more.
    fn drop(&mut self) {
        if self.active_since.get_mut().take().is_some() {
            self.metrics.active.add(-1);
        }
    }
}
