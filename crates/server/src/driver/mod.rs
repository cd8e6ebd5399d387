//! The threads around the member: who runs what, and the queues between them.
//!
//! ```text
//!  workers (lanes) ──Input──▶ raft thread ──Persist──▶ log thread ──Persisted──▶ raft thread
//!     ▲                          │  owns member::Member        owns wal::Wal
//!     │       peers ◀──Send──────┤ ◀──Message── peers
//!     │                          └──Apply──▶ apply thread ──Applied──▶ raft thread
//!     └──── answers, by lane ────────────────┤  owns apply::Applier
//!                                            ├──events──▶ watch thread
//!                                            └──pending?──▶ backend thread ──▶ bolt
//! ```
//!
//! Rules: the raft thread waits for nobody (but see below); apply never waits for the backend's disk except when
//! that is far behind ([`store`]); a failed write or sync anywhere ends the process, because
//! nothing is known about the disk afterwards.
//!
//! A member without peers has nobody who could want anything from its raft thread while a sync
//! runs: there the raft thread writes the log itself, and each put saves the way to the log thread
//! and back. All that is proposed during one sync goes out with the next one, as ever.
//!
//! The queues between these threads are unbounded, so that no two of them can wait for each other.
//! What flows through them is bounded where it enters: a lane admits a request only while the gap
//! between commit and apply, and the bytes it has under way, are below their limits
//! ([`crate::lanes`]), and of peers' messages only so many wait for the raft thread
//! ([`crate::peers`]).
//!
//! A snapshot from the leader takes the way of a write: the log thread saves it and its record in
//! the log, tells the apply thread to install the database that came with it, and only then tells
//! the raft thread; so entries behind it reach the apply thread after it.

pub mod apply_thread;
pub mod log_thread;
pub mod raft_thread;
pub mod store_threads;

use bytes::Bytes;
use tokio::sync::oneshot;
use types::MemberId;

use crate::lanes::Proposal;

/// What reaches the raft thread.
#[derive(Debug)]
pub enum Input {
    /// Proposals of one lane's turn.
    Propose(Vec<Proposal>),
    /// What a leader of this term decided of its own accord: forgotten if it leads no more.
    ProposeLeading {
        /// The term.
        term: u64,
        /// The encoded request.
        payload: Bytes,
    },
    /// An encoded conf change.
    ProposeConfChange(Bytes),
    /// A message of a peer.
    Message(Box<proto::raftpb::Message>),
    /// The log thread wrote and synced up to this number.
    Persisted(u64),
    /// The apply thread applied up to this index.
    Applied(u64),
    /// The apply thread decided about a conf change.
    ConfChangeApplied(proto::raftpb::ConfChange),
    /// Ask for the index of this round of reads.
    ReadIndex(u64),
    /// Hand leadership to another voter.
    TransferLeader(MemberId),
    /// Messages to a peer do not get through.
    PeerUnreachable(MemberId),
    /// A snapshot was delivered to a peer, or was not.
    SnapshotReport {
        /// The peer.
        to: MemberId,
        /// Whether it has it.
        delivered: bool,
    },
    /// Answers with a look inside consensus.
    Status(oneshot::Sender<consensus::Status>),
    /// Let so many ticks pass at once.
    Advance(u32),
    /// Campaign now.
    Campaign,
    /// Stop after handing out what is ready.
    Stop,
}
