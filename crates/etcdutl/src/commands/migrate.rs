//! `migrate`: the storage version of a stopped member, one minor version at a time.
//!
//! A step down is refused while the log behind the last snapshot holds an entry that the target
//! version cannot read. What an entry needs follows from the fields that it uses.
//!
//! **Source**: etcd `etcdutl/etcdutl/migrate_command.go`, `server/storage/wal/version.go`,
//! `server/storage/schema/migration.go`.

use std::sync::Arc;
use std::time::Duration;

use backend::schema::{self, VersionError};
use backend::{BucketId, Change, WriteSet};
use cli::text::quote;
use env::Disk;
use proto::etcdserverpb::InternalRaftRequest;
use types::{CompatVersion, Entry, EntryKind, Version};

use super::Invocation;
use crate::failure::{Failure, chain};
use crate::files::{self, MemberFiles};
use crate::log;

const OLDEST: Version = Version::new(3, 5, 0);

/// Carries the command out.
pub fn run(invocation: &Invocation) -> Result<(), Failure> {
    let flags = &invocation.flags;
    let target = target(&flags.text("target-version"))?;
    let files = MemberFiles::new(&flags.text("data-dir"), "");
    files::must_exist(&files.db())?;
    migrate(files::disk(), &files, target, flags.bool("force"), super::timeout(flags))
}

/// Reads `X.Y`.
fn target(text: &str) -> Result<Version, Failure> {
    let wrong = || {
        let text = format!("wrong target version format, expected \"X.Y\", got {}", quote(text));
        Failure::arguments(text)
    };
    if text.matches('.').count() != 1 {
        return Err(wrong());
    }
    let mut parts = text.split('.').map(|part| {
        let number = cli::number::int(part, 10)
            .map_err(|cause| Failure::arguments(format!("failed to parse target version: {cause}")))?;
        u32::try_from(number).map_err(|_| wrong())
    });
    let mut part = || parts.next().unwrap_or_else(|| Err(wrong()));
    let version = Version::new(part()?, part()?, 0);
    if version < OLDEST {
        let text = format!("target version \"{}\" not supported. Minimal \"3.5\"", minor(version));
        return Err(Failure::arguments(text));
    }
    Ok(version)
}

fn migrate(
    disk: Arc<dyn Disk>,
    files: &MemberFiles,
    target: Version,
    force: bool,
    timeout: Duration,
) -> Result<(), Failure> {
    let backend = files::open_backend(disk.clone(), &files.db(), timeout, false)?;
    let current = schema::detect_version(&backend.view()).map_err(|error| match error {
        VersionError::MissingTerm => Failure::error("missing term information"),
        error => Failure::error(chain(&error)),
    })?;
    if current == target {
        log::info("storage version up-to-date", &[("storage-version", minor(current).into())]);
        return Ok(());
    }
    let log_minimum = log_minimum(&*disk, files)?;
    match backend.migrate(target, CompatVersion::V3_7, log_minimum) {
        Ok(_) => {
            for version in steps(current, target) {
                log::info("updated storage version", &[("new-storage-version", version.to_string().into())]);
            }
            Ok(())
        }
        Err(error) if force && !matches!(error, VersionError::Backend(_)) => {
            log::info("normal migrate failed, trying with force", &[("error", chain(&error).into())]);
            let set = |change| WriteSet { changes: vec![change], ..WriteSet::default() };
            if target < Version::new(3, 6, 0) {
                backend.append(set(Change::delete(BucketId::Meta, schema::STORAGE_VERSION)));
                log::warn("forcefully cleared storage version", &[]);
            } else {
                backend.append(set(Change::put(BucketId::Meta, schema::STORAGE_VERSION, target.to_string())));
                log::warn("forcefully set storage version", &[("storage-version", minor(target).into())]);
            }
            backend.commit()?;
            Ok(())
        }
        Err(error) => Err(Failure::error(chain(&error))),
    }
}

/// `3.6`
fn minor(version: Version) -> String {
    format!("{}.{}", version.major, version.minor)
}

/// The versions on the way, the last one included.
fn steps(current: Version, target: Version) -> Vec<Version> {
    let at = |minor| Version::new(target.major, minor, 0);
    match current < target {
        true => (current.minor + 1..=target.minor).map(at).collect(),
        false => (target.minor..current.minor).rev().map(at).collect(),
    }
}

