//! `snapshot restore`: a data directory for one member of a new cluster, out of a snapshot file.
//!
//! Keys, history, leases, users and roles stay as they are in the file; the members of the old cluster
//! are replaced by those of `--initial-cluster`, whose ids follow from names, URLs and token as they do
//! on a server. All members restored with the same arguments make one cluster.
//!
//! ```text
//! <data-dir>/member.restoring/           while it is being made
//!     restoring.lock                     held by the process at work
//!     snap/db, snap/<1>-<n>.snap, wal/   as they shall be
//! <wal-dir>.restoring/                   if the log lies elsewhere
//! <data-dir>/member/                     the result: one rename, after everything is synced
//! ```
//!
//! Invariants:
//! - `member` appears whole and durable, or not at all: a server that finds none of it would start as
//!   a new, empty member, one that finds half of it must never exist;
//! - a failure leaves nothing behind; what a crash left is removed by the next try.
//!
//! **Source**: etcd `etcdutl/snapshot/v3_snapshot.go` (`Restore`).

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backend::{BucketId, schema};
use bytes::Bytes;
use cli::Flags;
use env::{Disk, File, LockKind, OpenMode};
use membership::{Cluster, ConfChange, InitialCluster, Member};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use types::{ConfState, Entry, EntryKind, HardState, LogPosition, MemberId, RecordKey, Revision, Snapshot};
use wal::Wal;

use super::Invocation;
use crate::failure::{Failure, chain};
use crate::files::{self, MemberFiles, reason, refused};
use crate::log;
use crate::progress::Progress;

/// Bytes of the checksum behind the database.
const DIGEST_BYTES: u64 = 32;
/// A database is a multiple of this; a file that is not, by a checksum, has one.
const SECTOR_BYTES: u64 = 512;
/// Bytes copied at once.
const CHUNK_BYTES: usize = 1 << 20;
/// How long names may take to resolve.
const NAME_PATIENCE: Duration = Duration::from_secs(30);
/// Between two questions for the same name.
const NAME_INTERVAL: Duration = Duration::from_secs(1);

/// Carries the command out.
pub fn run(invocation: &Invocation) -> Result<(), Failure> {
    let [file] = &invocation.args[..] else {
        return Err(Failure::arguments("snapshot restore requires exactly one argument"));
    };
    let restore = Restore::from_flags(cli::text::lossy(file), &invocation.flags)?;
    restore.run(files::disk())
}

/// What to restore, and as what.
#[derive(Debug)]
struct Restore {
    file: PathBuf,
    name: String,
    files: MemberFiles,
    members: Vec<Member>,
    skip_hash_check: bool,
    map_bytes: u64,
    bump_revision: u64,
}

impl Restore {
    fn from_flags(file: String, flags: &Flags) -> Result<Self, Failure> {
        let bump_revision = flags.uint("bump-revision");
        if (bump_revision > 0) != flags.bool("mark-compacted") {
            return Err(Failure::arguments("--mark-compacted required if --revision-bump > 0"));
        }
        let name = flags.text("name");
        let data_dir = match flags.text("data-dir") {
            text if text.is_empty() => format!("{name}.etcd"),
            text => text,
        };
        let advertised: Vec<String> =
            flags.text("initial-advertise-peer-urls").split(',').map(str::to_owned).collect();
        let advertised = membership::parse_urls(&advertised)?;
        let initial = InitialCluster::parse(&flags.text("initial-cluster"))?;
        initial.verify_bootstrap(&name, &advertised, false, |one, other| {
            let deadline = Instant::now() + NAME_PATIENCE;
            membership::same_addresses(one, other, |_, authority| look_up_until(authority, deadline))
        })?;
        Ok(Self {
            file: file.into(),
            members: initial.members(&flags.text("initial-cluster-token"))?,
            files: MemberFiles::new(&data_dir, &flags.text("wal-dir")),
            name,
            skip_hash_check: flags.bool("skip-hash-check"),
            map_bytes: match flags.uint("initial-memory-map-size") {
                0 => files::DEFAULT_MAP_BYTES,
                bytes => bytes,
            },
            bump_revision,
        })
    }

