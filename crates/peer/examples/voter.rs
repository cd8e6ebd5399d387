//! A member that votes and replicates but stores nothing: to try the protocol against a real etcd.
//!
//! ```text
//! voter --name b --initial-cluster a=http://127.0.0.1:24101,b=http://127.0.0.1:24102 \
//!       --token t --compat 3.7 [--existing] [--snapshot-dir DIR] [--election-ticks N]
//! ```
//!
//! The log is in memory, so it must not be restarted under the same id. With `--existing` it joins
//! a cluster that has added it. A database that it received is what it sends to members that are
//! too far behind. Once a second it prints what it did.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use consensus::{Consensus, LogState};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use membership::{ConfChange, InitialCluster, Member};
use parking_lot::{Mutex, RwLock};
use peer::net::{Dialer, Listener, Socket};
use peer::{
    Client, Config, Handler, HashKv, HashKvError, Identity, JOIN_TIMEOUT, LeaseError, LeaseTimes, Level, Log,
    OutgoingSnapshot, PromoteError, StepError, Transport,
};
use prost::Message as _;
use proto::etcdserverpb::{InternalRaftRequest, RequestHeader};
use proto::membershippb::{Attributes, ClusterMemberAttrSetRequest};
use proto::raftpb;
use types::{ClusterId, CompatVersion, EntryKind, LeaseId, MemberId, Version};

type Failure = Box<dyn std::error::Error>;

const TICK: Duration = Duration::from_millis(100);

enum Input {
    Message(Box<raftpb::Message>),
    Unreachable(u64),
    Snapshot(u64, bool),
}

/// The member as the transport sees it.
struct Voter {
    inputs: Sender<Input>,
    cluster_id: ClusterId,
    members: RwLock<BTreeMap<MemberId, Member>>,
    removed: RwLock<Vec<MemberId>>,
    /// The snapshot message that came with the database in the snapshot directory.
    snapshot: Mutex<Option<raftpb::Snapshot>>,
    snapshot_dir: PathBuf,
    dropped: AtomicU64,
}

impl Handler for Voter {
    fn step(&self, message: raftpb::Message) -> Result<(), StepError> {
        self.inputs.try_send(Input::Message(Box::new(message))).map_err(|_| {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            StepError::Full
        })
    }

    fn is_removed(&self, id: MemberId) -> bool {
        self.removed.read().contains(&id)
    }

    fn report_unreachable(&self, id: MemberId) {
        let _ = self.inputs.try_send(Input::Unreachable(id.0));
    }

    fn report_snapshot(&self, id: MemberId, arrived: bool) {
        let _ = self.inputs.try_send(Input::Snapshot(id.0, arrived));
    }

    fn removed_from_cluster(&self) {
        println!("REMOVED: the member has been permanently removed from the cluster");
        std::process::exit(0);
    }

    fn open_snapshot(&self, mut message: raftpb::Message) -> Result<OutgoingSnapshot, String> {
        let snapshot = self.snapshot.lock().clone().ok_or("this member never got a database")?;
        let index = snapshot.metadata.as_ref().map_or(0, raftpb::SnapshotMetadata::index);
        let path = self.snapshot_dir.join(wal::snap::db_file_name(index));
        let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
        let bytes = file.metadata().map_err(|error| error.to_string())?.len();
        message.snapshot = Some(snapshot);
        Ok(OutgoingSnapshot { message, bytes, content: Box::new(file) })
    }

    fn members(&self) -> (ClusterId, Vec<Member>) {
        (self.cluster_id, self.members.read().values().cloned().collect())
    }

    fn versions(&self) -> (Option<Version>, Option<Version>) {
        (None, None)
    }

