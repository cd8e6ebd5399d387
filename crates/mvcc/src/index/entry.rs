//! The life of one key: its revisions, cut into generations by tombstones.
//!
//! A generation begins with the put that creates the key and ends with the tombstone that deletes
//! it. etcd keeps a list of generations with a creation revision and a version count each; here the
//! revisions stand in one row, because all of that follows from it: a generation ends behind each
//! tombstone, is created at its first revision and counts versions from 1. Only of the first
//! generation, whose beginning a compaction may have cut off, are both stored.
//!
//! Invariants:
//! - revisions ascend; a tombstone never follows a tombstone, nor begins the row except after a
//!   compaction at its revision or a restore from such a store;
//! - an entry is never empty: a key without revisions leaves the index;
//! - the common case, one put and nothing else, takes 24 bytes and no allocation.
//!
//! **Source**: etcd `server/storage/mvcc/key_index.go`.

use std::num::NonZeroI64;

use types::Revision;

const TOMBSTONE: u32 = 1;
const LEASED: u32 = 2;
const FLAG_BITS: u32 = 2;
/// Largest sub-revision that the index can hold.
pub const MAX_SUB: i64 = (u32::MAX >> FLAG_BITS) as i64;

/// One record of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    main: i64,
    /// Sub-revision and flags.
    packed: u32,
}

impl Stamp {
    /// A put, with whether it attached a lease.
    pub fn put(revision: Revision, leased: bool) -> Self {
        Self::new(revision, if leased { LEASED } else { 0 })
    }

    /// A tombstone.
    pub fn tombstone(revision: Revision) -> Self {
        Self::new(revision, TOMBSTONE)
    }

    fn new(revision: Revision, flags: u32) -> Self {
        assert!((0..=MAX_SUB).contains(&revision.sub), "sub-revision {} out of range", revision.sub);
        assert!(revision.main > 0, "main revision {} out of range", revision.main);
        Self { main: revision.main, packed: (revision.sub as u32) << FLAG_BITS | flags }
    }

    /// The revision.
    pub fn revision(self) -> Revision {
        Revision::new(self.main, i64::from(self.packed >> FLAG_BITS))
    }

    /// Whether the record is a tombstone.
    pub fn is_tombstone(self) -> bool {
        self.packed & TOMBSTONE != 0
    }

    /// Whether the record has a lease.
    pub fn is_leased(self) -> bool {
        self.packed & LEASED != 0
    }
}

/// A key as it was at some revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Revision of the record to read.
    pub modified: Revision,
    /// Revision that created the key.
    pub created: i64,
    /// Number of puts since then.
    pub version: i64,
    /// Whether the record has a lease.
    pub leased: bool,
}

/// What a compaction left of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// The newest record at or below the compaction revision stays, as a put or as a tombstone.
    pub kept: bool,
    /// Nothing is left: the key leaves the index.
    pub empty: bool,
}

/// All that the index knows of one key.
#[derive(Clone, Debug)]
pub enum Entry {
    /// One put and nothing else.
    One(Single),
    /// Anything else.
    Many(Box<History>),
}

const _: () = assert!(size_of::<Entry>() == 24);

/// A key with one put, possibly not its first.
#[derive(Clone, Copy, Debug)]
pub struct Single {
    main: NonZeroI64,
    packed: u32,
    version: u32,
    created: i64,
}

/// A key with several records.
#[derive(Clone, Debug)]
pub struct History {
    /// Creation revision of the first generation; 0 if only its tombstone is left.
    created: i64,
    /// Version of the first record.
    first_version: i64,
    stamps: Vec<Stamp>,
    /// The last of them once more: what most reads and every write look at, without a visit to the row, which
    /// costs a cache miss more.
    last: Stamp,
    /// Position behind the last tombstone: where the newest generation begins. Keeps reads of a
    /// key that was written ten thousand times as cheap as those of one that was written twice.
    newest: usize,
}

