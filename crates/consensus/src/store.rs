//! The log in memory, as the crate `raft` wants to see it.
//!
//! Holds every entry behind `compacted`; persisting them is the caller's. Entries are converted to
//! the crate's form when it asks, payloads shared.

use std::collections::VecDeque;

use raft::eraftpb;
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use types::LogPosition;
use types::raft::{ConfState, Entry, HardState, Snapshot};

use crate::convert::{conf_state_to_crate, entry_to_crate, hard_state_to_crate, snapshot_to_crate};

/// What an entry costs in a message beyond its payload, about.
const ENTRY_OVERHEAD: u64 = 12;

#[derive(Debug)]
pub(crate) struct Store {
    /// The last entry that is not held any more.
    compacted: LogPosition,
    /// `entries[i]` has index `compacted.index + 1 + i`.
    entries: VecDeque<Entry>,
    /// Only read at the start.
    hard_state: HardState,
    /// The configuration at `applied`.
    pub(crate) conf_state: ConfState,
    /// Where a snapshot would be taken now; `compacted <= applied`.
    applied: LogPosition,
}

impl Store {
    pub(crate) fn new(
        compacted: LogPosition,
        entries: Vec<Entry>,
        hard_state: HardState,
        conf_state: ConfState,
    ) -> Self {
        Self { compacted, entries: entries.into(), hard_state, conf_state, applied: compacted }
    }

    pub(crate) fn first_index(&self) -> u64 {
        self.compacted.index + 1
    }

    pub(crate) fn last_index(&self) -> u64 {
        self.compacted.index + self.entries.len() as u64
    }

    pub(crate) fn get(&self, index: u64) -> Option<&Entry> {
        let place = index.checked_sub(self.first_index())?;
        self.entries.get(usize::try_from(place).ok()?)
    }

    pub(crate) fn term(&self, index: u64) -> Option<u64> {
        if index == self.compacted.index {
            return Some(self.compacted.term);
        }
        self.get(index).map(|entry| entry.term)
    }

    /// Appends entries, cutting off what they overwrite.
    pub(crate) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(
            self.first_index() <= first.index && first.index <= self.last_index() + 1,
            "entry {} does not follow a log of {}..={}",
            first.index,
            self.first_index(),
            self.last_index()
        );
        self.entries.truncate((first.index - self.first_index()) as usize);
        self.entries.extend(entries.iter().cloned());
    }

    /// A snapshot takes the place of the log.
    pub(crate) fn restore(&mut self, snapshot: &Snapshot) {
        self.entries.clear();
        self.compacted = snapshot.position;
        self.applied = snapshot.position;
        self.conf_state = snapshot.conf_state.clone();
    }

    /// Drops the entries up to `index`, at most the applied ones.
    pub(crate) fn compact(&mut self, index: u64) {
        let index = index.min(self.applied.index);
        let Some(term) = self.term(index) else { return };
        if index > self.compacted.index {
            self.entries.drain(..(index - self.compacted.index) as usize);
            self.compacted = LogPosition { index, term };
            // A burst leaves a large ring behind; give it back when it is mostly empty.
            if self.entries.capacity() > 4096 && self.entries.len() < self.entries.capacity() / 4 {
                self.entries.shrink_to(self.entries.len() * 2);
            }
        }
    }

    pub(crate) fn set_applied(&mut self, index: u64) {
        if let Some(term) = self.term(index) {
            self.applied = LogPosition { index, term };
        }
    }
}

impl Storage for Store {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState {
            hard_state: hard_state_to_crate(&self.hard_state),
            conf_state: conf_state_to_crate(&self.conf_state),
        })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<eraftpb::Entry>> {
        if low < self.first_index() {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last_index() + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let range = (low - self.first_index()) as usize..(high - self.first_index()) as usize;
        let limit = max_size.into().unwrap_or(u64::MAX);
        if limit == u64::MAX {
            return Ok(self.entries.range(range).cloned().map(entry_to_crate).collect());
        }
        let mut size = 0u64;
        let mut found = Vec::new();
        for entry in self.entries.range(range) {
            size += entry.data.len() as u64 + ENTRY_OVERHEAD;
            if size > limit && !found.is_empty() {
                break;
            }
            found.push(entry_to_crate(entry.clone()));
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        let missing =
            if index < self.compacted.index { StorageError::Compacted } else { StorageError::Unavailable };
        Store::term(self, index).ok_or_else(|| missing.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(Store::first_index(self))
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(Store::last_index(self))
    }

    /// The applied state. Whoever sends it takes the content at the moment of sending, which may
    /// be newer.
    fn snapshot(&self, request_index: u64, _: u64) -> raft::Result<eraftpb::Snapshot> {
        if self.applied.index == 0 || self.applied.index < request_index {
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        let conf_state = self.conf_state.clone();
        Ok(snapshot_to_crate(&Snapshot { position: self.applied, conf_state, data: Default::default() }))
    }
}
