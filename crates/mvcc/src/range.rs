//! Reads.
//!
//! A read runs at one fixed revision in two phases. The index says which records answer it: in
//! chunks of [`CHUNK_KEYS`] keys, letting go of the lock in between, so that a large range does not
//! delay a write. What writers add meanwhile is newer than the revision and not seen; a compaction
//! beyond the revision makes the read start again at the then current one. After [`MAX_RESTARTS`] of
//! these it keeps the lock. Then the records are fetched from a view of the backend taken at the
//! start, without any lock, and copied into the answer as they are.
//!
//! Filters and all sort orders but the one by value are decided by the index alone, so that only
//! records of the answer are fetched.
//!
//! **Source**: etcd `server/etcdserver/txn/range.go`, `server/storage/mvcc/kvstore_txn.go`.

use std::cmp::Ordering;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use backend::{RecordReader, RecordValue, View};
use bytes::Bytes;
use types::{KeyRange, RecordKey, Revision};

use crate::index::Found;
use crate::kvs::{EncodedKvs, KvsBuilder};
use crate::record::{self, RecordFields};
use crate::store::{ReadError, State, Store};

/// Keys visited under one lock.
const CHUNK_KEYS: usize = 256;
/// Records looked up together.
const GROUP_RECORDS: usize = 16;
/// What a read may take of a core before it lets others have it.
const BREATHE_AFTER: Duration = Duration::from_micros(200);
/// Chunked tries of a read at the latest revision before it keeps the lock.
const MAX_RESTARTS: usize = 3;

/// What to sort by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortTarget {
    /// The key.
    #[default]
    Key,
    /// The version of the key.
    Version,
    /// The creation revision.
    Create,
    /// The revision of the last change.
    Mod,
    /// The value.
    Value,
}

/// In which direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortOrder {
    /// No explicit order: ascending, and for another target than the key applied only to what the
    /// limit let through.
    #[default]
    None,
    /// Ascending.
    Ascend,
    /// Descending.
    Descend,
}

/// A read.
#[derive(Clone, Debug)]
pub struct RangeQuery {
    /// Which keys.
    pub range: KeyRange,
    /// At which revision; 0 and below mean the latest.
    pub revision: i64,
    /// Largest number of results; 0 and below mean all.
    pub limit: i64,
    /// Count only.
    pub count_only: bool,
    /// Stop counting at the limit: `count` is then what was seen.
    pub without_total: bool,
    /// Leave values out.
    pub keys_only: bool,
    /// With `keys_only`: answer from the index, with lease 0, as 3.7 does. Otherwise leases are given.
    pub keys_only_from_index: bool,
    /// What to sort by.
    pub sort_target: SortTarget,
    /// In which direction.
    pub sort_order: SortOrder,
    /// Filters, inclusive; 0 is off.
    pub min_mod_revision: i64,
    /// See `min_mod_revision`.
    pub max_mod_revision: i64,
    /// See `min_mod_revision`.
    pub min_create_revision: i64,
    /// See `min_mod_revision`.
    pub max_create_revision: i64,
}

impl RangeQuery {
    /// All of a range at the latest revision.
    pub fn new(range: KeyRange) -> Self {
        Self {
            range,
            revision: 0,
            limit: 0,
            count_only: false,
            without_total: false,
            keys_only: false,
            keys_only_from_index: false,
            sort_target: SortTarget::Key,
            sort_order: SortOrder::None,
            min_mod_revision: 0,
            max_mod_revision: 0,
            min_create_revision: 0,
            max_create_revision: 0,
        }
    }

    /// One key at the latest revision.
    pub fn key(key: impl Into<Bytes>) -> Self {
        Self::new(KeyRange::Single(key.into()))
    }

    /// Whether results come in the order of the index. Also true for a target other than the key
    /// without an order: those are cut first and sorted then.
    fn has_index_order(&self) -> bool {
        match self.sort_order {
            SortOrder::None => true,
            SortOrder::Ascend => self.sort_target == SortTarget::Key,
            SortOrder::Descend => false,
        }
    }

    fn has_filters(&self) -> bool {
        let filters = [
            self.min_mod_revision,
            self.max_mod_revision,
            self.min_create_revision,
            self.max_create_revision,
        ];
        filters.iter().any(|filter| *filter != 0)
    }

