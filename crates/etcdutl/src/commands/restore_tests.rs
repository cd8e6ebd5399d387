use env::sim::{Fault, SimDisk, Survival};

use super::*;
use crate::test_files::snapshot;

const ONE: &str = "m1=http://127.0.0.1:22380";
const THREE: &str = "m1=http://127.0.0.1:1,m2=http://127.0.0.1:2,m3=http://127.0.0.1:3";

fn flags(words: &[&str]) -> Flags {
    let words: Vec<Bytes> = ["snapshot", "restore"]
        .iter()
        .chain(words)
        .map(|word| Bytes::copy_from_slice(word.as_bytes()))
        .collect();
    match cli::parse::parse(&crate::table::ROOT, &words) {
        cli::Outcome::Run(invocation) => invocation.flags,
        other => panic!("{words:?} became {other:?}"),
    }
}

/// As `m1` of a cluster, into `d`, with little address space, as simulated files have.
fn restore(cluster: &str, more: &[&str]) -> Restore {
    let peer = cluster.split([',', '=']).nth(1).unwrap();
    let mut words = vec!["--name", "m1", "--data-dir", "d", "--initial-memory-map-size", "1000000"];
    words.extend(["--initial-cluster", cluster, "--initial-advertise-peer-urls", peer]);
    words.extend(more);
    Restore::from_flags("s.db".into(), &flags(&words)).unwrap()
}

fn disk_with(bytes: &[u8]) -> SimDisk {
    let disk = SimDisk::new();
    let file = disk.open(Path::new("s.db"), OpenMode::CreateNew(0o600)).unwrap();
    file.write_at(bytes, 0).unwrap();
    file.sync_all().unwrap();
    disk.sync_dir(Path::new(".")).unwrap();
    disk
}

fn run(disk: &SimDisk, restore: &Restore) -> Result<(), String> {
    restore.run(Arc::new(disk.clone())).map_err(|failure| failure.text.unwrap_or_default())
}

/// What a member would start from.
#[derive(Debug, PartialEq)]
struct Restored {
    members: Vec<String>,
    position: LogPosition,
    records: usize,
    newest: i64,
    scheduled: Option<i64>,
    metadata: wal::Metadata,
    hard_state: HardState,
    entries: usize,
    snapshot: Snapshot,
}

fn look(disk: &SimDisk, wal_dir: &str) -> Restored {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let options = backend::Options { initial_map_bytes: 1 << 20, ..backend::Options::default() };
    let backend = backend::Backend::open(shared.clone(), Path::new("d/member/snap/db"), options).unwrap();
    assert_eq!(backend.check(), Vec::<String>::new());
    let view = backend.view();
    let records: Vec<_> = view
        .records(Revision::default(), Revision::new(i64::MAX, i64::MAX))
        .unwrap()
        .map(|record| record.unwrap().0.revision.main)
        .collect();
    let members = view.scan(BucketId::Members).unwrap();
    assert!(view.scan(BucketId::MembersRemoved).unwrap().is_empty());
    let newest = wal::newest_valid_snapshot(&*shared, Path::new(wal_dir), |_| true).unwrap().unwrap();
    let replayed = wal::read(&*shared, Path::new(wal_dir), LogPosition::default()).unwrap();
    let loaded = wal::snap::load_newest(&*shared, Path::new("d/member/snap"), &[newest.position]).unwrap();
    Restored {
        members: members.iter().map(|(_, json)| String::from_utf8(json.to_vec()).unwrap()).collect(),
        position: backend.stored_consistent_position(),
        records: records.len(),
        newest: *records.last().unwrap(),
        scheduled: schema::scheduled_compact_revision(&view).unwrap(),
        metadata: wal::format::decode_metadata(&replayed.metadata).unwrap(),
        hard_state: replayed.hard_state,
        entries: replayed.entries.len(),
        snapshot: loaded.found.unwrap().1,
    }
}

