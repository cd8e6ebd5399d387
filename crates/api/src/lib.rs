//! gRPC and HTTP services of the client API.
//!
//! - [`grpc`]: the thin server layer on HTTP/2, without knowledge of etcd;
//! - [`services`]: KV, Lease, Maintenance, ... as plain async functions over messages;
//! - [`http`](mod@http): health, version and metrics on the same port;
//! - `json`: the JSON gateway, which makes calls of HTTP requests;
//! - [`error`]: upstream's table of errors;
//! - [`member`]: what all of these need from the member behind them.
//!
//! Deliberately absent: raft, disk, timers of the member. Services see the member through one
//! trait and wait for its answers.

pub mod error;
pub mod grpc;
pub mod http;
mod json;
pub mod member;
pub mod services;

pub use error::Error;
pub use member::Member;
pub use services::EtcdService;
