//! The Lease service. Renewals of all callers go over one stream to the cluster; those of one lease
//! that come while one is under way share its answer.
//!
//! In etcd's proxy a lease is renewed by the proxy itself, for up to a TTL after its owner has stopped
//! asking; here only who asks renews.
//!
//! **Source**: etcd `server/proxy/grpcproxy/lease.go`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::grpc::{CallContext, Reply, Requests, Responses, Status};
use client::{Client, Streaming};
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use parking_lot::Mutex;
use proto::etcdserverpb as pb;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::Proxy;
use super::payloads::Payloads;
use super::upstream::broken;

const PATH: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
/// Pause before a broken stream is opened again.
const RETRY: Duration = Duration::from_millis(100);
/// A stream that nobody used for so long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// Renewals of one caller that are under way at once.
const UNDER_WAY: usize = 1024;

/// `Lease.LeaseTimeToLive`: of the keys only those in the namespace.
pub(crate) async fn time_to_live(
    proxy: &Proxy,
    context: &CallContext,
    request: pb::LeaseTimeToLiveRequest,
) -> Result<pb::LeaseTimeToLiveResponse, Status> {
    let mut response = proxy.upstream.call(context, request).await?;
    proxy.upstream.namespace.leave_lease(&mut response.keys);
    Ok(response)
}

/// `Lease.LeaseKeepAlive`.
pub(crate) async fn keep_alive(
    proxy: &Proxy,
    context: &CallContext,
    requests: Requests<pb::LeaseKeepAliveRequest>,
    responses: &mut Responses,
) -> Result<(), Status> {
    tokio::select! {
        ended = renew_all(proxy, context, requests, responses) => ended,
        lost = proxy.leader.lost_for(context) => Err(lost),
    }
}

async fn renew_all(
    proxy: &Proxy,
    context: &CallContext,
    mut requests: Requests<pb::LeaseKeepAliveRequest>,
    responses: &mut Responses,
) -> Result<(), Status> {
    let payloads = Payloads::of(context, proxy.has_payload_log);
    let mut waiting = FuturesOrdered::new();
    let mut open = true;
    while open || !waiting.is_empty() {
        tokio::select! {
            request = requests.next(), if open && waiting.len() < UNDER_WAY => match request {
                Some(request) => {
                    let request = request.inspect_err(|status| payloads.receives_no_more(Some(status)))?;
                    payloads.received(&request);
                    waiting.push_back(proxy.renewals.renew(context.token(), request.id));
                }
                None => {
                    payloads.receives_no_more(None);
                    open = false;
                }
            },
            Some(answer) = waiting.next(), if !waiting.is_empty() => {
                // The task that renews answers everybody before it ends.
                let answer = answer.unwrap_or_else(|_| Err(Status::canceled()));
                let frame = answer?.into_frame();
                let sent = responses.send_frames(frame.clone(), 1).await;
                payloads.sent(&frame, &sent);
                sent?;
            }
        }
    }
    Ok(())
}

type Answer = Result<pb::LeaseKeepAliveResponse, Status>;
type Renewal = (i64, oneshot::Sender<Answer>);

/// The streams on which leases are renewed, one for each token.
pub(crate) struct Renewals {
    client: Client,
    runtime: tokio::runtime::Handle,
    streams: Mutex<HashMap<Option<Arc<str>>, UnboundedSender<Renewal>>>,
}

impl Renewals {
    /// To be made on the thread whose client this is; the streams will live there.
    pub(crate) fn new(client: Client) -> Self {
        Self { client, runtime: tokio::runtime::Handle::current(), streams: Mutex::default() }
    }

    fn renew(&self, token: Option<&str>, id: i64) -> oneshot::Receiver<Answer> {
        let (reply, answer) = oneshot::channel();
        let token: Option<Arc<str>> = token.map(Into::into);
        let mut streams = self.streams.lock();
        let unsent = match streams.get(&token) {
            Some(stream) => stream.send((id, reply)).err().map(|unsent| unsent.0),
            None => Some((id, reply)),
        };
        if let Some(renewal) = unsent {
            streams.retain(|_, stream| !stream.is_closed());
            let client = match &token {
                Some(token) => self.client.with_token(token),
                None => self.client.clone(),
            };
            // Unbounded: each caller has a bounded number of renewals under way.
            let (sender, queue) = mpsc::unbounded_channel();
            // Its receiver is the queue in the line below.
            let _ = sender.send(renewal);
            self.runtime.spawn(Renewing { client, queue, waiting: HashMap::new() }.run());
            streams.insert(token, sender);
        }
        answer
    }
}