    fn renew_lease(&self, _: LeaseId) -> BoxFuture<'static, Result<i64, LeaseError>> {
        async { Err(LeaseError::NotPrimary) }.boxed()
    }

    fn lease_times(&self, _: LeaseId, _: bool) -> BoxFuture<'static, Result<LeaseTimes, LeaseError>> {
        async { Err(LeaseError::NotPrimary) }.boxed()
    }

    fn promote(
        &self,
        _: MemberId,
        _: Option<String>,
    ) -> BoxFuture<'static, Result<Vec<Member>, PromoteError>> {
        async { Err(PromoteError::NotFound) }.boxed()
    }

    fn hash_kv(&self, _: i64) -> BoxFuture<'static, Result<HashKv, HashKvError>> {
        async { Err(HashKvError::Other("this member stores nothing".to_owned())) }.boxed()
    }

    fn downgrade_enabled(&self) -> BoxFuture<'static, Result<bool, String>> {
        async { Ok(false) }.boxed()
    }
}

struct Arguments {
    name: String,
    initial: InitialCluster,
    token: String,
    compat: CompatVersion,
    existing: bool,
    snapshot_dir: PathBuf,
    election_ticks: usize,
}

fn arguments() -> Result<Arguments, Failure> {
    let mut values = BTreeMap::new();
    let mut rest = std::env::args().skip(1);
    let mut existing = false;
    while let Some(flag) = rest.next() {
        if flag == "--existing" {
            existing = true;
        } else {
            let value = rest.next().ok_or_else(|| format!("{flag} needs a value"))?;
            values.insert(flag, value);
        }
    }
    let mut take = |flag: &str, default: &str| values.remove(flag).unwrap_or(default.to_owned());
    Ok(Arguments {
        name: take("--name", ""),
        initial: InitialCluster::parse(&take("--initial-cluster", ""))?,
        token: take("--token", "etcd-cluster"),
        compat: take("--compat", "3.7").parse()?,
        existing,
        snapshot_dir: take("--snapshot-dir", ".").into(),
        election_ticks: take("--election-ticks", "10").parse()?,
    })
}

fn print_line(level: Level, text: &str, fields: &peer::Fields<'_>) {
    if level > Level::Debug {
        eprintln!("{level:?} {text} {fields:?}");
    }
}

fn main() -> Result<(), Failure> {
    let arguments = arguments()?;
    let urls = arguments.initial.urls(&arguments.name).ok_or("--name is not in --initial-cluster")?.to_vec();
    let dialer = Dialer::new(Duration::from_secs(2), None);
    let log = Log::new(print_line);
    let (cluster_id, members, start) = if arguments.existing {
        join(&arguments, &dialer, &log)?
    } else {
        let members = arguments.initial.members(&arguments.token)?;
        let cluster_id = membership::cluster_id(members.iter().map(|member| member.id));
        let changes = members.iter().map(|member| {
            let change = ConfChange::Add(member.clone()).encode(0);
            (member.id.0, change.encode_to_vec().into())
        });
        (cluster_id, members.clone(), consensus::bootstrap(changes))
    };
    let own = members.iter().find(|member| member.attributes.name == arguments.name).ok_or("not a member")?;
    let id = own.id;
    println!("member {id} of cluster {cluster_id}");

    // The bound of what may wait for the raft thread.
    let (inputs, received) = bounded(8192);
    let voter = Arc::new(Voter {
        inputs,
        cluster_id,
        members: RwLock::new(members.iter().map(|member| (member.id, member.clone())).collect()),
        removed: RwLock::default(),
        snapshot: Mutex::default(),
        snapshot_dir: arguments.snapshot_dir.clone(),
        dropped: AtomicU64::default(),
    });
    let config = Config {
        identity: Identity::new(id, cluster_id, arguments.compat, &urls)?,
        handler: voter.clone(),
        dialer,
        read_timeout: Duration::from_secs(5),
        write_timeout: Duration::from_secs(5),
        snapshot_dir: arguments.snapshot_dir,
        disk: Arc::new(env::real::RealDisk),
        log,
    };
    let listeners = urls.iter().map(|url| {
        let address = url.split("://").nth(1).unwrap_or_default();
        Ok(Listener::plain(Socket::Tcp(TcpListener::bind(address)?), url.clone()))
    });
    let transport = Transport::start(config, listeners.collect::<std::io::Result<_>>()?)?;
    for member in members.iter().filter(|member| member.id != id) {
        if arguments.existing {
            transport.add_remote(member.id, &member.peer_urls)?;
        } else {
            transport.add_peer(member.id, &member.peer_urls)?;
        }
    }
    let election_ticks = arguments.election_ticks;
    let raft =
        Consensus::new(consensus::Config { election_ticks, ..consensus::Config::new(id.0) }, start, id.0)?;
    let seen = Seen::default();
    Raft { id, raft, voter, transport, seen }.run(&received)
}

