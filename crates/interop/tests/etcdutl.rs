//! One list of commands, two tools: the real etcdutl and ours, each on its own copy of the same files.
//!
//! Output, exit codes and error lines must be equal, and so must what they leave on disk: the real tool
//! looks at both. Ours follows 3.7.1; compared with Debian's 3.5, what changed since is a known
//! difference. The feature `newest` compares with 3.7.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use interop::cluster::eventually;
use interop::known::{Known, compat_page};
use interop::member::Member;
use interop::normalise::Normaliser;
use interop::programs::{Program, ours, real, subject};
use interop::script::{Entry, compare};
use interop::utl::Utl;

fn version() -> &'static str {
    if cfg!(feature = "newest") { "3.7" } else { "3.5" }
}

fn known() -> anyhow::Result<Known> {
    match std::env::var("RETCD_KNOWN").as_deref() {
        Ok("no") => Ok(Known::nothing()),
        _ if version() == "3.5" => Ok(Known::load()?.of(&["etcdutl", "etcdutl-3.5"])),
        _ => Ok(Known::load()?.of(&["etcdutl"])),
    }
}

/// A tool at work, and what it did.
struct Session {
    tool: Utl,
    judge: Utl,
    dir: PathBuf,
    normaliser: Normaliser,
    entries: Vec<Entry>,
}

impl Session {
    fn note(&mut self, name: &str, answer: &str) {
        let name = name.to_owned();
        assert!(!self.entries.iter().any(|entry| entry.name == name), "two entries are named {name}");
        self.entries.push(Entry { name, answer: self.normaliser.apply(answer) });
    }

    /// Runs a command; the command is the name of the entry.
    fn run(&mut self, command: &str) -> anyhow::Result<i32> {
        let args: Vec<_> = command.split_whitespace().collect();
        let ran = self.tool.run(&self.dir, &args)?;
        let text = format!("exit {}\n{}\n{}", ran.code, ran.stdout, ran.messages());
        self.note(&format!("utl/{command}"), &text);
        Ok(ran.code)
    }

    /// What the real tool says of a database, and all names and modes in a directory.
    fn look(&mut self, what: &str, data_dir: &str) -> anyhow::Result<()> {
        let db = format!("{data_dir}/member/snap/db");
        let status = self.judge.run(&self.dir, &["snapshot", "status", &db, "-w", "json"])?;
        let mut listing = format!("{}{}\n", status.stdout, status.messages());
        list(&self.dir, Path::new(data_dir), &mut listing)?;
        self.note(&format!("left/{what}"), &listing);
        Ok(())
    }
}

/// Names, modes, and the sizes of log segments.
fn list(root: &Path, dir: &Path, out: &mut String) -> anyhow::Result<()> {
    let Ok(entries) = std::fs::read_dir(root.join(dir)) else {
        out.push_str(&format!("{}: nothing\n", dir.display()));
        return Ok(());
    };
    let mut entries = entries.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (path, data) = (dir.join(entry.file_name()), entry.metadata()?);
        let size = if path.extension().is_some_and(|end| end == "wal") { data.len() } else { 0 };
        out.push_str(&format!("{} {:o} {size}\n", path.display(), data.permissions().mode() & 0o777));
        if data.is_dir() {
            list(root, &path, out)?;
        }
    }
    Ok(())
}

/// The files that all sessions begin with: a snapshot, spoiled ones, a stopped member.
struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn make() -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("retcd-utl-").tempdir()?;
        let mut member = Member::start(&subject(), &[])?;
        let ctl = interop::cluster::ctl(&member);
        for number in 0..40 {
            ctl.run(&["put", &format!("key/{}", number % 25), &"v".repeat(number * 10)])?.success()?;
        }
        ctl.run(&["del", "key/3"])?.success()?;
        ctl.run(&["lease", "grant", "1000"])?.success()?;
        ctl.run(&["compaction", "20"])?.success()?;
        let snapshot = dir.path().join("s.db");
        ctl.run(&["snapshot", "save", &snapshot.display().to_string()])?.success()?;
        member.stop()?;
        std::fs::create_dir(dir.path().join("member"))?;
        copy(&member.data_dir(), &dir.path().join("stopped"))?;
        let bytes = std::fs::read(&snapshot)?;
        let spoil = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes);
        spoil("raw.db", &bytes[..bytes.len() - 32])?;
        spoil("short.db", b"junk")?;
        spoil("junk.db", &[7; 100])?;
        let mut flipped = bytes.clone();
        flipped[bytes.len() - 100] ^= 0xff;
        spoil("flipped.db", &flipped)?;
        Ok(Self { dir })
    }

    fn session(&self, tool: PathBuf) -> anyhow::Result<(tempfile::TempDir, Session)> {
        let dir = tempfile::Builder::new().prefix("retcd-utl-").tempdir()?;
        copy(self.dir.path(), dir.path())?;
        let mut normaliser = Normaliser::default();
        for (version, name) in [("3.5.30", "<version>"), ("3.7.1", "<version>"), ("API version: 3.5", "API")]
        {
            normaliser.replace(version, name);
        }
        normaliser.replace("API version: 3.7", "API");
        let session = Session {
            tool: Utl { program: tool },
            judge: Utl { program: real(version(), "etcdutl") },
            dir: dir.path().to_owned(),
            normaliser,
            entries: Vec::new(),
        };
        Ok((dir, session))
    }
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &target)?,
            false => drop(std::fs::copy(entry.path(), target)?),
        }
    }
    Ok(())
}