#[test]
fn a_member_of_three() {
    let disk = disk_with(&snapshot());
    run(&disk, &restore(THREE, &[])).unwrap();
    let found = look(&disk, "d/member/wal");
    assert_eq!(found.members.len(), 3);
    assert!(found.members.iter().any(|json| json.contains("\"name\":\"m2\"")), "{:?}", found.members);
    assert_eq!(found.position, LogPosition { index: 3, term: 1 });
    assert_eq!((found.newest, found.scheduled), (567, Some(475)));
    let voters = &found.snapshot.conf_state.voters;
    assert_eq!(found.hard_state, HardState { term: 1, vote: voters[0], commit: 3 });
    assert_eq!((voters.len(), found.entries, found.snapshot.position), (3, 3, found.position));
    let v2 = membership::read_v2_store(&found.snapshot.data).unwrap();
    assert_eq!(v2.members.len(), 3);
    let own = v2.members.iter().find(|member| member.attributes.name == "m1").unwrap();
    assert_eq!(found.metadata.member, own.id);
    let names = |path: &str| -> Vec<_> {
        disk.list(Path::new(path)).unwrap().into_iter().map(|entry| entry.name).collect()
    };
    assert_eq!(names("d"), ["member"]);
    assert_eq!(names("d/member"), ["snap", "wal"]);
    assert_eq!(names("d/member/snap"), ["0000000000000001-0000000000000003.snap", "db"]);
    assert_eq!(names("d/member/wal"), ["0000000000000000-0000000000000000.wal"]);
    assert_eq!(disk.list(Path::new("d/member/wal")).unwrap()[0].len, 64_000_000);
    assert_eq!(
        run(&disk, &restore(THREE, &[])).unwrap_err(),
        "data-dir \"d\" not empty or could not be read"
    );
}

#[test]
fn ids_are_those_of_the_first_cluster_for_the_same_words() {
    let disk = disk_with(&snapshot());
    run(&disk, &restore(ONE, &["--initial-cluster-token", "fixture-token", "--wal-dir", "w"])).unwrap();
    let found = look(&disk, "w");
    assert_eq!(found.metadata.member.to_string(), "f1805392ad554020");
    assert_eq!(found.metadata.cluster.to_string(), "8408e75e887d4f16");
    assert_eq!(
        run(&disk, &Restore { files: MemberFiles::new("e", "w"), ..restore(ONE, &[]) }).unwrap_err(),
        "wal-dir \"w\" exists"
    );
    assert!(!disk.exists(Path::new("e")).unwrap(), "nothing is left behind");
}

#[test]
fn the_revision_is_raised_and_compacted() {
    let disk = disk_with(&snapshot());
    run(&disk, &restore(ONE, &["--bump-revision", "1000", "--mark-compacted"])).unwrap();
    let found = look(&disk, "d/member/wal");
    assert_eq!((found.newest, found.scheduled), (1567, Some(1567)));

    let far = restore(ONE, &["--bump-revision", "9223372036854775807", "--mark-compacted"]);
    let text = run(&disk_with(&snapshot()), &far).unwrap_err();
    assert_eq!(text, "--bump-revision=9223372036854775807: revision 567 cannot be raised so far");
    for only in [&["--mark-compacted"][..], &["--bump-revision", "5"]] {
        let failure = Restore::from_flags("s.db".into(), &flags(only)).unwrap_err();
        assert_eq!(failure, Failure::new(128, "--mark-compacted required if --revision-bump > 0"));
    }
}

#[test]
fn clusters_that_do_not_fit_are_refused() {
    let refused = |words: &[&str]| {
        let failure = Restore::from_flags("s.db".into(), &flags(words)).unwrap_err();
        (failure.code, failure.text.unwrap())
    };
    assert_eq!(
        refused(&["--name", "zz"]),
        (1, "couldn't find local name \"zz\" in the initial cluster configuration".to_owned())
    );
    let (code, text) = refused(&["--initial-cluster", "default=http://127.0.0.1:1"]);
    let expected = "--initial-cluster has default=http://127.0.0.1:1 but missing from \
                    --initial-advertise-peer-urls=http://localhost:2380 (";
    assert!(code == 1 && text.starts_with(expected), "{text}");
}

