//! The table of fields that both ends of a connection share: 61 fixed entries, then those that the
//! sender had the receiver add, the newest first.
//!
//! Size: for each added entry name + value + 32 bytes. The oldest leave when it would pass the
//! limit; an entry larger than the limit empties the table and is not added.
//!
//! **Source**: RFC 7541, sections 2.3 and 4, appendix A.

use std::collections::VecDeque;
use std::rc::Rc;

use super::field::Field;

/// The size both sides may use before anything was agreed.
pub(crate) const DEFAULT_TABLE_BYTES: usize = 4096;

#[rustfmt::skip]
const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"),
    (":path", "/index.html"), (":scheme", "http"), (":scheme", "https"), (":status", "200"),
    (":status", "204"), (":status", "206"), (":status", "304"), (":status", "400"),
    (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""),
    ("accept", ""), ("access-control-allow-origin", ""), ("age", ""), ("allow", ""),
    ("authorization", ""), ("cache-control", ""), ("content-disposition", ""),
    ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""),
    ("date", ""), ("etag", ""), ("expect", ""), ("expires", ""), ("from", ""), ("host", ""),
    ("if-match", ""), ("if-modified-since", ""), ("if-none-match", ""), ("if-range", ""),
    ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""), ("location", ""),
    ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""),
    ("via", ""), ("www-authenticate", ""),
];

thread_local! {
    static STATIC_FIELDS: Rc<[Rc<Field>]> =
        STATIC.iter().map(|(name, value)| Field::new(name, value)).collect();
}

/// What one direction of a connection remembers.
#[derive(Debug)]
pub(super) struct Table {
    fixed: Rc<[Rc<Field>]>,
    added: VecDeque<Rc<Field>>,
    bytes: usize,
    limit: usize,
    /// Counts the changes: indexes mean the same as long as this is the same.
    changes: u64,
}

impl Table {
    pub(super) fn new() -> Self {
        let fixed = STATIC_FIELDS.with(Rc::clone);
        Self { fixed, added: VecDeque::new(), bytes: 0, limit: DEFAULT_TABLE_BYTES, changes: 0 }
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// The entry of an index that counts from 1.
    pub(super) fn get(&self, index: usize) -> Option<&Rc<Field>> {
        let place = index.checked_sub(1)?;
        match self.fixed.get(place) {
            Some(field) => Some(field),
            None => self.added.get(place - self.fixed.len()),
        }
    }

    pub(super) fn add(&mut self, field: Rc<Field>) {
        self.changes += 1;
        let size = field.size();
        self.shrink(self.limit.saturating_sub(size));
        if size <= self.limit {
            self.bytes += size;
            self.added.push_front(field);
        }
    }

    pub(super) fn set_limit(&mut self, limit: usize) {
        self.changes += 1;
        self.limit = limit;
        self.shrink(limit);
    }

    fn shrink(&mut self, limit: usize) {
        while self.bytes > limit {
            let Some(field) = self.added.pop_back() else { return };
            self.bytes -= field.size();
        }
    }

    /// The index of a field, or of an entry that has its name at least.
    pub(super) fn find(&self, field: &Field) -> Option<(usize, bool)> {
        let all = self.fixed.iter().chain(&self.added);
        let mut named = None;
        for (place, entry) in all.enumerate() {
            if entry.name() == field.name() {
                if entry.value() == field.value() {
                    return Some((place + 1, true));
                }
                named = named.or(Some((place + 1, false)));
            }
        }
        named
    }
}
