//! `--experimental-leasing-prefix`: linearizable reads from memory, for keys that this proxy has claimed.
//!
//! ```text
//! read k ── known? ─▶ answer
//!    └ no ─▶ txn: no key <prefix>k, k has no lease of its own?
//!              then  get k, put <prefix>k "" under the session's lease ─▶ claimed, known
//!              else  get k, get <prefix>k                              ─▶ somebody else's: the answer only
//! write k ─▶ txn: <prefix>k created no later than our claim (0: none)?
//!              then  the write                                         ─▶ known anew, if we have the claim
//!              else  get <prefix>k ─▶ txn: still that claim? put <prefix>k "REVOKE", lease as it is
//!                                     wait until <prefix>k is gone, and again
//! watch <prefix>* ── "REVOKE" under our lease ─▶ forget k, then delete <prefix>k
//! ```
//!
//! The keys below the prefix, their values and their leases are etcd's, so our proxies, etcd's and Go
//! programs with its package `leasing` share a prefix. All who write what is claimed have to: a write that
//! takes another way, straight to a member, by a lock or an election, is seen here too late or never.
//!
//! Invariants (how they are kept: [`claims`], [`requests`]):
//! - A value is shown from memory only while the key of the claim certainly exists under our lease: before
//!   we delete it we forget the value, and the lease is taken to end one TTL after the last successful
//!   renewal *began*, which is no later than the cluster takes it to. Who deletes keys of claims that are not
//!   his, by a deletion of the prefix for example, breaks that, here as in etcd: we learn it by the watch.
//! - While a write of ours is under way, reads of what it may change go to the cluster. Afterwards the value
//!   is known if there was no other one at the same time, else it is read again.
//! - A write whose outcome is unknown ends the claim: carried out late, it finds no claim or a newer one.
//! - A watch that is lost, a lease that is lost, a claim that cannot be given up: each ends the session.
//!   Then everything is forgotten, the lease is revoked, and a new session begins. Without one reads and
//!   writes go on, past memory.
//!
//! Callers with a token are never answered from memory and claim nothing: whether they may read is for the
//! cluster to say. They need permission for the keys below the prefix to write, as in etcd. When the cluster
//! turns away callers without a token the session ends.
//!
//! **Source**: etcd `client/v3/leasing` (the protocol; where we differ: `COMPAT.md`, K95).

mod claims;
mod requests;
mod session;
#[cfg(test)]
mod tests;
mod values;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use client::{Client, Code, Error};
use futures_util::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::response_op::Response;
use proto::etcdserverpb::watch_create_request::FilterType;
use proto::mvccpb::KeyValue;
use proto::mvccpb::event::EventType;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::cache::Span;
use super::upstream::{Upstream, is_refusal};
use claims::{Acquired, Claims, Ended, Leaving, Read, Ticket, Written};
use requests::{REVOKE, Writes};

/// The TTL of etcd's sessions.
const TTL: Duration = Duration::from_secs(60);
/// Claims of others that are asked for at the same time.
const REVOKES_AT_ONCE: usize = 16;

/// What the session is told.
#[derive(Debug)]
enum Command {
    /// Give up a claim.
    GiveUp(Leaving),
    /// The session with this lease is no good any more.
    End(i64),
}

/// The KV service in front of claims.
pub(crate) struct Leasing {
    upstream: Arc<Upstream>,
    prefix: Bytes,
    claims: Mutex<Claims>,
    commands: mpsc::UnboundedSender<Command>,
}

impl Leasing {
    /// Begins, on the runtime of a worker: the session lives there.
    pub(crate) fn start(upstream: Arc<Upstream>, prefix: &str) -> Arc<Self> {
        Self::with_ttl(upstream, prefix, TTL).0
    }

    /// Gives the session's task as well.
    fn with_ttl(upstream: Arc<Upstream>, prefix: &str, ttl: Duration) -> (Arc<Self>, AbortHandle) {
        let prefix = Bytes::copy_from_slice(prefix.as_bytes());
        let (commands, queue) = mpsc::unbounded_channel();
        let claims = Mutex::new(Claims::new(&prefix));
        let leasing = Arc::new(Self { upstream, prefix, claims, commands });
        let session = tokio::spawn(session::run(leasing.clone(), queue, ttl));
        (leasing, session.abort_handle())
    }

    /// Forgets everything: the cluster may not want it to be shown any more.
    pub(crate) fn forget(&self) {
        let lease = self.claims.lock().lease();
        self.end_session(lease);
    }

    /// `KV.Range`. Only what `anybody` asks for is answered from memory.
    pub(crate) async fn range(
        &self,
        client: &Client,
        anybody: bool,
        request: pb::RangeRequest,
    ) -> Result<pb::RangeResponse, Error> {
        if anybody {
            let found = self.claims.lock().read(&request, Instant::now());
            match found {
                Read::Here(answer) => return Ok(answer),
                Read::Claim(ticket) => {
                    if let Some(answer) = self.acquire(client, &request, ticket).await? {
                        return Ok(answer);
                    }
                }
                Read::Pass => {}
            }
        }
        self.upstream.range(client, request).await
    }

