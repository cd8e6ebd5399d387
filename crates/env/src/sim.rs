//! A disk in memory that forgets: what was not synced may be lost or torn at a crash.
//!
//! Use: run a workload on a [`SimDisk`]; [`SimDisk::fail_after`] cuts the power (or breaks one
//! operation) at the n-th write, sync, rename or the like; [`SimDisk::crash`] then gives the disk
//! as it may look after the power comes back. Counting n up to [`SimDisk::operations`] of a clean
//! run visits every crash point.
//!
//! Model, per the contract in [`crate::Disk`]:
//! - file content: each unsynced write survives by 512-byte sectors, chosen by the seed; an
//!   unsynced change of length survives or not;
//! - names: creations, renames and removals that were not followed by a sync of their directory
//!   survive as a prefix of their order, chosen by the seed;
//! - locks are gone after a crash.
//!
//! Files keep a mappable area of [`FILE_CAPACITY`] bytes of address space each; memory is used
//! only for what is touched.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use parking_lot::{Mutex, MutexGuard};
use rustix::mm::{MapFlags, ProtFlags};

use crate::{DIRECT_BLOCK_LEN, DirEntry, Disk, File, LockKind, Mapping, OpenMode, Random, SeededRandom};

/// Largest length of a simulated file in bytes.
pub const FILE_CAPACITY: usize = 1 << 30;
const SECTOR: u64 = 512;

/// What happens when the operation counter reaches the planned point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// That operation and all later ones fail: the power is off. The operation itself may be
    /// partly on disk after [`SimDisk::crash`].
    PowerLoss,
    /// Only that operation fails, with an input/output error and without effect.
    OneError,
    /// That operation and all later ones that need space fail with "no space left on device".
    DiskFull,
}

/// What survives of unsynced changes at a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// Nothing.
    Nothing,
    /// Everything: the kernel had written it all back.
    Everything,
    /// A random part, by sectors, from this seed.
    Random(u64),
}

/// A simulated disk. Clones share the disk.
#[derive(Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<DiskState>>,
}

#[derive(Default)]
struct DiskState {
    /// Names as programs see them.
    live: BTreeMap<PathBuf, Node>,
    /// Names as they are on the platter.
    durable: BTreeMap<PathBuf, Node>,
    /// Changes of names since the last sync of their directories, in order.
    unsynced_names: Vec<NameChange>,
    operations: u64,
    plan: Option<(u64, Fault)>,
    powered_off: bool,
    /// Bytes of maps that are locked in memory, and how many may be; none may not.
    locked_bytes: usize,
    lock_limit: Option<usize>,
}

#[derive(Clone)]
enum Node {
    Directory,
    File(Arc<Inode>),
}

#[derive(Clone)]
enum NameChange {
    Set(PathBuf, Node),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl NameChange {
    fn directories(&self) -> [Option<&Path>; 2] {
        match self {
            Self::Set(path, _) | Self::Remove(path) => [path.parent(), None],
            Self::Rename(from, to) => [from.parent(), to.parent()],
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Self::Set(path, node) => {
                names.insert(path.clone(), node.clone());
            }
            Self::Remove(path) => names.retain(|name, _| !name.starts_with(path)),
            Self::Rename(from, to) => {
                names.retain(|name, _| !name.starts_with(to));
                let moved: Vec<_> = names.keys().filter(|name| name.starts_with(from)).cloned().collect();
                for name in moved {
                    if let (Some(node), Ok(rest)) = (names.remove(&name), name.strip_prefix(from)) {
                        let target = if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) };
                        names.insert(target, node);
                    }
                }
            }
        }
    }
}

struct Inode {
    content: Mutex<Content>,
    lock: Mutex<LockState>,
}

#[derive(Default)]
struct LockState {
    exclusive: bool,
    shared: usize,
}

struct Content {
    live: Arc<Area>,
    len: u64,
    durable: Arc<Area>,
    durable_len: u64,
    unsynced: Vec<ContentChange>,
}

