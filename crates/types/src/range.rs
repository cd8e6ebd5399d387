//! Key ranges in etcd's two-field form.

use bytes::Bytes;

/// A range of keys: `[start, end)`, one key, or everything from a key on.
///
/// **Source**: etcd's `RangeRequest.key`/`range_end`: an empty end means one key, an end of a
/// single zero byte means "to the last key".
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyRange {
    /// Exactly this key.
    Single(Bytes),
    /// `start <= key < end`; empty when `end <= start`, which is legal.
    Span(Bytes, Bytes),
    /// `start <= key`.
    From(Bytes),
}

impl KeyRange {
    /// Reads the wire form. `key` = `range_end` = `"\0"` covers every key, the empty one included.
    pub fn from_wire(key: Bytes, range_end: Bytes) -> Self {
        match &range_end[..] {
            [] => Self::Single(key),
            [0] if key[..] == [0] => Self::From(Bytes::new()),
            [0] => Self::From(key),
            _ => Self::Span(key, range_end),
        }
    }

    /// The first key that can be in the range.
    pub fn start(&self) -> &Bytes {
        match self {
            Self::Single(key) | Self::Span(key, _) | Self::From(key) => key,
        }
    }

    /// Whether `key` is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::Single(single) => single == key,
            Self::Span(start, end) => start <= key && key < &end[..],
            Self::From(start) => start <= key,
        }
    }

    /// Whether no key can be in the range.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Span(start, end) if end <= start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_forms() {
        let range = |key: &'static [u8], end: &'static [u8]| KeyRange::from_wire(key.into(), end.into());
        assert_eq!(range(b"a", b""), KeyRange::Single("a".into()));
        assert_eq!(range(b"a", b"\0"), KeyRange::From("a".into()));
        assert!(range(b"\0", b"\0").contains(b""));
        assert!(range(b"a", b"c").contains(b"b"));
        assert!(!range(b"a", b"c").contains(b"c"));
        assert!(range(b"b", b"a").is_empty());
        assert!(!range(b"b", b"a").contains(b"b"));
    }
}
