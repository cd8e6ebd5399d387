//! The way up: connections to the cluster, on whose behalf a call is made, and the namespace.
//!
//! Each worker thread has a client of its own, so that an answer is read on the thread that waits for
//! it. The caller's token and deadline go with every call; whatever else he sent stays here.

use std::cell::Cell;
use std::sync::atomic::{AtomicI64, Ordering};

use api::grpc::{CallContext, Code, Status};
use bytes::Bytes;
use client::{Client, Rpc};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request;

use super::namespace::Namespace;

thread_local! {
    /// The number of this thread among the workers.
    static WORKER: Cell<usize> = const { Cell::new(0) };
}

/// Tells a worker thread its number.
pub(crate) fn this_is_worker(number: usize) {
    WORKER.set(number);
}

/// The header of an answer.
type HeaderOf<R> = fn(&<R as Rpc>::Response) -> Option<&pb::ResponseHeader>;

/// How often an answer from a member that is behind is asked for again, per endpoint.
const ORDERING_ROUNDS: usize = 5;

/// The cluster, seen from a worker.
pub(crate) struct Upstream {
    clients: Vec<Client>,
    pub(crate) namespace: Namespace,
    /// `--experimental-serializable-ordering`: the newest revision that anybody was shown.
    newest_revision: Option<AtomicI64>,
}

impl Upstream {
    /// `clients` has one for each worker.
    pub(crate) fn new(clients: Vec<Client>, namespace: &str, ordering: bool) -> Self {
        let newest_revision = ordering.then(AtomicI64::default);
        Self { clients, namespace: Namespace::new(namespace), newest_revision }
    }

    /// The client of this thread, nobody's in particular.
    pub(crate) fn client(&self) -> &Client {
        &self.clients[WORKER.get()]
    }

    /// The client of this thread, on behalf of a caller.
    pub(crate) fn client_for(&self, context: &CallContext) -> Client {
        let client = self.client().with_deadline(context.deadline);
        match context.token() {
            Some(token) => client.with_token(token),
            None => client,
        }
    }

    /// Passes a request on as it is.
    pub(crate) async fn call<R: Rpc>(
        &self,
        context: &CallContext,
        request: R,
    ) -> Result<R::Response, Status> {
        self.client_for(context).call(request).await.map_err(|error| status_of(&error))
    }

    /// A range in the namespace.
    pub(crate) async fn range(
        &self,
        client: &Client,
        mut request: pb::RangeRequest,
    ) -> Result<pb::RangeResponse, client::Error> {
        self.refuse_empty(&request.key)?;
        self.namespace.enter_range(&mut request);
        let mut response = self.in_order(client, request, |response| response.header.as_ref()).await?;
        self.namespace.leave_kvs(&mut response.kvs);
        Ok(response)
    }

    /// A put in the namespace.
    pub(crate) async fn put(
        &self,
        client: &Client,
        mut request: pb::PutRequest,
    ) -> Result<pb::PutResponse, client::Error> {
        self.refuse_empty(&request.key)?;
        self.namespace.enter_put(&mut request);
        let mut response = client.call(request).await?;
        self.shown(response.header.as_ref());
        self.namespace.leave_kvs(response.prev_kv.as_mut_slice());
        Ok(response)
    }

    /// A deletion in the namespace.
    pub(crate) async fn delete_range(
        &self,
        client: &Client,
        mut request: pb::DeleteRangeRequest,
    ) -> Result<pb::DeleteRangeResponse, client::Error> {
        self.refuse_empty(&request.key)?;
        self.namespace.enter_delete(&mut request);
        let mut response = client.call(request).await?;
        self.shown(response.header.as_ref());
        self.namespace.leave_kvs(&mut response.prev_kvs);
        Ok(response)
    }

    /// A transaction in the namespace.
    pub(crate) async fn txn(
        &self,
        client: &Client,
        mut request: pb::TxnRequest,
    ) -> Result<pb::TxnResponse, client::Error> {
        self.namespace.enter_txn(&mut request);
        let mut response = if only_reads(&request) {
            self.in_order(client, request, |response| response.header.as_ref()).await?
        } else {
            let response = client.call(request).await?;
            self.shown(response.header.as_ref());
            response
        };
        self.namespace.leave_txn(&mut response);
        Ok(response)
    }

