//! `snapshot status`: what a snapshot file, or the database of a stopped member, holds.
//!
//! The structure of the file is checked first, then everything in it is hashed: CRC-32C over the name
//! of each bucket and each key and value in it, in order. Keys counts those that exist at the newest
//! revision. The checksum that follows the database in a snapshot file is not looked at.
//!
//! **Source**: etcd `etcdutl/snapshot/v3_snapshot.go` (`Status`).

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backend::{BucketId, schema};
use bolt::ReadTx;
use cli::text::quote;
use env::Disk;
use types::{RecordKey, Version};

use super::Invocation;
use crate::failure::{Failure, chain};
use crate::files;
use crate::print::{self, write_stdout};
use crate::progress::Progress;

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Over everything in it.
    pub hash: u32,
    /// Newest revision.
    pub revision: i64,
    /// Keys that exist.
    pub total_keys: usize,
    /// Size of the database.
    pub total_bytes: u64,
    /// Storage version; empty before 3.6.
    pub version: String,
}

/// Carries the command out.
pub fn run(invocation: &Invocation) -> Result<(), Failure> {
    let [file] = &invocation.args[..] else {
        return Err(Failure::arguments("snapshot status requires exactly one argument"));
    };
    let file = PathBuf::from(cli::text::lossy(file));
    files::must_exist(&file)?;
    let format = print::format(&invocation.flags.text("write-out"))?;
    let found = status(files::disk(), &file, super::timeout(&invocation.flags))?;
    write_stdout(&print::status(format, &found)?);
    Ok(())
}

fn status(disk: Arc<dyn Disk>, file: &std::path::Path, timeout: Duration) -> Result<Status, Failure> {
    let tx = files::open_to_read(disk, file, timeout)?.read();
    let faults = tx.check();
    if !faults.is_empty() {
        let list: Vec<_> = faults.iter().map(ToString::to_string).collect();
        return Err(Failure::error(format!(
            "snapshot file integrity check failed. {} errors found.\n{}",
            list.len(),
            list.join("\n")
        )));
    }
    examine(&tx)
}

fn examine(tx: &ReadTx) -> Result<Status, Failure> {
    let mut found = Status { total_bytes: tx.size_bytes(), version: version(tx)?, ..Status::default() };
    let mut live: HashSet<&[u8]> = HashSet::new();
    let mut progress = Progress::start("hashing", tx.size_bytes());
    for bucket in tx.buckets() {
        let (name, bucket) = bucket?;
        let is_key = name == BucketId::Key.name();
        found.hash = crc32c::crc32c_append(found.hash, name);
        for item in bucket.iter() {
            let (key, value) = item?;
            let value = value.data().unwrap_or_default();
            found.hash = crc32c::crc32c_append(crc32c::crc32c_append(found.hash, key), value);
            progress.advance((key.len() + value.len()) as u64);
            if is_key {
                let record = record(key, value)?;
                found.revision = record.revision;
                match record.tombstone {
                    true => live.remove(record.key),
                    false => live.insert(record.key),
                };
            }
        }
    }
    found.total_keys = live.len();
    Ok(found)
}

struct Found<'a> {
    revision: i64,
    tombstone: bool,
    key: &'a [u8],
}

fn record<'a>(key: &[u8], value: &'a [u8]) -> Result<Found<'a>, Failure> {
    let failure = |text: String| {
        Failure::error(format!("error during bucket key iteration, name: \"key\" err: {text}"))
    };
    let RecordKey { revision, tombstone } = RecordKey::decode(key)
        .map_err(|error| failure(format!("cannot parse revision key: {} err: {error}", quote(key))))?;
    let name = mvcc::record::key_of(value).map_err(|error| {
        failure(format!(
            "cannot unmarshal value, key: {} value: {} err: {}",
            quote(key),
            quote(value),
            chain(&error)
        ))
    })?;
    Ok(Found { revision: revision.main, tombstone, key: name })
}

/// The storage version as stored; empty before 3.6.
fn version(tx: &ReadTx) -> Result<String, Failure> {
    let Some(meta) = tx.bucket(BucketId::Meta.name())? else { return Ok(String::new()) };
    let Some(stored) = meta.get(schema::STORAGE_VERSION)? else { return Ok(String::new()) };
    let text = cli::text::lossy(stored);
    let version: Version = text
        .parse()
        .map_err(|_| Failure::error(format!("storage version {} is not a version", quote(stored))))?;
    Ok(version.to_string())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use env::OpenMode;
    use env::sim::SimDisk;

    use super::*;
    use crate::test_files::snapshot;

    fn on_disk(bytes: &[u8]) -> Arc<dyn Disk> {
        let disk = SimDisk::new();
        let file = disk.open(Path::new("s.db"), OpenMode::CreateNew(0o600)).unwrap();
        file.write_at(bytes, 0).unwrap();
        Arc::new(disk)
    }

    fn check(bytes: &[u8]) -> Result<Status, String> {
        status(on_disk(bytes), Path::new("s.db"), Duration::from_secs(1))
            .map_err(|failure| failure.text.unwrap_or_default())
    }

    #[test]
    fn the_fixture_has_the_numbers_that_etcd_gives() {
        let expected = Status {
            hash: 3_246_540_546,
            revision: 567,
            total_keys: 413,
            total_bytes: 122_880,
            version: String::new(),
        };
        assert_eq!(check(&snapshot()).as_ref(), Ok(&expected));
        let without_checksum = &snapshot()[..122_880];
        assert_eq!(check(without_checksum), Ok(expected));
    }

    #[test]
    fn damaged_files_are_named_and_never_read_past() {
        assert_eq!(check(b"").unwrap_err(), "invalid database");
        assert_eq!(check(&[7; 100]).unwrap_err(), "invalid database");
        let cut = check(&snapshot()[..100_000]).unwrap_err();
        assert!(cut.contains("100000 bytes of 122880: the file was cut off"), "{cut}");
        let mut torn = snapshot();
        torn[8192..122_880].fill(0);
        let text = check(&torn).unwrap_err();
        assert!(text.starts_with("snapshot file integrity check failed. "), "{text}");
    }

    #[test]
    fn a_record_that_is_none_is_named() {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
        let db = bolt::Db::open(disk.clone(), Path::new("s.db"), bolt::Options::default()).unwrap();
        let mut tx = db.write().unwrap();
        tx.create_bucket_if_missing(b"key").unwrap().put(b"0", b"").unwrap();
        tx.commit().unwrap();
        drop(db);
        let failure = status(disk, Path::new("s.db"), Duration::from_secs(1)).unwrap_err();
        let text = failure.text.unwrap();
        assert!(text.contains("cannot parse revision key: \"0\" err: "), "{text}");
    }
}
