//! `auth reset-root` and `auth disable`: the way back in when nobody knows root's password any more, on
//! the database of a stopped member.
//!
//! Members must agree on what they apply, so what may be changed behind the log's back is narrow:
//!
//! - the stored password is only looked at where somebody logs in, never while an entry is applied.
//!   [`reset_root`] may therefore change it on one member of a running cluster alone: whoever logs in
//!   through that member with the new password can then set it everywhere (`etcdctl user passwd root`).
//!   It leaves the auth revision alone, which entries are compared with, unless there is one member;
//! - whether authentication is on decides about every entry. [`disable`] must happen on all members
//!   while none of them runs, and says so: it refuses a database with several members unless told that
//!   it is done on each.
//!
//! Both leave everything else as it is, take one transaction, and are loud.
//!
//! **Source**: etcd `server/auth/store.go` (what a login and an apply look at).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use auth::password;
use backend::{BucketId, schema};
use bolt::WriteTx;
use env::{Disk, Random};
use prost::Message as _;
use proto::authpb::{Role, User, UserAddOptions};

use super::Invocation;
use crate::failure::Failure;
use crate::files::{self, MemberFiles};
use crate::log;
use crate::print::write_stdout;

const ROOT: &str = "root";

/// Carries `auth reset-root` out.
pub fn run_reset_root(invocation: &Invocation) -> Result<(), Failure> {
    let flags = &invocation.flags;
    let cost = u32::try_from(flags.uint("bcrypt-cost")).unwrap_or(u32::MAX);
    let costs = password::MIN_COST..=password::MAX_COST;
    if !costs.contains(&cost) {
        let text = format!("--bcrypt-cost must lie between {} and {}", costs.start(), costs.end());
        return Err(Failure::arguments(text));
    }
    let db = MemberFiles::new(&flags.text("data-dir"), "").db();
    files::must_exist(&db)?;
    let new_password = match flags.is_given("new-password") {
        true => flags.text("new-password"),
        false => ask_for_password()?,
    };
    let mut salt = [0; 16];
    for half in salt.chunks_mut(8) {
        half.copy_from_slice(&env::real::OsRandom.next_u64().to_ne_bytes());
    }
    let hash = hash(&new_password, cost, salt)?;
    let members = reset_root(files::disk(), &db, &hash, super::timeout(flags))?;
    let next = match members {
        0 | 1 => "Start the member and log in with the new password.",
        _ => {
            "Only this member knows the new password. Start it, log in through it alone, and give it to all:\n  \
             etcdctl --endpoints THIS_MEMBER --user root user passwd root"
        }
    };
    write_stdout(&format!("Password of root set in {}.\n{next}\n", db.display()));
    Ok(())
}

/// Twice on a terminal; the first line of the input otherwise.
fn ask_for_password() -> Result<String, Failure> {
    use std::io::IsTerminal as _;
    let failed = |error: std::io::Error| {
        Failure::error(format!("cannot read the password: {}", files::reason(&error)))
    };
    if !std::io::stdin().is_terminal() {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map_err(failed)?;
        return Ok(line.trim_end_matches(['\n', '\r']).to_owned());
    }
    let first = cli::terminal::ask("New password of root: ").map_err(failed)?;
    let second = cli::terminal::ask("Type it again: ").map_err(failed)?;
    match first == second {
        true => Ok(first),
        false => Err(Failure::arguments("given passwords are different")),
    }
}

fn hash(new_password: &str, cost: u32, salt: [u8; 16]) -> Result<String, Failure> {
    if new_password.is_empty() {
        return Err(Failure::arguments("empty password"));
    }
    password::hash(new_password, cost, salt).map_err(Failure::arguments)
}

/// Carries `auth disable` out.
pub fn run_disable(invocation: &Invocation) -> Result<(), Failure> {
    let flags = &invocation.flags;
    let db = MemberFiles::new(&flags.text("data-dir"), "").db();
    files::must_exist(&db)?;
    let done = disable(files::disk(), &db, flags.bool("on-every-member"), super::timeout(flags))?;
    write_stdout(match done {
        true => "Authentication switched off.\n",
        false => "Authentication was off already.\n",
    });
    Ok(())
}

fn open(disk: Arc<dyn Disk>, db: &Path, timeout: Duration) -> Result<bolt::Db, Failure> {
    let options = bolt::Options { lock_timeout: files::lock_timeout(timeout), ..bolt::Options::default() };
    bolt::Db::open(disk, db, options).map_err(files::open_failure)
}

