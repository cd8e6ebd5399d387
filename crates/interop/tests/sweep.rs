//! Every command of etcdctl that only looks, in every format, on one cluster of three: the real tool
//! and ours, one after the other, must print the same bytes and end with the same status.
//!
//! The cluster stands still meanwhile, so nothing is normalised but times. What changes the cluster
//! is compared by the scripts of `interop::scripts`, each tool on a server of its own, and in pairs
//! here: moving the leader there and back, downgrades, snapshots to a pipe.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use interop::cluster::{Cluster, eventually, status};
use interop::ctl::{Ctl, Until};
use interop::known::{Known, compat_page};
use interop::programs::{Program, ours, real};
use interop::script::{Entry, compare};

const FORMATS: [&str; 5] = ["simple", "json", "fields", "table", "protobuf"];

fn version() -> &'static str {
    if cfg!(feature = "newest") { "3.7" } else { "3.5" }
}

/// Show how far the log is, so nothing may be written meanwhile: some of the others leave an entry there,
/// though it changes nothing. Words as below.
const STATUS: &[&str] = &[
    "endpoint status",
    "endpoint status --cluster",
    "endpoint status --cluster --hex",
    "endpoint status --endpoints ALL",
];

/// Without a format. `LEASE`, `MEMBER` and `ALL` stand for what is known only when the cluster runs.
const LOOKS: &[&str] = &[
    "get k/1",
    "get k/1 --hex",
    "get k/1 --print-value-only",
    "get k/1 --keys-only",
    "get k/1 --consistency s",
    "get k/1 --rev 3",
    "get k/1 --rev 100000",
    "get nothing",
    "get odd",
    "get odd --hex",
    "get k/ --prefix",
    "get k/ --prefix --keys-only",
    "get k/ --prefix --count-only",
    "get k/ --prefix --limit 2",
    "get k/ --prefix --order DESCEND",
    "get k/ --prefix --sort-by MODIFY --order DESCEND",
    "get k/ --prefix --sort-by VALUE",
    "get k/2 k/4",
    "get k/3 --from-key",
    "get held",
    "get held --hex",
    "del nothing",
    "del nothing --prev-kv",
    "del nothing --prefix",
    "lease list",
    "lease list --hex",
    "lease timetolive LEASE",
    "lease timetolive LEASE --keys",
    "lease timetolive LEASE --keys --hex",
    "lease timetolive 1234",
    "lease revoke 1234",
    "lease keep-alive 1234 --once",
    "member list",
    "member list --hex",
    "member list --consistency s",
    "endpoint hashkv",
    "endpoint hashkv --cluster",
    "endpoint hashkv --cluster --rev 5",
    "endpoint hashkv --rev 2 --hex",
    "endpoint health",
    "alarm list",
    "alarm disarm",
    "user list",
    "user get u",
    "user get u --detail",
    "user get nobody",
    "role list",
    "role get r",
    "role get nothing",
    "auth status",
    "auth disable",
    "watch k/1 --rev 1",
    "version",
];

/// What is refused before there is anything to format: once is enough.
const REFUSED: &[&str] = &[
    "move-leader MEMBER",
    "move-leader 1234",
    "member remove 1234",
    "member promote MEMBER",
    "member update 1234 --peer-urls http://127.0.0.1:1",
    "compaction 3",
    "compaction 100000",
    "downgrade validate 9.9",
    "downgrade enable 9.9",
    "downgrade cancel",
    "elect -l e p",
    "lock",
    "snapshot save",
    "snapshot status x",
    "check",
    "check perf --load x",
    "check datascale --load x",
    "check perf --prefix k/",
    "check datascale --prefix k/",
    "make-mirror",
    "make-mirror --no-dest-prefix --dest-prefix x 127.0.0.1:1",
    "completion nosuch",
    "txn too many",
];

struct Sweep {
    cluster: Cluster,
    lease: String,
    transferee: String,
}

impl Sweep {
    fn prepare() -> anyhow::Result<Self> {
        let program = Program::plain(real(version(), "etcd"));
        let args = ["--bcrypt-cost", "4"];
        let cluster = Cluster::start(&[&program, &program, &program], &args)?;
        let tool = Ctl { program: real(version(), "etcdctl"), endpoint: cluster.members[0].client_url() };
        let run = |args: &[&str]| tool.run(args)?.success();
        for number in 1..=5 {
            run(&["put", &format!("k/{number}"), &format!("value {}", 9 - number)])?;
        }
        run(&["put", "k/1", "again"])?;
        run(&["del", "k/5"])?;
        run(&["put", "odd", "a\tb\"c\\\n\u{e9}\u{1}"])?;
        let granted = run(&["lease", "grant", "900000"])?;
        let lease = granted.split(' ').nth(1).context("a lease")?.to_owned();
        run(&["put", "held", "v", "--lease", &lease])?;
        run(&["compaction", "3"])?;
        for args in [
            &["role", "add", "r"][..],
            &["role", "grant-permission", "r", "readwrite", "k/", "--prefix"],
            &["role", "grant-permission", "r", "read", "x", "--from-key"],
            &["user", "add", "u:pw"],
            &["user", "grant-role", "u", "r"],
        ] {
            run(args)?;
        }
        cluster.settle()?;
        let mut sweep = Self { cluster, lease, transferee: String::new() };
        // The leader does not answer at the endpoint that is asked.
        sweep.cluster.move_leader(1)?;
        sweep.transferee = id(&sweep, 2)?;
        Ok(sweep)
    }