/// One stream to the cluster, opened again while somebody waits.
struct Renewing {
    client: Client,
    queue: UnboundedReceiver<Renewal>,
    waiting: HashMap<i64, Vec<oneshot::Sender<Answer>>>,
}

impl Renewing {
    async fn run(mut self) {
        loop {
            match timeout(IDLE, self.queue.recv()).await {
                Ok(Some(renewal)) => self.serve(renewal).await,
                Ok(None) => return,
                // Nobody asks. Who asks from now on finds the queue closed; who came before that is in it.
                Err(_) => self.queue.close(),
            }
        }
    }

    /// Renews as long as somebody waits.
    async fn serve(&mut self, renewal: Renewal) {
        self.enqueue(renewal);
        while !self.waiting.is_empty() {
            let Err(error) = self.stream().await else { return };
            if !matches!(error.code(), Some(client::Code::Unavailable)) {
                let status = broken(error);
                let waiting = self.waiting.drain().flat_map(|(_, waiting)| waiting);
                // Who has gone needs no answer.
                waiting.for_each(|reply| drop(reply.send(Err(status.clone()))));
                return;
            }
            self.waiting.values_mut().for_each(|waiting| waiting.retain(|reply| !reply.is_closed()));
            self.waiting.retain(|_, waiting| !waiting.is_empty());
            sleep(RETRY).await;
        }
    }

    /// Notes who waits; true if the lease has to be asked for.
    fn enqueue(&mut self, (id, reply): Renewal) -> bool {
        let waiting = self.waiting.entry(id).or_default();
        waiting.push(reply);
        waiting.len() == 1
    }

    /// Renews on one stream until it breaks, or until nobody waits and nobody has asked for long, or can
    /// any more.
    async fn stream(&mut self) -> Result<(), client::Error> {
        let (sender, requests) = mpsc::unbounded_channel();
        // A closed stream shows on its receiving side.
        let ask = |id| {
            let _ = sender.send(pb::LeaseKeepAliveRequest { id });
        };
        self.waiting.keys().for_each(|id| ask(*id));
        let requests = UnboundedReceiverStream::new(requests);
        let mut stream: Streaming<pb::LeaseKeepAliveResponse> =
            self.client.open_stream(requests, PATH, false).await?;
        let mut open = true;
        while open || !self.waiting.is_empty() {
            tokio::select! {
                answer = stream.message() => match answer? {
                    Some(answer) => {
                        let waiting = self.waiting.remove(&answer.id).unwrap_or_default();
                        // Who has gone needs no answer.
                        waiting.into_iter().for_each(|reply| drop(reply.send(Ok(answer))));
                    }
                    None => {
                        let message = "error reading from server: EOF".to_owned();
                        return Err(client::Error::Rpc { code: client::Code::Unavailable, message });
                    }
                },
                renewal = self.queue.recv(), if open => match renewal {
                    Some(renewal) => {
                        let id = renewal.0;
                        if self.enqueue(renewal) {
                            ask(id);
                        }
                    }
                    None => open = false,
                },
                () = sleep(IDLE), if self.waiting.is_empty() => return Ok(()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::fake::{Fake, PATIENCE};

    /// The queue was dropped with what had come since it was last looked at: `Canceled` for its callers.
    #[tokio::test]
    async fn a_renewal_at_the_edge_of_an_idle_minute_is_carried_out() {
        let cluster = Fake::start();
        let (sender, mut queue) = mpsc::unbounded_channel();
        let answers: Vec<_> = [7, 8, 7]
            .map(|id| {
                let (reply, answer) = oneshot::channel();
                assert!(sender.send((id, reply)).is_ok());
                answer
            })
            .into();
        queue.close();
        let renewing = Renewing { client: cluster.client().await, queue, waiting: HashMap::new() };
        timeout(PATIENCE, renewing.run()).await.expect("it ends when all are served");
        for (answer, id) in answers.into_iter().zip([7, 8, 7]) {
            assert_eq!(answer.await.expect("an answer").expect("a renewal").id, id);
        }
    }
}
