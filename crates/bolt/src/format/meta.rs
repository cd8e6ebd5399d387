//! The two meta pages, 0 and 1: where the newest committed state begins.
//!
//! Behind the page header, 64 bytes:
//!
//! | at | field |
//! |---|---|
//! | 0 | magic u32 |
//! | 4 | version u32 |
//! | 8 | page size u32 |
//! | 12 | flags u32, 0 |
//! | 16 | root page of the root bucket u64 |
//! | 24 | sequence of the root bucket u64 |
//! | 32 | page of the freelist u64, all ones = not persisted |
//! | 40 | high-water mark u64: first page id never allocated |
//! | 48 | transaction id u64 |
//! | 56 | FNV-1a 64 of the 56 bytes before u64 |
//!
//! Transaction `n` writes page `n % 2`, so a torn meta page never hides the transaction before it.

use thiserror::Error;

use super::{FLAG_META, PAGE_HEADER_BYTES, PageHeader, PageId, TxId, u32_at, u64_at, valid_page_size};

/// First word of a meta page.
pub const MAGIC: u32 = 0xED0C_DAED;
/// Version of the format.
pub const VERSION: u32 = 2;
/// Bytes of a meta behind the page header.
pub const META_BYTES: usize = 64;
/// The freelist page id that says that the list is not in the file.
pub const FREELIST_NOT_PERSISTED: PageId = u64::MAX;

/// What a meta page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Bytes per page.
    pub page_size: u32,
    /// Root page of the root bucket.
    pub root: PageId,
    /// Sequence of the root bucket; always 0 in practice.
    pub root_sequence: u64,
    /// First page of the persisted freelist, or [`FREELIST_NOT_PERSISTED`].
    pub freelist: PageId,
    /// All allocated pages have smaller ids.
    pub high_water: PageId,
    /// The transaction that wrote this meta.
    pub txid: TxId,
}

/// Why a meta page does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MetaError {
    /// Wrong magic, or too short.
    #[error("invalid database")]
    NotADatabase,
    /// A version other than [`VERSION`].
    #[error("version mismatch")]
    Version,
    /// The checksum does not fit the content.
    #[error("checksum error")]
    Checksum,
    /// The checksum fits but the fields contradict each other.
    #[error("meta page of transaction {txid} has an impossible {field} ({value})")]
    Field {
        /// The transaction that the page claims.
        txid: TxId,
        /// Which field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
}

impl Meta {
    /// Reads and verifies a meta page (header included; bytes behind the meta do not matter).
    pub fn parse(page: &[u8]) -> Result<Self, MetaError> {
        let Some(bytes) = page.get(PAGE_HEADER_BYTES..PAGE_HEADER_BYTES + META_BYTES) else {
            return Err(MetaError::NotADatabase);
        };
        if u32_at(bytes, 0) != MAGIC {
            return Err(MetaError::NotADatabase);
        }
        if u32_at(bytes, 4) != VERSION {
            return Err(MetaError::Version);
        }
        if u64_at(bytes, 56) != fnv1a(&bytes[..56]) {
            return Err(MetaError::Checksum);
        }
        let meta = Self {
            page_size: u32_at(bytes, 8),
            root: u64_at(bytes, 16),
            root_sequence: u64_at(bytes, 24),
            freelist: u64_at(bytes, 32),
            high_water: u64_at(bytes, 40),
            txid: u64_at(bytes, 48),
        };
        meta.verify()?;
        Ok(meta)
    }

    fn verify(&self) -> Result<(), MetaError> {
        let wrong = |field, value| Err(MetaError::Field { txid: self.txid, field, value });
        if !valid_page_size(self.page_size as usize) {
            return wrong("page size", u64::from(self.page_size));
        }
        if self.high_water > (i64::MAX as u64) / u64::from(self.page_size) {
            return wrong("high-water mark", self.high_water);
        }
        if self.root < 2 || self.root >= self.high_water {
            return wrong("root page", self.root);
        }
        if self.freelist != FREELIST_NOT_PERSISTED && (self.freelist < 2 || self.freelist >= self.high_water)
        {
            return wrong("freelist page", self.freelist);
        }
        Ok(())
    }

    /// The complete page `id` (0 or 1) with this meta.
    ///
    /// # Panics
    /// If the fields contradict each other: such a meta must never reach a disk.
    pub fn page(&self, id: PageId) -> Vec<u8> {
        assert_eq!(self.verify(), Ok(()), "a meta to be written");
        let mut page = vec![0; self.page_size as usize];
        PageHeader { id, flags: FLAG_META, count: 0, overflow: 0 }.write(&mut page);
        let bytes = &mut page[PAGE_HEADER_BYTES..PAGE_HEADER_BYTES + META_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.page_size.to_le_bytes());
        let words = [self.root, self.root_sequence, self.freelist, self.high_water, self.txid];
        for (index, word) in words.into_iter().enumerate() {
            let at = 16 + 8 * index;
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        let checksum = fnv1a(&bytes[..56]);
        bytes[56..64].copy_from_slice(&checksum.to_le_bytes());
        page
    }
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(14_695_981_039_346_656_037, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(1_099_511_628_211)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const META: Meta = Meta {
        page_size: 4096,
        root: 3,
        root_sequence: 0,
        freelist: FREELIST_NOT_PERSISTED,
        high_water: 4,
        txid: 7,
    };

    #[test]
    fn a_written_meta_reads_back_and_every_flipped_bit_is_noticed() {
        let page = META.page(1);
        assert_eq!(page.len(), 4096);
        assert_eq!(Meta::parse(&page), Ok(META));
        for bit in 0..META_BYTES * 8 {
            let mut damaged = page.clone();
            damaged[PAGE_HEADER_BYTES + bit / 8] ^= 1 << (bit % 8);
            assert!(Meta::parse(&damaged).is_err(), "bit {bit}");
        }
        assert_eq!(Meta::parse(&page[..79]), Err(MetaError::NotADatabase));
    }

    #[test]
    fn the_checksum_is_fnv1a() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
