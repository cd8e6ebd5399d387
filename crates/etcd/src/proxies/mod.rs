//! `etcd gateway` and `etcd grpc-proxy`: command lines of their own, in the manner of the tools.
//!
//! Signals end both at once, as they would any process: nothing has to be put away, and what the gRPC proxy
//! has claimed or registered ends with its leases.
//!
//! **Source**: behaviour of etcd 3.7.1 `server/etcdmain/{gateway,grpc_proxy}.go`.

mod gateway;
mod grpc_proxy;
mod table;

use std::fmt::Display;
use std::io::Write as _;
use std::process::exit;

use bytes::Bytes;
use cli::help::{GlobalFlags, help, usage};
use cli::{Outcome, parse};
use server::log;

pub use table::ROOT;

/// What a command does.
#[derive(Clone, Copy, Debug)]
pub enum Run {
    /// `gateway start`.
    Gateway,
    /// `grpc-proxy start`.
    GrpcProxy,
}

/// Carries out a command line whose first word is one of the two.
pub fn run(words: &[String]) -> ! {
    let bytes: Vec<Bytes> = words.iter().skip(1).map(|word| Bytes::from(word.clone())).collect();
    let invocation = match parse::parse(&table::ROOT, &bytes) {
        Outcome::Run(invocation) => invocation,
        Outcome::Help(path) => {
            // Who has closed the pipe does not want to know.
            let _ = std::io::stdout().write_all(help(&path, GlobalFlags::Listed).as_bytes());
            exit(0)
        }
        Outcome::UnknownCommand(text) => fail(text),
        Outcome::Usage(text, path) => {
            eprint!("Error: {text}\n{}\n{text}", usage(&path, GlobalFlags::Listed));
            exit(1)
        }
    };
    match invocation.command().run {
        Some(Run::Gateway) => gateway::start(words, &invocation.flags),
        Some(Run::GrpcProxy) => grpc_proxy::start(&invocation.flags),
        None => unreachable!("groups become help when parsed"),
    }
}

/// One line on standard error, status 1.
fn fail(text: impl Display) -> ! {
    eprintln!("{text}");
    exit(1)
}

/// Begins to log, in JSON on standard error.
fn log_from(level: log::Level) {
    if let Err(error) = log::configure(&log::Settings { level, ..log::Settings::default() }) {
        fail(error);
    }
}
