//! What an operator observes: each setting on a real process, and its effect.
//!
//! Some bodies run on the real etcd 3.7 as well, where it is there (feature `newest`): the same records, the
//! same spans.

mod logs;
mod messages;
mod profiles;
mod requests;
mod spans;

use interop::member::Member;
use interop::programs::{Program, ours};
use serde_json::Value;

/// Our server as it starts without being told whom to stand in for.
fn plain() -> Program {
    Program::plain(ours("etcd"))
}

/// The servers that have to behave alike.
fn alike() -> Vec<Program> {
    let mut programs = vec![plain()];
    if cfg!(feature = "newest") {
        programs.push(Program::plain(interop::programs::real("3.7", "etcd")));
    }
    programs
}

/// The records of a member's log so far.
fn records(member: &Member) -> anyhow::Result<Vec<Value>> {
    let text = std::fs::read_to_string(member.log_file())?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// Those with this message.
fn records_of(member: &Member, msg: &str) -> anyhow::Result<Vec<Value>> {
    Ok(records(member)?.into_iter().filter(|record| record["msg"] == msg).collect())
}

/// A page of a member: status and body.
fn get(member: &Member, path: &str) -> anyhow::Result<(u16, Vec<u8>)> {
    let answer = interop::http::request(&member.authority(), "GET", path, &[], "")?;
    Ok((answer.status, answer.body))
}
