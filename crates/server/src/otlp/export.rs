//! Sends spans to a collector: OTLP over gRPC, in plain text.
//!
//! A thread of its own with a runtime of its own. Spans wait in a queue of 2,048 and leave in batches of
//! 512, or after five seconds; when the queue is full they are lost and counted: no request ever waits for
//! a collector. A batch that the collector does not take is offered again for half a minute.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http2::client::{Requests, connect};
use http2::{Field, Head};
use parking_lot::Mutex;
use prost::Message;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::message::{ExportRequest, Resource, ResourceSpans, Scope, ScopeSpans, SpanData};
use crate::log;

/// Spans that wait to be sent.
pub(super) const QUEUE: usize = 2048;
const BATCH: usize = 512;
const BATCH_WAIT: Duration = Duration::from_secs(5);
/// How long a batch is offered.
const PATIENCE: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// How long the last spans may take when the member stops.
const LAST_PATIENCE: Duration = Duration::from_secs(3);
const PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// A span, and which of the two parts made it.
#[derive(Debug)]
pub(super) struct Finished {
    pub is_call: bool,
    pub data: SpanData,
}

/// Where and as whom to send.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// Host and port.
    pub address: String,
    /// Who sends.
    pub resource: Resource,
}

/// The thread that sends.
#[derive(Debug)]
pub(super) struct Exporter {
    queue: mpsc::Sender<Finished>,
    lost: Arc<AtomicU64>,
    /// Until it is stopped: says so by being dropped.
    running: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
}

impl Exporter {
    pub fn start(target: Target) -> std::io::Result<Self> {
        let (queue, spans) = mpsc::channel(QUEUE);
        let (running, stopping) = oneshot::channel();
        let lost = Arc::<AtomicU64>::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let counter = lost.clone();
        let thread = std::thread::Builder::new().name("otlp".to_owned()).spawn(move || {
            let sending = Sending {
                spans,
                stop: Stop { stopping, deadline: None },
                lost: counter,
                link: Link { target, connection: None },
            };
            LocalSet::new().block_on(&runtime, sending.run());
            // A name that is being looked up is not waited for.
            runtime.shutdown_background();
        })?;
        Ok(Self { queue, lost, running: Mutex::new(Some((running, thread))) })
    }

    /// Hands a span over; loses it when too many wait.
    pub fn send(&self, span: Finished) {
        if self.queue.try_send(span).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sends what waits, within [`LAST_PATIENCE`] all in all, and ends.
    pub fn stop(&self) {
        if let Some((running, thread)) = self.running.lock().take() {
            drop(running);
            // A panic was reported by the thread itself.
            let _ = thread.join();
        }
    }
}

struct Sending {
    spans: mpsc::Receiver<Finished>,
    stop: Stop,
    lost: Arc<AtomicU64>,
    link: Link,
}

/// The end of the member, as this thread hears of it.
struct Stop {
    stopping: oneshot::Receiver<()>,
    /// When everything has to be over; set when the end has begun.
    deadline: Option<Instant>,
}

impl Stop {
    fn has_begun(&self) -> bool {
        self.deadline.is_some()
    }

    /// Returns when the end has begun, with the time when it is over.
    async fn begun(&mut self) -> Instant {
        match self.deadline {
            Some(deadline) => deadline,
            None => {
                let _ = (&mut self.stopping).await;
                *self.deadline.insert(Instant::now() + LAST_PATIENCE)
            }
        }
    }

    async fn over(&mut self) {
        sleep_until(self.begun().await).await;
    }
}

/// The connection to the collector, if there is one.
struct Link {
    target: Target,
    connection: Option<Requests>,
}

/// Why a batch did not get through, and whether it may later.
struct Refused {
    reason: String,
    is_final: bool,
}

impl Refused {
    fn transport(reason: impl ToString) -> Self {
        Self { reason: reason.to_string(), is_final: false }
    }
}

impl Sending {
    async fn run(mut self) {
        while let Some(batch) = self.gather().await {
            let count = batch.len() as u64;
            if let Err(reason) = self.deliver(batch).await {
                log::warn!("failed to export traces", "address" => &self.link.target.address, "spans" => count, "error" => reason);
            }
            match self.lost.swap(0, Ordering::Relaxed) {
                0 => {}
                lost => log::warn!("too many traces to export; some are lost", "spans" => lost),
            }
        }
    }

    /// The next batch; `None` when there are no more.
    async fn gather(&mut self) -> Option<Vec<Finished>> {
        let mut batch = vec![self.next(None).await?];
        let end = Instant::now() + BATCH_WAIT;
        while batch.len() < BATCH {
            match self.next(Some(end)).await {
                Some(span) => batch.push(span),
                None => break,
            }
        }
        Some(batch)
    }

