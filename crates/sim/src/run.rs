//! One run: a cluster, its clients and its troubles, from a seed to a verdict.

use std::panic::{AssertUnwindSafe, catch_unwind};

use env::Random;
use types::KeyRange;

use crate::bugs::Bug;
use crate::client::Client;
use crate::context::{Context, Event, Stats};
use crate::faults;
use crate::node::{Answer, Node, name, url};
use crate::operator::{self, OPERATOR};
use crate::oracle::Verdict;
use crate::profile::{MS, SECOND};
use crate::random::Draw;
use crate::trace::Trace;
use crate::watcher::Watcher;

/// How to run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Print what happens.
    pub trace: bool,
    /// Print only from this millisecond on.
    pub trace_from_ms: u64,
    /// A bug to plant.
    pub bug: Option<Bug>,
    /// Change the membership all the time.
    pub reconfigure: bool,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Hash over everything that happened.
    pub trace: u64,
    /// What is wrong, if anything.
    pub finding: Option<String>,
    /// Virtual time that passed, in microseconds.
    pub virtual_micros: u64,
    /// What happened how often.
    pub stats: Stats,
}

/// Runs a seed to its end or to the first finding.
pub fn run(seed: u64, options: Options) -> Outcome {
    let trace = Trace::new(options.trace, options.trace_from_ms * 1000);
    let mut ctx = Context::new(seed, trace, options);
    let panicked = catch_unwind(AssertUnwindSafe(|| World::new(&mut ctx).run(&mut ctx))).err();
    if let Some(panic) = panicked {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("without a text");
        ctx.fail(format!("panic: {text}"));
    }
    Outcome {
        seed,
        trace: ctx.trace.hash(),
        finding: ctx.failure.clone(),
        virtual_micros: ctx.now,
        stats: ctx.stats,
    }
}

struct World {
    nodes: Vec<Node>,
    clients: Vec<Client>,
    watchers: Vec<Watcher>,
}

impl World {
    fn new(ctx: &mut Context) -> Self {
        let profile = ctx.profile.clone();
        ctx.note("profile", &[profile.nodes as u64], || format!("{profile:?}"));
        let names: Vec<String> =
            (0..profile.nodes).map(|slot| format!("{}={}", name(slot), url(slot))).collect();
        let nodes = (0..profile.nodes).map(|slot| Node::new(slot, names.join(","), None)).collect();
        let clients = (0..profile.clients + profile.lease_clients)
            .map(|number| Client::new(number, number >= profile.clients))
            .collect::<Vec<_>>();
        let watchers = (0..profile.watchers).map(|number| Watcher::new(number, ctx)).collect::<Vec<_>>();
        for slot in 0..profile.nodes {
            let delay = ctx.random.below(300 * MS);
            ctx.after(delay, Event::Start(slot));
        }
        for number in 0..clients.len() {
            let delay = ctx.random.between(500 * MS, SECOND);
            ctx.after(delay, Event::Client(number));
        }
        for number in 0..watchers.len() {
            let delay = ctx.random.between(400 * MS, 2 * SECOND);
            ctx.after(delay, Event::Watcher(number));
        }
        // The first second belongs to the first election.
        let until = profile.faults_until;
        ctx.after(until, Event::Calm);
        ctx.after(SECOND, Event::Compare);
        faults::plan(ctx);
        operator::plan(ctx);
        Self { nodes, clients, watchers }
    }

    fn run(&mut self, ctx: &mut Context) {
        while let Some(event) = ctx.next() {
            if ctx.failure.is_some() || ctx.now >= ctx.profile.end {
                break;
            }
            ctx.stats.events += 1;
            self.handle(ctx, event);
        }
        if ctx.failure.is_none() {
            let verdict = self.check_end(ctx);
            ctx.judge(verdict);
        }
    }

    fn handle(&mut self, ctx: &mut Context, event: Event) {
        // A process that stands still finds everything waiting when it goes on.
        let slot = match &event {
            Event::Node { slot, .. } | Event::Request { slot, .. } | Event::Deliver { to: slot, .. } => {
                Some(*slot)
            }
            _ => None,
        };
        if let Some(until) = slot.map(|slot| self.nodes[slot].paused_until).filter(|until| *until > ctx.now) {
            let rest = until - ctx.now;
            return ctx.after(rest, event);
        }
        match event {
            Event::Node { slot, epoch, action } => {
                let node = &mut self.nodes[slot];
                if node.epoch == epoch {
                    node.act(ctx, action);
                }
            }
            Event::Deliver { from, to, packet } => self.nodes[to].receive(ctx, from, packet),
            Event::Request { slot, request } => {
                let node = &mut self.nodes[slot];
                if node.running.is_some() {
                    node.serve(ctx, request);
                } else {
                    let (client, op) = (request.client, request.op);
                    let answer = Answer::Refused("unavailable".to_owned());
                    ctx.after(10 * MS, Event::Answer { client, op, answer });
                }
            }
            Event::Answer { client: OPERATOR, answer, .. } => {
                ctx.note("operator", &[1], || format!("{answer:?}"));
                ctx.stats.reconfigurations += u64::from(matches!(answer, Answer::Done(_)));
            }
            Event::Answer { client, op, answer } => self.clients[client].hear(ctx, op, answer),
            Event::Client(number) => {
                let endpoints = self.endpoints();
                self.clients[number].act(ctx, &endpoints);
            }
            Event::Timeout { client, op } => self.clients[client].time_out(ctx, op),
            Event::Watcher(number) => {
                let endpoints = self.endpoints();
                self.watchers[number].act(ctx, &mut self.nodes, &endpoints);
            }
            Event::Operator => operator::act(ctx, &mut self.nodes),
            Event::Start(slot) => self.nodes[slot].start(ctx),
            Event::Fault => faults::strike(ctx, &mut self.nodes),
            Event::Mend(mend) => faults::mend(ctx, mend),
            Event::Compare => {
                ctx.after(2 * SECOND, Event::Compare);
                let verdict = self.compare(ctx);
                ctx.judge(verdict);
            }
            Event::Calm => {
                ctx.note("calm", &[], String::new);
                faults::calm(ctx, &mut self.nodes);
            }
        }
    }

