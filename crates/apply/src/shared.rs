//! State that the applier changes and everybody reads.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};

use auth::{AuthStore, Tokens};
use lease::Lessor;
use membership::Cluster;
use parking_lot::{Mutex, RwLock};

use crate::alarms::Alarms;

/// Views of the replicated state outside the key space.
///
/// The applier is the only writer of `cluster`, `alarms` and `auth`; readers take a whole, immutable value.
/// `lessor` is shared with keep-alives, which renew leases in the leader's memory.
pub struct Shared {
    cluster: RwLock<Arc<Cluster>>,
    alarms: RwLock<Arc<Alarms>>,
    auth: Auth,
    /// The leases. Held briefly, never across I/O or an await.
    pub lessor: Mutex<Lessor>,
}

impl Shared {
    /// The views at start.
    pub fn new(cluster: Cluster, alarms: Alarms, lessor: Lessor) -> Self {
        Self {
            cluster: RwLock::new(Arc::new(cluster)),
            alarms: RwLock::new(Arc::new(alarms)),
            auth: Auth::default(),
            lessor: Mutex::new(lessor),
        }
    }

    /// The same with users and roles, and with the kind of tokens that this member takes. Without
    /// this auth is off, as in a new store.
    pub fn with_auth(mut self, store: AuthStore, tokens: Tokens) -> Self {
        self.auth = Auth { tokens, ..Auth::default() };
        self.auth.publish(store);
        self
    }

    /// Users, roles and tokens.
    pub fn auth(&self) -> &Auth {
        &self.auth
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

/// Users, roles and tokens. While auth is off, looking here costs one relaxed load.
pub struct Auth {
    enabled: AtomicBool,
    revision: AtomicU64,
    store: RwLock<Arc<AuthStore>>,
    /// The tokens.
    pub tokens: Tokens,
}

impl Default for Auth {
    fn default() -> Self {
        let mut store = AuthStore::default();
        store.begin();
        let auth = Self {
            enabled: AtomicBool::new(false),
            revision: AtomicU64::new(0),
            store: RwLock::default(),
            tokens: Tokens::default(),
        };
        auth.publish(store);
        auth
    }
}

impl Auth {
    /// Whether auth is on.
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Relaxed)
    }

    /// Counts the changes of users and roles.
    pub fn revision(&self) -> u64 {
        self.revision.load(Acquire)
    }

    /// Users and roles now.
    pub fn store(&self) -> Arc<AuthStore> {
        self.store.read().clone()
    }

    /// Puts the next value in the place of the last one. Whoever sees the revision sees the store.
    pub(crate) fn publish(&self, store: AuthStore) {
        let (enabled, revision) = (store.is_enabled(), store.revision());
        *self.store.write() = Arc::new(store);
        self.revision.store(revision, Release);
        self.enabled.store(enabled, Release);
        if !enabled {
            self.tokens.forget_all();
        }
    }
}