const STATUS: &[&str] = &[
    "snapshot status s.db",
    "snapshot status s.db -w json",
    "snapshot status s.db -w fields",
    "snapshot status s.db -w table",
    "snapshot status s.db -w protobuf",
    "snapshot status s.db -w yaml",
    "--write-out=json snapshot status raw.db",
    "snapshot status stopped/member/snap/db -w json",
    "snapshot status flipped.db -w json",
    "snapshot status",
    "snapshot status s.db raw.db",
    "snapshot status nosuch.db",
    "snapshot status junk.db",
    "snap stat s.db",
];

const HASHKV: &[&str] = &[
    "hashkv raw.db",
    "hashkv raw.db -w json",
    "hashkv raw.db -w fields",
    "hashkv raw.db -w table",
    "hashkv raw.db -w protobuf",
    "hashkv raw.db -w yaml",
    "hashkv raw.db --rev 25",
    "hashkv raw.db --rev 5",
    "hashkv raw.db --rev 5000",
    "hashkv raw.db --rev x",
    "hashkv",
    "hashkv raw.db s.db",
    "hashkv nosuch.db",
];

const REFUSED: &[&str] = &[
    "snapshot restore",
    "snapshot restore --data-dir n0",
    "snapshot restore s.db",
    "snapshot restore s.db raw.db --data-dir n0",
    "snapshot restore s.db --mark-compacted --data-dir n0",
    "snapshot restore s.db --bump-revision 5 --data-dir n0",
    "snapshot restore s.db --bump-revision -5 --mark-compacted --data-dir n0",
    "snapshot restore s.db --name zz --data-dir n0",
    "snapshot restore s.db --initial-cluster default=http://127.0.0.1:1 --data-dir n0",
    "snapshot restore s.db --initial-cluster default=foo --data-dir n0",
    "snapshot restore s.db --initial-advertise-peer-urls http://localhost:2380,http://localhost:2381 --data-dir n0",
    "snapshot restore s.db --initial-cluster default=http://localhost:2380,b=http://localhost:2380 --data-dir n0",
    "snapshot restore s.db --data-dir stopped",
    "snapshot restore s.db --data-dir n1 --wal-dir stopped",
    "snapshot restore nosuch.db --data-dir n2",
    "snapshot restore short.db --data-dir n3",
    "snapshot restore raw.db --data-dir n4",
    "snapshot restore flipped.db --data-dir n5",
    "snapshot restore s.db --bogus --data-dir n0",
];

const COMMAND_LINE: &[&str] = &[
    "bogus",
    "--bogus",
    "version",
    "versio",
    "version extra",
    "defrag",
    "defrag --data-dir nosuch",
    "migrate",
    "migrate --data-dir stopped",
    "migrate --data-dir stopped --target-version foo",
    "migrate --data-dir stopped --target-version 3.4",
    "migrate --data-dir nosuch --target-version 3.6",
    "migrate --data-dir stopped --target-version 3.9",
    "completion",
    "completion foo",
    "completion bash zsh",
    "snapshot status s.db --timeout x",
];