    /// Where members run or ran that are not removed, as far as clients know.
    fn endpoints(&self) -> Vec<usize> {
        let known = |node: &&Node| !node.gone && !node.never_started();
        self.nodes.iter().filter(known).map(|node| node.slot).collect()
    }

    /// Hashes of all members at the newest revision that all of them have.
    fn compare(&self, ctx: &mut Context) -> Verdict {
        let running = || self.nodes.iter().filter_map(|node| Some((node.slot, node.running.as_ref()?)));
        let newest = running().map(|(_, running)| running.store.current_revision()).min();
        let Some(revision) = newest else { return Ok(()) };
        for (slot, running) in running() {
            match running.store.hash_kv(revision) {
                Ok(hash) => {
                    let jobs = running.compactions.len();
                    // As upstream has it, the hash of a store without keys depends on how far a
                    // compaction got, and on whether it is the one that a compaction took.
                    let everything = KeyRange::From(bytes::Bytes::new());
                    if ctx.oracle.state_at(&everything, revision).is_empty() {
                        continue;
                    }
                    ctx.note("hash", &[slot as u64, u64::from(hash.hash)], || {
                        format!(
                            "n{slot} {hash:?}, {jobs} compactions under way, {} keys",
                            running.store.live_keys()
                        )
                    });
                    ctx.oracle.hashed(slot, hash)?;
                }
                Err(mvcc::ReadError::Compacted) => {}
                Err(error) => return Err(format!("n{slot}: {error}")),
            }
        }
        Ok(())
    }

    /// Faults stopped long ago: all is well, or something is wrong.
    fn check_end(&self, ctx: &mut Context) -> Verdict {
        for (number, client) in self.clients.iter().enumerate() {
            if client.answers_in_calm == 0 {
                return Err(format!("no progress: client {number} got no answer after faults stopped"));
            }
            client.check_refused(ctx)?;
        }
        for watcher in &self.watchers {
            watcher.check_complete(ctx)?;
        }
        let leases = ctx.oracle.live_leases();
        if !leases.is_empty() {
            return Err(format!("leases never ended: {leases:?}"));
        }
        let newest = ctx.oracle.last_applied();
        let everything = KeyRange::From(bytes::Bytes::new());
        let mut first: Option<(usize, types::ConfState, Vec<types::MemberId>)> = None;
        for node in self.nodes.iter().filter(|node| !node.gone && !node.never_started()) {
            let (slot, Some(running)) = (node.slot, &node.running) else {
                return Err(format!("n{} does not run at the end", node.slot));
            };
            if running.applied != newest {
                return Err(format!("n{slot} applied {}, entry {newest} was applied", running.applied));
            }
            let range = mvcc::RangeQuery::new(everything.clone());
            let state = running.store.range(&range).and_then(|result| Ok(result.kvs.decode()?));
            let state = state.map_err(|error| format!("n{slot}: {error}"))?;
            let expected = ctx.oracle.state_at(&everything, ctx.oracle.current);
            if !expected.iter().copied().eq(&state) {
                return Err(format!("n{slot} holds {state:?}, history says {expected:?}"));
            }
            running.backend.commit().map_err(|error| format!("n{slot}: {error}"))?;
            let faults = running.backend.check();
            if !faults.is_empty() {
                return Err(format!("the database of n{slot} is damaged: {faults:?}"));
            }
            let conf_state = running.member.conf_state().sorted();
            let members: Vec<_> = running.shared.cluster().members().map(|member| member.id).collect();
            match &first {
                None => first = Some((slot, conf_state, members)),
                Some((other, conf, list)) => {
                    if *conf != conf_state || *list != members {
                        return Err(format!(
                            "n{slot} and n{other} differ about the members: {conf_state:?}, {conf:?}"
                        ));
                    }
                }
            }
        }
        self.compare(ctx)?;
        Ok(())
    }
}