    /// Notes which revision an answer has shown.
    pub(crate) fn shown(&self, header: Option<&pb::ResponseHeader>) {
        if let (Some(newest), Some(header)) = (&self.newest_revision, header) {
            newest.fetch_max(header.revision, Ordering::Relaxed);
        }
    }

    /// Asks again while the answer is older than one that somebody has seen. For what only reads.
    async fn in_order<R: Rpc>(
        &self,
        client: &Client,
        request: R,
        header: HeaderOf<R>,
    ) -> Result<R::Response, client::Error> {
        let Some(newest) = &self.newest_revision else { return client.call(request).await };
        let seen_before = newest.load(Ordering::Relaxed);
        for _ in 0..=ORDERING_ROUNDS * client.endpoints().len() {
            let response = client.call(request.clone()).await?;
            if header(&response).map_or(0, |header| header.revision) >= seen_before {
                self.shown(header(&response));
                return Ok(response);
            }
        }
        let message =
            "etcdclient: no cluster members have a revision higher than the previously received revision";
        Err(client::Error::Rpc { code: client::Code::Unknown, message: message.to_owned() })
    }

    /// With a namespace no key is empty any more when it arrives, so that has to be said here.
    pub(crate) fn refuse_empty(&self, key: &Bytes) -> Result<(), client::Error> {
        if !key.is_empty() || self.namespace.is_empty() {
            return Ok(());
        }
        let message = "etcdserver: key is not provided".to_owned();
        Err(client::Error::Rpc { code: client::Code::InvalidArgument, message })
    }
}

/// Whether a transaction changes nothing, on either side.
fn only_reads(txn: &pb::TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).all(|operation| match &operation.request {
        Some(Request::RequestPut(_) | Request::RequestDeleteRange(_)) => false,
        Some(Request::RequestTxn(txn)) => only_reads(txn),
        Some(Request::RequestRange(_)) | None => true,
    })
}

/// Whether the cluster has said no: nothing has changed, and asking again would be of no use.
pub(crate) fn is_refusal(error: &client::Error) -> bool {
    use client::Code;
    matches!(
        error.code(),
        Some(
            Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument | Code::FailedPrecondition
        )
    )
}

/// A failure of the client as the caller sees it: the cluster's own code and text where it has any.
pub(crate) fn status_of(error: &client::Error) -> Status {
    match error {
        client::Error::Rpc { code, message } => {
            let code = Code::ALL.get(*code as usize).copied().unwrap_or(Code::Unknown);
            Status::new(code, message.clone())
        }
        client::Error::DeadlineExceeded => Status::deadline_exceeded(),
        client::Error::Canceled => Status::canceled(),
        other => Status::new(Code::Unknown, other.to_string()),
    }
}

/// The status of a broken stream.
pub(crate) fn broken(status: impl Into<client::Error>) -> Status {
    status_of(&status.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::fake::Fake;

    /// A transaction showed a revision, and a read after it an older one.
    #[tokio::test]
    async fn no_answer_shows_an_older_revision_than_one_before() {
        let cluster = Fake::start();
        let upstream = Upstream::new(vec![cluster.client().await], "", true);
        let range = async || {
            let request = pb::RangeRequest { key: "k".into(), serializable: true, ..Default::default() };
            let answer = upstream.range(upstream.client(), request).await.unwrap();
            answer.header.unwrap().revision
        };
        cluster.revisions([5, 4, 5]);
        assert_eq!((range().await, range().await), (5, 5));
        // By a transaction that reads.
        cluster.revisions([3, 9, 8, 9]);
        let answer = upstream.txn(upstream.client(), pb::TxnRequest::default()).await.unwrap();
        assert_eq!((answer.header.unwrap().revision, range().await), (9, 9));
        // By a write.
        cluster.revisions([9, 12]);
        upstream.shown(Some(&pb::ResponseHeader { revision: 12, ..Default::default() }));
        assert_eq!(range().await, 12);
        cluster.revisions([11]);
        let request = pb::RangeRequest { key: "k".into(), ..Default::default() };
        let error = upstream.range(upstream.client(), request).await.unwrap_err().to_string();
        assert!(error.contains("no cluster members have a revision higher"), "{error}");
    }
}