fn script(session: &mut Session) -> anyhow::Result<()> {
    for command in STATUS.iter().chain(HASHKV).chain(REFUSED).chain(COMMAND_LINE) {
        session.run(command)?;
    }
    for (what, command) in [
        ("plain", "snapshot restore s.db --data-dir r1"),
        ("named", "snapshot restore s.db --name m --initial-cluster m=http://localhost:2380 --data-dir r2"),
        ("default directory", "snapshot restore s.db --name m --initial-cluster m=http://localhost:2380"),
        ("empty directory", "snapshot restore s.db --data-dir r3"),
        ("log elsewhere", "snapshot restore s.db --data-dir r4 --wal-dir w4"),
        ("without a checksum", "snapshot restore raw.db --data-dir r5 --skip-hash-check"),
        ("bumped", "snapshot restore s.db --data-dir r6 --bump-revision 1000 --mark-compacted"),
        (
            "of three",
            "snapshot restore s.db --data-dir r7 --name b --initial-cluster-token t \
             --initial-advertise-peer-urls http://127.0.0.1:2 \
             --initial-cluster a=http://127.0.0.1:1,b=http://127.0.0.1:2,c=http://127.0.0.1:3",
        ),
    ] {
        if what == "empty directory" {
            std::fs::create_dir(session.dir.join("r3"))?;
        }
        session.run(command)?;
        let after_flag = |flag: &str| command.split_once(flag).and_then(|(_, rest)| rest.split(' ').next());
        let data_dir = after_flag("--data-dir ").map_or_else(|| "m.etcd".to_owned(), str::to_owned);
        session.look(what, &data_dir)?;
    }
    let mut listing = String::new();
    list(&session.dir, Path::new("w4"), &mut listing)?;
    session.note("left/w4", &listing);

    session.run("defrag --data-dir stopped")?;
    session.look("defragmented", "stopped")?;
    for version in ["3.6", "3.7", "3.7 --force", "3.6 ", "3.5", "3.8 --force", "3.5 --force"] {
        session.run(&format!("migrate --data-dir stopped --target-version {version}"))?;
        session.look(&format!("migrated to {version}"), "stopped")?;
    }
    Ok(())
}

#[test]
fn every_command_in_every_format_prints_the_same_and_leaves_the_same() -> anyhow::Result<()> {
    let files = Files::make()?;
    let transcript = |tool: PathBuf| {
        let (_dir, mut session) = files.session(tool)?;
        script(&mut session)?;
        anyhow::Ok(session.entries)
    };
    let expected = transcript(real(version(), "etcdutl"))?;
    let found = transcript(ours("etcdutl"))?;
    let names: Vec<_> = expected.iter().map(|entry| entry.name.as_str()).collect();
    println!("{} entries", names.len());
    let all = Known::load()?.of(&["etcdutl", "etcdutl-3.5"]);
    let unused = all.unused(&names);
    assert!(unused.is_empty(), "known differences of entries that do not exist: {unused:?}");
    let missing = all.missing_in(&compat_page()?);
    assert!(missing.is_empty(), "known differences that COMPAT.md does not mention: {missing:?}");
    compare(&expected, &found, &known()?)
}

/// Whatever 3.5's tool prints for a status, hash, revision and size are ours as well.
#[test]
fn hash_and_revision_are_those_of_3_5() -> anyhow::Result<()> {
    let files = Files::make()?;
    let first_two = |tool: PathBuf| {
        let (dir, session) = files.session(tool)?;
        let ran = session.tool.run(dir.path(), &["snapshot", "status", "s.db", "-w", "fields"])?;
        let lines: Vec<_> =
            ran.stdout.lines().filter(|line| !line.contains("Keys")).map(str::to_owned).collect();
        anyhow::Ok(lines[..3].to_vec())
    };
    assert_eq!(first_two(real("3.5", "etcdutl"))?, first_two(ours("etcdutl"))?);
    Ok(())
}

/// What scripts of 3.5 may still call: one answers as it did, the other one says what to use instead.
#[test]
fn commands_of_3_5_are_answered() -> anyhow::Result<()> {
    let files = Files::make()?;
    let run = |tool: PathBuf, command: &[&str]| {
        let (dir, session) = files.session(tool)?;
        session.tool.run(dir.path(), command)
    };
    let check = ["check", "v2store", "--data-dir", "stopped"];
    let (theirs, our) = (run(real("3.5", "etcdutl"), &check)?, run(ours("etcdutl"), &check)?);
    assert_eq!((theirs.code, theirs.stdout), (our.code, our.stdout));
    let backup = run(ours("etcdutl"), &["backup", "--data-dir", "stopped", "--backup-dir", "b"])?;
    assert!(backup.code == 1 && backup.messages().contains("etcdctl snapshot save"), "{backup:?}");
    Ok(())
}

/// A running member keeps its files: every command that wants them says so, after its time-out.
#[test]
fn the_files_of_a_running_member_are_refused() -> anyhow::Result<()> {
    for program in [subject(), Program::plain(real("3.5", "etcd"))] {
        let member = Member::start(&program, &[])?;
        let (tool, dir) = (Utl { program: ours("etcdutl") }, member.data_dir());
        let (dir, db) = (dir.display().to_string(), dir.join("member/snap/db").display().to_string());
        for command in [
            &["snapshot", "status", &db][..],
            &["hashkv", &db],
            &["defrag", "--data-dir", &dir],
            &["migrate", "--data-dir", &dir, "--target-version", "3.5"],
        ] {
            let ran = tool.run(member.dir(), &[command, &["--timeout", "100ms"]].concat())?;
            let expected = "another process has the file open: stop the member first, then try again";
            assert!(ran.code == 1 && ran.messages().contains(expected), "{command:?}: {ran:?}");
        }
        interop::cluster::ctl(&member).run(&["put", "still", "here"])?.success().context("it goes on")?;
    }
    Ok(())
}

