//! The network between members, as a test wants it: each member's peers reach it through a proxy
//! of ours, which knows who calls.
//!
//! ```text
//!  member 0 ──dials──▶ proxy of member 1 ──dials──▶ peer port of member 1
//!           link 0→1: what 0 sends to 1, whoever dialled
//!           link 1→0: what 1 sends to 0
//! ```
//!
//! - The [`Link`]s are directed: one way can be blocked, delayed or slow while the other is fine.
//! - A blocked link keeps the bytes, and the news that a connection ended, until it opens again, as
//!   TCP does by sending again: what was sent before comes late, in order. The sender is held up when the
//!   proxy is full ([`CHUNKS_UNDER_WAY`]). A connection that is dialled meanwhile is accepted and silent.
//! - [`Net::cut`] ends connections at once.
//! - Nobody needs to be root: who calls is found by the socket at the other end ([`crate::caller`]).
//!
//! The proxies run on one thread of their own, so a test may block.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bench::load::ops::Draw;
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::caller::{holds, inode_of};

/// Bytes that go on together.
const CHUNK_BYTES: usize = 16 << 10;
/// Chunks that may be under way on one connection in one direction.
const CHUNKS_UNDER_WAY: usize = 64;
/// How often a caller is looked for, and the pause between.
const UNKNOWN_TRIES: usize = 100;
const GONE_TRIES: usize = 3;
const CALLER_PAUSE: Duration = Duration::from_millis(10);

/// How bytes go from one member to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Whether anything gets through.
    pub open: bool,
    /// How long each byte takes.
    pub delay: Duration,
    /// Up to so much longer, drawn per chunk; the order stays.
    pub jitter: Duration,
    /// Bytes per second of each connection; 0 = as fast as it goes.
    pub bytes_per_second: u64,
}

impl Link {
    /// A link that adds nothing.
    pub const GOOD: Self =
        Self { open: true, delay: Duration::ZERO, jitter: Duration::ZERO, bytes_per_second: 0 };
    /// A link that lets nothing through.
    pub const BLOCKED: Self = Self { open: false, ..Self::GOOD };
}

/// The state of a link, and how often its connections were cut.
type Set = (Link, u64);

struct State {
    links: BTreeMap<(usize, usize), Arc<Wire>>,
    /// Process of each member that runs.
    processes: BTreeMap<usize, u32>,
    draw: Draw,
}

struct Wire {
    set: watch::Sender<Set>,
    carried: AtomicU64,
}

/// The network of one cluster. See the module documentation.
pub struct Net {
    handle: NetHandle,
    /// Ends the thread when dropped.
    listeners: mpsc::UnboundedSender<Listener>,
    /// Each proxy listens until this is dropped.
    open: Mutex<BTreeMap<u16, watch::Sender<()>>>,
}

struct Listener {
    socket: TcpListener,
    number: usize,
    target: SocketAddr,
    closed: watch::Receiver<()>,
}

/// Tells the network which process a member is.
#[derive(Clone)]
pub struct NetHandle(Arc<Mutex<State>>);

impl NetHandle {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Member `number` is this process now.
    pub fn runs_as(&self, number: usize, process: u32) {
        self.lock().processes.insert(number, process);
    }

    fn wire(&self, from: usize, to: usize) -> Arc<Wire> {
        let new = || Arc::new(Wire { set: watch::Sender::new((Link::GOOD, 0)), carried: AtomicU64::new(0) });
        self.lock().links.entry((from, to)).or_insert_with(new).clone()
    }

    fn caller(&self, ours: SocketAddr, theirs: SocketAddr) -> Caller {
        let Some(inode) = inode_of(theirs, ours) else { return Caller::Gone };
        let processes: Vec<(usize, u32)> =
            self.lock().processes.iter().map(|(number, process)| (*number, *process)).collect();
        let found = processes.into_iter().find(|(_, process)| holds(*process, inode));
        found.map_or(Caller::Unknown, |(number, _)| Caller::Member(number))
    }
}

enum Caller {
    Member(usize),
    /// The socket belongs to a process that is not a member, or not yet.
    Unknown,
    /// The socket is closed.
    Gone,
}

impl Net {
    /// A network without members. `seed` decides the jitter.
    pub fn start(seed: u64) -> anyhow::Result<Self> {
        let state = State { links: BTreeMap::new(), processes: BTreeMap::new(), draw: Draw::new(seed) };
        let handle = NetHandle(Arc::new(Mutex::new(state)));
        let (listeners, mut arriving) = mpsc::unbounded_channel::<Listener>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let of_thread = handle.clone();
        std::thread::Builder::new().name("net".to_owned()).spawn(move || {
            runtime.block_on(async {
                while let Some(listener) = arriving.recv().await {
                    tokio::spawn(accept(of_thread.clone(), listener));
                }
            });
        })?;
        Ok(Self { handle, listeners, open: Mutex::default() })
    }

