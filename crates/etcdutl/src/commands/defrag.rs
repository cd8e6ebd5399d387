//! `defrag`: the database of a stopped member without its holes.
//!
//! **Source**: etcd `etcdutl/etcdutl/defrag_command.go`.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cli::text;
use env::Disk;

use super::Invocation;
use crate::failure::Failure;
use crate::files::{self, MemberFiles};
use crate::log;
use crate::progress::Watched;

/// Carries the command out.
pub fn run(invocation: &Invocation) -> Result<(), Failure> {
    let data_dir = invocation.flags.text("data-dir");
    let db = MemberFiles::new(&data_dir, "").db();
    let done = files::must_exist(&db)
        .and_then(|()| defragment(files::disk(), &db, super::timeout(&invocation.flags)));
    done.map_err(|failure| {
        let text = failure.text.unwrap_or_default();
        Failure::error(format!("Failed to defragment etcd data[{data_dir}] ({text})"))
    })
}

fn defragment(disk: Arc<dyn Disk>, db: &Path, timeout: Duration) -> Result<(), Failure> {
    let backend = files::open_backend(disk, db, timeout, false)?;
    let (size, in_use) = (backend.size_bytes(), backend.size_in_use_bytes());
    log::info(
        "defragmenting",
        &[
            ("path", db.into()),
            ("current-db-size-bytes", size.into()),
            ("current-db-size", text::size(size).into()),
            ("current-db-size-in-use-bytes", in_use.into()),
            ("current-db-size-in-use", text::size(in_use).into()),
        ],
    );
    let start = Instant::now();
    let progress = Watched::start("defragmenting", in_use, new_file_bytes(db));
    backend.defragment()?;
    drop(progress);
    let (new_size, new_in_use) = (backend.size_bytes(), backend.size_in_use_bytes());
    let difference = |new: u64, old: u64| i64::try_from(new).unwrap_or(0) - i64::try_from(old).unwrap_or(0);
    log::info(
        "finished defragmenting directory",
        &[
            ("path", db.into()),
            ("current-db-size-bytes-diff", difference(new_size, size).into()),
            ("current-db-size-bytes", new_size.into()),
            ("current-db-size", text::size(new_size).into()),
            ("current-db-size-in-use-bytes-diff", difference(new_in_use, in_use).into()),
            ("current-db-size-in-use-bytes", new_in_use.into()),
            ("current-db-size-in-use", text::size(new_in_use).into()),
            ("took", text::duration(start.elapsed()).into()),
        ],
    );
    Ok(())
}

/// How long the new file beside the database has become.
fn new_file_bytes(db: &Path) -> impl Fn() -> u64 + Send + 'static {
    let path = db.with_file_name("db.tmp.0");
    move || std::fs::metadata(&path).map_or(0, |file| file.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_files::snapshot;

    #[test]
    fn holes_go_and_everything_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        std::fs::write(&path, &snapshot()[..122_880]).unwrap();
        let timeout = Duration::from_secs(1);
        let content = || {
            let backend = files::open_backend(files::disk(), &path, timeout, true).unwrap();
            (backend.hash().unwrap(), backend.consistent_position(), backend.check())
        };
        let before = content();
        defragment(files::disk(), &path, timeout).unwrap();
        assert_eq!(content(), before);
        assert!(std::fs::metadata(&path).unwrap().len() < 122_880 * 2);
        let names: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["db"], "nothing is left behind");
    }
}
