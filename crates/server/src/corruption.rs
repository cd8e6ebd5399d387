//! Comparing the data of the members by their hashes.
//!
//! | check | when | what is compared | a difference |
//! |---|---|---|---|
//! | at start | gate `InitialCorruptCheck`, before peers and clients are served | own hash at the own revision | the member does not start |
//! | periodic | `--corrupt-check-time`, on the leader | own hash now, around a read point | alarm CORRUPT, one per round |
//! | compactions | gate `CompactHashCheck`, `--compact-hash-check-time`, on the leader | hashes that every member took when it compacted | alarm CORRUPT for the minority |
//!
//! Hashes say something only where the compaction point is the same as well: what a compaction
//! has not reached yet is hashed or not depending on it.
//!
//! What follows from the answers is decided by plain functions; the tasks around them only ask.
//!
//! **Source**: etcd `server/etcdserver/corrupt.go`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use membership::Cluster;
use mvcc::{HashKv, ReadError, Store};
use peer::{Client, HashKvError};
use proto::etcdserverpb as pb;
use tokio::time::{Instant, interval_at};
use types::{ClusterId, MemberId};

use crate::log::{self, Field};
use crate::node::{self, Node};

/// What a member said about its data.
#[derive(Clone, Debug)]
pub struct PeerHash {
    /// The member.
    pub id: MemberId,
    /// Where it was asked.
    pub urls: Vec<String>,
    /// Its answer, or that of its last URL.
    pub answer: Result<peer::HashKv, HashKvError>,
}

/// Whom to ask, and how.
pub struct Asker<'a> {
    /// Asks.
    pub client: &'a Client,
    /// Id of the cluster.
    pub cluster_id: ClusterId,
    /// Id of this member.
    pub own: MemberId,
    /// How long each URL may take.
    pub timeout: Duration,
}

impl Asker<'_> {
    /// The hashes of all other members at a revision. They are asked at the same time.
    pub async fn hashes(&self, cluster: &Cluster, revision: i64) -> Vec<PeerHash> {
        let others = cluster.members().filter(|member| member.id != self.own && !member.peer_urls.is_empty());
        join_all(others.map(|member| self.hash(member.id, member.peer_urls.clone(), revision))).await
    }

    async fn hash(&self, id: MemberId, urls: Vec<String>, revision: i64) -> PeerHash {
        let mut answer = Err(HashKvError::Other("no URL".to_owned()));
        for url in &urls {
            answer = self.client.hash_kv(url, self.cluster_id, revision, self.timeout).await;
            match &answer {
                Ok(_) => break,
                Err(error) => log::warn!("failed hash kv request",
                    "local-member-id" => self.own, "requested-revision" => revision,
                    "remote-peer-endpoint" => url, "error" => error.to_string()),
            }
        }
        PeerHash { id, urls, answer }
    }
}

/// Why a member does not start.
#[derive(Debug, thiserror::Error)]
pub enum InitialError {
    /// Its own store could not be hashed.
    #[error("{0} failed to fetch hash ({1})")]
    Own(MemberId, ReadError),
    /// Its data is not that of the others.
    #[error("{0} found data inconsistency with peers")]
    Inconsistent(MemberId),
}

/// Compares the data of a member that starts with that of the others, as far as they answer.
///
/// # Errors
/// The data differs, or could not be read.
pub async fn check_at_start(asker: &Asker<'_>, cluster: &Cluster, store: &Store) -> Result<(), InitialError> {
    let own = asker.own;
    log::info!("starting initial corruption check",
        "local-member-id" => own, "timeout" => asker.timeout);
    let hash = store.hash_kv(0).map_err(|error| InitialError::Own(own, error))?;
    let peers = asker.hashes(cluster, hash.hash_revision).await;
    if differences_at_start(own, &hash, &peers) > 0 {
        let error = InitialError::Inconsistent(own);
        log::error!("checkInitialHashKV failed", "error" => error.to_string());
        return Err(error);
    }
    log::info!("initial corruption checking passed; no corruption", "local-member-id" => own);
    Ok(())
}

