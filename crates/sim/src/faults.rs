//! Faults: drawn from the seed until faults stop.

use env::Random;
use env::sim::{Fault, Survival};
use member::Input;

use crate::context::{Context, Event};
use crate::node::{Action, Node, TICK};
use crate::profile::{MS, SECOND};
use crate::random::Draw;

/// Number of kinds of faults.
pub(crate) const KINDS: usize = 16;

/// A kind of fault.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// A node loses power now.
    Crash,
    /// The leader loses power now.
    CrashLeader,
    /// All nodes lose power now.
    CrashAll,
    /// A node loses power in the middle of what it writes next.
    PowerLoss,
    /// A write or sync fails.
    DiskError,
    /// The disk fills up.
    DiskFull,
    /// Syncs take long.
    SlowDisk,
    /// The network falls apart.
    Partition,
    /// Links carry nothing in one direction.
    OneWay,
    /// Messages are lost.
    Loss,
    /// Messages are late and overtake each other.
    Delay,
    /// A process stands still.
    Pause,
    /// A clock jumps forward.
    ClockJump,
    /// An election is called without need, or leadership handed over.
    Politics,
    /// The leader loses power, and the others campaign all at once.
    ElectionStorm,
    /// A backend is written anew.
    Defragment,
}

const ALL: [Kind; KINDS] = [
    Kind::Crash,
    Kind::CrashLeader,
    Kind::CrashAll,
    Kind::PowerLoss,
    Kind::DiskError,
    Kind::DiskFull,
    Kind::SlowDisk,
    Kind::Partition,
    Kind::OneWay,
    Kind::Loss,
    Kind::Delay,
    Kind::Pause,
    Kind::ClockJump,
    Kind::Politics,
    Kind::ElectionStorm,
    Kind::Defragment,
];

/// The end of a fault.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mend {
    Links,
    Loss,
    Delay,
}

/// Plans the next fault.
pub(crate) fn plan(ctx: &mut Context) {
    let every = ctx.profile.fault_every;
    if every > 0 && ctx.in_trouble() {
        let delay = ctx.random.between(every / 4, every * 2);
        ctx.after(delay, Event::Fault);
    }
}

/// Lets the next fault strike.
pub(crate) fn strike(ctx: &mut Context, nodes: &mut [Node]) {
    plan(ctx);
    if !ctx.in_trouble() {
        return;
    }
    let weights = ctx.profile.fault_weights;
    let kind = ALL[ctx.random.weighted(&weights)];
    if weights.iter().sum::<u64>() == 0 {
        return;
    }
    let up: Vec<usize> = nodes.iter().filter(|node| node.running.is_some()).map(|node| node.slot).collect();
    if up.is_empty() {
        return;
    }
    let victim = up[ctx.random.below(up.len() as u64) as usize];
    ctx.note("fault", &[kind as u64, victim as u64], || format!("{kind:?} (n{victim})"));
    match kind {
        Kind::Crash => crash(ctx, &mut nodes[victim]),
        Kind::CrashLeader => {
            let leads = |slot: &&usize| {
                nodes[**slot].running.as_ref().is_some_and(|running| running.leadership.is_leader)
            };
            let leader = up.iter().find(leads).copied().unwrap_or(victim);
            crash(ctx, &mut nodes[leader]);
        }
        Kind::CrashAll => {
            for slot in up {
                crash(ctx, &mut nodes[slot]);
            }
        }
        Kind::PowerLoss => disk_fault(ctx, &mut nodes[victim], Fault::PowerLoss, 60),
        Kind::DiskError => disk_fault(ctx, &mut nodes[victim], Fault::OneError, 200),
        Kind::DiskFull => disk_fault(ctx, &mut nodes[victim], Fault::DiskFull, 200),
        Kind::SlowDisk => {
            let until = ctx.now + ctx.random.between(500 * MS, 6 * SECOND);
            let by = ctx.random.pick(&[20 * MS, 200 * MS, 2 * SECOND]);
            nodes[victim].slow_disk = (until, by);
        }
        Kind::Partition => partition(ctx, nodes.len(), victim),
        Kind::OneWay => one_way(ctx, nodes.len(), victim),
        Kind::Loss => {
            ctx.network.burst_loss = ctx.random.pick(&[20_000, 100_000, 400_000]);
            end_later(ctx, Mend::Loss);
        }
        Kind::Delay => {
            ctx.network.burst_delay = ctx.random.pick(&[50 * MS, 300 * MS, 2 * SECOND]);
            end_later(ctx, Mend::Delay);
        }
        Kind::Pause => {
            let pause = ctx.random.pick(&[300 * MS, 2 * SECOND, 4 * SECOND]);
            nodes[victim].paused_until = ctx.now + pause;
        }
        Kind::ClockJump => {
            let by = ctx.random.between(200 * MS, 8 * SECOND);
            nodes[victim].clock_ahead += by;
            let jump = (ctx.now, by);
            ctx.oracle.jumps.push(jump);
        }
        Kind::Politics => politics(ctx, nodes, victim),
        Kind::ElectionStorm => storm(ctx, nodes),
        Kind::Defragment => nodes[victim].after(ctx, 0, Action::Defragment),
    }
}

