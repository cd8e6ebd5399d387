//! Puts against a server from one thread: `echo_load <address> <connections> <in flight each>
//! <seconds> [server pid]`. Prints calls per second and, with the pid, the server's CPU per call.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use api::grpc::Reply;
use bytes::Bytes;
use http::Request;
use proto::etcdserverpb::PutRequest;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};

/// User and system time of a process in clock ticks of 10 ms.
fn cpu(pid: &str) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |index: usize, default: &str| arguments.get(index).cloned().unwrap_or(default.into());
    let number = |index, default| argument(index, default).parse::<u64>().map_err(std::io::Error::other);
    let (address, pid) = (argument(0, "127.0.0.1:21000"), argument(4, ""));
    let (connections, in_flight, seconds) = (number(1, "20")?, number(2, "50")?, number(3, "5")?);
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async move {
        let calls = Rc::new(Cell::new(0_u64));
        let put =
            PutRequest { key: "some/key/0001".into(), value: vec![b'v'; 100].into(), ..Default::default() };
        let frame = put.into_frame();
        for _ in 0..connections {
            let socket = TcpStream::connect(&address).await?;
            socket.set_nodelay(true)?;
            let mut builder = h2::client::Builder::new();
            builder.initial_connection_window_size(16 << 20);
            let (send, connection) =
                builder.handshake::<_, Bytes>(socket).await.map_err(std::io::Error::other)?;
            tokio::task::spawn_local(async move {
                let _ = connection.await;
            });
            for _ in 0..in_flight {
                let (send, frame, calls) = (send.clone(), frame.clone(), calls.clone());
                tokio::task::spawn_local(async move {
                    while let Ok(mut ready) = send.clone().ready().await {
                        let request = Request::post("http://localhost/etcdserverpb.KV/Put")
                            .header("content-type", "application/grpc")
                            .header("te", "trailers")
                            .body(())
                            .expect("constant parts");
                        let Ok((response, mut body)) = ready.send_request(request, false) else { return };
                        let _ = body.send_data(frame.clone(), true);
                        let Ok(response) = response.await else { return };
                        let mut body = response.into_body();
                        while let Some(Ok(data)) = body.data().await {
                            let _ = body.flow_control().release_capacity(data.len());
                        }
                        let Ok(Some(_)) = body.trailers().await else { return };
                        calls.set(calls.get() + 1);
                    }
                });
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (begun, first, cpu_before) = (Instant::now(), calls.get(), cpu(&pid));
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let count = calls.get() - first;
        println!("{:.0} calls/s", count as f64 / begun.elapsed().as_secs_f64());
        if let (Some(before), Some(after)) = (cpu_before, cpu(&pid)) {
            println!("{:.2} us CPU per call", (after - before).as_secs_f64() * 1e6 / count as f64);
        }
        Ok(())
    })
}
