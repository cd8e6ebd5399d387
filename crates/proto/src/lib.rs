//! The protobuf messages of etcd's client API, raft log, disk records and peer protocol.
//!
//! The schemas under `proto/` carry upstream's field numbers; `build.rs` compiles them with
//! `protox`. All `bytes` fields are [`bytes::Bytes`], so decoding from a `Bytes` copies nothing.
//! Messages of `raftpb`, `walpb`, `snappb` and `legacy` are proto2: their scalars are `Option`,
//! and writers set them even when zero, because that is what etcd 3.5 and 3.6 put on disk.
//!
//! **Source**: the API tables of etcd 3.7.1 (`api/`, `raft/raftpb`).

// Generated code has no doc comments of its own beyond those in the schemas.
#![allow(missing_docs, clippy::doc_overindented_list_items)]

/// Key-value records and events.
pub mod mvccpb {
    include!(concat!(env!("OUT_DIR"), "/mvccpb.rs"));
}
/// Users, roles, permissions.
pub mod authpb {
    include!(concat!(env!("OUT_DIR"), "/authpb.rs"));
}
/// Membership entries.
pub mod membershippb {
    include!(concat!(env!("OUT_DIR"), "/membershippb.rs"));
}
/// The client API and the payload of raft entries.
pub mod etcdserverpb {
    include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));
    /// proto2 messages that are still found on disk.
    pub mod legacy {
        include!(concat!(env!("OUT_DIR"), "/etcdserverpb.legacy.rs"));
    }
}
/// Lease records.
pub mod leasepb {
    include!(concat!(env!("OUT_DIR"), "/leasepb.rs"));
}
/// Raft entries and peer messages.
pub mod raftpb {
    include!(concat!(env!("OUT_DIR"), "/raftpb.rs"));
}
/// WAL records.
pub mod walpb {
    include!(concat!(env!("OUT_DIR"), "/walpb.rs"));
}
/// Snapshot file envelope.
pub mod snappb {
    include!(concat!(env!("OUT_DIR"), "/snappb.rs"));
}
/// The lock service.
pub mod v3lockpb {
    include!(concat!(env!("OUT_DIR"), "/v3lockpb.rs"));
}
/// The election service.
pub mod v3electionpb {
    include!(concat!(env!("OUT_DIR"), "/v3electionpb.rs"));
}
/// The standard health service.
pub mod health {
    include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
}
/// The schemas of this crate as an encoded `google.protobuf.FileDescriptorSet`, imported files before
/// those that import them, without comments.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The reflection service. Under its older name, v1alpha, it has the same messages.
pub mod reflection {
    include!(concat!(env!("OUT_DIR"), "/grpc.reflection.v1.rs"));
}
