//! The operator: adds, promotes and removes members while all goes on.
//!
//! Changes pass the same checks as a server makes before it proposes one; what these refuse is not
//! proposed. A member that was added is started, one that was removed is stopped at last.

use env::Random;
use membership::{Cluster, ConfChange, Link, Member};
use server::bootstrap::Existing;
use std::sync::Arc;
use types::MemberId;

use crate::context::{Context, Event};
use crate::node::{Body, Node, Request, name, url};
use crate::profile::SECOND;
use crate::random::Draw;

/// The client number of the operator.
pub(crate) const OPERATOR: usize = usize::MAX;

/// Most places for members over a run.
const MAX_SLOTS: usize = 24;
/// Most voters.
const MAX_VOTERS: usize = 5;

/// Plans the next act.
pub(crate) fn plan(ctx: &mut Context) {
    let every = match ctx.profile.reconfigure_every {
        0 => return,
        every if ctx.in_trouble() => every,
        _ => SECOND,
    };
    let delay = ctx.random.between(every / 2, every * 3 / 2);
    ctx.after(delay, Event::Operator);
}

/// Does something about the membership.
pub(crate) fn act(ctx: &mut Context, nodes: &mut Vec<Node>) {
    plan(ctx);
    follow(ctx, nodes);
    let up: Vec<usize> = nodes.iter().filter(|node| node.running.is_some()).map(|node| node.slot).collect();
    if !ctx.in_trouble() || up.is_empty() {
        return;
    }
    let asked = up[ctx.random.below(up.len() as u64) as usize];
    let draws = [ctx.random.next_u64(), ctx.random.next_u64()];
    let kind = ctx.random.weighted(&[3, 3, 4, 3, 1]);
    let Some((asked, change)) = choose(ctx, nodes, asked, kind, draws) else { return };
    if let ConfChange::Add(member) = &change
        && member.peer_urls == [url(nodes.len())]
    {
        let slot = nodes.len();
        nodes.push(Node::new(slot, String::new(), None));
    }
    ctx.note("operator", &[asked as u64, change.member_id().0], || format!("n{asked} {change:?}"));
    let request = Request { client: OPERATOR, op: 0, body: Body::Members(change) };
    ctx.after(1, Event::Request { slot: asked, request });
}

/// A change that the checks of the asked member let pass, and whom to ask for it.
fn choose(
    ctx: &Context,
    nodes: &[Node],
    asked: usize,
    kind: usize,
    draws: [u64; 2],
) -> Option<(usize, ConfChange)> {
    let cluster = cluster_of(&nodes[asked])?;
    let link = |id: MemberId| link(ctx, nodes, asked, id);
    let voters: Vec<MemberId> = cluster.voters().map(|member| member.id).collect();
    let learners: Vec<MemberId> = cluster.learners().map(|member| member.id).collect();
    let all: Vec<MemberId> = voters.iter().chain(&learners).copied().collect();
    let pick = |list: &[MemberId]| list.get(draws[0] as usize % list.len().max(1)).copied();
    match kind {
        0 | 1 => {
            let (learner, slot) = (kind == 0, nodes.len());
            let room = slot < MAX_SLOTS && voters.len() + learners.len() < MAX_VOTERS + 1;
            if !room || cluster.may_add(learner, link).is_err() {
                return None;
            }
            let time = 1_700_000_000 + ctx.now / SECOND;
            let id = membership::member_id(&[url(slot)], "sim", Some(time));
            let member = Member { is_learner: learner, ..Member::new(id, vec![url(slot)]) };
            Some((asked, ConfChange::Add(member)))
        }
        2 => {
            let learner = pick(&learners)?;
            let leader = nodes.iter().find(|node| is_ready(node, learner))?;
            cluster.may_promote().ok()?;
            Some((leader.slot, ConfChange::Promote(learner)))
        }
        3 => {
            let id = pick(&all)?;
            // From two voters to one only in calm: if the one that stays crashes before it knows of
            // the commit, having sent an entry that it lost itself, it needs the vote of the other,
            // which is no voter any more and has the longer log (seed 123). Upstream is no better.
            let least = if ctx.profile.fault_every == 0 { 1 } else { 2 };
            let leaves_some = voters.len() > least || learners.contains(&id);
            (leaves_some && cluster.may_remove(id, link).is_ok()).then_some((asked, ConfChange::Remove(id)))
        }
        // What nobody sensible asks for: the state machine refuses it.
        _ if draws[1].is_multiple_of(2) => Some((asked, ConfChange::Promote(pick(&voters)?))),
        _ => Some((asked, ConfChange::Add(cluster.member(pick(&all)?)?.clone()))),
    }
}

