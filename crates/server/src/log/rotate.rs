//! A log file that is moved aside when it has become large.
//!
//! ```text
//! /var/log/etcd.log                                  the file that is written
//! /var/log/etcd-2026-11-21T08-26-04.870.log          moved aside at this time
//! /var/log/etcd-2026-11-20T19-00-12.003.log.gz       the same, compressed since
//! ```
//!
//! - No record is cut in two: the file is moved before the record that would make it too large. A record
//!   larger than a whole file gets one for itself.
//! - Compressing and removing old files happens on a thread of its own, so a record never waits for it.
//!   A crash in between leaves the uncompressed file, and the next start goes on with it.
//! - Other files of the directory are left alone: only names of the form above count.
//!
//! **Source**: names and rules of `gopkg.in/natefinch/lumberjack.v2`, which etcd uses.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use crossbeam_channel::{Sender, bounded};
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

const MEGABYTE: u64 = 1 << 20;
const DEFAULT_MAX_BYTES: u64 = 100 * MEGABYTE;
const COMPRESSED: &str = ".gz";
/// Like `2026-11-21T08-26-04.870`: names sort by time.
const TIME_FORMAT: &str = "%Y-%m-%dT%H-%M-%S%.3f";
const TIME_SHAPE: &[u8] = b"0000-00-00T00-00-00.000";

/// How to rotate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// The file is moved aside before it passes this size.
    pub max_bytes: u64,
    /// Files moved aside longer ago than this many days are removed; 0 keeps them.
    pub max_age_days: u64,
    /// So many old files are kept; 0 keeps all.
    pub max_backups: usize,
    /// The times in names are those of the local zone.
    pub local_time: bool,
    /// Old files are compressed.
    pub compress: bool,
}

impl Default for Rotation {
    fn default() -> Self {
        Self {
            max_bytes: DEFAULT_MAX_BYTES,
            max_age_days: 0,
            max_backups: 0,
            local_time: false,
            compress: false,
        }
    }
}

impl Rotation {
    /// Reads `--log-rotation-config-json`, which was checked before: what does not fit is left at its
    /// default. Keys are found in any case, as Go does.
    pub fn from_json(json: &str) -> Self {
        let mut rotation = Self::default();
        let object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(json).unwrap_or_default();
        for (key, value) in &object {
            let number = value.as_u64().filter(|number| *number > 0);
            match key.to_lowercase().as_str() {
                "maxsize" => {
                    let bytes = number.and_then(|megabytes| megabytes.checked_mul(MEGABYTE));
                    rotation.max_bytes = bytes.unwrap_or(DEFAULT_MAX_BYTES);
                }
                "maxage" => rotation.max_age_days = number.unwrap_or(0),
                "maxbackups" => rotation.max_backups = number.map_or(0, |count| count as usize),
                "localtime" => rotation.local_time = value.as_bool().unwrap_or(false),
                "compress" => rotation.compress = value.as_bool().unwrap_or(false),
                _ => {}
            }
        }
        rotation
    }

    fn zone(&self) -> TimeZone {
        if self.local_time { TimeZone::system() } else { TimeZone::UTC }
    }
}

/// The file that is written, and the thread that looks after the old ones.
#[derive(Debug)]
pub(super) struct RotatingFile {
    path: PathBuf,
    rotation: Rotation,
    file: File,
    bytes: u64,
    tidy: Sender<()>,
}

