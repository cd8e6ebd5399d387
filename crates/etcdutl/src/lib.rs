//! etcdutl: the tool for snapshots and for the files of stopped members.
//!
//! A library, so that manual pages and completions can be made from its table of commands ([`ROOT`]);
//! the program calls [`main`] and nothing else.
//!
//! Arguments in, library calls, exit code out. Output and exit codes are those of upstream's etcdutl
//! 3.7, because scripts read them. No network, no async, no threads but one that draws how
//! far a long piece of work is.
//!
//! **Source**: etcd `etcdutl`.

mod commands;
mod failure;
mod files;
mod json;
mod log;
mod print;
mod progress;
mod table;
#[cfg(test)]
mod test_files;

use std::os::unix::ffi::OsStringExt as _;

use bytes::Bytes;
use cli::help::GlobalFlags;
use cli::{CommandSpec, Outcome, complete, help, parse};
use commands::{Invocation, Run};
use failure::{ERROR, Failure};
use print::write_stdout;
use types::CompatVersion;

pub use table::ROOT;

/// The program: from the words of the process to its exit code.
pub fn main() {
    let words: Vec<Bytes> = std::env::args_os().skip(1).map(|word| word.into_vec().into()).collect();
    if let Some(answer) = complete::answer(&table::ROOT, &words) {
        return write_stdout(&answer);
    }
    match parse::parse(&table::ROOT, &words) {
        Outcome::Run(invocation) => match run(&invocation) {
            Ok(()) => std::process::exit(0),
            Err(failure) => end(failure),
        },
        Outcome::Help(path) => write_stdout(&help::help(&path, GlobalFlags::Listed)),
        Outcome::UnknownCommand(text) => {
            eprintln!("Error: {text}\nRun 'etcdutl --help' for usage.\nError: {text}");
            std::process::exit(ERROR);
        }
        Outcome::Usage(text, path) => wrong_usage(&text, &path),
    }
}

/// Ends the program, saying why if that has not been said yet.
fn end(failure: Failure) -> ! {
    progress::clear();
    if let Some(text) = failure.text {
        eprintln!("Error: {text}");
    }
    std::process::exit(failure.code)
}

/// Upstream's tool says it twice, with the usage in between.
fn wrong_usage(text: &str, path: &[&'static CommandSpec<Run>]) -> ! {
    eprintln!("Error: {text}\n{}\nError: {text}", help::usage(path, GlobalFlags::Listed));
    std::process::exit(ERROR)
}

fn run(invocation: &Invocation) -> Result<(), Failure> {
    let command = invocation.command().run.expect("groups become help when parsed");
    if let Err(text) = cli::parse::check_arguments(invocation, table::ROOT.name) {
        wrong_usage(&text, &invocation.path);
    }
    match command {
        Run::Version => {
            let compat = CompatVersion::default();
            write_stdout(&format!("etcdutl version: {}\nAPI version: {compat}\n", compat.server_version()));
            Ok(())
        }
        Run::Completion => {
            let script = complete::script(table::ROOT.name, &invocation.arg_text(0));
            write_stdout(&script.expect("the shell is one of those that the table names"));
            Ok(())
        }
        Run::Help => {
            match help::topic(&table::ROOT, &invocation.args, GlobalFlags::Listed) {
                Ok(help) => write_stdout(&help),
                Err(unknown) => eprint!("{unknown}"),
            }
            Ok(())
        }
        command => commands::run(command, invocation),
    }
}
