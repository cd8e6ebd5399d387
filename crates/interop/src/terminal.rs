//! An `etcdctl` on a terminal, with somebody who types passwords.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use crate::ctl::Ctl;

/// Longest wait for a prompt or the end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a command; each answer is typed when a prompt stands on the terminal and what is typed is
/// no longer shown. Gives the exit status and everything the terminal showed but log records.
pub fn run_typed(ctl: &Ctl, args: &[String], answers: &[String]) -> anyhow::Result<(i32, String)> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).context("no terminal")?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let name = ptsname(&ours, Vec::new())?;
    let theirs = File::options().read(true).write(true).open(name.to_str()?)?;
    let mut child = Command::new(&ctl.program)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("ETCDCTL_API", "3")
        .arg("--endpoints")
        .arg(&ctl.endpoint)
        .args(args)
        .stdin(theirs.try_clone()?)
        .stdout(theirs.try_clone()?)
        .stderr(theirs)
        .spawn()
        .with_context(|| format!("cannot start {}", ctl.program.display()))?;
    let mut terminal = File::from(ours);
    let (sender, shown) = std::sync::mpsc::channel();
    let mut screen = terminal.try_clone()?;
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        // The end of the last program on a terminal is an error of the reader.
        while let Ok(length @ 1..) = screen.read(&mut buffer) {
            if sender.send(buffer[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    let deadline = Instant::now() + PATIENCE;
    let mut text = Vec::new();
    for answer in answers {
        let prompted = |text: &[u8]| text.ends_with(b": ");
        while !prompted(&text) || tcgetattr(&terminal)?.local_modes.contains(LocalModes::ECHO) {
            match shown.recv_timeout(Duration::from_millis(5)) {
                Ok(more) => text.extend(more),
                Err(_) if Instant::now() > deadline => {
                    let _ = child.kill();
                    let _ = child.wait();
                    bail!("{args:?} does not ask for a password: {}", String::from_utf8_lossy(&text));
                }
                Err(_) => {}
            }
        }
        terminal.write_all(format!("{answer}\n").as_bytes())?;
        // What follows is no longer this prompt.
        text.extend(shown.recv_timeout(PATIENCE).context("nothing is shown after the answer")?);
    }
    while let Ok(more) = shown.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        text.extend(more);
    }
    let status = child.wait()?;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    let text = String::from_utf8_lossy(&text).replace("\r\n", "\n");
    let kept: Vec<_> = text.lines().filter(|line| !line.starts_with('{')).collect();
    Ok((code, kept.join("\n")))
}
