//! What readers see: the file as of the last commit, plus what waits for the next.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use bolt::ReadTx;
use bytes::Bytes;
use types::{LogPosition, RecordKey, Revision};

use crate::segment::Segment;
use crate::{BucketId, Error};

/// Records fetched from a segment under one lock.
const SEGMENT_CHUNK: usize = 256;

/// A consistent view of the backend.
///
/// Holds every record appended before [`crate::Backend::view`] was called, for as long as it
/// lives: neither commits nor compactions take anything from under it. Records and changes appended
/// later show up too, until the next commit begins. Deletions of records do not: they are seen by
/// views taken after their commit.
#[derive(Clone)]
pub struct View {
    pub(crate) base: ReadTx,
    pub(crate) sealed: Option<Arc<Segment>>,
    pub(crate) active: Arc<Segment>,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("txid", &self.base.txid()).finish_non_exhaustive()
    }
}

/// Reads records of a [`View`] by their keys.
pub struct RecordReader<'a> {
    view: &'a View,
    bucket: Option<bolt::Bucket<'a>>,
}

impl<'a> RecordReader<'a> {
    /// One record.
    pub fn record(&self, key: RecordKey) -> Result<Option<RecordValue<'a>>, Error> {
        if let Some(value) = self.pending(key) {
            return Ok(Some(value));
        }
        match self.bucket {
            Some(bucket) => Ok(bucket.get(&key.encode())?.map(RecordValue::Mapped)),
            None => Ok(None),
        }
    }

    /// Several records, each in the place of its key, in less time than one by one: see [`bolt::Bucket::get_all`].
    pub fn records(&self, keys: &[RecordKey]) -> Result<Vec<Option<RecordValue<'a>>>, Error> {
        let mut values: Vec<_> = keys.iter().map(|key| self.pending(*key)).collect();
        if let Some(bucket) = self.bucket {
            let missing: Vec<usize> = (0..keys.len()).filter(|index| values[*index].is_none()).collect();
            let encoded: Vec<_> = missing.iter().map(|index| keys[*index].encode()).collect();
            for (index, value) in missing.into_iter().zip(bucket.get_all(&encoded)?) {
                values[index] = value.map(RecordValue::Mapped);
            }
        }
        Ok(values)
    }

    /// A record that is not yet in the file.
    fn pending(&self, key: RecordKey) -> Option<RecordValue<'a>> {
        self.view.segments_newest_first().find_map(|segment| segment.record(key)).map(RecordValue::Pending)
    }
}

/// The bytes of a record, borrowed from the file or shared with a segment.
#[derive(Clone, Debug)]
pub enum RecordValue<'a> {
    /// In the file.
    Mapped(&'a [u8]),
    /// Not yet in the file.
    Pending(Bytes),
}

impl RecordValue<'_> {
    /// The bytes as a value of its own; copies only from the file.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::Mapped(bytes) => Bytes::copy_from_slice(bytes),
            Self::Pending(bytes) => bytes,
        }
    }
}

impl Deref for RecordValue<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(bytes) => bytes,
            Self::Pending(bytes) => bytes,
        }
    }
}