impl Entry {
    /// A key that one record of a store makes known: a put with the creation revision and version
    /// it carries, or a tombstone.
    pub fn restored(stamp: Stamp, created: i64, version: i64) -> Self {
        let (created, version) = if stamp.is_tombstone() { (0, 1) } else { (created, version) };
        let newest = usize::from(stamp.is_tombstone());
        Self::from_history(History {
            created,
            first_version: version,
            stamps: vec![stamp],
            last: stamp,
            newest,
        })
    }

    /// A key created by a put.
    pub fn created(stamp: Stamp) -> Self {
        Self::restored(stamp, stamp.main, 1)
    }

    fn from_history(history: History) -> Self {
        if let [stamp] = history.stamps[..]
            && !stamp.is_tombstone()
            && let (Ok(version), Some(main)) =
                (u32::try_from(history.first_version), NonZeroI64::new(stamp.main))
        {
            return Self::One(Single { main, packed: stamp.packed, version, created: history.created });
        }
        Self::Many(Box::new(history))
    }

    /// The newest record.
    pub fn last(&self) -> Stamp {
        match self {
            Self::One(single) => single.stamp(),
            Self::Many(history) => history.last,
        }
    }

    /// Whether the key exists after its newest record.
    pub fn is_live(&self) -> bool {
        !self.last().is_tombstone()
    }

    /// The key as of main revision `at`, if it existed then.
    pub fn at(&self, at: i64) -> Option<Found> {
        match self {
            Self::One(single) => (single.main.get() <= at).then(|| Found {
                modified: single.stamp().revision(),
                created: single.created,
                version: i64::from(single.version),
                leased: single.stamp().is_leased(),
            }),
            Self::Many(history) => history.at(at),
        }
    }

    /// Adds a put. Returns creation revision and version of the new record.
    pub fn put(&mut self, stamp: Stamp) -> (i64, i64) {
        self.push(stamp);
        let found = self.at(i64::MAX).expect("the last record is a put");
        (found.created, found.version)
    }

    /// Adds a tombstone; `false`, and nothing happens, if the key does not exist.
    pub fn tombstone(&mut self, stamp: Stamp) -> bool {
        let live = self.is_live();
        if live {
            self.push(stamp);
        }
        live
    }

    fn push(&mut self, stamp: Stamp) {
        let last = self.last();
        assert!(
            last.revision() < stamp.revision(),
            "revision {} behind {} of the same key",
            stamp.revision(),
            last.revision()
        );
        match self {
            Self::Many(history) => {
                history.stamps.push(stamp);
                history.last = stamp;
                if stamp.is_tombstone() {
                    history.newest = history.stamps.len();
                }
            }
            Self::One(single) => {
                let (created, first_version) = (single.created, i64::from(single.version));
                let mut stamps = Vec::with_capacity(2);
                stamps.extend([last, stamp]);
                let newest = if stamp.is_tombstone() { 2 } else { 0 };
                *self = Self::Many(Box::new(History { created, first_version, stamps, last: stamp, newest }));
            }
        }
    }

    /// Takes the newest record back, which must be `revision`. If it is the only one, nothing happens
    /// and `true` says that the entry is to be dropped.
    pub fn undo(&mut self, revision: Revision) -> bool {
        assert_eq!(self.last().revision(), revision, "only the newest record can be taken back");
        match self {
            Self::One(_) => true,
            Self::Many(history) => {
                let [.., before, _] = history.stamps[..] else { return true };
                history.stamps.pop();
                let undone = std::mem::replace(&mut history.last, before);
                if undone.is_tombstone() {
                    history.newest = history.generation_of(history.stamps.len());
                }
                false
            }
        }
    }

    /// Whether a record of exactly this revision is known.
    pub fn contains(&self, revision: Revision) -> bool {
        match self {
            Self::One(single) => single.stamp().revision() == revision,
            Self::Many(history) => {
                history.stamps.binary_search_by_key(&revision, |stamp| stamp.revision()).is_ok()
            }
        }
    }

