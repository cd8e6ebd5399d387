//! Reads a log directory: entries, hard state, metadata and snapshot records.
//!
//! - Entries behind the wanted snapshot are collected by index; a later entry of a smaller index
//!   cuts what was behind it (a new leader overwrote it). The last hard state counts.
//! - The wanted snapshot must have its record, of the same term.
//! - The last segment may end in a torn write; every other damage is an error.
//!
//! **Source**: etcd `server/storage/wal/wal.go` (`ReadAll`, `ValidSnapshotEntries`).

use std::path::{Path, PathBuf};

use bytes::Bytes;
use env::{Disk, File, OpenMode};
use types::LogPosition;
use types::raft::{Entry, HardState};

use crate::error::{Context, Damage, Error};
use crate::format::{Record, entry_index};
use crate::format::{
    RecordKind, Scan, ScanError, WalSnapshot, decode_entry, decode_hard_state, decode_wal_snapshot,
};
use crate::segment::{SegmentName, check_sequence, path_of, segments, select};

/// What a log holds behind a snapshot.
#[derive(Clone, Debug, Default)]
pub struct Replayed {
    /// Metadata bytes, verbatim.
    pub metadata: Bytes,
    /// The last hard state; empty if there is none.
    pub hard_state: HardState,
    /// The entries behind the snapshot, without holes; those above `hard_state.commit` may still
    /// be overwritten.
    pub entries: Vec<Entry>,
    /// All snapshot records of the segments read, in file order.
    pub snapshots: Vec<WalSnapshot>,
    /// The copy of the last segment made before a torn write was cut off.
    pub repaired: Option<PathBuf>,
    /// The last segment ends in a torn write (which a read-only replay leaves there).
    pub torn: bool,
}

/// State of a replay, beyond what the caller gets.
pub(crate) struct Replay {
    pub(crate) result: Replayed,
    from: LogPosition,
    found_snapshot: bool,
    has_metadata: bool,
    /// Index of the entry record read last, or of a snapshot record above it: the next segment's
    /// name follows from it.
    pub(crate) last_index: u64,
    pub(crate) crc: u32,
    /// End of the good records in the last segment read.
    pub(crate) offset: u64,
}

/// Reads the log behind `from` without locks and without changing anything.
pub fn read(disk: &dyn Disk, dir: &Path, from: LogPosition) -> Result<Replayed, Error> {
    let names = select(disk, dir, from.index)?;
    let mut replay = Replay::new(from, &names);
    for (position, name) in names.iter().enumerate() {
        let path = path_of(dir, *name);
        let file = disk.open(&path, OpenMode::Read).context("open", &path)?;
        replay.segment(&*file, &path, position + 1 == names.len())?;
    }
    replay.check_snapshot()?;
    Ok(replay.result)
}

impl Replay {
    pub(crate) fn new(from: LogPosition, names: &[SegmentName]) -> Self {
        Self {
            result: Replayed::default(),
            from,
            found_snapshot: false,
            has_metadata: false,
            last_index: names.first().map_or(0, |name| name.first_index.saturating_sub(1)),
            crc: 0,
            offset: 0,
        }
    }

    /// Reads one segment. Torn writes are noted in the last one and errors elsewhere.
    pub(crate) fn segment(&mut self, file: &dyn File, path: &Path, last: bool) -> Result<(), Error> {
        let mut scan = Scan::new(file, self.crc).context("read", path)?;
        loop {
            let offset = scan.offset();
            let damaged = |source| Error::Damaged { path: path.to_owned(), offset, source };
            match scan.next_record() {
                Ok(Some(record)) => self.record(record).map_err(damaged)?,
                Ok(None) => {
                    self.result.torn = last && scan.has_residue().context("read", path)?;
                    break;
                }
                Err(ScanError::Torn) if last => {
                    self.result.torn = true;
                    break;
                }
                Err(ScanError::Read(error)) => return Err(error).context("read", path),
                Err(error) => return Err(damaged(error.into())),
            }
        }
        // A head that is not whole is written anew.
        let offset = if scan.count() < 2 { 0 } else { scan.offset() };
        (self.crc, self.offset) = (scan.crc(), offset);
        Ok(())
    }

    #[inline]
    fn record(&mut self, record: Record<'_>) -> Result<(), Damage> {
        match record.kind {
            RecordKind::Entry => self.entry(record.data)?,
            RecordKind::State => self.result.hard_state = decode_hard_state(record.data)?,
            RecordKind::Metadata => {
                if self.has_metadata && self.result.metadata != record.data {
                    return Err(Damage::Metadata);
                }
                if !self.has_metadata {
                    self.result.metadata = Bytes::copy_from_slice(record.data);
                    self.has_metadata = true;
                }
            }
            RecordKind::Snapshot => self.snapshot(decode_wal_snapshot(record.data)?),
            RecordKind::Crc => {}
        }
        Ok(())
    }

