//! Keys and values of the small buckets, and the storage version.
//!
//! ```text
//! meta     consistent_index      u64be      last entry whose effects are in this commit
//!          term                  u64be      its term
//!          confState             JSON       raft configuration, written when it changed
//!          storageVersion        text X.Y.0, absent in 3.5
//!          scheduledCompactRev   revision   compaction that was begun
//!          finishedCompactRev    revision   compaction that was completed
//! lease    lease id, i64 as u64be           leasepb.Lease
//! alarm    AlarmMember{memberID=1, alarm=2} empty
//! cluster  clusterVersion        text X.Y.0
//!          downgrade             JSON
//! members, members_removed  hex id          JSON, text "removed"
//! auth     authEnabled           one byte 1 or 0
//!          authRevision          u64be
//! ```
//! A revision is 17 bytes: main u64be, `_`, sub u64be (always 0 here).
//!
//! **Source**: etcd `server/storage/schema`, `server/storage/mvcc/store.go`.

use bytes::Bytes;
use types::{CompatVersion, LeaseId, LogPosition, MemberId, RecordKey, Revision, Version};

use crate::{Backend, BucketId, Change, Error, View, WriteSet};

/// `meta`: index of the last applied entry.
pub const CONSISTENT_INDEX: &[u8] = b"consistent_index";
/// `meta`: term of the last applied entry.
pub const TERM: &[u8] = b"term";
/// `meta`: raft configuration.
pub const CONF_STATE: &[u8] = b"confState";
/// `meta`: version of the schema.
pub const STORAGE_VERSION: &[u8] = b"storageVersion";
/// `meta`: compaction that was begun.
pub const SCHEDULED_COMPACT_REVISION: &[u8] = b"scheduledCompactRev";
/// `meta`: compaction that was completed.
pub const FINISHED_COMPACT_REVISION: &[u8] = b"finishedCompactRev";
/// `cluster`: version of the cluster.
pub const CLUSTER_VERSION: &[u8] = b"clusterVersion";
/// `cluster`: downgrade in progress.
pub const DOWNGRADE: &[u8] = b"downgrade";
/// `auth`: the switch.
pub const AUTH_ENABLED: &[u8] = b"authEnabled";
/// `auth`: revision of users and roles.
pub const AUTH_REVISION: &[u8] = b"authRevision";
/// `members_removed`: the value of each key.
pub const REMOVED: &[u8] = b"removed";

/// Keys of `meta` that [`Backend::hash`] leaves out.
pub const UNHASHED_META_KEYS: [&[u8]; 3] = [CONSISTENT_INDEX, TERM, STORAGE_VERSION];

/// The log position that the file was committed at; zeros if there is none.
pub fn stored_position(view: &View) -> Result<LogPosition, Error> {
    let number = |key| read_u64(view, BucketId::Meta, key);
    Ok(LogPosition { index: number(CONSISTENT_INDEX)?.unwrap_or(0), term: number(TERM)?.unwrap_or(0) })
}

/// Sets the log position to any value, also a lower one: for tools that make a new member out of an
/// old file. A running member lets [`WriteSet::applied`] do it.
pub fn overwrite_position(position: LogPosition) -> [Change; 2] {
    let number = |key: &'static [u8], number: u64| {
        Change::put(BucketId::Meta, key, Bytes::copy_from_slice(&number.to_be_bytes()))
    };
    [number(CONSISTENT_INDEX, position.index), number(TERM, position.term)]
}

/// What a commit writes for a position. Zeros are never written.
pub(crate) fn position_entries(
    applied: Option<LogPosition>,
) -> impl Iterator<Item = (&'static [u8], [u8; 8])> {
    let LogPosition { index, term } = applied.unwrap_or_default();
    [(CONSISTENT_INDEX, index), (TERM, term)]
        .into_iter()
        .filter(move |(_, number)| index > 0 && *number > 0)
        .map(|(key, number)| (key, number.to_be_bytes()))
}

