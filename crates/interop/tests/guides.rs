//! The commands of README.md and docs/operations.md, run as written.
//!
//! A page is a list of *scenes*, each with a directory and ports of its own:
//!
//! | in the page | means |
//! |---|---|
//! | `<!-- scene: NAME -->` | everything before is over; `NAME, continued` goes on instead |
//! | a block of `sh server` (and a name) | is started and runs on: another terminal |
//! | `<!-- stop: NAME -->` | that one gets SIGTERM; `all` stops all of them |
//! | a block of `sh` | is run by bash when all servers serve; `sh fails`: and must fail |
//! | a block of `output` | lines that the block before must have printed, or parts of lines |
//! | commands in the second column of a table | are run, with what runs in that scene |
//! | an indented block | is not run; [`ELSEWHERE`] says why not |
//!
//! Not as written: well-known ports are exchanged for free ones, and what is left out on a command line
//! (ports again, and the patience that a busy machine needs) comes from variables. Programs built
//! elsewhere stand where `cargo build --release` puts them. `RETCD_SCENE=NAME` plays one scene.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use interop::member::free_port;
use interop::programs::ours;
use rustix::process::{Pid, Signal, kill_process_group};

/// How long one block may take.
const PATIENCE: Duration = Duration::from_secs(90);
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// What servers say when they serve: of the one that a command line starts.
const READY: [(&str, &str); 3] = [
    ("etcd gateway ", "ready to proxy client requests"),
    ("etcd grpc-proxy ", "started gRPC proxy"),
    ("", "ready to serve client requests"),
];
/// Ports that pages name.
const PORTS: [u16; 15] =
    [2379, 2380, 2381, 4317, 12379, 12380, 22379, 22380, 32379, 32380, 42379, 42380, 23790, 23791, 23792];
/// How the lines of blocks begin that are not run here.
const ELSEWHERE: [(&str, &str); 4] = [
    ("sudo ", "the package is installed by tools/check-package"),
    ("tools/package", "the same"),
    ("tools/test", "it runs this test"),
    ("cargo build", "the programs are built already"),
];

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Server { name: String, command: String },
    Stop(String),
    Run { command: String, fails: bool },
    Output(Vec<String>),
}

#[derive(Debug)]
struct Scene {
    name: String,
    steps: Vec<Step>,
}

fn page(path: &str) -> anyhow::Result<Vec<Scene>> {
    let path = repository().join(path);
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut scenes = vec![Scene { name: "the beginning".to_owned(), steps: Vec::new() }];
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let steps = &mut scenes.last_mut().context("a scene")?.steps;
        let comment = |kind: &str| line.strip_prefix(kind).and_then(|rest| rest.strip_suffix(" -->"));
        if let Some(name) = comment("<!-- scene: ") {
            if !name.ends_with(", continued") {
                scenes.push(Scene { name: name.to_owned(), steps: Vec::new() });
            }
        } else if let Some(name) = comment("<!-- stop: ") {
            steps.push(Step::Stop(name.to_owned()));
        } else if let Some(info) = line.strip_prefix("```") {
            let body: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            let command = body.join("\n");
            match info.split(' ').collect::<Vec<_>>()[..] {
                ["sh"] => steps.push(Step::Run { command, fails: false }),
                ["sh", "fails"] => steps.push(Step::Run { command, fails: true }),
                ["sh", "server"] => steps.push(Step::Server { name: String::new(), command }),
                ["sh", "server", name] => steps.push(Step::Server { name: name.to_owned(), command }),
                ["output"] => steps.push(Step::Output(body.iter().map(|&line| line.to_owned()).collect())),
                ["yaml"] => {}
                _ => bail!("nobody knows what to do with a block of {info:?}"),
            }
        } else if let Some(command) = line.strip_prefix("    ") {
            let known = ELSEWHERE.iter().any(|(start, _)| command.starts_with(start));
            ensure!(known, "this is not run, and nobody says why: {command}");
        } else if line.starts_with("| ") {
            let cells = line.replace("\\|", "\u{1}");
            let cell = cells.split('|').nth(2).unwrap_or_default().replace('\u{1}', "|");
            let spans = cell.split('`').skip(1).step_by(2).map(str::to_owned);
            let commands = spans.filter(|span| ["etcd", "curl"].iter().any(|start| span.starts_with(start)));
            steps.extend(commands.map(|command| Step::Run { command, fails: false }));
        }
    }
    scenes.retain(|scene| !scene.steps.is_empty());
    Ok(scenes)
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

