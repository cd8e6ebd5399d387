//! Checks on messages before the crate `raft` sees them: it trusts its peers and would abort on
//! most of what is refused here.

use raft::eraftpb::{EntryType, Message, MessageType};

/// A message that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// The type is none that travels.
    #[error("raft: message type {number} is not one that peers send")]
    UnknownType {
        /// Its number.
        number: i32,
    },
    /// The type is one that a member sends only to itself.
    #[error("raft: cannot step raft local message")]
    Local,
    /// The entry type is none.
    #[error("raft: unknown entry type {number}")]
    UnknownEntryType {
        /// Its number.
        number: i32,
    },
    /// Something in the message contradicts itself.
    #[error("raft: malformed message of type {kind} from {from:x}: {reason}")]
    Malformed {
        /// Number of the message type.
        kind: i32,
        /// The sender.
        from: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// An answer from somebody who is no member.
    #[error("raft: cannot step as peer not found")]
    UnknownPeer,
    /// A change in joint-consensus form: no etcd sends one, and we cannot apply it.
    #[error("raft: entry {index} from {from:x} is a joint configuration change, which is not supported")]
    JointChange {
        /// The sender.
        from: u64,
        /// The entry.
        index: u64,
    },
    /// The leader knows this member to have entries that it has not: its log was truncated, lost
    /// or replaced. The member must not go on.
    #[error(
        "raft: commit index {commit} from {from:x} lies behind the last entry {last}: \
         was the log of this member corrupted, truncated or lost?"
    )]
    LostEntries {
        /// The sender.
        from: u64,
        /// The commit index it is sure this member has.
        commit: u64,
        /// The last entry here.
        last: u64,
    },
    /// The message was a proposal and cannot be taken now.
    #[error("raft: proposal dropped")]
    ProposalDropped,
    /// Refused by the crate.
    #[error("raft: {0}")]
    Other(String),
}

/// Terms and indexes beyond this are not reached by counting; arithmetic on them would overflow.
const MAX_NUMBER: u64 = u64::MAX >> 1;

/// What a message is held against.
#[derive(Clone, Copy)]
pub(crate) struct Receiver {
    /// Current term.
    pub(crate) term: u64,
    /// Last index.
    pub(crate) last: u64,
    /// Whether it leads. A leader that lost entries in a crash, having sent them before its sync,
    /// is none any more when the answers come.
    pub(crate) leads: bool,
}

/// Refuses what would make the crate abort or go wrong.
pub(crate) fn check(message: &Message, receiver: Receiver) -> Result<(), StepError> {
    let Receiver { term, last, leads } = receiver;
    use MessageType as Kind;
    let refuse = |reason| {
        let kind = message.msg_type as i32;
        Err(StepError::Malformed { kind, from: message.from, reason })
    };
    let forwarded = matches!(message.msg_type, Kind::MsgPropose | Kind::MsgReadIndex);
    let numbers = [message.term, message.log_term, message.index, message.commit, message.reject_hint];
    if numbers.into_iter().any(|number| number > MAX_NUMBER) {
        return refuse("number out of range");
    }
    if message.term == 0 && !forwarded {
        return refuse("no term");
    }
    if message.from == 0 {
        return refuse("no sender");
    }
    if let Some(entry) = message.entries.iter().find(|entry| entry.entry_type == EntryType::EntryConfChangeV2)
    {
        return Err(StepError::JointChange { from: message.from, index: entry.index });
    }
    match message.msg_type {
        Kind::MsgHup | Kind::MsgBeat | Kind::MsgUnreachable | Kind::MsgSnapStatus | Kind::MsgCheckQuorum => {
            return Err(StepError::Local);
        }
        Kind::MsgPropose if message.entries.is_empty() => return refuse("no entries"),
        Kind::MsgReadIndex | Kind::MsgReadIndexResp
            if message.entries.len() != 1 || message.entries[0].data.is_empty() =>
        {
            return refuse("not exactly one context");
        }
        Kind::MsgAppend => {
            if message.index > 0 && message.log_term == 0 {
                return refuse("no term of the entry before");
            }
            let (mut index, mut entry_term) = (message.index, message.log_term);
            for entry in message.entries.iter() {
                if entry.index != index + 1 {
                    return refuse("entries with a hole");
                }
                if entry.term < entry_term || entry.term == 0 || entry.term > message.term {
                    return refuse("terms of entries out of order");
                }
                (index, entry_term) = (entry.index, entry.term);
            }
        }
        Kind::MsgAppendResponse => {
            if message.reject && message.reject_hint > message.index {
                return refuse("hint behind the rejected index");
            }
            if !message.reject && leads && message.term == term && message.index > last {
                return refuse("acknowledges what was never sent");
            }
        }
        Kind::MsgHeartbeat if message.term >= term && message.commit > last => {
            return Err(StepError::LostEntries { from: message.from, commit: message.commit, last });
        }
        Kind::MsgSnapshot => {
            let metadata = message.get_snapshot().get_metadata();
            let conf_state = metadata.get_conf_state();
            if metadata.index == 0 || metadata.term == 0 || metadata.index.max(metadata.term) > MAX_NUMBER {
                return refuse("a snapshot of nothing");
            }
            let joint = !conf_state.voters_outgoing.is_empty() || !conf_state.learners_next.is_empty();
            if joint || conf_state.auto_leave {
                return refuse("a joint configuration");
            }
            let mut ids: Vec<_> = conf_state.voters.iter().chain(&conf_state.learners).collect();
            ids.sort_unstable();
            let distinct = ids.windows(2).all(|pair| pair[0] != pair[1]);
            if conf_state.voters.is_empty() || !distinct || ids.first() == Some(&&0) {
                return refuse("an impossible configuration");
            }
        }
        _ => {}
    }
    Ok(())
}