    /// Puts a proxy in front of a member's peer port. Returns the port of the proxy.
    pub fn stand_before(&self, number: usize, peer_port: u16) -> anyhow::Result<u16> {
        let port = crate::member::free_port()?;
        let socket = TcpListener::bind(("127.0.0.1", port))?;
        socket.set_nonblocking(true)?;
        let target = SocketAddr::from(([127, 0, 0, 1], peer_port));
        let (open, closed) = watch::channel(());
        let sent = self.listeners.send(Listener { socket, number, target, closed });
        sent.ok().context("the thread of the network has ended")?;
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(port, open);
        Ok(port)
    }

    /// No new connections through this proxy; those that exist go on.
    pub fn close(&self, port: u16) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&port);
    }

    /// For members, to say which process they are.
    pub fn handle(&self) -> NetHandle {
        self.handle.clone()
    }

    /// Changes what happens to bytes from one member to another.
    pub fn set(&self, from: usize, to: usize, link: Link) {
        self.handle.wire(from, to).set.send_modify(|(now, _)| *now = link);
    }

    /// Both directions between two members.
    pub fn between(&self, one: usize, other: usize, link: Link) {
        self.set(one, other, link);
        self.set(other, one, link);
    }

    /// Everything between one side and the other, in both directions.
    pub fn split(&self, side: &[usize], rest: &[usize]) {
        for (one, other) in side.iter().flat_map(|one| rest.iter().map(move |other| (*one, *other))) {
            self.between(one, other, Link::BLOCKED);
        }
    }

    /// Ends all connections between two members now.
    pub fn cut(&self, one: usize, other: usize) {
        for (from, to) in [(one, other), (other, one)] {
            self.handle.wire(from, to).set.send_modify(|(_, cuts)| *cuts += 1);
        }
    }

    /// All links are good again.
    pub fn heal(&self) {
        for wire in self.handle.lock().links.values() {
            wire.set.send_modify(|(link, _)| *link = Link::GOOD);
        }
    }

    /// Bytes that got from one member to another so far.
    pub fn carried(&self, from: usize, to: usize) -> u64 {
        self.handle.wire(from, to).carried.load(Relaxed)
    }
}

async fn accept(net: NetHandle, listener: Listener) {
    let Listener { socket, number, target, mut closed } = listener;
    let Ok(socket) = tokio::net::TcpListener::from_std(socket) else { return };
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            _ = closed.changed() => return,
        };
        // An error of accept would be one of this process (out of files): the members see it as a
        // network that is down.
        let Ok((stream, theirs)) = accepted else { return };
        tokio::spawn(connect(net.clone(), stream, theirs, number, target));
    }
}

/// Carries one connection until it ends.
async fn connect(net: NetHandle, stream: TcpStream, theirs: SocketAddr, to: usize, target: SocketAddr) {
    let Ok(ours) = stream.local_addr() else { return };
    let Some(from) = find_caller(&net, ours, theirs).await else { return };
    let (there, back) = (net.wire(from, to), net.wire(to, from));
    // The handshake needs both directions.
    let (mut there_set, mut back_set) = (there.set.subscribe(), back.set.subscribe());
    let both_open = async {
        loop {
            let ways = (there_set.borrow_and_update().0.open, back_set.borrow_and_update().0.open);
            match ways {
                (true, true) => return,
                (false, _) => drop(there_set.changed().await),
                (_, false) => drop(back_set.changed().await),
            }
        }
    };
    both_open.await;
    let left = stream.ready(tokio::io::Interest::READABLE).now_or_never();
    if left.is_some_and(|ready| ready.is_ok_and(|ready| ready.is_read_closed())) {
        return;
    }
    let Ok(out) = TcpStream::connect(target).await else { return };
    // Delays are ours to make.
    let _ = (stream.set_nodelay(true), out.set_nodelay(true));
    let ((in_read, in_write), (out_read, out_write)) = (stream.into_split(), out.into_split());
    let cut = async {
        let (mut there, mut back) = (there.set.subscribe(), back.set.subscribe());
        let before = (there.borrow().1, back.borrow().1);
        while (there.borrow().1, back.borrow().1) == before {
            tokio::select! { _ = there.changed() => {}, _ = back.changed() => {} }
        }
    };
    tokio::select! {
        () = cut => {}
        _ = async {
            tokio::join!(
                carry(&net, &there, in_read, out_write),
                carry(&net, &back, out_read, in_write),
            )
        } => {}
    }
}

/// The member that called. One that was started a moment ago may not be known yet.
async fn find_caller(net: &NetHandle, ours: SocketAddr, theirs: SocketAddr) -> Option<usize> {
    let (mut unknown, mut gone) = (0, 0);
    while unknown < UNKNOWN_TRIES && gone < GONE_TRIES {
        match net.caller(ours, theirs) {
            Caller::Member(number) => return Some(number),
            Caller::Unknown => unknown += 1,
            Caller::Gone => gone += 1,
        }
        tokio::time::sleep(CALLER_PAUSE).await;
    }
    None
}

