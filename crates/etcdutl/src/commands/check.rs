//! `check`: the files of a stopped member, each by itself and all of them together, with a verdict in
//! plain words.
//!
//! ```text
//! database    structure, every record, leases, members, users, storage version
//! log         every segment from the first one on: checksum chain, order, no gap
//! snapshots   a file for the newest record of the log; files that nobody will read
//! together    what a start does: where the log is entered, from where it is applied again
//! ```
//! Nothing is changed, not even what a start would repair by itself. There are three verdicts: sound;
//! sound, with things worth knowing; a start would fail or lose data. Only the last one is an error.
//!
//! **Source**: the rules of a start, etcd `server/etcdserver/bootstrap.go`, `server/verify/verify.go`.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use backend::{Backend, BucketId, View, schema};
use bytes::Bytes;
use cli::text::size;
use env::{Disk, OpenMode};
use mvcc::Store;
use types::{CompatVersion, Entry, EntryKind, LeaseId, LogPosition, Revision};
use wal::WalSnapshot;

use super::Invocation;
use crate::failure::{ERROR, Failure, chain};
use crate::files::{self, MemberFiles};
use crate::json::{Object, array};
use crate::print::{self, Format, write_stdout};
use crate::progress::Progress;

/// Carries the command out.
pub fn run(invocation: &Invocation) -> Result<(), Failure> {
    if !invocation.args.is_empty() {
        return Err(Failure::arguments("check takes no arguments, only --data-dir and --wal-dir"));
    }
    let flags = &invocation.flags;
    let format = print::format(&flags.text("write-out"))?;
    let files = MemberFiles::new(&flags.text("data-dir"), &flags.text("wal-dir"));
    let report = check(files::disk(), &files, super::timeout(flags))?;
    write_stdout(&match format {
        Format::Simple => report.to_text(),
        Format::Json => report.to_json(),
        _ => {
            return Err(Failure::new(crate::failure::BAD_FEATURE, "check knows the formats simple and json"));
        }
    });
    match report.verdict() {
        Weight::Fault => Err(Failure { code: ERROR, text: None }),
        Weight::Fact | Weight::Note => Ok(()),
    }
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    /// As it should be.
    Fact,
    /// Harmless, or repaired by a start; worth knowing.
    Note,
    /// A start fails, or data are lost.
    Fault,
}

impl Weight {
    fn name(self) -> &'static str {
        match self {
            Self::Fact => "ok",
            Self::Note => "note",
            Self::Fault => "FAULT",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    part: &'static str,
    weight: Weight,
    text: String,
}

/// Everything that was found.
#[derive(Clone, Debug, Default)]
struct Report {
    findings: Vec<Finding>,
}

impl Report {
    fn add(&mut self, part: &'static str, weight: Weight, text: impl Into<String>) {
        self.findings.push(Finding { part, weight, text: text.into() });
    }

    fn verdict(&self) -> Weight {
        self.findings.iter().map(|finding| finding.weight).max().unwrap_or(Weight::Fact)
    }

    fn verdict_text(&self) -> &'static str {
        match self.verdict() {
            Weight::Fact => "The member is sound: it can be started.",
            Weight::Note => "The member is sound and can be started; see the notes above.",
            Weight::Fault => {
                "The member is damaged: do not start it. Restore it from a snapshot, or remove it from its cluster and \
                 add it anew."
            }
        }
    }

    fn to_text(&self) -> String {
        let line = |finding: &Finding| {
            format!("{:<10} {:<6} {}\n", finding.part, finding.weight.name(), finding.text)
        };
        let lines: String = self.findings.iter().map(line).collect();
        format!("{lines}\n{}\n", self.verdict_text())
    }

    fn to_json(&self) -> String {
        let finding = |finding: &Finding| {
            Object::new()
                .text("part", finding.part)
                .text("weight", finding.weight.name().to_lowercase())
                .text("text", &finding.text)
                .end()
        };
        Object::new()
            .raw("sound", self.verdict() != Weight::Fault)
            .raw("findings", array(self.findings.iter().map(finding)))
            .text("verdict", self.verdict_text())
            .end()
            + "\n"
    }
}

