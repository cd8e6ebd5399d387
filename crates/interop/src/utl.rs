//! Any `etcdutl`, run to its end, and restoring snapshots with it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::member::Member;

/// An `etcdutl`.
#[derive(Clone, Debug)]
pub struct Utl {
    /// The program.
    pub program: PathBuf,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Exit status; -1 for a death by a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// The lines on standard error that say what went wrong: log lines and usage, whose words are
    /// each tool's own, left out.
    pub fn messages(&self) -> String {
        let kept =
            self.stderr.lines().filter(|line| line.starts_with("Error: ") || line.starts_with("Run '"));
        kept.collect::<Vec<_>>().join("\n")
    }
}

impl Utl {
    /// Runs a command in a directory.
    pub fn run(&self, dir: &Path, args: &[&str]) -> anyhow::Result<Ran> {
        let output = Command::new(&self.program)
            .args(args)
            .current_dir(dir)
            .output()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        })
    }

    /// Restores a snapshot as the data directory of a member that has not started yet.
    pub fn restore(
        &self,
        file: &Path,
        member: &Member,
        name: &str,
        cluster: &str,
        more: &[&str],
    ) -> anyhow::Result<()> {
        let peer = format!("http://{}", member.peer_authority());
        let (file, data_dir) = (file.display().to_string(), member.data_dir().display().to_string());
        let mut args = vec!["snapshot", "restore", &file, "--name", name, "--initial-cluster", cluster];
        args.extend(["--initial-advertise-peer-urls", &peer, "--data-dir", &data_dir]);
        args.extend(more);
        let ran = self.run(member.dir(), &args)?;
        ensure!(ran.code == 0, "{} snapshot restore: {}", self.program.display(), ran.stderr);
        Ok(())
    }
}
