//! The whole disaster: three members that encrypt everything and know users are backed up under load
//! and lost with all their directories. Three new directories are made of the backup; the new cluster
//! has the data, the users, the revisions and the leases that the operator's guide promises.
//!
//! `restore.rs` has the same without certificates and users, in more combinations of programs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, ensure};
use interop::cluster::eventually;
use interop::ctl::{Ctl, Until};
use interop::member::Member;
use interop::programs::{Program, ours, real, subject, yardstick};
use interop::utl::Utl;
use serde_json::Value;
use tempfile::TempDir;

const ROOT: &str = "root:rootpw";
const ALICE: &str = "alice:wonderland";
const KEYS: usize = 25;
const BUMP: i64 = 1_000_000;

/// A directory with a CA, a certificate for members and one for clients, as the guide makes them.
struct Certificates(TempDir);

impl Certificates {
    fn make() -> anyhow::Result<Self> {
        let made = Self(tempfile::Builder::new().prefix("retcd-drill-").tempdir()?);
        std::fs::write(made.0.path().join("member.ext"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n")?;
        std::fs::write(made.0.path().join("client.ext"), "extendedKeyUsage=clientAuth\n")?;
        made.openssl("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.crt")?;
        for name in ["member", "client"] {
            made.openssl(&format!(
                "req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
            ))?;
            made.openssl(&format!(
                "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile {name}.ext -out {name}.crt"
            ))?;
        }
        Ok(made)
    }

    fn openssl(&self, words: &str) -> anyhow::Result<()> {
        let ran = Command::new("openssl").args(words.split(' ')).current_dir(self.0.path()).output()?;
        ensure!(ran.status.success(), "openssl {words}: {}", String::from_utf8_lossy(&ran.stderr));
        Ok(())
    }

    fn file(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// What a member is started with.
    fn of_members(&self) -> Vec<String> {
        let mut words = vec!["--client-cert-auth".to_owned(), "--peer-client-cert-auth".to_owned()];
        for prefix in ["", "peer-"] {
            words.push(format!("--{prefix}cert-file={}", self.file("member.crt")));
            words.push(format!("--{prefix}key-file={}", self.file("member.key")));
            words.push(format!("--{prefix}trusted-ca-file={}", self.file("ca.crt")));
        }
        words
    }
}

/// Three members with certificates, and the way to ask them.
struct Site<'c> {
    members: Vec<Member>,
    certificates: &'c Certificates,
    _dir: TempDir,
}

impl<'c> Site<'c> {
    /// Starts the members on directories that `fill` has made, or on empty ones.
    fn open(
        program: &Program,
        certificates: &'c Certificates,
        fill: impl Fn(&Member, &str, &str, &str) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("retcd-drill-").tempdir()?;
        let args = ["--bcrypt-cost", "4", "--snapshot-count", "50"];
        let mut members = (0..3)
            .map(|number| Member::prepare(program, &args, &dir.path().join(format!("n{number}"))))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let peer = |member: &Member| format!("https://{}", member.peer_authority());
        let entries =
            members.iter().enumerate().map(|(number, member)| format!("n{number}={}", peer(member)));
        let cluster = entries.collect::<Vec<_>>().join(",");
        for (number, member) in members.iter_mut().enumerate() {
            let (name, peer, client) =
                (format!("n{number}"), peer(member), format!("https://{}", member.authority()));
            fill(member, &name, &cluster, &peer)?;
            member.add_args(&["--name", &name, "--initial-cluster", &cluster]);
            member.add_args(&["--listen-client-urls", &client, "--advertise-client-urls", &client]);
            member.add_args(&["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            member.add_args(&certificates.of_members().iter().map(String::as_str).collect::<Vec<_>>());
            member.spawn()?;
        }
        Ok(Self { members, certificates, _dir: dir })
    }

    fn ctl(&self, number: usize) -> Ctl {
        let endpoint = format!("https://{}", self.members[number].authority());
        Ctl { program: real("3.5", "etcdctl"), endpoint }
    }

    /// Words of a command, with certificates and, if there is one, a user.
    fn words(&self, user: Option<&str>, words: &[&str]) -> Vec<String> {
        let mut all: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        for (flag, file) in [("cacert", "ca.crt"), ("cert", "client.crt"), ("key", "client.key")] {
            all.push(format!("--{flag}={}", self.certificates.file(file)));
        }
        all.extend(user.map(|user| format!("--user={user}")));
        all
    }

    fn try_run(
        &self,
        number: usize,
        user: Option<&str>,
        words: &[&str],
    ) -> anyhow::Result<interop::ctl::Ran> {
        let words = self.words(user, words);
        self.ctl(number).run(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn run(&self, number: usize, user: Option<&str>, words: &[&str]) -> anyhow::Result<String> {
        self.try_run(number, user, words)?.success().with_context(|| words.join(" "))
    }

    fn json(&self, number: usize, user: Option<&str>, words: &[&str]) -> anyhow::Result<Value> {
        let text = self.run(number, user, &[words, &["-w", "json"]].concat())?;
        serde_json::from_str(&text).context(text)
    }

    fn wait_serving(&self, user: Option<&str>) -> anyhow::Result<()> {
        for number in 0..3 {
            eventually(&format!("member {number} serves"), || {
                Ok(self.try_run(number, user, &["get", "app/0", "--command-timeout=2s"])?.code == 0)
            })?;
        }
        Ok(())
    }
}

/// What was kept: the file, and what it must hold.
struct Backup {
    _dir: TempDir,
    file: PathBuf,
    revision: i64,
    hash: u64,
    /// Numbers of puts acknowledged before the snapshot was asked for, by key.
    before: Vec<usize>,
    lease: String,
}

/// A busy cluster, its backup, and its end.
fn lose(program: &Program, certificates: &Certificates) -> anyhow::Result<Backup> {
    let site = Site::open(program, certificates, |_, _, _, _| Ok(()))?;
    site.wait_serving(None)?;
    for words in [
        &["user", "add", ROOT][..],
        &["user", "grant-role", "root", "root"],
        &["user", "add", ALICE],
        &["role", "add", "app"],
        &["role", "grant-permission", "app", "readwrite", "app/", "--prefix"],
        &["user", "grant-role", "alice", "app"],
        &["auth", "enable"],
    ] {
        site.run(0, None, words)?;
    }
    let granted = site.run(0, Some(ROOT), &["lease", "grant", "5000"])?;
    let lease = granted.split(' ').nth(1).context("a lease")?.to_owned();
    site.run(0, Some(ALICE), &["put", "app/held", "v", "--lease", &lease])?;
    site.run(0, Some(ROOT), &["put", "outside", "not for alice"])?;

    let dir = tempfile::Builder::new().prefix("retcd-backup-").tempdir()?;
    let file = dir.path().join("backup.db");
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let before = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let number = done.load(Ordering::Relaxed);
                let key = format!("app/{}", number % KEYS);
                site.run(number % 3, Some(ALICE), &["put", &key, &format!("value {number}")])?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        });
        let saved = (|| {
            eventually("every key is there", || Ok(done.load(Ordering::Relaxed) > KEYS + 5))?;
            let before = done.load(Ordering::Relaxed);
            // Only root may take one, and alice is told so.
            let refused = site.try_run(1, Some(ALICE), &["snapshot", "save", &file.display().to_string()])?;
            ensure!(refused.code != 0 && refused.messages().contains("permission denied"), "{refused:?}");
            site.run(1, Some(ROOT), &["snapshot", "save", &file.display().to_string()])?;
            let after = done.load(Ordering::Relaxed);
            eventually("puts go on", || Ok(done.load(Ordering::Relaxed) > after + 3))?;
            Ok(before)
        })();
        stop.store(true, Ordering::Relaxed);
        writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        saved
    })?;

    let status = Utl { program: ours("etcdutl") }
        .run(dir.path(), &["snapshot", "status", "-w", "json", "backup.db"])?;
    let revision =
        serde_json::from_str::<Value>(&status.stdout)?["revision"].as_i64().context("a revision")?;
    let hashes = site.json(2, Some(ROOT), &["endpoint", "hashkv", "--rev", &revision.to_string()])?;
    let hash = hashes[0]["HashKV"]["hash"].as_u64().context("a hash")?;
    // The newest value that the backup must have of each key.
    let newest = |key: usize| (0..before).rev().find(|number| number % KEYS == key);
    let before =
        (0..KEYS).map(|key| newest(key).context("a put of each key")).collect::<anyhow::Result<_>>()?;
    for mut member in site.members {
        member.kill()?;
    }
    Ok(Backup { _dir: dir, file, revision, hash, before, lease })
}

fn restored<'c>(
    backup: &Backup,
    tool: &Path,
    program: &Program,
    certificates: &'c Certificates,
    more: &[&str],
) -> anyhow::Result<Site<'c>> {
    let site = Site::open(program, certificates, |member, name, cluster, peer| {
        let (file, data) = (backup.file.display().to_string(), member.data_dir().display().to_string());
        let mut words = vec!["snapshot", "restore", &file, "--data-dir", &data, "--name", name];
        words.extend(["--initial-cluster", cluster, "--initial-advertise-peer-urls", peer]);
        words.extend(more);
        let ran = Utl { program: tool.to_owned() }.run(member.dir(), &words)?;
        ensure!(ran.code == 0, "{}", ran.stderr);
        Ok(())
    })?;
    site.wait_serving(Some(ALICE))?;
    Ok(site)
}

