//! The peer protocol: how members of a cluster talk to each other, etcd's `rafthttp`.
//!
//! ```text
//!  raft thread ── Transport::send ──▶ outbox ─▶ stream body ─▶ connection ─▶ peer
//!  raft thread ◀── Handler::step ─── reader ◀─ decoder ◀───── connection ◀─ peer
//! ```
//!
//! * [`Transport`] is one member's end. It has one thread (`peer`) with a single-threaded runtime:
//!   a busy worker never delays a heartbeat, and the raft thread only touches queues.
//! * Messages travel on long answers: the *receiver* dials, asks for a stream and reads; the sender
//!   writes into the answer. Two per direction: one for entries, one for the rest. Until they
//!   stand, single messages are posted. Snapshots are posted with their database.
//! * [`Handler`] is what the member implements: it takes messages and answers what peers ask beside
//!   raft. [`Client`] asks other members.
//! * TLS comes in as [`net::Security`].
//!
//! Invariants
//! - Nothing here waits for the raft thread, nor the raft thread for anything here. Every queue has
//!   a bound; what does not fit is dropped and reported, raft sends again what matters.
//! - No length that a peer names is believed before the bytes are there.
//! - A snapshot is on disk, synced and under its name, before raft hears of it.
//! - A peer's mistake closes its connection; it never stops this member, but for the one message
//!   that it was removed from the cluster.
//!
//! **Source**: etcd 3.5 to 3.7 `server/etcdserver/api/rafthttp`.

mod client;
pub mod codec;
mod context;
mod endpoints;
mod handler;
mod identity;
mod link;
mod log;
mod metrics;
pub mod net;
mod outbox;
mod peer;
mod pipeline;
mod prober;
mod reader;
mod reply;
mod server;
mod snapshot;
mod status;
mod transport;
mod url;

pub use client::{AskError, Client, ClusterError, JOIN_TIMEOUT, RemoteCluster, Versions};
pub use context::Config;
pub use handler::{
    Handler, HashKv, HashKvError, LeaseError, LeaseTimes, OutgoingSnapshot, PromoteError, StepError,
};
pub use identity::Identity;
pub use link::LinkError;
pub use log::{Field, Fields, Level, Log};
pub use metrics::{
    Counter, Distribution, Gauge, Histogram, Metrics, PeerMetrics, SavedDatabase, Series, Value,
};
pub use transport::Transport;
pub use url::{BadUrl, PeerUrl, Scheme};
