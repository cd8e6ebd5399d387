//! A server under measurement: started with chosen cores, watched through `/proc`, stopped.
//!
//! The cores of a child are those of the thread that starts it, so [`Server::start`] narrows the
//! calling thread for the moment of the start; Go's runtime sizes itself by that mask, as does
//! anything that asks for the available parallelism.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use proto::etcdserverpb::{RangeRequest, RangeResponse};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::task::LocalSet;

use crate::wire::{Channel, Method};

/// Kernel clock ticks per second in `/proc/<pid>/stat`; fixed at 100 in the Linux user interface.
const TICKS_PER_SECOND: u64 = 100;

/// The cores something may run on; empty means "as it is".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cores(pub Vec<usize>);

impl Cores {
    /// Restricts the calling thread, and so the threads and processes it starts from now on.
    pub fn pin_this_thread(&self) -> anyhow::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let mut set = CpuSet::new();
        for core in &self.0 {
            set.set(*core);
        }
        sched_setaffinity(None, &set).with_context(|| format!("cannot pin to cores {:?}", self.0))
    }
}

/// Starts a program on the given cores.
pub fn spawn_on(command: &mut Command, cores: &Cores) -> anyhow::Result<Child> {
    let before = sched_getaffinity(None)?;
    cores.pin_this_thread()?;
    let child = command.spawn();
    sched_setaffinity(None, &before)?;
    child.with_context(|| format!("cannot start {}", command.get_program().display()))
}

/// How to start a server.
#[derive(Clone, Debug)]
pub struct ServerPlan {
    /// The program.
    pub program: PathBuf,
    /// Name of the member.
    pub name: String,
    /// `--initial-cluster`; empty for a cluster of its own.
    pub initial_cluster: String,
    /// Arguments behind the standard ones.
    pub extra_args: Vec<String>,
    /// Certificate and key of the client port, if it is encrypted.
    pub certificate: Option<(String, String)>,
    /// Data directory.
    pub data_dir: PathBuf,
    /// File that takes stdout and stderr (appended).
    pub log_file: PathBuf,
    /// Port for clients, on the loopback interface.
    pub client_port: u16,
    /// Port for peers, on the loopback interface.
    pub peer_port: u16,
    /// Cores of the server.
    pub cores: Cores,
}

/// A running server; killed on drop.
pub struct Server {
    child: Child,
    /// When the process was started.
    pub started: Instant,
    /// `host:port` for clients.
    pub authority: String,
    log_file: PathBuf,
}