    /// Asks for a claim and reads what it is for. `None`: that did not work, which has nothing to do with
    /// the read.
    async fn acquire(
        &self,
        client: &Client,
        request: &pb::RangeRequest,
        ticket: Ticket,
    ) -> Result<Option<pb::RangeResponse>, Error> {
        let mut acquiring = Acquiring { leasing: self, ticket, outcome: Acquired::Unknown };
        let (key, lease) = (acquiring.ticket.key.clone(), acquiring.ticket.lease);
        let txn = requests::acquire(&self.prefix, &key, lease);
        let response = match self.upstream.txn(client, txn).await {
            Ok(response) => response,
            Err(error @ (Error::DeadlineExceeded | Error::Canceled)) => return Err(error),
            Err(error) => {
                if error.is_server("requested lease not found") {
                    self.end_session(lease);
                }
                acquiring.outcome = Acquired::Failed;
                return Ok(None);
            }
        };
        let header = response.header.unwrap_or_default();
        let was_free = response.succeeded;
        let mut ranges = response.responses.into_iter().map(|response| match response.response {
            Some(Response::ResponseRange(range)) => range.kvs.into_iter().next(),
            _ => None,
        });
        let (known, claim) = (ranges.next().flatten(), ranges.next().flatten());
        let created = match claim {
            _ if was_free => Some(header.revision),
            Some(claim) if claim.lease == lease && claim.value != REVOKE => Some(claim.create_revision),
            _ => None,
        };
        let answer = values::answer(&known, request, header);
        acquiring.outcome = match created {
            Some(created) => Acquired::Claimed(created, known, Some(header)),
            None => Acquired::Taken(header.revision),
        };
        Ok(Some(answer))
    }

    /// `KV.Put`.
    pub(crate) async fn put(
        &self,
        client: &Client,
        request: pb::PutRequest,
    ) -> Result<pb::PutResponse, Error> {
        self.upstream.refuse_empty(&request.key)?;
        match self.write(client, Request::RequestPut(request)).await? {
            (header, Some(Response::ResponsePut(put))) => Ok(pb::PutResponse { header, ..put }),
            _ => Err(unreadable()),
        }
    }

    /// `KV.DeleteRange`.
    pub(crate) async fn delete_range(
        &self,
        client: &Client,
        request: pb::DeleteRangeRequest,
    ) -> Result<pb::DeleteRangeResponse, Error> {
        self.upstream.refuse_empty(&request.key)?;
        match self.write(client, Request::RequestDeleteRange(request)).await? {
            (header, Some(Response::ResponseDeleteRange(delete))) => {
                Ok(pb::DeleteRangeResponse { header, ..delete })
            }
            _ => Err(unreadable()),
        }
    }

    /// `KV.Txn`.
    pub(crate) async fn txn(
        &self,
        client: &Client,
        anybody: bool,
        request: pb::TxnRequest,
    ) -> Result<pb::TxnResponse, Error> {
        if anybody && let Some(answer) = self.claims.lock().evaluate(&request, Instant::now()) {
            return Ok(answer);
        }
        let operation = Request::RequestTxn(request);
        if Writes::of(&operation).is_empty() {
            let Request::RequestTxn(request) = operation else { return Err(unreadable()) };
            return self.upstream.txn(client, request).await;
        }
        match self.write(client, operation).await? {
            (header, Some(Response::ResponseTxn(txn))) => Ok(pb::TxnResponse { header, ..txn }),
            _ => Err(unreadable()),
        }
    }

    /// Carries out a write as soon as no claims are in its way but ours.
    async fn write(
        &self,
        client: &Client,
        operation: Request,
    ) -> Result<(Option<pb::ResponseHeader>, Option<Response>), Error> {
        let writes = Writes::of(&operation);
        loop {
            // From here on no read of ours claims what lies in the ranges.
            let mut writing = self.begin(&writes);
            let ranges = match self.clear_all(client, &writes.ranges).await {
                Ok(ranges) => ranges,
                Err(error) => {
                    writing.end(Ended::Refused);
                    return Err(error);
                }
            };
            let txn = requests::guarded(&self.prefix, operation.clone(), writing.claims(), &ranges);
            writing.is_sent = true;
            let mut response = match self.upstream.txn(client, txn).await {
                Ok(response) => response,
                Err(error) => {
                    writing.end(if is_refusal(&error) { Ended::Refused } else { Ended::Unknown });
                    return Err(error);
                }
            };
            if response.succeeded {
                let answer = response.responses.pop().and_then(|response| response.response);
                let effects = requests::effects(operation, answer.as_ref());
                writing.end(Ended::Applied(response.header, effects));
                return Ok((response.header, answer));
            }
            writing.end(Ended::Refused);
            self.revoke_all(client, requests::found(response).collect()).await?;
        }
    }