/// Carries one direction of a connection, as its link says, to its end.
async fn carry(net: &NetHandle, wire: &Wire, from: OwnedReadHalf, to: OwnedWriteHalf) {
    let (sender, receiver) = mpsc::channel(CHUNKS_UNDER_WAY);
    tokio::join!(take_in(net, wire, from, sender), give_out(wire, receiver, to));
}

async fn take_in(
    net: &NetHandle,
    wire: &Wire,
    mut from: OwnedReadHalf,
    chunks: mpsc::Sender<(Instant, Bytes)>,
) {
    let mut due = Instant::now();
    loop {
        let mut buffer = BytesMut::with_capacity(CHUNK_BYTES);
        // An error is an end as well: what came before it is delivered.
        let read = from.read_buf(&mut buffer).await.unwrap_or(0);
        let link = wire.set.borrow().0;
        let jitter = match link.jitter.as_micros() as u64 {
            0 => Duration::ZERO,
            most => Duration::from_micros(net.lock().draw.below(most)),
        };
        due = due.max(Instant::now() + link.delay + jitter);
        // The empty chunk is the news that the connection ended.
        if chunks.send((due, buffer.freeze())).await.is_err() || read == 0 {
            return;
        }
    }
}

async fn give_out(wire: &Wire, mut chunks: mpsc::Receiver<(Instant, Bytes)>, mut to: OwnedWriteHalf) {
    let mut set = wire.set.subscribe();
    while let Some((due, chunk)) = chunks.recv().await {
        tokio::time::sleep_until(due).await;
        if set.wait_for(|(link, _)| link.open).await.is_err() {
            return;
        }
        let rate = wire.set.borrow().0.bytes_per_second;
        if rate > 0 {
            tokio::time::sleep(Duration::from_secs_f64(chunk.len() as f64 / rate as f64)).await;
        }
        if chunk.is_empty() || to.write_all(&chunk).await.is_err() {
            // The other direction goes on: it has its own end.
            let _ = to.shutdown().await;
            return;
        }
        wire.carried.fetch_add(chunk.len() as u64, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};

    use super::*;

    /// This process is member 0 and calls member 1, an echo on a thread.
    fn echo() -> (Net, std::net::TcpStream) {
        let net = Net::start(1).unwrap();
        net.handle().runs_as(0, std::process::id());
        let server = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = net.stand_before(1, server.local_addr().unwrap().port()).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let mut buffer = [0; 100];
            while let Ok(read @ 1..) = stream.read(&mut buffer) {
                stream.write_all(&buffer[..read]).unwrap();
            }
        });
        let stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        (net, stream)
    }

    fn ask(stream: &mut std::net::TcpStream) -> std::io::Result<usize> {
        stream.write_all(b"hello")?;
        stream.read(&mut [0; 100])
    }

    /// Bytes are counted when they have been passed on, which may be after the other side saw them.
    fn carried(net: &Net, expected: (u64, u64)) {
        let started = std::time::Instant::now();
        let now = || (net.carried(0, 1), net.carried(1, 0));
        while now() != expected && started.elapsed() < Duration::from_secs(10) {
            std::thread::yield_now();
        }
        assert_eq!(now(), expected);
    }

    #[test]
    fn a_blocked_link_delivers_late_and_each_way_is_its_own() {
        let (net, mut stream) = echo();
        assert_eq!(ask(&mut stream).unwrap(), 5);
        carried(&net, (5, 5));
        net.set(1, 0, Link::BLOCKED);
        assert_eq!(ask(&mut stream).unwrap_err().kind(), ErrorKind::WouldBlock);
        carried(&net, (10, 5));
        net.set(0, 1, Link::BLOCKED);
        assert_eq!(ask(&mut stream).unwrap_err().kind(), ErrorKind::WouldBlock);
        carried(&net, (10, 5));
        net.heal();
        let mut late = [0; 10];
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.read_exact(&mut late).unwrap();
        assert_eq!(&late, b"hellohello");
        net.cut(0, 1);
        assert_eq!(stream.read(&mut late).unwrap(), 0);
    }

    #[test]
    fn links_delay_and_slow_down() {
        let (net, mut stream) = echo();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut took = |link| {
            net.set(0, 1, link);
            let started = std::time::Instant::now();
            assert_eq!(ask(&mut stream).unwrap(), 5);
            started.elapsed()
        };
        let delay = Duration::from_millis(100);
        assert!(took(Link { delay, ..Link::GOOD }) >= delay);
        assert!(took(Link { bytes_per_second: 50, ..Link::GOOD }) >= delay);
    }
}
