//! All of auth in memory, loaded from the buckets.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::ranges::RangeSet;
use crate::record::{AuthKeyError, RecordError, Role, User, decode_enabled, decode_revision};
use crate::{ENABLED_KEY, REVISION_KEY, ROOT};

/// Users, roles, the switch and the revision. Changes are in [`crate::rules`].
///
/// A clone shares the users and roles, so that readers keep a whole, unchanging value while the
/// next one is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthStore {
    pub(crate) enabled: bool,
    pub(crate) revision: u64,
    pub(crate) users: BTreeMap<String, Arc<Account>>,
    pub(crate) roles: BTreeMap<String, Arc<Role>>,
}

/// A user with what its roles allow. Always of the roles as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) user: User,
    pub(crate) is_root: bool,
    pub(crate) reads: RangeSet,
    pub(crate) writes: RangeSet,
}

/// Stored auth that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// In bucket `auth`.
    #[error("bucket auth: {0}")]
    Auth(#[from] AuthKeyError),
    /// In bucket `authUsers` or `authRoles`.
    #[error("bucket {bucket}: record {key:?} cannot be read")]
    Record {
        /// Name of the bucket.
        bucket: &'static str,
        /// Key of the record, as text.
        key: String,
        /// What is wrong.
        #[source]
        source: RecordError,
    },
}

impl AuthStore {
    /// Reads all pairs of the buckets `auth`, `authUsers` and `authRoles`.
    pub fn load(
        auth: impl IntoIterator<Item = (Bytes, Bytes)>,
        users: impl IntoIterator<Item = (Bytes, Bytes)>,
        roles: impl IntoIterator<Item = (Bytes, Bytes)>,
    ) -> Result<Self, LoadError> {
        let auth: BTreeMap<Bytes, Bytes> = auth.into_iter().collect();
        let value = |key: &[u8]| auth.get(key).map(|value| &value[..]);
        let users = load_records("authUsers", users, User::decode)?;
        let roles = load_records("authRoles", roles, Role::decode)?;
        let mut store = Self {
            enabled: decode_enabled(value(ENABLED_KEY)),
            revision: decode_revision(value(REVISION_KEY))?,
            users: BTreeMap::new(),
            roles: roles.into_iter().map(|role| (role.name.clone(), Arc::new(role))).collect(),
        };
        for user in users {
            store.set_user(user);
        }
        Ok(store)
    }

    /// Puts a user in the place of the one of its name, with what its roles allow now.
    pub(crate) fn set_user(&mut self, user: User) {
        let roles: Vec<&Arc<Role>> = user.roles.iter().filter_map(|name| self.roles.get(name)).collect();
        let permissions = || roles.iter().flat_map(|role| &role.permissions);
        let account = Account {
            is_root: user.roles.iter().any(|role| role == ROOT),
            reads: RangeSet::of(permissions().filter(|permission| permission.reads())),
            writes: RangeSet::of(permissions().filter(|permission| permission.writes())),
            user,
        };
        self.users.insert(account.user.name.clone(), Arc::new(account));
    }

    /// Whether auth is on.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Counts the changes of users, roles and permissions.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// All users by name.
    pub fn users(&self) -> impl ExactSizeIterator<Item = &User> {
        self.users.values().map(|account| &account.user)
    }

    /// One user.
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name).map(|account| &account.user)
    }

    /// All roles by name.
    pub fn roles(&self) -> impl ExactSizeIterator<Item = &Role> {
        self.roles.values().map(Arc::as_ref)
    }

    /// One role.
    pub fn role(&self, name: &str) -> Option<&Role> {
        self.roles.get(name).map(Arc::as_ref)
    }
}

fn load_records<T>(
    bucket: &'static str,
    records: impl IntoIterator<Item = (Bytes, Bytes)>,
    decode: impl Fn(Bytes) -> Result<T, RecordError>,
) -> Result<Vec<T>, LoadError> {
    let load = |(key, value): (Bytes, Bytes)| {
        decode(value).map_err(|source| {
            let key = String::from_utf8_lossy(&key).into_owned();
            LoadError::Record { bucket, key, source }
        })
    };
    records.into_iter().map(load).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{encode_enabled, encode_revision};

    fn pair(key: &[u8], value: Bytes) -> (Bytes, Bytes) {
        (Bytes::copy_from_slice(key), value)
    }

    #[test]
    fn buckets_are_loaded() {
        let user = User {
            name: "u".to_owned(),
            roles: vec!["r".to_owned()],
            no_password: Some(true),
            ..User::default()
        };
        let role = Role { name: "r".to_owned(), ..Role::default() };
        let loaded = AuthStore::load(
            [
                pair(ENABLED_KEY, encode_enabled(true)),
                pair(REVISION_KEY, encode_revision(6)),
                pair(b"x", Bytes::new()),
            ],
            [pair(b"u", user.encode())],
            [pair(b"r", role.encode())],
        )
        .unwrap();
        assert!(loaded.is_enabled());
        assert_eq!(loaded.revision(), 6);
        assert_eq!((loaded.user("u"), loaded.role("r")), (Some(&user), Some(&role)));
        assert_eq!((loaded.users().len(), loaded.roles().len()), (1, 1));
        assert_eq!(AuthStore::load([], [], []).unwrap(), AuthStore::default());
    }

    #[test]
    fn junk_is_refused_with_its_place() {
        let error = AuthStore::load([], [pair(b"u", "\n".into())], []).unwrap_err();
        assert_eq!(error.to_string(), "bucket authUsers: record \"u\" cannot be read");
        let error = AuthStore::load([pair(REVISION_KEY, "x".into())], [], []).unwrap_err();
        assert_eq!(error.to_string(), "bucket auth: authRevision is 1 bytes long, not 8");
    }
}
