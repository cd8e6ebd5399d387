//! Power loss at every write, sync and rename; single errors; a full disk.
//!
//! The records appended are numbered. After a crash the log must hold the first m of them, for
//! some m between those that were acknowledged and all.

mod support;

use std::path::Path;
use std::sync::Arc;

use env::sim::{Fault, SimDisk, Survival};
use env::{Disk, Random, SeededRandom};
use support::{START, entry, state};
use types::LogPosition;
use types::raft::{ConfState, Entry, HardState};
use wal::{Batch, Error, Options, Preparer, Wal, WalSnapshot};

const DIR: &str = "member/wal";
const METADATA: &[u8] = b"\x08\x01\x10\x02";
const SMALL: Options = Options { segment_bytes: 8192, no_sync: false };

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Entry>, Option<HardState>),
    Snapshot(u64, u64),
    Prepare(usize),
    Reopen,
}

#[derive(Clone)]
enum Written {
    Entry(Entry),
    State(HardState),
}

/// A workload with conflicts, entries of up to several sectors, and a few cuts.
fn workload(seed: u64, len: usize) -> Vec<Step> {
    let mut random = SeededRandom::new(seed);
    let (mut last, mut term) = (0, 1);
    let mut steps = Vec::new();
    for _ in 0..len {
        steps.push(match random.below(10) {
            0 => Step::Prepare(1 + random.below(6) as usize),
            1 if last > 0 => Step::Snapshot(last, term),
            2 if random.below(3) == 0 => Step::Reopen,
            3 => Step::Append(vec![], Some(state(term, 1, last))),
            kind => {
                if kind == 4 && last > 3 {
                    term += 1;
                    last -= 1 + random.below(2);
                }
                let count = 1 + random.below(4);
                let entries = (1..=count).map(|step| {
                    let len = random.below(4).pow(2) as usize * 150 + random.below(30) as usize;
                    // Zeros as content, too: they must not be taken for a torn write.
                    let fill = if random.below(4) == 0 { 0 } else { random.next_u64() as u8 };
                    entry(last + step, term, vec![fill; len])
                });
                let entries = entries.collect();
                last += count;
                let state = (random.below(2) == 0).then(|| state(term, 1 + random.below(2), last));
                Step::Append(entries, state)
            }
        });
    }
    steps
}

#[derive(Default)]
struct Run {
    created: bool,
    written: Vec<Written>,
    acknowledged: usize,
}

/// Runs the workload until an operation fails.
fn run(disk: &Arc<dyn Disk>, steps: &[Step], run: &mut Run) -> Result<(), Error> {
    let dir = Path::new(DIR);
    if disk.create_dir_all(Path::new("member"), 0o700).and_then(|()| disk.sync_dir(Path::new("."))).is_err() {
        return Ok(());
    }
    let mut log = Wal::create(disk.clone(), dir, METADATA, SMALL)?;
    run.created = true;
    let mut preparer: Preparer = log.preparer();
    for step in steps {
        match step {
            Step::Append(entries, state) => {
                run.written.extend(entries.iter().cloned().map(Written::Entry));
                run.written.extend(state.map(Written::State));
                let appended = log.append(&Batch { entries, hard_state: *state })?;
                if appended.needs_sync {
                    log.sync()?;
                }
                if appended.needs_sync || appended.cut.is_some() {
                    run.acknowledged = run.written.len();
                }
            }
            Step::Snapshot(index, term) => {
                let position = LogPosition { index: *index, term: *term };
                log.save_snapshot(&WalSnapshot {
                    position,
                    conf_state: Some(ConfState::new(vec![1], vec![])),
                })?;
                run.acknowledged = run.written.len();
            }
            Step::Prepare(count) => {
                for _ in 0..*count {
                    preparer.step()?;
                }
            }
            Step::Reopen => {
                drop((log, preparer));
                log = Wal::open(disk.clone(), dir, START, SMALL)?.0;
                preparer = log.preparer();
            }
        }
    }
    log.close()
}

