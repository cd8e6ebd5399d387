//! Removes old segments and snapshot files.
//!
//! **Source**: etcd `client/pkg/fileutil/purge.go`.

use std::path::{Path, PathBuf};

use env::{Disk, LockKind, OpenMode};

use crate::error::{Context, Error};

/// Removes the oldest files whose names end in `suffix` until `keep` are left; gives what was
/// removed. 0 keeps all.
///
/// Segments (`.wal`) that a log holds locked end the search: nothing newer is removed either.
pub fn purge(disk: &dyn Disk, dir: &Path, suffix: &str, keep: usize) -> Result<Vec<PathBuf>, Error> {
    let mut removed = Vec::new();
    if keep == 0 {
        return Ok(removed);
    }
    let entries = disk.list(dir).context("list", dir)?;
    // Sorted by name, which is by age.
    let names: Vec<_> = entries
        .iter()
        .filter(|entry| !entry.is_dir && entry.name.ends_with(suffix))
        .map(|entry| &entry.name)
        .collect();
    for name in &names[..names.len().saturating_sub(keep)] {
        let path = dir.join(name);
        if suffix == ".wal" {
            let file = disk.open(&path, OpenMode::ReadWrite).context("open", &path)?;
            if !file.try_lock(LockKind::OfdExclusive).context("lock", &path)? {
                break;
            }
            disk.remove_file(&path).context("remove", &path)?;
        } else {
            disk.remove_file(&path).context("remove", &path)?;
        }
        removed.push(path);
    }
    Ok(removed)
}