/// How many members hold other data at the same revision and compaction point.
fn differences_at_start(own: MemberId, hash: &HashKv, peers: &[PeerHash]) -> usize {
    let mut differences = 0;
    for peer in peers {
        let mut fields: Vec<Field<'_>> = vec![
            ("local-member-id", own.into()),
            ("local-member-revision", hash.hash_revision.into()),
            ("local-member-compact-revision", hash.compact_revision.into()),
            ("local-member-hash", hash.hash.into()),
            ("remote-peer-id", peer.id.into()),
            ("remote-peer-endpoints", (&peer.urls).into()),
        ];
        match &peer.answer {
            Ok(theirs) if theirs.hash == hash.hash => {}
            Ok(theirs) => {
                fields.extend([
                    ("remote-peer-revision", theirs.current_revision.into()),
                    ("remote-peer-compact-revision", theirs.compact_revision.into()),
                    ("remote-peer-hash", theirs.hash.into()),
                ]);
                if theirs.compact_revision == hash.compact_revision {
                    differences += 1;
                    log::warn("found different hash values from remote peer", &fields);
                } else {
                    log::warn("found different compact revision values from remote peer", &fields);
                }
            }
            Err(HashKvError::FutureRevision) => {
                log::warn("cannot fetch hash from slow remote peer", &fields);
            }
            Err(HashKvError::Compacted) => {
                log::warn("cannot fetch hash from remote peer; local member is behind", &fields);
            }
            Err(HashKvError::ClusterIdMismatch) => log::warn("cluster ID mismatch", &fields),
            Err(HashKvError::Other(_)) => {}
        }
    }
    differences
}

/// Compares the data of all members again and again, while this one leads.
pub async fn watch(node: Node, period: Duration) {
    log::info!("enabled corruption checking", "local-member-id" => node.id(), "interval" => period);
    let mut tick = interval_at(Instant::now() + period, period);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if node.progress().is_leader()
            && let Err(error) = check_now(&node).await
        {
            log::warn!("failed to check hash KV", "error" => error.to_string());
        }
    }
}

async fn check_now(node: &Node) -> Result<(), node::Error> {
    let before = own_hash(node).await?;
    let peers = ask_peers(node, before.hash_revision).await;
    // Behind the read point this member has whatever the others could have had when they answered.
    node.read_index().await?;
    let after = own_hash(node).await?;
    if let Some(suspect) = suspect(node.id(), &before, &after, &peers) {
        raise_alarm(node, suspect);
    }
    let answered = peers.iter().filter(|peer| peer.answer.is_ok()).count();
    log::info!("finished peer corruption check", "number-of-peers-checked" => answered as u64);
    Ok(())
}

/// Who holds data that the leader cannot explain: the first one found.
fn suspect(own: MemberId, before: &HashKv, after: &HashKv, peers: &[PeerHash]) -> Option<MemberId> {
    let mut found = None;
    let same_place = |hash: &HashKv| (hash.hash_revision, hash.compact_revision);
    if before.hash != after.hash && same_place(before) == same_place(after) {
        log::warn!("found hash mismatch",
            "revision-1" => before.hash_revision, "compact-revision-1" => before.compact_revision,
            "hash-1" => before.hash, "revision-2" => after.hash_revision,
            "compact-revision-2" => after.compact_revision, "hash-2" => after.hash);
        found.get_or_insert(own);
    }
    let answers = peers.iter().filter_map(|peer| Some((peer.id, peer.answer.as_ref().ok()?)));
    for (id, theirs) in answers {
        if theirs.current_revision > after.current_revision {
            log::warn!("revision from follower must be less than or equal to leader's",
                "leader-revision" => after.current_revision,
                "follower-revision" => theirs.current_revision, "follower-peer-id" => id);
            found.get_or_insert(id);
        }
        if theirs.compact_revision > after.compact_revision {
            log::warn!("compact revision from follower must be less than or equal to leader's",
                "leader-compact-revision" => after.compact_revision,
                "follower-compact-revision" => theirs.compact_revision, "follower-peer-id" => id);
            found.get_or_insert(id);
        }
        if theirs.compact_revision == before.compact_revision && theirs.hash != before.hash {
            log::warn!("same compact revision then hashes must match",
                "leader-compact-revision" => after.compact_revision, "leader-hash" => before.hash,
                "follower-compact-revision" => theirs.compact_revision,
                "follower-hash" => theirs.hash, "follower-peer-id" => id);
            found.get_or_insert(id);
        }
    }
    found
}

/// Compares the hashes of compactions again and again, while this member leads.
pub async fn watch_compactions(node: Node, period: Duration) {
    let mut checked = 0;
    loop {
        tokio::time::sleep(period).await;
        if node.progress().is_leader() {
            check_compactions(&node, &mut checked).await;
        }
    }
}

