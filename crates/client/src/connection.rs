//! Connections: one per endpoint, kept up in the background, handed out in turn.
//!
//! ```text
//! connect ──ok──▶ up (published) ──closed──▶ connect, at once
//!    └────fail──▶ wait 50 ms, doubled up to 1 s ──▶ connect
//! ```
//!
//! Each endpoint has a task of its own, on the runtime that the [`Pool`] was made on, whoever adds
//! the endpoint later; dropping the pool ends them all. A caller without a live connection waits for the
//! next one, as gRPC's "wait for ready" calls do; deadlines are the caller's business.

use std::error::Error as _;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::BodyExt as _;
use http_body_util::combinators::MapErr;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;
use tonic::{Status, body};

use crate::endpoint::{Address, Encryption, Endpoint};
use crate::error::NOT_SENT;

const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LAST_BACKOFF: Duration = Duration::from_secs(1);
/// Windows large enough to stream a snapshot at full speed over a link with some latency.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// No more frequent than this, whatever the user asks for: servers close the connection else.
const SHORTEST_KEEPALIVE: Duration = Duration::from_secs(10);
/// Silence on a connection after which the system looks whether the other side is still there, and how
/// often it looks again: as Go has it.
const PROBE_INTERVAL: Duration = Duration::from_secs(15);
/// How long what was sent may stay untaken.
const LONGEST_UNTAKEN: Duration = Duration::from_secs(30);

/// How to connect.
#[derive(Clone, Debug)]
pub(crate) struct Dial {
    pub timeout: Duration,
    pub keepalive_time: Duration,
    pub keepalive_timeout: Duration,
    pub keepalive_while_idle: bool,
    pub tls: Option<tls::Connector>,
}

type Body = body::Body;

/// A live connection. Cheap to clone; many calls share it.
#[derive(Clone)]
pub(crate) struct Connection {
    send: http2::SendRequest<Body>,
    authority: Arc<str>,
    peer: Arc<str>,
}

impl Connection {
    /// The address of the other side, for logs.
    pub fn peer(&self) -> &Arc<str> {
        &self.peer
    }
}

pub(crate) type ResponseBody = MapErr<Incoming, fn(hyper::Error) -> Status>;

impl tower::Service<Request<Body>> for Connection {
    type Response = Response<ResponseBody>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.send.poll_ready(context).map_err(|_| Status::unavailable(NOT_SENT))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let path = request.uri().path_and_query().cloned();
        let uri = Uri::builder().scheme("http").authority(&*self.authority);
        match uri.path_and_query(path.map_or_else(String::new, |path| path.to_string())).build() {
            Ok(uri) => *request.uri_mut() = uri,
            Err(error) => {
                let status = Status::unavailable(format!("endpoint {}: {error}", self.authority));
                return Box::pin(async move { Err(status) });
            }
        }
        let agent = HeaderValue::from_static(concat!("retcd/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().insert(header::USER_AGENT, agent);
        let answer = self.send.try_send_request(request);
        Box::pin(async move {
            match answer.await {
                Ok(response) => Ok(response.map(|body| body.map_err(body_error as fn(_) -> _))),
                Err(mut error) => Err(match error.take_message() {
                    Some(_) => Status::unavailable(NOT_SENT),
                    None => body_error(error.into_error()),
                }),
            }
        })
    }
}

fn body_error(error: hyper::Error) -> Status {
    Status::unavailable(format!("error reading from server: {}", root_cause(&error)))
}

fn root_cause(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = inner.to_string();
        source = inner.source();
    }
    text
}

#[derive(Default)]
struct State {
    connection: Option<Connection>,
    last_failure: Option<String>,
}

/// An endpoint, and the task that keeps its connection up. The task ends with the slot.
struct Slot {
    endpoint: Endpoint,
    state: Mutex<State>,
    task: OnceLock<AbortHandle>,
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
        self.state().connection = None;
    }

    fn live(&self) -> Option<Connection> {
        self.state().connection.as_ref().filter(|connection| !connection.send.is_closed()).cloned()
    }
}

/// The connections of one client.
pub(crate) struct Pool {
    slots: RwLock<Vec<Arc<Slot>>>,
    turn: AtomicUsize,
    changed: watch::Receiver<()>,
    changing: Arc<watch::Sender<()>>,
    dial: Dial,
    runtime: Handle,
}

impl Pool {
    /// Starts connecting to all `endpoints`, on this runtime.
    pub fn start(endpoints: Vec<Endpoint>, dial: Dial) -> Self {
        let (changing, changed) = watch::channel(());
        let (slots, turn, runtime) = (RwLock::default(), AtomicUsize::new(0), Handle::current());
        let pool = Self { slots, turn, changed, changing: Arc::new(changing), dial, runtime };
        pool.replace(endpoints);
        pool
    }

