//! The open database: its file, its lock, its one writer and the state that readers start from.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use env::{Clock, Disk, File, LockKind, OpenMode};
use parking_lot::Mutex;

use crate::error::{Error, OpenError};
use crate::format::{FREELIST_NOT_PERSISTED, PageFault, TxId, parse_freelist, valid_page_size};
use crate::freelist::{Freelist, Span};
use crate::node::{Arena, Nodes};
use crate::open::{MetaReadError, choose_meta, initialize, is_unborn};
use crate::reach::pages_in_use;
use crate::read::ReadTx;
use crate::snapshot::Snapshot;
use crate::write::WriteTx;

/// How to open a database.
pub struct Options {
    /// Page size of a new file; an existing one keeps its own.
    pub page_size: u32,
    /// Do not keep the freelist in the file but rebuild it at open, as etcd does on Linux.
    pub no_freelist_sync: bool,
    /// Least address space for the map of the file.
    pub initial_map_bytes: u64,
    /// Only read; the file may then be opened by several processes.
    pub read_only: bool,
    /// Never sync. A crash of the machine may then damage the file.
    pub no_sync: bool,
    /// Keep the whole file in memory, and never let it be swapped out.
    pub lock_memory: bool,
    /// How long to wait for the lock of the file; `None` waits for ever.
    pub lock_timeout: Option<Duration>,
    /// Called once when the lock has been waited for 10 s.
    pub on_lock_wait: Option<Box<dyn Fn() + Send>>,
    /// Check the whole file after each commit, and panic if it is not as it must be: for tests.
    pub verify: bool,
    /// For the times in [`crate::CommitStats`].
    pub clock: Option<Arc<dyn Clock>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            page_size: 4096,
            no_freelist_sync: true,
            initial_map_bytes: 0,
            read_only: false,
            no_sync: false,
            lock_memory: false,
            lock_timeout: None,
            on_lock_wait: None,
            verify: false,
            clock: None,
        }
    }
}

/// Facts about an open database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Bytes up to the high-water mark of the newest state: etcd's "size".
    pub size_bytes: u64,
    /// Pages that can be written at once.
    pub free_pages: u64,
    /// Replaced pages that wait for readers.
    pub pending_pages: u64,
    /// Bytes per page.
    pub page_size: u32,
    /// Read transactions that are open, clones included.
    pub open_readers: usize,
    /// The newest committed transaction.
    pub txid: u64,
}

/// An open database. A cheap handle: clones share it. The file is closed, and its lock released,
/// when the last handle and the last read transaction are dropped.
#[derive(Clone)]
pub struct Db {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) file: Arc<dyn File>,
    pub(crate) versions: Mutex<Versions>,
    writer: Mutex<Writer>,
    pub(crate) poisoned: AtomicBool,
    read_only: bool,
    pub(crate) no_sync: bool,
    pub(crate) lock_memory: bool,
    pub(crate) no_freelist_sync: bool,
    pub(crate) verify: bool,
    clock: Option<Arc<dyn Clock>>,
    free_pages: AtomicU64,
    pending_pages: AtomicU64,
}

/// What only the writer uses.
#[derive(Default)]
pub(crate) struct Writer {
    pub(crate) freelist: Freelist,
    pub(crate) file_len: u64,
    /// Memory kept from one transaction to the next.
    pub(crate) buffer: Vec<u8>,
    pub(crate) arena: Arena,
}

/// The committed states that somebody may be reading. The mutex around it is held for a few
/// instructions only.
pub(crate) struct Versions {
    current: Arc<Snapshot>,
    /// Earlier states that still have readers, ascending. Only clones of those readers can add
    /// holders, so a state that is found alone here stays alone.
    old: Vec<Arc<Snapshot>>,
    readers_ended: bool,
}

impl Versions {
    /// Makes a state the current one; says whether earlier ones have readers.
    pub(crate) fn publish(&mut self, snapshot: Arc<Snapshot>) -> bool {
        let mut before = std::mem::replace(&mut self.current, snapshot);
        if Arc::get_mut(&mut before).is_none() {
            self.old.push(before);
        }
        self.drop_unread();
        !self.old.is_empty()
    }

    /// The states that have readers, and whether any reader ended since the last call.
    fn watched(&mut self) -> (Vec<TxId>, bool) {
        self.drop_unread();
        let watched = self.old.iter().map(|snapshot| snapshot.meta.txid).collect();
        (watched, std::mem::take(&mut self.readers_ended))
    }

