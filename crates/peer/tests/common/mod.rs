//! Members that only talk: a handler that keeps what it is told, and transports on loopback.

#![allow(dead_code)]

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use membership::Member;
use parking_lot::Mutex;
use peer::net::{Dialer, Listener, Socket};
use peer::{
    Config, Handler, HashKv, HashKvError, Identity, LeaseError, LeaseTimes, Level, Log, OutgoingSnapshot,
    PromoteError, StepError, Transport,
};
use proto::raftpb::{Entry, Message, MessageType, Snapshot, SnapshotMetadata};
use types::{ClusterId, CompatVersion, LeaseId, MemberId, Version};

pub const CLUSTER: ClusterId = ClusterId(0xc1);
/// Longer than any healthy machine needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A member that keeps what it is told.
pub struct Recorder {
    messages: Sender<Message>,
    pub received: Receiver<Message>,
    pub removed: Mutex<BTreeSet<MemberId>>,
    pub told_to_stop: AtomicBool,
    pub unreachable: AtomicU64,
    pub snapshots_sent: Mutex<Vec<bool>>,
    pub snapshot_bytes: AtomicUsize,
    /// Breaks the snapshot's content off after so many bytes.
    pub snapshot_breaks_at: AtomicUsize,
    /// Bytes that were read of snapshots' contents.
    pub snapshot_read: Arc<AtomicUsize>,
    pub members: Mutex<Vec<Member>>,
    /// Lines of the log, those for developers left out.
    pub lines: Mutex<Vec<String>>,
}

impl Recorder {
    /// `room` messages are taken before somebody reads them.
    pub fn new(room: Option<usize>) -> Arc<Self> {
        let (messages, received) = room.map_or_else(unbounded, bounded);
        Arc::new(Self {
            messages,
            received,
            removed: Mutex::default(),
            told_to_stop: AtomicBool::default(),
            unreachable: AtomicU64::default(),
            snapshots_sent: Mutex::default(),
            snapshot_bytes: AtomicUsize::default(),
            snapshot_breaks_at: AtomicUsize::new(usize::MAX),
            snapshot_read: Arc::default(),
            members: Mutex::default(),
            lines: Mutex::default(),
        })
    }

    pub fn next(&self) -> Message {
        self.received.recv_timeout(PATIENCE).expect("a message in time")
    }

    pub fn logged(&self, part: &str) -> bool {
        self.lines.lock().iter().any(|line| line.contains(part))
    }
}

impl Handler for Recorder {
    fn step(&self, message: Message) -> Result<(), StepError> {
        self.messages.try_send(message).map_err(|_| StepError::Full)
    }

    fn is_removed(&self, id: MemberId) -> bool {
        self.removed.lock().contains(&id)
    }

    fn report_unreachable(&self, _: MemberId) {
        self.unreachable.fetch_add(1, Ordering::SeqCst);
    }

    fn report_snapshot(&self, _: MemberId, arrived: bool) {
        self.snapshots_sent.lock().push(arrived);
    }

    fn removed_from_cluster(&self) {
        self.told_to_stop.store(true, Ordering::SeqCst);
    }

    fn open_snapshot(&self, message: Message) -> Result<OutgoingSnapshot, String> {
        let bytes = self.snapshot_bytes.load(Ordering::SeqCst);
        let breaks_at = self.snapshot_breaks_at.load(Ordering::SeqCst);
        if bytes == 0 {
            return Err("there is none".to_owned());
        }
        let content = Box::new(Pattern { at: 0, end: bytes, breaks_at, read: self.snapshot_read.clone() });
        Ok(OutgoingSnapshot { message, bytes: bytes as u64, content })
    }

    fn members(&self) -> (ClusterId, Vec<Member>) {
        (CLUSTER, self.members.lock().clone())
    }

    fn versions(&self) -> (Option<Version>, Option<Version>) {
        (Some(Version::new(3, 5, 0)), None)
    }

    fn renew_lease(&self, id: LeaseId) -> BoxFuture<'static, Result<i64, LeaseError>> {
        async move {
            match id.0 {
                7 => Ok(30),
                8 => std::future::pending().await,
                9 => Err(LeaseError::NotPrimary),
                _ => Err(LeaseError::NotFound),
            }
        }
        .boxed()
    }

    fn lease_times(&self, id: LeaseId, keys: bool) -> BoxFuture<'static, Result<LeaseTimes, LeaseError>> {
        async move {
            let keys = if keys { vec!["a".into(), "b".into()] } else { Vec::new() };
            match id.0 {
                7 => Ok(LeaseTimes { granted_seconds: 60, remaining_seconds: 30, keys }),
                9 => Err(LeaseError::NotPrimary),
                _ => Err(LeaseError::NotFound),
            }
        }
        .boxed()
    }

    fn promote(
        &self,
        id: MemberId,
        token: Option<String>,
    ) -> BoxFuture<'static, Result<Vec<Member>, PromoteError>> {
        let members = self.members.lock().clone();
        async move {
            match (id.0, token.as_deref()) {
                (2, Some("secret")) => Ok(members),
                (2, _) => Err(PromoteError::Other("auth: user name is empty".to_owned())),
                (3, _) => Err(PromoteError::NotLearner),
                (4, _) => Err(PromoteError::NotReady),
                _ => Err(PromoteError::NotFound),
            }
        }
        .boxed()
    }

    fn hash_kv(&self, revision: i64) -> BoxFuture<'static, Result<HashKv, HashKvError>> {
        async move {
            match revision {
                0..=9 => Ok(HashKv {
                    hash: 77,
                    compact_revision: -1,
                    hash_revision: revision,
                    current_revision: 9,
                }),
                10 => Err(HashKvError::FutureRevision),
                _ => Err(HashKvError::Compacted),
            }
        }
        .boxed()
    }

    fn downgrade_enabled(&self) -> BoxFuture<'static, Result<bool, String>> {
        async { Ok(true) }.boxed()
    }
}

