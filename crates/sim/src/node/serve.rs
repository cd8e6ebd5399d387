//! Requests of clients, as the services of a node handle them.

use std::collections::BTreeMap;

use apply::{ApplyError, Reply};
use member::{Input, ReadState};
use membership::ConfChange;
use prost::Message;
use proto::etcdserverpb as pb;
use types::{CompatVersion, LeaseId, MemberId, RequestId};

use super::apply::encode;
use super::{Node, Running, Stop};
use crate::bugs::Bug;
use crate::context::{Context, Event};
use crate::random::Draw;

/// A client asks for something.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) client: usize,
    pub(crate) op: u64,
    pub(crate) body: Body,
}

/// What it asks for.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    Write(Box<pb::InternalRaftRequest>),
    Range(pb::RangeRequest),
    KeepAlive(LeaseId),
    Members(ConfChange),
}

/// What it is told.
#[derive(Debug)]
pub(crate) enum Answer {
    Done(Reply),
    Range(pb::RangeResponse),
    /// The lease lives for so many seconds; 0 = it does not exist.
    Alive(i64),
    /// Refused, with no effect.
    Refused(String),
}

/// Requests under way on a node.
#[derive(Debug)]
pub(super) struct Serving {
    base: u64,
    count: u64,
    waiting: BTreeMap<u64, Waiting>,
    reads: BTreeMap<u64, Read>,
    /// Reads whose index is known, waiting for apply.
    ready: Vec<(u64, Read)>,
}

#[derive(Debug)]
struct Waiting {
    client: usize,
    op: u64,
    /// A renewal goes on when the lease's checkpoint is cleared.
    renew: Option<LeaseId>,
}

#[derive(Debug)]
struct Read {
    client: usize,
    op: u64,
    body: Body,
}

impl Serving {
    pub(super) fn new(id: MemberId, slot: usize, epoch: u64) -> Self {
        let base = (id.0 & 0xffff) << 48 | (slot as u64 & 0xff) << 40 | (epoch & 0xffff) << 24;
        Self { base, count: 0, waiting: BTreeMap::new(), reads: BTreeMap::new(), ready: Vec::new() }
    }

    /// A request id that nobody else has, in this life or another.
    pub(super) fn next_id(&mut self) -> u64 {
        self.count += 1;
        self.base | self.count
    }
}

impl Node {
    /// A client's request arrives.
    pub(crate) fn serve(&mut self, ctx: &mut Context, request: Request) {
        self.with(ctx, |node, running, ctx| node.try_serve(running, ctx, request));
    }

    fn try_serve(&mut self, running: &mut Running, ctx: &mut Context, request: Request) -> Result<(), Stop> {
        let Request { client, op, body } = request;
        match body {
            Body::Write(request) => self.propose(running, ctx, client, op, *request),
            Body::Range(range) if range.serializable => {
                let answer = read(running, &range);
                reply(ctx, client, op, answer);
                Ok(())
            }
            Body::Range(range) if ctx.has(Bug::ReadWithoutReadIndex) => {
                let answer = read(running, &range);
                reply(ctx, client, op, answer);
                Ok(())
            }
            Body::KeepAlive(_) if !running.leadership.is_leader => {
                reply(ctx, client, op, Answer::Refused("not the leader".to_owned()));
                Ok(())
            }
            // A leader that was deposed and does not know it yet must not renew anything.
            body @ (Body::Range(_) | Body::KeepAlive(_)) => {
                let context = running.serving.next_id();
                running.serving.reads.insert(context, Read { client, op, body });
                self.input(running, ctx, Input::ReadIndex(context))
            }
            Body::Members(change) => {
                let id = running.serving.next_id();
                running.serving.waiting.insert(id, Waiting { client, op, renew: None });
                let change = change.encode(id).encode_to_vec();
                self.input(running, ctx, Input::ProposeConfChange(change.into()))
            }
        }
    }

    fn propose(
        &mut self,
        running: &mut Running,
        ctx: &mut Context,
        client: usize,
        op: u64,
        request: pb::InternalRaftRequest,
    ) -> Result<(), Stop> {
        let id = running.serving.next_id();
        running.serving.waiting.insert(id, Waiting { client, op, renew: None });
        let payload = encode(id, request);
        let mut payloads = vec![payload.clone()];
        if ctx.has(Bug::ProposeTwice) && ctx.random.percent(5) {
            payloads.push(payload);
        }
        self.input(running, ctx, Input::Propose(payloads))
    }