enum ContentChange {
    Write { offset: u64, bytes: Vec<u8> },
    Length(u64),
}

impl SimDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of changing operations (writes, syncs, lengths, names) so far.
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// Plans a fault at changing operation number `operation`, counted from the start of the disk
    /// (the first one is 1).
    pub fn fail_after(&self, operation: u64, fault: Fault) {
        self.state.lock().plan = Some((operation, fault));
    }

    /// Removes a planned fault; a disk that is full has room again.
    pub fn clear_fault(&self) {
        let mut state = self.state.lock();
        state.plan = None;
        state.powered_off = false;
    }

    /// Lets at most so many bytes of maps be locked in memory.
    pub fn limit_locked_bytes(&self, bytes: usize) {
        self.state.lock().lock_limit = Some(bytes);
    }

    /// Bytes of maps that are locked in memory.
    pub fn locked_bytes(&self) -> usize {
        self.state.lock().locked_bytes
    }

    /// The disk after a crash at this moment. This disk is unchanged.
    pub fn crash(&self, survival: Survival) -> SimDisk {
        let mut random = SeededRandom::new(match survival {
            Survival::Random(seed) => seed,
            _ => 0,
        });
        let state = self.state.lock();
        let mut names = state.durable.clone();
        let kept = match survival {
            Survival::Nothing => 0,
            Survival::Everything => state.unsynced_names.len(),
            Survival::Random(_) => random.below(state.unsynced_names.len() as u64 + 1) as usize,
        };
        for change in &state.unsynced_names[..kept] {
            change.apply(&mut names);
        }
        let mut copies: BTreeMap<*const Inode, Arc<Inode>> = BTreeMap::new();
        for node in names.values_mut() {
            if let Node::File(inode) = node {
                let copy = copies
                    .entry(Arc::as_ptr(inode))
                    .or_insert_with(|| Arc::new(inode.after_crash(survival, &mut random)));
                *inode = copy.clone();
            }
        }
        let state = DiskState { live: names.clone(), durable: names, ..DiskState::default() };
        SimDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// Flips one bit of a file, in memory and on the platter.
    ///
    /// # Panics
    /// If there is no such file or the byte lies outside it.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) {
        let state = self.state.lock();
        let Some(Node::File(inode)) = state.live.get(path) else { panic!("no file {}", path.display()) };
        let content = inode.content.lock();
        assert!(offset < content.len, "byte {offset} lies outside {}", path.display());
        for area in [&content.live, &content.durable] {
            let mut byte = [0];
            area.read(offset as usize, &mut byte);
            area.write(offset as usize, &[byte[0] ^ (1 << bit)]);
        }
    }

    /// Counts a changing operation and lets the planned fault strike.
    fn begin(&self, needs_space: bool) -> io::Result<MutexGuard<'_, DiskState>> {
        let mut state = self.state.lock();
        if state.powered_off {
            return Err(io::Error::other("simulated power loss"));
        }
        state.operations += 1;
        match state.plan {
            Some((at, fault)) if state.operations >= at => match fault {
                Fault::PowerLoss => {
                    state.powered_off = true;
                    Err(io::Error::other("simulated power loss"))
                }
                Fault::OneError => {
                    state.plan = None;
                    Err(io::Error::other("simulated input/output error"))
                }
                Fault::DiskFull if needs_space => Err(io::Error::from(io::ErrorKind::StorageFull)),
                Fault::DiskFull => Ok(state),
            },
            _ => Ok(state),
        }
    }

    fn change_names(&self, state: &mut DiskState, change: NameChange) {
        change.apply(&mut state.live);
        state.unsynced_names.push(change);
    }
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{}: no such file or directory", path.display()))
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let existing = self.state.lock().live.get(path).cloned();
        let writable = mode != OpenMode::Read;
        let inode = match (existing, mode) {
            (Some(Node::Directory), _) => return Err(io::Error::from(io::ErrorKind::IsADirectory)),
            (Some(Node::File(_)), OpenMode::CreateNew(_)) => {
                return Err(io::Error::from(io::ErrorKind::AlreadyExists));
            }
            (Some(Node::File(inode)), _) => inode,
            (None, OpenMode::Read | OpenMode::ReadWrite) => return Err(not_found(path)),
            (None, _) => {
                let mut state = self.begin(true)?;
                let parent = self.parent_of(path);
                if parent != Path::new(".") && !matches!(state.live.get(&parent), Some(Node::Directory)) {
                    return Err(not_found(&parent));
                }
                let inode = Arc::new(Inode::new()?);
                self.change_names(&mut state, NameChange::Set(path.to_owned(), Node::File(inode.clone())));
                inode
            }
        };
        let file = SimFile {
            disk: self.clone(),
            inode,
            writable,
            held: Mutex::new(None),
            direct: AtomicBool::new(false),
        };
        if matches!(mode, OpenMode::Truncate(_)) && file.len()? > 0 {
            file.set_len(0)?;
        }
        Ok(Arc::new(file))
    }

    fn create_dir_all(&self, path: &Path, _permissions: u32) -> io::Result<()> {
        let mut missing: Vec<&Path> = Vec::new();
        {
            let state = self.state.lock();
            for ancestor in path.ancestors().filter(|ancestor| !ancestor.as_os_str().is_empty()) {
                match state.live.get(ancestor) {
                    Some(Node::Directory) => break,
                    Some(Node::File(_)) => return Err(io::Error::from(io::ErrorKind::NotADirectory)),
                    None => missing.push(ancestor),
                }
            }
        }
        for directory in missing.into_iter().rev() {
            let mut state = self.begin(true)?;
            self.change_names(&mut state, NameChange::Set(directory.to_owned(), Node::Directory));
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.begin(false)?;
        if !state.live.contains_key(from) {
            return Err(not_found(from));
        }
        self.change_names(&mut state, NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.begin(false)?;
        match state.live.get(path) {
            Some(Node::File(_)) => self.change_names(&mut state, NameChange::Remove(path.to_owned())),
            Some(Node::Directory) => return Err(io::Error::from(io::ErrorKind::IsADirectory)),
            None => return Err(not_found(path)),
        }
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.begin(false)?;
        if !state.live.contains_key(path) {
            return Err(not_found(path));
        }
        self.change_names(&mut state, NameChange::Remove(path.to_owned()));
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let state = self.state.lock();
        if path != Path::new(".") && !matches!(state.live.get(path), Some(Node::Directory)) {
            return Err(not_found(path));
        }
        let mut entries = Vec::new();
        for (name, node) in state.live.iter().filter(|(name, _)| self.parent_of(name) == path) {
            let (is_dir, len) = match node {
                Node::Directory => (true, 0),
                Node::File(inode) => (false, inode.content.lock().len),
            };
            let name = name.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            entries.push(DirEntry { name, is_dir, len });
        }
        entries.sort();
        Ok(entries)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(path == Path::new(".") || self.state.lock().live.contains_key(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.begin(false)?;
        // A journalling file system writes the name changes in order: all up to the last one of
        // this directory become durable together.
        let touches = |change: &NameChange| {
            change.directories().into_iter().flatten().any(|directory| {
                directory == path || (directory.as_os_str().is_empty() && path == Path::new("."))
            })
        };
        if let Some(last) = state.unsynced_names.iter().rposition(touches) {
            let changes: Vec<_> = state.unsynced_names.drain(..=last).collect();
            for change in changes {
                change.apply(&mut state.durable);
            }
        }
        Ok(())
    }
}

impl Inode {
    fn new() -> io::Result<Self> {
        let content = Content {
            live: Arc::new(Area::new()?),
            len: 0,
            durable: Arc::new(Area::new()?),
            durable_len: 0,
            unsynced: Vec::new(),
        };
        Ok(Self { content: Mutex::new(content), lock: Mutex::new(LockState::default()) })
    }

    fn after_crash(&self, survival: Survival, random: &mut SeededRandom) -> Inode {
        let content = self.content.lock();
        let area = Area::new().expect("address space for a simulated file");
        area.copy_from(&content.durable, content.durable_len as usize);
        let mut len = content.durable_len;
        for change in &content.unsynced {
            let all = match survival {
                Survival::Nothing => continue,
                Survival::Everything => true,
                Survival::Random(_) => false,
            };
            match change {
                ContentChange::Length(new) => {
                    if all || random.below(2) == 0 {
                        if *new < len {
                            area.zero(*new as usize, (len - new) as usize);
                        }
                        len = *new;
                    }
                }
                ContentChange::Write { offset, bytes } => {
                    let mut position = 0;
                    while position < bytes.len() {
                        let at = offset + position as u64;
                        let rest = (SECTOR - at % SECTOR) as usize;
                        let end = (position + rest).min(bytes.len());
                        if all || random.below(2) == 0 {
                            area.write(at as usize, &bytes[position..end]);
                            len = len.max(at + (end - position) as u64);
                        }
                        position = end;
                    }
                }
            }
        }
        let durable = Area::new().expect("address space for a simulated file");
        durable.copy_from(&area, len as usize);
        let content = Content {
            live: Arc::new(area),
            len,
            durable: Arc::new(durable),
            durable_len: len,
            unsynced: Vec::new(),
        };
        Inode { content: Mutex::new(content), lock: Mutex::new(LockState::default()) }
    }
}

impl Content {
    fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.live.zero(len as usize, (self.len - len) as usize);
        }
        self.len = len;
        self.unsynced.push(ContentChange::Length(len));
    }

    fn sync(&mut self) {
        for change in std::mem::take(&mut self.unsynced) {
            match change {
                ContentChange::Write { offset, bytes } => {
                    self.durable.write(offset as usize, &bytes);
                    self.durable_len = self.durable_len.max(offset + bytes.len() as u64);
                }
                ContentChange::Length(len) => {
                    if len < self.durable_len {
                        self.durable.zero(len as usize, (self.durable_len - len) as usize);
                    }
                    self.durable_len = len;
                }
            }
        }
    }
}

struct SimFile {
    disk: SimDisk,
    inode: Arc<Inode>,
    writable: bool,
    held: Mutex<Option<LockKind>>,
    /// Holds writes to the alignment that [`File::avoid_cache`] asks for.
    direct: AtomicBool,
}

impl SimFile {
    /// Counts an operation; a write that the power loss hits may still be partly on the platter.
    fn change(&self, needs_space: bool, apply: impl FnOnce(&mut Content)) -> io::Result<()> {
        if !self.writable {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied));
        }
        let was_on = !self.disk.state.lock().powered_off;
        let result = self.disk.begin(needs_space).map(drop);
        let interrupted = was_on && result.is_err() && self.disk.state.lock().powered_off;
        if result.is_ok() || interrupted {
            apply(&mut self.inode.content.lock());
        }
        result
    }
}