/// The compaction revision that was begun last.
pub fn scheduled_compact_revision(view: &View) -> Result<Option<i64>, Error> {
    read_revision(view, SCHEDULED_COMPACT_REVISION)
}

/// The compaction revision that was completed last.
pub fn finished_compact_revision(view: &View) -> Result<Option<i64>, Error> {
    read_revision(view, FINISHED_COMPACT_REVISION)
}

/// Marks a compaction as begun.
pub fn set_scheduled_compact_revision(revision: i64) -> Change {
    revision_change(SCHEDULED_COMPACT_REVISION, revision)
}

/// Marks a compaction as completed.
pub fn set_finished_compact_revision(revision: i64) -> Change {
    revision_change(FINISHED_COMPACT_REVISION, revision)
}

/// The version of the cluster, if one was decided.
pub fn cluster_version(view: &View) -> Result<Option<Version>, Error> {
    read_version(view, BucketId::Cluster, CLUSTER_VERSION)
}

/// Sets the version of the cluster, as `X.Y.0`.
pub fn set_cluster_version(version: Version) -> Change {
    Change::put(BucketId::Cluster, CLUSTER_VERSION, version.without_patch().to_string())
}

/// The stored schema version; absent in 3.5.
pub fn storage_version(view: &View) -> Result<Option<Version>, Error> {
    read_version(view, BucketId::Meta, STORAGE_VERSION)
}

/// The raft configuration as stored JSON.
pub fn conf_state(view: &View) -> Result<Option<Bytes>, Error> {
    view.get(BucketId::Meta, CONF_STATE)
}

/// Writes a raft configuration in upstream's JSON form. The ids must be ascending.
pub fn encode_conf_state(
    voters: &[u64],
    learners: &[u64],
    voters_outgoing: &[u64],
    learners_next: &[u64],
    auto_leave: bool,
) -> Bytes {
    let list = |ids: &[u64]| ids.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    let optional = |name: &str, ids: &[u64]| match ids {
        [] => String::new(),
        _ => format!("\"{name}\":[{}],", list(ids)),
    };
    let json = format!(
        "{{\"voters\":[{}],{}{}{}\"auto_leave\":{auto_leave}}}",
        list(voters),
        optional("learners", learners),
        optional("voters_outgoing", voters_outgoing),
        optional("learners_next", learners_next),
    );
    json.into()
}

/// The auth revision; 0 if auth was never touched.
pub fn auth_revision(view: &View) -> Result<u64, Error> {
    Ok(read_u64(view, BucketId::Auth, AUTH_REVISION)?.unwrap_or(0))
}

/// Whether auth is switched on.
pub fn auth_enabled(view: &View) -> Result<bool, Error> {
    Ok(view.get(BucketId::Auth, AUTH_ENABLED)?.is_some_and(|value| value[..] == [1]))
}

/// Key of a lease.
pub fn lease_key(id: LeaseId) -> Bytes {
    Bytes::copy_from_slice(&id.0.to_be_bytes())
}

/// Key of a member in `members` and `members_removed`.
pub fn member_key(id: MemberId) -> Bytes {
    id.to_string().into()
}

/// Key of an alarm: the encoded `AlarmMember`. `kind` is the number of the alarm type.
pub fn alarm_key(member: MemberId, kind: i32) -> Bytes {
    let mut key = Vec::with_capacity(14);
    for (tag, number) in [(0x08, member.0), (0x10, kind as i64 as u64)] {
        if number != 0 {
            key.push(tag);
            put_varint(&mut key, number);
        }
    }
    key.into()
}

/// Reads the key of an alarm. `None` if it is something else.
pub fn parse_alarm_key(mut key: &[u8]) -> Option<(MemberId, i32)> {
    let (mut member, mut kind) = (0, 0);
    while let Some((tag, rest)) = key.split_first() {
        let (number, rest) = take_varint(rest)?;
        match tag {
            0x08 => member = number,
            0x10 => kind = number as i32,
            _ => return None,
        }
        key = rest;
    }
    Some((MemberId(member), kind))
}