/// What of the database the rest is compared with.
struct Database {
    position: LogPosition,
    members: HashSet<u64>,
    removed: HashSet<u64>,
}

fn check(disk: Arc<dyn Disk>, files: &MemberFiles, timeout: Duration) -> Result<Report, Failure> {
    let db = files.db();
    if !disk.exists(&db).map_err(files::refused("stat", &db))? {
        let text =
            format!("stat {}: no such file or directory: not the data directory of a member", db.display());
        return Err(Failure::error(text));
    }
    let mut report = Report::default();
    // Held to the end: nobody starts the member meanwhile.
    let opened = files::open_to_read(disk.clone(), &db, timeout);
    let lock = match opened {
        Ok(opened) => opened,
        Err(failure) => {
            let text = failure.text.unwrap_or_default();
            if text.contains("another process has the file open") {
                return Err(Failure::error(text));
            }
            report.add("database", Weight::Fault, text);
            check_log(&*disk, files, &mut report);
            return Ok(report);
        }
    };
    let database = check_database(&disk, &db, &lock, timeout, &mut report);
    let log = check_log(&*disk, files, &mut report);
    check_snapshots(&*disk, files, log.as_ref(), &mut report);
    if let (Some(database), Some(log)) = (database, log) {
        check_together(&*disk, files, &database, &log, &mut report);
    }
    Ok(report)
}

fn check_database(
    disk: &Arc<dyn Disk>,
    path: &Path,
    db: &bolt::Db,
    timeout: Duration,
    report: &mut Report,
) -> Option<Database> {
    const PART: &str = "database";
    let tx = db.read();
    let faults = tx.check();
    if !faults.is_empty() {
        for fault in faults.iter().take(20) {
            report.add(PART, Weight::Fault, fault.to_string());
        }
        if faults.len() > 20 {
            report.add(PART, Weight::Fault, format!("and {} more", faults.len() - 20));
        }
        return None;
    }
    let pages = tx.size_bytes() / u64::from(tx.meta().page_size);
    let described =
        format!("{}: {} in {pages} pages, structure sound", path.display(), size(tx.size_bytes()));
    report.add(PART, Weight::Fact, described);
    drop(tx);
    let backend = match files::open_backend(disk.clone(), path, timeout, true) {
        Ok(backend) => backend,
        Err(failure) => {
            report.add(PART, Weight::Fault, failure.text.unwrap_or_default());
            return None;
        }
    };
    match examine(&backend, report) {
        Ok(database) => Some(database),
        Err(failure) => {
            report.add(PART, Weight::Fault, failure.text.unwrap_or_default());
            None
        }
    }
}

fn examine(backend: &Backend, report: &mut Report) -> Result<Database, Failure> {
    const PART: &str = "database";
    let view = backend.view();
    let (store, restored) = Store::open(backend.clone())?;
    let compacted = match store.compacted_revision() {
        -1 => "never compacted".to_owned(),
        revision => format!("compacted at {revision}"),
    };
    report.add(
        PART,
        Weight::Fact,
        format!("{} keys at revision {}, {compacted}", store.live_keys(), store.current_revision()),
    );
    if restored.resume_compaction.is_some() {
        report.add(PART, Weight::Note, "a compaction was begun and not completed; a start completes it");
    }
    check_records(&view, backend.size_bytes(), report)?;
    check_leases(&view, &restored.attachments, report)?;
    let position = backend.stored_consistent_position();
    report.add(
        PART,
        Weight::Fact,
        format!("holds all entries up to index {}, term {}", position.index, position.term),
    );
    check_version(&view, report);
    let auth = auth::AuthStore::load(
        view.scan(BucketId::Auth)?,
        view.scan(BucketId::AuthUsers)?,
        view.scan(BucketId::AuthRoles)?,
    );
    match auth {
        Ok(auth) if auth.is_enabled() => report.add(
            PART,
            Weight::Fact,
            format!("authentication is on: {} users, {} roles", auth.users().len(), auth.roles().len()),
        ),
        Ok(_) => {}
        Err(error) => report.add(PART, Weight::Fault, chain(&error)),
    }
    for (key, _) in view.scan(BucketId::Alarm)? {
        let text = match schema::parse_alarm_key(&key) {
            Some((member, 1)) => {
                format!("alarm NOSPACE of member {member}: writes are refused until it is disarmed")
            }
            Some((member, 2)) => format!("alarm CORRUPT of member {member}: reads and writes are refused"),
            Some((member, kind)) => format!("alarm {kind} of member {member}"),
            None => "an alarm that cannot be read".to_owned(),
        };
        report.add(PART, Weight::Note, text);
    }
    check_members(&view, position, report)
}