/// The lowest version that reads all entries behind the newest snapshot; `None` for any.
fn log_minimum(disk: &dyn Disk, files: &MemberFiles) -> Result<Option<Version>, Failure> {
    let failed = |what: &str, error: wal::Error| Failure::error(format!("{what}: {}", chain(&error)));
    let from = wal::valid_snapshots(disk, &files.wal_dir)
        .map_err(|error| failed("failed to get the lastest snapshot", error))?
        .iter()
        .map(|snapshot| snapshot.position)
        .max_by_key(|position| position.index)
        .unwrap_or_default();
    let replayed =
        wal::read(disk, &files.wal_dir, from).map_err(|error| failed("failed to read wal", error))?;
    let mut lowest = None;
    for entry in &replayed.entries {
        lowest = lowest.max(entry_minimum(entry)?);
    }
    Ok(lowest)
}

/// The lowest version that reads an entry, by the fields it uses.
fn entry_minimum(entry: &Entry) -> Result<Option<Version>, Failure> {
    let v3 = |minor| Some(Version::new(3, minor, 0));
    match entry.kind {
        EntryKind::ConfChange => return Ok(v3(0)),
        EntryKind::ConfChangeV2 => return Ok(v3(4)),
        EntryKind::Normal => {}
    }
    let request = membership::decode_entry(entry.data.clone())
        .map_err(|error| Failure::error(format!("failed to read wal: entry {}: {error}", entry.index)))?;
    let Some(InternalRaftRequest {
        auth_status,
        cluster_version_set,
        cluster_member_attr_set,
        downgrade_info_set,
        downgrade_version_test,
        lease_checkpoint,
        ..
    }) = request
    else {
        return Ok(None);
    };
    if let Some(test) = downgrade_version_test {
        let own = test.ver.parse::<Version>().ok();
        return Ok(own.max(v3(6)));
    }
    let newest = auth_status.is_some()
        || cluster_version_set.is_some()
        || cluster_member_attr_set.is_some()
        || downgrade_info_set.is_some();
    Ok(match (newest, lease_checkpoint) {
        (true, _) => v3(5),
        (false, Some(_)) => v3(4),
        (false, None) => v3(0),
    })
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn targets() {
        let text = |target: &str| super::target(target).map_err(|failure| failure.text.unwrap());
        assert_eq!(text("3.6"), Ok(Version::new(3, 6, 0)));
        assert_eq!(text("foo").unwrap_err(), "wrong target version format, expected \"X.Y\", got \"foo\"");
        assert_eq!(
            text("3.6.0").unwrap_err(),
            "wrong target version format, expected \"X.Y\", got \"3.6.0\""
        );
        assert_eq!(text("3.4").unwrap_err(), "target version \"3.4\" not supported. Minimal \"3.5\"");
        assert_eq!(
            text("x.y").unwrap_err(),
            "failed to parse target version: strconv.ParseInt: parsing \"x\": invalid syntax"
        );
        assert_eq!(super::target("x.y").unwrap_err().code, 128);
    }

    #[test]
    fn every_version_on_the_way_is_named() {
        let at = |minor| Version::new(3, minor, 0);
        assert_eq!(steps(at(5), at(7)), [at(6), at(7)]);
        assert_eq!(steps(at(7), at(5)), [at(6), at(5)]);
    }

    #[test]
    fn entries_need_the_version_of_their_newest_field() {
        let normal = |request: InternalRaftRequest| Entry {
            index: 1,
            term: 1,
            kind: EntryKind::Normal,
            data: request.encode_to_vec().into(),
        };
        let minimum = |entry| entry_minimum(&entry).unwrap().map(minor);
        assert_eq!(minimum(Entry::default()), None, "the empty entry of a new leader");
        assert_eq!(
            minimum(Entry { kind: EntryKind::ConfChange, ..Entry::default() }),
            Some("3.0".to_owned())
        );
        let put = InternalRaftRequest { put: Some(Default::default()), ..Default::default() };
        assert_eq!(minimum(normal(put)), Some("3.0".to_owned()));
        let checkpoint =
            InternalRaftRequest { lease_checkpoint: Some(Default::default()), ..Default::default() };
        assert_eq!(minimum(normal(checkpoint)), Some("3.4".to_owned()));
        let set = InternalRaftRequest { cluster_version_set: Some(Default::default()), ..Default::default() };
        assert_eq!(minimum(normal(set)), Some("3.5".to_owned()));
        let test = proto::etcdserverpb::DowngradeVersionTestRequest { ver: "3.8.0".into() };
        let test = InternalRaftRequest { downgrade_version_test: Some(test.into()), ..Default::default() };
        assert_eq!(minimum(normal(test)), Some("3.8".to_owned()));
    }
}
