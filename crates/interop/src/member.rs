//! A member of any server program: alone in its cluster, or made one of several by the test.
//!
//! Ports come in blocks of [`BLOCK`]; the first port of a block is held bound as long as the test
//! process lives, so that test processes running at the same time never share one.
//! `RETCD_TEST_PORTS=first-last` moves the area, which lies below the kernel's own range.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use tempfile::TempDir;

use crate::programs::Program;
use crate::proxy::{Net, NetHandle};

/// How long a member may take until it serves.
pub const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long a member may take to stop.
pub const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// How often a process is asked whether it has ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
const BLOCK: u16 = 20;
const DEFAULT_PORTS: (u16, u16) = (21_300, 24_999);

struct Block {
    next: u16,
    end: u16,
    _guard: TcpListener,
}

static BLOCKS: Mutex<Option<Block>> = Mutex::new(None);

fn port_area() -> (u16, u16) {
    let Ok(text) = std::env::var("RETCD_TEST_PORTS") else { return DEFAULT_PORTS };
    let parsed =
        text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    parsed.unwrap_or(DEFAULT_PORTS)
}

fn take_block() -> Option<Block> {
    let (first, last) = port_area();
    (first..=last.saturating_sub(BLOCK - 1)).step_by(BLOCK as usize).find_map(|guard| {
        let listener = TcpListener::bind(("127.0.0.1", guard)).ok()?;
        Some(Block { next: guard + 1, end: guard + BLOCK, _guard: listener })
    })
}

/// A port nothing listens on, given out once per test process.
pub fn free_port() -> anyhow::Result<u16> {
    let mut blocks = BLOCKS.lock().map_err(|_| anyhow::anyhow!("a test panicked while choosing a port"))?;
    loop {
        if blocks.as_ref().is_none_or(|block| block.next >= block.end) {
            // The guard of a block that is used up stays bound: its ports are in use.
            if let Some(old) = blocks.take() {
                std::mem::forget(old);
            }
            *blocks = Some(take_block().context("no free block of ports: set RETCD_TEST_PORTS=first-last")?);
        }
        if let Some(block) = blocks.as_mut() {
            let port = block.next;
            block.next += 1;
            if TcpListener::bind(("127.0.0.1", port)).is_ok() {
                return Ok(port);
            }
        }
    }
}

/// A member: its place, and its process while it runs. Killed on drop.
pub struct Member {
    program: Program,
    extra_args: Vec<String>,
    dir: PathBuf,
    _own_dir: Option<TempDir>,
    client_port: u16,
    peer_port: u16,
    /// It is told nothing about its cluster, as it finds that out by itself.
    discovers: bool,
    /// The proxy that peers reach it through, if there is one.
    proxy: Option<Proxy>,
    child: Option<Child>,
}

struct Proxy {
    port: u16,
    net: NetHandle,
    number: usize,
}

impl Member {
    /// Starts a server on an empty directory of its own and waits until it serves.
    pub fn start(program: &Program, extra_args: &[&str]) -> anyhow::Result<Self> {
        let own = tempfile::Builder::new().prefix("retcd-interop-").tempdir()?;
        let mut member = Self::prepare(program, extra_args, own.path())?;
        member._own_dir = Some(own);
        member.run()?;
        Ok(member)
    }

    /// A member in `dir` (data directory `dir/data`, log `dir/log`) that does not run yet.
    pub fn prepare(program: &Program, extra_args: &[&str], dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        Ok(Self {
            program: program.clone(),
            extra_args: extra_args.iter().map(|arg| (*arg).to_owned()).collect(),
            dir: dir.to_owned(),
            _own_dir: None,
            client_port: free_port()?,
            peer_port: free_port()?,
            discovers: false,
            proxy: None,
            child: None,
        })
    }

    /// Has peers reach the member through `net`, which knows it by this number. Before the first
    /// start.
    pub fn go_behind(&mut self, net: &Net, number: usize) -> anyhow::Result<()> {
        let port = net.stand_before(number, self.peer_port)?;
        self.proxy = Some(Proxy { port, net: net.handle(), number });
        Ok(())
    }

    /// The port of the proxy, and the peer port behind it.
    pub fn proxy_ports(&self) -> Option<(u16, u16)> {
        self.proxy.as_ref().map(|proxy| (proxy.port, self.peer_port))
    }

    /// Leaves `--initial-cluster` out: the member is given a way to find its cluster.
    pub fn discover(&mut self) {
        self.discovers = true;
    }

    /// Changes the program for the next [`Member::run`].
    pub fn use_program(&mut self, program: &Program) {
        self.program = program.clone();
    }

    /// Adds arguments for the next [`Member::run`]; they win over those of before.
    pub fn add_args(&mut self, args: &[&str]) {
        self.extra_args.extend(args.iter().map(|arg| (*arg).to_owned()));
    }