    async fn clear_all(&self, client: &Client, spans: &[Span]) -> Result<Vec<(Span, i64)>, Error> {
        let mut cleared = Vec::new();
        for span in spans {
            cleared.push((span.clone(), self.clear(client, span).await?));
        }
        Ok(cleared)
    }

    /// Has all claims on a range given up, but those that are ours and known to be: should the outcome of the write
    /// stay unknown, only these can be ended. Gives the revision of the newest claim there was.
    async fn clear(&self, client: &Client, span: &Span) -> Result<i64, Error> {
        let claims = requests::lease_range(&self.prefix, span);
        let found = self.upstream.range(client, claims).await?.kvs;
        let newest = found.iter().map(|claim| claim.create_revision).max().unwrap_or(0);
        self.revoke_all(client, found).await?;
        Ok(newest)
    }

    /// Has the owners of these claims give them up, unless they are ours and known to be.
    async fn revoke_all(&self, client: &Client, claims: Vec<KeyValue>) -> Result<(), Error> {
        let lease = self.claims.lock().lease();
        let is_in_the_way = |claim: &KeyValue| {
            let key = &claim.key[self.prefix.len().min(claim.key.len())..];
            claim.lease != lease || self.claims.lock().claim(key) != claim.create_revision
        };
        let in_the_way: Vec<KeyValue> = claims.into_iter().filter(is_in_the_way).collect();
        let revokes = stream::iter(in_the_way).map(|claim| self.revoke(client, claim)).map(Ok::<_, Error>);
        revokes.try_buffer_unordered(REVOKES_AT_ONCE).try_collect().await
    }

    /// Asks for a claim and waits until it is given up.
    async fn revoke(&self, client: &Client, claim: KeyValue) -> Result<(), Error> {
        let txn = requests::revoke(&claim.key, claim.create_revision);
        let response = self.upstream.txn(client, txn).await?;
        if !response.succeeded {
            return Ok(());
        }
        let mut request = pb::WatchCreateRequest {
            key: claim.key,
            start_revision: response.header.unwrap_or_default().revision + 1,
            filters: vec![FilterType::Noput.into()],
            ..Default::default()
        };
        self.upstream.namespace.enter(&mut request.key, &mut request.range_end);
        let mut watch = client.watch(request);
        while let Some(answer) = watch.next().await {
            let answer = answer?;
            let is_gone = answer.events.iter().any(|event| event.r#type() == EventType::Delete);
            // What a compaction has taken away is looked at again.
            if is_gone || client::cancel_error(&answer).is_some() {
                break;
            }
        }
        Ok(())
    }

    fn begin(&self, writes: &Writes) -> Writing<'_> {
        Writing { leasing: self, written: Some(self.claims.lock().begin(writes)), is_sent: false }
    }

    fn give_up(&self, leaving: Vec<Leaving>) {
        for leaving in leaving {
            // Without its session nothing is left to give up.
            let _ = self.commands.send(Command::GiveUp(leaving));
        }
    }

    fn end_session(&self, lease: i64) {
        let mut claims = self.claims.lock();
        if lease != 0 && claims.lease() == lease {
            claims.close();
            let _ = self.commands.send(Command::End(lease));
        }
    }
}

/// A read that asks for a claim; however it ends, that is noted.
struct Acquiring<'a> {
    leasing: &'a Leasing,
    ticket: Ticket,
    outcome: Acquired,
}

impl Drop for Acquiring<'_> {
    fn drop(&mut self) {
        let outcome = std::mem::replace(&mut self.outcome, Acquired::Unknown);
        let leaving = self.leasing.claims.lock().acquired(&self.ticket, outcome, Instant::now());
        self.leasing.give_up(leaving);
    }
}

/// A write under way; dropped when it is sent, its outcome is unknown.
struct Writing<'a> {
    leasing: &'a Leasing,
    written: Option<Written>,
    is_sent: bool,
}

impl Writing<'_> {
    fn claims(&self) -> impl Iterator<Item = (&Bytes, i64)> {
        self.written.iter().flat_map(Written::claims)
    }

    fn end(mut self, ended: Ended) {
        self.finish(ended);
    }

    fn finish(&mut self, ended: Ended) {
        if let Some(written) = self.written.take() {
            let leaving = self.leasing.claims.lock().end(written, ended);
            self.leasing.give_up(leaving);
        }
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.finish(if self.is_sent { Ended::Unknown } else { Ended::Refused });
    }
}

/// An answer that does not fit its request.
fn unreadable() -> Error {
    Error::Rpc { code: Code::Internal, message: "the answer of the cluster does not fit".to_owned() }
}