    fn drop_unread(&mut self) {
        let before = self.old.len();
        // `get_mut` also orders the last reads of a reader before what the writer does next.
        self.old.retain_mut(|snapshot| Arc::get_mut(snapshot).is_none());
        self.readers_ended |= self.old.len() < before;
    }
}

impl Db {
    /// Opens a database; makes a new one where there is none, unless read-only.
    ///
    /// For writing, all reachable pages are walked to find the free ones, which also shows whether
    /// the tree is sound; a damaged one is refused.
    pub fn open(disk: Arc<dyn Disk>, path: &Path, options: Options) -> Result<Db, OpenError> {
        let error = |action| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, action, source }
        };
        if !valid_page_size(options.page_size as usize) {
            return Err(OpenError::PageSize { page_size: options.page_size });
        }
        let mode = if options.read_only { OpenMode::Read } else { OpenMode::CreateIfMissing(0o600) };
        let file = disk.open(path, mode).map_err(error("open the file"))?;
        lock(&*file, path, &options)?;

        let sync = !options.no_sync;
        if !options.read_only && is_unborn(&*file, options.page_size).map_err(error("read the file"))? {
            initialize(&*file, options.page_size, sync).map_err(error("write a new database"))?;
            if sync {
                disk.sync_dir(&disk.parent_of(path)).map_err(error("sync the directory of the file"))?;
            }
        }
        let meta =
            choose_meta(&mut |buffer, offset| file.read_at(buffer, offset)).map_err(
                |source| match source {
                    MetaReadError::Io(source) => error("read the meta pages")(source),
                    MetaReadError::Meta(source) => OpenError::Invalid { path: path.to_owned(), source },
                },
            )?;
        let bytes = file.len().map_err(error("read the length of the file"))?;
        let needed = meta.high_water * u64::from(meta.page_size);
        if bytes < needed {
            return Err(OpenError::Truncated { path: path.to_owned(), bytes, needed });
        }
        let map = file
            .map(map_len(bytes.max(options.initial_map_bytes)) as usize)
            .map_err(error("map the file into memory"))?;
        if needed > map.len() as u64 {
            return Err(error("map the file into memory")(io::Error::from(io::ErrorKind::FileTooLarge)));
        }
        if options.lock_memory {
            map.lock(bytes as usize)
                .map_err(|source| OpenError::LockMemory { path: path.to_owned(), source })?;
        }
        let snapshot = Arc::new(Snapshot::new(map, Some(file.clone()), meta));
        let mut writer = Writer { file_len: bytes, ..Writer::default() };
        if !options.read_only {
            writer.freelist = find_free(&snapshot, path)?;
        }
        let shared = Shared {
            file,
            versions: Mutex::new(Versions { current: snapshot, old: Vec::new(), readers_ended: false }),
            free_pages: AtomicU64::new(writer.freelist.free_count()),
            pending_pages: AtomicU64::new(0),
            writer: Mutex::new(writer),
            poisoned: AtomicBool::new(false),
            read_only: options.read_only,
            no_sync: options.no_sync,
            lock_memory: options.lock_memory,
            no_freelist_sync: options.no_freelist_sync,
            verify: options.verify,
            clock: options.clock,
        };
        Ok(Db { shared: Arc::new(shared) })
    }

    /// A read transaction on the newest committed state.
    pub fn read(&self) -> ReadTx {
        ReadTx { snapshot: self.shared.versions.lock().current.clone() }
    }

    /// The write transaction; waits until the one before has ended.
    pub fn write(&self) -> Result<WriteTx<'_>, Error> {
        if self.shared.read_only {
            return Err(Error::ReadOnly);
        }
        let mut writer = self.shared.writer.lock();
        if self.shared.poisoned.load(Ordering::Acquire) {
            return Err(Error::Poisoned);
        }
        let (base, (readers, readers_ended)) = {
            let mut versions = self.shared.versions.lock();
            (versions.current.clone(), versions.watched())
        };
        writer.freelist.release(&readers, readers_ended);
        let nodes = Nodes::new(base, std::mem::take(&mut writer.arena));
        Ok(WriteTx::new(self, writer, nodes))
    }

    /// Facts about the newest state.
    pub fn stats(&self) -> Stats {
        let versions = self.shared.versions.lock();
        let meta = versions.current.meta;
        let holders = versions.old.iter().chain([&versions.current]);
        Stats {
            size_bytes: versions.current.size_bytes(),
            free_pages: self.shared.free_pages.load(Ordering::Relaxed),
            pending_pages: self.shared.pending_pages.load(Ordering::Relaxed),
            page_size: meta.page_size,
            open_readers: holders.map(|snapshot| Arc::strong_count(snapshot) - 1).sum(),
            txid: meta.txid,
        }
    }

    /// Whether the file is open for reading only.
    pub fn is_read_only(&self) -> bool {
        self.shared.read_only
    }

    /// Lets the system take the mapped pages out of memory again, for a database that another one takes
    /// the place of: both locked at once may be more than the limit allows.
    pub fn unlock_memory(&self) {
        if self.shared.lock_memory {
            self.shared.versions.lock().current.map.unlock();
        }
    }

    /// Tells the system that the mapped pages are not needed in memory for now.
    pub fn release_resident(&self) {
        let map = self.shared.versions.lock().current.map.clone();
        map.release_resident();
    }

    pub(crate) fn count_pages(&self, freelist: &Freelist) {
        self.shared.free_pages.store(freelist.free_count(), Ordering::Relaxed);
        self.shared.pending_pages.store(freelist.pending_count(), Ordering::Relaxed);
    }

    /// Starts a stopwatch; without a clock it always shows zero.
    pub(crate) fn timer(&self) -> impl Fn() -> Duration {
        let clock = self.shared.clock.clone();
        let start = clock.as_ref().map(|clock| clock.now()).unwrap_or_default();
        move || clock.as_ref().map(|clock| clock.now().saturating_sub(start)).unwrap_or_default()
    }

    /// The pages of the freelist that a state keeps in the file.
    pub(crate) fn freelist_span(&self, snapshot: &Snapshot) -> Option<Span> {
        let id = snapshot.meta.freelist;
        if id == FREELIST_NOT_PERSISTED {
            return None;
        }
        // The page was read when the database was opened, or written since.
        snapshot.raw(id).ok().map(|(header, _)| (id, u64::from(header.overflow) + 1))
    }
}

