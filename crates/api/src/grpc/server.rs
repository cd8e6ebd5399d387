//! Worker threads, listeners and the accept loop.
//!
//! Each worker is one thread with one single-threaded runtime: a connection and all its calls live
//! there and nowhere else, so that handlers need not be `Send` and no task ever moves between
//! cores. Connections are dealt out in turn.
//!
//! Measured on two cores: one work-stealing runtime over both costs twice the CPU per call.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Semaphore, mpsc};

use super::connection::serve_connection;
use super::lifecycle::{Lifecycle, Phase};
use super::metadata::Peer;
use super::metrics::Metrics;
use super::secure::{AnySocket, serve_secure};
use super::{Options, Service};

/// Added to the niceness of threads for large reads: half of a worker's share when there is not enough
/// for both. With less, lists starve on a busy core.
const BLOCKING_NICENESS: i32 = 3;
/// Threads per worker for large reads: enough to keep a disk busy, few enough to stay in memory.
const BLOCKING_THREADS: usize = 4;
/// Silence on a connection after which the system looks whether the other side is still there.
const PROBE_AFTER: Duration = Duration::from_secs(30);

type Job = Box<dyn FnOnce() + Send>;

/// A pool of single-threaded runtimes.
pub struct Workers {
    workers: Vec<Worker>,
    next: AtomicUsize,
}

