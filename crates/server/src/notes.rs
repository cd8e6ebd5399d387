//! What is worth a warning at the start, and no reason not to start.
//!
//! **Source**: etcd `server/etcdserver/bootstrap.go`, `client/pkg/fileutil`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::config::Config;
use crate::config::scalars::quote;
use crate::{log, size};

/// Requests above this are asking for trouble.
const RECOMMENDED_REQUEST_BYTES: u64 = 10 << 20;
/// Nobody else reads a member's files.
const PRIVATE: u32 = 0o700;

/// Warns of settings that are allowed and not wise, and of directories that others may read.
pub fn warn_of_settings(config: &Config) {
    let bytes = config.max_request_bytes;
    if bytes > RECOMMENDED_REQUEST_BYTES {
        log::warn!(
            "exceeded recommended request limit",
            "max-request-bytes" => bytes,
            "max-request-size" => size::text(bytes),
            "recommended-request-bytes" => RECOMMENDED_REQUEST_BYTES,
            "recommended-request-size" => size::text(RECOMMENDED_REQUEST_BYTES)
        );
    }
    let data = Path::new(&config.data_dir);
    for dir in [data.to_owned(), data.join("member"), data.join("member").join("snap"), config.wal_path()] {
        if let Some(text) = permission_fault(&dir) {
            log::warn!("check file permission", "error" => text);
        }
    }
    if !matches!(config.metrics.as_str(), "basic" | "extensive") {
        log::warn!("unknown --metrics; counting the basic ones", "metrics" => &config.metrics);
    }
}

fn permission_fault(dir: &Path) -> Option<String> {
    let facts = std::fs::metadata(dir).ok()?;
    let mode = facts.permissions().mode() & 0o777;
    if mode == PRIVATE {
        return None;
    }
    Some(format!(
        "directory {} exist, but the permission is {}. The recommended permission is {} to prevent possible \
         unprivileged access to the data",
        quote(&dir.to_string_lossy()),
        quote(&mode_text(if facts.is_dir() { 'd' } else { '-' }, mode)),
        quote(&mode_text('-', PRIVATE)),
    ))
}

/// As `ls` writes it.
fn mode_text(kind: char, mode: u32) -> String {
    let letter = |bit: u32| if mode >> bit & 1 == 1 { ['x', 'w', 'r'][bit as usize % 3] } else { '-' };
    std::iter::once(kind).chain((0..9).rev().map(letter)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_others_may_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let set = |mode| std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(mode)).unwrap();
        set(0o700);
        assert_eq!(permission_fault(dir.path()), None);
        assert_eq!(permission_fault(&dir.path().join("none")), None);
        set(0o755);
        let want = format!(
            "directory \"{}\" exist, but the permission is \"drwxr-xr-x\". The recommended permission is \
             \"-rwx------\" to prevent possible unprivileged access to the data",
            dir.path().display()
        );
        assert_eq!(permission_fault(dir.path()), Some(want));
    }
}
