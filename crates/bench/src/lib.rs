//! Load and measurement for any etcd.
//!
//! - [`wire`]: a gRPC client that costs next to nothing; also used by the interop tests.
//! - [`load`]: workloads, closed and open loop, latency histograms.
//! - [`process`]: a server under measurement: cores, CPU time, memory.
//! - [`echo`]: a server that only answers, so that figures can be quoted as a share of what bare
//!   RPC can do.
//! - [`logins`]: logins, and what they cost everybody else.
//! - [`compare`]: two server programs side by side, in interleaved rounds.
//!
//! Deliberately absent: anything that knows how our own server works inside. Every server is
//! driven through its client URL and watched through `/proc`.

pub mod compare;
pub mod echo;
pub mod load;
pub mod logins;
pub mod process;
pub mod wire;