impl View {
    /// One record. Who reads several takes a [`View::reader`].
    pub fn record(&self, key: RecordKey) -> Result<Option<RecordValue<'_>>, Error> {
        self.reader()?.record(key)
    }

    /// For reading records one by one.
    pub fn reader(&self) -> Result<RecordReader<'_>, Error> {
        Ok(RecordReader { view: self, bucket: self.base.bucket(BucketId::Key.name())? })
    }

    /// The records of `from..=to`, ascending.
    pub fn records(&self, from: Revision, to: Revision) -> Result<Records<'_>, Error> {
        let mut cursor = self.base.bucket(BucketId::Key.name())?.map(|bucket| bucket.cursor());
        let first = match &mut cursor {
            Some(cursor) => cursor.seek(&RecordKey::put(from).encode())?,
            None => None,
        };
        let segments = self.sealed.iter().chain([&self.active]);
        Ok(Records {
            cursor: cursor.filter(|_| first.is_some()),
            first,
            to,
            segments: segments.cloned().collect::<Vec<_>>().into_iter(),
            from,
            chunk: Vec::new().into_iter(),
            segment: None,
        })
    }

    /// One key of another bucket.
    pub fn get(&self, bucket: BucketId, key: &[u8]) -> Result<Option<Bytes>, Error> {
        assert!(bucket != BucketId::Key, "records are read with `record`");
        let wanted = Bytes::copy_from_slice(key);
        for segment in self.segments_newest_first() {
            if let Some(value) = segment.get(bucket, &wanted) {
                return Ok(value);
            }
        }
        let Some(bucket) = self.base.bucket(bucket.name())? else { return Ok(None) };
        Ok(bucket.get(key)?.map(Bytes::copy_from_slice))
    }

    /// All keys and values of another bucket, sorted by key.
    pub fn scan(&self, bucket: BucketId) -> Result<Vec<(Bytes, Bytes)>, Error> {
        assert!(bucket != BucketId::Key, "records are read with `records`");
        let mut merged = BTreeMap::new();
        if let Some(stored) = self.base.bucket(bucket.name())? {
            let mut cursor = stored.cursor();
            let mut next = cursor.first()?;
            while let Some((key, value)) = next {
                if let bolt::Value::Data(value) = value {
                    merged.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
                }
                next = cursor.next()?;
            }
        }
        for segment in self.sealed.iter().chain([&self.active]) {
            for (key, value) in segment.changes_of(bucket) {
                match value {
                    Some(value) => drop(merged.insert(key, value)),
                    None => drop(merged.remove(&key)),
                }
            }
        }
        Ok(merged.into_iter().collect())
    }

    /// The position that the next commit writes; `None` if no entry waits for it.
    pub fn pending_position(&self) -> Option<LogPosition> {
        self.segments_newest_first().find_map(|segment| segment.read().applied)
    }

    fn segments_newest_first(&self) -> impl Iterator<Item = &Segment> {
        [Some(&*self.active), self.sealed.as_deref()].into_iter().flatten()
    }
}

/// Iterator over the records of a [`View`]. Ends after an error.
pub struct Records<'a> {
    cursor: Option<bolt::Cursor<'a>>,
    /// What the seek found, not yet given out.
    first: Option<(&'a [u8], bolt::Value<'a>)>,
    to: Revision,
    segments: std::vec::IntoIter<Arc<Segment>>,
    segment: Option<Arc<Segment>>,
    /// Where to go on in the segment.
    from: Revision,
    chunk: std::vec::IntoIter<(RecordKey, Bytes)>,
}

impl<'a> Records<'a> {
    fn next_stored(&mut self) -> Result<Option<(RecordKey, RecordValue<'a>)>, Error> {
        let Some(cursor) = &mut self.cursor else { return Ok(None) };
        let item = match self.first.take() {
            Some(item) => Some(item),
            None => cursor.next()?,
        };
        if let Some((key, value)) = item {
            let key = RecordKey::decode(key).map_err(Error::RecordKey)?;
            if key.revision <= self.to {
                let bolt::Value::Data(value) = value else { return Err(Error::NestedBucket) };
                return Ok(Some((key, RecordValue::Mapped(value))));
            }
            // Segments hold only newer records.
            self.segments = Vec::new().into_iter();
        }
        self.cursor = None;
        Ok(None)
    }

    fn next_pending(&mut self) -> Option<(RecordKey, RecordValue<'a>)> {
        loop {
            if let Some((key, value)) = self.chunk.next() {
                self.from = Revision::new(key.revision.main, key.revision.sub + 1);
                return Some((key, RecordValue::Pending(value)));
            }
            let segment = match self.segment.take() {
                Some(segment) => segment,
                None => self.segments.next()?,
            };
            let chunk = segment.records(self.from, self.to, SEGMENT_CHUNK);
            if chunk.len() == SEGMENT_CHUNK {
                self.segment = Some(segment);
            }
            self.chunk = chunk.into_iter();
        }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<(RecordKey, RecordValue<'a>), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.next_stored() {
            Ok(Some(item)) => Some(Ok(item)),
            Ok(None) => self.next_pending().map(Ok),
            Err(error) => {
                (self.cursor, self.segment, self.segments) = (None, None, Vec::new().into_iter());
                Some(Err(error))
            }
        }
    }
}
