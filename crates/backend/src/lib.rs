//! etcd's buckets over `bolt`: batching, read views, the consistent index.
//!
//! Writers hand over [`WriteSet`]s, which wait in memory; a commit puts all that waits into the
//! file in one transaction. Nobody but the caller of [`Backend::commit`] waits for the disk. There
//! are no threads here: the driver calls `commit` each 100 ms, or earlier when
//! [`Backend::pending`] passes the batch limit.
//!
//! Invariants:
//! - a set reaches the file whole, in the same transaction as the log position it was applied at:
//!   after a crash the file holds exactly the effects of the entries up to its consistent index;
//! - the consistent index never moves back;
//! - a view holds all that was appended before it was taken (see [`View`]).
//!
//! Locks, in this order: `db` (held for the length of a commit, defragmentation or replacement),
//! then `state` (a few instructions), then a segment.
//!
//! **Source**: etcd `server/storage/backend`, `server/storage/schema`, `server/etcdserver/cindex`.

mod bucket;
mod defrag;
mod error;
pub mod schema;
mod segment;
mod view;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use env::{Clock, Disk};
use parking_lot::{Mutex, MutexGuard};
use types::LogPosition;

pub use bucket::BucketId;
pub use defrag::Defragmented;
pub use error::Error;
pub use segment::{Change, WriteSet};
pub use view::{RecordReader, RecordValue, Records, View};

use segment::Segment;

/// The fill of pages written in ascending key order.
const SEQUENTIAL_FILL: f32 = 0.9;

/// How to open a backend.
#[derive(Clone)]
pub struct Options {
    /// Operations after which the driver should commit without waiting for its interval.
    pub batch_limit: usize,
    /// Address space to map at once, so that the map need not move while the file grows.
    pub initial_map_bytes: u64,
    /// Page size of a new file.
    pub page_size: u32,
    /// Never sync: for tests and `--unsafe-no-fsync`.
    pub no_sync: bool,
    /// Keep the whole file in memory.
    pub lock_memory: bool,
    /// Open for reading only: no bucket is created, commits fail.
    pub read_only: bool,
    /// How long to wait for the lock of the file; `None` waits for ever.
    pub lock_timeout: Option<Duration>,
    /// Called once after ten seconds of waiting for the lock.
    pub on_lock_wait: Option<Arc<dyn Fn() + Send + Sync>>,
    /// Check the whole file after each commit.
    pub verify: bool,
    /// For the times in [`CommitStats`].
    pub clock: Option<Arc<dyn Clock>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            batch_limit: 10_000,
            initial_map_bytes: 10 << 30,
            page_size: 4096,
            no_sync: false,
            lock_memory: false,
            read_only: false,
            lock_timeout: None,
            on_lock_wait: None,
            verify: false,
            clock: None,
        }
    }
}

impl Options {
    fn bolt(&self) -> bolt::Options {
        let on_lock_wait = self.on_lock_wait.clone();
        bolt::Options {
            page_size: self.page_size,
            initial_map_bytes: self.initial_map_bytes,
            read_only: self.read_only,
            no_sync: self.no_sync,
            lock_memory: self.lock_memory,
            lock_timeout: self.lock_timeout,
            verify: self.verify,
            clock: self.clock.clone(),
            on_lock_wait: on_lock_wait.map(|call| Box::new(move || call()) as Box<dyn Fn() + Send>),
            no_freelist_sync: true,
        }
    }
}

/// What a commit did.
#[derive(Clone, Copy, Debug, Default)]
pub struct CommitStats {
    /// Operations written, without consistent index, term and conf state.
    pub operations: usize,
    /// Whether there was anything to write.
    pub committed: bool,
    /// What the last transaction did.
    pub bolt: bolt::CommitStats,
}

/// The store of one member. A cheap handle.
#[derive(Clone)]
pub struct Backend {
    shared: Arc<Shared>,
}

struct Shared {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    options: Options,
    /// Held by the one who commits, defragments or replaces.
    db: Mutex<bolt::Db>,
    state: Mutex<State>,
    view: ArcSwap<View>,
    pending: AtomicUsize,
    /// A failure left it open which file is the database.
    failed: AtomicBool,
}

struct State {
    active: Arc<Segment>,
    /// On its way to the file; stays if that fails.
    sealed: Option<Arc<Segment>>,
    /// `stored <= applied`.
    applied: LogPosition,
    stored: LogPosition,
    /// Handle of the open file, for sizes.
    db: bolt::Db,
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backend").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

impl Backend {
    /// Opens or creates the file at `path` and makes sure that all buckets exist.
    pub fn open(disk: Arc<dyn Disk>, path: &Path, options: Options) -> Result<Self, Error> {
        let db = bolt::Db::open(disk.clone(), path, options.bolt())?;
        if !options.read_only {
            create_buckets(&db)?;
        }
        let active = Arc::new(Segment::default());
        let view = View { base: db.read(), sealed: None, active: active.clone() };
        let stored = schema::stored_position(&view)?;
        let state = State { active, sealed: None, applied: stored, stored, db: db.clone() };
        Ok(Self {
            shared: Arc::new(Shared {
                disk,
                path: path.to_owned(),
                options,
                db: Mutex::new(db),
                state: Mutex::new(state),
                view: ArcSwap::from_pointee(view),
                pending: AtomicUsize::new(0),
                failed: AtomicBool::new(false),
            }),
        })
    }

