//! `etcd grpc-proxy`: the client API in both directions.
//!
//! ```text
//! callers ─▶ api::grpc on the workers ─▶ dispatch ─▶ upstream ─▶ client, one for each worker ─▶ cluster
//!                                          │  ├─ cache: serialisable ranges
//!                                          │  └─ leasing: keys that were claimed
//!                                          ├─ watch: hub on the first worker, groups of equal watches
//!                                          └─ lease: renewals on one stream
//! ```
//!
//! What all workers share is behind locks that are held for no longer than a lookup.
//!
//! **Source**: etcd `server/proxy/grpcproxy`, `server/etcdmain/grpc_proxy.go`.

mod cache;
mod cluster;
mod counters;
mod dispatch;
#[cfg(test)]
mod fake;
mod http;
mod kv;
mod leader;
mod lease;
mod leasing;
mod namespace;
mod payloads;
mod start;
mod upstream;
mod watch;
#[cfg(test)]
mod whole_tests;

use std::sync::Arc;

use client::Client;
use parking_lot::Mutex;

pub use cluster::Identity;
pub use counters::Counters;
pub use http::MetricsText;
pub use start::{Prepared, Settings, StartError};

use cache::Cache;
use upstream::Upstream;

/// A proxy.
pub(crate) struct Proxy {
    upstream: Arc<Upstream>,
    leasing: Option<Arc<leasing::Leasing>>,
    cache: Mutex<Cache>,
    counters: Arc<Counters>,
    hub: watch::Inputs,
    renewals: lease::Renewals,
    leader: leader::Leader,
    identity: Identity,
    proxies: cluster::Proxies,
    cluster_metrics: http::Metrics,
    own_metrics: MetricsText,
    /// Whether messages are put on record.
    has_payload_log: bool,
    /// A client of this proxy, for a look at its health.
    itself: Option<Client>,
}

/// The proxy as a service of a listener.
#[derive(Clone)]
pub(crate) struct Proxied {
    proxy: Arc<Proxy>,
    /// Whether profiles are served here as well.
    has_profiles: bool,
}
