//! Defragmenting: the content of one database written into another, in key order.
//!
//! Source: bbolt `compact.go`, etcd `server/storage/backend/backend.go` (`defragdb`).

use crate::cursor::{Cursor, Value};
use crate::db::Db;
use crate::error::Error;
use crate::format::{ELEMENT_BYTES, PageFault};
use crate::read::ReadTx;
use crate::write::{BucketMut, WriteTx};

/// How full pages of a defragmented file are made.
pub const COMPACT_FILL_PERCENT: f32 = 0.9;
/// Keys per transaction.
const KEYS_PER_COMMIT: u64 = 10_000;

/// Copies all buckets of `source` into `target`, which should be empty; returns the number of keys.
///
/// Commits after each 10,000 keys, so a failure leaves a part of them in `target`.
pub fn compact_into(source: &ReadTx, target: &Db) -> Result<u64, Error> {
    let mut keys = 0;
    let mut in_transaction = 0;
    // Cursors from the root down, and the names of the buckets that all but the first stand for.
    let mut cursors: Vec<Cursor<'_>> = vec![source.root().cursor()];
    let mut path: Vec<&[u8]> = Vec::new();
    let mut tx = target.write()?;
    while let Some(cursor) = cursors.last_mut() {
        let mut bucket = open_path(&mut tx, &path)?;
        let entered = loop {
            if in_transaction == KEYS_PER_COMMIT {
                break None;
            }
            let Some((key, value)) = cursor.next()? else {
                cursors.pop();
                path.pop();
                break None;
            };
            keys += 1;
            in_transaction += 1;
            // Only buckets that contain themselves can have more keys than fit the file.
            if keys > source.size_bytes() / ELEMENT_BYTES as u64 {
                return Err(PageFault::MultipleReferences.on(source.meta().root).into());
            }
            match (value, &mut bucket) {
                (Value::Bucket(nested), _) => break Some((key, nested)),
                (Value::Data(value), Some(bucket)) => bucket.put(key, value)?,
                // bbolt allows no values beside the top-level buckets.
                (Value::Data(_), None) => {}
            }
        };
        if let Some((name, nested)) = entered {
            let mut created = match bucket {
                Some(parent) => parent.into_created_bucket(name)?,
                None => tx.create_bucket_if_missing(name)?,
            };
            created.set_sequence(nested.sequence());
            path.push(name);
            cursors.push(nested.cursor());
        } else if in_transaction == KEYS_PER_COMMIT {
            tx.commit()?;
            tx = target.write()?;
            in_transaction = 0;
        }
    }
    tx.commit()?;
    Ok(keys)
}

/// The bucket at a path of names in the target; `None` for the root.
fn open_path<'tx>(tx: &'tx mut WriteTx<'_>, path: &[&[u8]]) -> Result<Option<BucketMut<'tx>>, Error> {
    let Some((first, rest)) = path.split_first() else { return Ok(None) };
    let mut bucket = tx.bucket(first)?.ok_or(Error::BucketNotFound)?;
    bucket.set_fill_percent(COMPACT_FILL_PERCENT);
    for name in rest {
        bucket = bucket.into_bucket(name)?.ok_or(Error::BucketNotFound)?;
        bucket.set_fill_percent(COMPACT_FILL_PERCENT);
    }
    Ok(Some(bucket))
}
