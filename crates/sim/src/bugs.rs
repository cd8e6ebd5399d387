//! Bugs that can be planted, to see that the checks find them.
//!
//! Each is consulted by the driver of a node, in the place where a real driver could have it.

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    /// The log reports entries as durable when they are written and not yet synced.
    AckBeforeSync,
    /// The vote is left out of the hard state on disk.
    ForgetVote,
    /// After a crash the consistent index is older than the data: entries are applied twice.
    ApplyTwiceAfterCrash,
    /// The consistent index is committed before the data it stands for.
    IndexBeforeData,
    /// A linearizable read is answered without asking the leader.
    ReadWithoutReadIndex,
    /// A linearizable read is answered at the read index without waiting for apply.
    ReadBeforeApply,
    /// A watch that resumes at the compaction point starts one revision too late.
    WatchGapAtCompaction,
    /// Leases are taken for over one and a half seconds too soon.
    LeaseExpiresEarly,
    /// A received snapshot replaces the keys and not the leases.
    ForgetLeasesOnInstall,
    /// Nothing is ever synced.
    NoSync,
    /// The last record of each write to the log waits for the next write.
    LoseLastLogRecord,
    /// Two neighbouring entries are applied in the wrong order.
    ReorderApply,
    /// A received snapshot is installed without its log record.
    SnapshotWithoutLogRecord,
    /// A snapshot says that it holds more than it does.
    SnapshotIndexAhead,
    /// A proposal is put into the log twice.
    ProposeTwice,
    /// A leader counts entries as acknowledged by a peer that has not answered.
    CommitByMinority,
    /// A follower does not carry out configuration changes.
    ForgetConfChange,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::AckBeforeSync,
        Self::ForgetVote,
        Self::ApplyTwiceAfterCrash,
        Self::IndexBeforeData,
        Self::ReadWithoutReadIndex,
        Self::ReadBeforeApply,
        Self::WatchGapAtCompaction,
        Self::LeaseExpiresEarly,
        Self::ForgetLeasesOnInstall,
        Self::NoSync,
        Self::LoseLastLogRecord,
        Self::ReorderApply,
        Self::SnapshotWithoutLogRecord,
        Self::SnapshotIndexAhead,
        Self::ProposeTwice,
        Self::CommitByMinority,
        Self::ForgetConfChange,
    ];

    /// The name on the command line.
    pub fn name(self) -> String {
        let mut name = String::new();
        for letter in format!("{self:?}").chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.extend(letter.to_lowercase());
        }
        name
    }

    /// The bug of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bug| bug.name() == name)
    }
}