    /// Starts the process without waiting.
    pub fn spawn(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.is_none(), "the member runs already");
        let log = File::options().create(true).append(true).open(self.log_file())?;
        let (client, peer) = (self.client_url(), format!("http://{}", self.peer_authority()));
        let listen_peer = format!("http://127.0.0.1:{}", self.peer_port);
        let initial = if self.discovers { Vec::new() } else { vec![format!("--initial-cluster=m1={peer}")] };
        let child = Command::new(&self.program.path)
            .args(["--name", "m1", "--log-level", "info", "--data-dir"])
            .arg(self.data_dir())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &listen_peer, "--initial-advertise-peer-urls", &peer])
            .args(&initial)
            .args(&self.program.args)
            .args(&self.extra_args)
            // The unsupported-architecture switch and the like of the caller are not wanted here.
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.path.display()))?;
        if let Some(proxy) = &self.proxy {
            proxy.net.runs_as(proxy.number, child.id());
        }
        self.child = Some(child);
        Ok(())
    }

    /// Starts the process and waits until it answers a linearizable read.
    pub fn run(&mut self) -> anyhow::Result<()> {
        self.spawn()?;
        self.wait_serving()
    }

    /// Waits until the member answers a linearizable read.
    pub fn wait_serving(&mut self) -> anyhow::Result<()> {
        let authority = self.authority();
        let started = Instant::now();
        let waited = bench::process::wait_serving(&authority, started, START_PATIENCE, || self.check_alive());
        match waited {
            Ok(_) => Ok(()),
            Err(error) => {
                Err(error.context(format!("the member did not serve; its log ends:\n{}", self.log_tail())))
            }
        }
    }

    /// Fails when the process has ended.
    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        let Some(child) = self.child.as_mut() else { bail!("the member does not run") };
        if let Some(status) = child.try_wait()? {
            self.child = None;
            bail!("the member ended with {status}; its log ends:\n{}", self.log_tail());
        }
        Ok(())
    }

    /// Waits until the process ends by itself.
    pub fn wait_end(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended(deadline)? {
                return Ok(status);
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Whether the process has ended; an error if it runs on behind the deadline.
    fn ended(&mut self, deadline: Instant) -> anyhow::Result<Option<ExitStatus>> {
        let Some(child) = self.child.as_mut() else { bail!("the member does not run") };
        let ended = child.try_wait()?;
        if ended.is_some() {
            self.child = None;
        } else {
            ensure!(Instant::now() < deadline, "the member does not end\n{}", self.log_tail());
        }
        Ok(ended)
    }

    /// SIGKILL: what the member has not written is lost.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else { bail!("the member does not run") };
        child.kill()?;
        let status = child.wait()?;
        ensure!(
            status.signal() == Some(9),
            "the member had ended before the kill: {status}\n{}",
            self.log_tail()
        );
        Ok(())
    }

    /// SIGTERM, then waits for the end.
    pub fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        self.ask_to_stop()?;
        self.wait_end(STOP_PATIENCE)
    }

    /// SIGTERM from async code whose writers must go on meanwhile.
    pub async fn stop_while_busy(&mut self) -> anyhow::Result<ExitStatus> {
        self.ask_to_stop()?;
        let deadline = Instant::now() + STOP_PATIENCE;
        loop {
            if let Some(status) = self.ended(deadline)? {
                return Ok(status);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    fn ask_to_stop(&self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)
    }

    /// SIGSTOP: the process stands still until [`Member::resume`].
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    /// From now on no file of the process grows beyond this many bytes (writes fail with EFBIG), or
    /// without a bound again.
    pub fn limit_files(&self, bytes: Option<u64>) -> anyhow::Result<()> {
        let limit = Rlimit { current: bytes, maximum: None };
        prlimit(Some(self.process()?), Resource::Fsize, limit)?;
        Ok(())
    }

    fn process(&self) -> anyhow::Result<Pid> {
        let Some(child) = &self.child else { bail!("the member does not run") };
        Pid::from_raw(child.id() as i32).context("process id out of range")
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill_process(self.process()?, signal)?)
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// `host:port` for clients.
    pub fn authority(&self) -> String {
        format!("127.0.0.1:{}", self.client_port)
    }

    /// URL for clients.
    pub fn client_url(&self) -> String {
        format!("http://{}", self.authority())
    }

    /// `host:port` for peers.
    pub fn peer_authority(&self) -> String {
        let port = self.proxy.as_ref().map_or(self.peer_port, |proxy| proxy.port);
        format!("127.0.0.1:{port}")
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Directory of everything the member has.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Output of all runs so far.
    pub fn log_file(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// The end of the log, for messages.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read(self.log_file()).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(4000)..]).into_owned()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("log of {} ends:\n{}", self.program.path.display(), self.log_tail());
        }
    }
}