    fn run(&self, disk: Arc<dyn Disk>) -> Result<(), Failure> {
        let MemberFiles { data_dir, wal_dir } = &self.files;
        if !is_vacant(&*disk, data_dir) {
            let text = format!("data-dir \"{}\" not empty or could not be read", data_dir.display());
            return Err(Failure::error(text));
        }
        if !wal_dir.starts_with(data_dir) && disk.exists(wal_dir).map_err(refused("stat", wal_dir))? {
            return Err(Failure::error(format!("wal-dir \"{}\" exists", wal_dir.display())));
        }
        let snap_dir = self.files.snap_dir();
        let fields = [
            ("path", self.file.as_path().into()),
            ("wal-dir", wal_dir.as_path().into()),
            ("data-dir", data_dir.as_path().into()),
            ("snap-dir", snap_dir.as_path().into()),
            ("initial-memory-map-size", self.map_bytes.into()),
        ];
        log::info("restoring snapshot", &fields);
        let source = Source::open(&*disk, &self.file, self.skip_hash_check)?;
        let site = Site::begin(disk.clone(), &self.files)?;
        self.make(&disk, &source, &site)?;
        site.finish()?;
        log::info("restored snapshot", &fields);
        Ok(())
    }

    /// Makes all files of the member.
    fn make(&self, disk: &Arc<dyn Disk>, source: &Source, site: &Site) -> Result<(), Failure> {
        let snap_dir = site.member.join("snap");
        make_dir(&**disk, &snap_dir)?;
        let db = snap_dir.join("db");
        source.copy_to(&**disk, &db)?;
        let cluster = self.cluster();
        let position = LogPosition { index: self.members.len() as u64, term: 1 };
        self.adapt_db(disk.clone(), &db, &cluster, position)?;

        let ids = self.members.iter().map(|member| member.id.0).collect();
        let conf_state = ConfState::new(ids, Vec::new());
        let data = Bytes::from(cluster.to_v2_store());
        let snapshot = Snapshot { position, conf_state: conf_state.clone(), data };
        wal::snap::save(&**disk, &snap_dir, &snapshot)?;
        disk.sync_dir(&snap_dir).map_err(refused("sync", &snap_dir))?;
        self.make_log(
            disk.clone(),
            &site.wal,
            &cluster,
            wal::WalSnapshot { position, conf_state: Some(conf_state) },
        )
    }

    fn own_id(&self) -> MemberId {
        let own = self.members.iter().find(|member| member.attributes.name == self.name);
        own.map(|member| member.id).unwrap_or_default()
    }

    fn cluster(&self) -> Cluster {
        let id = membership::cluster_id(self.members.iter().map(|member| member.id));
        Cluster::from_parts(id, usize::MAX, self.members.iter().cloned(), [], None)
    }

    /// Puts the new members into the database, and what follows from them, in one transaction.
    fn adapt_db(
        &self,
        disk: Arc<dyn Disk>,
        path: &Path,
        cluster: &Cluster,
        position: LogPosition,
    ) -> Result<(), Failure> {
        let options = bolt::Options { initial_map_bytes: self.map_bytes, ..bolt::Options::default() };
        let db = bolt::Db::open(disk, path, options).map_err(|error| self.unusable(error))?;
        let latest = latest_revision(&db.read()).map_err(|failure| self.beyond_use(failure))?;
        let mut tx = db.write()?;

        log::info("Trimming membership information from the backend...", &[]);
        for bucket in [BucketId::Members, BucketId::MembersRemoved] {
            if tx.bucket(bucket.name())?.is_some() {
                tx.delete_bucket(bucket.name())?;
            }
            tx.create_bucket_if_missing(bucket.name())?;
        }
        tx.create_bucket_if_missing(BucketId::Cluster.name())?;
        let mut members = tx.create_bucket_if_missing(BucketId::Members.name())?;
        for member in cluster.members() {
            members.put(&schema::member_key(member.id), member.to_json().as_bytes())?;
        }
        let mut changes: Vec<_> = schema::overwrite_position(position).into();
        if self.bump_revision > 0 {
            let bumped = self.bumped(latest)?;
            // A record without a key: the store starts at its revision, and nobody ever sees it.
            let mut records = tx.create_bucket_if_missing(BucketId::Key.name())?;
            records.put(&RecordKey::put(Revision::new(bumped, 0)).encode(), b"")?;
            changes.push(schema::set_scheduled_compact_revision(bumped));
        }
        let mut meta = tx.create_bucket_if_missing(BucketId::Meta.name())?;
        for change in changes {
            meta.put(&change.key, change.value.as_deref().unwrap_or_default())?;
        }
        tx.commit()?;
        for member in cluster.members() {
            log::info(
                "added member",
                &[
                    ("cluster-id", cluster.id().to_string().into()),
                    ("local-member-id", "0".into()),
                    ("added-peer-id", member.id.to_string().into()),
                    ("added-peer-peer-urls", member.peer_urls.clone().into()),
                    ("added-peer-is-learner", member.is_learner.into()),
                ],
            );
        }
        Ok(())
    }