    /// The next span; `None` if there is none until `end`, or when the member stops.
    async fn next(&mut self, end: Option<Instant>) -> Option<Finished> {
        if !self.stop.has_begun() {
            let late = async {
                match end {
                    Some(end) => sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                span = self.spans.recv() => return span,
                _ = self.stop.begun() => {}
                () = late => return None,
            }
        }
        self.spans.try_recv().ok()
    }

    async fn deliver(&mut self, batch: Vec<Finished>) -> Result<(), String> {
        let message = frame(&self.link.target.resource, batch);
        let begun = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let is_last = self.stop.has_begun();
            let offered = tokio::select! {
                biased;
                offered = timeout(PATIENCE, self.link.offer(message.clone())) => offered.ok(),
                () = self.stop.over() => None,
            };
            let refused = match offered {
                Some(Ok(())) => return Ok(()),
                Some(Err(refused)) => refused,
                None => Refused::transport("the collector does not answer"),
            };
            if !refused.is_final {
                self.link.connection = None;
            }
            if refused.is_final || is_last || begun.elapsed() + pause > PATIENCE {
                return Err(refused.reason);
            }
            tokio::select! {
                () = sleep(pause) => {}
                _ = self.stop.begun() => {}
            }
            pause *= 2;
        }
    }
}

impl Link {
    async fn offer(&mut self, message: Bytes) -> Result<(), Refused> {
        let requests = match &self.connection {
            Some(requests) => requests.clone(),
            None => {
                let socket = TcpStream::connect(&self.target.address).await.map_err(Refused::transport)?;
                socket.set_nodelay(true).map_err(Refused::transport)?;
                let (requests, connection) = connect(socket, http2::Config::default());
                tokio::task::spawn_local(connection);
                self.connection.insert(requests).clone()
            }
        };
        let head = Head::request("POST", "http", &self.target.address, PATH)
            .with(Field::new("content-type", "application/grpc"))
            .with(Field::new("te", "trailers"))
            .with(Field::new("user-agent", concat!("retcd/", env!("CARGO_PKG_VERSION"))));
        let broken = |_| Refused::transport("the connection to the collector broke");
        let (mut body, mut sender) = requests.open(&Rc::new(head), false).await.map_err(broken)?;
        sender.send_data(message, true).map_err(broken)?;
        let head = body.head().await.map_err(broken)?;
        while let Some(data) = body.data().await {
            data.map_err(broken)?;
        }
        let trailers = body.take_trailers();
        let field = |name: &str| {
            let trailer = trailers.as_ref().and_then(|trailers| trailers.get(name));
            let text = trailer.or_else(|| head.get(name)).unwrap_or_default();
            String::from_utf8_lossy(text).into_owned()
        };
        match (head.status(), field("grpc-status").as_str()) {
            (200, "0") => Ok(()),
            // Cancelled, deadline, aborted, out of range, unavailable, data loss. What is exhausted (8)
            // stays so for a batch that is too large.
            (200, code) => Err(Refused {
                reason: format!("the collector answers with code {code}: {}", field("grpc-message")),
                is_final: !matches!(code, "1" | "4" | "10" | "11" | "14" | "15"),
            }),
            (status, _) => {
                Err(Refused { reason: format!("the collector answers with HTTP {status}"), is_final: true })
            }
        }
    }
}

/// The gRPC message of a batch.
fn frame(resource: &Resource, batch: Vec<Finished>) -> Bytes {
    let (calls, parts): (Vec<Finished>, Vec<Finished>) = batch.into_iter().partition(|span| span.is_call);
    let scope = |name: &str, version: &str, spans: Vec<Finished>| ScopeSpans {
        scope: Some(Scope { name: name.to_owned(), version: version.to_owned() }),
        spans: spans.into_iter().map(|span| span.data).collect(),
    };
    // The names that etcd's spans have: who looks for them by name goes on finding them.
    let scope_spans = [
        scope("go.etcd.io/etcd", "", parts),
        scope("go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc", "0.68.0", calls),
    ];
    let request = ExportRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource.clone()),
            scope_spans: scope_spans.into_iter().filter(|scope| !scope.spans.is_empty()).collect(),
        }],
    };
    let length = request.encoded_len();
    let mut message = BytesMut::with_capacity(5 + length);
    message.put_u8(0);
    message.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    request.encode_raw(&mut message);
    message.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A collector that takes connections and says nothing: before, each batch had its own time at the
    /// end, and the one under way its whole half minute.
    #[tokio::test(start_paused = true)]
    async fn a_silent_collector_holds_up_a_stop_once() {
        let collector = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = collector.local_addr().unwrap().to_string();
        let (queue, spans) = mpsc::channel(QUEUE);
        for _ in 0..QUEUE {
            queue.try_send(Finished { is_call: true, data: SpanData::default() }).unwrap();
        }
        let (running, stopping) = oneshot::channel();
        let sending = Sending {
            spans,
            stop: Stop { stopping, deadline: None },
            lost: Arc::default(),
            link: Link { target: Target { address, resource: Resource::default() }, connection: None },
        };
        let local = LocalSet::new();
        let ended = local.spawn_local(sending.run());
        let before_stop = Duration::from_secs(1);
        let begun = Instant::now();
        local
            .run_until(async {
                sleep(before_stop).await;
                drop(running);
                ended.await.unwrap();
            })
            .await;
        let took = begun.elapsed() - before_stop;
        assert!(took <= LAST_PATIENCE + Duration::from_millis(100), "{took:?}");
    }
}
