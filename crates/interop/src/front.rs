//! What stands before a cluster: `etcd gateway` or `etcd grpc-proxy`, of any server program.

use std::fs::File;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tempfile::TempDir;

use crate::ctl::Ctl;
use crate::http;
use crate::member::free_port;
use crate::programs::Program;

const PATIENCE: Duration = Duration::from_secs(30);

/// A gateway or a proxy. Killed on drop.
pub struct Front {
    child: Child,
    port: u16,
    dir: TempDir,
}

impl Front {
    /// Starts `program <kind> start` for these endpoints and waits until it accepts connections.
    pub fn start(program: &Program, kind: &str, endpoints: &[String], args: &[&str]) -> anyhow::Result<Self> {
        let (dir, port) = (tempfile::Builder::new().prefix("retcd-front-").tempdir()?, free_port()?);
        let log = File::create(dir.path().join("log"))?;
        let child = Command::new(&program.path)
            .args([kind, "start", "--listen-addr", &format!("127.0.0.1:{port}")])
            .args(["--endpoints", &endpoints.join(",")])
            .args(args)
            .current_dir(dir.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", program.path.display()))?;
        let mut front = Self { child, port, dir };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(front.authority()).is_err() {
            if let Some(status) = front.child.try_wait()? {
                bail!("{kind} ended with {status}:\n{}", front.log());
            }
            if Instant::now() > deadline {
                bail!("{kind} does not listen:\n{}", front.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(front)
    }

    /// `host:port` that it listens on.
    pub fn authority(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An `etcdctl` that goes through it.
    pub fn ctl(&self, program: PathBuf) -> Ctl {
        Ctl { program, endpoint: self.authority() }
    }

    /// Everything it has said.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.dir.path().join("log")).unwrap_or_default()).into_owned()
    }

    /// The value of a metric without labels, from a page of metrics of any server.
    pub fn metric(authority: &str, path: &str, name: &str) -> anyhow::Result<f64> {
        let page = http::request(authority, "GET", path, &[], "")?;
        let text = String::from_utf8_lossy(&page.body).into_owned();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.with_context(|| format!("no {name} in {path}: {text}"))?.parse().context("a number")
    }

    /// Waits until it ends by itself. Returns everything it has said.
    pub fn wait_end(mut self) -> anyhow::Result<String> {
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("it does not end:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(self.log())
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.kill();
    }
}
