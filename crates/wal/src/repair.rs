//! Cuts off what a crash left behind the last good record.
//!
//! - A torn write is copied away first, to `<segment>.broken`.
//! - All bytes behind the last record are made zero and that is synced *before* anything is
//!   appended: stale bytes next to a new record that is torn in turn could not be told from
//!   damage.
//!
//! **Source**: etcd `server/storage/wal/repair.go`, `client/pkg/fileutil` (`ZeroToEnd`).

use std::path::{Path, PathBuf};

use env::{Disk, File, OpenMode};

use crate::error::{Context, Error};

/// Copies a segment to `<segment>.broken`, replacing an older copy. Zeros become holes.
pub(crate) fn keep_copy(disk: &dyn Disk, file: &dyn File, path: &Path) -> Result<PathBuf, Error> {
    let mut target = path.as_os_str().to_owned();
    target.push(".broken");
    let target = PathBuf::from(target);
    let copy = disk.open(&target, OpenMode::Truncate(0o600)).context("create", &target)?;
    let len = file.len().context("read", path)?;
    let mut buffer = vec![0; 1 << 20];
    let mut offset = 0;
    while offset < len {
        let count = file.read_at(&mut buffer, offset).context("read", path)?;
        if count == 0 {
            break;
        }
        if buffer[..count].iter().any(|byte| *byte != 0) {
            copy.write_at(&buffer[..count], offset).context("write", &target)?;
        }
        offset += count as u64;
    }
    copy.set_len(len).context("extend", &target)?;
    copy.sync_all().context("sync", &target)?;
    let dir = disk.parent_of(path);
    disk.sync_dir(&dir).context("sync", &dir)?;
    Ok(target)
}

/// Makes everything from `offset` on zero, keeps the file at least `segment_bytes` long, and makes
/// that durable.
pub(crate) fn clear_behind(
    file: &dyn File,
    path: &Path,
    offset: u64,
    segment_bytes: u64,
) -> Result<(), Error> {
    let len = file.len().context("read", path)?;
    if len > offset {
        file.set_len(offset).context("trim", path)?;
    }
    file.allocate(segment_bytes).context("preallocate", path)?;
    file.sync_data().context("sync", path)
}
