//! A server that answers Put, Range and Txn without doing anything: the ceiling of bare RPC.
//!
//! One single-threaded runtime per core, connections dealt out by the kernel (`SO_REUSEPORT`).

use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use proto::etcdserverpb::{PutResponse, RangeResponse, ResponseHeader, ResponseOp, TxnResponse, response_op};
use proto::mvccpb::KeyValue;
use tokio::net::TcpListener;
use tokio::task::LocalSet;

use crate::load::ops::filler;
use crate::wire::frame;

/// Answers that never change.
struct Answers {
    put: Bytes,
    range: Bytes,
    txn: Bytes,
    head: HeaderMap,
    trailers: HeaderMap,
}

impl Answers {
    fn new(value_bytes: usize) -> Self {
        let header =
            Some(ResponseHeader { cluster_id: 1 << 60, member_id: 1 << 61, revision: 123_456, raft_term: 2 });
        let kv = KeyValue {
            key: filler(24),
            create_revision: 100_000,
            mod_revision: 123_456,
            version: 3,
            value: filler(value_bytes),
            lease: 0,
        };
        let put = PutResponse { header, prev_kv: None };
        let range = RangeResponse { header, kvs: vec![kv], more: false, count: 1 };
        let response = Some(response_op::Response::ResponsePut(put.clone()));
        let txn = TxnResponse { header, succeeded: true, responses: vec![ResponseOp { response }] };
        let mut head = HeaderMap::new();
        head.insert("content-type", HeaderValue::from_static("application/grpc"));
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Self { put: frame(&put), range: frame(&range), txn: frame(&txn), head, trailers }
    }
}

/// Serves until the process ends.
pub fn serve(listen: SocketAddr, threads: usize, value_bytes: usize) -> anyhow::Result<()> {
    let workers: Vec<_> = (0..threads.max(1))
        .map(|_| {
            let listener = listener(listen)?;
            Ok(std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                LocalSet::new().block_on(&runtime, accept(listener, value_bytes))
            }))
        })
        .collect::<anyhow::Result<_>>()?;
    for worker in workers {
        worker.join().map_err(|_| anyhow::anyhow!("an echo thread panicked"))??;
    }
    Ok(())
}

fn listener(listen: SocketAddr) -> anyhow::Result<std::net::TcpListener> {
    let kind = socket2::Socket::new(socket2::Domain::for_address(listen), socket2::Type::STREAM, None)?;
    kind.set_reuse_address(true)?;
    kind.set_reuse_port(true)?;
    kind.set_nonblocking(true)?;
    kind.bind(&listen.into()).with_context(|| format!("cannot listen on {listen}"))?;
    kind.listen(1024)?;
    Ok(kind.into())
}

async fn accept(listener: std::net::TcpListener, value_bytes: usize) -> anyhow::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let answers = Rc::new(Answers::new(value_bytes));
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        let answers = answers.clone();
        // A broken connection concerns only its client.
        tokio::task::spawn_local(async move {
            let _ = connection(socket, answers).await;
        });
    }
}

async fn connection(socket: tokio::net::TcpStream, answers: Rc<Answers>) -> Result<(), h2::Error> {
    let mut connection = h2::server::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(16 << 20)
        .max_concurrent_streams(1 << 20)
        .handshake::<_, Bytes>(socket)
        .await?;
    while let Some(request) = connection.accept().await {
        let (request, mut respond) = request?;
        let answers = answers.clone();
        tokio::task::spawn_local(async move {
            let (head, mut body) = request.into_parts();
            while let Some(Ok(chunk)) = body.data().await {
                let _ = body.flow_control().release_capacity(chunk.len());
            }
            let answer = match head.uri.path() {
                "/etcdserverpb.KV/Put" => &answers.put,
                "/etcdserverpb.KV/Range" => &answers.range,
                _ => &answers.txn,
            };
            let mut response = Response::new(());
            *response.headers_mut() = answers.head.clone();
            if let Ok(mut stream) = respond.send_response(response, false) {
                let _ = stream.send_data(answer.clone(), false);
                let _ = stream.send_trailers(answers.trailers.clone());
            }
        });
    }
    Ok(())
}
