//! Who looks on: slow calls, and spans for distributed tracing.
//!
//! A listener without an [`Observation`] pays one test per call. With one, a call costs two looks at
//! the clock and a shared handle to its request; everything else is done only for a call that was
//! slow, is traced, or when everything is to be told.
//!
//! What a call waited for ([`Stages`]) is left by the member in a place of its thread, when it was
//! slow: the answer that ends a handler and the end of that handler lie in one poll, so nothing else
//! of the thread comes in between.

use std::cell::{Cell, OnceCell};
use std::fmt::Debug;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http2::Head;

use super::message::{PREFIX_LEN, Pieces};
use super::metadata::{CallContext, Peer};
use super::status::{Code, Status};

/// Calls that take longer leave a trace of what they waited for.
pub const TRACE_THRESHOLD: Duration = Duration::from_millis(100);

/// Is told of calls. Called on the workers: it must not block.
pub trait Observer: Debug + Send + Sync {
    /// Whether every unary call is to be told, not only slow ones. Asked at the end of each.
    fn wants_all(&self) -> bool;

    /// A call begins; returns its span if it is traced.
    fn begin(&self, context: &CallContext) -> Option<Box<Span>>;

    /// A call has ended that was slow or traced, or is told because everything is.
    fn ended(&self, call: Ended<'_>);
}

/// What is looked at.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Who looks.
    pub observer: Arc<dyn Observer>,
    /// Unary calls that take longer are told.
    pub slow: Duration,
    /// Whether calls may be traced.
    pub traced: bool,
}

/// A call that is traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The trace.
    pub trace: [u8; 16],
    /// This span.
    pub id: [u8; 8],
    /// The caller's span, if he sent one.
    pub parent: Option<[u8; 8]>,
    /// What the caller wants to be handed on.
    pub state: String,
}

/// What a call went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages {
    /// When the members agreed on where to read.
    pub agreed: Option<Instant>,
    /// When the request went to the log.
    pub proposed: Option<Instant>,
    /// When it began to be applied, and when it was.
    pub applied: Option<(Instant, Instant)>,
}

const NO_STAGES: Stages = Stages { agreed: None, proposed: None, applied: None };

/// What a range found: its answer may be far too large to be read again for a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Key-values in the answer.
    pub returned: usize,
    /// Keys in the range.
    pub total: i64,
    /// Revision of the answer.
    pub revision: i64,
}

/// Whether there are traced calls at all.
static TRACED: AtomicBool = AtomicBool::new(false);

thread_local! {
    static STAGES: Cell<Stages> = const { Cell::new(NO_STAGES) };
    static FOUND: Cell<Option<Found>> = const { Cell::new(None) };
}

/// Whether [`note_stages`] is worth its price: for what took long, and where calls are traced.
pub fn wants_stages(took: Duration) -> bool {
    took > TRACE_THRESHOLD || TRACED.load(Ordering::Relaxed)
}

/// Leaves what the call that goes on with this went through.
pub fn note_stages(stages: Stages) {
    STAGES.set(stages);
}

/// Leaves what the range that goes on with this found.
pub fn note_found(found: Found) {
    FOUND.set(Some(found));
}

/// A call that has ended.
#[derive(Debug)]
pub struct Ended<'a> {
    /// `/<package>.<Service>/<Method>`.
    pub path: &'a str,
    /// It has one request and one answer.
    pub unary: bool,
    /// The caller.
    pub peer: &'a Peer,
    /// When its handler began.
    pub started: Instant,
    /// How long it took.
    pub took: Duration,
    /// The request; `None` if it did not arrive, and for streams.
    pub request: Option<&'a Bytes>,
    /// The answer of a unary call that has one.
    pub reply: Option<SentReply<'a>>,
    /// How it ended.
    pub code: Code,
    /// What the caller is told about that; empty when it went well.
    pub message: &'a str,
    /// What it waited for.
    pub stages: Stages,
    /// What it found, if it was a range that went well.
    pub found: Option<Found>,
    /// Its span, if it is traced.
    pub span: Option<Box<Span>>,
}

/// An answer as it leaves.
#[derive(Clone, Copy, Debug)]
pub struct SentReply<'a>(&'a Pieces);