    fn passes(&self, found: &Found) -> bool {
        let within =
            |value: i64, min: i64, max: i64| (max == 0 || value <= max) && (min == 0 || value >= min);
        within(found.modified.main, self.min_mod_revision, self.max_mod_revision)
            && within(found.created, self.min_create_revision, self.max_create_revision)
    }

    fn limit(&self) -> usize {
        usize::try_from(self.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX)
    }

    /// Results to take from the index: one more than asked for shows that there are more.
    fn take(&self) -> usize {
        match self.has_index_order() && !self.has_filters() {
            true => self.limit().saturating_add(1),
            false => usize::MAX,
        }
    }

    fn needs_keys(&self) -> bool {
        self.keys_only && self.sort_target != SortTarget::Value
    }
}

/// The answer.
#[derive(Clone, Debug, Default)]
pub struct RangeResult {
    /// The results as encoded messages.
    pub kvs: EncodedKvs,
    /// Keys in the range at that revision, whatever limit and filters say.
    pub count: i64,
    /// The limit cut results off.
    pub more: bool,
    /// Current revision of the store at the time of the read.
    pub revision: i64,
}

/// A record that the index chose.
struct Selected {
    found: Found,
    /// Only where the query needs keys from the index.
    key: Box<[u8]>,
}

/// What the index knows about the answer.
#[derive(Default)]
struct Selection {
    /// What was selected and not fetched yet.
    records: Vec<Selected>,
    /// Records selected.
    taken: usize,
    /// Keys that exist, as far as they were visited.
    count: usize,
    /// Keys that exist in the whole range, if that was known without a walk when the lock was let go.
    total: Option<usize>,
    /// Keys looked at, by which the walk is cut into chunks.
    visited: usize,
}

/// Where records come from: the backend and the transaction's own.
pub(crate) struct Source<'a> {
    reader: RecordReader<'a>,
    own: &'a [(RecordKey, Bytes)],
}

impl<'a> Source<'a> {
    pub(crate) fn new(view: &'a View, own: &'a [(RecordKey, Bytes)]) -> Result<Self, ReadError> {
        Ok(Self { reader: view.reader()?, own })
    }

    /// The record of a put.
    pub(crate) fn record(&self, revision: Revision) -> Result<RecordValue<'_>, ReadError> {
        if let Some((first, _)) = self.own.first()
            && revision.main == first.revision.main
        {
            // Sub-revisions count the records of the transaction from 0.
            return Ok(RecordValue::Pending(self.own[revision.sub as usize].1.clone()));
        }
        self.reader.record(RecordKey::put(revision))?.ok_or(ReadError::MissingRecord { revision })
    }

    /// The records of several puts.
    fn records(&self, selected: &[Selected]) -> Result<Vec<RecordValue<'_>>, ReadError> {
        let revisions = selected.iter().map(|selected| selected.found.modified);
        if !self.own.is_empty() {
            return revisions.map(|revision| self.record(revision)).collect();
        }
        let keys: Vec<RecordKey> = revisions.map(RecordKey::put).collect();
        let records = self.reader.records(&keys)?.into_iter().zip(&keys);
        records
            .map(|(record, key)| record.ok_or(ReadError::MissingRecord { revision: key.revision }))
            .collect()
    }

    /// The lease in the record of a put.
    pub(crate) fn lease(&self, revision: Revision) -> Result<i64, ReadError> {
        let record = self.record(revision)?;
        Ok(record::parse(&record).map_err(|source| ReadError::Malformed { revision, source })?.lease)
    }
}

