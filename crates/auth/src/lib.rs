//! Users, roles, permissions, tokens.
//!
//! - `record`, `store`: what the buckets hold, and all of it in memory;
//! - `rules`: every change of users, roles and the switch, with its conditions;
//! - `order`: how equal permissions are sorted;
//! - `check`, `ranges`: what a user may do;
//! - `tokens`: who a token stands for; `password`: hashing.
//!
//! Nothing here reads a clock, draws random numbers or writes: those come in as arguments, and what
//! a change writes goes out as records.
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
//! `server/auth/{store,range_perm_cache}.go`.

mod check;
mod error;
mod order;
pub mod password;
mod ranges;
mod record;
mod rules;
mod store;
pub mod tokens;

pub use check::Identity;
pub use error::AuthError;
pub use ranges::RangeSet;
pub use record::{
    AuthKeyError, Permission, PermissionKind, RecordError, Role, User, decode_enabled, decode_revision,
    encode_enabled, encode_revision,
};
pub use rules::{Bucket, Done, LegacyHash, Note, Record};
pub use store::{AuthStore, LoadError};
pub use tokens::Tokens;

/// Key of the switch in bucket `auth`.
pub const ENABLED_KEY: &[u8] = b"authEnabled";
/// Key of the revision in bucket `auth`.
pub const REVISION_KEY: &[u8] = b"authRevision";
/// The user and the role that may do everything.
pub const ROOT: &str = "root";
