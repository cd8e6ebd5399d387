//! The open log: append, sync, cut, release.
//!
//! Order of steps, and what a crash in between leaves
//! - *Append*: one write of all frames; durable after [`Wal::sync`]. A crash before loses or tears
//!   the write, which the next open cuts off.
//! - *Cut*, when a write ended at or behind the segment size: trim the segment to its records and
//!   sync it; write crc, metadata and state records to the spare and sync it; rename it to its
//!   name; sync the directory. Until the rename is durable the old segment is the last one and
//!   complete.
//! - *Creation* happens in `<dir>.tmp`, which is renamed: a log directory always has a first
//!   segment with its three head records.
//!
//! Owned by one thread. A failed write or sync poisons the log: what is on disk is not known.
//!
//! **Source**: etcd `server/storage/wal/wal.go`.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use env::{Disk, File, LockKind, OpenMode};
use types::LogPosition;
use types::raft::{Entry, HardState};

use crate::blocks::{BlockWriter, block_end, write_zeros};
use crate::error::{Context, Error};
use crate::format::{Encoder, WalSnapshot};
use crate::repair;
use crate::replay::{Replay, Replayed};
use crate::segment::{SegmentName, exists, path_of, select};
use crate::spare::{Preparer, Space};

/// Size at which a segment is closed: 64 · 1000 · 1000 bytes, as upstream has it.
pub const SEGMENT_BYTES: u64 = 64_000_000;
/// Memory that the encoder keeps between appends.
const KEPT_BUFFER: usize = 4 << 20;

/// How to open a log.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Size at which a segment is closed; smaller in tests.
    pub segment_bytes: u64,
    /// Skip all syncs of records (`--unsafe-no-fsync`).
    pub no_sync: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: SEGMENT_BYTES, no_sync: false }
    }
}

/// What to append in one go.
#[derive(Clone, Copy, Debug, Default)]
pub struct Batch<'a> {
    /// Entries in order; one with a smaller index than the last overwrites the log from there.
    pub entries: &'a [Entry],
    /// The hard state after them, if it changed.
    pub hard_state: Option<HardState>,
}

/// What an append did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The batch is durable only after [`Wal::sync`] and has to be. A commit index alone need not
    /// be, and after a cut all is durable already.
    pub needs_sync: bool,
    /// Bytes written.
    pub bytes: u64,
    /// The new segment, if the append closed the one before.
    pub cut: Option<PathBuf>,
}

/// The log, open for appending.
pub struct Wal {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: Options,
    metadata: Bytes,
    hard_state: HardState,
    /// Index of the entry written last.
    last_index: u64,
    encoder: Encoder,
    blocks: BlockWriter,
    /// Locked segments, ascending; the last one is written to.
    segments: VecDeque<Segment>,
    /// End of the records in the last segment.
    offset: u64,
    space: Arc<Space>,
    /// `offset <= reserved`; below it the preparer does not write.
    reserved: u64,
    poisoned: bool,
}

struct Segment {
    name: SegmentName,
    path: PathBuf,
    file: Arc<dyn File>,
}

impl Segment {
    /// A writer behind the record that ends at `offset`. From now on the segment is only written.
    fn blocks(&self, offset: u64) -> Result<BlockWriter, Error> {
        let blocks = BlockWriter::new(&*self.file, offset).context("read", &self.path)?;
        self.file.avoid_cache();
        Ok(blocks)
    }

    /// Writes the zeros that the preparer does not: those that the first appends meet.
    fn zero_ahead(&self, offset: u64, reserved: u64) -> Result<(), Error> {
        write_zeros(&*self.file, offset, reserved).context("write", &self.path)?;
        self.file.sync_data().context("sync", &self.path)
    }
}

impl Wal {
    /// Creates a log in `dir`, whose parent must exist.
    pub fn create(disk: Arc<dyn Disk>, dir: &Path, metadata: &[u8], options: Options) -> Result<Wal, Error> {
        if exists(&*disk, dir)? {
            return Err(Error::Exists { dir: dir.to_owned() });
        }
        let mut building = dir.as_os_str().to_owned();
        building.push(".tmp");
        let building = PathBuf::from(building);
        if disk.exists(&building).context("look up", &building)? {
            disk.remove_dir_all(&building).context("remove", &building)?;
        }
        disk.create_dir_all(&building, 0o700).context("create", &building)?;
        let name = SegmentName { sequence: 0, first_index: 0 };
        let path = path_of(&building, name);
        let file = disk.open(&path, OpenMode::CreateNew(0o600)).context("create", &path)?;
        lock(&*file, &path)?;
        file.allocate(options.segment_bytes).context("preallocate", &path)?;
        let mut encoder = Encoder::new(0);
        encoder.crc_record();
        encoder.metadata(metadata);
        encoder.snapshot(&WalSnapshot::default());
        file.write_at(encoder.bytes(), 0).context("write", &path)?;
        file.sync_all().context("sync", &path)?;
        disk.sync_dir(&building).context("sync", &building)?;
        if disk.exists(dir).context("look up", dir)? {
            disk.remove_dir_all(dir).context("remove", dir)?;
        }
        disk.rename(&building, dir).context("rename", &building)?;
        let parent = disk.parent_of(dir);
        disk.sync_dir(&parent).context("sync", &parent)?;

        let segment = Segment { name, path: path_of(dir, name), file };
        let metadata = Bytes::copy_from_slice(metadata);
        Self::assemble(disk, dir, options, metadata, encoder, segment)
    }