impl RotatingFile {
    /// Goes on with the file, or begins it, with its directory.
    pub fn open(path: &Path, rotation: &Rotation) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let bytes = file.metadata()?.len();
        // One request is enough however often the file was moved meanwhile.
        let (tidy, requests) = bounded(1);
        let (owned, rules) = (path.to_owned(), rotation.clone());
        std::thread::Builder::new().name("log-rotation".to_owned()).spawn(move || {
            while requests.recv().is_ok() {
                // There is no better place to report it to than the log itself.
                if let Err(error) = tidy_up(&owned, &rules, Timestamp::now()) {
                    super::warn("cannot look after old log files", &[("error", error.to_string().into())]);
                }
            }
        })?;
        let opened = Self { path: path.to_owned(), rotation: rotation.clone(), file, bytes, tidy };
        opened.ask_to_tidy();
        Ok(opened)
    }

    fn ask_to_tidy(&self) {
        let _ = self.tidy.try_send(());
    }

    pub fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        let is_full = self.bytes > 0 && self.bytes.saturating_add(length) > self.rotation.max_bytes;
        if is_full && self.rotate(Timestamp::now()).is_err() {
            // The old file takes the record, and the next try comes one file later.
            self.bytes = 0;
        }
        self.file.write_all(line)?;
        self.bytes += length;
        Ok(())
    }

    /// Moves the file aside and begins a new one with the same mode and owner.
    fn rotate(&mut self, now: Timestamp) -> io::Result<()> {
        let old = self.file.metadata()?;
        match fs::rename(&self.path, self.free_name(now)) {
            // Somebody else moved or removed it.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mode = old.permissions().mode() & 0o7777;
        let file = OpenOptions::new().append(true).create(true).mode(mode).open(&self.path)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        // Only root may give files away; others own it already.
        let _ = fchown(&file, Some(old.uid()), Some(old.gid()));
        self.file = file;
        self.bytes = 0;
        self.ask_to_tidy();
        Ok(())
    }

    /// A name that no file has: two moves within a millisecond get different ones.
    fn free_name(&self, now: Timestamp) -> PathBuf {
        let (prefix, extension) = parts_of(&self.path);
        let zone = self.rotation.zone();
        (0..1_000)
            .map(|millis| {
                let stamp = stamp(now + SignedDuration::from_millis(millis), &zone);
                self.path.with_file_name(format!("{prefix}{stamp}{extension}"))
            })
            .find(|name| !name.exists() && !compressed_name(name).exists())
            .unwrap_or_else(|| self.path.with_file_name(format!("{prefix}{}{extension}", stamp(now, &zone))))
    }
}

fn stamp(time: Timestamp, zone: &TimeZone) -> String {
    time.to_zoned(zone.clone()).strftime(TIME_FORMAT).to_string()
}

/// `etcd-` and `.log` of `/var/log/etcd.log`.
fn parts_of(path: &Path) -> (String, String) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match name.rfind('.') {
        Some(dot) => (format!("{}-", &name[..dot]), name[dot..].to_owned()),
        None => (format!("{name}-"), String::new()),
    }
}

fn compressed_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(COMPRESSED);
    name.into()
}

/// A file that was moved aside.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Old {
    /// When, as its name says.
    stamp: String,
    is_compressed: bool,
    path: PathBuf,
}

/// The old files of a log, newest first.
fn old_files(path: &Path) -> io::Result<Vec<Old>> {
    let (prefix, extension) = parts_of(path);
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let (plain, is_compressed) = match name.strip_suffix(COMPRESSED) {
            Some(plain) => (plain, true),
            None => (name.as_str(), false),
        };
        let stamp = plain.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(&extension));
        if let Some(stamp) = stamp.filter(|stamp| is_stamp(stamp))
            && entry.file_type()?.is_file()
        {
            found.push(Old { stamp: stamp.to_owned(), is_compressed, path: entry.path() });
        }
    }
    found.sort_unstable_by(|left, right| right.cmp(left));
    Ok(found)
}

fn is_stamp(text: &str) -> bool {
    let fits = |(byte, shape): (u8, &u8)| if *shape == b'0' { byte.is_ascii_digit() } else { byte == *shape };
    text.len() == TIME_SHAPE.len() && text.bytes().zip(TIME_SHAPE).all(fits)
}

