//! Compiles the protobuf schemas with `protox`, so that no `protoc` is needed.

use std::path::PathBuf;

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
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let mut config = prost_build::Config::new();
    config.bytes(["."]).btree_map(["."]);
    config.out_dir(PathBuf::from(std::env::var("OUT_DIR")?));
    if std::env::var_os("CARGO_FEATURE_GRPC_CLIENT").is_some() {
        tonic_prost_build::configure().build_server(false).compile_fds_with_config(descriptors, config)?;
    } else {
        config.compile_fds(descriptors)?;
    }
    Ok(())
}
