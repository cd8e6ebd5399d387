//! Tests of our programs against the real ones: servers, tools, client libraries.
//!
//! - [`caller`]: which process is at the other end of a connection.
//! - [`proxy`]: the network between members, which a test can break.
//! - [`linearizability`]: what clients were told, checked for linearizability.
//! - [`load`]: clients, watchers and holders of leases that go on through faults, and record.
//! - [`programs`]: where the programs are.
//! - [`member`]: a one-member cluster of any server program, started and stopped by a test.
//! - [`cluster`]: several members, ours and real ones in any mixture.
//! - [`ctl`]: any `etcdctl`, run to its end.
//! - [`terminal`]: the same on a terminal, with somebody who types passwords.
//! - [`utl`]: any `etcdutl`, run to its end; restoring with it.
//! - [`http`]: HTTP/1.1 by hand.
//! - [`script`]: one script of interactions, run against two servers; the answers must be equal.
//! - [`normalise`]: what may differ between two answers that are equal.
//! - [`known`]: differences that stay, each with its reason.
//! - [`facts`]: everything a client can see of a member's data, for comparisons across restarts.
//! - [`traffic`]: steady puts, reads and watchers while something happens to a cluster.
//! - [`linearizability`]: what clients were told, checked against the history of the store.
//! - [`writers`]: clients that remember what was acknowledged, for crash tests.
//!
//! Nothing in here waits by sleeping for a fixed time; every wait is for a state, with a bound.
//! Missing programs fail a test, they never skip it: `tools/fetch-etcd` gets the real ones,
//! `cargo build --workspace --bins` makes ours.

pub mod caller;
pub mod clients;
pub mod cluster;
pub mod ctl;
pub mod facts;
pub mod front;
pub mod http;
pub mod known;
pub mod linearizability;
pub mod load;
pub mod member;
pub mod names;
pub mod normalise;
pub mod programs;
pub mod proxy;
pub mod script;
pub mod scripts;
pub mod terminal;
pub mod traffic;
pub mod utl;
pub mod writers;

use std::future::Future;

use anyhow::Context;

/// Runs async test code on this thread, as [`bench::wire`] needs it.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    tokio::task::LocalSet::new().block_on(&runtime, future)
}

/// A number from a variable of the environment.
pub fn number(variable: &str, default: u64) -> anyhow::Result<u64> {
    match std::env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable} is not a number")),
        Err(_) => Ok(default),
    }
}
