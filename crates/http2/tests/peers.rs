//! Both sides against the crate `h2`, an implementation that shares nothing with ours, and against
//! each other: over pipes in memory, small ones as well.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http2::client::{Requests, connect};
use http2::server::{Connection, Request};
use http2::{Broken, Config, Field, Head, Reason};
use tokio::io::DuplexStream;
use tokio::runtime::{Builder, LocalOptions};

/// Longer than any of this takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// Sizes of the pipe between the two.
const PIPES: [usize; 3] = [7, 4096, 1 << 20];

fn run(work: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await.expect("in time") });
}

fn body(seed: usize, len: usize) -> Bytes {
    (0..len).map(|at| (at * 13 + seed + at / 257) as u8).collect()
}

/// Answers each request with its body; `/reset` with a reset, `/early` before it was read.
async fn our_echo(io: DuplexStream, config: Config) {
    let mut connection = Connection::new(io, b"", config);
    while let Some(request) = poll_fn(|cx| connection.poll_accept(cx)).await {
        tokio::task::spawn_local(answer(request));
    }
}

async fn answer(request: Request) {
    let Request { head, mut body, mut respond } = request;
    let response = Rc::new(Head::response(200).with(Field::new("content-type", "application/grpc")));
    let trailers = Rc::new(Head::trailers().with(Field::new("grpc-status", "0")));
    match head.path() {
        "/reset" => return respond.reset(Reason::REFUSED_STREAM),
        "/early" => {
            respond.send_all(&response, Bytes::from_static(b"early"), &trailers).unwrap();
            return;
        }
        _ => {}
    }
    respond.send_head(&response, false).unwrap();
    while let Some(data) = body.data().await {
        let Ok(data) = data else { return };
        let Ok(_) = poll_fn(|cx| respond.poll_room(cx)).await else { return };
        respond.send_data(data, false).unwrap();
    }
    let echoed = body.take_trailers().and_then(|trailers| trailers.get("sum").map(<[u8]>::to_vec));
    let trailers = match echoed {
        Some(sum) => Rc::new(Head::trailers().with(Field::literal("sum", sum))),
        None => trailers,
    };
    respond.send_trailers(&trailers).unwrap();
}

async fn h2_echo(io: DuplexStream) {
    let mut connection = h2::server::handshake(io).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        tokio::task::spawn_local(async move {
            if request.uri().path() == "/reset" {
                return respond.send_reset(h2::Reason::REFUSED_STREAM);
            }
            let mut body = request.into_body();
            let mut response = http::Response::new(());
            response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
            let mut send = respond.send_response(response, false).unwrap();
            while let Some(Ok(data)) = body.data().await {
                body.flow_control().release_capacity(data.len()).unwrap();
                send.send_data(data, false).unwrap();
            }
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            let _ = send.send_trailers(trailers);
        });
    }
}

async fn our_call(requests: &Requests, path: &str, data: Bytes) -> Result<(Bytes, Rc<Head>), Broken> {
    let head = Rc::new(Head::request("POST", "http", "test", path).with(Field::literal("te", "trailers")));
    let (mut body, mut sender) = requests.open(&head, false).await?;
    sender.send_data(data, true)?;
    let response = body.head().await?;
    assert_eq!((response.status(), response.get("content-type")), (200, Some(&b"application/grpc"[..])));
    let mut all = BytesMut::new();
    while let Some(data) = body.data().await {
        all.extend_from_slice(&data?);
    }
    Ok((all.freeze(), body.take_trailers().expect("trailers")))
}