    /// The revision to start from.
    fn bumped(&self, latest: i64) -> Result<i64, Failure> {
        let too_far = || {
            let text =
                format!("--bump-revision={}: revision {latest} cannot be raised so far", self.bump_revision);
            Failure::arguments(text)
        };
        let amount = i64::try_from(self.bump_revision).map_err(|_| too_far())?;
        // The last revision must leave room for those that follow.
        let bumped =
            latest.checked_add(amount).filter(|bumped| *bumped < i64::MAX / 2).ok_or_else(too_far)?;
        log::info(
            "bumping latest revision",
            &[
                ("latest-revision", latest.into()),
                ("bump-amount", amount.into()),
                ("new-latest-revision", bumped.into()),
            ],
        );
        log::info("marking revision compacted", &[("revision", bumped.into())]);
        Ok(bumped)
    }

    /// The log that all members of the cluster begin with: one conf change for each.
    fn make_log(
        &self,
        disk: Arc<dyn Disk>,
        dir: &Path,
        cluster: &Cluster,
        snapshot: wal::WalSnapshot,
    ) -> Result<(), Failure> {
        let metadata = wal::Metadata { member: self.own_id(), cluster: cluster.id() };
        let metadata = wal::format::encode_metadata(&metadata);
        let mut log = Wal::create(disk, dir, &metadata, wal::Options::default())?;
        let entries: Vec<Entry> = cluster
            .members()
            .zip(1..)
            .map(|(member, index)| {
                let change = ConfChange::Add(member.clone()).encode(0);
                Entry { index, term: 1, kind: EntryKind::ConfChange, data: change.encode_to_vec().into() }
            })
            .collect();
        let vote = cluster.members().next().map_or(0, |member| member.id.0);
        let LogPosition { index: commit, term } = snapshot.position;
        let hard_state = HardState { term, vote, commit };
        log.append(&wal::Batch { entries: &entries, hard_state: Some(hard_state) })?;
        log.save_snapshot(&snapshot)?;
        Ok(log.close()?)
    }

    fn unusable(&self, error: bolt::OpenError) -> Failure {
        self.beyond_use(match error {
            bolt::OpenError::Truncated { bytes, needed, .. } => Failure::error(format!(
                "file size too small: {bytes} bytes of {needed}: the file was cut off"
            )),
            bolt::OpenError::Corrupt { source, .. } => {
                Failure::error(format!("the database is damaged: {}", chain(&source)))
            }
            error => files::open_failure(error),
        })
    }

    /// Names the file that the copy was made of.
    fn beyond_use(&self, failure: Failure) -> Failure {
        let text = failure.text.unwrap_or_default();
        Failure { text: Some(format!("{}: {text}", self.file.display())), ..failure }
    }
}

/// Whether nothing is there, or a directory with nothing but what an interrupted restore left.
fn is_vacant(disk: &dyn Disk, data_dir: &Path) -> bool {
    match disk.exists(data_dir) {
        Ok(false) => true,
        Ok(true) => disk
            .list(data_dir)
            .is_ok_and(|entries| entries.iter().all(|entry| entry.name == BUILDING && entry.is_dir)),
        Err(_) => false,
    }
}

/// The snapshot file, looked at from outside.
struct Source {
    path: PathBuf,
    file: Arc<dyn File>,
    /// Length of the database in it.
    bytes: u64,
    /// What follows it, if that is to be compared.
    digest: Option<[u8; DIGEST_BYTES as usize]>,
}