    /// Takes a set over for the next commit. Does not touch the disk.
    ///
    /// # Panics
    /// If records are not ascending and newer than all before.
    pub fn append(&self, set: WriteSet) {
        let mut state = self.shared.state.lock();
        let applied = set.applied.filter(|applied| applied.index > state.applied.index);
        if let Some(applied) = applied {
            state.applied = applied;
        }
        let operations = state.active.append(set, applied);
        self.shared.pending.store(operations, Ordering::Relaxed);
    }

    /// A view that holds everything appended so far.
    pub fn view(&self) -> Arc<View> {
        self.shared.view.load_full()
    }

    /// Operations that wait for a commit.
    pub fn pending(&self) -> usize {
        self.shared.pending.load(Ordering::Relaxed)
    }

    /// Whether so many operations wait that a commit should not wait for its interval.
    pub fn is_batch_full(&self) -> bool {
        self.pending() >= self.shared.options.batch_limit
    }

    /// Writes all that waits into the file, on the caller's thread. Does nothing if nothing waits.
    ///
    /// After an error all that waited still waits and is still read; whether another try can
    /// succeed depends on `bolt`: after a failed write or sync none does.
    pub fn commit(&self) -> Result<CommitStats, Error> {
        self.commit_locked(&mut self.shared.db.lock())
    }

    fn commit_locked(&self, db: &mut MutexGuard<'_, bolt::Db>) -> Result<CommitStats, Error> {
        if self.shared.failed.load(Ordering::Relaxed) {
            return Err(Error::Failed);
        }
        let mut stats = CommitStats::default();
        loop {
            let (segment, leftover) = self.seal();
            let Some(segment) = segment else { return Ok(stats) };
            let data = segment.read();
            let bolt = write_segment(db, &data)?;
            stats = CommitStats { operations: stats.operations + data.operations, committed: true, bolt };
            let base = db.read();
            let mut state = self.shared.state.lock();
            if let Some(applied) = data.applied {
                assert!(state.stored.index < applied.index, "the consistent index only rises");
                state.stored = applied;
            }
            state.sealed = None;
            self.shared.view.store(Arc::new(View { base, sealed: None, active: state.active.clone() }));
            if !leftover {
                // What was appended meanwhile is for the next commit.
                return Ok(stats);
            }
        }
    }

    /// The segment to write next, and whether it is one that an earlier commit could not write.
    fn seal(&self) -> (Option<Arc<Segment>>, bool) {
        let mut state = self.shared.state.lock();
        let leftover = state.sealed.is_some();
        if !leftover {
            if state.active.read().is_empty() {
                return (None, false);
            }
            state.sealed = Some(std::mem::take(&mut state.active));
            self.shared.pending.store(0, Ordering::Relaxed);
            // Published before anything is appended to the new segment.
            let base = self.shared.view.load().base.clone();
            let (sealed, active) = (state.sealed.clone(), state.active.clone());
            self.shared.view.store(Arc::new(View { base, sealed, active }));
        }
        (state.sealed.clone(), leftover)
    }

    /// Size of the file in use and below its high-water mark, as of the last commit.
    pub fn size_bytes(&self) -> u64 {
        self.shared.state.lock().db.stats().size_bytes
    }

    /// The size without free pages. Pages that only old readers need count as in use.
    pub fn size_in_use_bytes(&self) -> u64 {
        let stats = self.shared.state.lock().db.stats();
        stats.size_bytes - u64::from(stats.page_size) * stats.free_pages
    }

    /// Readers that keep old pages alive.
    pub fn open_readers(&self) -> usize {
        self.shared.state.lock().db.stats().open_readers
    }

    /// The log position of the last appended set that had one.
    pub fn consistent_position(&self) -> LogPosition {
        self.shared.state.lock().applied
    }

    /// The log position in the file.
    pub fn stored_consistent_position(&self) -> LogPosition {
        self.shared.state.lock().stored
    }

    /// Commits, then gives an image of the file, readable while everything goes on.
    pub fn snapshot(&self) -> Result<Snapshot, Error> {
        self.commit()?;
        let base = self.shared.view.load().base.clone();
        let reader = base.copy_reader();
        let view = View { base, sealed: None, active: Arc::default() };
        let position = schema::stored_position(&view)?;
        Ok(Snapshot { size: view.base.size_bytes(), position, reader })
    }