/// Removes what is too old or too much, and compresses the rest.
fn tidy_up(path: &Path, rotation: &Rotation, now: Timestamp) -> io::Result<()> {
    if rotation.max_backups == 0 && rotation.max_age_days == 0 && !rotation.compress {
        return Ok(());
    }
    let age = SignedDuration::from_hours(i64::try_from(rotation.max_age_days).unwrap_or(i64::MAX / 24) * 24);
    // An age beyond the calendar keeps everything.
    let oldest = now.checked_sub(age).ok().filter(|_| rotation.max_age_days > 0);
    let oldest = oldest.map(|oldest| stamp(oldest, &rotation.zone()));
    let mut kept: Vec<String> = Vec::new();
    let mut plain = Vec::new();
    for old in old_files(path)? {
        // A file and what it was compressed to count as one.
        if kept.last() != Some(&old.stamp) {
            kept.push(old.stamp.clone());
        }
        let is_too_many = rotation.max_backups > 0 && kept.len() > rotation.max_backups;
        if is_too_many || oldest.as_ref().is_some_and(|oldest| old.stamp < *oldest) {
            match fs::remove_file(&old.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        } else if rotation.compress && !old.is_compressed {
            plain.push(old.path);
        }
    }
    // Last: on a full disk nothing can be compressed before something was removed.
    plain.iter().try_for_each(|path| compress(path))
}

/// Puts a compressed file in the place of a plain one. What an interrupted attempt left is written anew.
fn compress(path: &Path) -> io::Result<()> {
    let mut plain = File::open(path)?;
    let facts = plain.metadata()?;
    let target = compressed_name(path);
    let mode = facts.permissions().mode() & 0o7777;
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&target)?;
    let _ = fchown(&file, Some(facts.uid()), Some(facts.gid()));
    let mut encoder = GzEncoder::new(file, Compression::default());
    let written = io::copy(&mut plain, &mut encoder).and_then(|_| encoder.finish()?.sync_all());
    if let Err(error) = written {
        let _ = fs::remove_file(&target);
        return Err(error);
    }
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_flag_is_read_in_any_case() {
        let json =
            r#"{"maxSize": 7, "MaxAge": 3, "maxbackups": 2, "localtime": true, "Compress": true, "x": 1}"#;
        let want = Rotation {
            max_bytes: 7 << 20,
            max_age_days: 3,
            max_backups: 2,
            local_time: true,
            compress: true,
        };
        assert_eq!(Rotation::from_json(json), want);
        assert_eq!(Rotation::from_json(crate::config::DEFAULT_ROTATION), Rotation::default());
        assert_eq!(Rotation::from_json(r#"{"maxsize": 0, "maxage": null}"#), Rotation::default());
    }

    #[test]
    fn a_full_file_is_moved_aside_and_no_record_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/etcd.log");
        let rotation = Rotation { max_bytes: 10, ..Rotation::default() };
        let mut file = RotatingFile::open(&path, &rotation).unwrap();
        for line in ["12345\n", "678\n", "a longer one than a file\n", "z\n"] {
            file.write(line.as_bytes()).unwrap();
        }
        let old: Vec<String> =
            old_files(&path).unwrap().iter().map(|old| fs::read_to_string(&old.path).unwrap()).collect();
        assert_eq!(old, ["a longer one than a file\n", "12345\n678\n"]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "z\n");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        drop(file);

        let mut again = RotatingFile::open(&path, &rotation).unwrap();
        again.write(b"1234567\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "z\n1234567\n", "a restart goes on with the file");
        again.write(b"x\n").unwrap();
        assert_eq!(old_files(&path).unwrap().len(), 3);
    }

    #[test]
    fn old_files_are_counted_aged_and_compressed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etcd.log");
        let day = 24 * 3600;
        for days in 1..=4 {
            let name = format!("etcd-{}.log", stamp(at(-days * day), &TimeZone::UTC));
            fs::write(dir.path().join(name), format!("{days}")).unwrap();
        }
        for stranger in ["etcd-2026.log", "etcd.log", "other-2026-11-21T08-26-04.870.log"] {
            fs::write(dir.path().join(stranger), "s").unwrap();
        }
        let rotation = Rotation { max_age_days: 3, max_backups: 2, compress: true, ..Rotation::default() };
        tidy_up(&path, &Rotation::default(), at(60)).unwrap();
        assert_eq!(names(dir.path()).len(), 7);

        tidy_up(&path, &Rotation { max_backups: 0, ..rotation.clone() }, at(-60)).unwrap();
        assert_eq!(names(dir.path()).len(), 6, "the fourth is older than three days");
        tidy_up(&path, &rotation, at(-60)).unwrap();
        let left = old_files(&path).unwrap();
        assert_eq!(left.len(), 2);
        for (old, content) in left.iter().zip(["1", "2"]) {
            assert!(old.is_compressed);
            let mut text = String::new();
            flate2::read::GzDecoder::new(File::open(&old.path).unwrap()).read_to_string(&mut text).unwrap();
            assert_eq!(text, content);
        }
    }

    #[test]
    fn moves_within_a_millisecond_do_not_meet() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etcd.log");
        let mut file = RotatingFile::open(&path, &Rotation::default()).unwrap();
        for _ in 0..3 {
            file.write(b"x\n").unwrap();
            file.rotate(at(0)).unwrap();
        }
        assert_eq!(old_files(&path).unwrap().len(), 3);
    }
}
