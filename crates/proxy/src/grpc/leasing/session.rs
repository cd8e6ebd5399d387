//! The lease that claims are attached to: kept alive, watched over, replaced when it is lost.
//!
//! One watch sees everything below the prefix: claims of others too, which cost it a glance.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use client::{Client, Error};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use proto::etcdserverpb as pb;
use proto::mvccpb::Event;
use proto::mvccpb::event::EventType;
use server::log;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep, timeout};

use super::claims::Leaving;
use super::requests::{self, REVOKE, lease_key};
use super::{Command, Leasing};
use crate::grpc::upstream::is_refusal;

/// Pause before the next session, and the longest one.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// Pause before a claim is given up once more.
const AGAIN: Duration = Duration::from_millis(100);
/// For so long the lease of a session that is over may take to be revoked.
const PARTING: Duration = Duration::from_secs(5);
/// How often what is outdated is forgotten.
const SWEEP: Duration = Duration::from_secs(2);

/// Why a session is over.
#[derive(Debug, thiserror::Error)]
enum Over {
    #[error("{0}")]
    Refused(#[from] Error),
    #[error("the lease was not renewed: {0}")]
    Lost(Error),
    #[error("the watch of the claims ended")]
    Unwatched,
    #[error("a claim cannot be given up: {0}")]
    Stuck(Error),
    #[error("the claims are no good any more")]
    Ended,
}

/// Keeps a session, for ever.
pub(super) async fn run(leasing: Arc<Leasing>, mut commands: UnboundedReceiver<Command>, ttl: Duration) {
    let mut pause = RETRY.0;
    let mut is_new = true;
    loop {
        let client = leasing.upstream.client().without_timeout();
        let session = Session { leasing: &leasing, client: &client };
        let begun = Instant::now();
        let over = session.hold(&mut commands, ttl).await;
        let Err(over) = over;
        leasing.claims.lock().close();
        if is_new {
            log::warn!(
                "leasing session is over; reads go to the cluster until there is a new one",
                "prefix" => String::from_utf8_lossy(&leasing.prefix),
                "error" => over.to_string()
            );
        }
        // What was good for a while says nothing about the next attempt.
        is_new = begun.elapsed() > RETRY.1;
        pause = if is_new { RETRY.0 } else { (pause * 2).min(RETRY.1) };
        sleep(pause).await;
    }
}

struct Session<'a> {
    leasing: &'a Leasing,
    client: &'a Client,
}

