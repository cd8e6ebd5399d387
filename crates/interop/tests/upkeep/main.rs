//! What keeps a cluster going, and how it begins: discovery, automatic compaction, quota and
//! defragmentation, and the counters that tell of all that. Our server does it beside the real one.

mod beginnings;
mod compaction;
mod counters;
mod edges;
mod names;
mod sockets;
mod space;

use interop::member::Member;

/// Records of a member's log.
fn records(member: &Member) -> Vec<serde_json::Value> {
    let text = std::fs::read(member.log_file()).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Those with this message.
fn said(member: &Member, message: &str) -> Vec<serde_json::Value> {
    records(member).into_iter().filter(|record| record["msg"] == message).collect()
}