impl Store {
    /// Reads a range. Safe from any thread.
    pub fn range(&self, query: &RangeQuery) -> Result<RangeResult, ReadError> {
        self.counters.ranges.fetch_add(1, Relaxed);
        if let KeyRange::Single(key) = &query.range {
            return self.range_single(key, query);
        }
        for attempt in 0.. {
            let state = self.state.read();
            let at = state.resolve(query.revision)?;
            let (epoch, revision, view) = (state.epoch, state.current, self.backend.view());
            let selection = if attempt >= MAX_RESTARTS {
                let selection = select_all(&state, query, at);
                drop(state);
                selection
            } else {
                let mut selection = Selection::default();
                let next = select(&state, query, at, None, CHUNK_KEYS, &mut selection);
                drop(state);
                if query.has_index_order() && query.sort_target == SortTarget::Key {
                    let walk = Walk { at, epoch, next, selection };
                    match self.fetch_as_selected(query, walk, &Source::new(&view, &[])?)? {
                        Some(result) => return Ok(RangeResult { revision, ..result }),
                        None => continue,
                    }
                }
                if self.select_rest(query, at, epoch, next, &mut selection).is_break() {
                    continue;
                }
                selection
            };
            return finish(query, selection, &Source::new(&view, &[])?, revision);
        }
        unreachable!("a read that keeps the lock is not disturbed")
    }

    /// Reads a range if `keys` keys of the index are all it takes to look at; otherwise nothing was fetched. Holds
    /// the lock for that many, and as many that an open transaction has created or deleted: counting looks at those.
    pub fn range_within(&self, query: &RangeQuery, keys: usize) -> Result<Option<RangeResult>, ReadError> {
        if matches!(query.range, KeyRange::Single(_)) {
            return self.range(query).map(Some);
        }
        let state = self.state.read();
        let at = state.resolve(query.revision).inspect_err(|_| {
            self.counters.ranges.fetch_add(1, Relaxed);
        })?;
        let is_long = || {
            let total = || state.count_now(&query.range, at);
            !query.count_only && query.take() > keys && total().is_some_and(|total| total > keys)
        };
        if state.uncommitted.len() > keys || is_long() {
            return Ok(None);
        }
        let mut selection = Selection::default();
        let mut next = select(&state, query, at, None, keys, &mut selection);
        while let Some(from) = next {
            if selection.visited >= keys {
                return Ok(None);
            }
            next = select(&state, query, at, Some(&from), keys - selection.visited, &mut selection);
        }
        let (revision, view) = (state.current, self.backend.view());
        drop(state);
        self.counters.ranges.fetch_add(1, Relaxed);
        finish(query, selection, &Source::new(&view, &[])?, revision).map(Some)
    }

    /// The most frequent read: nothing to sort, nothing to cut.
    fn range_single(&self, key: &Bytes, query: &RangeQuery) -> Result<RangeResult, ReadError> {
        let state = self.state.read();
        let at = state.resolve(query.revision)?;
        let revision = state.current;
        let found = state.index.get(key, at).filter(|_| !key.is_empty());
        let wanted = found.filter(|found| !query.count_only && query.passes(found));
        let count = i64::from(found.is_some());
        let Some(found) = wanted else {
            return Ok(RangeResult { count, revision, ..RangeResult::default() });
        };
        let view = self.backend.view();
        drop(state);
        let mut builder = KvsBuilder::new(1);
        push(query, key, &found, &Source::new(&view, &[])?, &mut builder)?;
        Ok(RangeResult { kvs: builder.finish(), count, more: false, revision })
    }

    /// Goes on with a walk and fetches the records of each chunk before the next, so that a large
    /// range holds nothing but its answer. `None`: the revision was compacted or the store replaced.
    fn fetch_as_selected(
        &self,
        query: &RangeQuery,
        walk: Walk,
        source: &Source<'_>,
    ) -> Result<Option<RangeResult>, ReadError> {
        let Walk { at, epoch, mut next, mut selection } = walk;
        let mut builder = KvsBuilder::new(if next.is_some() { usize::MAX } else { selection.taken });
        let mut breath = Breath::new();
        loop {
            // One more than the limit is selected, to know whether there are more.
            selection.records.truncate(query.limit() - builder.len());
            push_all(query, &selection.records, source, &mut builder)?;
            selection.records.clear();
            let Some(from) = next else { break };
            breath.take();
            let state = self.state.read();
            if state.epoch != epoch || state.compacted > at {
                return Ok(None);
            }
            next = select(&state, query, at, Some(&from), CHUNK_KEYS, &mut selection);
        }
        let more = selection.taken > query.limit();
        let count = selection.count as i64;
        Ok(Some(RangeResult { kvs: builder.finish(), count, more, revision: 0 }))
    }

