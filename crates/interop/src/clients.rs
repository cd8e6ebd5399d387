//! Client libraries written elsewhere: programs under `clients/`, their libraries in the cache
//! (`tools/fetch-clients` puts them there).
//!
//! Protocol: a client gets the server's address as its only argument. It prints `restart` when the
//! server is to be killed and started again, and waits for a line on its standard input. It ends
//! with status 0 when everything was as expected.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::member::Member;
use crate::programs::{cache, root};

/// Longest time a client may take, restarts included.
const PATIENCE: Duration = Duration::from_secs(180);

/// A client program and its first arguments.
#[derive(Clone, Debug)]
pub struct Client {
    program: PathBuf,
    args: Vec<PathBuf>,
    with_scheme: bool,
}

fn fetched(path: &str) -> anyhow::Result<PathBuf> {
    let path = cache().join("clients").join(path);
    ensure!(path.exists(), "{} is missing: run tools/fetch-clients", path.display());
    Ok(path)
}

fn source(path: &str) -> PathBuf {
    root().join("crates/interop/clients").join(path)
}

impl Client {
    /// Python's aetcd.
    pub fn python() -> anyhow::Result<Self> {
        let program = fetched("python/bin/python")?;
        Ok(Self { program, args: vec![source("python/client.py")], with_scheme: false })
    }

    /// Python's etcd3gw, which speaks JSON.
    pub fn python_gateway() -> anyhow::Result<Self> {
        let program = fetched("python/bin/python")?;
        Ok(Self { program, args: vec![source("python/gateway.py")], with_scheme: false })
    }

    /// Node's etcd3. The script is copied beside the library, where Node looks for it.
    pub fn node() -> anyhow::Result<Self> {
        let script = fetched("node")?.join("client.js");
        std::fs::copy(source("node/client.js"), &script)?;
        Ok(Self { program: "node".into(), args: vec![script], with_scheme: true })
    }

    /// Rust's etcd-client.
    pub fn rust() -> anyhow::Result<Self> {
        Ok(Self { program: fetched("rust/debug/rust-client")?, args: Vec::new(), with_scheme: true })
    }

    /// Runs the client against a member, restarting it when asked to.
    pub fn run(&self, member: &mut Member) -> anyhow::Result<()> {
        let address = if self.with_scheme { member.client_url() } else { member.authority() };
        let mut child = Command::new(&self.program)
            .args(&self.args)
            .arg(address)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let mut stdin = child.stdin.take().context("no stdin")?;
        let mut stderr = child.stderr.take().context("no stderr")?;
        let errors = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        let lines = read_lines(child.stdout.take().context("no stdout")?);
        let deadline = Instant::now() + PATIENCE;
        let mut restarts = 0;
        let outcome = loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line == "restart" => {
                    restarts += 1;
                    if let Err(error) = restart(member).and_then(|()| Ok(writeln!(stdin, "done")?)) {
                        break Err(error);
                    }
                }
                Ok(line) => println!("{line}"),
                Err(mpsc::RecvTimeoutError::Disconnected) => break Ok(()),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    break Err(anyhow::anyhow!("it still runs after {PATIENCE:?}"));
                }
            }
        };
        if outcome.is_err() {
            let _ = child.kill();
        }
        let status = child.wait()?;
        let errors = errors.join().unwrap_or_default();
        outcome.with_context(|| format!("the client said:\n{errors}"))?;
        if !status.success() {
            bail!("the client ended with {status}:\n{errors}");
        }
        ensure!(restarts > 0, "the client never tried a restart");
        Ok(())
    }
}

fn restart(member: &mut Member) -> anyhow::Result<()> {
    member.kill()?;
    member.run()
}

fn read_lines(pipe: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            let Ok(line) = line else { break };
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}
