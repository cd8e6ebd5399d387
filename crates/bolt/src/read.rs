//! Read transactions and the buckets they show.

use std::sync::Arc;

use crate::cursor::{Cursor, Value};
use crate::error::Error;
use crate::format::{
    BUCKET_HEADER_BYTES, Bounds, BucketHeader, MAX_DEPTH, Meta, MetaError, Page, PageError, PageFault, PageId,
};
use crate::snapshot::{Image, Snapshot};

/// A read transaction: one committed state that stays as it is until the last clone is dropped.
///
/// Pages that it can reach are not used again meanwhile, so a transaction that is kept for long
/// makes the file grow. It keeps the file open and locked.
#[derive(Clone)]
pub struct ReadTx {
    pub(crate) snapshot: Arc<Snapshot>,
}

impl ReadTx {
    /// A transaction over a database image in memory, for example the bytes of a snapshot file.
    pub fn from_image(bytes: Vec<u8>) -> Result<Self, MetaError> {
        let meta = crate::open::choose_meta(&mut |buffer, offset| {
            let start = (offset as usize).min(bytes.len());
            let count = buffer.len().min(bytes.len() - start);
            buffer[..count].copy_from_slice(&bytes[start..start + count]);
            Ok(count)
        })
        .map_err(|error| match error {
            crate::open::MetaReadError::Io(_) => MetaError::NotADatabase,
            crate::open::MetaReadError::Meta(error) => error,
        })?;
        if meta.high_water * u64::from(meta.page_size) > bytes.len() as u64 {
            return Err(MetaError::Field {
                txid: meta.txid,
                field: "high-water mark",
                value: meta.high_water,
            });
        }
        Ok(Self { snapshot: Arc::new(Snapshot::new(Arc::new(Image(bytes)), None, meta)) })
    }

    /// The transaction whose state this is.
    pub fn txid(&self) -> u64 {
        self.snapshot.meta.txid
    }

    /// What the meta page of this state says.
    pub fn meta(&self) -> &Meta {
        &self.snapshot.meta
    }

    /// Bytes up to the high-water mark: the length of a copy, etcd's "size".
    pub fn size_bytes(&self) -> u64 {
        self.snapshot.size_bytes()
    }

    /// The bucket that holds the top-level buckets.
    pub fn root(&self) -> Bucket<'_> {
        Bucket::root_of(&self.snapshot)
    }

    /// A top-level bucket.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Bucket<'_>>, Error> {
        self.root().bucket(name)
    }

    /// All top-level buckets by name.
    pub fn buckets(&self) -> impl Iterator<Item = Result<(&[u8], Bucket<'_>), Error>> {
        self.root().iter().filter_map(|item| match item {
            Ok((name, Value::Bucket(bucket))) => Some(Ok((name, bucket))),
            Ok((_, Value::Data(_))) => None,
            Err(error) => Some(Err(error)),
        })
    }
}

/// A bucket as a read transaction sees it. A small value; copy it freely.
#[derive(Clone, Copy)]
pub struct Bucket<'tx> {
    snapshot: &'tx Snapshot,
    header: BucketHeader,
    /// The only page of an inline bucket.
    inline: Option<Page<'tx>>,
}

impl<'tx> Bucket<'tx> {
    pub(crate) fn root_of(snapshot: &'tx Snapshot) -> Self {
        let header = BucketHeader { root: snapshot.meta.root, sequence: snapshot.meta.root_sequence };
        Self { snapshot, header, inline: None }
    }

    /// The bucket in a value that stands on page `holder`.
    pub(crate) fn parse(
        snapshot: &'tx Snapshot,
        value: &'tx [u8],
        holder: PageId,
    ) -> Result<Self, PageError> {
        let header = BucketHeader::parse(value, holder)?;
        let inline = match header.root {
            0 => Some(Page::inline(&value[BUCKET_HEADER_BYTES..], holder)?),
            _ => None,
        };
        Ok(Self { snapshot, header, inline })
    }