    /// The record that a compaction at `at` keeps, tombstones included.
    pub fn kept_by_compaction(&self, at: i64) -> Option<Stamp> {
        match self {
            Self::One(single) => (single.main.get() <= at).then(|| single.stamp()),
            Self::Many(history) => history.keep(at).1.map(|position| history.stamps[position]),
        }
    }

    /// The record at or below `at` that counts for a hash at `at`: never a tombstone.
    pub fn kept_for_hash(&self, at: i64) -> Option<Revision> {
        self.kept_by_compaction(at).filter(|stamp| !stamp.is_tombstone()).map(Stamp::revision)
    }

    /// Drops what a compaction at `at` drops.
    pub fn compact(&mut self, at: i64) -> Compacted {
        let Self::Many(history) = self else {
            return Compacted { kept: self.last().main <= at, empty: false };
        };
        let (start, kept) = history.keep(at);
        let first = kept.unwrap_or(start);
        let compacted = Compacted { kept: kept.is_some(), empty: first == history.stamps.len() };
        if compacted.empty || first == 0 {
            return compacted;
        }
        (history.created, history.first_version) = history.origin(first);
        history.stamps.drain(..first);
        // What is kept at most of an older generation is its tombstone, at the front.
        history.newest = history.newest.saturating_sub(first);
        history.stamps.shrink_to(history.stamps.len() * 2);
        if history.stamps.len() == 1 {
            let many = std::mem::replace(self, Self::One(Single::PLACEHOLDER));
            if let Self::Many(history) = many {
                *self = Self::from_history(*history);
            }
        }
        compacted
    }
}

impl Single {
    const PLACEHOLDER: Self = Self { main: NonZeroI64::MAX, packed: 0, version: 0, created: 0 };

    fn stamp(&self) -> Stamp {
        Stamp { main: self.main.get(), packed: self.packed }
    }
}

impl History {
    fn at(&self, at: i64) -> Option<Found> {
        // Most reads are at the newest revision.
        let (position, stamp) = if self.last.main <= at {
            (self.stamps.len() - 1, self.last)
        } else {
            let position = self.stamps.partition_point(|stamp| stamp.main <= at).checked_sub(1)?;
            (position, self.stamps[position])
        };
        if stamp.is_tombstone() {
            return None;
        }
        let (created, version) = self.origin(position);
        Some(Found { modified: stamp.revision(), created, version, leased: stamp.is_leased() })
    }

    /// Creation revision and version of the record at `position`.
    fn origin(&self, position: usize) -> (i64, i64) {
        let start = if position >= self.newest { self.newest } else { self.generation_of(position) };
        match start {
            0 => (self.created, self.first_version + position as i64),
            start => (self.stamps[start].main, (position - start + 1) as i64),
        }
    }

    /// Position at which the generation of the record at `position` begins: behind the tombstone
    /// before it.
    fn generation_of(&self, position: usize) -> usize {
        self.stamps[..position].iter().rposition(|stamp| stamp.is_tombstone()).map_or(0, |end| end + 1)
    }