    /// Goes on with a walk. `Break`: the revision was compacted or the store replaced.
    fn select_rest(
        &self,
        query: &RangeQuery,
        at: i64,
        epoch: u64,
        mut next: Option<Vec<u8>>,
        selection: &mut Selection,
    ) -> ControlFlow<()> {
        let mut breath = Breath::new();
        while let Some(from) = next {
            let state = self.state.read();
            if state.epoch != epoch || state.compacted > at {
                return ControlFlow::Break(());
            }
            next = select(&state, query, at, Some(&from), CHUNK_KEYS, selection);
            drop(state);
            breath.take();
        }
        ControlFlow::Continue(())
    }

    /// The record of `key` as of revision `at`, raw; `None` if the key did not exist.
    pub fn record_at(&self, key: &[u8], at: i64) -> Result<Option<Bytes>, ReadError> {
        let state = self.state.read();
        let at = state.resolve(at)?;
        let Some(found) = state.index.get(key, at) else { return Ok(None) };
        let view = self.backend.view();
        drop(state);
        Source::new(&view, &[])?.record(found.modified).map(|record| Some(record.into_bytes()))
    }
}

/// Reads a range inside a transaction: at `at`, under the writer's lock.
pub(crate) fn range_in_txn(
    state: &State,
    query: &RangeQuery,
    current: i64,
    source: &Source<'_>,
) -> Result<RangeResult, ReadError> {
    let at = state.resolve_at(query.revision, current)?;
    let selection = select_all(state, query, at);
    finish(query, selection, source, current)
}

/// Walks up to `chunk` keys, those that did not exist then among them. Returns where to go on, `None` when the walk
/// is complete.
///
/// At the newest revision the number of keys is known without a walk, so there it ends with the
/// last result. Only the first chunk is sure to see that revision as the newest one: the number is
/// taken then.
fn select(
    state: &State,
    query: &RangeQuery,
    at: i64,
    from: Option<&[u8]>,
    chunk: usize,
    selection: &mut Selection,
) -> Option<Vec<u8>> {
    let (take, filters) = (if query.count_only { 0 } else { query.take() }, query.has_filters());
    let ends_early = query.without_total && !query.count_only;
    if take == 0
        && let Some(total) = selection.total.or_else(|| state.count_now(&query.range, at))
    {
        selection.count = total;
        return None;
    }
    let bound = selection.visited.saturating_add(chunk);
    let end = state.index.walk(&query.range, from, at, |key, found| {
        selection.visited += 1;
        if let Some(found) = found {
            selection.count += 1;
            if selection.taken < take {
                if !filters || query.passes(&found) {
                    let key = if query.needs_keys() { key.into() } else { Box::default() };
                    selection.records.push(Selected { found, key });
                    selection.taken += 1;
                }
                if selection.taken == take {
                    return ControlFlow::Break(if ends_early { None } else { Some([key, b"\0"].concat()) });
                }
            }
        }
        match selection.visited >= bound {
            true => ControlFlow::Break(Some([key, b"\0"].concat())),
            false => ControlFlow::Continue(()),
        }
    });
    let next = end.break_value().flatten()?;
    if !ends_early {
        selection.total = selection.total.or_else(|| state.count_now(&query.range, at));
        if selection.taken == take
            && let Some(total) = selection.total
        {
            selection.count = total;
            return None;
        }
    }
    Some(next)
}

/// Walks to the end under one lock.
fn select_all(state: &State, query: &RangeQuery, at: i64) -> Selection {
    let mut selection = Selection::default();
    let mut next = select(state, query, at, None, usize::MAX, &mut selection);
    while let Some(from) = next {
        next = select(state, query, at, Some(&from), usize::MAX, &mut selection);
    }
    selection
}

fn finish(
    query: &RangeQuery,
    selection: Selection,
    source: &Source<'_>,
    revision: i64,
) -> Result<RangeResult, ReadError> {
    let Selection { mut records, count, .. } = selection;
    let more = records.len() > query.limit();
    let kvs = if query.sort_target == SortTarget::Value && !query.count_only {
        sorted_by_value(query, &records, source)?
    } else {
        sort(query, &mut records);
        records.truncate(query.limit());
        let mut builder = KvsBuilder::new(records.len());
        push_all(query, &records, source, &mut builder)?;
        builder.finish()
    };
    Ok(RangeResult { kvs, count: count as i64, more, revision })
}