/// Content of a snapshot: byte `n` is `n % 251`.
struct Pattern {
    at: usize,
    end: usize,
    breaks_at: usize,
    read: Arc<AtomicUsize>,
}

impl std::io::Read for Pattern {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at >= self.breaks_at {
            return Err(std::io::Error::other("the disk is gone"));
        }
        let len = buffer.len().min(self.end - self.at).min(self.breaks_at - self.at);
        for (offset, byte) in buffer[..len].iter_mut().enumerate() {
            *byte = ((self.at + offset) % 251) as u8;
        }
        self.at += len;
        self.read.fetch_add(len, Ordering::SeqCst);
        Ok(len)
    }
}

/// Whether a file holds the whole pattern.
pub fn is_pattern(content: &[u8]) -> bool {
    content.iter().enumerate().all(|(at, byte)| usize::from(*byte) == at % 251)
}

/// A member with its transport.
pub struct Node {
    pub id: MemberId,
    pub url: String,
    pub address: std::net::SocketAddr,
    pub member: Arc<Recorder>,
    pub transport: Transport,
    pub dir: tempfile::TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.transport.stop();
    }
}

/// What may differ between nodes.
pub struct Setting {
    pub cluster: ClusterId,
    pub room: Option<usize>,
    pub read_timeout: Duration,
    /// Address to listen on; any free port if there is none.
    pub listen: Option<std::net::SocketAddr>,
}

impl Default for Setting {
    fn default() -> Self {
        Self { cluster: CLUSTER, room: None, read_timeout: Duration::from_secs(5), listen: None }
    }
}

pub fn dialer() -> Dialer {
    Dialer::new(Duration::from_secs(2), None)
}

pub fn node(id: u64, setting: Setting) -> Node {
    let id = MemberId(id);
    let listen = setting.listen.unwrap_or_else(|| "127.0.0.1:0".parse().unwrap());
    let listener = TcpListener::bind(listen).unwrap();
    let address = listener.local_addr().unwrap();
    let url = format!("http://{address}");
    start(id, setting, url, address, Socket::Tcp(listener))
}

/// A node on a Unix socket in this directory.
pub fn unix_node(id: u64, dir: &std::path::Path) -> Node {
    let path = dir.join(format!("{id}.sock"));
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let url = format!("unix://{}", path.display());
    start(MemberId(id), Setting::default(), url, nowhere, Socket::Unix(listener))
}

fn start(id: MemberId, setting: Setting, url: String, address: std::net::SocketAddr, socket: Socket) -> Node {
    let member = Recorder::new(setting.room);
    let dir = tempfile::tempdir().unwrap();
    let log = {
        let member = member.clone();
        Log::new(move |level, text, fields| {
            if level > Level::Debug {
                member.lines.lock().push(format!("{level:?} {text} {fields:?}"));
            }
        })
    };
    let config = Config {
        identity: Identity::new(id, setting.cluster, CompatVersion::V3_7, &[&url]).unwrap(),
        handler: member.clone(),
        dialer: dialer(),
        read_timeout: setting.read_timeout,
        write_timeout: setting.read_timeout,
        snapshot_dir: dir.path().to_owned(),
        disk: Arc::new(env::real::RealDisk),
        log,
    };
    let listeners = vec![Listener::plain(socket, url.clone())];
    let transport = Transport::start(config, listeners).unwrap();
    Node { id, url, address, member, transport, dir }
}

/// Makes each know the other.
pub fn introduce(one: &Node, other: &Node) {
    one.transport.add_peer(other.id, &[&other.url]).unwrap();
    other.transport.add_peer(one.id, &[&one.url]).unwrap();
}

/// Streams that this node wrote to so far, of both kinds.
pub fn streams_begun(node: &Node) -> usize {
    let established = |line: &&String| line.contains("established") && line.contains("stream-writer-type");
    node.member.lines.lock().iter().filter(established).count()
}

/// Waits until both streams of both directions stand.
pub fn streams_stand(one: &Node, other: &Node) {
    eventually("all streams stand", || streams_begun(one) >= 2 && streams_begun(other) >= 2);
}

pub fn message(kind: MessageType, from: &Node, to: &Node, number: u64) -> Message {
    let entry = Entry {
        r#type: Some(0),
        term: Some(2),
        index: Some(number),
        data: Some(format!("entry {number}").into()),
    };
    let snapshot = Snapshot {
        data: None,
        metadata: Some(SnapshotMetadata {
            conf_state: Some(Default::default()),
            index: Some(number),
            term: Some(2),
        }),
    };
    Message {
        r#type: Some(kind.into()),
        from: Some(from.id.0),
        to: Some(to.id.0),
        term: Some(2),
        log_term: Some(2),
        index: Some(number.saturating_sub(1)),
        entries: if kind == MessageType::MsgApp { vec![entry] } else { Vec::new() },
        snapshot: (kind == MessageType::MsgSnap).then_some(snapshot),
        commit: Some(number),
        ..Default::default()
    }
}
