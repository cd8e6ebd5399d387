//! A server that answers every Put at once: the ceiling of what the RPC layer allows.
//!
//! `echo_server <address> [workers] [bare]`; with `bare` the same answers come from a loop straight
//! on `h2`, without any checks: what the layer itself costs is the difference.

use std::rc::Rc;
use std::sync::Arc;

use api::grpc::{self, Call, CallContext, HttpBody, Listener, MethodId, MethodInfo, Options, Reply, Shape};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use prost::Message;
use proto::etcdserverpb::{PutRequest, PutResponse, ResponseHeader};

#[derive(Clone)]
struct Echo;

fn answer(request: &PutRequest) -> PutResponse {
    let header = ResponseHeader { cluster_id: 1 << 63, member_id: 1 << 62, revision: 123_456, raft_term: 2 };
    assert!(request.key.len() < 1 << 20);
    PutResponse { header: Some(header), prev_kv: None }
}

impl grpc::Service for Echo {
    const METHODS: &'static [MethodInfo] =
        &[MethodInfo { service: "etcdserverpb.KV", method: "Put", shape: Shape::Unary }];

    fn grpc(self: &Rc<Self>, call: Call) {
        match call.path() {
            "/etcdserverpb.KV/Put" => {
                call.unary(MethodId(0), async |request: PutRequest, _: CallContext| Ok(answer(&request)));
            }
            _ => call.refuse_unknown(|service| service == "etcdserverpb.KV"),
        }
    }

    async fn http(
        self: Rc<Self>,
        _: Request<api::grpc::RequestBody>,
        _: api::grpc::Caller,
    ) -> Response<HttpBody> {
        Response::new(Full::from("echo\n").boxed_unsync())
    }
}

async fn bare_connection(socket: tokio::net::TcpStream) {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(16 << 20);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(socket).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        tokio::task::spawn_local(async move {
            let mut body = request.into_body();
            let Some(Ok(data)) = body.data().await else { return };
            let _ = body.flow_control().release_capacity(data.len());
            let Ok(message) = PutRequest::decode(data.slice(5..)) else { return };
            let mut head = Response::new(());
            head.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
            let Ok(mut stream) = respond.send_response(head, false) else { return };
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            let _ = stream.send_data(answer(&message).into_frame(), false);
            let _ = stream.send_trailers(trailers);
        });
    }
}

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:21000".into());
    let address = address.parse().map_err(std::io::Error::other)?;
    let workers = arguments.next().and_then(|count| count.parse().ok()).unwrap_or(1);
    let listener = Listener::tcp(address)?;
    let pool = Arc::new(grpc::Workers::start(workers, "echo")?);
    match (arguments.next().as_deref(), listener) {
        (Some("bare"), Listener::Tcp(listener)) => pool.spawn_on(0, move || async move {
            listener.set_nonblocking(true).expect("a socket can be made non-blocking");
            let listener = tokio::net::TcpListener::from_std(listener).expect("inside a runtime");
            while let Ok((socket, _)) = listener.accept().await {
                let _ = socket.set_nodelay(true);
                tokio::task::spawn_local(bare_connection(socket));
            }
        }),
        (_, listener) => {
            grpc::serve(&pool, listener, Options::default(), Echo)?;
        }
    }
    println!("serving on {address} with {workers} workers");
    loop {
        std::thread::park();
    }
}
