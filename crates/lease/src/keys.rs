//! The keys of one lease: most leases hold none or one, a few hold very many.

use std::collections::BTreeSet;
use std::sync::Arc;

/// A set of keys that needs no heap node of its own for up to one key.
#[derive(Debug, Default)]
pub(crate) enum KeySet {
    #[default]
    Empty,
    One(Arc<[u8]>),
    Many(BTreeSet<Arc<[u8]>>),
}

impl KeySet {
    pub(crate) fn insert(&mut self, key: Arc<[u8]>) {
        *self = match std::mem::take(self) {
            Self::Empty => Self::One(key),
            Self::One(only) if only == key => Self::One(only),
            Self::One(only) => Self::Many(BTreeSet::from([only, key])),
            Self::Many(mut set) => {
                set.insert(key);
                Self::Many(set)
            }
        };
    }

    pub(crate) fn remove(&mut self, key: &[u8]) {
        match self {
            Self::Empty => {}
            Self::One(only) if only[..] != *key => {}
            Self::One(_) => *self = Self::Empty,
            Self::Many(set) => {
                set.remove(key);
                if set.is_empty() {
                    *self = Self::Empty;
                }
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Empty => 0,
            Self::One(_) => 1,
            Self::Many(set) => set.len(),
        }
    }

    /// The keys in ascending order.
    pub(crate) fn sorted(&self) -> Vec<&Arc<[u8]>> {
        match self {
            Self::Empty => Vec::new(),
            Self::One(only) => vec![only],
            Self::Many(set) => set.iter().collect(),
        }
    }
}
