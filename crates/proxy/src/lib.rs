//! What stands between clients and a cluster: `etcd gateway` and `etcd grpc-proxy`.
//!
//! - [`gateway`]: forwards TCP connections to endpoints that answer;
//! - [`grpc`]: speaks the client API in both directions and saves the cluster work on the way: equal
//!   watches share one, repeated serialisable reads are answered from memory;
//! - [`discover`](mod@discover): endpoints from the DNS, for both.
//!
//! Deliberately absent: command lines and exit statuses, which are the program's.
//!
//! **Source**: etcd `server/proxy/{tcpproxy,grpcproxy}`, `server/etcdmain/{gateway,grpc_proxy,util}.go`.

pub mod discover;
pub mod gateway;
pub mod grpc;