struct Server {
    name: String,
    child: Child,
    output: PathBuf,
    /// What it says when it serves, of [`READY`], and how often when all members of the command do.
    ready: &'static str,
    members: usize,
}

impl Server {
    fn said(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        let group = Pid::from_child(&self.child);
        let _ = kill_process_group(group, Signal::TERM);
        let stopped = wait(&mut self.child);
        // Whatever is left of it, such as a member behind a runner.
        let _ = kill_process_group(group, Signal::KILL);
        stopped.map(drop)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// Waits for a process; one that takes too long is killed.
fn wait(child: &mut Child) -> anyhow::Result<ExitStatus> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
            child.wait()?;
            bail!("it still ran after {PATIENCE:?}");
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// A scene that is played.
struct Stage {
    dir: tempfile::TempDir,
    ports: HashMap<u16, u16>,
    servers: Vec<Server>,
    printed: String,
    blocks: usize,
}

impl Stage {
    fn build() -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("retcd-guide-").tempdir()?;
        let mut ports = HashMap::new();
        for port in PORTS {
            ports.insert(port, free_port()?);
        }
        let stage = Self { dir, ports, servers: Vec::new(), printed: String::new(), blocks: 0 };
        stage.furnish()?;
        Ok(stage)
    }

    /// What a checkout with built programs holds, as far as pages use it.
    fn furnish(&self) -> anyhow::Result<()> {
        let root = self.dir.path();
        for directory in ["bin", "target/release", "tools"] {
            std::fs::create_dir_all(root.join(directory))?;
        }
        std::os::unix::fs::symlink(repository().join("contrib"), root.join("contrib"))?;
        std::fs::copy(repository().join("tools/run-procfile"), root.join("tools/run-procfile"))?;
        let procfile = std::fs::read_to_string(repository().join("Procfile"))?;
        std::fs::write(root.join("Procfile"), self.with_ports(&procfile))?;
        let (client, peer) = (self.ports[&2379], self.ports[&2380]);
        let defaults = |program: &str| match program {
            "etcd" => vec![
                ("listen-client-urls", "ETCD_LISTEN_CLIENT_URLS", format!("http://localhost:{client}")),
                ("advertise-client-urls", "ETCD_ADVERTISE_CLIENT_URLS", format!("http://localhost:{client}")),
                ("listen-peer-urls", "ETCD_LISTEN_PEER_URLS", format!("http://localhost:{peer}")),
                (
                    "initial-advertise-peer-urls",
                    "ETCD_INITIAL_ADVERTISE_PEER_URLS",
                    format!("http://localhost:{peer}"),
                ),
                ("name", "ETCD_INITIAL_CLUSTER", format!("default=http://localhost:{peer}")),
                ("bcrypt-cost", "ETCD_BCRYPT_COST", "4".to_owned()),
            ],
            "etcdctl" => vec![
                ("endpoints", "ETCDCTL_ENDPOINTS", format!("127.0.0.1:{client}")),
                ("dial-timeout", "ETCDCTL_DIAL_TIMEOUT", "30s".to_owned()),
                ("command-timeout", "ETCDCTL_COMMAND_TIMEOUT", "30s".to_owned()),
            ],
            _ => Vec::new(),
        };
        for program in ["etcd", "etcdctl", "etcdutl"] {
            let mut text = "#!/bin/sh\n".to_owned();
            for (flag, variable, value) in defaults(program) {
                writeln!(
                    text,
                    "case \" $* \" in *\" --{flag}\"[=\\ ]*) ;; *) export {variable}=\"${{{variable}:-{value}}}\" ;; esac"
                )?;
            }
            writeln!(text, "exec {} \"$@\"", ours(program).display())?;
            for place in ["bin", "target/release"] {
                executable(&root.join(place).join(program), &text)?;
            }
        }
        // cargo run --release -p PROGRAM -- ARGUMENTS; there is nothing to build.
        let cargo = "#!/bin/sh\n[ \"$1\" = run ] || exit 0\nprogram=$4\nshift 5\nexec \"$program\" \"$@\"\n";
        executable(&root.join("bin/cargo"), cargo)
    }

    fn with_ports(&self, text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some(start) = rest.find(|character: char| character.is_ascii_digit()) {
            out.push_str(&rest[..start]);
            rest = &rest[start..];
            let end = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
            match rest[..end].parse().ok().and_then(|port: u16| self.ports.get(&port)) {
                Some(port) => drop(write!(out, "{port}")),
                None => out.push_str(&rest[..end]),
            }
            rest = &rest[end..];
        }
        out + rest
    }

    fn bash(&mut self, script: &str) -> anyhow::Result<(Child, PathBuf)> {
        self.blocks += 1;
        let output = self.dir.path().join(format!(".output-{}", self.blocks));
        let file = File::create(&output)?;
        let path = format!("{}:{}", self.dir.path().join("bin").display(), std::env::var("PATH")?);
        let child = Command::new("bash")
            .args(["-c", script])
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.dir.path())
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .context("cannot start bash")?;
        Ok((child, output))
    }