    /// Reads that got no answer are asked for again.
    pub(super) fn ask_again(&mut self, running: &mut Running, ctx: &mut Context) -> Result<(), Stop> {
        let contexts: Vec<u64> = running.serving.reads.keys().copied().collect();
        for context in contexts {
            self.input(running, ctx, Input::ReadIndex(context))?;
        }
        Ok(())
    }

    pub(super) fn read_ready(
        &mut self,
        running: &mut Running,
        ctx: &mut Context,
        state: ReadState,
    ) -> Result<(), Stop> {
        if let Some(read) = running.serving.reads.remove(&state.ctx) {
            let index = if ctx.has(Bug::ReadBeforeApply) { 0 } else { state.index };
            running.serving.ready.push((index, read));
            self.answer_reads(running, ctx)?;
        }
        Ok(())
    }

    /// Answers the reads whose index is applied.
    pub(super) fn answer_reads(&mut self, running: &mut Running, ctx: &mut Context) -> Result<(), Stop> {
        let applied = running.applied;
        let ready = std::mem::take(&mut running.serving.ready);
        for (index, waiting) in ready {
            if index > applied {
                running.serving.ready.push((index, waiting));
                continue;
            }
            match &waiting.body {
                Body::Range(range) => {
                    let answer = read(running, range);
                    reply(ctx, waiting.client, waiting.op, answer);
                }
                Body::KeepAlive(lease) => self.renew(running, ctx, waiting.client, waiting.op, *lease)?,
                Body::Write(_) | Body::Members(_) => {}
            }
        }
        Ok(())
    }

    fn renew(
        &mut self,
        running: &mut Running,
        ctx: &mut Context,
        client: usize,
        op: u64,
        lease: LeaseId,
    ) -> Result<(), Stop> {
        use lease::RenewOutcome as Outcome;
        let outcome = running.shared.lessor.lock().renew(lease, self.clock(ctx));
        match outcome {
            Outcome::Renewed(ttl) => reply(ctx, client, op, Answer::Alive(ttl)),
            Outcome::NotFound => reply(ctx, client, op, Answer::Alive(0)),
            Outcome::ExpiredPending => reply(ctx, client, op, Answer::Refused("is over".to_owned())),
            Outcome::NotPrimary => reply(ctx, client, op, Answer::Refused("not the primary".to_owned())),
            Outcome::ClearCheckpointFirst => {
                let id = running.serving.next_id();
                running.serving.waiting.insert(id, Waiting { client, op, renew: Some(lease) });
                let checkpoints = vec![pb::LeaseCheckpoint { id: lease.0, remaining_ttl: 0 }];
                let lease_checkpoint = Some(pb::LeaseCheckpointRequest { checkpoints }.into());
                let request = pb::InternalRaftRequest { lease_checkpoint, ..Default::default() };
                let term = running.primary_of.term;
                let payloads = vec![encode(id, request)];
                return self.input(running, ctx, Input::ProposeLeading { term, payloads });
            }
        }
        Ok(())
    }

    pub(super) fn answer_proposal(
        &mut self,
        running: &mut Running,
        ctx: &mut Context,
        id: RequestId,
        result: Result<Reply, ApplyError>,
    ) {
        let Some(waiting) = running.serving.waiting.remove(&id.0) else { return };
        if let Some(lease) = waiting.renew {
            let again = Read { client: waiting.client, op: waiting.op, body: Body::KeepAlive(lease) };
            running.serving.ready.push((0, again));
            return;
        }
        let answer = match result {
            Ok(reply) => Answer::Done(reply),
            Err(error) => Answer::Refused(error.to_string()),
        };
        reply(ctx, waiting.client, waiting.op, answer);
    }
}

fn read(running: &Running, request: &pb::RangeRequest) -> Answer {
    let query = apply::range::query(request, CompatVersion::V3_7);
    match running.store.range(&query).and_then(|result| apply::range::response(&result)) {
        Ok(response) => Answer::Range(response),
        Err(error) => Answer::Refused(error.to_string()),
    }
}

fn reply(ctx: &mut Context, client: usize, op: u64, answer: Answer) {
    let delay = ctx.draw(ctx.profile.latency);
    ctx.after(delay, Event::Answer { client, op, answer });
}