impl SentReply<'_> {
    /// Length of the message.
    pub fn len(self) -> usize {
        let framed = match self.0 {
            Pieces::Whole(frame) => frame.len(),
            Pieces::Several(pieces) => pieces.iter().map(Bytes::len).sum(),
        };
        framed.saturating_sub(PREFIX_LEN)
    }

    /// Whether the message is empty.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The message where it lies: a large answer is not put together to be looked at.
    pub fn buf(&self) -> impl Buf {
        let pieces = match self.0 {
            Pieces::Whole(frame) => std::slice::from_ref(frame),
            Pieces::Several(pieces) => pieces,
        };
        let mut buf = PiecesBuf { pieces, at: 0, left: pieces.iter().map(Bytes::len).sum() };
        buf.advance(PREFIX_LEN.min(buf.left));
        buf
    }
}

/// Pieces that are read one behind the other.
struct PiecesBuf<'a> {
    pieces: &'a [Bytes],
    /// Place in the first piece.
    at: usize,
    /// Bytes of all.
    left: usize,
}

impl Buf for PiecesBuf<'_> {
    fn remaining(&self) -> usize {
        self.left
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.first().map_or(&[], |piece| &piece[self.at..])
    }

    fn advance(&mut self, count: usize) {
        assert!(count <= self.left, "cannot advance by {count} of {} bytes", self.left);
        self.left -= count;
        self.at += count;
        while let Some((first, rest)) = self.pieces.split_first()
            && self.at >= first.len()
        {
            self.at -= first.len();
            self.pieces = rest;
        }
    }
}

/// A call that is looked at, from its begin to its end.
pub(crate) struct Watched<'a> {
    observation: &'a Observation,
    started: Instant,
    head: Rc<Head>,
    peer: Rc<Peer>,
    request: OnceCell<Bytes>,
    span: Option<Box<Span>>,
}

impl Observation {
    /// From now on stages of all calls are noted, if some may be traced.
    pub(crate) fn prepare(&self) {
        if self.traced {
            TRACED.store(true, Ordering::Relaxed);
        }
    }
}

impl<'a> Watched<'a> {
    pub(crate) fn begin(observation: Option<&'a Observation>, context: &CallContext) -> Option<Self> {
        let observation = observation?;
        Some(Self {
            observation,
            started: Instant::now(),
            head: context.headers.clone(),
            peer: context.peer.clone(),
            request: OnceCell::new(),
            span: if observation.traced { observation.observer.begin(context) } else { None },
        })
    }

    /// Holds on to the request.
    pub(crate) fn keep(&self, message: &Bytes) {
        let _ = self.request.set(message.clone());
    }

    /// Before each poll of the handler: what is found behind its end was left by it.
    pub(crate) fn poll_begins(&self) {
        STAGES.set(NO_STAGES);
        FOUND.set(None);
    }

    pub(crate) fn end_unary(self, outcome: &Result<Pieces, Status>) {
        let (took, observer) = (self.started.elapsed(), &self.observation.observer);
        if took <= self.observation.slow && self.span.is_none() && !observer.wants_all() {
            return;
        }
        let reply = outcome.as_ref().ok().map(SentReply);
        let status = outcome.as_ref().err();
        self.tell(true, took, reply, status, STAGES.get());
    }

    pub(crate) fn end_stream(self, status: Option<&Status>) {
        if self.span.is_some() {
            let took = self.started.elapsed();
            self.tell(false, took, None, status, NO_STAGES);
        }
    }

    fn tell(
        self,
        unary: bool,
        took: Duration,
        reply: Option<SentReply<'_>>,
        status: Option<&Status>,
        stages: Stages,
    ) {
        let path = self.head.path();
        self.observation.observer.ended(Ended {
            path: path.split_once('?').map_or(path, |(path, _)| path),
            unary,
            peer: &self.peer,
            started: self.started,
            took,
            request: self.request.get(),
            reply,
            code: status.map_or(Code::Ok, |status| status.code),
            message: status.map_or("", |status| &status.message),
            stages,
            found: FOUND.get().filter(|_| unary),
            span: self.span,
        });
    }
}