impl Source {
    fn open(disk: &dyn Disk, path: &Path, skip_hash_check: bool) -> Result<Self, Failure> {
        let file = disk.open(path, OpenMode::Read).map_err(refused("open", path))?;
        let bytes = file.len().map_err(refused("stat", path))?;
        if bytes < DIGEST_BYTES {
            return Err(Failure::error(format!("seek {}: invalid argument", path.display())));
        }
        let mut source = Self { path: path.to_owned(), file, bytes, digest: None };
        if bytes % SECTOR_BYTES != DIGEST_BYTES {
            return match skip_hash_check {
                true => Ok(source),
                false => Err(Failure::error("snapshot missing hash but --skip-hash-check=false")),
            };
        }
        source.bytes -= DIGEST_BYTES;
        if !skip_hash_check {
            let mut digest = [0; DIGEST_BYTES as usize];
            source.read(&mut digest, source.bytes)?;
            source.digest = Some(digest);
        }
        Ok(source)
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<(), Failure> {
        let count = self.file.read_at(buffer, offset).map_err(refused("read", &self.path))?;
        match count == buffer.len() {
            true => Ok(()),
            false => Err(Failure::error(format!(
                "read {}: the file became shorter meanwhile",
                self.path.display()
            ))),
        }
    }

    /// Copies the database and compares its checksum on the way.
    fn copy_to(&self, disk: &dyn Disk, path: &Path) -> Result<(), Failure> {
        let target = disk.open(path, OpenMode::CreateNew(0o600)).map_err(refused("open", path))?;
        let mut progress = Progress::start("copying", self.bytes);
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut offset = 0;
        while offset < self.bytes {
            let count = (self.bytes - offset).min(CHUNK_BYTES as u64);
            let chunk = &mut buffer[..count as usize];
            self.read(chunk, offset)?;
            target.write_at(chunk, offset).map_err(refused("write", path))?;
            if self.digest.is_some() {
                hasher.update(&*chunk);
            }
            offset += count;
            progress.advance(count);
        }
        target.sync_all().map_err(refused("sync", path))?;
        let found: [u8; DIGEST_BYTES as usize] = hasher.finalize().into();
        match self.digest {
            Some(expected) if expected != found => Err(Failure::error(format!(
                "expected sha256 {}, got {}",
                go_bytes(&expected),
                go_bytes(&found)
            ))),
            _ => Ok(()),
        }
    }
}

/// Bytes as Go's `%v` prints them.
fn go_bytes(bytes: &[u8]) -> String {
    let numbers: Vec<_> = bytes.iter().map(u8::to_string).collect();
    format!("[{}]", numbers.join(" "))
}

/// Main number of the newest revision; 0 if there is none.
fn latest_revision(tx: &bolt::ReadTx) -> Result<i64, Failure> {
    let Some(records) = tx.bucket(BucketId::Key.name())? else { return Ok(0) };
    let Some((key, _)) = records.cursor().last()? else { return Ok(0) };
    let record = RecordKey::decode(key).map_err(|error| Failure::error(chain(&error)))?;
    Ok(record.revision.main)
}

/// Name of the directory that becomes `member`.
const BUILDING: &str = "member.restoring";
/// The file in it that is locked.
const LOCK: &str = "restoring.lock";

/// Where the files are made, and how they get to their places. Dropped before the end, it takes
/// everything away again.
struct Site {
    disk: Arc<dyn Disk>,
    files: MemberFiles,
    /// Becomes `member`.
    member: PathBuf,
    /// Becomes the directory of the log.
    wal: PathBuf,
    /// Whether the log lies in a directory of its own.
    wal_apart: bool,
    made_data_dir: bool,
    stage: Stage,
}

/// Who cleans up.
enum Stage {
    /// Without the lock: only what is empty may go.
    Entering,
    /// With the lock, held as long as this: everything goes.
    Working(#[expect(dead_code, reason = "held, not read")] Arc<dyn File>),
    /// Somebody else works here, or the work is done: nothing goes.
    Left,
}

impl Site {
    fn begin(disk: Arc<dyn Disk>, files: &MemberFiles) -> Result<Self, Failure> {
        let MemberFiles { data_dir, wal_dir } = files;
        let made_data_dir = !disk.exists(data_dir).map_err(refused("stat", data_dir))?;
        make_dir(&*disk, data_dir)?;
        let member = data_dir.join(BUILDING);
        let inside = wal_dir.strip_prefix(data_dir.join("member")).ok().filter(|rest| *rest != Path::new(""));
        let (wal, wal_apart) = match inside {
            Some(rest) => (member.join(rest), false),
            None => (with_suffix(wal_dir, ".restoring"), true),
        };
        let found = disk.exists(&member).map_err(refused("stat", &member))?;
        let files = files.clone();
        let mut site = Self { disk, files, member, wal, wal_apart, made_data_dir, stage: Stage::Entering };
        make_dir(&*site.disk, &site.member)?;
        let lock_path = site.member.join(LOCK);
        let lock = site
            .disk
            .open(&lock_path, OpenMode::CreateIfMissing(0o600))
            .map_err(refused("open", &lock_path))?;
        if !lock.try_lock(LockKind::OfdExclusive).map_err(refused("lock", &lock_path))? {
            site.stage = Stage::Left;
            let text =
                format!("data-dir \"{}\": another restore is at work there", site.files.data_dir.display());
            return Err(Failure::error(text));
        }
        site.stage = Stage::Working(lock);
        site.remove_left_overs(found)?;
        Ok(site)
    }

