//! Answers of ranges, kept for serialisable reads.
//!
//! A linearizable read fills the cache as well; only serialisable ones are answered from it. A write
//! through this proxy takes out what it may have changed; writes that take another way do not, which
//! is what a serialisable read of a proxy means. Bounded by number and by bytes; the one that was
//! used longest ago goes first.
//!
//! Invariant: no answer is put in whose revision lies before a write, made here, of a key it covers.
//! Answers may overtake each other on their way, so the last writes are remembered with their
//! revisions; an answer older than what is remembered is not kept.
//!
//! **Source**: etcd `server/proxy/grpcproxy/cache` (what is kept, the number).

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb as pb;

const MAX_ENTRIES: usize = 2048;
const MAX_BYTES: usize = 64 << 20;
/// Writes remembered.
const MAX_WRITES: usize = 1024;

/// Keys that a request reads or a write changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) key: Bytes,
    /// Empty: the one key. `\0`: no end.
    pub(crate) range_end: Bytes,
}

impl Span {
    pub(crate) fn new(key: &Bytes, range_end: &Bytes) -> Self {
        Self { key: key.clone(), range_end: range_end.clone() }
    }

    fn is_key(&self) -> bool {
        self.range_end.is_empty()
    }

    fn begins_before_end_of(&self, other: &Self) -> bool {
        match &other.range_end[..] {
            b"" => self.key <= other.key,
            b"\0" => true,
            end => self.key < end,
        }
    }

    /// Whether a key lies in it.
    pub(crate) fn covers(&self, key: &[u8]) -> bool {
        match &self.range_end[..] {
            b"" => self.key == key,
            b"\0" => self.key <= key,
            end => self.key <= key && key < end,
        }
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.begins_before_end_of(other) && other.begins_before_end_of(self)
    }
}

struct Entry {
    span: Span,
    answer: pb::RangeResponse,
    bytes: usize,
    used: u64,
    /// Whether the request asks for the newest state; such answers become outdated.
    newest: bool,
}

/// A write that was made through this proxy.
struct Write {
    span: Span,
    revision: i64,
}

/// What a lookup found.
#[derive(Debug, PartialEq)]
pub(crate) enum Lookup {
    Hit(pb::RangeResponse),
    Compacted,
    Miss,
}

/// The cache.
pub(crate) struct Cache {
    entries: HashMap<Bytes, Entry>,
    /// When which entry was used: the first is the next to go.
    order: BTreeMap<u64, Bytes>,
    /// Entries for one key each, by key; the others.
    by_key: HashMap<Bytes, Vec<Bytes>>,
    ranges: Vec<Bytes>,
    bytes: usize,
    clock: u64,
    compacted_revision: i64,
    writes: VecDeque<Write>,
    /// Revision of the newest write that is no longer remembered.
    forgotten_revision: i64,
    /// How often everything was taken out.
    epoch: u64,
    limits: (usize, usize),
}

impl Default for Cache {
    fn default() -> Self {
        Self::with_limits(MAX_ENTRIES, MAX_BYTES)
    }
}

/// Requests that differ only in how fresh the answer has to be share an entry.
fn name_of(request: &pb::RangeRequest) -> Bytes {
    pb::RangeRequest { serializable: true, ..request.clone() }.encode_to_vec().into()
}

impl Cache {
    fn with_limits(entries: usize, bytes: usize) -> Self {
        Self {
            entries: HashMap::new(),
            order: BTreeMap::new(),
            by_key: HashMap::new(),
            ranges: Vec::new(),
            bytes: 0,
            clock: 0,
            compacted_revision: -1,
            writes: VecDeque::new(),
            forgotten_revision: 0,
            epoch: 0,
            limits: (entries, bytes),
        }
    }

    /// Number of answers.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The answer for a request, if it is there.
    pub(crate) fn get(&mut self, request: &pb::RangeRequest) -> Lookup {
        let name = name_of(request);
        if request.revision > 0 && request.revision < self.compacted_revision {
            self.remove(&name);
            return Lookup::Compacted;
        }
        let Some(entry) = self.entries.get_mut(&name) else { return Lookup::Miss };
        self.clock += 1;
        self.order.remove(&entry.used);
        entry.used = self.clock;
        self.order.insert(entry.used, name);
        Lookup::Hit(entry.answer.clone())
    }