fn join(
    arguments: &Arguments,
    dialer: &Dialer,
    log: &Log,
) -> Result<(ClusterId, Vec<Member>, LogState), Failure> {
    let others = arguments.initial.iter().filter(|(name, _)| *name != arguments.name);
    let mut urls: Vec<_> = others.flat_map(|(_, urls)| urls.to_vec()).collect();
    urls.sort_unstable();
    let client = Client::new(dialer.clone(), log.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let cluster = runtime.block_on(client.cluster(&urls, JOIN_TIMEOUT))?;
    let members = arguments.initial.match_existing(&cluster.members, membership::same_text)?;
    for member in members.iter().filter(|member| member.attributes.name != arguments.name) {
        let versions = runtime.block_on(client.versions(member.id, &member.peer_urls, JOIN_TIMEOUT));
        let downgrade =
            runtime.block_on(client.downgrade_enabled(member.id, &member.peer_urls, JOIN_TIMEOUT));
        let hash = runtime.block_on(client.hash_kv(&member.peer_urls[0], cluster.id, 0, JOIN_TIMEOUT));
        println!("{}: {versions:?}, downgrade {downgrade:?}, {hash:?}", member.id);
    }
    Ok((cluster.id, members, LogState::default()))
}

/// What was done so far.
#[derive(Default)]
struct Seen {
    committed: u64,
    messages: u64,
    refused: u64,
    unreachable: u64,
    last_index: u64,
    /// Whether the member told its name.
    published: bool,
}

struct Raft {
    id: MemberId,
    raft: Consensus,
    voter: Arc<Voter>,
    transport: Transport,
    seen: Seen,
}

impl Raft {
    fn run(mut self, received: &Receiver<Input>) -> Result<(), Failure> {
        let (mut next_tick, mut next_line) = (Instant::now() + TICK, Instant::now());
        loop {
            let mut input = match received.recv_deadline(next_tick) {
                Ok(input) => Some(input),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            for _ in 0..1024 {
                let Some(next) = input else { break };
                self.take(next);
                input = received.try_recv().ok();
            }
            if let Some(last) = input {
                self.take(last);
            }
            if Instant::now() >= next_tick {
                self.raft.tick();
                next_tick = Instant::now() + TICK;
            }
            self.publish();
            self.work()?;
            if Instant::now() >= next_line {
                next_line = Instant::now() + Duration::from_secs(1);
                self.print();
            }
        }
    }

    /// A member without a name counts as not started, and etcd refuses further changes.
    fn publish(&mut self) {
        if self.seen.published || self.raft.soft_state().leader == 0 || self.seen.last_index == 0 {
            return;
        }
        let attributes =
            Attributes { name: "voter".to_owned(), client_urls: vec!["http://127.0.0.1:1".to_owned()] };
        let request = InternalRaftRequest {
            header: Some(RequestHeader { id: 1, ..Default::default() }),
            cluster_member_attr_set: Some(Box::new(ClusterMemberAttrSetRequest {
                member_id: self.id.0,
                member_attributes: Some(attributes),
            })),
            ..Default::default()
        };
        self.seen.published = self.raft.propose(request.encode_to_vec().into()).is_ok();
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Message(message) => {
                self.seen.messages += 1;
                if message.r#type() == raftpb::MessageType::MsgSnap {
                    *self.voter.snapshot.lock() = message.snapshot.clone();
                }
                if let Err(error) = self.raft.step(*message) {
                    self.seen.refused += 1;
                    eprintln!("refused: {error}");
                }
            }
            Input::Unreachable(id) => {
                self.seen.unreachable += 1;
                self.raft.report_unreachable(id);
            }
            Input::Snapshot(id, arrived) => {
                println!("snapshot to {id:x} arrived: {arrived}");
                self.raft.report_snapshot(id, arrived);
            }
        }
    }

    fn work(&mut self) -> Result<(), Failure> {
        while let Some(ready) = self.raft.ready() {
            // Memory is the disk here: all is persisted at once.
            self.transport.send(ready.messages);
            if let Some(snapshot) = ready.snapshot {
                println!("snapshot received at {:?}", snapshot.position);
                self.take_members_of(&snapshot)?;
                self.seen.last_index = snapshot.position.index;
            }
            self.raft.persisted(ready.number);
            self.transport.send(ready.messages_after_persist);
            for entry in ready.committed {
                self.seen.committed += 1;
                self.seen.last_index = entry.index;
                if entry.kind == EntryKind::ConfChange {
                    self.change(&raftpb::ConfChange::decode(entry.data)?)?;
                }
            }
            self.raft.applied(self.seen.last_index);
        }
        Ok(())
    }

    /// etcd 3.5 and 3.6 send the members along; from 3.7 on they are in the database only.
    fn take_members_of(&mut self, snapshot: &types::Snapshot) -> Result<(), Failure> {
        if snapshot.data.is_empty() {
            println!("no v2 store in the snapshot: members stay as they were fetched");
        } else {
            let stored = membership::read_v2_store(&snapshot.data)?;
            println!("v2 store of {} bytes: {stored:?}", snapshot.data.len());
        }
        let others: Vec<_> = self.voter.members.read().values().cloned().collect();
        for member in others.into_iter().filter(|member| member.id != self.id) {
            self.transport.add_peer(member.id, &member.peer_urls)?;
        }
        Ok(())
    }

    fn change(&mut self, change: &raftpb::ConfChange) -> Result<(), Failure> {
        self.raft.apply_conf_change(change)?;
        let decoded = ConfChange::decode(change)?;
        println!("conf change: {decoded:?}");
        match decoded {
            ConfChange::Add(member) => {
                if member.id != self.id {
                    self.transport.add_peer(member.id, &member.peer_urls)?;
                }
                self.voter.members.write().insert(member.id, member);
            }
            ConfChange::UpdatePeerUrls(member) => self.transport.update_peer(member.id, &member.peer_urls)?,
            ConfChange::Remove(id) => {
                self.voter.removed.write().push(id);
                self.voter.members.write().remove(&id);
                self.transport.remove_peer(id);
            }
            ConfChange::Promote(_) => {}
        }
        Ok(())
    }

    fn print(&self) {
        let (soft, hard) = (self.raft.soft_state(), self.raft.hard_state());
        let sizes: Vec<_> = database_sizes(&self.voter.snapshot_dir);
        println!(
            "{:?} leader {:x} term {} commit {} applied {} entries; messages {} refused {} dropped {} unreachable {}; active peers {}; databases {sizes:?}",
            soft.role,
            soft.leader,
            hard.term,
            hard.commit,
            self.seen.committed,
            self.seen.messages,
            self.seen.refused,
            self.voter.dropped.load(Ordering::Relaxed),
            self.seen.unreachable,
            self.transport.active_peers(),
        );
    }
}

fn database_sizes(dir: &Path) -> Vec<(String, u64)> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let files = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().ends_with(".snap.db"));
    files
        .map(|file| {
            (file.file_name().to_string_lossy().into_owned(), file.metadata().map_or(0, |data| data.len()))
        })
        .collect()
}
