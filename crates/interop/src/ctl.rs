//! Any `etcdctl`, run to its end.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// Longest time any command of a test may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// An `etcdctl` that talks to one endpoint.
#[derive(Clone, Debug)]
pub struct Ctl {
    /// The program.
    pub program: PathBuf,
    /// Value of `--endpoints`.
    pub endpoint: String,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Exit status; 128 + n for signal n, as shells say it.
    pub code: i32,
    /// Standard output, as text.
    pub stdout: String,
    /// Standard output, byte for byte.
    pub raw: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// Standard error without log records, and without the complaints of a helper that etcd's tool
    /// runs to ask for a password: what a user is meant to read.
    pub fn messages(&self) -> String {
        let kept: Vec<_> = self
            .stderr
            .lines()
            .filter(|line| !line.starts_with('{') && !line.starts_with("stty: "))
            .collect();
        kept.join("\n")
    }

    /// Standard output, if the command succeeded.
    pub fn success(self) -> anyhow::Result<String> {
        match self.code {
            0 => Ok(self.stdout),
            code => bail!("etcdctl ended with {code}: {}", self.stderr),
        }
    }
}

/// When a command that goes on for ever is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// It has printed so many lines: then it gets SIGTERM.
    Lines(usize),
    /// It ends by itself.
    End,
}

impl Ctl {
    /// Runs a command that does not end by itself. Its input stays open.
    pub fn run_until(&self, args: &[&str], input: &str, until: Until) -> anyhow::Result<Ran> {
        let mut child = Command::new(&self.program)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .arg("--endpoints")
            .arg(&self.endpoint)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let mut stdin = child.stdin.take().context("a pipe to the command")?;
        stdin.write_all(input.as_bytes())?;
        let stdout = child.stdout.take().context("a pipe from the command")?;
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            use std::io::BufRead as _;
            for line in std::io::BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let stderr = drain(child.stderr.take());
        let deadline = Instant::now() + PATIENCE;
        let mut text = String::new();
        let mut count = 0;
        let mut asked = false;
        // The pipe closes when the command ends.
        while let Ok(line) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            text.push_str(&line);
            text.push('\n');
            count += 1;
            if !asked && matches!(until, Until::Lines(wanted) if count >= wanted) {
                asked = true;
                let pid = rustix::process::Pid::from_child(&child);
                rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
            }
        }
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                bail!("etcdctl {args:?} still runs after {PATIENCE:?}: {text}");
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        drop(stdin);
        use std::os::unix::process::ExitStatusExt;
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        let stderr = stderr.join().unwrap_or_default();
        let raw = text.clone().into_bytes();
        Ok(Ran { code, stdout: text, stderr: String::from_utf8_lossy(&stderr).into_owned(), raw })
    }

    /// Runs a command with nothing on its standard input.
    pub fn run(&self, args: &[&str]) -> anyhow::Result<Ran> {
        self.run_with(args, &[], b"")
    }

    /// Runs a command with variables and input.
    pub fn run_with(&self, args: &[&str], variables: &[(&str, &str)], input: &[u8]) -> anyhow::Result<Ran> {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            // 3.3 and older, and so also 3.4 without it, speak the old API by default.
            .env("ETCDCTL_API", "3")
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if !variables.iter().any(|(name, _)| *name == "ETCDCTL_ENDPOINTS") {
            command.arg("--endpoints").arg(&self.endpoint);
        }
        let mut child =
            command.args(args).spawn().with_context(|| format!("cannot start {}", self.program.display()))?;
        // The inputs of these tests fit the pipe. A tool that does not read its input closes it.
        if let Some(mut stdin) = child.stdin.take() {
            let _ = stdin.write_all(input);
        }
        let deadline = Instant::now() + PATIENCE;
        let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                bail!("etcdctl {args:?} still runs after {PATIENCE:?}");
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let bytes = |reader: std::thread::JoinHandle<Vec<u8>>| reader.join().unwrap_or_default();
        use std::os::unix::process::ExitStatusExt;
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        let (raw, stderr) = (bytes(stdout), bytes(stderr));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Ran { code, stdout: text(&raw), stderr: text(&stderr), raw })
    }
}

fn drain(pipe: Option<impl std::io::Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}
