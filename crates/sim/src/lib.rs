//! A whole cluster in one thread from one seed.
//!
//! The members run the server's own code from the log to the watch hub: `bootstrap`, `member`,
//! `apply`, `mvcc`, `lease`, `membership`, `wal`, `backend`, `bolt`. What differs is the driver:
//! in place of threads there is a queue of events in virtual time, in place of disks
//! [`env::sim::SimDisk`], which loses and tears what was not synced, in place of sockets a network
//! that loses, delays, doubles and reorders encoded messages.
//!
//! ```text
//! seed ─▶ profile (size, settings, workload, faults)
//!           │
//!  clients ─┼─▶ nodes ◀──▶ network          every answer, entry, vote, event ─▶ oracle
//! watchers ─┤     ▲
//! operator ─┘     └── faults                 ... until faults stop; then all must settle
//! ```
//!
//! Invariants of a run:
//! - every choice comes from the seed; nothing reads a clock or iterates a hash map whose order can
//!   be seen, so the same seed gives the same trace, bit for bit ([`Outcome::trace`]);
//! - checks run as things happen ([`run()`] stops at the first finding);
//! - a planted [`Bug`] changes what the driver does and nothing else, so that the checks can be
//!   checked.
//!
//! Not simulated: TCP, HTTP and gRPC; threads (so no data races); authentication; other releases.

mod bugs;
mod client;
mod context;
mod faults;
mod node;
mod operator;
mod oracle;
mod profile;
mod random;
mod run;
mod trace;
mod watcher;

pub use bugs::Bug;
pub use context::Stats;
pub use run::{Options, Outcome, run};