    /// Commits, then hashes every bucket: name, then each key and value.
    ///
    /// Left out are the keys of `meta` that may differ between members: consistent index, term and
    /// storage version.
    pub fn hash(&self) -> Result<u32, Error> {
        self.commit()?;
        let base = self.shared.view.load().base.clone();
        let mut crc = 0;
        for bucket in base.buckets() {
            let (name, bucket) = bucket?;
            crc = crc32c::crc32c_append(crc, name);
            for item in bucket.iter() {
                let (key, value) = item?;
                let Some(value) = value.data() else { continue };
                if name != BucketId::Meta.name() || !schema::UNHASHED_META_KEYS.contains(&key) {
                    crc = crc32c::crc32c_append(crc32c::crc32c_append(crc, key), value);
                }
            }
        }
        Ok(crc)
    }

    /// Lets a received file take the place of the database: renames it, syncs the directory, opens
    /// it. What waited for a commit belongs to the old state and is dropped.
    ///
    /// Views taken before keep reading the old file.
    pub fn replace(&self, new_db: &Path) -> Result<(), Error> {
        let mut db = self.shared.db.lock();
        self.adopt(&mut db, new_db, true)
    }

    /// Renames `file` over the database and opens it. A failure before the rename changes nothing.
    fn adopt(&self, db: &mut MutexGuard<'_, bolt::Db>, file: &Path, drop_pending: bool) -> Result<(), Error> {
        let Shared { disk, path, options, .. } = &*self.shared;
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { action, path, source }
        };
        disk.rename(file, path).map_err(io("rename to the database", file))?;
        db.unlock_memory();
        let opened = || -> Result<_, Error> {
            let directory = disk.parent_of(path);
            disk.sync_dir(&directory).map_err(io("sync", &directory))?;
            let opened = bolt::Db::open(disk.clone(), path, options.bolt())?;
            create_buckets(&opened)?;
            let empty = View { base: opened.read(), sealed: None, active: Arc::default() };
            Ok((schema::stored_position(&empty)?, opened))
        };
        let (stored, opened) = opened().inspect_err(|_| self.shared.failed.store(true, Ordering::Relaxed))?;
        let mut state = self.shared.state.lock();
        if drop_pending {
            (state.active, state.sealed, state.applied) = (Arc::default(), None, stored);
            self.shared.pending.store(0, Ordering::Relaxed);
        }
        (state.stored, state.db) = (stored, opened.clone());
        let (sealed, active) = (state.sealed.clone(), state.active.clone());
        self.shared.view.store(Arc::new(View { base: opened.read(), sealed, active }));
        **db = opened;
        Ok(())
    }

    /// Tells the system that the mapped pages are not needed for now.
    pub fn release_resident(&self) {
        self.shared.state.lock().db.release_resident();
    }

    /// Checks the structure of the file as of the last commit. Empty means sound.
    pub fn check(&self) -> Vec<String> {
        let base = self.shared.view.load().base.clone();
        base.check().into_iter().map(|fault| fault.to_string()).collect()
    }
}

/// An image of the file that can be read while the backend goes on.
pub struct Snapshot {
    size: u64,
    position: LogPosition,
    reader: bolt::CopyReader,
}

impl Snapshot {
    /// Number of bytes that will be read.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The log position whose effects the image holds.
    pub fn position(&self) -> LogPosition {
        self.position
    }
}

impl io::Read for Snapshot {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

fn create_buckets(db: &bolt::Db) -> Result<(), Error> {
    let present = db.read();
    let mut missing = Vec::new();
    for bucket in BucketId::ALL {
        if present.bucket(bucket.name())?.is_none() {
            missing.push(bucket);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let mut tx = db.write()?;
    for bucket in missing {
        tx.create_bucket_if_missing(bucket.name())?;
    }
    tx.commit()?;
    Ok(())
}

/// Writes a sealed segment in one transaction.
fn write_segment(db: &bolt::Db, data: &segment::SegmentData) -> Result<bolt::CommitStats, Error> {
    let mut tx = db.write()?;
    if !data.records.is_empty() || !data.record_deletes.is_empty() {
        let mut bucket = tx.create_bucket_if_missing(BucketId::Key.name())?;
        bucket.set_fill_percent(SEQUENTIAL_FILL);
        for (key, value) in &data.records {
            bucket.put(&key.encode(), value)?;
        }
        for key in &data.record_deletes {
            bucket.delete(&key.encode())?;
        }
    }
    let mut changes = data.changes.iter().peekable();
    while let Some(((id, _), _)) = changes.peek() {
        let id = *id;
        let mut bucket = tx.create_bucket_if_missing(id.name())?;
        while let Some(((_, key), value)) = changes.next_if(|((other, _), _)| *other == id) {
            match value {
                Some(value) => bucket.put(key, value)?,
                None => drop(bucket.delete(key)?),
            }
        }
    }
    let mut meta = tx.create_bucket_if_missing(BucketId::Meta.name())?;
    for (key, value) in schema::position_entries(data.applied) {
        meta.put(key, &value)?;
    }
    if let Some(conf_state) = &data.conf_state {
        meta.put(schema::CONF_STATE, conf_state)?;
    }
    Ok(tx.commit()?)
}