/// Every record says which revision it is of.
fn check_records(view: &View, total: u64, report: &mut Report) -> Result<(), Failure> {
    let mut progress = Progress::start("checking records", total);
    let mut wrong = 0;
    let mut first = None;
    for record in view.records(Revision::default(), Revision::new(i64::MAX, i64::MAX))? {
        let (key, value) = record?;
        progress.advance(value.len() as u64 + 17);
        // A record of no bytes is what a restore with a raised revision writes.
        if key.tombstone || value.is_empty() {
            continue;
        }
        let sound = mvcc::record::parse(&value).is_ok_and(|fields| {
            fields.mod_revision == key.revision.main
                && fields.create_revision <= fields.mod_revision
                && fields.version > 0
        });
        if !sound {
            wrong += 1;
            first.get_or_insert(key.revision);
        }
    }
    if let Some(first) = first {
        let text = format!(
            "{wrong} records are not of the revision they are stored under, the first one at {first}"
        );
        report.add("database", Weight::Fault, text);
    }
    Ok(())
}

fn check_leases(view: &View, attached: &[(Bytes, LeaseId)], report: &mut Report) -> Result<(), Failure> {
    let mut leases = HashSet::new();
    for (key, value) in view.scan(BucketId::Lease)? {
        match lease::decode_record(&key, &value) {
            Ok(record) => drop(leases.insert(record.id)),
            Err(error) => report.add("database", Weight::Fault, chain(&error)),
        }
    }
    let lost = attached.iter().filter(|(_, lease)| !leases.contains(lease)).count();
    let attached = count(attached.len() - lost, "key");
    let text = format!("{}, {attached} attached", count(leases.len(), "lease"));
    report.add("database", Weight::Fact, text);
    if lost > 0 {
        report.add(
            "database",
            Weight::Note,
            format!("{}: the lease they name does not exist; they stay without one", count(lost, "key")),
        );
    }
    Ok(())
}

fn check_version(view: &View, report: &mut Report) {
    match schema::detect_version(view) {
        Ok(version) if schema::validate(view, CompatVersion::V3_7).is_err() => {
            report.add(
                "database",
                Weight::Fault,
                format!("storage version {version} is newer than this release"),
            );
        }
        Ok(version) => {
            report.add(
                "database",
                Weight::Fact,
                format!("storage version {}.{}", version.major, version.minor),
            );
        }
        Err(schema::VersionError::MissingTerm) => {
            report.add("database", Weight::Note, "storage version unknown: nothing was applied yet");
        }
        Err(error) => report.add("database", Weight::Fault, chain(&error)),
    }
}