/// A walk that has begun.
struct Walk {
    /// The revision that is read.
    at: i64,
    /// The epoch of the store at the beginning.
    epoch: u64,
    /// Where to go on; `None` when it is complete.
    next: Option<Vec<u8>>,
    /// What was found so far.
    selection: Selection,
}

/// Lets other threads run that wait for this core: a long read would use up its time slice before a
/// write that takes microseconds gets its turn, at each thread that the write passes. Only after a
/// while, for a turn of others may be long where the machine is busy, and a short read should not
/// wait for many.
struct Breath {
    last: Instant,
}

impl Breath {
    fn new() -> Self {
        Self { last: Instant::now() }
    }

    fn take(&mut self) {
        if self.last.elapsed() >= BREATHE_AFTER {
            std::thread::yield_now();
            self.last = Instant::now();
        }
    }
}

/// Sorts by what the index knows. Equal elements stay in key order.
fn sort(query: &RangeQuery, records: &mut [Selected]) {
    let compare = |left: &Selected, right: &Selected| match query.sort_target {
        SortTarget::Key | SortTarget::Value => Ordering::Equal,
        SortTarget::Version => left.found.version.cmp(&right.found.version),
        SortTarget::Create => left.found.created.cmp(&right.found.created),
        SortTarget::Mod => left.found.modified.main.cmp(&right.found.modified.main),
    };
    match (query.sort_target, query.sort_order) {
        (SortTarget::Key, SortOrder::Descend) => records.reverse(),
        (SortTarget::Key, _) => {}
        (_, SortOrder::Descend) => records.sort_by(|left, right| compare(right, left)),
        _ => records.sort_by(compare),
    }
}

fn sorted_by_value(
    query: &RangeQuery,
    records: &[Selected],
    source: &Source<'_>,
) -> Result<EncodedKvs, ReadError> {
    let mut fetched = Vec::with_capacity(records.len());
    for group in records.chunks(GROUP_RECORDS) {
        let revisions = group.iter().map(|selected| selected.found.modified);
        fetched.extend(revisions.zip(source.records(group)?));
    }
    let mut parsed = Vec::with_capacity(fetched.len());
    for (revision, record) in &fetched {
        let fields =
            record::parse(record).map_err(|source| ReadError::Malformed { revision: *revision, source })?;
        parsed.push((fields, record));
    }
    match query.sort_order {
        SortOrder::Descend => parsed.sort_by(|(left, _), (right, _)| right.value.cmp(left.value)),
        _ => parsed.sort_by(|(left, _), (right, _)| left.value.cmp(right.value)),
    }
    let mut builder = KvsBuilder::new(parsed.len().min(query.limit()));
    for (fields, record) in parsed.iter().take(query.limit()) {
        match query.keys_only {
            true => builder.push_fields(&RecordFields { value: b"", ..*fields }),
            false => builder.push_record(record),
        }
    }
    Ok(builder.finish())
}

fn push_all(
    query: &RangeQuery,
    selected: &[Selected],
    source: &Source<'_>,
    builder: &mut KvsBuilder,
) -> Result<(), ReadError> {
    if query.keys_only {
        return selected.iter().try_for_each(|one| push(query, &one.key, &one.found, source, builder));
    }
    for group in selected.chunks(GROUP_RECORDS) {
        source.records(group)?.iter().for_each(|record| builder.push_record(record));
    }
    Ok(())
}

fn push(
    query: &RangeQuery,
    key: &[u8],
    found: &Found,
    source: &Source<'_>,
    builder: &mut KvsBuilder,
) -> Result<(), ReadError> {
    let Found { modified, created, version, leased } = *found;
    if !query.keys_only {
        builder.push_record(&source.record(modified)?);
        return Ok(());
    }
    // The index knows all but the lease, and whether there is one.
    let from_index = query.keys_only_from_index && query.sort_target != SortTarget::Value;
    let lease = if leased && !from_index { source.lease(modified)? } else { 0 };
    builder.push_fields(&RecordFields {
        key,
        create_revision: created,
        mod_revision: modified.main,
        version,
        value: b"",
        lease,
    });
    Ok(())
}