/// Length of the map for a file of `bytes`: powers of two from 32 KiB to 1 GiB, then multiples of 1 GiB.
pub(crate) fn map_len(bytes: u64) -> u64 {
    const LEAST: u64 = 32 << 10;
    const STEP: u64 = 1 << 30;
    match bytes <= STEP {
        true => bytes.max(LEAST).next_power_of_two(),
        false => bytes.div_ceil(STEP) * STEP,
    }
}

const LOCK_RETRY: Duration = Duration::from_millis(50);
const LOCK_WAIT_REPORTED_AFTER: Duration = Duration::from_secs(10);

fn lock(file: &dyn File, path: &Path, options: &Options) -> Result<(), OpenError> {
    let kind = if options.read_only { LockKind::FlockShared } else { LockKind::FlockExclusive };
    let mut waited = Duration::ZERO;
    let mut reported = false;
    loop {
        let locked = file.try_lock(kind);
        if locked.map_err(|source| OpenError::Io {
            path: path.to_owned(),
            action: "lock the file",
            source,
        })? {
            return Ok(());
        }
        if options.lock_timeout.is_some_and(|timeout| waited + LOCK_RETRY > timeout) {
            return Err(OpenError::LockTimeout { path: path.to_owned() });
        }
        if waited >= LOCK_WAIT_REPORTED_AFTER && !reported {
            reported = true;
            if let Some(report) = &options.on_lock_wait {
                report();
            }
        }
        std::thread::sleep(LOCK_RETRY);
        waited += LOCK_RETRY;
    }
}

/// The free pages: those that nothing refers to. A freelist in the file is only held against it:
/// a page that is in use in spite of being listed is damage.
fn find_free(snapshot: &Snapshot, path: &Path) -> Result<Freelist, OpenError> {
    let corrupt = |source| OpenError::Corrupt { path: PathBuf::from(path), source };
    let used = pages_in_use(snapshot).map_err(corrupt)?;
    let id = snapshot.meta.freelist;
    if id != FREELIST_NOT_PERSISTED {
        let listed = snapshot.raw(id).and_then(|(_, bytes)| parse_freelist(bytes, id)).map_err(corrupt)?;
        if let Some(page) = listed.into_iter().find(|page| used.contains(*page)) {
            return Err(corrupt(PageFault::FreeAndReachable.on(page)));
        }
    }
    Ok(Freelist::new(used.gaps()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_double_up_to_a_gibibyte() {
        assert_eq!(map_len(0), 32 << 10);
        assert_eq!(map_len((32 << 10) + 1), 64 << 10);
        assert_eq!(map_len(1 << 30), 1 << 30);
        assert_eq!(map_len((1 << 30) + 1), 2 << 30);
        assert_eq!(map_len(10 << 30), 10 << 30);
    }
}