    /// Goes over to these endpoints. Those that stay keep their connections.
    pub fn replace(&self, endpoints: Vec<Endpoint>) {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let mut old = std::mem::take(&mut *slots);
        for endpoint in endpoints {
            let has_tls = self.dial.tls.is_some();
            let known = old.iter().position(|slot| slot.endpoint.is_same(&endpoint, has_tls));
            slots.push(match known {
                Some(place) => old.swap_remove(place),
                None => self.open(endpoint),
            });
        }
        for slot in old {
            slot.end();
        }
        drop(slots);
        self.changing.send_replace(());
    }

    fn open(&self, endpoint: Endpoint) -> Arc<Slot> {
        let slot = Arc::new(Slot { endpoint, state: Mutex::default(), task: OnceLock::new() });
        let task = self.runtime.spawn(keep_up(slot.clone(), self.dial.clone(), self.changing.clone()));
        // The slot is new, so it has no task yet.
        let _ = slot.task.set(task.abort_handle());
        slot
    }

    fn slots(&self) -> RwLockReadGuard<'_, Vec<Arc<Slot>>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next live connection in turn; waits until there is one.
    pub async fn ready(&self) -> Connection {
        let mut changed = self.changed.clone();
        loop {
            changed.mark_unchanged();
            if let Some(connection) = self.pick() {
                return connection;
            }
            if changed.changed().await.is_err() {
                // The tasks live as long as the pool, so this is a runtime shutting down.
                std::future::pending::<()>().await;
            }
        }
    }

    fn pick(&self) -> Option<Connection> {
        let start = self.turn.fetch_add(1, Ordering::Relaxed);
        let slots = self.slots();
        let count = slots.len();
        (0..count).find_map(|step| slots[start.wrapping_add(step) % count].live())
    }

    /// How many endpoints make a majority: that many failures in a row earn a pause.
    pub fn quorum(&self) -> usize {
        self.slots().len() / 2 + 1
    }

    /// Why the last attempt to connect failed, if nothing is connected.
    pub fn last_failure(&self) -> Option<String> {
        self.slots().iter().find_map(|slot| slot.state().last_failure.clone())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.slots().iter().for_each(|slot| slot.end());
    }
}

async fn keep_up(slot: Arc<Slot>, dial: Dial, changing: Arc<watch::Sender<()>>) {
    let mut backoff = FIRST_BACKOFF;
    loop {
        let attempt = tokio::time::timeout(dial.timeout, connect(&slot.endpoint, &dial)).await;
        let failure = match attempt {
            Ok(Ok((connection, driver))) => {
                backoff = FIRST_BACKOFF;
                *slot.state() = State { connection: Some(connection), last_failure: None };
                changing.send_replace(());
                driver.await;
                slot.state().connection = None;
                continue;
            }
            Ok(Err(text)) => text,
            Err(_) => {
                format!("transport: Error while dialing: dial tcp {}: i/o timeout", slot.endpoint.address)
            }
        };
        slot.state().last_failure = Some(failure);
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(LAST_BACKOFF);
    }
}

type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

async fn connect(endpoint: &Endpoint, dial: &Dial) -> Result<(Connection, Driver), String> {
    let failed = |error: std::io::Error| {
        let network = if matches!(endpoint.address, Address::Unix(_)) { "unix" } else { "tcp" };
        let text = tls::explain(&error);
        format!("transport: Error while dialing: dial {network} {}: connect: {text}", endpoint.address)
    };
    match &endpoint.address {
        Address::Tcp(host) => {
            let stream = TcpStream::connect(host).await.map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            detect_death(&stream);
            let peer = stream.peer_addr().map_err(failed)?.to_string();
            secure(stream, endpoint, peer, dial).await
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(failed)?;
            secure(stream, endpoint, path.display().to_string(), dial).await
        }
    }
}

/// Has the system find out when the other side of a connection is gone without a word: silence is probed,
/// and what was sent must be taken. Where the system refuses, the connection stays as it is.
pub fn detect_death(socket: &TcpStream) {
    use rustix::net::sockopt::{
        set_socket_keepalive, set_tcp_keepidle, set_tcp_keepintvl, set_tcp_user_timeout,
    };
    let _ = set_socket_keepalive(socket, true);
    let _ = set_tcp_keepidle(socket, PROBE_INTERVAL);
    let _ = set_tcp_keepintvl(socket, PROBE_INTERVAL);
    let _ = set_tcp_user_timeout(socket, LONGEST_UNTAKEN.as_millis() as u32);
}

/// Encrypts the connection if the endpoint wants that.
async fn secure<S>(
    stream: S,
    endpoint: &Endpoint,
    peer: String,
    dial: &Dial,
) -> Result<(Connection, Driver), String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let connector = match (endpoint.encryption, &dial.tls) {
        (Encryption::Never, _) | (Encryption::IfAsked, None) => {
            let (connection, driver) = handshake(stream, endpoint, peer, dial).await?;
            return Ok((connection, Box::pin(async move { drop(driver.await) })));
        }
        (_, Some(connector)) => connector.clone(),
        (Encryption::Always, None) => {
            let connector = tls::Connector::new(&tls::Settings::default(), &["h2"], Arc::new(|_| {}));
            connector.map_err(|error| error.to_string())?
        }
    };
    let stream = connector.connect(stream, &endpoint.server_name).await;
    let stream = stream.map_err(|error| format!("transport: authentication handshake failed: {error}"))?;
    let (heard, mut first_bytes) = oneshot::channel();
    let stream = Listening { stream, heard: Some(heard) };
    let (connection, driver) = handshake(stream, endpoint, peer, dial).await?;
    let mut driver = Box::pin(driver);
    // In TLS 1.3 a server says only after the handshake what it thinks of our certificate.
    tokio::select! {
        biased;
        Ok(()) = &mut first_bytes => {}
        ended = &mut driver => {
            let reason = ended.err().map_or("EOF".to_owned(), |error| root_cause(&error));
            return Err(format!("error reading server preface: {reason}"));
        }
    }
    Ok((connection, Box::pin(async move { drop(driver.await) })))
}

