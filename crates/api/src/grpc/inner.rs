//! Calls that begin inside the server: the JSON gateway's.
//!
//! Such a call takes the way of every other one, through the same dispatcher, checks and counters;
//! only its two ends are queues of this thread instead of a stream of HTTP/2.
//!
//! ```text
//! InnerCall --requests--> Source (a call's messages)
//!           <--responses-- Sink  (a call's answer), outcome beside them
//! ```
//!
//! - Each queue holds at most [`QUEUE_BYTES`] and one piece more.
//! - Who drops an [`InnerCall`] takes the call back, as a client does that resets its stream.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http2::{Body, Broken, Head, Reason, Sender};

use super::call::Heads;
use super::message::{Accept, MessageReader, write_prefix};
use super::status::Status;

/// What a queue holds before its writer has to wait.
const QUEUE_BYTES: usize = 256 << 10;

/// Where the messages of a call come from.
pub(crate) enum Source {
    Http2(Body),
    Inner(QueueReader),
}

impl Source {
    /// Whether the messages are made in here.
    pub(crate) fn is_inner(&self) -> bool {
        matches!(self, Self::Inner(_))
    }

    pub(crate) fn poll_data(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        match self {
            Self::Http2(body) => body.poll_data(cx),
            Self::Inner(queue) => queue.poll_data(cx),
        }
    }
}

/// Where the answer of a call goes. What cannot be sent has nobody who wants it.
pub(crate) enum Sink {
    Http2(Sender),
    Inner(QueueWriter, Outcome),
}

/// How a call ended; nothing as long as it runs.
type Outcome = Rc<RefCell<Option<Result<(), Status>>>>;

impl Sink {
    /// Ready when the caller no longer wants the answer.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Http2(sender) => sender.poll_reset(cx).map(drop),
            Self::Inner(queue, _) => queue.poll_abandoned(cx),
        }
    }

    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Broken>> {
        match self {
            Self::Http2(sender) => sender.poll_room(cx),
            Self::Inner(queue, _) => queue.poll_room(cx),
        }
    }

    /// Begins the answer.
    pub(crate) fn send_head(&mut self, heads: &Heads) -> Result<(), Broken> {
        match self {
            Self::Http2(sender) => sender.send_head(&heads.response, false),
            Self::Inner(queue, _) => queue.check_wanted(),
        }
    }

    pub(crate) fn send_data(&mut self, data: Bytes) -> Result<(), Broken> {
        match self {
            Self::Http2(sender) => sender.send_data(data, false),
            Self::Inner(queue, _) => queue.push(data),
        }
    }

    /// Sends a whole good answer.
    pub(crate) fn send_all(mut self, heads: &Heads, data: Bytes) {
        let _ = match &mut self {
            Self::Http2(sender) => sender.send_all(&heads.response, data, &heads.ok),
            Self::Inner(queue, outcome) => {
                *outcome.borrow_mut() = Some(Ok(()));
                queue.push(data)
            }
        };
    }

    /// Ends an answer that has begun.
    pub(crate) fn finish(self, heads: &Heads, outcome: Result<(), Status>) {
        match self {
            Self::Http2(mut sender) => {
                let sent = match outcome {
                    Ok(()) => sender.send_trailers(&heads.ok),
                    Err(status) => sender.send_trailers(&Rc::new(status.add_to(Head::trailers()))),
                };
                if sent.is_err() {
                    sender.reset(Reason::CANCEL);
                }
            }
            Self::Inner(_, slot) => *slot.borrow_mut() = Some(outcome),
        }
    }

    /// Answers with a status and nothing else; `head` is what HTTP/2 has it in.
    pub(crate) fn refuse(self, head: Head, status: &Status) {
        match self {
            Self::Http2(mut sender) => {
                let _ = sender.send_head(&Rc::new(status.add_to(head)), true);
            }
            Self::Inner(_, slot) => *slot.borrow_mut() = Some(Err(status.clone())),
        }
    }
}

