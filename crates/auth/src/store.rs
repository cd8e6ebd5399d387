//! All of auth in memory, loaded from the buckets.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::record::{AuthKeyError, RecordError, Role, User, decode_enabled, decode_revision};
use crate::{ENABLED_KEY, REVISION_KEY};

/// Users, roles, the switch and the revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthStore {
    enabled: bool,
    revision: u64,
    users: BTreeMap<String, User>,
    roles: BTreeMap<String, Role>,
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
        Ok(Self {
            enabled: decode_enabled(value(ENABLED_KEY)),
            revision: decode_revision(value(REVISION_KEY))?,
            users: load_records("authUsers", users, User::decode, |user| &user.name)?,
            roles: load_records("authRoles", roles, Role::decode, |role| &role.name)?,
        })
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
        self.users.values()
    }

    /// One user.
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name)
    }

    /// All roles by name.
    pub fn roles(&self) -> impl ExactSizeIterator<Item = &Role> {
        self.roles.values()
    }

    /// One role.
    pub fn role(&self, name: &str) -> Option<&Role> {
        self.roles.get(name)
    }
}

fn load_records<T>(
    bucket: &'static str,
    records: impl IntoIterator<Item = (Bytes, Bytes)>,
    decode: impl Fn(Bytes) -> Result<T, RecordError>,
    name: impl Fn(&T) -> &String,
) -> Result<BTreeMap<String, T>, LoadError> {
    let load = |(key, value): (Bytes, Bytes)| match decode(value) {
        Ok(record) => Ok((name(&record).clone(), record)),
        Err(source) => {
            let key = String::from_utf8_lossy(&key).into_owned();
            Err(LoadError::Record { bucket, key, source })
        }
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
        let user =
            User { name: "u".to_owned(), roles: vec!["r".to_owned()], no_password: true, ..User::default() };
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
