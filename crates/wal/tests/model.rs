//! The log against a list of entries.

mod support;

use std::path::Path;

use env::{LockKind, OpenMode};
use proptest::prelude::*;
use support::{START, entry, sim, state};
use types::LogPosition;
use types::raft::{ConfState, Entry, HardState};
use wal::{Batch, Error, Options, Prepared, SegmentName, Wal, WalSnapshot};

const DIR: &str = "wal";
const SMALL: Options = Options { segment_bytes: 4096, no_sync: false };

fn mark(index: u64, term: u64) -> WalSnapshot {
    let conf_state = (index > 0).then(|| ConfState::new(vec![1, 2], vec![3]));
    WalSnapshot { position: LogPosition { index, term }, conf_state }
}

#[derive(Clone, Debug)]
enum Step {
    /// Back by some entries, then so many of such a size, with or without a hard state.
    Append {
        back: u64,
        count: u64,
        size: usize,
        with_state: bool,
    },
    Snapshot,
    Prepare,
    Reopen {
        from_snapshot: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let append = (0u64..4, 0u64..6, 0usize..900, any::<bool>())
        .prop_map(|(back, count, size, with_state)| Step::Append { back, count, size, with_state });
    let step = prop_oneof![
        8 => append,
        1 => Just(Step::Snapshot),
        2 => Just(Step::Prepare),
        2 => any::<bool>().prop_map(|from_snapshot| Step::Reopen { from_snapshot }),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_log_holds_what_a_list_holds(steps in steps()) {
        let (disk, _) = sim();
        let dir = Path::new(DIR);
        let mut log = Wal::create(disk.clone(), dir, b"meta", SMALL).unwrap();
        let mut preparer = log.preparer();
        let (mut entries, mut hard_state, mut marks) = (Vec::<Entry>::new(), HardState::default(), vec![mark(0, 0)]);
        let mut term = 1;
        for step in steps {
            match step {
                Step::Append { back, count, size, with_state } => {
                    let floor = marks.last().unwrap().position.index;
                    let kept = (entries.len() as u64).saturating_sub(back).max(floor);
                    term += u64::from(kept < entries.len() as u64);
                    let added: Vec<_> = (0..count).map(|step| entry(kept + step + 1, term, vec![step as u8; size])).collect();
                    let state = with_state.then(|| state(term, 1, kept + count));
                    let sync = count > 0 || state.is_some_and(|state| (state.term, state.vote) != (hard_state.term, hard_state.vote));
                    let appended = log.append(&Batch { entries: &added, hard_state: state }).unwrap();
                    prop_assert_eq!(appended.needs_sync, sync && appended.cut.is_none());
                    if count > 0 {
                        entries.truncate(kept as usize);
                        entries.extend(added);
                    }
                    hard_state = state.unwrap_or(hard_state);
                }
                Step::Snapshot => {
                    if let Some(last) = entries.last() {
                        let mark = mark(last.index, last.term);
                        log.save_snapshot(&mark).unwrap();
                        marks.push(mark);
                    }
                }
                Step::Prepare => while preparer.step().unwrap() == Prepared::More {},
                Step::Reopen { from_snapshot } => {
                    // A commit index alone waits in memory.
                    log.sync().unwrap();
                    drop(log);
                    let from = if from_snapshot { marks.last().unwrap().position } else { START };
                    let opened = Wal::open(disk.clone(), dir, from, SMALL).unwrap();
                    log = opened.0;
                    preparer = log.preparer();
                    prop_assert_eq!(&opened.1.entries[..], &entries[from.index as usize..]);
                    prop_assert_eq!(opened.1.hard_state, hard_state);
                    prop_assert_eq!(&opened.1.metadata[..], b"meta");
                    prop_assert!(opened.1.repaired.is_none());
                }
            }
        }
        log.sync().unwrap();
        let (_, offset) = log.position();
        prop_assert!(offset < SMALL.segment_bytes || !marks.is_empty());
        let read = wal::read(&*disk, dir, START).unwrap();
        prop_assert_eq!(&read.entries, &entries);
        prop_assert_eq!(&read.snapshots, &marks);
        let valid: Vec<_> = marks.iter().filter(|mark| mark.position.index <= hard_state.commit).cloned().collect();
        prop_assert_eq!(wal::valid_snapshots(&*disk, dir).unwrap(), valid.clone());
        let newest = valid.iter().max_by_key(|mark| mark.position.index).cloned();
        prop_assert_eq!(wal::newest_valid_snapshot(&*disk, dir, |_| true).unwrap(), newest);
        let names = wal::segments(&*disk, dir).unwrap();
        prop_assert!(names.iter().zip(0..).all(|(name, sequence)| name.sequence == sequence));
    }
}

/// A log of several segments with snapshots at the last entry of each batch.
fn long_log() -> (std::sync::Arc<dyn env::Disk>, Wal) {
    let (disk, _) = sim();
    let mut log = Wal::create(disk.clone(), Path::new(DIR), b"meta", SMALL).unwrap();
    for index in 1..=20 {
        let added = [entry(index, 1, vec![1; 1000])];
        log.append(&Batch { entries: &added, hard_state: Some(state(1, 1, index)) }).unwrap();
        log.save_snapshot(&mark(index, 1)).unwrap();
    }
    (disk, log)
}

/// Entry 1 of term 2 overwrites entries 1 and 2 of term 1 and gets a snapshot: a start from there
/// must not bring entry 2 of term 1 back, or the member could vote against what it committed.
#[test]
fn an_overwritten_tail_stays_gone_behind_a_snapshot() {
    let (disk, _) = sim();
    let dir = Path::new(DIR);
    let mut log = Wal::create(disk.clone(), dir, b"meta", SMALL).unwrap();
    log.append(&Batch { entries: &[entry(1, 1, "a"), entry(2, 1, "b")], hard_state: None }).unwrap();
    log.append(&Batch { entries: &[entry(1, 2, "c")], hard_state: Some(state(2, 1, 1)) }).unwrap();
    log.save_snapshot(&mark(1, 2)).unwrap();
    assert!(wal::read(&*disk, dir, mark(1, 2).position).unwrap().entries.is_empty());
}

#[test]
fn segments_are_released_and_purged_from_the_oldest() {
    let (disk, mut log) = long_log();
    let dir = Path::new(DIR);
    let names = wal::segments(&*disk, dir).unwrap();
    assert!(names.len() > 4, "{names:?}");
    assert!(wal::purge(&*disk, dir, ".wal", 1).unwrap().is_empty(), "all are locked");
    // A snapshot at 10 needs the segment that holds entry 11.
    log.release_to(10);
    let needed = names.iter().rposition(|name| name.first_index < 10).unwrap();
    let removed = wal::purge(&*disk, dir, ".wal", 1).unwrap();
    assert_eq!(removed.len(), needed);
    assert_eq!(wal::segments(&*disk, dir).unwrap(), names[needed..]);
    assert!(wal::purge(&*disk, dir, ".wal", 0).unwrap().is_empty(), "0 keeps all");
    log.release_to(1000);
    assert_eq!(wal::purge(&*disk, dir, ".wal", 2).unwrap().len(), names.len() - needed - 2);
    drop(log);
    let (_, replayed) = Wal::open(disk.clone(), dir, LogPosition { index: 19, term: 1 }, SMALL).unwrap();
    assert_eq!(replayed.entries.len(), 1);
    let gone = wal::read(&*disk, dir, LogPosition { index: 2, term: 1 });
    assert!(matches!(gone, Err(Error::NoSegmentFor { index: 2, .. })), "{gone:?}");
}

#[test]
fn a_closed_log_leaves_no_spare_and_can_be_created_only_once() {
    let (disk, log) = long_log();
    let mut preparer = log.preparer();
    while preparer.step().unwrap() == Prepared::More {}
    let tmp = |disk: &dyn env::Disk| {
        disk.list(Path::new(DIR)).unwrap().iter().filter(|entry| entry.name.ends_with(".tmp")).count()
    };
    assert_eq!(tmp(&*disk), 1);
    log.close().unwrap();
    assert_eq!(tmp(&*disk), 0);
    assert_eq!(preparer.step().unwrap(), Prepared::Done);
    assert_eq!(tmp(&*disk), 0, "a closed log is not prepared any more");
    let again = Wal::create(disk, Path::new(DIR), b"meta", SMALL);
    assert!(matches!(again, Err(Error::Exists { .. })));
}

#[test]
fn a_missing_segment_and_a_foreign_lock_are_reported() {
    let (disk, log) = long_log();
    drop(log);
    let dir = Path::new(DIR);
    let names = wal::segments(&*disk, dir).unwrap();
    let held = disk.open(&dir.join(names[2].file_name()), OpenMode::ReadWrite).unwrap();
    assert!(held.try_lock(LockKind::OfdExclusive).unwrap());
    let locked = Wal::open(disk.clone(), dir, START, SMALL).err().unwrap();
    assert!(matches!(locked, Error::Locked { .. }), "{locked}");
    drop(held);
    disk.remove_file(&dir.join(names[2].file_name())).unwrap();
    let gap = Wal::open(disk.clone(), dir, START, SMALL).err().unwrap();
    assert_eq!(gap.to_string(), "wal: segment 2 is missing in wal");
    let later = LogPosition { index: 20, term: 1 };
    let newest = wal::newest_valid_snapshot(&*disk, dir, |_| true).unwrap().unwrap();
    assert_eq!(newest.position, later);
    let before_gap = wal::newest_valid_snapshot(&*disk, dir, |mark| mark.position.index == 1);
    assert!(matches!(before_gap, Err(Error::MissingSegment { missing: 2, .. })), "{before_gap:?}");
    Wal::open(disk, dir, later, SMALL).expect("the segments behind the gap are whole");
}

#[test]
fn a_received_snapshot_moves_the_log_ahead() {
    let (disk, _) = sim();
    let dir = Path::new(DIR);
    let mut log = Wal::create(disk.clone(), dir, b"meta", SMALL).unwrap();
    log.append(&Batch { entries: &[entry(1, 1, "a")], hard_state: Some(state(1, 1, 1)) }).unwrap();
    assert!(matches!(
        log.save_snapshot(&WalSnapshot { conf_state: None, ..mark(100, 5) }),
        Err(Error::MissingConfState { index: 100 })
    ));
    log.save_snapshot(&mark(100, 5)).unwrap();
    let added = [entry(101, 5, vec![0; 5000])];
    log.append(&Batch { entries: &added, hard_state: Some(state(5, 0, 100)) }).unwrap();
    assert_eq!(log.position().0, SegmentName { sequence: 1, first_index: 102 });
    drop(log);
    let (log, replayed) = Wal::open(disk.clone(), dir, mark(100, 5).position, SMALL).unwrap();
    assert_eq!((replayed.entries, log.last_index()), (added.to_vec(), 101));
    drop(log);
    let hole = wal::read(&*disk, dir, START).unwrap_err();
    assert!(matches!(hole, Error::Damaged { .. }), "the entries in between are nowhere: {hole}");
    assert!(hole.to_string().contains("entry 101 follows entry 1"), "{hole}");
}

/// The member's own snapshot was on its way to the log when it received one.
#[test]
fn the_newest_snapshot_is_the_highest_not_the_last() {
    for size in [1, 5000] {
        let (disk, _) = sim();
        let dir = Path::new(DIR);
        let mut log = Wal::create(disk.clone(), dir, b"meta", SMALL).unwrap();
        log.append(&Batch { entries: &[entry(1, 1, "a")], hard_state: Some(state(1, 1, 1)) }).unwrap();
        log.save_snapshot(&mark(100, 5)).unwrap();
        // With the larger one a segment begins between the two records.
        let added = [entry(101, 5, vec![0; size])];
        log.append(&Batch { entries: &added, hard_state: Some(state(5, 0, 100)) }).unwrap();
        log.save_snapshot(&mark(1, 1)).unwrap();
        log.append(&Batch { entries: &[], hard_state: Some(state(5, 0, 101)) }).unwrap();
        assert_eq!(log.position().0.sequence, u64::from(size == 5000));
        drop(log);
        let newest = wal::newest_valid_snapshot(&*disk, dir, |_| true).unwrap().unwrap();
        assert_eq!(newest, mark(100, 5));
        assert_eq!(wal::read(&*disk, dir, newest.position).unwrap().entries, added);
    }
}

#[test]
fn an_empty_last_segment_gets_its_head_again() {
    let (disk, log) = long_log();
    let dir = Path::new(DIR);
    let (last, _) = log.position();
    drop(log);
    let next = SegmentName { sequence: last.sequence + 1, first_index: 21 };
    support::put_file(&*disk, &dir.join(next.file_name()), b"", 4096);
    let (mut log, _) = Wal::open(disk.clone(), dir, START, SMALL).unwrap();
    log.append(&Batch { entries: &[entry(21, 1, "z")], hard_state: None }).unwrap();
    log.sync().unwrap();
    log.save_snapshot(&mark(21, 1)).unwrap();
    drop(log);
    assert_eq!(wal::read(&*disk, dir, START).unwrap().entries.len(), 21);
    assert_eq!(wal::read(&*disk, dir, mark(21, 1).position).unwrap().hard_state, state(1, 1, 20));
}

/// Writer and preparer on threads of their own, on a real disk, over several cuts.
#[test]
fn preparing_on_another_thread_never_touches_records() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join(DIR);
    let disk: std::sync::Arc<dyn env::Disk> = std::sync::Arc::new(env::real::RealDisk);
    let options = Options { segment_bytes: 64 << 10, no_sync: true };
    let mut log = Wal::create(disk.clone(), &dir, b"meta", options).unwrap();
    let mut preparer = log.preparer();
    let done = std::sync::atomic::AtomicBool::new(false);
    let order = std::sync::atomic::Ordering::Relaxed;
    let mut entries = Vec::new();
    let steps = std::thread::scope(|scope| {
        let helper = scope.spawn(|| {
            let mut steps = 0;
            while !done.load(order) {
                steps += usize::from(preparer.step().unwrap() == Prepared::More);
            }
            steps
        });
        for index in 1..=2000 {
            let added = entry(index, 1, vec![index as u8; index as usize % 500]);
            log.append(&Batch { entries: std::slice::from_ref(&added), hard_state: None }).unwrap();
            entries.push(added);
        }
        done.store(true, order);
        helper.join().unwrap()
    });
    assert!(steps > 0);
    assert!(wal::segments(&*disk, &dir).unwrap().len() > 5);
    drop(log);
    let (_, replayed) = Wal::open(disk, &dir, START, options).unwrap();
    assert!(replayed.repaired.is_none());
    assert_eq!(replayed.entries, entries);
}