    fn entry(&mut self, data: &[u8]) -> Result<(), Damage> {
        let index = entry_index(data)?;
        self.last_index = index;
        let entries = &mut self.result.entries;
        if index <= self.from.index {
            // It cut off what was behind it. Upstream forgets that, and brings back entries of an
            // older term behind a snapshot.
            entries.clear();
            return Ok(());
        }
        let place = index - self.from.index - 1;
        if place > entries.len() as u64 {
            return Err(Damage::Hole { index, last: self.from.index + entries.len() as u64 });
        }
        entries.truncate(place as usize);
        entries.push(decode_entry(data)?);
        Ok(())
    }

    fn snapshot(&mut self, snapshot: WalSnapshot) {
        self.last_index = self.last_index.max(snapshot.position.index);
        if snapshot.position == self.from {
            self.found_snapshot = true;
        }
        self.result.snapshots.push(snapshot);
    }

    /// The wanted snapshot must be there, in its term.
    pub(crate) fn check_snapshot(&self) -> Result<(), Error> {
        let wanted = self.from;
        let other = |snapshot: &&WalSnapshot| {
            snapshot.position.index == wanted.index && snapshot.position.term != wanted.term
        };
        match self.result.snapshots.iter().find(other) {
            Some(found) => Err(Error::SnapshotMismatch { wanted, found: found.position.term }),
            None if !self.found_snapshot => Err(Error::SnapshotNotFound { wanted }),
            None => Ok(()),
        }
    }
}

/// All snapshot records that may be used, in file order: those at or below the commit index of
/// the last hard state.
pub fn valid_snapshots(disk: &dyn Disk, dir: &Path) -> Result<Vec<WalSnapshot>, Error> {
    let names = segments(disk, dir)?;
    if names.is_empty() {
        return Err(Error::NoSegments { dir: dir.to_owned() });
    }
    let (mut marks, mut crc) = (Marks::default(), 0);
    for (position, name) in names.iter().enumerate() {
        crc = marks.read(disk, dir, *name, crc, position + 1 == names.len())?;
    }
    let commit = marks.commit.unwrap_or(0);
    marks.snapshots.retain(|snapshot| snapshot.position.index <= commit);
    Ok(marks.snapshots)
}

/// The newest usable snapshot record that `accept` agrees to: the one of the highest index, which is
/// not always the last. A member's own snapshot may have been on its way while it received one.
///
/// Reads from the last segment backwards, and no more segments than a replay behind that record does.
/// A start uses this in place of [`valid_snapshots`] over a long log.
pub fn newest_valid_snapshot(
    disk: &dyn Disk,
    dir: &Path,
    mut accept: impl FnMut(&WalSnapshot) -> bool,
) -> Result<Option<WalSnapshot>, Error> {
    let names = segments(disk, dir)?;
    if names.is_empty() {
        return Err(Error::NoSegments { dir: dir.to_owned() });
    }
    let (mut commit, mut waiting, mut newest) = (None, Vec::new(), None::<WalSnapshot>);
    for (position, name) in names.iter().enumerate().rev() {
        check_sequence(dir, &names[position..names.len().min(position + 2)])?;
        let mut marks = Marks::default();
        marks.read(disk, dir, *name, 0, position + 1 == names.len())?;
        commit = commit.or(marks.commit);
        // Newest first. A segment always opens with the hard state, if there is one at all.
        waiting.extend(marks.snapshots.into_iter().rev());
        let Some(commit) = commit.or((position == 0).then_some(0)) else { continue };
        for snapshot in waiting.drain(..) {
            let is_newer =
                newest.as_ref().is_none_or(|newest| snapshot.position.index > newest.position.index);
            if snapshot.position.index <= commit && is_newer && accept(&snapshot) {
                newest = Some(snapshot);
            }
        }
        // A replay from there would begin in this segment.
        if newest.as_ref().is_some_and(|newest| newest.position.index + 1 >= name.first_index) {
            break;
        }
    }
    Ok(newest)
}

#[derive(Default)]
struct Marks {
    snapshots: Vec<WalSnapshot>,
    commit: Option<u64>,
}

impl Marks {
    /// Collects the marks of a segment; gives the checksum chain at its end.
    fn read(
        &mut self,
        disk: &dyn Disk,
        dir: &Path,
        name: SegmentName,
        crc: u32,
        last: bool,
    ) -> Result<u32, Error> {
        let path = path_of(dir, name);
        let file = disk.open(&path, OpenMode::Read).context("open", &path)?;
        let mut scan = Scan::new(&*file, crc).context("read", &path)?;
        loop {
            let offset = scan.offset();
            let damaged = |source| Error::Damaged { path: path.clone(), offset, source };
            match scan.next_record() {
                Ok(Some(Record { kind: RecordKind::Snapshot, data, .. })) => {
                    self.snapshots.push(decode_wal_snapshot(data).map_err(|error| damaged(error.into()))?);
                }
                Ok(Some(Record { kind: RecordKind::State, data, .. })) => {
                    let state = decode_hard_state(data).map_err(|error| damaged(error.into()))?;
                    self.commit = Some(state.commit);
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(ScanError::Torn) if last => break,
                Err(ScanError::Read(error)) => return Err(error).context("read", &path),
                Err(error) => return Err(damaged(error.into())),
            }
        }
        Ok(scan.crc())
    }
}