    /// Keeps an answer, if it may be kept, to what was asked for in this epoch.
    pub(crate) fn add(&mut self, epoch: u64, request: &pb::RangeRequest, answer: &pb::RangeResponse) {
        if epoch != self.epoch {
            return;
        }
        let name = name_of(request);
        let (newest, bytes) = (request.revision == 0, name.len() + answer.encoded_len());
        if bytes > self.limits.1 / 8 || (!newest && request.revision <= self.compacted_revision) {
            return;
        }
        let span = Span::new(&request.key, &request.range_end);
        if newest && self.is_outdated(&span, answer.header.as_ref().map_or(0, |header| header.revision)) {
            return;
        }
        self.remove(&name);
        self.clock += 1;
        match (newest, span.is_key()) {
            (true, true) => self.by_key.entry(span.key.clone()).or_default().push(name.clone()),
            (true, false) => self.ranges.push(name.clone()),
            (false, _) => {}
        }
        self.bytes += bytes;
        self.order.insert(self.clock, name.clone());
        let entry = Entry { span, answer: answer.clone(), bytes, used: self.clock, newest };
        self.entries.insert(name, entry);
        while self.entries.len() > self.limits.0 || self.bytes > self.limits.1 {
            let Some((_, oldest)) = self.order.first_key_value() else { break };
            self.remove(&oldest.clone());
        }
    }

    fn is_outdated(&self, span: &Span, revision: i64) -> bool {
        let behind = |write: &Write| write.revision > revision && write.span.overlaps(span);
        revision < self.forgotten_revision || self.writes.iter().any(behind)
    }

    /// Takes out what a write may change or may have changed.
    pub(crate) fn invalidate(&mut self, span: &Span) {
        let entries = &self.entries;
        let overlaps = |name: &&Bytes| entries.get(*name).is_some_and(|entry| entry.span.overlaps(span));
        let mut names: Vec<Bytes> = self.ranges.iter().filter(overlaps).cloned().collect();
        match span.is_key() {
            true => names.extend(self.by_key.get(&span.key).into_iter().flatten().cloned()),
            false => names.extend(self.by_key.values().flatten().filter(overlaps).cloned()),
        }
        names.iter().for_each(|name| self.remove(name));
    }

    /// A write was made at `revision`.
    pub(crate) fn written(&mut self, span: Span, revision: i64) {
        self.invalidate(&span);
        if self.writes.len() == MAX_WRITES
            && let Some(write) = self.writes.pop_front()
        {
            self.forgotten_revision = self.forgotten_revision.max(write.revision);
        }
        self.writes.push_back(Write { span, revision });
    }

    /// Revisions before this one are gone.
    pub(crate) fn compact(&mut self, revision: i64) {
        self.compacted_revision = self.compacted_revision.max(revision);
    }

    /// To be taken before asking for what is to be added.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Takes out everything, and begins a new epoch.
    pub(crate) fn clear(&mut self) {
        self.epoch += 1;
        self.entries.clear();
        self.order.clear();
        self.by_key.clear();
        self.ranges.clear();
        self.bytes = 0;
    }

