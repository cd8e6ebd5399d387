//! Proposals on their way into consensus.
//!
//! Without a leader they wait, in order, until there is one or their time is over; who proposed
//! them has a time-out of his own. The queue is bounded: what does not fit is forgotten, exactly
//! as a message to a leader may be lost.

use std::collections::VecDeque;

use bytes::Bytes;
use consensus::{Consensus, ProposeError};

/// Most proposals that wait for a leader.
const MAX_WAITING: usize = 5000;
/// Ticks after which a waiting proposal is forgotten: longer than any request timeout.
const MAX_AGE_TICKS: u64 = 600;

enum Proposal {
    Normal(Bytes),
    ConfChange(Bytes),
}

impl Proposal {
    fn payload(&self) -> Option<&Bytes> {
        match self {
            Self::Normal(payload) => Some(payload),
            Self::ConfChange(_) => None,
        }
    }
}

/// Proposals that consensus did not take yet.
#[derive(Default)]
pub(crate) struct Proposals {
    waiting: VecDeque<(u64, Proposal)>,
    now_ticks: u64,
}

impl Proposals {
    pub(crate) fn tick(&mut self) {
        self.now_ticks += 1;
        while self.waiting.front().is_some_and(|(since, _)| self.now_ticks - since > MAX_AGE_TICKS) {
            self.waiting.pop_front();
        }
    }

    pub(crate) fn push(&mut self, payloads: Vec<Bytes>) {
        for payload in payloads {
            self.enqueue(Proposal::Normal(payload));
        }
    }

    pub(crate) fn push_conf_change(&mut self, change: Bytes) {
        self.enqueue(Proposal::ConfChange(change));
    }

    fn enqueue(&mut self, proposal: Proposal) {
        self.waiting.push_back((self.now_ticks, proposal));
    }

    /// Forgets what waits beyond the bound.
    pub(crate) fn bound(&mut self) {
        self.waiting.truncate(MAX_WAITING);
    }

    /// Hands everything to consensus, or leaves it waiting where there is no leader. Payloads that
    /// wait together go in together.
    pub(crate) fn submit(&mut self, consensus: &mut Consensus) {
        while let Some((_, first)) = self.waiting.front() {
            let (count, result) = match first {
                Proposal::ConfChange(change) => (1, consensus.propose_conf_change(change.clone())),
                Proposal::Normal(_) => {
                    let payloads: Vec<Bytes> =
                        self.waiting.iter().map_while(|(_, proposal)| proposal.payload()).cloned().collect();
                    (payloads.len(), consensus.propose_batch(payloads))
                }
            };
            if result == Err(ProposeError::NoLeader) {
                return;
            }
            // Dropped by a hand-over or a removal: as if the message to a leader had been lost.
            self.waiting.drain(..count);
        }
    }
}