/// The caller's side of a call that begins inside the server.
pub struct InnerCall {
    requests: Option<QueueWriter>,
    responses: MessageReader,
    outcome: Outcome,
}

/// The requests of an [`InnerCall`], for a task of their own.
pub struct InnerRequests(QueueWriter);

impl InnerCall {
    /// The two ends of a new call.
    pub(crate) fn open() -> (Source, Sink, Self) {
        let (request_writer, request_reader) = queue();
        let (response_writer, response_reader) = queue();
        let outcome = Outcome::default();
        let accept = Accept { max_bytes: usize::MAX, gzip: false };
        let responses = MessageReader::new(Source::Inner(response_reader), accept);
        let call = Self { requests: Some(request_writer), responses, outcome: outcome.clone() };
        (Source::Inner(request_reader), Sink::Inner(response_writer, outcome), call)
    }

    /// The side of the requests; once.
    pub fn requests(&mut self) -> Option<InnerRequests> {
        self.requests.take().map(InnerRequests)
    }

    /// The next answer; `None` when the call has ended: see [`InnerCall::outcome`].
    pub async fn next(&mut self) -> Option<Bytes> {
        // Our own answers are whole; what is not was cut off by the end of its handler.
        self.responses.next().await?.ok()
    }

    /// How the call ended, once it has.
    pub fn outcome(&self) -> Result<(), Status> {
        self.outcome.borrow_mut().take().unwrap_or_else(|| Err(Status::canceled()))
    }
}

impl InnerRequests {
    /// Sends a message; an error when nobody reads them any more.
    pub async fn send(&mut self, message: &[u8]) -> Result<(), Broken> {
        let mut frame = BytesMut::with_capacity(super::PREFIX_LEN + message.len());
        write_prefix(&mut frame, message.len());
        frame.extend_from_slice(message);
        poll_fn(|cx| self.0.poll_room(cx)).await?;
        self.0.push(frame.freeze())
    }

    /// There are no more; dropped without that, the call is broken off.
    pub fn close(self) {
        self.0.0.borrow_mut().complete = true;
    }
}

