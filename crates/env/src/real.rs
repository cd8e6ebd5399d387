//! The real disk, clock and randomness.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{FallocateFlags, FlockOperation, OFlags};

use crate::{Clock, DirEntry, Disk, File, LockKind, Mapping, OpenMode, Random};

/// The file system of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => &mut options,
            OpenMode::ReadWrite => options.write(true),
            OpenMode::CreateIfMissing(bits) => options.write(true).create(true).truncate(false).mode(bits),
            OpenMode::CreateNew(bits) => options.write(true).create_new(true).mode(bits),
            OpenMode::Truncate(bits) => options.write(true).create(true).truncate(true).mode(bits),
        };
        Ok(Arc::new(RealFile { file: options.open(path)? }))
    }

    fn create_dir_all(&self, path: &Path, permissions: u32) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(permissions).create(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            let is_dir = metadata.is_dir();
            let len = if is_dir { 0 } else { metadata.len() };
            entries.push(DirEntry { name: entry.file_name().to_string_lossy().into_owned(), is_dir, len });
        }
        entries.sort();
        Ok(entries)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }
}

struct RealFile {
    file: fs::File,
}

impl RealFile {
    /// Goes back to the cache. Whether the file avoided it before.
    fn use_cache(&self) -> io::Result<bool> {
        let flags = rustix::fs::fcntl_getfl(&self.file)?;
        if flags.contains(OFlags::DIRECT) {
            rustix::fs::fcntl_setfl(&self.file, flags - OFlags::DIRECT)?;
            return Ok(true);
        }
        Ok(false)
    }
}

impl File for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match self.file.write_all_at(bytes, offset) {
            // A file system that took the flag and cannot do it after all, or only in larger blocks.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput && self.use_cache()? => {
                self.file.write_all_at(bytes, offset)
            }
            result => result,
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if self.len()? >= len {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len) {
            // A file system without preallocation still gets the length; so does one in memory that
            // gives up, and starts from the beginning, whenever a profile's signal comes.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::INTR) => {
                self.file.set_len(len)
            }
            result => Ok(result?),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn avoid_cache(&self) {
        // Refused where it is not supported: then the cache it is.
        let _ = rustix::fs::fcntl_getfl(&self.file)
            .and_then(|flags| rustix::fs::fcntl_setfl(&self.file, flags | OFlags::DIRECT));
    }

    fn try_lock(&self, kind: LockKind) -> io::Result<bool> {
        let flock = |operation| taken(rustix::fs::flock(&self.file, operation));
        match kind {
            LockKind::FlockExclusive => flock(FlockOperation::NonBlockingLockExclusive),
            LockKind::FlockShared => flock(FlockOperation::NonBlockingLockShared),
            LockKind::OfdExclusive => match ofd_lock(&self.file) {
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
                    flock(FlockOperation::NonBlockingLockExclusive)
                }
                result => result,
            },
        }
    }

    fn map(&self, len: usize) -> io::Result<Arc<dyn Mapping>> {
        // SAFETY: the map is only read through `Mapping::slice`, whose contract keeps callers to
        // bytes inside the file that nobody writes meanwhile. Another process cannot write: the
        // owner of the file holds its lock.
        let map = unsafe { memmap2::MmapOptions::new().len(len).map(&self.file)? };
        // Random order keeps the kernel from mapping neighbours of each page that is touched.
        let _ = map.advise(memmap2::Advice::Random);
        Ok(Arc::new(RealMapping { map }))
    }
}

fn taken(result: rustix::io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Takes an open-file-description lock of the whole file.
///
/// rustix 1 offers only the process-wide kind, which another file of the same process would drop.
fn ofd_lock(file: &fs::File) -> io::Result<bool> {
    use std::os::fd::AsRawFd;
    let request = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open for the duration of the call and the kernel only reads the
    // fully initialised `flock` structure that F_OFD_SETLK expects.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const request) };
    if result == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

struct RealMapping {
    map: memmap2::Mmap,
}

impl Mapping for RealMapping {
    fn len(&self) -> usize {
        self.map.len()
    }

    unsafe fn slice(&self, offset: usize, len: usize) -> &[u8] {
        &self.map[offset..offset + len]
    }

    fn release_resident(&self) {
        // SAFETY: the map is shared and file-backed and never written through: dropped pages are
        // read again from the file with the same content.
        let _ = unsafe { self.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    }

    fn lock(&self, len: usize) -> io::Result<()> {
        let len = len.min(self.map.len());
        // SAFETY: the range lies inside the map, which lives as long as `self`; locking changes nothing
        // that can be read there.
        Ok(unsafe { rustix::mm::mlock(self.map.as_ptr().cast_mut().cast(), len) }?)
    }

    fn unlock(&self) {
        // Nothing depends on it: locked pages are only kept for longer.
        // SAFETY: as for `lock`.
        let _ = unsafe { rustix::mm::munlock(self.map.as_ptr().cast_mut().cast(), self.map.len()) };
    }
}

/// The clock of the machine.
#[derive(Clone, Copy, Debug)]
pub struct RealClock {
    start: Instant,
}

impl Default for RealClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for RealClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn unix(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

/// Random bits from the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsRandom;

impl Random for OsRandom {
    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        let mut filled = 0;
        while filled < bytes.len() {
            match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
                Ok(count) => filled += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("the system gives no random numbers: {error}"),
            }
        }
        u64::from_ne_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_exclude_a_second_open_of_the_same_process() {
        let dir = tempfile::tempdir().unwrap();
        for kind in [LockKind::FlockExclusive, LockKind::OfdExclusive] {
            let path = dir.path().join(format!("{kind:?}"));
            let first = RealDisk.open(&path, OpenMode::CreateNew(0o600)).unwrap();
            let second = RealDisk.open(&path, OpenMode::ReadWrite).unwrap();
            assert!(first.try_lock(kind).unwrap());
            assert!(!second.try_lock(kind).unwrap(), "{kind:?}");
            drop(first);
            assert!(second.try_lock(kind).unwrap(), "{kind:?}");
        }
    }

    #[test]
    fn a_map_shows_later_writes() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk.open(&dir.path().join("f"), OpenMode::CreateNew(0o600)).unwrap();
        file.write_at(b"before", 0).unwrap();
        let map = file.map(1 << 20).unwrap();
        file.write_at(b"after!", 0).unwrap();
        map.release_resident();
        // SAFETY: six bytes were written and nobody writes now.
        assert_eq!(unsafe { map.slice(0, 6) }, b"after!");
        map.lock(file.len().unwrap() as usize).unwrap();
        map.unlock();
    }
}
