//! etcdctl: the command-line client. Arguments in, library call, exit code out.
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
use cli::{CommandSpec, Outcome, complete, help, parse, text};
use commands::{Invocation, Run};
use failure::{ERROR, Failure};
use print::{say, write_stdout};
use types::CompatVersion;

/// Global flags have a command of their own, `options`.
const GLOBAL_FLAGS: GlobalFlags = GlobalFlags::Elsewhere(
    "Use \"etcdctl options\" for a list of global command-line options (applies to all commands).\n",
);

fn main() {
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
            completion(&invocation);
            Ok(())
        }
        Run::Help => {
            help_about(&invocation.args);
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

fn completion(invocation: &Invocation) {
    let count = invocation.args.len();
    if count != 1 {
        wrong_usage(&format!("accepts 1 arg(s), received {count}"), &invocation.path);
    }
    let shell = invocation.arg_text(0);
    match complete::script(table::ROOT.name, &shell) {
        Some(script) => write_stdout(script.as_bytes()),
        None => {
            let text = format!("invalid argument {} for \"etcdctl completion\"", text::quote(&shell));
            wrong_usage(&text, &invocation.path);
        }
    }
}

fn help_about(topic: &[Bytes]) {
    let (path, rest) = parse::find(&table::ROOT, topic);
    if path.len() == 1 && !rest.is_empty() {
        let words: Vec<_> = topic.iter().map(|word| format!("`{}`", text::lossy(word))).collect();
        eprintln!("Unknown help topic [{}]", words.join(" "));
        eprint!("{}", help::usage(&path, GLOBAL_FLAGS));
        return;
    }
    write_stdout(help::help(&path, GLOBAL_FLAGS).as_bytes());
}