/// Why a storage version cannot be reached or opened.
#[derive(Debug, thiserror::Error)]
pub enum VersionError {
    /// Neither a version nor a term is stored.
    #[error("cannot detect storage schema version: missing term information")]
    MissingTerm,
    /// A step leads to or from a version that this member does not know.
    #[error("cannot create migration plan: version \"{0}\" is not supported")]
    Unsupported(Version),
    /// Another major version.
    #[error("cannot create migration plan: changing major storage version is not supported")]
    Major,
    /// The log holds entries that the target version cannot read.
    #[error(
        "cannot downgrade storage, WAL contains newer entries, as the target version ({target}) is lower than \
         the version ({log}) detected from WAL logs"
    )]
    NewerLog {
        /// Where to.
        target: Version,
        /// What the log needs.
        log: Version,
    },
    /// Reading failed.
    #[error(transparent)]
    Backend(#[from] Error),
}

/// The schema version of the file: the stored one, else 3.5 if a term is stored or will be with the next commit.
pub fn detect_version(view: &View) -> Result<Version, VersionError> {
    if let Some(version) = storage_version(view)? {
        return Ok(version);
    }
    let position = match view.pending_position() {
        Some(pending) => pending,
        None => stored_position(view)?,
    };
    if position.term > 0 { Ok(Version::new(3, 5, 0)) } else { Err(VersionError::MissingTerm) }
}