impl File for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let content = self.inode.content.lock();
        let count = (content.len.saturating_sub(offset)).min(buffer.len() as u64) as usize;
        content.live.read(offset as usize, &mut buffer[..count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let aligned = |value: u64| value.is_multiple_of(DIRECT_BLOCK_LEN);
        if self.direct.load(Relaxed)
            && !(aligned(offset) && aligned(bytes.len() as u64) && aligned(bytes.as_ptr().addr() as u64))
        {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        if offset + bytes.len() as u64 > FILE_CAPACITY as u64 {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        self.change(true, |content| {
            content.live.write(offset as usize, bytes);
            content.len = content.len.max(offset + bytes.len() as u64);
            content.unsynced.push(ContentChange::Write { offset, bytes: bytes.to_vec() });
        })
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.inode.content.lock().len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if len > FILE_CAPACITY as u64 {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        let grows = len > self.len()?;
        self.change(grows, |content| content.set_len(len))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if self.len()? >= len { Ok(()) } else { self.set_len(len) }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.begin(false).map(drop)?;
        self.inode.content.lock().sync();
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn avoid_cache(&self) {
        self.direct.store(true, Relaxed);
    }

    fn try_lock(&self, kind: LockKind) -> io::Result<bool> {
        let mut held = self.held.lock();
        if held.is_some() {
            return Ok(true);
        }
        let mut lock = self.inode.lock.lock();
        let free = match kind {
            LockKind::FlockShared => !lock.exclusive,
            _ => !lock.exclusive && lock.shared == 0,
        };
        if free {
            match kind {
                LockKind::FlockShared => lock.shared += 1,
                _ => lock.exclusive = true,
            }
            *held = Some(kind);
        }
        Ok(free)
    }

    fn map(&self, len: usize) -> io::Result<Arc<dyn Mapping>> {
        let live = self.inode.content.lock().live.clone();
        let len = len.min(FILE_CAPACITY);
        Ok(Arc::new(SimMapping { area: live, len, disk: self.disk.clone(), locked: Mutex::default() }))
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        if let Some(kind) = *self.held.lock() {
            let mut lock = self.inode.lock.lock();
            match kind {
                LockKind::FlockShared => lock.shared -= 1,
                _ => lock.exclusive = false,
            }
        }
    }
}

struct SimMapping {
    area: Arc<Area>,
    len: usize,
    disk: SimDisk,
    locked: Mutex<usize>,
}

impl Drop for SimMapping {
    fn drop(&mut self) {
        self.unlock();
    }
}

impl Mapping for SimMapping {
    fn len(&self) -> usize {
        self.len
    }

    unsafe fn slice(&self, offset: usize, len: usize) -> &[u8] {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len), "slice outside the map");
        // SAFETY: inside the area; the caller promises that nobody writes these bytes meanwhile.
        unsafe { std::slice::from_raw_parts(self.area.start.as_ptr().add(offset), len) }
    }

    fn release_resident(&self) {}

    fn lock(&self, len: usize) -> io::Result<()> {
        let (mut locked, mut state) = (self.locked.lock(), self.disk.state.lock());
        let bytes = state.locked_bytes - *locked + len;
        if state.lock_limit.is_some_and(|limit| bytes > limit) {
            return Err(io::Error::from(io::ErrorKind::OutOfMemory));
        }
        (*locked, state.locked_bytes) = (len, bytes);
        Ok(())
    }

    fn unlock(&self) {
        self.disk.state.lock().locked_bytes -= std::mem::take(&mut *self.locked.lock());
    }
}

/// `FILE_CAPACITY` bytes of zeroed address space. Writes go through a shared reference, as they
/// do for a file; the `Mutex` of the inode orders all but reads through a [`Mapping`].
struct Area {
    start: NonNull<u8>,
    /// Behind the last byte that was ever written: from here on there are only zeros.
    used: AtomicUsize,
}

// SAFETY: the area is plain memory owned by this value; access is ordered as described above.
unsafe impl Send for Area {}
// SAFETY: as for `Send`.
unsafe impl Sync for Area {}

impl Area {
    fn new() -> io::Result<Self> {
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice aliases nothing.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                FILE_CAPACITY,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )?
        };
        NonNull::new(start.cast())
            .map(|start| Self { start, used: AtomicUsize::new(0) })
            .ok_or_else(|| io::Error::other("mapped at 0"))
    }

    fn pointer(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(offset.checked_add(len).is_some_and(|end| end <= FILE_CAPACITY), "outside the area");
        // SAFETY: the sum was just checked to stay inside the mapping.
        unsafe { self.start.as_ptr().add(offset) }
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        let target = self.pointer(offset, bytes.len());
        self.used.fetch_max(offset + bytes.len(), Relaxed);
        // SAFETY: `target` is valid for `bytes.len()` bytes, which cannot overlap an outside slice.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) }
    }

    fn read(&self, offset: usize, buffer: &mut [u8]) {
        let source = self.pointer(offset, buffer.len());
        // SAFETY: `source` is valid for `buffer.len()` bytes; the buffer lies outside the area.
        unsafe { std::ptr::copy_nonoverlapping(source, buffer.as_mut_ptr(), buffer.len()) }
    }

    fn zero(&self, offset: usize, len: usize) {
        let len = len.min(self.used.load(Relaxed).saturating_sub(offset));
        let target = self.pointer(offset, len);
        // SAFETY: `target` is valid for `len` bytes.
        unsafe { std::ptr::write_bytes(target, 0, len) }
    }

    /// Copies the first `len` bytes, skipping pages of zeros so that they stay untouched here.
    fn copy_from(&self, other: &Area, len: usize) {
        let mut page = [0; 4096];
        let len = len.min(other.used.load(Relaxed));
        for offset in (0..len).step_by(page.len()) {
            let count = page.len().min(len - offset);
            other.read(offset, &mut page[..count]);
            if page[..count] != [0; 4096][..count] {
                self.write(offset, &page[..count]);
            }
        }
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this address and length and nothing refers to it now.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), FILE_CAPACITY) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(disk: &SimDisk, path: &str) -> Option<Vec<u8>> {
        let file = disk.open(Path::new(path), OpenMode::Read).ok()?;
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        Some(bytes)
    }

    #[test]
    fn unsynced_names_and_bytes_are_lost() {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("d"), 0o700).unwrap();
        disk.sync_dir(Path::new(".")).unwrap();
        let file = disk.open(Path::new("d/f"), OpenMode::CreateNew(0o600)).unwrap();
        file.write_at(b"one", 0).unwrap();
        file.sync_data().unwrap();
        assert_eq!(content(&disk.crash(Survival::Nothing), "d/f"), None, "the name was not synced");
        disk.sync_dir(Path::new("d")).unwrap();
        file.write_at(b"two", 3).unwrap();
        assert_eq!(content(&disk.crash(Survival::Nothing), "d/f").unwrap(), b"one");
        assert_eq!(content(&disk.crash(Survival::Everything), "d/f").unwrap(), b"onetwo");
    }

    #[test]
    fn power_loss_strikes_at_the_planned_operation() {
        let disk = SimDisk::new();
        let file = disk.open(Path::new("f"), OpenMode::CreateNew(0o600)).unwrap();
        disk.fail_after(3, Fault::PowerLoss);
        file.write_at(b"a", 0).unwrap();
        assert!(file.write_at(b"b", 1).is_err());
        assert!(file.sync_data().is_err());
        assert_eq!(
            content(&disk.crash(Survival::Everything), "f").unwrap(),
            b"ab",
            "half done, maybe on disk"
        );
    }

    #[test]
    fn sectors_tear() {
        let disk = SimDisk::new();
        let file = disk.open(Path::new("f"), OpenMode::CreateNew(0o600)).unwrap();
        disk.sync_dir(Path::new(".")).unwrap();
        file.write_at(&[1; 4096], 0).unwrap();
        let torn = (0..64).map(|seed| content(&disk.crash(Survival::Random(seed)), "f").unwrap());
        let patterns: std::collections::BTreeSet<_> =
            torn.map(|bytes| bytes.chunks(512).map(|sector| sector[0]).collect::<Vec<_>>()).collect();
        assert!(patterns.len() > 8, "different seeds tear differently");
    }

    #[test]
    fn a_renamed_directory_takes_its_files_along() {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("a/b"), 0o700).unwrap();
        disk.open(Path::new("a/b/f"), OpenMode::CreateNew(0o600)).unwrap().write_at(b"x", 0).unwrap();
        disk.rename(Path::new("a/b"), Path::new("a/c")).unwrap();
        assert_eq!(content(&disk, "a/c/f").unwrap(), b"x");
        assert!(!disk.exists(Path::new("a/b/f")).unwrap());
    }
}
