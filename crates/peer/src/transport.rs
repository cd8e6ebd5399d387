//! The transport of one member: its thread, its peers, what the raft thread calls.
//!
//! | thread | does |
//! |---|---|
//! | `peer` | one single-threaded runtime: all connections, encoding, decoding |
//! | the raft thread | calls [`Transport::send`], which only queues |
//! | blocking threads | one per snapshot that is sent or received, for its file |
//!
//! **Source**: etcd `server/etcdserver/api/rafthttp/transport.go`.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use proto::raftpb;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use types::MemberId;

use crate::context::{Config, Shared};
use crate::metrics::Metrics;
use crate::net::Listener;
use crate::peer::{Peer, Remote};
use crate::server;
use crate::url::{BadUrl, PeerUrl};

/// Unknown members that are answered at a time; more come with somebody who makes ids up.
const MAX_REMOTES: usize = 64;
/// Added to the niceness of threads that read or write a snapshot.
const SNAPSHOT_NICENESS: i32 = 6;
/// How long stopping waits for threads that write a snapshot.
const STOP_WAIT: Duration = Duration::from_secs(1);

/// A running transport. Clones share it; it runs until [`Transport::stop`].
#[derive(Clone)]
pub struct Transport {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport").field("id", &self.inner.shared.id()).finish_non_exhaustive()
    }
}

pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    runtime: Handle,
    members: RwLock<Members>,
    thread: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
}

#[derive(Default)]
struct Members {
    stopped: bool,
    peers: BTreeMap<MemberId, Arc<Peer>>,
    remotes: BTreeMap<MemberId, Arc<Remote>>,
}

impl Transport {
    /// Starts the thread and serves the listeners. There are no peers yet.
    ///
    /// # Errors
    /// The system gives no thread, or a socket cannot be used.
    pub fn start(config: Config, listeners: Vec<Listener>) -> io::Result<Self> {
        let metrics = Arc::new(Metrics::new(config.identity.id));
        let shared = Arc::new(Shared::new(config, metrics));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // Only threads that read and write snapshots: they must not cost those who wait for puts.
            // Where this is refused they compete like everybody else.
            .on_thread_start(|| {
                env::turns::lengthen();
                let _ = rustix::process::nice(SNAPSHOT_NICENESS);
            })
            .build()?;
        let inner = Arc::new(Inner {
            shared,
            runtime: runtime.handle().clone(),
            members: RwLock::default(),
            thread: Mutex::new(None),
        });
        {
            let _in_runtime = runtime.enter();
            for listener in listeners {
                let acceptor = listener.start()?;
                runtime.spawn(server::serve(inner.clone(), acceptor));
            }
        }
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("peer".to_owned()).spawn(move || {
            env::turns::shorten();
            // Ends with the sender, too: nobody could stop the transport any more.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_timeout(STOP_WAIT);
        })?;
        *inner.thread.lock() = Some((stop, thread));
        Ok(Self { inner })
    }

    /// Sends raft messages, each to the member in its `to`. Never blocks; what cannot be queued is
    /// dropped and reported as unreachable. Messages to 0 and to nobody known are ignored.
    ///
    /// A `MsgSnap` makes the transport ask [`crate::Handler::open_snapshot`] for its content.
    pub fn send(&self, messages: Vec<raftpb::Message>) {
        let members = self.inner.members.read();
        let mut touched: Vec<(u64, &Arc<Peer>)> = Vec::new();
        for message in messages {
            let to = message.to();
            if let Some((_, peer)) = touched.iter().find(|(id, _)| *id == to) {
                peer.send(message);
            } else if let Some(peer) = members.peers.get(&MemberId(to)) {
                peer.send(message);
                touched.push((to, peer));
            } else if let Some(remote) = members.remotes.get(&MemberId(to)) {
                remote.send(message);
            } else if to != 0 {
                self.inner.note_unknown(&message);
            }
        }
        for (_, peer) in touched {
            peer.wake();
        }
    }

    /// A member of the cluster from now on. Nothing happens if it is one already.
    ///
    /// # Errors
    /// A URL that no peer can have.
    pub fn add_peer<U: AsRef<str>>(&self, id: MemberId, urls: &[U]) -> Result<(), BadUrl> {
        let parsed = PeerUrl::parse_all(urls)?;
        let inner = &self.inner;
        if inner.peer(id).is_some() || inner.members.read().stopped {
            return Ok(());
        }
        // Made outside of the lock: the raft thread needs it to send.
        let peer = Arc::new(Peer::start(&inner.shared, &inner.runtime, id, parsed));
        let (not_needed, remote) = {
            let mut members = inner.members.write();
            if members.stopped || members.peers.contains_key(&id) {
                (Some(peer), None)
            } else {
                members.peers.insert(id, peer);
                (None, members.remotes.remove(&id))
            }
        };
        drop(not_needed);
        if let Some(remote) = remote {
            remote.finish();
        }
        let urls = ("remote-peer-urls", joined(urls));
        inner.log_member("added remote peer", "remote-peer-id", id, Some(urls));
        Ok(())
    }

    /// Somebody who has to be answered though he is no member yet: the members that a joining one
    /// was told about. Nothing happens if he is known as a member. What he said of himself counts for less than
    /// what is said here: his URLs may have been changed since he started.
    ///
    /// # Errors
    /// A URL that no peer can have.
    pub fn add_remote<U: AsRef<str>>(&self, id: MemberId, urls: &[U]) -> Result<(), BadUrl> {
        self.inner.add_remote(id, urls, Told::ByTheCluster)
    }

