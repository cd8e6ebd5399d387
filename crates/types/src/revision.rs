//! Revisions of the key-value store and their form as backend keys.
//!
//! A write transaction gets one *main* revision; its changes are numbered by *sub* from 0 in
//! execution order. The empty store is at main revision 1, the first write gets 2.
//!
//! Layout of a record key in the `key` bucket (big endian, so that byte order is revision order):
//!
//! ```text
//! main: u64be | '_' | sub: u64be            17 bytes, a put
//! main: u64be | '_' | sub: u64be | 't'      18 bytes, a tombstone
//! ```
//!
//! **Source**: etcd `server/storage/mvcc/revision.go`.

use std::fmt;

/// One change of the store: main revision of its transaction and its place in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// Revision of the transaction; what clients see as `mod_revision`.
    pub main: i64,
    /// Number of the change inside the transaction, from 0.
    pub sub: i64,
}

impl Revision {
    /// Builds a revision from its two parts.
    pub const fn new(main: i64, sub: i64) -> Self {
        Self { main, sub }
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.main, self.sub)
    }
}

/// Key of a record in the `key` bucket: a revision and whether the record is a tombstone.
///
/// Ordered as its encoding is: a tombstone right behind a put of the same revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey {
    /// The change that wrote the record.
    pub revision: Revision,
    /// The change was a deletion.
    pub tombstone: bool,
}

/// A backend key that is not a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseRevisionError {
    /// Length of the refused key in bytes.
    pub len: usize,
}

impl fmt::Display for ParseRevisionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a key of {} bytes is not a revision", self.len)
    }
}

impl std::error::Error for ParseRevisionError {}

impl RecordKey {
    /// Length of an encoded key without the tombstone mark.
    pub const REVISION_LEN: usize = 17;
    /// Length of an encoded tombstone key.
    pub const TOMBSTONE_LEN: usize = 18;

    /// Key of a put.
    pub const fn put(revision: Revision) -> Self {
        Self { revision, tombstone: false }
    }

    /// Key of a tombstone.
    pub const fn tombstone(revision: Revision) -> Self {
        Self { revision, tombstone: true }
    }

    /// The stored form, in a fixed buffer with its used length.
    pub fn encode(&self) -> EncodedRecordKey {
        let mut bytes = [0; Self::TOMBSTONE_LEN];
        bytes[..8].copy_from_slice(&self.revision.main.to_be_bytes());
        bytes[8] = b'_';
        bytes[9..17].copy_from_slice(&self.revision.sub.to_be_bytes());
        bytes[17] = b't';
        EncodedRecordKey { bytes, len: if self.tombstone { Self::TOMBSTONE_LEN } else { Self::REVISION_LEN } }
    }

    /// Reads the stored form.
    pub fn decode(bytes: &[u8]) -> Result<Self, ParseRevisionError> {
        let refuse = || ParseRevisionError { len: bytes.len() };
        let tombstone = match bytes.len() {
            Self::REVISION_LEN => false,
            Self::TOMBSTONE_LEN if bytes[17] == b't' => true,
            _ => return Err(refuse()),
        };
        let part = |from: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[from..from + 8]);
            i64::from_be_bytes(number)
        };
        if bytes[8] != b'_' {
            return Err(refuse());
        }
        Ok(Self { revision: Revision::new(part(0), part(9)), tombstone })
    }
}

/// The stored form of a [`RecordKey`]; dereferences to its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodedRecordKey {
    bytes: [u8; RecordKey::TOMBSTONE_LEN],
    len: usize,
}

impl std::ops::Deref for EncodedRecordKey {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl AsRef<[u8]> for EncodedRecordKey {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn layout_is_upstreams() {
        let key = RecordKey::tombstone(Revision::new(0x0102, 3)).encode();
        assert_eq!(&*key, b"\0\0\0\0\0\0\x01\x02_\0\0\0\0\0\0\0\x03t");
    }

    #[test]
    fn junk_is_refused() {
        assert!(RecordKey::decode(b"").is_err());
        assert!(RecordKey::decode(&[0; 17]).is_err());
        assert!(RecordKey::decode(b"\0\0\0\0\0\0\x01\x02_\0\0\0\0\0\0\0\x03x").is_err());
    }

    proptest! {
        #[test]
        fn encoding_keeps_order(a in any::<(u32, u32, bool)>(), b in any::<(u32, u32, bool)>()) {
            let key = |(main, sub, tombstone): (u32, u32, bool)| RecordKey {
                revision: Revision::new(main.into(), sub.into()),
                tombstone,
            };
            let (a, b) = (key(a), key(b));
            prop_assert_eq!(RecordKey::decode(&a.encode()).unwrap(), a);
            prop_assert_eq!(a.encode().cmp(&b.encode()), a.cmp(&b));
        }
    }
}