impl Server {
    /// Starts a member. Does not wait: see [`wait_serving`].
    pub fn start(plan: &ServerPlan) -> anyhow::Result<Self> {
        for port in [plan.client_port, plan.peer_port] {
            // Else another server there would be measured in place of this one.
            std::net::TcpListener::bind(("127.0.0.1", port))
                .with_context(|| format!("port {port} is taken: choose others with --port"))?;
        }
        let log = File::options().create(true).append(true).open(&plan.log_file)?;
        let scheme = if plan.certificate.is_some() { "https" } else { "http" };
        let client_url = format!("{scheme}://127.0.0.1:{}", plan.client_port);
        let peer_url = format!("http://127.0.0.1:{}", plan.peer_port);
        let initial_cluster = match plan.initial_cluster.is_empty() {
            true => format!("{}={peer_url}", plan.name),
            false => plan.initial_cluster.clone(),
        };
        let mut command = Command::new(&plan.program);
        command
            .args(["--name", &plan.name, "--log-level", "warn", "--data-dir"])
            .arg(&plan.data_dir)
            .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &initial_cluster])
            .args(plan.certificate.iter().flat_map(|(cert, key)| ["--cert-file", cert, "--key-file", key]))
            .args(&plan.extra_args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let started = Instant::now();
        let child = spawn_on(&mut command, &plan.cores)?;
        let authority = format!("127.0.0.1:{}", plan.client_port);
        Ok(Self { child, started, authority, log_file: plan.log_file.clone() })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails when the process has ended, with the end of its log.
    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!(
                "the server ended with {status}; end of {}:\n{}",
                self.log_file.display(),
                tail(&self.log_file)
            );
        }
        Ok(())
    }

    /// Stops with SIGTERM, with SIGKILL if that takes longer than `patience`.
    pub fn stop(mut self, patience: Duration) -> anyhow::Result<()> {
        let Some(pid) = Pid::from_raw(self.child.id() as i32) else { bail!("process id out of range") };
        kill_process(pid, Signal::TERM)?;
        let deadline = Instant::now() + patience;
        loop {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the server did not stop within {patience:?} of SIGTERM");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already gone is fine: stop() got it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How long one attempt at the first read may take before the process is looked at again.
const ATTEMPT: Duration = Duration::from_secs(2);

/// Waits for the first linearizable read; returns the time from `started`.
pub fn wait_serving(
    authority: &str,
    started: Instant,
    patience: Duration,
    mut check_alive: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Duration> {
    let address = authority.parse()?;
    let deadline = started + patience;
    loop {
        check_alive()?;
        match std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
            Ok(_) => break,
            Err(error) => ensure!(Instant::now() < deadline, "no listener within {patience:?}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    loop {
        let read = async { tokio::time::timeout(ATTEMPT, first_read(authority)).await };
        if let Ok(outcome) = LocalSet::new().block_on(&runtime, read) {
            outcome?;
            return Ok(started.elapsed());
        }
        check_alive()?;
        ensure!(Instant::now() < deadline, "no linearizable read succeeded within {patience:?}");
    }
}

async fn first_read(authority: &str) -> anyhow::Result<()> {
    let method = Method::new(authority, "/etcdserverpb.KV/Range")?;
    let request = RangeRequest { key: "probe".into(), ..Default::default() };
    loop {
        // Until the member serves, connections and calls fail in any way they like.
        if let Ok(channel) = Channel::connect(authority).await {
            match channel.call::<RangeResponse>(&method, &request).await {
                Ok(_) => return Ok(()),
                // With users the member says so as soon as it serves.
                Err(status) if status.message.ends_with("user name is empty") => return Ok(()),
                Err(_) => {}
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let start = text.len().saturating_sub(2000);
    String::from_utf8_lossy(&text[start..]).into_owned()
}

/// User plus system time a process has used so far. Resolution: 10 ms.
pub fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the measured process is gone")?;
    parse_cpu_time(&stat).with_context(|| format!("/proc/{pid}/stat has an unknown form"))
}

fn parse_cpu_time(stat: &str) -> Option<Duration> {
    // The second field is the program's name in brackets and may hold blanks.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * 1000 / TICKS_PER_SECOND))
}

/// Resident memory in bytes.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Memory {
    /// All of it.
    pub rss_bytes: u64,
    /// Heap and stacks.
    pub anon_bytes: u64,
    /// Mapped files: the database, the program.
    pub file_bytes: u64,
}

impl std::iter::Sum for Memory {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            rss_bytes: sum.rss_bytes + one.rss_bytes,
            anon_bytes: sum.anon_bytes + one.anon_bytes,
            file_bytes: sum.file_bytes + one.file_bytes,
        })
    }
}

/// Reads the resident memory of a process.
pub fn memory(pid: u32) -> anyhow::Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the measured process is gone")?;
    let field = |name: &str| parse_kib(&status, name);
    Ok(Memory { rss_bytes: field("VmRSS:"), anon_bytes: field("RssAnon:"), file_bytes: field("RssFile:") })
}

/// Touches so much memory, or half of what is free, and gives it back, so that what a server takes next is
/// really there.
///
/// The host of a virtual machine takes free memory away and hands it out again page by page on first
/// use, which costs more than ten times as much as using it. What was measured before decides then what a
/// server has to pay, and the one that stores more in the same time pays more.
pub fn warm_memory(bytes: usize) -> anyhow::Result<()> {
    const PAGE_BYTES: usize = 4096;
    let info = fs::read_to_string("/proc/meminfo").context("cannot see how much memory is free")?;
    let free = parse_kib(&info, "MemAvailable:") / 2;
    let mut memory = vec![0u8; bytes.min(usize::try_from(free)?)];
    for page in memory.chunks_mut(PAGE_BYTES) {
        page[0] = 1;
    }
    std::hint::black_box(&memory);
    Ok(())
}

/// A figure of a file below `/proc`, in bytes; 0 if it is not there.
fn parse_kib(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_ascii_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Refuses directories in memory: a sync there costs nothing, so nothing measured would count.
pub fn require_real_disk(dir: &Path) -> anyhow::Result<()> {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    let info = rustix::fs::statfs(dir).with_context(|| format!("cannot examine {}", dir.display()))?;
    ensure!(
        info.f_type as u64 != TMPFS_MAGIC,
        "{} lies in memory (tmpfs): choose a directory on a real disk with --dir",
        dir.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "12 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0";
        assert_eq!(parse_cpu_time(stat), Some(Duration::from_secs(2)));
        assert_eq!(parse_cpu_time("12 (a"), None);
    }

    #[test]
    fn own_memory_is_read() {
        let memory = memory(std::process::id()).unwrap();
        assert!(memory.rss_bytes > 0 && memory.anon_bytes <= memory.rss_bytes);
    }
}
