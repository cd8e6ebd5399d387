//! Leases: who holds which, which keys hang on it, and when it is over.
//!
//! A [`Lessor`] is a plain struct without clock, lock or I/O: the time is an argument (monotonic,
//! since any start), records to be stored are return values, and a lease that is over is only
//! *named*: `apply` deletes its keys when the revocation comes back through the log.
//!
//! Invariants
//! - Only the primary (the raft leader) lets leases expire; on all others every expiry is "never".
//! - What [`Lessor::grant`], [`Lessor::revoke`], [`Lessor::checkpoint`], [`Lessor::attach`] and
//!   [`Lessor::detach`] leave behind, apart from times, depends on their arguments alone: these
//!   calls come from the log and must agree on every member.
//! - A key hangs on at most one lease.
//! - Each lease has at most one live entry in the expiry queue; a renewal moves only the expiry,
//!   the queue entry follows when it comes up. So a renewal costs one hash look-up.
//!
//! Units: TTLs are whole seconds (`i64`, as on the wire), times are [`std::time::Duration`].
//!
//! **Source**: etcd `server/lease/lessor.go`. Deliberate differences: on promotion at most
//! [`EXPIRIES_PER_SECOND`] leases end in any one second, exactly (upstream: on average); a
//! checkpoint that was not due or whose proposal was lost is scheduled again (upstream forgets
//! it); a renewal always starts a full TTL (upstream, without checkpointing, goes on with a
//! checkpointed remainder).

mod keys;
mod lessor;
mod queue;
mod record;

pub use lessor::{
    EXPIRIES_PER_SECOND, GrantError, LeaseInfo, Lessor, MAX_TTL_SECONDS, Options, REVOKES_PER_ROUND,
    RenewOutcome, TimeToLive, UnknownLease, minimum_ttl_seconds,
};
pub use record::{DecodeError, Record, decode_record, encode_record, record_key};
