//! gRPC and HTTP services of the client API.
//!
//! - [`grpc`]: the thin server layer on `h2`, without knowledge of etcd.
//!
//! Deliberately absent: raft, disk, timers of the member. Services see the member through one
//! trait and wait for its answers.

pub mod grpc;