/// Starts members that were added and stops those that were removed, whatever they know of it.
pub(crate) fn follow(ctx: &mut Context, nodes: &mut [Node]) {
    let newest = nodes
        .iter()
        .filter(|node| node.running.is_some())
        .max_by_key(|node| node.running.as_ref().map_or(0, |running| running.applied));
    // Who is behind may not know the members of today.
    let applied = |node: &&Node| node.running.as_ref().map(|running| running.applied);
    let newest = newest.filter(|node| applied(node) == Some(ctx.oracle.last_applied()));
    let Some(cluster) = newest.and_then(cluster_of) else { return };
    let initial: Vec<String> =
        cluster.members().map(|member| format!("{}={}", name_of(member), member.peer_urls[0])).collect();
    // A removed member may stop when a majority of the rest has its removal on disk. Before, they
    // may need its vote: who crashes forgets what was committed, and falls back on the old members.
    let saved: Vec<u64> = cluster
        .voters()
        .filter_map(|voter| nodes[*ctx.slots.get(&voter.id.0)?].running.as_ref())
        .map(|running| running.backend.stored_consistent_position().index)
        .collect();
    let majority = cluster.voters().count() / 2 + 1;
    let may_stop = |id: MemberId| {
        let removal = ctx.oracle.removals.get(&id.0);
        removal.is_some_and(|index| saved.iter().filter(|saved| *saved >= index).count() >= majority)
    };
    let stopped: Vec<usize> = nodes
        .iter()
        .filter(|node| !node.gone && node.member_id.is_some_and(may_stop))
        .map(|node| node.slot)
        .collect();
    for slot in stopped {
        nodes[slot].retire(ctx);
    }
    for node in nodes {
        let member = cluster.members().find(|member| member.peer_urls == [node.url.clone()]);
        if let Some(member) = member.filter(|_| node.never_started()) {
            ctx.slots.insert(member.id.0, node.slot);
            let members = cluster.members().cloned().collect();
            node.join(initial.join(","), Existing { cluster_id: cluster.id(), members });
            ctx.after(SECOND / 10, Event::Start(node.slot));
        }
    }
}

fn name_of(member: &Member) -> String {
    let slot = member.peer_urls[0].trim_start_matches("http://n").trim_end_matches(":2380");
    name(slot.parse().unwrap_or_default())
}

fn cluster_of(node: &Node) -> Option<Arc<Cluster>> {
    node.running.as_ref().map(|running| running.shared.cluster())
}

/// How a member is connected to the one that is asked.
fn link(ctx: &Context, nodes: &[Node], asked: usize, id: MemberId) -> Link {
    let Some(other) = ctx.slots.get(&id.0).copied() else { return Link::Down };
    let blocked = &ctx.network.blocked;
    let reached = !blocked.contains(&(asked, other)) && !blocked.contains(&(other, asked));
    let lives = nodes[other].running.is_some() && nodes[other].paused_until <= ctx.now;
    if lives && (reached || other == asked) { Link::Lasting } else { Link::Down }
}

/// Whether this node leads and the learner has nine tenths of its log.
fn is_ready(node: &Node, learner: MemberId) -> bool {
    let Some(running) = node.running.as_ref().filter(|running| running.leadership.is_leader) else {
        return false;
    };
    let status = running.member.status();
    let matched = |id: u64| status.progress.iter().find(|peer| peer.id == id).map(|peer| peer.matched);
    match (matched(running.id.0), matched(learner.0)) {
        (Some(own), Some(its)) => its * 10 >= own * 9,
        _ => false,
    }
}
