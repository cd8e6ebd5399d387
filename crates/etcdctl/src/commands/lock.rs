//! lock and elect.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use bytes::Bytes;
use client::Client;
use client::concurrency::{Election, Mutex, Session as Lease};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{ERROR, Failure};
use crate::print::Answer;
use crate::session::{Session, Settings};
use cli::text::{lossy, quote};

const ELECTION_TTL_SECONDS: i64 = 60;

/// SIGINT and SIGTERM, caught from here on.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn catch() -> Result<Self, Failure> {
        let catch = |kind| signal(kind).map_err(|error| Failure::new(ERROR, error));
        Ok(Self { interrupt: catch(SignalKind::interrupt())?, terminate: catch(SignalKind::terminate())? })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn canceled() -> Failure {
    Failure::from(client::Error::Canceled)
}

pub async fn lock(session: &mut Session) -> Result<(), Failure> {
    let Some((name, command)) = session.invocation.args.split_first() else {
        return Err(Failure::arguments("lock takes a lock name argument and an optional command to execute"));
    };
    let (name, command) = (name.clone(), command.to_vec());
    let ttl = session.flags().int("ttl");
    let (settings, client) = session.open().await?;
    let lease = Lease::new(&client, if ttl > 0 { ttl } else { ELECTION_TTL_SECONDS }).await?;
    let result = hold_lock(session, &settings, &client, &lease, &name, &command).await;
    // Upstream leaves the lease to expire; without keys it only takes room.
    let _ = lease.close().await;
    result
}

async fn hold_lock(
    session: &Session,
    settings: &Settings,
    client: &Client,
    lease: &Lease,
    name: &Bytes,
    command: &[Bytes],
) -> Result<(), Failure> {
    let mut mutex = Mutex::new(lease, name);
    let mut signals = Signals::catch()?;
    let header = tokio::select! {
        result = mutex.lock() => result?,
        () = signals.any() => {
            let _ = mutex.unlock().await;
            return Err(canceled());
        }
    };
    if !command.is_empty() {
        let result = run_locked(mutex.key(), header.revision, command).await;
        let unlocked = mutex.unlock().await;
        return result.and(unlocked.map_err(Failure::from));
    }
    let response = tokio::select! {
        response = client.get(mutex.key().clone()) => response?,
        () = signals.any() => return Err(canceled()),
    };
    if response.kvs.is_empty() {
        return Err(Failure::new(ERROR, "lock lost on init"));
    }
    session.print(settings, Answer::Get(&response))?;
    tokio::select! {
        () = signals.any() => mutex.unlock().await.map_err(Failure::from),
        () = lease.done() => Err(Failure::new(ERROR, "session expired")),
    }
}

async fn run_locked(key: &Bytes, revision: i64, command: &[Bytes]) -> Result<(), Failure> {
    let os = |bytes: &Bytes| std::ffi::OsStr::from_bytes(bytes).to_owned();
    let status = tokio::process::Command::new(os(&command[0]))
        .args(command[1..].iter().map(os))
        .stdin(std::process::Stdio::null())
        .env("ETCD_LOCK_KEY", os(key))
        .env("ETCD_LOCK_REV", revision.to_string())
        .status()
        .await;
    match exit_text(&command[0], &status) {
        None => Ok(()),
        Some(text) => {
            // A command that was killed has no status of its own.
            let code = status.ok().map_or(ERROR, |status| status.code().unwrap_or(255));
            Err(Failure::new(code, text))
        }
    }
}

/// What Go's `exec` says about a command that could not start or did not succeed.
pub fn exit_text(program: &[u8], status: &io::Result<ExitStatus>) -> Option<String> {
    match status {
        Ok(status) if status.success() => None,
        Ok(status) => Some(match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(number)) => format!("signal: {}", signal_name(number)),
            (None, None) => status.to_string(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !program.contains(&b'/') => {
            Some(format!("exec: {}: executable file not found in $PATH", quote(program)))
        }
        Err(error) => Some(format!("fork/exec {}: {}", lossy(program), types::os_reason(error))),
    }
}

fn signal_name(number: i32) -> String {
    match number {
        1 => "hangup".to_owned(),
        2 => "interrupt".to_owned(),
        3 => "quit".to_owned(),
        6 => "aborted".to_owned(),
        9 => "killed".to_owned(),
        11 => "segmentation fault".to_owned(),
        13 => "broken pipe".to_owned(),
        15 => "terminated".to_owned(),
        other => format!("signal {other}"),
    }
}

pub async fn elect(session: &mut Session) -> Result<(), Failure> {
    let listen = session.flags().bool("listen");
    let (name, proposal) = match &session.invocation.args[..] {
        [_] if !listen => return Err(Failure::arguments("no proposal argument but -l not set")),
        [_, _] if listen => return Err(Failure::arguments("proposal given but -l is set")),
        [name] => (name.clone(), None),
        [name, proposal] => (name.clone(), Some(proposal.clone())),
        _ => {
            return Err(Failure::arguments(
                "elect takes one election name argument and an optional proposal argument",
            ));
        }
    };
    let (settings, client) = session.open().await?;
    let lease = Lease::new(&client, ELECTION_TTL_SECONDS).await?;
    let result = match proposal {
        None => observe(session, &settings, &lease, &name).await,
        Some(proposal) => campaign(session, &settings, &client, &lease, &name, proposal).await,
    };
    let _ = lease.close().await;
    result
}

async fn observe(session: &Session, settings: &Settings, lease: &Lease, name: &[u8]) -> Result<(), Failure> {
    let election = Election::new(lease, name);
    let mut signals = Signals::catch()?;
    let mut refused = Ok(());
    let seen = |response| {
        if refused.is_ok() {
            refused = session.print(settings, Answer::Get(&response));
            if let Err(failure) = &refused {
                crate::end(failure.clone());
            }
        }
    };
    tokio::select! {
        _ = election.observe(seen) => Err(Failure::new(ERROR, "elect: observer lost")),
        () = signals.any() => Ok(()),
    }
}

async fn campaign(
    session: &Session,
    settings: &Settings,
    client: &Client,
    lease: &Lease,
    name: &[u8],
    proposal: Bytes,
) -> Result<(), Failure> {
    let mut election = Election::new(lease, name);
    let mut signals = Signals::catch()?;
    tokio::select! {
        result = election.campaign(proposal) => result?,
        () = signals.any() => {
            let _ = election.resign().await;
            return Err(canceled());
        }
    }
    let response = client.get(election.key().clone()).await?;
    session.print(settings, Answer::Get(&response))?;
    tokio::select! {
        () = signals.any() => election.resign().await.map_err(Failure::from),
        () = lease.done() => Err(Failure::new(ERROR, "elect: session expired")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_commands_read_as_in_go() {
        let ended = |raw| exit_text(b"sh", &Ok(ExitStatus::from_raw(raw)));
        assert_eq!(ended(0), None);
        assert_eq!(ended(9 << 8), Some("exit status 9".into()));
        assert_eq!(ended(15), Some("signal: terminated".into()));
        let missing = || Err(io::Error::from_raw_os_error(2));
        assert_eq!(
            exit_text(b"nosuchcmd", &missing()),
            Some("exec: \"nosuchcmd\": executable file not found in $PATH".into())
        );
        assert_eq!(exit_text(b"./x", &missing()), Some("fork/exec ./x: no such file or directory".into()));
    }
}
