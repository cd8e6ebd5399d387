//! etcdctl: the command-line client. Arguments in, library call, exit code out.
//!
//! A library, so that manual pages and completions can be made from its table of commands ([`ROOT`]);
//! the program calls [`main`] and nothing else.
//!
//! Output and exit codes are those of upstream's etcdctl 3.7, because scripts read them. The
//! program starts in milliseconds and runs on one thread.
//!
//! **Source**: etcd `etcdctl/ctlv3`.

mod commands;
mod failure;
mod log;
mod print;
mod session;
mod table;

use std::os::unix::ffi::OsStringExt as _;

use bytes::Bytes;
use cli::help::GlobalFlags;
use cli::{CommandSpec, Outcome, complete, help, parse};
use commands::{Invocation, Run};
use failure::{ERROR, Failure};
use print::{say, write_stdout};
use types::CompatVersion;

pub use table::ROOT;

/// Global flags have a command of their own, `options`.
const GLOBAL_FLAGS: GlobalFlags = GlobalFlags::Elsewhere(
    "Use \"etcdctl options\" for a list of global command-line options (applies to all commands).\n",
);

/// The program: from the words of the process to its exit code.
pub fn main() {
    let words: Vec<Bytes> = std::env::args_os().skip(1).map(|word| word.into_vec().into()).collect();
    if let Some(answer) = complete::answer(&table::ROOT, &words) {
        return write_stdout(answer.as_bytes());
    }
    match parse::parse(&table::ROOT, &words) {
        Outcome::Run(invocation) => match run(invocation) {
            Ok(()) => std::process::exit(0),
            Err(failure) => end(failure),
        },
        Outcome::Help(path) => write_stdout(help::help(&path, GLOBAL_FLAGS).as_bytes()),
        Outcome::UnknownCommand(text) => {
            eprintln!("Error: {text}\nRun 'etcdctl --help' for usage.");
            std::process::exit(ERROR);
        }
        Outcome::Usage(text, path) => wrong_usage(&text, &path),
    }
}

/// Ends the program, saying why if that has not been said yet.
fn end(failure: Failure) -> ! {
    if let Some(text) = failure.text {
        eprintln!("Error: {text}");
    }
    std::process::exit(failure.code)
}

fn wrong_usage(text: &str, path: &[&'static CommandSpec<Run>]) -> ! {
    eprintln!("Error: {text}\n{}", help::usage(path, GLOBAL_FLAGS));
    std::process::exit(ERROR)
}

fn run(invocation: Invocation) -> Result<(), Failure> {
    let command = invocation.command().run.expect("groups become help when parsed");
    if let Err(text) = parse::check_arguments(&invocation, table::ROOT.name) {
        wrong_usage(&text, &invocation.path);
    }
    match command {
        Run::Version => {
            let compat = CompatVersion::default();
            say(format!("etcdctl version: {}\nAPI version: {compat}", compat.server_version()));
            Ok(())
        }
        Run::Options => {
            let flags = help::flag_table(table::GLOBAL, None);
            write_stdout(
                format!("The following options can be passed to any command:\n\n{flags}").as_bytes(),
            );
            Ok(())
        }
        Run::Completion => {
            let script = complete::script(table::ROOT.name, &invocation.arg_text(0));
            write_stdout(script.expect("the shell is one of those that the table names").as_bytes());
            Ok(())
        }
        Run::Help => {
            match help::topic(&table::ROOT, &invocation.args, GLOBAL_FLAGS) {
                Ok(help) => write_stdout(help.as_bytes()),
                Err(unknown) => eprint!("{unknown}"),
            }
            Ok(())
        }
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| Failure::new(ERROR, error))?;
            let result = runtime.block_on(commands::run(command, invocation));
            // A read of stdin may still wait in the background; nothing needs it any more.
            runtime.shutdown_background();
            result
        }
    }
}