    /// A member has other URLs from now on. Connections that work are kept.
    ///
    /// # Errors
    /// A URL that no peer can have.
    pub fn update_peer<U: AsRef<str>>(&self, id: MemberId, urls: &[U]) -> Result<(), BadUrl> {
        let parsed = PeerUrl::parse_all(urls)?;
        let Some(peer) = self.inner.peer(id) else { return Ok(()) };
        peer.update(parsed);
        let urls = ("updated-remote-peer-urls", joined(urls));
        self.inner.log_member("updated remote peer", "updated-remote-peer-id", id, Some(urls));
        Ok(())
    }

    /// A member of the cluster no more: its connections end.
    pub fn remove_peer(&self, id: MemberId) {
        let (peer, remote) = {
            let mut members = self.inner.members.write();
            (members.peers.remove(&id), members.remotes.remove(&id))
        };
        let found = peer.is_some();
        drop((peer, remote));
        let name = "removed-remote-peer-id";
        if found {
            self.inner.log_member("removed remote peer", name, id, None);
        } else {
            let fields = [("local-member-id", self.inner.shared.id().into()), (name, id.into())];
            self.inner.shared.log().warn("skipped removing already removed peer", &fields);
        }
    }

    /// Ends the connections to all members.
    pub fn remove_all_peers(&self) {
        let ids: Vec<_> = self.inner.members.read().peers.keys().copied().collect();
        for id in ids {
            self.remove_peer(id);
        }
    }

    /// Since when a member is reachable without a break; `None` if it is not, or is unknown.
    pub fn active_since(&self, id: MemberId) -> Option<std::time::Instant> {
        let since = self.inner.peer(id)?.active_since()?;
        Some(since.into_std())
    }

    /// How the connection to a member counts for reconfiguration. The member itself is not a peer:
    /// the caller answers for it.
    pub fn link(&self, id: MemberId) -> membership::Link {
        /// A connection counts when it held for so long.
        const LASTING: Duration = Duration::from_secs(5);
        match self.active_since(id) {
            None => membership::Link::Down,
            Some(since) if since.elapsed() < LASTING => membership::Link::Recent,
            Some(_) => membership::Link::Lasting,
        }
    }

    /// How many peers are reachable.
    pub fn active_peers(&self) -> usize {
        let members = self.inner.members.read();
        members.peers.values().filter(|peer| peer.active_since().is_some()).count()
    }

    /// Throws away everything from and to a member, or stops doing so. For tests.
    pub fn pause_peer(&self, id: MemberId, paused: bool) {
        if let Some(peer) = self.inner.peer(id) {
            peer.pause(paused);
        }
    }

    /// What was counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.inner.shared.metrics
    }

    /// Ends all connections and the thread. Must not be called on that thread, so not from a
    /// [`crate::Handler`].
    pub fn stop(&self) {
        let members = {
            let mut members = self.inner.members.write();
            members.stopped = true;
            (std::mem::take(&mut members.peers), std::mem::take(&mut members.remotes))
        };
        drop(members);
        let Some((stop, thread)) = self.inner.thread.lock().take() else { return };
        drop(stop);
        if thread.join().is_err() {
            self.inner.shared.log().error("the thread of the peers ended with a panic", &[]);
        }
    }
}

/// Who named the URLs of somebody who is no member here.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    ByTheCluster,
    ByHimself,
}

impl Inner {
    pub(crate) fn peer(&self, id: MemberId) -> Option<Arc<Peer>> {
        self.members.read().peers.get(&id).cloned()
    }

    pub(crate) fn add_remote<U: AsRef<str>>(
        &self,
        id: MemberId,
        urls: &[U],
        told: Told,
    ) -> Result<(), BadUrl> {
        if id == self.shared.id() || (told == Told::ByHimself && self.knows(id)) {
            return Ok(());
        }
        let parsed = PeerUrl::parse_all(urls)?;
        if self.members.read().remotes.len() >= MAX_REMOTES {
            return Ok(());
        }
        let remote = Arc::new(Remote::start(&self.shared, &self.runtime, id, parsed));
        // Whoever is not needed (any more) is dropped behind the lock.
        let (added, _not_needed) = {
            let mut members = self.members.write();
            let heard = told == Told::ByHimself && members.remotes.contains_key(&id);
            if members.stopped || heard || members.peers.contains_key(&id) {
                (false, Some(remote))
            } else {
                (true, members.remotes.insert(id, remote))
            }
        };
        if !added {
            return Ok(());
        }
        let urls = ("remote-peer-urls", joined(urls));
        self.log_member("added new remote peer", "remote-peer-id", id, Some(urls));
        Ok(())
    }

    fn knows(&self, id: MemberId) -> bool {
        let members = self.members.read();
        members.peers.contains_key(&id) || members.remotes.contains_key(&id)
    }

    fn note_unknown(&self, message: &raftpb::Message) {
        self.shared.log().debug(
            "ignored message send request; unknown remote peer target",
            &[
                ("type", message.r#type().as_str_name().into()),
                ("unknown-target-peer-id", MemberId(message.to()).into()),
            ],
        );
    }

    fn log_member(&self, text: &str, name: &'static str, id: MemberId, urls: Option<(&'static str, String)>) {
        let mut fields = vec![("local-member-id", self.shared.id().into()), (name, id.into())];
        fields.extend(urls.map(|(name, urls)| (name, urls.into())));
        self.shared.log().info(text, &fields);
    }
}

fn joined<U: AsRef<str>>(urls: &[U]) -> String {
    let urls: Vec<_> = urls.iter().map(AsRef::as_ref).collect();
    urls.join(",")
}
