//! A server that answers Put, Range and Txn without doing anything, on the HTTP/2 that retcd itself
//! uses: the ceiling of bare RPC. It reads whole requests and decodes nothing.
//!
//! One single-threaded runtime per core, connections dealt out by the kernel (`SO_REUSEPORT`).

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::Context;
use bytes::Bytes;
use http2::server::{Connection, Request};
use http2::{Config, Field, Head};
use proto::etcdserverpb::{PutResponse, RangeResponse, ResponseHeader, ResponseOp, TxnResponse, response_op};
use proto::mvccpb::KeyValue;
use tokio::net::TcpListener;

use crate::load::ops::filler;
use crate::wire::{frame, local_runtime};

/// Answers that never change.
struct Answers {
    put: Bytes,
    range: Bytes,
    txn: Bytes,
    head: Rc<Head>,
    trailers: Rc<Head>,
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
        let head = Rc::new(Head::response(200).with(Field::new("content-type", "application/grpc")));
        let trailers = Rc::new(Head::trailers().with(Field::new("grpc-status", "0")));
        Self { put: frame(&put), range: frame(&range), txn: frame(&txn), head, trailers }
    }
}

/// Serves until the process ends.
pub fn serve(listen: SocketAddr, threads: usize, value_bytes: usize) -> anyhow::Result<()> {
    let workers: Vec<_> = (0..threads.max(1))
        .map(|_| {
            let listener = listener(listen)?;
            Ok(std::thread::spawn(move || local_runtime()?.block_on(accept(listener, value_bytes))))
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
        tokio::task::spawn_local(connection(socket, answers));
    }
}

async fn connection(socket: tokio::net::TcpStream, answers: Rc<Answers>) {
    let mut connection = Connection::new(socket, b"", Config::default());
    while let Some(request) = poll_fn(|cx| connection.poll_accept(cx)).await {
        tokio::task::spawn_local(answer(request, answers.clone()));
    }
}

async fn answer(request: Request, answers: Rc<Answers>) {
    let Request { head, mut body, mut respond } = request;
    while let Some(Ok(_)) = body.data().await {}
    let answer = match head.path() {
        "/etcdserverpb.KV/Put" => &answers.put,
        "/etcdserverpb.KV/Range" => &answers.range,
        _ => &answers.txn,
    };
    // A client that has gone misses its answer.
    let _ = respond.send_all(&answers.head, answer.clone(), &answers.trailers);
}