    fn ctl(&self, tool: &std::path::Path) -> Ctl {
        Ctl { program: tool.to_owned(), endpoint: self.cluster.members[0].client_url() }
    }

    fn all(&self) -> String {
        let urls: Vec<_> = self.cluster.members.iter().map(|member| member.client_url()).collect();
        urls.join(",")
    }

    fn words(&self, command: &str) -> Vec<String> {
        let replace = |word: &str| match word {
            "LEASE" => self.lease.clone(),
            "MEMBER" => self.transferee.clone(),
            "ALL" => self.all(),
            word => word.to_owned(),
        };
        command.split(' ').map(replace).collect()
    }

    /// What a tool says to every command in every format.
    fn transcript(&self, tool: &std::path::Path, commands: &[&str]) -> anyhow::Result<Vec<Entry>> {
        let ctl = self.ctl(tool);
        let mut entries = Vec::new();
        for command in commands {
            let formats = if REFUSED.contains(command) { &FORMATS[..1] } else { &FORMATS[..] };
            for &format in formats {
                let mut words = self.words(command);
                // The endpoint is given already; a second one would be added to it.
                let variables = [("ETCDCTL_ENDPOINTS", ctl.endpoint.as_str())];
                words.extend(["-w".to_owned(), format.to_owned()]);
                let words: Vec<_> = words.iter().map(String::as_str).collect();
                let ran = if command.starts_with("watch k/1 --rev") {
                    // A watch in the past ends by itself, for it is compacted.
                    ctl.run_until(&words, "", Until::End)?
                } else {
                    ctl.run_with(&words, &variables, b"")?
                };
                let shown = match format {
                    "protobuf" => ran.raw.escape_ascii().to_string(),
                    _ => without_times(&ran.stdout),
                };
                // Columns are as wide as the time in them.
                let shown = match command.starts_with("endpoint health") && format == "table" {
                    true => blurred(&shown),
                    false => shown,
                };
                // Help that follows an error is in each tool's own words, and 3.5 prints it here.
                let usage = ["USAGE:", "Usage:"].iter().any(|word| shown.contains(word));
                let shown = if usage { "usage" } else { &shown };
                let answer = format!("exit {}\n{shown}\n{}", ran.code, errors(&ran.stderr));
                entries.push(Entry { name: format!("sweep/{command} -w {format}"), answer });
            }
        }
        Ok(entries)
    }
}

fn id(sweep: &Sweep, number: usize) -> anyhow::Result<String> {
    let status = status(&sweep.cluster.members[number])?;
    Ok(format!("{:x}", status.header.context("a header")?.member_id))
}

/// Durations, and the remaining time of the lease, which goes on.
fn without_times(text: &str) -> String {
    let mut out = String::new();
    for line in text.split_inclusive('\n') {
        let mut line = line.to_owned();
        for mark in ["took = ", "\"took\":\"", "\"Took\" : ", "remaining(", "\"ttl\":", "\"TTL\" : "] {
            if let Some((before, after)) = line.split_once(mark) {
                let end = after.find(|c: char| !c.is_alphanumeric() && c != '.').unwrap_or(after.len());
                line = format!("{before}{mark}<time>{}", &after[end..]);
            }
        }
        out.push_str(&line);
    }
    out
}

/// A table without its widths, and without durations in cells.
fn blurred(table: &str) -> String {
    let words = table.split([' ', '─']).filter(|word| !word.is_empty());
    let is_time = |word: &str| word.ends_with("ms") && word.starts_with(|c: char| c.is_ascii_digit());
    words.map(|word| if is_time(word) { "<time>" } else { word }).collect::<Vec<_>>().join(" ")
}

/// What an operator is told: no log records, and no usage, whose words are each tool's own.
fn errors(stderr: &str) -> String {
    let told = stderr.lines().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("NAME:"));
    let mut told: Vec<_> = told.filter(|line| !line.starts_with('{') && !line.is_empty()).collect();
    told.dedup();
    told.join("\n")
}