fn replay(written: &[Written]) -> (Vec<Entry>, HardState) {
    let (mut entries, mut state) = (Vec::<Entry>::new(), HardState::default());
    for record in written {
        match record {
            Written::Entry(entry) => {
                entries.truncate(entry.index as usize - 1);
                entries.push(entry.clone());
            }
            Written::State(new) => state = *new,
        }
    }
    (entries, state)
}

/// Opens the log after a crash, checks that nothing acknowledged is lost, and that it can be used.
fn check_recovery(disk: SimDisk, run: &Run, what: &str) {
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let dir = Path::new(DIR);
    if !wal::exists(&*disk, dir).unwrap_or(false) {
        assert!(!run.created, "{what}: the log is gone");
        // What an interrupted creation left does not hinder the next.
        disk.create_dir_all(Path::new("member"), 0o700).unwrap();
        Wal::create(disk, dir, METADATA, SMALL).unwrap_or_else(|error| panic!("{what}: {error}"));
        return;
    }
    let read_only = wal::read(&*disk, dir, START).unwrap_or_else(|error| panic!("{what}: {error}"));
    wal::valid_snapshots(&*disk, dir).unwrap_or_else(|error| panic!("{what}: {error}"));
    let (mut log, replayed) =
        Wal::open(disk.clone(), dir, START, SMALL).unwrap_or_else(|error| panic!("{what}: {error}"));
    let got = (replayed.entries.clone(), replayed.hard_state);
    assert_eq!((read_only.entries, read_only.hard_state), got, "{what}");
    assert_eq!(replayed.metadata, METADATA, "{what}");
    let fits = (run.acknowledged..=run.written.len()).any(|count| replay(&run.written[..count]) == got);
    assert!(fits, "{what}: neither all acknowledged nor a prefix: {} entries", got.0.len());

    // It goes on from there: a small append right behind what was cut off, then larger ones with
    // a cut, each followed by another start.
    let mut entries = got.0;
    for sizes in [&[10][..], &[1500; 6]] {
        for size in sizes {
            let next = entry(entries.len() as u64 + 1, 100, vec![7; *size]);
            entries.push(next.clone());
            let state = state(100, 1, entries.len() as u64);
            log.append(&Batch { entries: &[next], hard_state: Some(state) }).unwrap();
            log.sync().unwrap();
        }
        drop(log);
        let (reopened, again) = Wal::open(disk.clone(), dir, START, SMALL)
            .unwrap_or_else(|error| panic!("{what}, then: {error}"));
        assert!(again.repaired.is_none(), "{what}: repaired again");
        assert_eq!((&again.entries, again.hard_state.commit), (&entries, entries.len() as u64), "{what}");
        log = reopened;
    }
}

const SURVIVALS: [Survival; 5] =
    [Survival::Nothing, Survival::Everything, Survival::Random(1), Survival::Random(2), Survival::Random(3)];

fn operations(steps: &[Step]) -> u64 {
    let disk = SimDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    run(&shared, steps, &mut Run::default()).unwrap();
    disk.operations()
}

#[test]
fn power_loss_at_any_operation_loses_nothing_acknowledged() {
    for seed in 0..3 {
        let steps = workload(seed, 40);
        let total = operations(&steps);
        assert!(total > 80, "the workload does something");
        for operation in 1..=total {
            let disk = SimDisk::new();
            disk.fail_after(operation, Fault::PowerLoss);
            let shared: Arc<dyn Disk> = Arc::new(disk.clone());
            let mut progress = Run::default();
            let _ = run(&shared, &steps, &mut progress);
            for survival in SURVIVALS {
                let what =
                    format!("seed {seed}, power lost at operation {operation} of {total}, {survival:?}");
                check_recovery(disk.crash(survival), &progress, &what);
            }
        }
    }
}