    fn assemble(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
        metadata: Bytes,
        mut encoder: Encoder,
        segment: Segment,
    ) -> Result<Wal, Error> {
        let offset = encoder.bytes().len() as u64;
        encoder.clear(KEPT_BUFFER);
        let space = Space::new(disk.clone(), dir.to_owned(), options.segment_bytes);
        let blocks = segment.blocks(offset)?;
        let reserved = space.set_tail(segment.path.clone(), offset, None);
        segment.zero_ahead(offset, reserved.min(options.segment_bytes))?;
        Ok(Wal {
            disk,
            dir: dir.to_owned(),
            options,
            metadata,
            hard_state: HardState::default(),
            last_index: 0,
            encoder,
            blocks,
            segments: VecDeque::from([segment]),
            offset,
            space,
            reserved,
            poisoned: false,
        })
    }

    /// Opens the log for appending, reading what it holds behind `from`.
    ///
    /// Locks every segment from `from` on. A torn write at the end of the last one is cut off
    /// after a copy was made (`<segment>.broken`). Nothing is changed if the log cannot be opened.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        from: LogPosition,
        options: Options,
    ) -> Result<(Wal, Replayed), Error> {
        let names = select(&*disk, dir, from.index)?;
        let mut replay = Replay::new(from, &names);
        let mut segments = VecDeque::with_capacity(names.len());
        for name in &names {
            let path = path_of(dir, *name);
            let file = disk.open(&path, OpenMode::ReadWrite).context("open", &path)?;
            lock(&*file, &path)?;
            segments.push_back(Segment { name: *name, path, file });
        }
        for (position, segment) in segments.iter().enumerate() {
            replay.segment(&*segment.file, &segment.path, position + 1 == segments.len())?;
        }
        replay.check_snapshot()?;
        let Some(tail) = segments.back() else {
            return Err(Error::NoSegments { dir: dir.to_owned() });
        };
        if replay.result.torn {
            replay.result.repaired = Some(repair::keep_copy(&*disk, &*tail.file, &tail.path)?);
        }
        repair::clear_behind(&*tail.file, &tail.path, replay.offset, options.segment_bytes)?;
        let blocks = tail.blocks(replay.offset)?;

        let space = Space::new(disk.clone(), dir.to_owned(), options.segment_bytes);
        let reserved = space.set_tail(tail.path.clone(), replay.offset, None);
        tail.zero_ahead(replay.offset, reserved.min(options.segment_bytes))?;
        let mut wal = Wal {
            disk,
            dir: dir.to_owned(),
            options,
            metadata: replay.result.metadata.clone(),
            hard_state: replay.result.hard_state,
            last_index: replay.last_index,
            encoder: Encoder::new(replay.crc),
            blocks,
            segments,
            offset: replay.offset,
            space,
            reserved,
            poisoned: false,
        };
        if wal.offset == 0 {
            // The last segment has no whole head: write it, so that the log can be entered there.
            wal.encode_head();
            wal.write()?;
            wal.sync()?;
        }
        Ok((wal, replay.result))
    }

    /// Appends a batch with a single write. Durable after [`Wal::sync`], see [`Appended`]. What need
    /// not be durable, a commit index alone, waits in memory for the next batch that must be.
    pub fn append(&mut self, batch: &Batch<'_>) -> Result<Appended, Error> {
        self.check()?;
        let hard_state = batch.hard_state.filter(|state| !state.is_empty());
        let vote = |state: &HardState| (state.term, state.vote);
        let voted = hard_state.is_some_and(|state| vote(&state) != vote(&self.hard_state));
        let needs_sync = voted || !batch.entries.is_empty();
        for entry in batch.entries {
            self.encoder.entry(entry);
            self.last_index = entry.index;
        }
        if let Some(state) = hard_state {
            self.encoder.state(&state);
            self.hard_state = state;
        }
        if !needs_sync {
            return Ok(Appended { needs_sync: false, bytes: 0, cut: None });
        }
        let bytes = self.write()?;
        let cut =
            if bytes > 0 && self.offset >= self.options.segment_bytes { Some(self.cut()?) } else { None };
        Ok(Appended { needs_sync: cut.is_none(), bytes, cut })
    }

    /// Makes all appended records durable.
    pub fn sync(&mut self) -> Result<(), Error> {
        self.check()?;
        self.write()?;
        if self.options.no_sync {
            return Ok(());
        }
        let tail = self.tail_segment();
        let result = tail.file.sync_data().context("sync", &tail.path);
        self.guard(result)
    }

    /// Writes and syncs a snapshot record. From its index on the log can be entered there.
    pub fn save_snapshot(&mut self, snapshot: &WalSnapshot) -> Result<(), Error> {
        self.check()?;
        let index = snapshot.position.index;
        if index > 0 && snapshot.conf_state.is_none() {
            return Err(Error::MissingConfState { index });
        }
        self.encoder.snapshot(snapshot);
        self.last_index = self.last_index.max(index);
        self.write()?;
        self.sync()
    }

    /// Lets go of the segments that only a snapshot older than `index` needs, so that they may be
    /// purged: all but the last one that starts below `index`, and those behind.
    pub fn release_to(&mut self, index: u64) {
        let first_above = self.segments.iter().position(|segment| segment.name.first_index >= index);
        let kept_from = first_above.unwrap_or(self.segments.len()).saturating_sub(1);
        self.segments.drain(..kept_from);
    }

    /// A worker that prepares disk space for this log on another thread.
    pub fn preparer(&self) -> Preparer {
        Preparer::new(self.space.clone())
    }

    /// Syncs and closes the log; removes the spare.
    pub fn close(mut self) -> Result<(), Error> {
        self.sync()?;
        self.space.close()
    }

    /// Metadata bytes, as found in or written to the first record.
    pub fn metadata(&self) -> &Bytes {
        &self.metadata
    }

    /// Index of the entry written last, or of a snapshot record above it.
    pub fn last_index(&self) -> u64 {
        self.last_index
    }

    /// The hard state written last.
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// The segment that is written to, and how far.
    pub fn position(&self) -> (SegmentName, u64) {
        (self.tail_segment().name, self.offset)
    }

    /// Whether an earlier failure made the log unusable.
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    fn check(&self) -> Result<(), Error> {
        if self.poisoned { Err(Error::Poisoned { dir: self.dir.clone() }) } else { Ok(()) }
    }

    /// Poisons the log if `result` is an error.
    fn guard<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        self.poisoned |= result.is_err();
        result
    }

    fn tail_segment(&self) -> &Segment {
        self.segments.back().expect("the open segment is never released")
    }

    /// Writes what was encoded behind the last record.
    fn write(&mut self) -> Result<u64, Error> {
        let bytes = self.encoder.bytes().len() as u64;
        if bytes == 0 {
            return Ok(0);
        }
        let end = block_end(self.offset + bytes);
        if end > self.reserved {
            self.reserved = self.space.reserve(end);
        }
        let tail = self.segments.back().expect("the open segment is never released");
        let written = self.blocks.append(&*tail.file, self.encoder.bytes(), self.offset);
        let result = written.context("write", &tail.path);
        self.guard(result)?;
        self.offset += bytes;
        self.encoder.clear(KEPT_BUFFER);
        Ok(bytes)
    }

    fn encode_head(&mut self) {
        self.encoder.crc_record();
        self.encoder.metadata(&self.metadata);
        if !self.hard_state.is_empty() {
            self.encoder.state(&self.hard_state);
        }
    }

    /// Closes the open segment and goes on in a new one. All appended records are durable after it.
    fn cut(&mut self) -> Result<PathBuf, Error> {
        let result = self.try_cut();
        self.guard(result)
    }

    fn try_cut(&mut self) -> Result<PathBuf, Error> {
        self.space.end_tail();
        let tail = self.tail_segment();
        tail.file.set_len(self.offset).context("trim", &tail.path)?;
        self.sync()?;

        let spare = self.space.take_spare()?;
        self.encode_head();
        spare.file.avoid_cache();
        self.blocks.append(&*spare.file, self.encoder.bytes(), 0).context("write", &spare.path)?;
        let head_len = self.encoder.bytes().len() as u64;
        self.encoder.clear(KEPT_BUFFER);
        if !self.options.no_sync {
            spare.file.sync_data().context("sync", &spare.path)?;
        }
        let name =
            SegmentName { sequence: self.tail_segment().name.sequence + 1, first_index: self.last_index + 1 };
        let path = path_of(&self.dir, name);
        self.disk.rename(&spare.path, &path).context("rename", &spare.path)?;
        self.disk.sync_dir(&self.dir).context("sync", &self.dir)?;

        self.segments.push_back(Segment { name, path: path.clone(), file: spare.file.clone() });
        self.offset = head_len;
        self.reserved = self.space.set_tail(path.clone(), head_len, Some(spare));
        Ok(path)
    }
}

fn lock(file: &dyn File, path: &Path) -> Result<(), Error> {
    match file.try_lock(LockKind::OfdExclusive).context("lock", path)? {
        true => Ok(()),
        false => Err(Error::Locked { path: path.to_owned() }),
    }
}