async fn calls_of_all_sizes(requests: &Requests, sizes: &[usize]) {
    let mut tasks = Vec::new();
    for (seed, &size) in sizes.iter().enumerate() {
        let requests = requests.clone();
        tasks.push(tokio::task::spawn_local(async move {
            let sent = body(seed, size);
            let (got, trailers) = our_call(&requests, "/echo", sent.clone()).await.unwrap();
            assert!(got == sent, "{size} bytes");
            assert_eq!(trailers.get("grpc-status"), Some(&b"0"[..]));
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

fn sizes(pipe: usize) -> &'static [usize] {
    match pipe {
        7 => &[0, 1, 5_000],
        _ => &[0, 1, 100, 16_384, 16_385, 70_000, 300_000, 1_500_000, 9, 65_535],
    }
}

fn small_windows() -> Config {
    Config { stream_window_bytes: 10_000, connection_window_bytes: 70_000, ..Config::default() }
}

#[test]
fn our_client_and_our_server() {
    for pipe in PIPES {
        for config in [Config::default(), small_windows()] {
            run(async {
                let (near, far) = tokio::io::duplex(pipe);
                tokio::task::spawn_local(our_echo(far, config.clone()));
                let (requests, connection) = connect(near, config);
                let connection = tokio::task::spawn_local(connection);
                calls_of_all_sizes(&requests, sizes(pipe)).await;
                let refused = our_call(&requests, "/reset", Bytes::new()).await.unwrap_err();
                assert_eq!(refused, Broken::ByPeer(Reason::REFUSED_STREAM));
                let (early, _) = our_call(&requests, "/early", body(1, 200)).await.unwrap();
                assert_eq!(early, "early");
                drop(requests);
                connection.await.unwrap();
            });
        }
    }
}

#[test]
fn our_client_and_h2() {
    for pipe in PIPES {
        for config in [Config::default(), small_windows()] {
            run(async {
                let (near, far) = tokio::io::duplex(pipe);
                let server = tokio::task::spawn_local(h2_echo(far));
                let (requests, connection) = connect(near, config);
                let connection = tokio::task::spawn_local(connection);
                calls_of_all_sizes(&requests, sizes(pipe)).await;
                let refused = our_call(&requests, "/reset", Bytes::new()).await.unwrap_err();
                assert_eq!(refused, Broken::ByPeer(Reason::REFUSED_STREAM));
                drop(requests);
                connection.await.unwrap();
                server.await.unwrap();
            });
        }
    }
}

async fn h2_call(
    send: h2::client::SendRequest<Bytes>,
    path: &str,
    data: Bytes,
    trailers: Option<http::HeaderMap>,
) -> Result<(Bytes, http::HeaderMap), h2::Error> {
    let request =
        http::Request::post(format!("http://test{path}")).header("some-name", "value").body(()).unwrap();
    let (response, mut stream) = send.ready().await?.send_request(request, false)?;
    stream.send_data(data, trailers.is_none())?;
    if let Some(trailers) = trailers {
        stream.send_trailers(trailers)?;
    }
    let mut body = response.await?.into_body();
    let mut all = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        all.extend_from_slice(&data);
    }
    Ok((all.freeze(), body.trailers().await?.unwrap_or_default()))
}

#[test]
fn h2_and_our_server() {
    for pipe in PIPES {
        for config in [Config::default(), small_windows()] {
            run(async {
                let (near, far) = tokio::io::duplex(pipe);
                let server = tokio::task::spawn_local(our_echo(far, config));
                let (send, connection) = h2::client::handshake(near).await.unwrap();
                let connection = tokio::task::spawn_local(connection);
                let mut tasks = Vec::new();
                for (seed, &size) in sizes(pipe).iter().enumerate() {
                    let send = send.clone();
                    tasks.push(tokio::task::spawn_local(async move {
                        let sent = body(seed, size);
                        let (got, trailers) = h2_call(send, "/echo", sent.clone(), None).await.unwrap();
                        assert!(got == sent, "{size} bytes");
                        assert_eq!(trailers["grpc-status"], "0");
                    }));
                }
                for task in tasks {
                    task.await.unwrap();
                }
                let mut sum = http::HeaderMap::new();
                sum.insert("sum", "17".parse().unwrap());
                let (_, trailers) = h2_call(send.clone(), "/echo", body(3, 9), Some(sum)).await.unwrap();
                assert_eq!(trailers["sum"], "17");
                let refused = h2_call(send.clone(), "/reset", Bytes::new(), None).await.unwrap_err();
                assert_eq!(refused.reason(), Some(h2::Reason::REFUSED_STREAM));
                drop(send);
                connection.await.unwrap().unwrap();
                server.await.unwrap();
            });
        }
    }
}

/// Header lists far above one frame, both ways.
#[test]
fn long_header_lists_cross_frames() {
    run(async {
        let (near, far) = tokio::io::duplex(4096);
        tokio::task::spawn_local(our_echo(far, Config::default()));
        let (send, connection) = h2::client::handshake(near).await.unwrap();
        tokio::task::spawn_local(connection);
        let mut trailers = http::HeaderMap::new();
        let long = "x".repeat(40_000);
        trailers.insert("sum", long.parse().unwrap());
        let (_, trailers) = h2_call(send, "/echo", body(3, 9), Some(trailers)).await.unwrap();
        assert_eq!(trailers["sum"], long);
    });
}

#[test]
fn the_peers_limit_of_streams_is_kept() {
    run(async {
        let (near, far) = tokio::io::duplex(4096);
        tokio::task::spawn_local(our_echo(far, Config { max_concurrent_streams: 2, ..Config::default() }));
        let (requests, connection) = connect(near, Config::default());
        tokio::task::spawn_local(connection);
        // The first call brings the server's settings.
        our_call(&requests, "/echo", body(1, 1)).await.unwrap();
        let sizes = [100; 200];
        calls_of_all_sizes(&requests, &sizes).await;
    });
}

#[test]
fn a_lost_connection_breaks_its_streams() {
    run(async {
        let (near, far) = tokio::io::duplex(4096);
        let (requests, connection) = connect(near, Config::default());
        let connection = tokio::task::spawn_local(connection);
        let head = Rc::new(Head::request("POST", "http", "test", "/x"));
        let (mut body, mut sender) = requests.open(&head, false).await.unwrap();
        drop(far);
        assert_eq!(body.head().await.unwrap_err(), Broken::Lost);
        assert_eq!(poll_fn(|cx| sender.poll_reset(cx)).await, Broken::Lost);
        connection.await.unwrap();
        assert_eq!(requests.open(&head, false).await.err(), Some(Broken::Lost));
    });
}