    /// First position of the generation that a compaction at `at` begins with, and the position of
    /// the newest record at or below `at` in it.
    fn keep(&self, at: i64) -> (usize, Option<usize>) {
        let mut start = 0;
        let mut end = self.stamps.len();
        for (position, stamp) in self.stamps.iter().enumerate().filter(|(_, stamp)| stamp.is_tombstone()) {
            if stamp.main >= at {
                end = position + 1;
                break;
            }
            start = position + 1;
        }
        let kept = self.stamps[start..end].iter().rposition(|stamp| stamp.main <= at);
        (start, kept.map(|position| start + position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(revisions: &[(i64, bool)]) -> Entry {
        let mut entry = None;
        for &(main, tombstone) in revisions {
            let revision = Revision::new(main, 0);
            match (&mut entry, tombstone) {
                (None, false) => entry = Some(Entry::created(Stamp::put(revision, false))),
                (None, true) => entry = Some(Entry::restored(Stamp::tombstone(revision), 0, 0)),
                (Some(entry), false) => drop(entry.put(Stamp::put(revision, false))),
                (Some(entry), true) => assert!(entry.tombstone(Stamp::tombstone(revision))),
            }
        }
        entry.unwrap()
    }

    fn seen(entry: &Entry, at: i64) -> Option<(i64, i64, i64)> {
        entry.at(at).map(|found| (found.modified.main, found.created, found.version))
    }

    /// The example in the comment of upstream's key index: puts at 1, 2, tombstone 3; put 4,
    /// tombstone 5; put 6.
    fn three_generations() -> Entry {
        entry(&[(1, false), (2, false), (3, true), (4, false), (5, true), (6, false)])
    }

    #[test]
    fn reads_find_the_generation() {
        let entry = three_generations();
        let expected = [None, Some((1, 1, 1)), Some((2, 1, 2)), None, Some((4, 4, 1)), None, Some((6, 6, 1))];
        for (at, expected) in expected.into_iter().enumerate() {
            assert_eq!(seen(&entry, at as i64), expected, "at {at}");
        }
    }

    #[test]
    fn compaction_keeps_the_newest_below_and_a_tombstone_exactly_there() {
        let compacted = |at| {
            let mut entry = three_generations();
            let result = entry.compact(at);
            let mains: Vec<i64> = (0..10).filter(|main| entry.contains(Revision::new(*main, 0))).collect();
            (result.kept, mains)
        };
        assert_eq!(compacted(1), (true, vec![1, 2, 3, 4, 5, 6]));
        assert_eq!(compacted(2), (true, vec![2, 3, 4, 5, 6]));
        assert_eq!(compacted(3), (true, vec![3, 4, 5, 6]));
        assert_eq!(compacted(4), (true, vec![4, 5, 6]));
        assert_eq!(compacted(5), (true, vec![5, 6]));
        assert_eq!(compacted(6), (true, vec![6]));
        assert_eq!(compacted(9), (true, vec![6]));
        assert_eq!(three_generations().kept_for_hash(3), None);
        assert_eq!(three_generations().kept_for_hash(4), Some(Revision::new(4, 0)));
    }

    #[test]
    fn a_dead_key_leaves_after_its_tombstone() {
        let mut dead = entry(&[(1, false), (2, true)]);
        assert_eq!(dead.compact(2), Compacted { kept: true, empty: false });
        assert_eq!(dead.compact(3), Compacted { kept: false, empty: true });
    }

    #[test]
    fn versions_go_on_after_compaction_and_restore() {
        let mut entry = entry(&[(2, false), (3, false), (4, false), (5, false)]);
        entry.compact(4);
        assert_eq!(seen(&entry, 4), Some((4, 2, 3)));
        assert_eq!(seen(&entry, 5), Some((5, 2, 4)));
        entry.compact(5);
        assert!(matches!(entry, Entry::One(_)));
        assert_eq!(entry.put(Stamp::put(Revision::new(6, 0), false)), (2, 5));

        let restored = Entry::restored(Stamp::put(Revision::new(9, 1), true), 3, 1 << 40);
        assert!(restored.at(9).unwrap().leased);
        assert_eq!(seen(&restored, 9), Some((9, 3, 1 << 40)));
    }

    #[test]
    fn two_changes_in_one_revision() {
        let mut entry = entry(&[(2, false)]);
        assert!(entry.tombstone(Stamp::tombstone(Revision::new(3, 0))));
        assert!(!entry.tombstone(Stamp::tombstone(Revision::new(3, 1))));
        assert_eq!(entry.put(Stamp::put(Revision::new(3, 1), false)), (3, 1));
        assert_eq!(seen(&entry, 2), Some((2, 2, 1)));
        assert_eq!(entry.at(3).unwrap().modified, Revision::new(3, 1));
        assert!(!entry.undo(Revision::new(3, 1)));
        assert_eq!(seen(&entry, 3), None);
    }
}