#[derive(Default)]
struct Queue {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    /// The writer has gone.
    ended: bool,
    /// The writer had said everything before it went.
    complete: bool,
    /// The reader has gone.
    abandoned: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

pub(crate) struct QueueReader(Rc<RefCell<Queue>>);

pub(crate) struct QueueWriter(Rc<RefCell<Queue>>);

fn queue() -> (QueueWriter, QueueReader) {
    let queue = Rc::new(RefCell::new(Queue::default()));
    (QueueWriter(queue.clone()), QueueReader(queue))
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl QueueReader {
    fn poll_data(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        let mut queue = self.0.borrow_mut();
        if let Some(piece) = queue.pieces.pop_front() {
            queue.bytes -= piece.len();
            let waker = queue.writer.take();
            drop(queue);
            wake(waker);
            return Poll::Ready(Some(Ok(piece)));
        }
        match (queue.ended, queue.complete) {
            (true, true) => Poll::Ready(None),
            (true, false) => Poll::Ready(Some(Err(Broken::Lost))),
            (false, _) => {
                queue.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for QueueReader {
    fn drop(&mut self) {
        let mut queue = self.0.borrow_mut();
        queue.abandoned = true;
        queue.pieces.clear();
        let waker = queue.writer.take();
        drop(queue);
        wake(waker);
    }
}

impl QueueWriter {
    fn check_wanted(&self) -> Result<(), Broken> {
        if self.0.borrow().abandoned { Err(Broken::Lost) } else { Ok(()) }
    }

    fn push(&mut self, piece: Bytes) -> Result<(), Broken> {
        self.check_wanted()?;
        let mut queue = self.0.borrow_mut();
        queue.bytes += piece.len();
        queue.pieces.push_back(piece);
        let waker = queue.reader.take();
        drop(queue);
        wake(waker);
        Ok(())
    }

    fn poll_room(&mut self, cx: &Context<'_>) -> Poll<Result<usize, Broken>> {
        let mut queue = self.0.borrow_mut();
        if queue.abandoned {
            return Poll::Ready(Err(Broken::Lost));
        }
        if queue.bytes < QUEUE_BYTES {
            return Poll::Ready(Ok(QUEUE_BYTES - queue.bytes));
        }
        queue.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_abandoned(&mut self, cx: &Context<'_>) -> Poll<()> {
        let mut queue = self.0.borrow_mut();
        if queue.abandoned {
            return Poll::Ready(());
        }
        queue.writer = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for QueueWriter {
    fn drop(&mut self) {
        let mut queue = self.0.borrow_mut();
        queue.ended = true;
        let waker = queue.reader.take();
        drop(queue);
        wake(waker);
    }
}

/// Calls with a handler that is no method of a service.
#[cfg(test)]
pub(crate) mod loopback {
    use super::*;
    use crate::grpc::message::Reply;

    /// A call on this thread that answers each request with this.
    pub(crate) fn answered_with(answer: &impl Reply) -> InnerCall {
        let (source, mut sink, call) = InnerCall::open();
        let mut frame = BytesMut::new();
        answer.write_framed(&mut frame);
        let frame = frame.freeze();
        tokio::task::spawn_local(async move {
            let mut requests = MessageReader::new(source, Accept { max_bytes: usize::MAX, gzip: false });
            while let Some(Ok(_)) = requests.next().await {
                let room = poll_fn(|cx| sink.poll_room(cx)).await;
                if room.is_err() || sink.send_data(frame.clone()).is_err() {
                    return;
                }
            }
        });
        call
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_go_both_ways() {
        let (source, mut sink, mut call) = InnerCall::open();
        let mut requests = call.requests().unwrap();
        requests.send(b"ask").await.unwrap();
        requests.close();
        let mut reader = MessageReader::new(source, Accept { max_bytes: 3, gzip: false });
        assert_eq!(reader.next().await.unwrap().unwrap(), "ask");
        assert!(reader.next().await.is_none());
        let heads = Heads::new();
        sink.send_head(&heads).unwrap();
        sink.send_data(Bytes::from_static(b"\0\0\0\0\x02o")).unwrap();
        sink.send_data(Bytes::from_static(b"k")).unwrap();
        sink.finish(&heads, Ok(()));
        assert_eq!(call.next().await.unwrap(), "ok");
        assert_eq!(call.next().await, None);
        assert_eq!(call.outcome(), Ok(()));
    }

    #[tokio::test]
    async fn a_full_queue_waits_for_its_reader() {
        let (_source, mut sink, mut call) = InnerCall::open();
        let mut message = vec![0; QUEUE_BYTES];
        message[1..5].copy_from_slice(&(QUEUE_BYTES as u32 - 5).to_be_bytes());
        sink.send_data(message.into()).unwrap();
        let full = poll_fn(|cx| Poll::Ready(sink.poll_room(cx).is_pending())).await;
        assert!(full);
        assert_eq!(call.next().await.unwrap().len(), QUEUE_BYTES - 5);
        assert_eq!(poll_fn(|cx| sink.poll_room(cx)).await, Ok(QUEUE_BYTES));
    }

    #[tokio::test]
    async fn who_leaves_is_heard_of() {
        let (source, mut sink, call) = InnerCall::open();
        drop(call);
        poll_fn(|cx| sink.poll_gone(cx)).await;
        assert!(sink.send_data(Bytes::new()).is_err());
        let mut reader = MessageReader::new(source, Accept { max_bytes: 3, gzip: false });
        assert!(reader.next().await.unwrap().is_err(), "taken back, not ended");
        let (_source, sink, mut call) = InnerCall::open();
        drop(sink);
        assert_eq!(call.next().await, None);
        assert_eq!(call.outcome(), Err(Status::canceled()));
    }
}