    pub(crate) fn snapshot(&self) -> &'tx Snapshot {
        self.snapshot
    }

    /// Root page of the bucket's tree; 0 if it is inline.
    pub fn root_page(&self) -> PageId {
        self.header.root
    }

    /// The bucket's counter; etcd leaves it at 0.
    pub fn sequence(&self) -> u64 {
        self.header.sequence
    }

    pub(crate) fn first_page(&self) -> Result<Page<'tx>, PageError> {
        match self.inline {
            Some(page) => Ok(page),
            None => self.snapshot.page(self.header.root),
        }
    }

    /// The value of `key`; `None` if it is absent or holds a bucket.
    pub fn get(&self, key: &[u8]) -> Result<Option<&'tx [u8]>, Error> {
        Ok(self.find(key)?.filter(|found| !found.is_bucket).map(|found| found.value))
    }

    /// The bucket under `name`; `None` if it is absent or holds a value.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Bucket<'tx>>, Error> {
        Ok(match self.find(name)? {
            Some(found) if found.is_bucket => Some(Bucket::parse(self.snapshot, found.value, found.holder)?),
            _ => None,
        })
    }

    /// A cursor that stands before the first key.
    pub fn cursor(&self) -> Cursor<'tx> {
        Cursor::new(*self)
    }

    /// All keys in order. After an error the iterator ends.
    pub fn iter(&self) -> Iter<'tx> {
        Iter { cursor: self.cursor(), failed: false }
    }

    /// The values of several keys, each as [`Bucket::get`] has it. All go down the tree together, level by level: most
    /// pages are in no cache of the processor, which then waits for several at a time instead of one after the other.
    pub fn get_all<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<&'tx [u8]>>, Error> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut places = vec![self.top()?; keys.len()];
        let mut children = Vec::with_capacity(keys.len());
        for _ in 0..MAX_DEPTH {
            for (index, (place, key)) in places.iter().zip(keys).enumerate() {
                if !place.page.is_leaf() {
                    children.push((index, place.child(key.as_ref())?));
                }
            }
            if children.is_empty() {
                let found = places.iter().zip(keys).map(|(place, key)| {
                    let found = place.found(key.as_ref())?;
                    Ok(found.filter(|found| !found.is_bucket).map(|found| found.value))
                });
                return found.collect();
            }
            for (index, (child, bounds)) in children.drain(..) {
                places[index] = Place { page: self.snapshot.page(child)?, bounds };
            }
        }
        Err(PageFault::TooDeep.on(self.header.root).into())
    }

    fn find(&self, key: &[u8]) -> Result<Option<Found<'tx>>, PageError> {
        let mut place = self.top()?;
        for _ in 0..MAX_DEPTH {
            if place.page.is_leaf() {
                return place.found(key);
            }
            let (child, bounds) = place.child(key)?;
            place = Place { page: self.snapshot.page(child)?, bounds };
        }
        Err(PageFault::TooDeep.on(place.page.id()))
    }

    fn top(&self) -> Result<Place<'tx>, PageError> {
        Ok(Place { page: self.first_page()?, bounds: None })
    }
}

/// Where the search for a key has come to.
#[derive(Clone, Copy)]
struct Place<'tx> {
    page: Page<'tx>,
    bounds: Option<Bounds>,
}

impl<'tx> Place<'tx> {
    /// Where to go on below a branch page.
    fn child(&self, key: &[u8]) -> Result<(PageId, Option<Bounds>), PageError> {
        let index = self.page.child_index_within(key, self.bounds)?;
        Ok((self.page.branch(index)?.child, self.page.bounds_below(index)?))
    }

    /// What a leaf page has.
    fn found(&self, key: &[u8]) -> Result<Option<Found<'tx>>, PageError> {
        let Ok(index) = self.page.search_within(key, self.bounds)? else { return Ok(None) };
        let element = self.page.leaf(index)?;
        Ok(Some(Found { value: element.value, is_bucket: element.is_bucket, holder: self.page.id() }))
    }
}

/// What stands under a key.
struct Found<'tx> {
    value: &'tx [u8],
    is_bucket: bool,
    /// The page it stands on.
    holder: PageId,
}

/// The keys of a bucket in order.
pub struct Iter<'tx> {
    cursor: Cursor<'tx>,
    failed: bool,
}

impl<'tx> Iterator for Iter<'tx> {
    type Item = Result<(&'tx [u8], Value<'tx>), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let item = self.cursor.next().transpose();
        self.failed = matches!(item, Some(Err(_)));
        item
    }
}