/// `checked`: the newest revision at which all members were found to agree.
async fn check_compactions(node: &Node, checked: &mut i64) {
    log::info!("starting compact hash check",
        "local-member-id" => node.id(), "timeout" => node.request_timeout());
    let mut hashes = node.parts().store.compaction_hashes();
    hashes.retain(|hash| hash.hash_revision > *checked);
    hashes.sort_unstable_by_key(|hash| std::cmp::Reverse(hash.hash_revision));
    let mut asked = 0;
    for hash in &hashes {
        asked += 1;
        let peers = ask_peers(node, hash.hash_revision).await;
        if peers.is_empty() {
            continue;
        }
        match compare_compaction(node.id(), hash, &peers) {
            Agreement::Unknown => {}
            Agreement::All => {
                *checked = (*checked).max(hash.hash_revision);
                break;
            }
            Agreement::Broken(suspects) => {
                suspects.into_iter().for_each(|suspect| raise_alarm(node, suspect));
                break;
            }
        }
    }
    log::info!("finished compaction hash check", "number-of-hashes-checked" => asked as u64);
}

/// What the hashes of one compaction say.
#[derive(Debug, PartialEq, Eq)]
enum Agreement {
    /// All members hold the same.
    All,
    /// Those that answered hold the same.
    Unknown,
    /// These members differ from the majority; member 0 stands for "nobody knows who is right".
    Broken(Vec<MemberId>),
}

fn compare_compaction(own: MemberId, hash: &HashKv, peers: &[PeerHash]) -> Agreement {
    let mut holders = BTreeMap::from([(hash.hash, vec![own])]);
    let mut compared = 0;
    for peer in peers {
        let reason = match &peer.answer {
            Ok(theirs) if theirs.compact_revision == hash.compact_revision => {
                compared += 1;
                holders.entry(theirs.hash).or_default().push(peer.id);
                continue;
            }
            Ok(theirs) => format!(
                "the peer's CompactRevision {} doesn't match leader's CompactRevision {}",
                theirs.compact_revision, hash.compact_revision
            ),
            Err(_) => "no response".to_owned(),
        };
        log::warn!("Skipped peer's hash", "number-of-peers" => peers.len() as u64,
            "leader-id" => own, "peer-id" => peer.id, "reason" => reason);
    }
    if holders.len() == 1 {
        return agreed(hash, compared, peers.len());
    }

    let leader: [Field<'_>; 4] = [
        ("leader-id", own.into()),
        ("leader-revision", hash.hash_revision.into()),
        ("leader-compact-revision", hash.compact_revision.into()),
        ("leader-hash", hash.hash.into()),
    ];
    let members = peers.len() + 1;
    let quorum = members / 2 + 1;
    let majority = holders.iter().find(|(_, ids)| ids.len() >= quorum).map(|(hash, _)| *hash);
    match majority {
        Some(right) => drop(holders.remove(&right)),
        None => log::error(
            "Detected compaction hash mismatch but cannot identify the corrupted members, so intentionally set \
             the memberID as 0",
            &leader,
        ),
    }
    for (hash, ids) in &holders {
        let ids: Vec<String> = ids.iter().map(MemberId::to_string).collect();
        let more: [Field<'_>; 3] = [
            ("peer-hash", (*hash).into()),
            ("peer-ids", ids.join(",").into()),
            ("quorum-exist", majority.is_some().into()),
        ];
        log::error("Detected compaction hash mismatch", &[&leader[..], &more[..]].concat());
    }
    Agreement::Broken(match majority {
        Some(_) => holders.into_values().flatten().collect(),
        None => vec![MemberId(0)],
    })
}

fn agreed(hash: &HashKv, compared: usize, peers: usize) -> Agreement {
    if compared == peers {
        log::info!("successfully checked hash on whole cluster",
            "number-of-peers-checked" => compared as u64, "revision" => hash.hash_revision,
            "compactRevision" => hash.compact_revision);
        return Agreement::All;
    }
    log::warn!("skipped revision in compaction hash check; was not able to check all peers",
        "number-of-peers-checked" => compared as u64, "number-of-peers" => peers as u64,
        "revision" => hash.hash_revision, "compactRevision" => hash.compact_revision);
    Agreement::Unknown
}

async fn own_hash(node: &Node) -> Result<HashKv, node::Error> {
    let store: Arc<Store> = node.parts().store.clone();
    let hashed = tokio::task::spawn_blocking(move || store.hash_kv(0)).await;
    match hashed {
        Ok(Ok(hash)) => Ok(hash),
        Ok(Err(error)) => Err(node::Error::Backend(error.to_string())),
        Err(_) => Err(node::Error::Stopped),
    }
}

async fn ask_peers(node: &Node, revision: i64) -> Vec<PeerHash> {
    let asker = Asker {
        client: &node.parts().client,
        cluster_id: node.cluster_id(),
        own: node.id(),
        timeout: node.request_timeout(),
    };
    let cluster = node.shared().cluster();
    asker.hashes(&cluster, revision).await
}