/// Whether a member that stands for `compat` may open the file. A missing term is tolerated: the
/// version becomes known later.
pub fn validate(view: &View, compat: CompatVersion) -> Result<(), VersionError> {
    let Some(own) = compat.storage_version() else { return Ok(()) };
    match detect_version(view) {
        Ok(current) => plan(current, own, own).map(drop),
        Err(VersionError::MissingTerm) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The changes that take the schema from `current` to `target`, one minor version at a time.
/// `newest` is the highest version that this member knows.
pub fn plan(current: Version, target: Version, newest: Version) -> Result<Vec<Change>, VersionError> {
    let (mut current, target) = (current.without_patch(), target.without_patch());
    if current.major != target.major {
        return Err(VersionError::Major);
    }
    let mut changes = Vec::new();
    while current != target {
        let upgrade = current.minor < target.minor;
        // A step belongs to the higher of its two versions; the first one leads from 3.5 to 3.6.
        let higher = if upgrade { Version::new(current.major, current.minor + 1, 0) } else { current };
        if higher > newest.without_patch() || higher < Version::new(3, 6, 0) {
            return Err(VersionError::Unsupported(higher));
        }
        current = if upgrade { higher } else { Version::new(current.major, current.minor - 1, 0) };
        changes.push(match current < Version::new(3, 6, 0) {
            true => Change::delete(BucketId::Meta, STORAGE_VERSION),
            false => Change::put(BucketId::Meta, STORAGE_VERSION, current.to_string()),
        });
    }
    Ok(changes)
}

impl Backend {
    /// Takes the schema to `target` and commits. `log_minimum` is the lowest version that can read
    /// the log entries since the last snapshot; a downgrade below it is refused. Returns whether
    /// anything changed.
    pub fn migrate(
        &self,
        target: Version,
        compat: CompatVersion,
        log_minimum: Option<Version>,
    ) -> Result<bool, VersionError> {
        // 3.5 knows no versions; as the newest known one it must not forbid steps down to it.
        let newest = compat.storage_version().unwrap_or(CompatVersion::V3_7.cluster_version());
        let current = detect_version(&self.view())?;
        let changes = plan(current, target, newest)?;
        if target.without_patch() < current.without_patch()
            && let Some(log) = log_minimum.filter(|log| target < *log)
        {
            return Err(VersionError::NewerLog { target, log });
        }
        let changed = !changes.is_empty();
        self.append(WriteSet { changes, ..WriteSet::default() });
        self.commit()?;
        Ok(changed)
    }
}

fn malformed(bucket: BucketId, key: &[u8], value: &[u8]) -> Error {
    let bucket = std::str::from_utf8(bucket.name()).unwrap_or_default();
    Error::MalformedValue { bucket, key: String::from_utf8_lossy(key).into_owned(), len: value.len() }
}

fn read_u64(view: &View, bucket: BucketId, key: &[u8]) -> Result<Option<u64>, Error> {
    let Some(value) = view.get(bucket, key)? else { return Ok(None) };
    let number = <[u8; 8]>::try_from(&value[..]).map_err(|_| malformed(bucket, key, &value))?;
    Ok(Some(u64::from_be_bytes(number)))
}

fn read_revision(view: &View, key: &[u8]) -> Result<Option<i64>, Error> {
    let Some(value) = view.get(BucketId::Meta, key)? else { return Ok(None) };
    let record = RecordKey::decode(&value).map_err(|_| malformed(BucketId::Meta, key, &value))?;
    Ok(Some(record.revision.main))
}

fn revision_change(key: &'static [u8], revision: i64) -> Change {
    let value = RecordKey::put(Revision::new(revision, 0)).encode();
    Change::put(BucketId::Meta, key, Bytes::copy_from_slice(&value))
}

fn read_version(view: &View, bucket: BucketId, key: &[u8]) -> Result<Option<Version>, Error> {
    let Some(value) = view.get(bucket, key)? else { return Ok(None) };
    let text = std::str::from_utf8(&value).map_err(|_| malformed(bucket, key, &value))?;
    text.parse().map(Some).map_err(|_| malformed(bucket, key, &value))
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((number, &bytes[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conf_state_has_upstreams_form() {
        assert_eq!(
            encode_conf_state(&[17402000849597972512], &[], &[], &[], false),
            r#"{"voters":[17402000849597972512],"auto_leave":false}"#
        );
        assert_eq!(
            encode_conf_state(&[1, 2], &[3], &[4], &[5], true),
            r#"{"voters":[1,2],"learners":[3],"voters_outgoing":[4],"learners_next":[5],"auto_leave":true}"#
        );
    }

    #[test]
    fn alarm_keys_leave_zeros_out() {
        for (member, kind) in [(0, 0), (0, 2), (0xf180_5392_ad55_4020, 1), (1, 0)] {
            let key = alarm_key(MemberId(member), kind);
            assert_eq!(parse_alarm_key(&key), Some((MemberId(member), kind)));
        }
        assert_eq!(&alarm_key(MemberId(300), 1)[..], [0x08, 0xac, 0x02, 0x10, 1]);
        assert_eq!(parse_alarm_key(b"\x08"), None);
        assert_eq!(parse_alarm_key(b"junk"), None);
    }

    #[test]
    fn plans_go_one_minor_version_at_a_time() {
        let version = |minor| Version::new(3, minor, 0);
        let steps = |from, to, newest| {
            plan(version(from), version(to), version(newest)).map(|changes| {
                let value =
                    |change: Change| change.value.map(|value| String::from_utf8_lossy(&value).into_owned());
                changes.into_iter().map(value).collect::<Vec<_>>()
            })
        };
        assert_eq!(steps(5, 7, 7).unwrap(), [Some("3.6.0".into()), Some("3.7.0".into())]);
        assert_eq!(steps(7, 5, 7).unwrap(), [Some("3.6.0".into()), None]);
        assert!(steps(6, 6, 7).unwrap().is_empty());
        assert_eq!(
            steps(7, 6, 6).unwrap_err().to_string(),
            "cannot create migration plan: version \"3.7.0\" is not supported"
        );
        assert!(steps(7, 8, 7).is_err() && steps(5, 4, 7).is_err() && steps(8, 7, 7).is_err());
        assert!(matches!(plan(Version::new(4, 0, 0), version(7), version(7)), Err(VersionError::Major)));
    }
}