impl Session<'_> {
    /// One session, from its lease to its end.
    async fn hold(
        &self,
        commands: &mut UnboundedReceiver<Command>,
        ttl: Duration,
    ) -> Result<Infallible, Over> {
        self.look(self.client).await?;
        let asked = Instant::now();
        let granted = self.client.grant(i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX)).await?;
        let until = asked + seconds(granted.ttl);
        let over = self.live(commands, &granted, until).await;
        self.leasing.claims.lock().close();
        // One that cannot be revoked ends by itself.
        let _ = timeout(PARTING, self.client.revoke(granted.id)).await;
        over
    }

    async fn live(
        &self,
        commands: &mut UnboundedReceiver<Command>,
        granted: &pb::LeaseGrantResponse,
        until: Instant,
    ) -> Result<Infallible, Over> {
        let (mut key, mut range_end) = client::with_prefix(self.leasing.prefix.clone());
        self.leasing.upstream.namespace.enter(&mut key, &mut range_end);
        let mut watch = self.client.watcher(false).watch_and_notify(pb::WatchCreateRequest {
            key,
            range_end,
            // No claim under this lease is older.
            start_revision: granted.header.unwrap_or_default().revision + 1,
            progress_notify: true,
            ..Default::default()
        });
        let created = watch.next().await.ok_or(Over::Unwatched)??;
        if let Some(error) = client::cancel_error(&created) {
            return Err(error.into());
        }
        while commands.try_recv().is_ok() {
            // Of a session before this one.
        }
        self.leasing.claims.lock().open(granted.id, until);
        log::debug!("leasing session", "lease" => granted.id, "ttl" => granted.ttl);
        let renewing = self.renew(granted.id);
        tokio::pin!(renewing);
        let mut leaving = FuturesUnordered::new();
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                over = &mut renewing => return Err(over),
                answer = watch.next() => {
                    let mut answer = answer.ok_or(Over::Unwatched)??;
                    if let Some(error) = client::cancel_error(&answer) {
                        return Err(error.into());
                    }
                    self.leasing.upstream.namespace.leave_events(&mut answer.events);
                    let revoked = answer.events.iter().filter_map(|event| self.see(event, granted.id));
                    leaving.extend(revoked.map(|one| self.give_up(one)));
                }
                command = commands.recv() => match command {
                    Some(Command::GiveUp(one)) if one.lease == granted.id => leaving.push(self.give_up(one)),
                    // It went with its session.
                    Some(Command::GiveUp(_)) => {}
                    Some(Command::End(lease)) if lease == granted.id => return Err(Over::Ended),
                    Some(Command::End(_)) => {}
                    None => return Err(Over::Ended),
                },
                Some(outcome) = leaving.next() => {
                    let key: Bytes = outcome?;
                    self.leasing.claims.lock().left(&key);
                }
                now = sweep.tick() => self.leasing.claims.lock().sweep(now),
            }
        }
    }

    /// An event below the prefix; gives a claim of ours that somebody wants.
    fn see(&self, event: &Event, lease: i64) -> Option<Leaving> {
        let kv = event.kv.as_ref()?;
        let key = kv.key.slice(self.leasing.prefix.len().min(kv.key.len())..);
        let is_ours = event.r#type() == EventType::Put && kv.lease == lease;
        match (is_ours, &kv.value[..]) {
            (true, REVOKE) => {
                return self.leasing.claims.lock().revoked(&key, kv.mod_revision, Instant::now());
            }
            // A claim of ours, perhaps one whose answer is still on its way.
            (true, b"") if kv.version == 1 => {}
            _ => self.leasing.claims.lock().lost(&key, kv.mod_revision),
        }
        None
    }

    /// Deletes the key of a claim.
    async fn give_up(&self, leaving: Leaving) -> Result<Bytes, Over> {
        let key = lease_key(&self.leasing.prefix, &leaving.key);
        let txn = requests::rescind(key, leaving.created_before);
        loop {
            match self.leasing.upstream.txn(self.client, txn.clone()).await {
                Ok(_) => return Ok(leaving.key),
                Err(error) if is_refusal(&error) => return Err(Over::Stuck(error)),
                Err(_) => sleep(AGAIN).await,
            }
        }
    }

    /// Renews the lease until that does not work any more, or nobody may look any more.
    async fn renew(&self, lease: i64) -> Over {
        loop {
            let Some(until) = self.leasing.claims.lock().until() else { return Over::Ended };
            sleep((until - Instant::now()) / 3).await;
            let asked = Instant::now();
            let client = self.client.with_deadline(Some(until));
            match client.keep_alive_once(lease).await {
                Ok(answer) => self.leasing.claims.lock().extend(lease, asked + seconds(answer.ttl)),
                Err(error) => return Over::Lost(error),
            }
            match self.look(&client).await {
                Err(error) if is_refusal(&error) => return Over::Refused(error),
                _ => {}
            }
        }
    }

    /// Whether a caller without a token may look at the claims.
    async fn look(&self, client: &Client) -> Result<(), Error> {
        let (key, range_end) = client::with_prefix(self.leasing.prefix.clone());
        let look = pb::RangeRequest { key, range_end, limit: 1, keys_only: true, ..Default::default() };
        self.leasing.upstream.range(client, look).await.map(drop)
    }
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(ttl.unsigned_abs())
}