fn check_members(view: &View, position: LogPosition, report: &mut Report) -> Result<Database, Failure> {
    let pairs = |bucket| view.scan(bucket);
    let (members, removed, versions) =
        (pairs(BucketId::Members)?, pairs(BucketId::MembersRemoved)?, pairs(BucketId::Cluster)?);
    fn borrowed(pairs: &[(Bytes, Bytes)]) -> impl Iterator<Item = (&[u8], &[u8])> {
        pairs.iter().map(|(key, value)| (&key[..], &value[..]))
    }
    let loaded = membership::Cluster::load(
        types::ClusterId(0),
        usize::MAX,
        borrowed(&members),
        borrowed(&removed),
        borrowed(&versions),
    );
    match loaded {
        Ok(cluster) => {
            let names: Vec<_> =
                cluster.members().map(|member| format!("{}={}", member.id, member.attributes.name)).collect();
            report.add(
                "database",
                Weight::Fact,
                format!("{}: {}", count(names.len(), "member"), names.join(", ")),
            );
            Ok(Database {
                position,
                members: cluster.members().map(|member| member.id.0).collect(),
                removed: cluster.removed().map(|id| id.0).collect(),
            })
        }
        Err(error) => Err(Failure::error(chain(&error))),
    }
}

/// What of the log the rest is compared with.
struct Log {
    metadata: wal::Metadata,
    /// The newest snapshot record that counts.
    newest: WalSnapshot,
    /// All records that count.
    valid: Vec<LogPosition>,
    /// What lies behind it.
    entries: Vec<Entry>,
    commit: u64,
}

fn check_log(disk: &dyn Disk, files: &MemberFiles, report: &mut Report) -> Option<Log> {
    match read_log(disk, files, report) {
        Ok(log) => Some(log),
        Err(failure) => {
            report.add("log", Weight::Fault, failure.text.unwrap_or_default());
            None
        }
    }
}

fn read_log(disk: &dyn Disk, files: &MemberFiles, report: &mut Report) -> Result<Log, Failure> {
    const PART: &str = "log";
    let dir = &files.wal_dir;
    if !disk.exists(dir).map_err(files::refused("stat", dir))? {
        return Err(Failure::error(format!("stat {}: no such file or directory", dir.display())));
    }
    let names = wal::segments(disk, dir)?;
    let valid = wal::valid_snapshots(disk, dir)?;
    let newest = valid.iter().max_by_key(|snapshot| snapshot.position.index).cloned().unwrap_or_default();
    let replayed = wal::read(disk, dir, newest.position)?;
    let metadata = wal::format::decode_metadata(&replayed.metadata).map_err(|error| {
        Failure::error(format!("log in {}: its metadata record cannot be read: {error}", dir.display()))
    })?;
    let commit = replayed.hard_state.commit;
    let last = replayed.entries.last().map_or(newest.position.index, |entry| entry.index);
    let described = format!(
        "{}: {}, entries up to index {last}, term {}, committed up to {commit}",
        dir.display(),
        count(names.len(), "segment"),
        replayed.hard_state.term
    );
    report.add(PART, Weight::Fact, described);
    report.add(
        PART,
        Weight::Fact,
        format!("belongs to member {} of cluster {}", metadata.member, metadata.cluster),
    );
    if replayed.torn {
        let text = "ends in a write that was not completed, as a crash leaves it; a start cuts it off";
        report.add(PART, Weight::Note, text);
    }
    if commit > last {
        report.add(
            PART,
            Weight::Fault,
            format!("entries up to {commit} were committed, but the log ends at {last}"),
        );
    }
    for entry in &replayed.entries {
        if entry.kind == EntryKind::Normal
            && let Err(error) = membership::decode_entry(entry.data.clone())
        {
            report.add(PART, Weight::Fault, format!("entry {}: {}", entry.index, chain(&error)));
        }
    }
    let copies = disk.list(dir).map_err(files::refused("list", dir))?;
    for entry in copies.iter().filter(|entry| entry.name.ends_with(".broken")) {
        report.add(
            PART,
            Weight::Note,
            format!("{}: a copy made before a repair; nobody reads it", entry.name),
        );
    }
    let valid = valid.iter().map(|snapshot| snapshot.position).collect();
    Ok(Log { metadata, newest, valid, entries: replayed.entries, commit })
}