/// Gives root a password and everything it needs to log in with it. Returns the number of members.
fn reset_root(disk: Arc<dyn Disk>, path: &Path, hash: &str, timeout: Duration) -> Result<usize, Failure> {
    let db = open(disk, path, timeout)?;
    let members = members(&db)?;
    let mut tx = db.write()?;
    let mut users = tx.create_bucket_if_missing(BucketId::AuthUsers.name())?;
    let Some(stored) = users.get(ROOT.as_bytes())? else {
        let text = format!(
            "{}: there is no user root, so authentication cannot be on; nothing was changed",
            path.display()
        );
        return Err(Failure::error(text));
    };
    let mut root = User::decode(stored).map_err(|error| {
        Failure::error(format!("{}: the record of root cannot be read: {error}", path.display()))
    })?;
    root.password = hash.to_owned().into();
    root.options = Some(UserAddOptions { no_password: false });
    if !root.roles.iter().any(|role| role == ROOT) {
        root.roles.push(ROOT.to_owned());
        root.roles.sort();
    }
    users.put(ROOT.as_bytes(), &root.encode_to_vec())?;
    let mut roles = tx.create_bucket_if_missing(BucketId::AuthRoles.name())?;
    if roles.get(ROOT.as_bytes())?.is_none() {
        let role = Role { name: ROOT.into(), key_permission: Vec::new() };
        roles.put(ROOT.as_bytes(), &role.encode_to_vec())?;
    }
    if members <= 1 {
        raise_revision(&mut tx)?;
    }
    tx.commit()?;
    log::warn(
        "ROOT'S PASSWORD WAS RESET OFFLINE, without the old one; whoever did not expect this should look into it",
        &[("path", path.into()), ("members", members.into())],
    );
    Ok(members)
}

/// Switches authentication off. Returns whether it was on.
fn disable(
    disk: Arc<dyn Disk>,
    path: &Path,
    on_every_member: bool,
    timeout: Duration,
) -> Result<bool, Failure> {
    let db = open(disk, path, timeout)?;
    let members = members(&db)?;
    if members > 1 && !on_every_member {
        return Err(Failure::error(format!(
            "{}: {members} members: they would no longer agree if one alone had authentication off. Stop all, run \
             this on each with --on-every-member, then start them; or use `etcdutl auth reset-root` on one",
            path.display()
        )));
    }
    let mut tx = db.write()?;
    let mut auth = tx.create_bucket_if_missing(BucketId::Auth.name())?;
    if auth.get(schema::AUTH_ENABLED)? != Some(&[1]) {
        return Ok(false);
    }
    auth.put(schema::AUTH_ENABLED, &[0])?;
    raise_revision(&mut tx)?;
    tx.commit()?;
    log::warn(
        "AUTHENTICATION WAS SWITCHED OFF OFFLINE: everybody who reaches the member may read and write everything",
        &[("path", path.into()), ("members", members.into())],
    );
    Ok(true)
}

/// Members of the cluster that the database is of.
fn members(db: &bolt::Db) -> Result<usize, Failure> {
    let tx = db.read();
    let Some(members) = tx.bucket(BucketId::Members.name())? else { return Ok(0) };
    Ok(members.iter().filter(Result::is_ok).count())
}

fn raise_revision(tx: &mut WriteTx<'_>) -> Result<(), Failure> {
    let mut auth = tx.create_bucket_if_missing(BucketId::Auth.name())?;
    let stored = auth.get(schema::AUTH_REVISION)?.and_then(|value| <[u8; 8]>::try_from(value).ok());
    let revision = stored.map_or(1, u64::from_be_bytes);
    Ok(auth.put(schema::AUTH_REVISION, &(revision + 1).to_be_bytes())?)
}

#[cfg(test)]
mod tests {
    use env::sim::SimDisk;

    use super::*;
    use crate::test_files::{killed_db, place};

    const DB: &str = "d/member/snap/db";

