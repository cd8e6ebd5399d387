//! Who belongs to the cluster, and which version the cluster runs.
//!
//! [`Cluster`] is the membership as one member sees it: plain data that is loaded from the
//! buckets `members`, `members_removed` and `cluster`, changed by log entries, and that answers
//! each change with the bucket writes it means ([`BucketWrite`]). Nothing here does I/O, resolves
//! names, reads the clock or talks to raft.
//!
//! Invariants
//! - Iteration is by ascending member id everywhere: all members build the same bytes.
//! - A removed id never comes back.
//! - JSON is byte for byte what Go's `encoding/json` writes (field order, `<`, `>`, `&` escaped),
//!   because bucket `members` is part of the whole-backend hash and bootstrap entries must be
//!   equal on all members.
//! - JSON is read as Go reads it: unknown fields ignored, field names without regard to case.
//!
//! **Source**: etcd `server/etcdserver/api/membership`, `server/storage/schema/membership.go`,
//! `server/etcdserver/version`, `server/config/config.go`.

mod bootstrap;
mod change;
mod cluster;
mod entry;
mod id;
mod json;
mod member;
mod reconfig;
mod resolve;
mod v2store;
mod version;

pub use bootstrap::{BootstrapError, InitialCluster, JoinError, UrlError, UrlsDiffer, parse_urls, same_text};
pub use change::{ChangeError, ConfChange, MalformedChange};
pub use cluster::{Bucket, BucketWrite, Cluster, LoadError};
pub use entry::{EntryError, decode_entry};
pub use id::{cluster_id, member_id};
pub use json::JsonError;
pub use member::{Attributes, Member};
pub use reconfig::{Link, ReconfigError};
pub use resolve::same_addresses;
pub use v2store::{V2Membership, V2StoreError, read_v2_store};
pub use version::{DowngradeInfo, InvalidDowngrade, allowed_downgrade_target, is_server_too_old};