#[test]
fn files_that_are_no_snapshots_leave_nothing_behind() {
    let check = |bytes: &[u8], more: &[&str], expected: &str| {
        let disk = disk_with(bytes);
        let text = run(&disk, &restore(ONE, more)).unwrap_err();
        assert!(text.starts_with(expected), "{text:?} is not {expected:?}");
        assert!(!disk.exists(Path::new("d")).unwrap(), "{expected}: nothing is left behind");
    };
    let whole = snapshot();
    let database = &whole[..whole.len() - 32];
    check(b"junk", &[], "seek s.db: invalid argument");
    check(database, &[], "snapshot missing hash but --skip-hash-check=false");
    check(&[7; 1024], &["--skip-hash-check"], "s.db: invalid database");
    check(
        &whole[..100_000],
        &["--skip-hash-check"],
        "s.db: file size too small: 100000 bytes of 122880: the file was cut off",
    );
    let mut flipped = whole.clone();
    flipped[60_000] ^= 0xff;
    check(&flipped, &[], "expected sha256 [91 80 174 37 248 ");
    let mut torn = whole.clone();
    torn[16_384..122_880].fill(0);
    check(&torn, &["--skip-hash-check"], "s.db: the database is damaged: ");
    let disk = SimDisk::new();
    assert_eq!(run(&disk, &restore(ONE, &[])).unwrap_err(), "open s.db: no such file or directory");

    let raw = disk_with(database);
    run(&raw, &restore(ONE, &["--skip-hash-check"])).unwrap();
    assert_eq!(look(&raw, "d/member/wal").newest, 567);
}

#[test]
fn one_restore_at_a_time() {
    let disk = disk_with(&snapshot());
    let wanted = restore(ONE, &[]);
    let other = Site::begin(Arc::new(disk.clone()), &wanted.files).unwrap();
    assert_eq!(run(&disk, &wanted).unwrap_err(), "data-dir \"d\": another restore is at work there");
    drop(other);
    run(&disk, &wanted).unwrap();
}

/// Runs a restore with a fault at each operation in turn; returns how many there were.
fn with_fault_at_each(
    wanted: &Restore,
    fault: Fault,
    mut check: impl FnMut(u64, &SimDisk, Result<(), String>),
) {
    let clean = disk_with(&snapshot());
    let before = clean.operations();
    run(&clean, wanted).unwrap();
    for operation in before + 1..=clean.operations() {
        let disk = disk_with(&snapshot());
        disk.fail_after(operation, fault);
        let result = run(&disk, wanted);
        check(operation, &disk, result);
    }
}

#[test]
fn a_crash_leaves_a_whole_member_or_none_and_the_next_try_succeeds() {
    let wanted = restore(ONE, &[]);
    let expected = {
        let disk = disk_with(&snapshot());
        run(&disk, &wanted).unwrap();
        look(&disk, "d/member/wal")
    };
    let (mut with, mut without) = (0, 0);
    with_fault_at_each(&wanted, Fault::PowerLoss, |operation, disk, _| {
        for survival in [Survival::Nothing, Survival::Everything, Survival::Random(operation)] {
            let after = disk.crash(survival);
            if after.exists(Path::new("d/member")).unwrap() {
                with += 1;
            } else {
                without += 1;
                run(&after, &wanted)
                    .unwrap_or_else(|text| panic!("operation {operation}, {survival:?}: {text}"));
            }
            assert_eq!(look(&after, "d/member/wal"), expected, "operation {operation}, {survival:?}");
        }
    });
    assert!(with > 0 && without > 10, "{with} crashes with a member, {without} without");
}

#[test]
fn a_crash_with_the_log_elsewhere_never_leaves_a_member_without_its_log() {
    let wanted = restore(ONE, &["--wal-dir", "w"]);
    with_fault_at_each(&wanted, Fault::PowerLoss, |operation, disk, _| {
        for survival in [Survival::Nothing, Survival::Everything, Survival::Random(operation)] {
            let after = disk.crash(survival);
            if after.exists(Path::new("d/member")).unwrap() {
                assert_eq!(look(&after, "w").newest, 567, "operation {operation}, {survival:?}");
            }
        }
    });
}

#[test]
fn a_full_disk_or_a_failed_operation_leaves_nothing_behind() {
    for fault in [Fault::DiskFull, Fault::OneError] {
        with_fault_at_each(&restore(ONE, &["--wal-dir", "w"]), fault, |operation, disk, result| {
            if let Err(text) = result {
                disk.clear_fault();
                let left = disk.exists(Path::new("d/member.restoring")).unwrap();
                assert!(!left, "{fault:?} at operation {operation}: {text}");
                let member = disk.exists(Path::new("d/member")).unwrap();
                let log = disk.exists(Path::new("w")).unwrap();
                assert_eq!(member, log, "{fault:?} at operation {operation}: {text}");
            }
        });
    }
    let disk = disk_with(&snapshot());
    disk.fail_after(disk.operations() + 8, Fault::DiskFull);
    let text = run(&disk, &restore(ONE, &[])).unwrap_err();
    assert!(text.contains("no space left on device"), "{text}");
}