#[test]
fn power_loss_during_recovery_is_survived_too() {
    let steps = workload(7, 25);
    let total = operations(&steps);
    let mut repairs = 0;
    for operation in (1..=total).step_by(5) {
        let first = SimDisk::new();
        first.fail_after(operation, Fault::PowerLoss);
        let shared: Arc<dyn Disk> = Arc::new(first.clone());
        let mut progress = Run::default();
        let _ = run(&shared, &steps, &mut progress);
        for second in 1..16 {
            let torn = first.crash(Survival::Random(operation));
            if !wal::exists(&torn, Path::new(DIR)).unwrap_or(false) {
                break;
            }
            torn.fail_after(second, Fault::PowerLoss);
            let shared: Arc<dyn Disk> = Arc::new(torn.clone());
            // Open, and append one more entry behind what was cut off.
            let mut again = Run { created: true, ..Run::default() };
            let result = Wal::open(shared, Path::new(DIR), START, SMALL).and_then(|(mut log, replayed)| {
                repairs += usize::from(replayed.repaired.is_some());
                again.written = replayed.entries.iter().cloned().map(Written::Entry).collect();
                again.written.push(Written::State(replayed.hard_state));
                again.acknowledged = again.written.len();
                let next = entry(replayed.entries.len() as u64 + 1, 50, vec![9; 900]);
                again.written.push(Written::Entry(next.clone()));
                log.append(&Batch { entries: &[next], hard_state: None })?;
                log.sync()?;
                again.acknowledged = again.written.len();
                Ok(())
            });
            let finished = result.is_ok();
            // What was read once may be relied upon from then on.
            let expected = if again.written.is_empty() { &progress } else { &again };
            let what = format!("power lost at {operation}, again at {second} of the recovery");
            let random = (0..8).map(|seed| Survival::Random(16 * operation + seed));
            for survival in random.chain([Survival::Nothing, Survival::Everything]) {
                check_recovery(torn.crash(survival), expected, &what);
            }
            if finished {
                break;
            }
        }
    }
    assert!(repairs > 3, "torn writes were repaired: {repairs}");
}

#[test]
fn one_error_poisons_the_log_and_loses_nothing() {
    let steps = workload(11, 40);
    let total = operations(&steps);
    for operation in 1..=total {
        let disk = SimDisk::new();
        disk.fail_after(operation, Fault::OneError);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let mut progress = Run::default();
        let _ = run(&shared, &steps, &mut progress);
        let what = format!("one error at operation {operation} of {total}");
        check_recovery(disk.crash(Survival::Everything), &progress, &what);
        check_recovery(disk.crash(Survival::Nothing), &progress, &what);
    }
}

#[test]
fn a_full_disk_ends_in_an_error_and_an_intact_log() {
    let steps = workload(5, 40);
    let total = operations(&steps);
    for operation in (1..=total).step_by(2) {
        let disk = SimDisk::new();
        disk.fail_after(operation, Fault::DiskFull);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let mut progress = Run::default();
        let _ = run(&shared, &steps, &mut progress);
        let after = disk.crash(Survival::Everything);
        check_recovery(after, &progress, &format!("disk full from operation {operation}"));
    }
}

#[test]
fn nothing_is_written_after_a_failure() {
    for fault_at_sync in [false, true] {
        let disk = SimDisk::new();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let mut log = Wal::create(shared.clone(), Path::new("wal"), METADATA, SMALL).unwrap();
        let one = [entry(1, 1, "x")];
        let batch = Batch { entries: &one, hard_state: None };
        disk.fail_after(disk.operations() + 1 + u64::from(fault_at_sync), Fault::OneError);
        let failed = log.append(&batch).and_then(|_| log.sync());
        assert!(matches!(failed, Err(Error::Io { .. })), "{failed:?}");
        assert!(log.is_poisoned());
        let before = disk.operations();
        assert!(matches!(log.append(&batch), Err(Error::Poisoned { .. })));
        assert!(matches!(log.sync(), Err(Error::Poisoned { .. })));
        let snapshot = log.save_snapshot(&WalSnapshot::default());
        assert!(matches!(snapshot, Err(Error::Poisoned { .. })));
        assert_eq!(disk.operations(), before);
    }
}