/// Authentication on, with a root whose password is `forgotten`.
fn switch_auth_on(member: &Member) -> anyhow::Result<()> {
    let tool = interop::cluster::ctl(member);
    tool.run(&["put", "secret", "kept"])?.success()?;
    tool.run(&["user", "add", "root:forgotten"])?.success()?;
    tool.run(&["user", "grant-role", "root", "root"])?.success()?;
    tool.run(&["auth", "enable"])?.success()?;
    Ok(())
}

/// Whether a user gets in.
fn reads(member: &Member, user: &[&str]) -> anyhow::Result<bool> {
    let args = [user, &["get", "secret", "--print-value-only"]].concat();
    Ok(interop::cluster::ctl(member).run(&args)?.stdout.trim_end() == "kept")
}

const NEW: [&str; 2] = ["--user", "root:remembered"];
const OLD: [&str; 2] = ["--user", "root:forgotten"];

/// On one member, with the server of etcd 3.5.
#[test]
fn a_forgotten_password_is_replaced_and_authentication_switched_off() -> anyhow::Result<()> {
    let dir = tempfile::Builder::new().prefix("retcd-auth-").tempdir()?;
    let mut member = Member::prepare(&Program::plain(real("3.5", "etcd")), &[], dir.path())?;
    member.run()?;
    switch_auth_on(&member)?;
    let (tool, data) = (Utl { program: ours("etcdutl") }, member.data_dir().display().to_string());
    let reset =
        ["auth", "reset-root", "--data-dir", &data, "--new-password", "remembered", "--bcrypt-cost", "4"];
    let ran = tool.run(dir.path(), &[&reset[..], &["--timeout", "100ms"]].concat())?;
    assert!(ran.code == 1 && ran.messages().contains("stop the member first"), "{ran:?}");
    member.stop()?;
    let ran = tool.run(dir.path(), &reset)?;
    assert!(ran.code == 0 && ran.stderr.contains("ROOT'S PASSWORD WAS RESET OFFLINE"), "{ran:?}");
    assert!(!ran.stderr.contains("remembered") && !ran.stdout.contains("remembered"), "no secret is shown");
    member.spawn()?;
    eventually("the new password is known", || reads(&member, &NEW))?;
    assert!(!reads(&member, &OLD)? && !reads(&member, &[])?);
    member.stop()?;
    let ran = tool.run(dir.path(), &["auth", "disable", "--data-dir", &data])?;
    assert!(ran.code == 0 && ran.stderr.contains("AUTHENTICATION WAS SWITCHED OFF OFFLINE"), "{ran:?}");
    member.run()?;
    assert!(reads(&member, &[])?);
    Ok(())
}

/// On one member of three, while the others go on: whoever knows the new password there gives it to all.
#[test]
fn a_forgotten_password_of_a_cluster_is_replaced_through_one_member() -> anyhow::Result<()> {
    let etcd = Program::plain(real("3.5", "etcd"));
    let mut cluster = interop::cluster::Cluster::start(&[&etcd, &etcd, &etcd], &[])?;
    switch_auth_on(&cluster.members[0])?;
    let (tool, dir) = (Utl { program: ours("etcdutl") }, cluster.members[1].dir().to_owned());
    let data = cluster.members[1].data_dir().display().to_string();
    cluster.members[1].stop()?;
    let reset =
        ["auth", "reset-root", "--data-dir", &data, "--new-password", "remembered", "--bcrypt-cost", "4"];
    let ran = tool.run(&dir, &reset)?;
    assert!(ran.code == 0 && ran.stdout.contains("Only this member knows the new password."), "{ran:?}");
    let ran = tool.run(&dir, &["auth", "disable", "--data-dir", &data])?;
    assert!(ran.code == 1 && ran.messages().contains("3 members: they would no longer agree"), "{ran:?}");
    cluster.members[1].spawn()?;
    eventually("the new password is known here", || reads(&cluster.members[1], &NEW))?;
    assert!(!reads(&cluster.members[0], &NEW)?, "and only here");
    let one = interop::cluster::ctl(&cluster.members[1]);
    let passwd = [&NEW[..], &["user", "passwd", "root", "--interactive=false"]].concat();
    one.run_with(&passwd, &[], b"remembered\n")?.success()?;
    for member in &cluster.members {
        eventually("the new password is known", || reads(member, &NEW))?;
        assert!(!reads(member, &OLD)?);
    }
    one.run(&[&NEW[..], &["put", "more", "data"]].concat())?.success()?;
    Ok(())
}
