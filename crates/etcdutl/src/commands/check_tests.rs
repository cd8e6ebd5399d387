use env::sim::SimDisk;

use super::*;
use crate::test_files::{KILLED_SNAP, SEGMENT, killed, killed_wal, place, snapshot};

fn look(disk: &SimDisk) -> Result<Report, String> {
    let timeout = Duration::from_millis(60);
    check(Arc::new(disk.clone()), &MemberFiles::new("d", ""), timeout)
        .map_err(|failure| failure.text.unwrap())
}

/// The findings of a weight.
fn texts(report: &Report, weight: Weight) -> Vec<String> {
    let found = report.findings.iter().filter(|finding| finding.weight == weight);
    found.map(|finding| format!("{}: {}", finding.part, finding.text)).collect()
}

fn check_fault(disk: &SimDisk, expected: &str) {
    let report = look(disk).unwrap();
    let faults = texts(&report, Weight::Fault);
    assert!(faults.iter().any(|fault| fault.contains(expected)), "{expected:?} is not among {faults:?}");
    assert!(report.to_text().ends_with(
        "\nThe member is damaged: do not start it. Restore it from a snapshot, or remove it from its cluster and add it \
         anew.\n"
    ));
}

fn remove(disk: &SimDisk, path: &str) {
    disk.remove_file(Path::new(path)).unwrap();
}

#[test]
fn a_killed_member_is_sound_and_told_from_where_it_goes_on() {
    let report = look(&killed()).unwrap();
    assert_eq!(texts(&report, Weight::Fault), [""; 0]);
    assert_eq!(texts(&report, Weight::Note), [""; 0]);
    let facts = texts(&report, Weight::Fact).join("\n");
    for expected in [
        "structure sound",
        "database: holds all entries up to index 603, term 3",
        "database: storage version 3.5",
        "log: d/member/wal: 1 segment, entries up to index 624, term 3",
        "log: belongs to member f1805392ad554020 of cluster 8408e75e887d4f16",
        "snapshots: 1 file that the log knows",
        "together: a start applies 21 entries more and is at index 624 then",
    ] {
        assert!(facts.contains(expected), "{expected:?} is not among\n{facts}");
    }
    assert!(report.to_text().ends_with("\nThe member is sound: it can be started.\n"));
    assert!(
        report
            .to_json()
            .starts_with("{\"sound\":true,\"findings\":[{\"part\":\"database\",\"weight\":\"ok\",")
    );
}

#[test]
fn what_a_start_repairs_is_a_note() {
    let disk = killed();
    remove(&disk, &format!("d/member/snap/{KILLED_SNAP}"));
    place(&disk, "d/member/snap/db.tmp.5", b"x");
    let log = killed_wal();
    place(&disk, &format!("d/member/wal/{SEGMENT}"), &log[..log.len() - 100]);
    let report = look(&disk).unwrap();
    assert_eq!(texts(&report, Weight::Fault), [""; 0]);
    let notes = texts(&report, Weight::Note).join("\n");
    for expected in
        ["log: ends in a write that was not completed", "db.tmp.5: left by", "etcd 3.5 and 3.6 do not"]
    {
        assert!(notes.contains(expected), "{expected:?} is not among\n{notes}");
    }
    assert!(report.to_text().contains("\nThe member is sound and can be started; see the notes above.\n"));
}

#[test]
fn each_damage_is_found() {
    let disk = killed();
    disk.flip_bit(Path::new("d/member/wal").join(SEGMENT).as_path(), 50_000, 3);
    check_fault(&disk, "damaged at byte");

    let disk = killed();
    remove(&disk, &format!("d/member/wal/{SEGMENT}"));
    check_fault(&disk, "log: wal: no segment in d/member/wal");

    let disk = killed();
    place(&disk, "d/member/snap/db", &snapshot()[..122_880]);
    check_fault(
        &disk,
        "the database holds entries up to 578, the log begins behind 603: what lies between is lost",
    );

    let disk = killed();
    let log = killed_wal();
    place(&disk, &format!("d/member/wal/{SEGMENT}"), &log[..log.len() / 2]);
    check_fault(&disk, "the database holds entries up to 603, the log ends at ");

    let disk = killed();
    let mut torn = crate::test_files::killed_db();
    torn[16_384..40_960].fill(0);
    place(&disk, "d/member/snap/db", &torn);
    check_fault(&disk, "database: ");

    let disk = killed();
    place(&disk, "d/member/snap/db", b"junk");
    check_fault(&disk, "database: invalid database");
}

#[test]
fn a_member_that_was_removed_cannot_start() {
    let disk = killed();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let db = bolt::Db::open(shared, Path::new("d/member/snap/db"), bolt::Options::default()).unwrap();
    let mut tx = db.write().unwrap();
    tx.create_bucket_if_missing(b"members_removed").unwrap().put(b"f1805392ad554020", b"removed").unwrap();
    tx.create_bucket_if_missing(b"members").unwrap().delete(b"f1805392ad554020").unwrap();
    tx.commit().unwrap();
    drop(db);
    check_fault(&disk, "member f1805392ad554020 was removed from its cluster: it cannot be started again");
}

#[test]
fn records_that_lie_about_their_revision_are_counted() {
    let disk = killed();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let db = bolt::Db::open(shared, Path::new("d/member/snap/db"), bolt::Options::default()).unwrap();
    let mut tx = db.write().unwrap();
    let fields = mvcc::record::RecordFields {
        key: b"k",
        create_revision: 3,
        mod_revision: 4,
        version: 2,
        ..Default::default()
    };
    let key = types::RecordKey::put(Revision::new(5_000, 0)).encode();
    tx.bucket(b"key").unwrap().unwrap().put(&key, &mvcc::record::encode(&fields)).unwrap();
    tx.commit().unwrap();
    drop(db);
    check_fault(&disk, "1 records are not of the revision they are stored under, the first one at 5000/0");
}

#[test]
fn a_running_member_and_a_strange_directory_are_refused() {
    let disk = killed();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let running = bolt::Db::open(shared, Path::new("d/member/snap/db"), bolt::Options::default()).unwrap();
    assert!(look(&disk).unwrap_err().contains("another process has the file open"));
    drop(running);
    assert!(look(&SimDisk::new()).unwrap_err().ends_with("not the data directory of a member"));
}