/// A stream that tells when its first bytes have come, and why it ended: what the layers above keep of
/// an error is its text.
struct Listening<S> {
    stream: S,
    heard: Option<oneshot::Sender<()>>,
}

impl<S: AsyncRead + Unpin> Listening<S> {
    /// A server that refuses us closes the connection behind its alert. Writing finds out about the
    /// one before reading finds the other.
    fn reason_for(&mut self, context: &mut Context<'_>, error: io::Error) -> io::Error {
        let mut bytes = [0; 64];
        match Pin::new(&mut self.stream).poll_read(context, &mut ReadBuf::new(&mut bytes)) {
            Poll::Ready(Err(reason)) => told(reason),
            _ => error,
        }
    }

    fn written<T>(&mut self, context: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        done.map(|done| done.map_err(|error| self.reason_for(context, error)))
    }
}

fn told(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), tls::explain(&error))
}

impl<S: AsyncRead + Unpin> AsyncRead for Listening<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before
            && let Some(heard) = self.heard.take()
        {
            // Who listened may have given up.
            let _ = heard.send(());
        }
        read.map(|read| read.map_err(told))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Listening<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(context, done)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(context, done)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_flush(context);
        self.written(context, done)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

async fn handshake<S>(
    stream: S,
    endpoint: &Endpoint,
    peer: String,
    dial: &Dial,
) -> Result<(Connection, impl Future<Output = Result<(), hyper::Error>> + Send + use<S>), String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    if !dial.keepalive_time.is_zero() {
        builder
            .keep_alive_interval(dial.keepalive_time.max(SHORTEST_KEEPALIVE))
            .keep_alive_timeout(dial.keepalive_timeout)
            .keep_alive_while_idle(dial.keepalive_while_idle);
    }
    let (send, driver) = builder.handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let connection = Connection { send, authority: endpoint.authority.as_str().into(), peer: peer.into() };
    // Errors of the connection reach the calls on it; here only its end counts.
    Ok((connection, driver))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Client, Options};

    use std::sync::mpsc;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A server that takes connections and hands them over.
    fn server() -> (String, mpsc::Receiver<std::net::TcpStream>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, accepted) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if sender.send(stream).is_err() {
                    return;
                }
            }
        });
        (address, accepted)
    }

    /// The proxy's workers have a client each; the first of them tells all clients about new endpoints.
    /// Connections went over to that worker, and the others waited for it.
    #[test]
    fn connections_stay_on_the_runtime_of_their_client() {
        let ((first, _first), (second, second_accepted)) = (server(), server());
        let home =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let client = home.block_on(Client::connect(Options::new([first.clone()]))).unwrap();
        let guest = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        guest.block_on(async { client.set_endpoints(&[first, second]) });
        drop(guest);
        second_accepted.recv_timeout(PATIENCE).expect("nobody connects");
    }

    /// `--dial-timeout=0s` left a handshake a millisecond, so that it succeeded by luck.
    #[test]
    fn no_limit_of_connecting_is_that_of_grpc() {
        let mut options = Options::new(["127.0.0.1:1"]);
        assert_eq!(options.longest_attempt(), Duration::from_secs(2));
        options.dial_timeout = Duration::ZERO;
        assert_eq!(options.longest_attempt(), crate::client::LONGEST_DIAL);
    }

    #[test]
    fn an_endpoint_written_differently_keeps_its_connection() {
        let (address, _accepted) = server();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(Client::connect(Options::new([address.clone()]))).unwrap();
        let slot = client.shared.pool.slots()[0].clone();
        client.set_endpoints(&["127.0.0.1:1".to_owned(), format!("http://{address}")]);
        let slots = client.shared.pool.slots();
        assert!(slots.len() == 2 && Arc::ptr_eq(&slot, &slots[1]));
    }

    #[test]
    fn silence_is_probed() {
        use rustix::net::sockopt;
        let (address, _accepted) = server();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let stream = runtime.block_on(TcpStream::connect(address)).unwrap();
        assert!(!sockopt::socket_keepalive(&stream).unwrap());
        detect_death(&stream);
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        let interval = Duration::from_secs(15);
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), interval);
        assert_eq!(sockopt::tcp_keepintvl(&stream).unwrap(), interval);
        assert_eq!(sockopt::tcp_user_timeout(&stream).unwrap(), 30_000);
    }
}
