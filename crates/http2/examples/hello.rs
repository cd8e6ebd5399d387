//! Answers every request with a few bytes: `hello <address>`. Something to point `h2spec` at.

use std::future::poll_fn;
use std::rc::Rc;

use bytes::Bytes;
use http2::server::{Connection, Request};
use http2::{Config, Field, Head};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};

async fn connection(socket: TcpStream) {
    let config = Config { max_concurrent_streams: 100, ..Config::default() };
    let mut connection = Connection::new(socket, b"", config);
    while let Some(request) = poll_fn(|cx| connection.poll_accept(cx)).await {
        tokio::task::spawn_local(answer(request));
    }
}

async fn answer(request: Request) {
    let Request { mut body, mut respond, .. } = request;
    while let Some(data) = body.data().await {
        if data.is_err() {
            return;
        }
    }
    let head = Rc::new(Head::response(200).with(Field::new("content-type", "text/plain")));
    // A client that has gone misses its answer.
    if respond.send_head(&head, false).is_ok() {
        let _ = respond.send_data(Bytes::from_static(b"hello over HTTP/2\n"), true);
    }
}

fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".into());
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let listener = TcpListener::bind(&address).await?;
        loop {
            let (socket, _) = listener.accept().await?;
            tokio::task::spawn_local(connection(socket));
        }
    })
}
