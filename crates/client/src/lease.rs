//! Leases: granting is a plain call, keeping one alive is a stream with a rhythm.
//!
//! The keep-alive task sends a request at once and then each third of the TTL that the server
//! granted. It survives broken streams as long as the lease can still be alive: until one TTL
//! after the last answer.
//!
//! **Source**: etcd `client/v3/lease.go`.

use std::time::Duration;

use proto::etcdserverpb as pb;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::client::Client;
use crate::error::{Code, Error};

const PATH: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
const RETRY: Duration = Duration::from_millis(500);
/// Answers that a slow reader has not taken; more are dropped, the lease is renewed all the same.
const QUEUE: usize = 16;

/// A lease that is being renewed, until this is dropped or the lease is gone.
pub struct KeepAlive {
    answers: mpsc::Receiver<pb::LeaseKeepAliveResponse>,
    task: AbortHandle,
}

impl KeepAlive {
    /// The next renewal. `None`: the lease expired, was revoked, or could not be renewed in time.
    pub async fn next(&mut self) -> Option<pb::LeaseKeepAliveResponse> {
        self.answers.recv().await
    }
}

impl Drop for KeepAlive {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Client {
    /// Grants a lease; the server chooses the id.
    pub async fn grant(&self, ttl_seconds: i64) -> Result<pb::LeaseGrantResponse, Error> {
        self.call(pb::LeaseGrantRequest { ttl: ttl_seconds, id: 0 }).await
    }

    /// Revokes a lease and deletes its keys.
    pub async fn revoke(&self, id: i64) -> Result<pb::LeaseRevokeResponse, Error> {
        self.call(pb::LeaseRevokeRequest { id }).await
    }

    /// Renews a lease once.
    pub async fn keep_alive_once(&self, id: i64) -> Result<pb::LeaseKeepAliveResponse, Error> {
        let work = async {
            loop {
                match self.renew_once(id).await {
                    Ok(answer) if answer.ttl <= 0 => {
                        let message = "etcdserver: requested lease not found".to_owned();
                        return Err(Error::Rpc { code: Code::NotFound, message });
                    }
                    Err(error) if !error.is_final() => tokio::time::sleep(RETRY / 20).await,
                    result => return result,
                }
            }
        };
        self.within_deadline(PATH, work).await
    }

    async fn renew_once(&self, id: i64) -> Result<pb::LeaseKeepAliveResponse, Error> {
        let request = tokio_stream::once(pb::LeaseKeepAliveRequest { id });
        let mut stream = self.open_stream(request, PATH, false).await?;
        stream.message().await?.ok_or_else(ended)
    }

    /// Keeps a lease alive in the background.
    pub fn keep_alive(&self, id: i64) -> KeepAlive {
        let (sender, answers) = mpsc::channel(QUEUE);
        let client = self.without_timeout();
        let task = tokio::spawn(async move { renew(&client, id, &sender).await }).abort_handle();
        KeepAlive { answers, task }
    }
}

fn ended() -> Error {
    Error::Rpc { code: Code::Unavailable, message: "error reading from server: EOF".to_owned() }
}

async fn renew(client: &Client, id: i64, answers: &mpsc::Sender<pb::LeaseKeepAliveResponse>) {
    // Nothing is known of the TTL yet, so the first answer may take a dial timeout and a second, or five seconds
    // without one, as in etcd.
    let dial = client.shared.options.dial_timeout;
    let first = if dial.is_zero() { Duration::from_secs(5) } else { dial + Duration::from_secs(1) };
    let mut alive_until = Instant::now() + first;
    loop {
        match renew_on_one_stream(client, id, answers, &mut alive_until).await {
            Err(error) if !error.is_final() => {}
            _ => return,
        }
        let again = Instant::now() + RETRY;
        if again >= alive_until {
            return;
        }
        sleep_until(again).await;
    }
}

/// Returns `Ok` when the lease is gone.
async fn renew_on_one_stream(
    client: &Client,
    id: i64,
    answers: &mpsc::Sender<pb::LeaseKeepAliveResponse>,
    alive_until: &mut Instant,
) -> Result<(), Error> {
    let (requests, queue) = mpsc::unbounded_channel();
    let ask = || requests.send(pb::LeaseKeepAliveRequest { id }).map_err(|_| ended());
    ask()?;
    let opening = client.open_stream(UnboundedReceiverStream::new(queue), PATH, false);
    let mut stream: tonic::Streaming<pb::LeaseKeepAliveResponse> =
        match timeout_at(*alive_until, opening).await {
            Ok(stream) => stream?,
            Err(_) => return Ok(()),
        };
    loop {
        let answer = match timeout_at(*alive_until, stream.message()).await {
            Ok(answer) => answer?.ok_or_else(ended)?,
            Err(_) => return Ok(()),
        };
        if answer.ttl <= 0 {
            return Ok(());
        }
        let ttl = Duration::from_secs(answer.ttl.unsigned_abs());
        let now = Instant::now();
        *alive_until = now + ttl;
        // A full queue means that nobody looks; a closed one ends the task by abort.
        let _ = answers.try_send(answer);
        sleep_until(now + ttl / 3).await;
        ask()?;
    }
}