    /// What an interrupted restore left.
    fn remove_left_overs(&self, found: bool) -> Result<(), Failure> {
        if found {
            for entry in self.disk.list(&self.member).map_err(refused("list", &self.member))? {
                let path = self.member.join(&entry.name);
                match (entry.is_dir, &entry.name[..]) {
                    (_, LOCK) => Ok(()),
                    (true, _) => self.disk.remove_dir_all(&path),
                    (false, _) => self.disk.remove_file(&path),
                }
                .map_err(refused("remove", &path))?;
            }
            log::info("removed what an interrupted restore left", &[("path", self.member.as_path().into())]);
        }
        if self.wal_apart && self.disk.exists(&self.wal).map_err(refused("stat", &self.wal))? {
            self.disk.remove_dir_all(&self.wal).map_err(refused("remove", &self.wal))?;
        }
        Ok(())
    }

    /// Brings everything to its place. A crash before the last rename leaves no member.
    fn finish(mut self) -> Result<(), Failure> {
        let MemberFiles { data_dir, wal_dir } = self.files.clone();
        let disk = self.disk.clone();
        let lock_path = self.member.join(LOCK);
        disk.remove_file(&lock_path).map_err(refused("remove", &lock_path))?;
        disk.sync_dir(&self.member).map_err(refused("sync", &self.member))?;
        if self.wal_apart {
            // The log first: a server that finds it alone refuses to start, one that finds the
            // database alone would begin anew with it.
            disk.rename(&self.wal, &wal_dir).map_err(refused("rename", &self.wal))?;
            self.wal = wal_dir.clone();
            sync_up(&*disk, &wal_dir)?;
        }
        let member = data_dir.join("member");
        disk.rename(&self.member, &member).map_err(refused("rename", &self.member))?;
        // From here on there is a member, synced or not.
        self.stage = Stage::Left;
        disk.sync_dir(&data_dir).map_err(refused("sync", &data_dir))?;
        sync_up(&*disk, &data_dir)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Whatever cannot be removed is removed by the next try, or seen by whoever looks.
        let is_empty = |path: &Path| self.disk.list(path).is_ok_and(|entries| entries.is_empty());
        match &self.stage {
            Stage::Left => return,
            Stage::Entering => {
                if is_empty(&self.member) {
                    let _ = self.disk.remove_dir_all(&self.member);
                }
            }
            Stage::Working(_) => {
                let _ = self.disk.remove_dir_all(&self.member);
                if self.wal_apart && self.disk.exists(&self.wal).unwrap_or(false) {
                    let _ = self.disk.remove_dir_all(&self.wal);
                }
            }
        }
        if self.made_data_dir && is_empty(&self.files.data_dir) {
            let _ = self.disk.remove_dir_all(&self.files.data_dir);
        }
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn make_dir(disk: &dyn Disk, path: &Path) -> Result<(), Failure> {
    disk.create_dir_all(path, 0o700).map_err(refused("mkdir", path))
}

/// Makes the name of a directory durable, and those of its parents, which may be new as well.
fn sync_up(disk: &dyn Disk, path: &Path) -> Result<(), Failure> {
    let mut path = path.to_owned();
    loop {
        let parent = disk.parent_of(&path);
        match disk.sync_dir(&parent) {
            Ok(()) => {}
            // Directories above ours that we may not open are not new.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
            Err(error) => return Err(refused("sync", &parent)(error)),
        }
        if parent == path || parent == Path::new(".") || parent.parent().is_none() {
            return Ok(());
        }
        path = parent;
    }
}

/// Asks the system for an address until it has one.
fn look_up_until(authority: &str, deadline: Instant) -> io::Result<SocketAddr> {
    loop {
        let answer = authority.to_socket_addrs().and_then(|mut addresses| {
            addresses.next().ok_or_else(|| io::Error::other("the name has no address"))
        });
        let Err(error) = answer else { return answer };
        log::warn(
            "failed to resolve URL Host",
            &[("host", authority.into()), ("error", reason(&error).into())],
        );
        if Instant::now() + NAME_INTERVAL > deadline {
            return Err(error);
        }
        std::thread::sleep(NAME_INTERVAL);
    }
}

#[cfg(test)]
#[path = "restore_tests.rs"]
mod tests;