/// Ends a fault.
pub(crate) fn mend(ctx: &mut Context, mend: Mend) {
    match mend {
        Mend::Links => ctx.network.blocked.clear(),
        Mend::Loss => ctx.network.burst_loss = 0,
        Mend::Delay => ctx.network.burst_delay = 0,
    }
}

/// Ends all faults.
pub(crate) fn calm(ctx: &mut Context, nodes: &mut [Node]) {
    for end in [Mend::Links, Mend::Loss, Mend::Delay] {
        mend(ctx, end);
    }
    for node in nodes {
        node.slow_disk = (0, 0);
        node.paused_until = node.paused_until.min(ctx.now);
        if std::mem::take(&mut node.disk_fault) {
            node.disk.clear_fault();
        }
    }
}

fn end_later(ctx: &mut Context, mend: Mend) {
    let delay = ctx.random.between(300 * MS, 6 * SECOND);
    ctx.after(delay, Event::Mend(mend));
}

fn crash(ctx: &mut Context, node: &mut Node) {
    let seed = ctx.random.next_u64();
    let survival = match ctx.random.below(4) {
        0 => Survival::Nothing,
        // As a killed process leaves it.
        1 => Survival::Everything,
        _ => Survival::Random(seed),
    };
    node.crash(ctx, survival);
    let most = ctx.random.pick(&[200 * MS, 2 * SECOND, 6 * SECOND]);
    let delay = ctx.random.between(10 * MS, most);
    ctx.after(delay, Event::Start(node.slot));
}

fn disk_fault(ctx: &mut Context, node: &mut Node, fault: Fault, within: u64) {
    let at = node.disk.operations() + ctx.random.between(1, within);
    node.disk.fail_after(at, fault);
    node.disk_fault = true;
}

fn partition(ctx: &mut Context, nodes: usize, victim: usize) {
    let alone = ctx.random.percent(50);
    let bits = ctx.random.next_u64();
    let side = |slot: usize| if alone { slot == victim } else { bits >> (slot % 64) & 1 == 1 };
    for from in 0..nodes {
        for to in 0..nodes {
            if side(from) != side(to) {
                ctx.network.blocked.insert((from, to));
            }
        }
    }
    end_later(ctx, Mend::Links);
}

fn one_way(ctx: &mut Context, nodes: usize, victim: usize) {
    let shape = ctx.random.below(3);
    for other in (0..nodes).filter(|other| *other != victim) {
        match shape {
            // It hears and is not heard, or the other way round, or some links break.
            0 => drop(ctx.network.blocked.insert((victim, other))),
            1 => drop(ctx.network.blocked.insert((other, victim))),
            _ if ctx.random.percent(50) => drop(ctx.network.blocked.insert((victim, other))),
            _ => drop(ctx.network.blocked.insert((other, victim))),
        }
    }
    end_later(ctx, Mend::Links);
}

fn storm(ctx: &mut Context, nodes: &mut [Node]) {
    let leads = |node: &Node| node.running.as_ref().is_some_and(|running| running.leadership.is_leader);
    let timeout = TICK * u64::from(ctx.profile.election_ticks);
    let at = ctx.random.between(timeout, timeout * 3 / 2);
    for node in nodes {
        if leads(node) {
            crash(ctx, node);
        } else if node.running.is_some() {
            let delay = at + ctx.random.below(10 * MS);
            node.after(ctx, delay, Action::Inputs(vec![Input::Campaign]));
        }
    }
}

fn politics(ctx: &mut Context, nodes: &mut [Node], victim: usize) {
    let others: Vec<_> = nodes.iter().filter_map(|node| node.running.as_ref()).map(|r| r.id).collect();
    let to = others[ctx.random.below(others.len() as u64) as usize];
    for node in nodes.iter() {
        let Some(running) = &node.running else { continue };
        if running.leadership.is_leader {
            node.after(ctx, 0, Action::Inputs(vec![Input::TransferLeader(to)]));
            return;
        }
    }
    nodes[victim].after(ctx, 0, Action::Inputs(vec![Input::Campaign]));
}