/// Raises CORRUPT for a member without waiting for it.
fn raise_alarm(node: &Node, suspect: MemberId) {
    let node = node.clone();
    tokio::task::spawn_local(async move {
        let alarm = pb::AlarmRequest {
            action: pb::alarm_request::AlarmAction::Activate as i32,
            member_id: suspect.0,
            alarm: pb::AlarmType::Corrupt as i32,
        };
        let request = pb::InternalRaftRequest { alarm: Some(Box::new(alarm)), ..Default::default() };
        if let Err(error) = node.propose_internal(request).await {
            log::warn!("failed to raise the CORRUPT alarm", "error" => error.to_string());
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: MemberId = MemberId(1);

    fn own(hash: u32, compact_revision: i64, revision: i64) -> HashKv {
        HashKv { hash, compact_revision, hash_revision: revision, current_revision: revision }
    }

    fn peer(id: u64, hash: u32, compact_revision: i64, current_revision: i64) -> PeerHash {
        let answer = peer::HashKv { hash, compact_revision, hash_revision: 0, current_revision };
        PeerHash { id: MemberId(id), urls: Vec::new(), answer: Ok(answer) }
    }

    fn silent(id: u64) -> PeerHash {
        let answer = Err(HashKvError::Other("connection refused".to_owned()));
        PeerHash { id: MemberId(id), urls: Vec::new(), answer }
    }

    #[test]
    fn at_start_only_the_same_compaction_point_counts() {
        let hash = own(7, 3, 9);
        let count = |peers: &[PeerHash]| differences_at_start(OWN, &hash, peers);
        assert_eq!(count(&[peer(2, 7, 3, 9), silent(3)]), 0);
        assert_eq!(count(&[peer(2, 8, 5, 9)]), 0);
        assert_eq!(count(&[peer(2, 8, 3, 9), peer(3, 9, 3, 20), peer(4, 7, 3, 9)]), 2);
        let slow = PeerHash { answer: Err(HashKvError::FutureRevision), ..silent(2) };
        let ahead = PeerHash { answer: Err(HashKvError::Compacted), ..silent(3) };
        assert_eq!(count(&[slow, ahead]), 0);
    }

    #[test]
    fn the_leader_suspects_what_it_cannot_explain() {
        let (before, after) = (own(7, 3, 9), own(8, 3, 12));
        let find = |peers: &[PeerHash]| suspect(OWN, &before, &after, peers);
        assert_eq!(find(&[peer(2, 7, 3, 9), peer(3, 7, 3, 12), silent(4)]), None);
        assert_eq!(find(&[peer(2, 9, 2, 9)]), None, "it has not compacted yet");
        assert_eq!(find(&[peer(2, 7, 3, 13)]), Some(MemberId(2)), "ahead of the leader");
        assert_eq!(find(&[peer(2, 7, 4, 9)]), Some(MemberId(2)), "compacted what the leader has not");
        assert_eq!(find(&[peer(2, 7, 3, 9), peer(3, 9, 3, 9), peer(4, 9, 3, 9)]), Some(MemberId(3)));
        assert_eq!(suspect(OWN, &before, &own(8, 3, 9), &[]), Some(OWN), "its own data changed");
        assert_eq!(suspect(OWN, &before, &own(8, 5, 9), &[]), None);
    }

    #[test]
    fn the_minority_of_a_compaction_is_broken() {
        let hash = own(7, 3, 9);
        let compare = |peers: &[PeerHash]| compare_compaction(OWN, &hash, peers);
        let broken = |ids: &[u64]| Agreement::Broken(ids.iter().copied().map(MemberId).collect());
        assert_eq!(compare(&[peer(2, 7, 3, 9), peer(3, 7, 3, 9)]), Agreement::All);
        assert_eq!(compare(&[peer(2, 7, 3, 9), silent(3)]), Agreement::Unknown);
        assert_eq!(compare(&[peer(2, 8, 4, 9), peer(3, 7, 3, 9)]), Agreement::Unknown);
        assert_eq!(compare(&[peer(2, 8, 3, 9), peer(3, 7, 3, 9)]), broken(&[2]));
        assert_eq!(compare(&[peer(2, 8, 3, 9), peer(3, 8, 3, 9)]), broken(&[1]), "the leader itself");
        assert_eq!(compare(&[peer(2, 8, 3, 9)]), broken(&[0]), "one against one");
        assert_eq!(compare(&[peer(2, 8, 3, 9), silent(3)]), broken(&[0]), "who is silent counts");
        let four = [peer(2, 7, 3, 9), peer(3, 8, 3, 9), peer(4, 8, 3, 9)];
        assert_eq!(compare(&four), broken(&[0]), "two against two");
    }
}
