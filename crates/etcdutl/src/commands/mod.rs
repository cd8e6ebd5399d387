//! The commands, one file each.

mod auth;
mod check;
mod defrag;
mod dump;
pub mod hash_kv;
mod migrate;
mod restore;
pub mod status;

use std::time::Duration;

use cli::Flags;

use crate::failure::Failure;
use crate::files;

/// A command line that says what to do.
pub type Invocation = cli::Invocation<Run>;

/// What a command does; see [`run`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Run {
    AuthDisable,
    AuthResetRoot,
    Backup,
    Check,
    CheckV2Store,
    Completion,
    Defrag,
    DumpDb,
    DumpWal,
    HashKv,
    Help,
    Migrate,
    SnapshotRestore,
    SnapshotStatus,
    Version,
}

/// Carries out a command that works on files.
pub fn run(run: Run, invocation: &Invocation) -> Result<(), Failure> {
    match run {
        Run::AuthDisable => auth::run_disable(invocation),
        Run::AuthResetRoot => auth::run_reset_root(invocation),
        Run::Backup => Err(Failure::error(
            "backup is for data of etcd 2 and gone since etcd 3.6: save a running member with `etcdctl snapshot \
             save FILE`, or copy the data directory of a stopped one",
        )),
        Run::Check => check::run(invocation),
        Run::CheckV2Store => check_v2_store(&invocation.flags),
        Run::Defrag => defrag::run(invocation),
        Run::DumpDb => dump::run_db(invocation),
        Run::DumpWal => dump::run_wal(invocation),
        Run::HashKv => hash_kv::run(invocation),
        Run::Migrate => migrate::run(invocation),
        Run::SnapshotRestore => restore::run(invocation),
        Run::SnapshotStatus => status::run(invocation),
        Run::Completion | Run::Help | Run::Version => unreachable!("main carries them out"),
    }
}

/// No release that this one can follow keeps user data in the v2 store.
fn check_v2_store(flags: &Flags) -> Result<(), Failure> {
    files::must_exist(std::path::Path::new(&flags.text("data-dir")))?;
    crate::print::write_stdout("No custom content found in v2store.\n");
    Ok(())
}

/// `--timeout`.
fn timeout(flags: &Flags) -> Duration {
    flags.duration("timeout")
}