#[test]
fn every_look_in_every_format_prints_the_same_bytes() -> anyhow::Result<()> {
    let sweep = Sweep::prepare()?;
    let (mut expected, mut found) = (Vec::new(), Vec::new());
    for commands in [STATUS, LOOKS, REFUSED] {
        // Side by side: nothing changes that they show.
        let (theirs, our) = std::thread::scope(|scope| {
            let theirs = scope.spawn(|| sweep.transcript(&real(version(), "etcdctl"), commands));
            let our = sweep.transcript(&ours("etcdctl"), commands);
            (theirs.join().expect("no panic"), our)
        });
        expected.extend(theirs?);
        found.extend(our?);
    }
    println!("{} entries", expected.len());
    let all = Known::load()?.of(&["sweep", "sweep-3.5"]);
    let names: Vec<_> = expected.iter().map(|entry| entry.name.as_str()).collect();
    let unused = all.unused(&names);
    ensure!(unused.is_empty(), "known differences of entries that do not exist: {unused:?}");
    let missing = all.missing_in(&compat_page()?);
    ensure!(missing.is_empty(), "known differences that COMPAT.md does not mention: {missing:?}");
    let known = match (std::env::var("RETCD_KNOWN").as_deref(), version()) {
        (Ok("no"), _) => Known::nothing(),
        (_, "3.5") => all,
        _ => Known::load()?.of(&["sweep"]),
    };
    compare(&expected, &found, &known)
}

/// The same words, the same effect, for what changes the cluster.
#[test]
fn leaders_and_elections_and_pipes() -> anyhow::Result<()> {
    let sweep = Sweep::prepare()?;
    let tools = [real(version(), "etcdctl"), ours("etcdctl")];
    let all = sweep.all();
    // There and back with each tool: from 1 to 2 and again to 1.
    let mut said = BTreeSet::new();
    for (tool, to) in [(&tools[0], 2), (&tools[1], 1), (&tools[0], 2), (&tools[1], 1)] {
        let (from, target) = (sweep.cluster.leader()?, id(&sweep, to)?);
        let ctl = Ctl { program: tool.clone(), endpoint: all.clone() };
        let moved = ctl.run(&["move-leader", &target])?.success()?;
        eventually("the leader moved", || Ok(sweep.cluster.leader()? == to))?;
        said.insert(moved.replace(&id(&sweep, from)?, "FROM").replace(&target, "TO"));
    }
    ensure!(said.len() == 1, "{said:#?}");

    // A snapshot to a pipe is a snapshot: the same bytes from both.
    let mut saved = Vec::new();
    for tool in &tools {
        let output = Command::new(tool)
            .args(["snapshot", "save", "/dev/stdout", "--endpoints", &sweep.cluster.members[0].client_url()])
            .stdin(Stdio::null())
            .output()?;
        saved.push((output.status.code(), output.stdout.len() % 4096));
    }
    ensure!(saved[0] == saved[1], "{saved:?}");

    // Who listens to an election is told the same.
    let ctl = sweep.ctl(&tools[0]);
    let mut shown = BTreeSet::new();
    for format in ["simple", "json", "fields"] {
        for tool in &tools {
            let mut holder = Command::new(&tools[0])
                .args(["elect", "chosen", "me", "--endpoints", &ctl.endpoint])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?;
            let listened = eventually("somebody is elected", || {
                Ok(!ctl.run(&["get", "--prefix", "chosen/"])?.success()?.is_empty())
            })
            .and_then(|()| {
                sweep.ctl(tool).run_until(&["elect", "-l", "chosen", "-w", format], "", Until::Lines(1))
            });
            holder.kill()?;
            holder.wait()?;
            let first = listened?.stdout.lines().next().unwrap_or_default().to_owned();
            // The key holds the id of the lease.
            shown.insert((format, first.split(['/', ':', ' ']).next().unwrap_or_default().to_owned()));
            ctl.run(&["del", "--prefix", "chosen/"])?.success()?;
        }
    }
    ensure!(shown.len() == 3, "{shown:#?}");
    Ok(())
}

/// What shells ask: the same names for the same beginnings.
#[test]
fn completion_offers_what_the_real_tool_offers() -> anyhow::Result<()> {
    let lines: &[&[&str]] = &[
        &[""],
        &["me"],
        &["member", ""],
        &["endpoint", ""],
        &["user", "gr"],
        &["completion", ""],
        &["get", "--so"],
        &["snapshot", "save", ""],
        &["nosuch", ""],
    ];
    // Commands and flags that 3.5 does not have yet, and its own.
    let newer = ["downgrade", "options", "--consistency", "help"];
    for line in lines {
        let offered = |tool: std::path::PathBuf| -> anyhow::Result<BTreeSet<String>> {
            let output = Command::new(tool).arg("__completeNoDesc").args(*line).output()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let names = text.lines().filter(|line| !line.starts_with(':'));
            Ok(names.filter(|name| !newer.contains(name)).map(str::to_owned).collect())
        };
        let (expected, found) = (offered(real(version(), "etcdctl"))?, offered(ours("etcdctl"))?);
        ensure!(expected == found, "{line:?}: {expected:?} {found:?}");
    }
    Ok(())
}
