//! How many appends a second pass between two transports of one process, and what they cost.
//!
//! `throughput [messages] [bytes per entry] [messages per call of send]`

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use membership::Member;
use peer::net::{Dialer, Listener, Socket};
use peer::{
    Config, Handler, HashKv, HashKvError, Identity, LeaseError, LeaseTimes, Log, OutgoingSnapshot,
    PromoteError, StepError, Transport,
};
use proto::raftpb::{Entry, Message, MessageType};
use types::{ClusterId, CompatVersion, LeaseId, MemberId, Version};

/// Messages on the way at most, below what the transport queues.
const WINDOW: u64 = 2048;

#[derive(Default)]
struct Counting {
    received: AtomicU64,
}

impl Handler for Counting {
    fn step(&self, _: Message) -> Result<(), StepError> {
        self.received.fetch_add(1, Ordering::Release);
        Ok(())
    }

    fn is_removed(&self, _: MemberId) -> bool {
        false
    }

    fn report_unreachable(&self, id: MemberId) {
        println!("{id} is unreachable");
    }

    fn report_snapshot(&self, _: MemberId, _: bool) {}

    fn removed_from_cluster(&self) {}

    fn open_snapshot(&self, _: Message) -> Result<OutgoingSnapshot, String> {
        Err("there is none".to_owned())
    }

    fn members(&self) -> (ClusterId, Vec<Member>) {
        (ClusterId(1), Vec::new())
    }

    fn versions(&self) -> (Option<Version>, Option<Version>) {
        (None, None)
    }

    fn renew_lease(&self, _: LeaseId) -> BoxFuture<'static, Result<i64, LeaseError>> {
        async { Err(LeaseError::NotFound) }.boxed()
    }

    fn lease_times(&self, _: LeaseId, _: bool) -> BoxFuture<'static, Result<LeaseTimes, LeaseError>> {
        async { Err(LeaseError::NotFound) }.boxed()
    }

    fn promote(
        &self,
        _: MemberId,
        _: Option<String>,
    ) -> BoxFuture<'static, Result<Vec<Member>, PromoteError>> {
        async { Err(PromoteError::NotFound) }.boxed()
    }

    fn hash_kv(&self, _: i64) -> BoxFuture<'static, Result<HashKv, HashKvError>> {
        async { Err(HashKvError::Compacted) }.boxed()
    }

    fn downgrade_enabled(&self) -> BoxFuture<'static, Result<bool, String>> {
        async { Ok(false) }.boxed()
    }
}

fn start(id: u64, listener: TcpListener) -> (Arc<Counting>, Transport) {
    let url = format!("http://{}", listener.local_addr().expect("a bound socket has an address"));
    let handler = Arc::new(Counting::default());
    let config = Config {
        identity: Identity::new(MemberId(id), ClusterId(1), CompatVersion::V3_7, &[&url])
            .expect("a good URL"),
        handler: handler.clone(),
        dialer: Dialer::new(Duration::from_secs(2), None),
        read_timeout: Duration::from_secs(5),
        write_timeout: Duration::from_secs(5),
        snapshot_dir: ".".into(),
        disk: Arc::new(env::real::RealDisk),
        log: Log::silent(),
    };
    let listeners = vec![Listener::plain(Socket::Tcp(listener), url)];
    (handler, Transport::start(config, listeners).expect("the transport starts"))
}

fn append(index: u64, data: &bytes::Bytes) -> Message {
    let entry = Entry { r#type: Some(0), term: Some(2), index: Some(index), data: Some(data.clone()) };
    Message {
        r#type: Some(MessageType::MsgApp.into()),
        to: Some(2),
        from: Some(1),
        term: Some(2),
        log_term: Some(2),
        index: Some(index - 1),
        entries: vec![entry],
        commit: Some(index - 1),
        ..Default::default()
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>().expect("a number"));
    let count = arguments.next().unwrap_or(1_000_000);
    let data = bytes::Bytes::from(vec![7; arguments.next().unwrap_or(200) as usize]);
    let batch = arguments.next().unwrap_or(8);
    let bind = || TcpListener::bind("127.0.0.1:0").expect("a free port");
    let (first, second) = (bind(), bind());
    let url = |listener: &TcpListener| format!("http://{}", listener.local_addr().expect("an address"));
    let urls = [url(&first), url(&second)];
    let ((_, one), (received, two)) = (start(1, first), start(2, second));
    one.add_peer(MemberId(2), &urls[1..]).expect("a good URL");
    two.add_peer(MemberId(1), &urls[..1]).expect("a good URL");
    // Without streams a full pipeline would lose messages.
    while one.active_since(MemberId(2)).is_none() || two.active_since(MemberId(1)).is_none() {
        std::thread::yield_now();
    }
    std::thread::sleep(Duration::from_millis(500));

    let started = Instant::now();
    let mut sent = 0;
    while sent < count {
        while sent - received.received.load(Ordering::Acquire) > WINDOW {
            std::thread::park_timeout(Duration::from_micros(50));
        }
        let messages = (sent + 1..=(sent + batch).min(count)).map(|index| append(index, &data)).collect();
        one.send(messages);
        sent += batch.min(count - sent);
    }
    while received.received.load(Ordering::Acquire) < count {
        std::thread::yield_now();
    }
    let took = started.elapsed();
    let bytes = one.metrics().peer(MemberId(2)).sent_bytes.get();
    println!(
        "{count} appends of {} bytes in {took:.2?}: {:.0} per second, {:.1} MB/s",
        data.len(),
        count as f64 / took.as_secs_f64(),
        bytes as f64 / took.as_secs_f64() / 1e6
    );
    one.stop();
    two.stop();
}
