//! Consensus: the crate `raft` behind our own types. No I/O, no clock, no thread; randomness comes
//! from a seed, so the same inputs give the same outputs on every run.
//!
//! What it keeps: the log since the last compaction, in memory. What it hands out is a [`Ready`]:
//! what to persist, what to send, what is committed. What it expects back: [`Consensus::persisted`]
//! and [`Consensus::applied`]. Membership, payloads and snapshots' content are not its business.
//!
//! Rules that make it stand in for etcd's own raft in a mixed cluster are kept here, at the edge:
//! message checks before `raft` sees them ([`StepError`]), change types translated by hand, reads
//! held until the term has a commit, messages without the crate's own fields.
//!
//! **Source**: etcd raft v3.5 to v3.7 for behaviour on the wire; crate `raft` 0.7.0.

mod bootstrap;
mod check;
mod consensus;
mod convert;
mod log_lines;
mod ready;
mod store;

pub use bootstrap::bootstrap;
pub use check::StepError;
pub use consensus::{Config, Consensus, Error, LogState, ProposeError};
pub use log_lines::{Level, LogLine};
pub use ready::{PeerProgress, ProgressState, ReadState, Ready, Role, SoftState, Status};
