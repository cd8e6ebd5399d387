//! The async client library: what etcd's Go client does for its users, on tokio.
//!
//! A [`Client`] keeps one HTTP/2 connection to every endpoint, spreads calls over the ones that
//! are up, waits for one when none is, and repeats calls where that cannot apply a write twice.
//! On top of the plain calls it has the long-lived ones: [`Watcher`] resumes broken streams
//! without gap or repeat, [`KeepAlive`] renews a lease until it is gone, and [`concurrency`]
//! holds the lock and election recipes.
//!
//! Deliberately absent: caches and name prefixes.
//!
//! Everything runs on the tokio runtime of the caller, a single-threaded one included.
//!
//! **Source**: etcd `client/v3` (behaviour, retry rules, error texts).

mod call;
mod client;
pub mod concurrency;
mod connection;
mod discover;
mod endpoint;
mod error;
mod kv;
mod lease;
mod maintenance;
mod watch;

pub use call::Rpc;
pub use client::{Client, Credentials, FailedAttempt, Options};
pub use connection::detect_death;
pub use discover::{DiscoverError, discover};
pub use endpoint::{Address, Encryption, Endpoint};
pub use error::{Code, Error};
pub use kv::{Compare, Txn, delete, get, prefix_end, put, with_prefix};
pub use lease::KeepAlive;
pub use maintenance::Snapshot;
pub use watch::{Watch, Watcher, cancel_error, is_progress};

pub use proto;
pub use tls;
pub use tonic::Streaming;
