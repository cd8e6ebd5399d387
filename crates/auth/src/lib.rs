//! Users, roles and the auth switch, as stored.
//!
//! This crate knows the records and nothing of rules yet: it reads them, writes them, and answers
//! who has which role and which role has which permission.
//!
//! ```text
//! auth       authEnabled    0x01 or 0x00; absent until the switch was first used
//! auth       authRevision   u64be; 1 for a store that never changed
//! authUsers  <name>         authpb.User { name, password (bcrypt text), roles, options }
//! authRoles  <name>         authpb.Role { name, keyPermission sorted by key }
//! ```
//!
//! A user's `options` are written even when empty, as upstream does: the bytes are part of the
//! whole-backend hash.
//!
//! **Source**: etcd `server/storage/schema/{auth,auth_users,auth_roles}.go`,
//! `server/auth/range_perm_cache.go`.

mod record;
mod store;

pub use record::{
    AuthKeyError, Permission, PermissionKind, RecordError, Role, User, decode_enabled, decode_revision,
    encode_enabled, encode_revision,
};
pub use store::{AuthStore, LoadError};

/// Key of the switch in bucket `auth`.
pub const ENABLED_KEY: &[u8] = b"authEnabled";
/// Key of the revision in bucket `auth`.
pub const REVISION_KEY: &[u8] = b"authRevision";
/// The user and the role that may do everything.
pub const ROOT: &str = "root";
