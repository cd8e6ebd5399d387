//! What everything in a run shares: time, the queue of events, the seed, the network, the oracle.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::rc::Rc;

use bytes::Bytes;
use env::{Random, SeededRandom};

use crate::bugs::Bug;
use crate::node::{Action, Answer, Request};
use crate::oracle::{Oracle, Verdict};
use crate::profile::{MS, Profile, SECOND};
use crate::random::Draw;
use crate::run::Options;
use crate::trace::{Trace, digest};

/// Something that happens at a time.
#[derive(Debug)]
pub(crate) enum Event {
    /// On a node, unless it crashed since (`epoch`).
    Node { slot: usize, epoch: u64, action: Action },
    /// A message arrives at a node, whoever runs there now.
    Deliver { from: usize, to: usize, packet: Packet },
    /// A client's request arrives at a node.
    Request { slot: usize, request: Request },
    /// An answer arrives at a client.
    Answer { client: usize, op: u64, answer: Answer },
    /// A client acts.
    Client(usize),
    /// A client stops waiting.
    Timeout { client: usize, op: u64 },
    /// A watcher looks at its stream.
    Watcher(usize),
    /// The operator acts.
    Operator,
    /// A node starts.
    Start(usize),
    /// A fault strikes.
    Fault,
    /// A fault ends.
    Mend(crate::faults::Mend),
    /// Members compare hashes.
    Compare,
    /// Faults stop.
    Calm,
}

/// An encoded message between nodes.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) bytes: Bytes,
    /// The database that a snapshot message brings.
    pub(crate) db: Option<Rc<Vec<u8>>>,
}

struct Queued {
    at: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// Counts of what a run did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Events handled.
    pub events: u64,
    /// Requests answered.
    pub answers: u64,
    /// Crashes.
    pub crashes: u64,
    /// Snapshots installed.
    pub snapshots: u64,
    /// Membership changes carried out.
    pub reconfigurations: u64,
    /// Changes of leader.
    pub elections: u64,
    /// Events that watchers got.
    pub watched: u64,
    /// Leases that ran out.
    pub expiries: u64,
    /// Compactions accepted.
    pub compactions: u64,
}

impl Stats {
    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.answers += other.answers;
        self.crashes += other.crashes;
        self.snapshots += other.snapshots;
        self.reconfigurations += other.reconfigurations;
        self.elections += other.elections;
        self.watched += other.watched;
        self.expiries += other.expiries;
        self.compactions += other.compactions;
    }
}

/// See the module documentation.
pub(crate) struct Context {
    pub(crate) now: u64,
    queue: BinaryHeap<Reverse<Queued>>,
    numbers: u64,
    pub(crate) random: SeededRandom,
    pub(crate) trace: Trace,
    pub(crate) profile: Profile,
    pub(crate) bug: Option<Bug>,
    pub(crate) oracle: Oracle,
    pub(crate) failure: Option<String>,
    pub(crate) stats: Stats,
    pub(crate) network: Network,
    /// Node of each member id.
    pub(crate) slots: BTreeMap<u64, usize>,
}

/// The links between nodes.
#[derive(Debug, Default)]
pub(crate) struct Network {
    /// Links (from, to) that carry nothing.
    pub(crate) blocked: BTreeSet<(usize, usize)>,
    /// Loss per million while a burst lasts.
    pub(crate) burst_loss: u64,
    /// Delay added while a burst lasts, at most.
    pub(crate) burst_delay: u64,
}

impl Context {
    pub(crate) fn new(seed: u64, trace: Trace, options: Options) -> Self {
        let mut random = SeededRandom::new(seed);
        let mut profile = Profile::draw(&mut random);
        if options.reconfigure {
            profile.reconfigure_every = random.between(200, 600) * MS;
        }
        Self {
            now: 0,
            queue: BinaryHeap::new(),
            numbers: 0,
            random,
            trace,
            profile,
            bug: options.bug,
            oracle: Oracle::new(),
            failure: None,
            stats: Stats::default(),
            network: Network::default(),
            slots: BTreeMap::new(),
        }
    }

    /// Puts an event on the queue.
    pub(crate) fn after(&mut self, delay: u64, event: Event) {
        self.numbers += 1;
        self.queue.push(Reverse(Queued { at: self.now + delay, number: self.numbers, event }));
    }

    /// Takes the next event and moves the time to it.
    pub(crate) fn next(&mut self) -> Option<Event> {
        let Reverse(queued) = self.queue.pop()?;
        self.now = queued.at;
        Some(queued.event)
    }

    /// Ends the run with a finding; the first one counts.
    pub(crate) fn fail(&mut self, finding: String) {
        if self.failure.is_none() {
            self.note("FINDING", &[], || finding.clone());
            self.failure = Some(finding);
        }
    }

    /// Ends the run if a check failed.
    pub(crate) fn judge(&mut self, verdict: Verdict) {
        if let Err(finding) = verdict {
            self.fail(finding);
        }
    }

    pub(crate) fn note(&mut self, what: &'static str, numbers: &[u64], text: impl FnOnce() -> String) {
        self.trace.note(self.now, what, numbers, text);
    }

    pub(crate) fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// Whether faults may still strike.
    pub(crate) fn in_trouble(&self) -> bool {
        self.now < self.profile.faults_until
    }

    /// A number in a range of the profile.
    pub(crate) fn draw(&mut self, (low, high): (u64, u64)) -> u64 {
        self.random.between(low, high)
    }

    /// Sends a packet from node to node. `may_double`: the transport may deliver it twice.
    pub(crate) fn send(&mut self, from: usize, to: usize, packet: Packet, may_double: bool) -> bool {
        let trouble = self.in_trouble();
        let loss = if trouble { self.profile.loss + self.network.burst_loss } else { 0 };
        let lost = self.network.blocked.contains(&(from, to)) || self.random.per_million(loss);
        let about = digest(&packet.bytes);
        self.note(if lost { "lost" } else { "send" }, &[from as u64, to as u64, about], || {
            format!("n{from} -> n{to} {}", describe(&packet.bytes))
        });
        if lost {
            return false;
        }
        let doubled = may_double && trouble && self.random.per_million(self.profile.duplication);
        for _ in 0..=usize::from(doubled) {
            let mut delay = self.draw(self.profile.latency);
            if trouble && self.network.burst_delay > 0 {
                delay += self.random.below(self.network.burst_delay);
            }
            if let Some(db) = &packet.db {
                delay += 5 * MS + db.len() as u64 / 100;
                if trouble && self.random.percent(10) {
                    delay += self.random.below(2 * SECOND);
                }
            }
            self.after(delay, Event::Deliver { from, to, packet: packet.clone() });
        }
        true
    }
}

/// A message in words, for the trace.
fn describe(bytes: &Bytes) -> String {
    use prost::Message;
    match proto::raftpb::Message::decode(bytes.clone()) {
        Ok(message) => format!(
            "{:?} term {} log {}/{} commit {} entries {} reject {}",
            message.r#type(),
            message.term(),
            message.index(),
            message.log_term(),
            message.commit(),
            message.entries.len(),
            message.reject(),
        ),
        Err(error) => error.to_string(),
    }
}