    /// The fixture with root, who may be without a password, and authentication on.
    fn with_auth(members: usize) -> SimDisk {
        let disk = SimDisk::new();
        place(&disk, DB, &killed_db());
        let db = bolt::Db::open(Arc::new(disk.clone()), Path::new(DB), bolt::Options::default()).unwrap();
        let mut tx = db.write().unwrap();
        let root = User {
            name: ROOT.into(),
            password: "old".into(),
            roles: vec!["reader".to_owned()],
            options: Some(UserAddOptions { no_password: true }),
        };
        tx.create_bucket_if_missing(b"authUsers").unwrap().put(b"root", &root.encode_to_vec()).unwrap();
        tx.create_bucket_if_missing(b"auth").unwrap().put(schema::AUTH_ENABLED, &[1]).unwrap();
        let mut bucket = tx.create_bucket_if_missing(b"members").unwrap();
        for number in 1..members {
            bucket.put(format!("{number:x}").as_bytes(), b"{}").unwrap();
        }
        tx.commit().unwrap();
        disk
    }

    fn stored(disk: &SimDisk, bucket: &[u8], key: &[u8]) -> Vec<u8> {
        let db = bolt::Db::open(Arc::new(disk.clone()), Path::new(DB), bolt::Options::default()).unwrap();
        db.read().bucket(bucket).unwrap().unwrap().get(key).unwrap().unwrap_or_default().to_vec()
    }

    fn revision(disk: &SimDisk) -> u64 {
        u64::from_be_bytes(stored(disk, b"auth", schema::AUTH_REVISION).try_into().unwrap())
    }

    fn timeout() -> Duration {
        Duration::from_millis(60)
    }

    #[test]
    fn root_gets_a_password_and_all_it_needs() {
        for (members, raised) in [(1, 1), (3, 0)] {
            let disk = with_auth(members);
            let before = revision(&disk);
            let hash = password::hash("new", password::MIN_COST, [7; 16]).unwrap();
            assert_eq!(reset_root(Arc::new(disk.clone()), Path::new(DB), &hash, timeout()).unwrap(), members);
            let root = User::decode(&stored(&disk, b"authUsers", b"root")[..]).unwrap();
            assert!(password::verify(&root.password, "new"));
            assert_eq!(root.roles, ["reader", "root"]);
            assert_eq!(root.options, Some(UserAddOptions { no_password: false }));
            assert!(!stored(&disk, b"authRoles", b"root").is_empty());
            assert_eq!(stored(&disk, b"auth", schema::AUTH_ENABLED), [1]);
            assert_eq!(revision(&disk), before + raised, "{members} members");
            let alice = User::decode(&stored(&disk, b"authUsers", b"alice")[..]).unwrap();
            assert_eq!(alice.roles, ["reader"], "nobody else is touched");
        }
    }

    #[test]
    fn without_root_nothing_changes() {
        let disk = SimDisk::new();
        place(&disk, DB, &killed_db());
        let failure = reset_root(Arc::new(disk.clone()), Path::new(DB), "h", timeout()).unwrap_err();
        assert!(failure.text.unwrap().contains("there is no user root"));
        assert!(stored(&disk, b"authUsers", b"root").is_empty());
    }

    #[test]
    fn authentication_is_switched_off_on_all_members_or_on_none() {
        let disk = with_auth(1);
        let before = revision(&disk);
        let off = |disk: &SimDisk, every| disable(Arc::new(disk.clone()), Path::new(DB), every, timeout());
        assert_eq!(off(&disk, false), Ok(true));
        assert_eq!(stored(&disk, b"auth", schema::AUTH_ENABLED), [0]);
        assert_eq!(revision(&disk), before + 1);
        assert_eq!(off(&disk, false), Ok(false));
        assert_eq!(revision(&disk), before + 1);

        let three = with_auth(3);
        assert!(
            off(&three, false).unwrap_err().text.unwrap().contains("3 members: they would no longer agree")
        );
        assert_eq!(stored(&three, b"auth", schema::AUTH_ENABLED), [1]);
        assert_eq!(off(&three, true), Ok(true));
    }

    #[test]
    fn a_running_member_is_refused() {
        let disk = with_auth(1);
        let running =
            bolt::Db::open(Arc::new(disk.clone()), Path::new(DB), bolt::Options::default()).unwrap();
        let failure = disable(Arc::new(disk.clone()), Path::new(DB), false, timeout()).unwrap_err();
        assert!(failure.text.unwrap().contains("another process has the file open"));
        drop(running);
    }

    #[test]
    fn passwords_that_bcrypt_would_cut_are_refused() {
        let hash = |password: &str| hash(password, password::MIN_COST, [0; 16]);
        assert_eq!(hash(""), Err(Failure::new(128, "empty password")));
        assert!(hash(&"x".repeat(73)).is_err());
        assert!(hash(&"x".repeat(72)).is_ok());
    }
}