struct Worker {
    /// Unbounded: a job is a connection, and connections are bounded where they are accepted.
    jobs: mpsc::UnboundedSender<Job>,
    thread: Option<JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` threads (at least one), named `<name>-<number>`.
    pub fn start(count: usize, name: &str) -> io::Result<Self> {
        let workers = (0..count.max(1)).map(|number| Worker::start(&format!("{name}-{number}")));
        Ok(Self { workers: workers.collect::<io::Result<_>>()?, next: AtomicUsize::new(0) })
    }

    /// Number of workers.
    pub fn count(&self) -> usize {
        self.workers.len()
    }

    /// Runs a future on the next worker in turn.
    pub fn spawn<F>(&self, make: impl FnOnce() -> F + Send + 'static)
    where
        F: Future<Output = ()> + 'static,
    {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.workers.len();
        self.spawn_on(turn, make);
    }

    /// Runs a future on a certain worker.
    ///
    /// # Panics
    /// If there is no worker of that number.
    pub fn spawn_on<F>(&self, worker: usize, make: impl FnOnce() -> F + Send + 'static)
    where
        F: Future<Output = ()> + 'static,
    {
        // A worker ends only when the pool is dropped, so somebody receives this.
        let _ = self.workers[worker].jobs.send(Box::new(move || {
            tokio::task::spawn_local(make());
        }));
    }
}

impl Drop for Workers {
    /// Ends the threads; tasks that still run are dropped where they wait.
    fn drop(&mut self) {
        for worker in &mut self.workers {
            let (closed, _) = mpsc::unbounded_channel();
            worker.jobs = closed;
        }
        for worker in &mut self.workers {
            if let Some(thread) = worker.thread.take()
                && thread.thread().id() != std::thread::current().id()
            {
                // A panic has been reported by the thread itself.
                let _ = thread.join();
            }
        }
    }
}

impl Worker {
    fn start(name: &str) -> io::Result<Self> {
        let (jobs, mut incoming) = mpsc::unbounded_channel::<Job>();
        let (report, started) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            env::turns::shorten();
            let runtime = match Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(BLOCKING_THREADS)
                // Long work must not cost those who wait for short answers. Where this is refused it
                // competes like everybody else.
                .on_thread_start(|| {
                    env::turns::lengthen();
                    let _ = rustix::process::nice(BLOCKING_NICENESS);
                })
                .build_local(LocalOptions::default())
            {
                Ok(runtime) => runtime,
                Err(error) => {
                    let _ = report.send(Err(error));
                    return;
                }
            };
            let _ = report.send(Ok(()));
            runtime.block_on(async move {
                while let Some(job) = incoming.recv().await {
                    job();
                }
            });
        })?;
        match started.recv() {
            Ok(result) => result?,
            Err(_) => return Err(io::Error::other("the worker thread ended at its start")),
        }
        Ok(Self { jobs, thread: Some(thread) })
    }
}

/// A bound listener.
#[derive(Debug)]
pub enum Listener {
    /// A TCP socket.
    Tcp(std::net::TcpListener),
    /// A unix-domain socket.
    Unix(std::os::unix::net::UnixListener),
}

impl Listener {
    /// Binds a TCP address.
    pub fn tcp(address: SocketAddr) -> io::Result<Self> {
        std::net::TcpListener::bind(address).map(Self::Tcp)
    }

    /// The bound address; `None` for a unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }
}

/// A listener that is being served.
#[derive(Clone, Debug)]
pub struct Serving {
    lifecycle: Arc<Lifecycle>,
    local_addr: Option<SocketAddr>,
    metrics: Metrics,
}

impl Serving {
    /// The bound address; `None` for a unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr
    }

    /// Counters of calls and messages.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.lifecycle.connection_count()
    }

    /// Stops accepting, tells clients to go away, waits for running unary calls until `patience`
    /// is over, then closes everything. Returns when no connection is left. Needs a tokio runtime.
    pub async fn shutdown(&self, patience: Duration) {
        self.lifecycle.enter(Phase::Draining);
        if tokio::time::timeout(patience, self.lifecycle.idle()).await.is_err() {
            self.lifecycle.enter(Phase::Closing);
            // A peer that does not take even the GOAWAY must not hold the server.
            let _ = tokio::time::timeout(Duration::from_secs(1), self.lifecycle.idle()).await;
        }
    }
}

/// Serves a listener with a service that is cloned to each worker.
pub fn serve<S>(
    workers: &Arc<Workers>,
    listener: Listener,
    options: Options,
    service: S,
) -> io::Result<Serving>
where
    S: Service + Clone + Send,
{
    let metrics = Metrics::new(S::METHODS);
    serve_counted(workers, listener, options, service, metrics)
}

/// As [`serve`], with counters that several listeners share.
pub fn serve_counted<S>(
    workers: &Arc<Workers>,
    listener: Listener,
    options: Options,
    service: S,
    metrics: Metrics,
) -> io::Result<Serving>
where
    S: Service + Clone + Send,
{
    if let Some(observation) = &options.observation {
        observation.prepare();
    }
    let lifecycle = Arc::new(Lifecycle::default());
    let local_addr = listener.local_addr();
    match &listener {
        Listener::Tcp(listener) => listener.set_nonblocking(true)?,
        Listener::Unix(listener) => listener.set_nonblocking(true)?,
    }
    let serving = Serving { lifecycle: lifecycle.clone(), local_addr, metrics: metrics.clone() };
    // Every worker keeps its own copy of the service and of the counters; connections reach them
    // through the worker's number.
    let shards = Arc::new((0..workers.count()).map(|_| metrics.shard()).collect::<Vec<_>>());
    let pool = Arc::downgrade(workers);
    let acceptor = workers.next.fetch_add(1, Ordering::Relaxed) % workers.count();
    workers.spawn_on(acceptor, move || async move {
        let Ok(listener) = AsyncListener::register(listener) else { return };
        let permits = Arc::new(Semaphore::new(options.max_connections.min(Semaphore::MAX_PERMITS)));
        let stop = lifecycle.entered(Phase::Draining);
        let mut stop = std::pin::pin!(stop);
        let mut turn = 0_usize;
        loop {
            let next = async {
                let socket = listener.accept(options.keepalive_timeout).await?;
                if permits.available_permits() == 0 {
                    lifecycle.evict_silent();
                }
                // The semaphore is never closed.
                let permit = permits.clone().acquire_owned().await.map_err(io::Error::other)?;
                Ok((permit, socket))
            };
            let accepted = tokio::select! {
                biased;
                () = &mut stop => return,
                accepted = next => accepted,
            };
            let Some(pool) = pool.upgrade() else { return };
            let (permit, socket) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    back_off(&error).await;
                    continue;
                }
            };
            let ticket = lifecycle.admit(permit);
            let worker = turn % pool.count();
            turn = turn.wrapping_add(1);
            let (service, options, shards) = (service.clone(), options.clone(), shards.clone());
            pool.spawn_on(worker, move || async move {
                let (service, metrics) = (Rc::new(service), shards[worker].clone());
                match socket {
                    Socket::Tcp(socket, address) => {
                        let peer = Peer::tcp(address, socket.local_addr().ok());
                        let Ok(socket) = TcpStream::from_std(socket) else { return };
                        if options.security.is_some() {
                            let socket = AnySocket::Tcp(socket);
                            return serve_secure(socket, peer, service, &options, metrics, ticket).await;
                        }
                        serve_connection(socket, peer, service, &options, metrics, ticket).await;
                    }
                    Socket::Unix(socket) => {
                        let Ok(socket) = UnixStream::from_std(socket) else { return };
                        let peer = Peer { is_local: true, ..Peer::default() };
                        if options.security.is_some() {
                            let socket = AnySocket::Unix(socket);
                            return serve_secure(socket, peer, service, &options, metrics, ticket).await;
                        }
                        serve_connection(socket, peer, service, &options, metrics, ticket).await;
                    }
                }
            });
        }
    });
    Ok(serving)
}

/// Serves one connection that was not accepted from a listener, to its end: a pipe in memory, or a
/// socket that somebody else opened. It cannot be drained; drop the future to end it.
pub async fn serve_io<IO, S>(io: IO, peer: Peer, service: Rc<S>, options: &Options, metrics: &Metrics)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service,
{
    let Ok(permit) = Arc::new(Semaphore::new(1)).acquire_owned().await else { return };
    let ticket = Arc::new(Lifecycle::default()).admit(permit);
    serve_connection(io, peer, service, options, metrics.shard(), ticket).await;
}

/// Out of descriptors or memory: wait for connections to end. Anything else concerns one
/// connection only.
async fn back_off(error: &io::Error) {
    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        return;
    }
    tracing::warn!(error = %error, "failed to accept a connection");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// Silence is probed as etcd has it; what was sent and is not taken gives the connection up, as
/// gRPC's servers have it. Where the system refuses, the pings of HTTP/2 still find out.
fn detect_death(socket: &TcpStream, patience: Duration) {
    use rustix::net::sockopt::{
        set_socket_keepalive, set_tcp_keepidle, set_tcp_keepintvl, set_tcp_user_timeout,
    };
    let _ = set_socket_keepalive(socket, true);
    let _ = set_tcp_keepidle(socket, PROBE_AFTER);
    let _ = set_tcp_keepintvl(socket, PROBE_AFTER);
    if !patience.is_zero() {
        let _ = set_tcp_user_timeout(socket, u32::try_from(patience.as_millis()).unwrap_or(u32::MAX));
    }
}

enum AsyncListener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

enum Socket {
    Tcp(std::net::TcpStream, SocketAddr),
    Unix(std::os::unix::net::UnixStream),
}

impl AsyncListener {
    fn register(listener: Listener) -> io::Result<Self> {
        match listener {
            Listener::Tcp(listener) => TcpListener::from_std(listener).map(Self::Tcp),
            Listener::Unix(listener) => UnixListener::from_std(listener).map(Self::Unix),
        }
    }

    /// The next connection. One whose other side takes nothing for `patience` is ended by the system.
    async fn accept(&self, patience: Duration) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => {
                let (socket, address) = listener.accept().await?;
                socket.set_nodelay(true)?;
                detect_death(&socket, patience);
                Ok(Socket::Tcp(socket.into_std()?, address))
            }
            Self::Unix(listener) => Ok(Socket::Unix(listener.accept().await?.0.into_std()?)),
        }
    }
}
