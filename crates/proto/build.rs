//! Compiles the protobuf schemas with `protox`, so that no `protoc` is needed.

use std::path::{Path, PathBuf};

use prost::Message as _;

const FILES: &[&str] = &[
    "mvccpb.proto",
    "authpb.proto",
    "membershippb.proto",
    "rpc.proto",
    "leasepb.proto",
    "raftpb.proto",
    "walpb.proto",
    "snappb.proto",
    "etcdserver.proto",
    "v3lock.proto",
    "v3election.proto",
    "health.proto",
    "reflection.proto",
    "reflection_v1alpha.proto",
];

/// Fields of the payload of raft entries that are kept on the heap: the message is moved about for
/// each write, and most of its size would be requests that come once in a while.
const RARE_REQUESTS: &[&str] = &[
    "range",
    "compaction",
    "alarm",
    "lease_checkpoint",
    "auth_enable",
    "auth_disable",
    "authenticate",
    "auth_status",
    "auth_user_add",
    "auth_user_delete",
    "auth_user_get",
    "auth_user_change_password",
    "auth_user_grant_role",
    "auth_user_revoke_role",
    "auth_user_list",
    "auth_role_list",
    "auth_role_add",
    "auth_role_delete",
    "auth_role_get",
    "auth_role_grant_permission",
    "auth_role_revoke_permission",
    "cluster_version_set",
    "cluster_member_attr_set",
    "downgrade_info_set",
    "downgrade_version_test",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out_dir = PathBuf::from(std::env::var("OUT_DIR")?);
    let mut config = prost_build::Config::new();
    config.bytes(["."]).btree_map(["."]);
    for field in RARE_REQUESTS {
        config.boxed(format!(".etcdserverpb.InternalRaftRequest.{field}"));
    }
    config.out_dir(&out_dir);
    write_descriptors(descriptors.clone(), &out_dir)?;
    if std::env::var_os("CARGO_FEATURE_GRPC_CLIENT").is_some() {
        tonic_prost_build::configure().build_server(false).compile_fds_with_config(descriptors, config)?;
    } else {
        config.compile_fds(descriptors)?;
    }
    Ok(())
}

/// The schemas as data, for those who read messages without their types. Comments stay behind.
fn write_descriptors(mut set: prost_types::FileDescriptorSet, out_dir: &Path) -> std::io::Result<()> {
    for file in &mut set.file {
        file.source_code_info = None;
    }
    std::fs::write(out_dir.join("descriptors.bin"), set.encode_to_vec())
}