    fn play(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::Server { name, command } => {
                let script =
                    format!("set -a; [ ! -e .known ] || . ./.known\nexec {}", self.with_ports(command));
                let (child, output) = self.bash(&script)?;
                let members = if command.contains("run-procfile") { 3 } else { 1 };
                let ready =
                    READY.iter().find(|(start, _)| command.starts_with(start)).expect("the last one").1;
                self.servers.push(Server { name: name.clone(), child, output, ready, members });
            }
            Step::Stop(name) => {
                let (mut stopping, running): (Vec<_>, _) =
                    self.servers.drain(..).partition(|server| name == "all" || server.name == *name);
                self.servers = running;
                ensure!(!stopping.is_empty(), "no server is called {name}");
                for server in &mut stopping {
                    server.stop()?;
                }
            }
            Step::Run { command, fails } => {
                self.wait_ready()?;
                let command = self.with_ports(command);
                // What one block sets, the next ones know, as in a terminal.
                let script = format!(
                    "set -a -e -o pipefail; [ ! -e .known ] || . ./.known 2> /dev/null\n{command}\n\
                     declare -p | grep -v -e '^declare -[^ ]*r' -e '^declare -[aA]' > .known"
                );
                let (mut child, output) = self.bash(&script)?;
                let status = wait(&mut child);
                self.printed = std::fs::read_to_string(&output)?;
                let status = status.with_context(|| self.printed.clone())?;
                ensure!(status.success() != *fails, "{status}: {}", self.printed);
            }
            Step::Output(lines) => {
                for line in lines {
                    let line = self.with_ports(line);
                    ensure!(self.printed.contains(&line), "{line:?} was not printed, but {:?}", self.printed);
                }
            }
        }
        Ok(())
    }

    fn wait_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for server in &mut self.servers {
            while server.said().matches(server.ready).count() < server.members {
                let ended = server.child.try_wait()?;
                ensure!(ended.is_none(), "a server ended: {}", server.said());
                ensure!(Instant::now() < deadline, "a server does not serve: {}", server.said());
                std::thread::sleep(LOOK_INTERVAL);
            }
        }
        Ok(())
    }
}

fn executable(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn play(scene: &Scene) -> anyhow::Result<()> {
    let mut stage = Stage::build()?;
    for step in &scene.steps {
        stage.play(step).with_context(|| format!("scene {:?}, {step:?}", scene.name))?;
    }
    Ok(())
}

/// Plays all scenes of a page, two at a time; all that fail are named.
fn check(path: &str, at_least: usize) -> anyhow::Result<()> {
    let scenes = page(path)?;
    let commands: usize = scenes
        .iter()
        .flat_map(|scene| &scene.steps)
        .filter(|step| matches!(step, Step::Run { .. } | Step::Server { .. }))
        .count();
    ensure!(commands >= at_least, "only {commands} blocks were found in {path}");
    let next = std::sync::atomic::AtomicUsize::new(0);
    let only = std::env::var("RETCD_SCENE").ok();
    let failures = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(scene) = scenes.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    if only.as_ref().is_some_and(|only| *only != scene.name) {
                        continue;
                    }
                    let started = Instant::now();
                    let played = play(scene);
                    println!("{}: {:?}", scene.name, started.elapsed());
                    if let Err(error) = played {
                        failures.lock().expect("no thread panics with it").push(format!("{error:?}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no thread panicked");
    ensure!(failures.is_empty(), "{}", failures.join("\n\n"));
    Ok(())
}

#[test]
fn the_commands_of_the_readme_work() -> anyhow::Result<()> {
    check("README.md", 8)
}

#[test]
fn the_commands_of_the_operations_guide_work() -> anyhow::Result<()> {
    check("docs/operations.md", 60)
}