fn check(backup: &Backup, site: &Site<'_>, bumped: bool) -> anyhow::Result<()> {
    // Revision and hash; a bumped one is a revision of its own, with nothing in it.
    let revision = backup.revision + if bumped { BUMP } else { 0 };
    for number in 0..3 {
        let hashes = site.json(number, Some(ROOT), &["endpoint", "hashkv"])?;
        let found = &hashes[0]["HashKV"];
        ensure!(found["header"]["revision"] == revision, "revision {revision}, but {found}");
        ensure!(bumped || found["hash"] == backup.hash, "hash {}, but {found}", backup.hash);
    }
    // Data: what was acknowledged before the snapshot, or newer.
    for (key, number) in backup.before.iter().enumerate() {
        let value = site.run(key % 3, Some(ALICE), &["get", "--print-value-only", &format!("app/{key}")])?;
        let found: usize = value.trim_end().trim_start_matches("value ").parse().context(value.clone())?;
        ensure!(found >= *number && found % KEYS == key, "app/{key}: put {number} is lost, found {value}");
    }
    // Users: the switch is on, passwords and roles hold.
    let refused = |user: Option<&str>, words: &[&str], text: &str| -> anyhow::Result<()> {
        let ran = site.try_run(1, user, words)?;
        ensure!(ran.code != 0 && ran.messages().contains(text), "{words:?} as {user:?}: {ran:?}");
        Ok(())
    };
    refused(Some(ALICE), &["get", "outside"], "permission denied")?;
    refused(Some("alice:wrong"), &["get", "app/0"], "authentication failed")?;
    refused(None, &["get", "outside"], "permission denied")?;
    ensure!(site.run(2, Some(ROOT), &["user", "list"])? == "alice\nroot\n");
    ensure!(site.run(2, Some(ROOT), &["get", "outside", "--print-value-only"])? == "not for alice\n");
    // The lease lives, with its key, and has its full time again.
    let lease = site.json(0, Some(ROOT), &["lease", "timetolive", "--keys", &backup.lease])?;
    ensure!(lease["granted-ttl"] == 5000 && lease["ttl"].as_i64() > Some(4900), "{lease}");
    ensure!(lease["keys"].as_array().map(Vec::len) == Some(1), "{lease}");
    // Who watched goes on where he was, or is told that he must read anew.
    let old = backup.revision.to_string();
    let watch = site.words(Some(ALICE), &["watch", "app/", "--prefix", "--rev", &old]);
    let watch: Vec<_> = watch.iter().map(String::as_str).collect();
    if bumped {
        let ran = site.ctl(2).run_until(&watch, "", Until::End)?;
        ensure!(ran.code == 5 && ran.messages().contains("required revision has been compacted"), "{ran:?}");
    } else {
        let ran = site.ctl(2).run_until(&watch, "", Until::Lines(3))?;
        ensure!(ran.stdout.starts_with("PUT\napp/"), "{ran:?}");
    }
    // Writing goes on where reading ended, on all three.
    let put = site.json(0, Some(ALICE), &["put", "app/new", "1"])?;
    ensure!(put["header"]["revision"] == revision + 1, "{put}");
    for number in 0..3 {
        ensure!(site.run(number, Some(ALICE), &["get", "app/new", "--print-value-only"])? == "1\n");
    }
    let members = site.run(0, Some(ROOT), &["member", "list"])?;
    ensure!(members.lines().filter(|line| line.contains(", started, n")).count() == 3, "{members}");
    // Who has the lease may still give it up.
    site.run(1, Some(ROOT), &["lease", "revoke", &backup.lease])?;
    ensure!(site.run(2, Some(ALICE), &["get", "app/held"])?.is_empty());
    Ok(())
}

fn drill(from: &Program, tool: &Path, to: &Program, bumped: bool) -> anyhow::Result<()> {
    let certificates = Certificates::make()?;
    let backup = lose(from, &certificates)?;
    let bump = BUMP.to_string();
    let more = if bumped { &["--bump-revision", bump.as_str(), "--mark-compacted"][..] } else { &[] };
    let site = restored(&backup, tool, to, &certificates, more)?;
    check(&backup, &site, bumped)
}

#[test]
fn ours_comes_back() -> anyhow::Result<()> {
    drill(&subject(), &ours("etcdutl"), &subject(), false)
}

#[test]
fn ours_comes_back_above_every_old_revision() -> anyhow::Result<()> {
    drill(&subject(), &ours("etcdutl"), &subject(), true)
}

#[test]
fn the_real_one_comes_back_as_ours() -> anyhow::Result<()> {
    drill(&yardstick(), &real("3.5", "etcdutl"), &subject(), false)
}

#[test]
fn ours_comes_back_as_the_real_one_above_every_old_revision() -> anyhow::Result<()> {
    drill(&subject(), &ours("etcdutl"), &yardstick(), true)
}