fn check_snapshots(disk: &dyn Disk, files: &MemberFiles, log: Option<&Log>, report: &mut Report) {
    const PART: &str = "snapshots";
    let dir = files.snap_dir();
    let Ok(entries) = disk.list(&dir) else { return };
    let mut usable = Vec::new();
    for entry in &entries {
        let path = dir.join(&entry.name);
        if let Some(position) = wal::snap::parse_file_name(&entry.name) {
            match wal::snap::load(disk, &path) {
                Ok(Ok(snapshot)) if snapshot.position == position => usable.push(position),
                Ok(Ok(_)) => report.add(
                    PART,
                    Weight::Note,
                    format!("{}: is of another entry than its name says", entry.name),
                ),
                Ok(Err(reason)) => {
                    report.add(PART, Weight::Note, format!("{}: {reason}; a start sets it aside", entry.name))
                }
                Err(error) => report.add(PART, Weight::Fault, chain(&error)),
            }
        } else if entry.name.ends_with(".broken") {
            report.add(
                PART,
                Weight::Note,
                format!("{}: was found broken earlier; nobody reads it", entry.name),
            );
        } else if entry.name.starts_with("db.tmp") || entry.name.starts_with("tmp") {
            report.add(
                PART,
                Weight::Note,
                format!("{}: left by an interrupted operation; a start removes it", entry.name),
            );
        }
    }
    let Some(log) = log else { return };
    let wanted = log.newest.position;
    let known = usable.iter().filter(|position| log.valid.contains(position)).count();
    report.add(PART, Weight::Fact, format!("{} that the log knows", count(known, "file")));
    if wanted.index > 0 && !usable.contains(&wanted) {
        let text = format!(
            "{}: missing; this release and etcd 3.7 start without it, etcd 3.5 and 3.6 do not",
            wal::snap::file_name(wanted)
        );
        report.add(PART, Weight::Note, text);
    }
}

fn check_together(disk: &dyn Disk, files: &MemberFiles, database: &Database, log: &Log, report: &mut Report) {
    const PART: &str = "together";
    let faults_before = report.verdict() == Weight::Fault;
    let (position, newest) = (database.position, log.newest.position);
    let last = log.entries.last().map_or(newest.index, |entry| entry.index);
    if position.index < newest.index {
        let received = files.snap_dir().join(wal::snap::db_file_name(newest.index));
        match disk.open(&received, OpenMode::Read) {
            Ok(_) => report.add(
                PART,
                Weight::Note,
                format!("{} was received and not installed yet; a start installs it", received.display()),
            ),
            Err(_) => report.add(
                PART,
                Weight::Fault,
                format!(
                    "the database holds entries up to {}, the log begins behind {}: what lies between is lost",
                    position.index, newest.index
                ),
            ),
        }
    }
    if position.index > last {
        report.add(
            PART,
            Weight::Fault,
            format!(
                "the database holds entries up to {}, the log ends at {last}: it was cut or exchanged",
                position.index
            ),
        );
    }
    if let Some(entry) = log.entries.iter().find(|entry| entry.index == position.index)
        && position.term > 0
        && entry.term != position.term
    {
        report.add(
            PART,
            Weight::Fault,
            format!(
                "entry {} is of term {} in the log and of term {} in the database: they belong to different members",
                entry.index, entry.term, position.term
            ),
        );
    }
    let own = log.metadata.member.0;
    if database.removed.contains(&own) {
        let text = format!(
            "member {} was removed from its cluster: it cannot be started again",
            log.metadata.member
        );
        report.add(PART, Weight::Fault, text);
    } else if !database.members.is_empty() && !database.members.contains(&own) {
        let text = format!("member {} is none of the members in the database", log.metadata.member);
        // It may join by an entry that is still to be applied.
        let weight = if position.index < last { Weight::Note } else { Weight::Fault };
        report.add(PART, weight, text);
    }
    if !faults_before && report.verdict() != Weight::Fault {
        let commit = log.commit.max(position.index);
        let again = commit.saturating_sub(position.index);
        let entries = |count: u64| if count == 1 { "1 entry".to_owned() } else { format!("{count} entries") };
        report.add(
            PART,
            Weight::Fact,
            format!("a start applies {} more and is at index {commit} then", entries(again)),
        );
    }
}

/// A number of things.
fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