    fn remove(&mut self, name: &Bytes) {
        let Some(entry) = self.entries.remove(name) else { return };
        self.order.remove(&entry.used);
        self.bytes -= entry.bytes;
        if !entry.newest {
            return;
        }
        if !entry.span.is_key() {
            self.ranges.retain(|other| other != name);
        } else if let Some(names) = self.by_key.get_mut(&entry.span.key) {
            names.retain(|other| other != name);
            if names.is_empty() {
                self.by_key.remove(&entry.span.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::mvccpb::KeyValue;

    fn request(key: &'static str, range_end: &'static str) -> pb::RangeRequest {
        pb::RangeRequest { key: key.into(), range_end: range_end.into(), ..Default::default() }
    }

    fn answer(revision: i64, value: &'static str) -> pb::RangeResponse {
        pb::RangeResponse {
            header: Some(pb::ResponseHeader { revision, ..Default::default() }),
            kvs: vec![KeyValue { value: value.into(), ..Default::default() }],
            ..Default::default()
        }
    }

    fn span(key: &'static str, range_end: &'static str) -> Span {
        Span { key: key.into(), range_end: range_end.into() }
    }

    fn is_there(cache: &mut Cache, request: &pb::RangeRequest) -> bool {
        cache.get(request) != Lookup::Miss
    }

    #[test]
    fn linearizable_answers_serve_serialisable_requests() {
        let mut cache = Cache::default();
        cache.add(0, &request("a", ""), &answer(5, "x"));
        let serialisable = pb::RangeRequest { serializable: true, ..request("a", "") };
        assert_eq!(cache.get(&serialisable), Lookup::Hit(answer(5, "x")));
        assert_eq!(cache.get(&pb::RangeRequest { limit: 1, ..serialisable }), Lookup::Miss);
    }

    #[test]
    fn writes_take_out_what_they_touch() {
        let all = [("a", ""), ("b", ""), ("a", "c"), ("c", "d"), ("b", "\0"), ("\0", "\0")];
        let check = |write: Span, gone: &[(&'static str, &'static str)]| {
            let mut cache = Cache::default();
            all.iter().for_each(|(key, end)| cache.add(0, &request(key, end), &answer(5, "x")));
            cache.written(write.clone(), 6);
            for (key, end) in all {
                let kept = is_there(&mut cache, &request(key, end));
                assert_eq!(kept, !gone.contains(&(key, end)), "{write:?} and {key:?}..{end:?}");
            }
            assert_eq!(cache.len(), all.len() - gone.len());
        };
        check(span("a", ""), &[("a", ""), ("a", "c"), ("\0", "\0")]);
        check(span("bb", ""), &[("a", "c"), ("b", "\0"), ("\0", "\0")]);
        check(span("b", "c"), &[("b", ""), ("a", "c"), ("b", "\0"), ("\0", "\0")]);
        check(span("b", "\0"), &[("b", ""), ("a", "c"), ("c", "d"), ("b", "\0"), ("\0", "\0")]);
    }

    #[test]
    fn an_answer_from_before_a_write_is_not_kept() {
        let mut cache = Cache::default();
        cache.written(span("a", ""), 7);
        cache.add(0, &request("a", ""), &answer(6, "old"));
        cache.add(0, &request("a", "b"), &answer(6, "old"));
        cache.add(0, &request("z", ""), &answer(6, "other"));
        assert!(!is_there(&mut cache, &request("a", "")) && !is_there(&mut cache, &request("a", "b")));
        assert!(is_there(&mut cache, &request("z", "")));
        cache.add(0, &request("a", ""), &answer(7, "new"));
        assert!(is_there(&mut cache, &request("a", "")));
        (0..2_000).for_each(|number| cache.written(span("y", ""), 8 + number));
        cache.add(0, &request("b", ""), &answer(6, "nobody knows"));
        assert!(!is_there(&mut cache, &request("b", "")));
    }

    #[test]
    fn an_answer_asked_for_before_a_clear_is_not_kept() {
        let mut cache = Cache::default();
        let before = cache.epoch();
        cache.clear();
        cache.add(before, &request("a", ""), &answer(6, "anybody's once"));
        assert!(!is_there(&mut cache, &request("a", "")));
        cache.add(cache.epoch(), &request("a", ""), &answer(6, "anybody's now"));
        assert!(is_there(&mut cache, &request("a", "")));
    }

    #[test]
    fn fixed_revisions_outlive_writes_and_end_with_a_compaction() {
        let mut cache = Cache::default();
        let at = |revision| pb::RangeRequest { revision, ..request("a", "") };
        cache.add(0, &at(4), &answer(9, "x"));
        cache.written(span("a", ""), 10);
        assert!(is_there(&mut cache, &at(4)));
        cache.compact(5);
        assert_eq!(cache.get(&at(4)), Lookup::Compacted);
        assert_eq!(cache.len(), 0);
        cache.add(0, &at(4), &answer(9, "x"));
        assert_eq!(cache.len(), 0);
        cache.add(0, &request("a", ""), &answer(10, "y"));
        assert!(is_there(&mut cache, &request("a", "")));
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let mut cache = Cache::with_limits(2, 1 << 20);
        cache.add(0, &request("a", ""), &answer(1, "x"));
        cache.add(0, &request("b", ""), &answer(1, "x"));
        assert!(is_there(&mut cache, &request("a", "")));
        cache.add(0, &request("c", ""), &answer(1, "x"));
        assert!(!is_there(&mut cache, &request("b", "")));
        assert!(is_there(&mut cache, &request("a", "")) && is_there(&mut cache, &request("c", "")));
        let mut small = Cache::with_limits(100, 100);
        small.add(0, &request("a", ""), &answer(1, "a value that is longer than an eighth of all"));
        assert_eq!(small.len(), 0);
        ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"].iter().for_each(|key| {
            small.add(0, &request(key, ""), &answer(1, ""));
        });
        assert!(small.bytes <= 100 && small.len() > 3);
        small.clear();
        assert_eq!((small.len(), small.bytes, small.by_key.len()), (0, 0, 0));
    }
}
