//! Automatic compaction by time: the leader does it, all members say the same about it as the real ones.
//! When exactly it is due is tested without waiting, in `server::compactor`.

use anyhow::{Context, ensure};
use interop::cluster::{Cluster, ctl, eventually};
use interop::member::Member;
use interop::programs::{Program, subject, yardstick};

use crate::{records, said};

/// Whether this member compacted anything that was written. Before it hears of a leader, which may take
/// longer than the history is kept here, a real member compacts the revision that it began with.
fn compacts_writes(member: &Member, done: &str) -> bool {
    said(member, done).iter().any(|record| record["revision"].as_i64() > Some(2))
}

/// The records of the first compaction, the revision left out, and how many members compacted.
fn compact(program: &Program) -> anyhow::Result<Vec<Vec<(String, String)>>> {
    let args = ["--auto-compaction-mode", "periodic", "--auto-compaction-retention", "1s"];
    let cluster = Cluster::start(&[program; 3], &args)?;
    for number in 0..8 {
        ctl(&cluster.members[number % 3]).run(&["put", "k", &number.to_string()])?.success()?;
    }
    let done = "completed auto periodic compaction";
    let mut compacted = Vec::new();
    eventually("the history is compacted", || {
        compacted = cluster.members.iter().filter(|member| compacts_writes(member, done)).collect();
        Ok(!compacted.is_empty())
    })?;
    for member in &cluster.members {
        eventually("it is compacted everywhere", || {
            let read = ctl(member).run(&["get", "--rev=2", "k"])?;
            Ok(read.messages().contains("mvcc: required revision has been compacted"))
        })?;
    }
    for member in &cluster.members {
        let led = records(member).iter().any(|record| {
            record["msg"].as_str().is_some_and(|message| message.contains(" became leader at term "))
        });
        ensure!(led || !compacts_writes(member, done), "a follower compacted");
    }
    let mut shapes = Vec::new();
    for message in ["starting auto periodic compaction", done] {
        let records = said(compacted[0], message);
        let record = records.first().and_then(|record| record.as_object()).context(message)?;
        let shape = record.iter().filter(|(name, _)| !["ts", "caller"].contains(&name.as_str()));
        shapes.push(
            shape
                .map(|(name, value)| match name.as_str() {
                    "revision" | "took" => (name.clone(), String::new()),
                    _ => (name.clone(), value.to_string()),
                })
                .collect(),
        );
    }
    Ok(shapes)
}

#[test]
fn the_leader_compacts_what_is_old() -> anyhow::Result<()> {
    let (ours, theirs) = (compact(&subject())?, compact(&yardstick())?);
    ensure!(ours == theirs, "ours {ours:?}\ntheirs {theirs:?}");
    Ok(())
}
