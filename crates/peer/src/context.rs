//! What all parts of a transport share.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use env::Disk;
use proto::raftpb::{self, MessageType};
use types::MemberId;

use crate::handler::{Handler, StepError};
use crate::identity::Identity;
use crate::link::LinkLimits;
use crate::log::{Limiter, Log};
use crate::metrics::Metrics;
use crate::net::Dialer;

/// How to run a transport.
pub struct Config {
    /// This member.
    pub identity: Identity,
    /// The member behind.
    pub handler: Arc<dyn Handler>,
    /// Connects to peers.
    pub dialer: Dialer,
    /// How long a connection may be silent while it should speak: `--raft-read-timeout`, 5 s.
    pub read_timeout: Duration,
    /// How long a single write may wait: `--raft-write-timeout`, 5 s.
    pub write_timeout: Duration,
    /// Where received snapshots are kept.
    pub snapshot_dir: PathBuf,
    /// The disk it is on.
    pub disk: Arc<dyn Disk>,
    /// Takes log lines.
    pub log: Log,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("identity", &self.identity).finish_non_exhaustive()
    }
}

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) metrics: Arc<Metrics>,
    full_queue_lines: Limiter,
}

/// Why a message from a peer went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Undelivered {
    #[error("cannot process message from removed member")]
    Removed,
    #[error("cannot process message to mismatch member")]
    NotForUs,
    #[error("a snapshot came without its database")]
    SnapshotWithoutContent,
    #[error(transparent)]
    Step(#[from] StepError),
}

impl Shared {
    pub(crate) fn new(config: Config, metrics: Arc<Metrics>) -> Self {
        Self { config, metrics, full_queue_lines: Limiter::default() }
    }

    pub(crate) fn id(&self) -> MemberId {
        self.config.identity.id
    }

    pub(crate) fn log(&self) -> &Log {
        &self.config.log
    }

    pub(crate) fn handler(&self) -> &dyn Handler {
        &*self.config.handler
    }

    /// Limits of a connection for requests with an answer.
    pub(crate) fn request_limits(&self) -> LinkLimits {
        // The answer comes after the message went to the raft thread, which may be busy.
        LinkLimits { write: self.config.write_timeout, response: 2 * self.config.read_timeout }
    }

    /// Limits of a connection that is dialed for a stream.
    pub(crate) fn stream_limits(&self) -> LinkLimits {
        LinkLimits { write: self.config.write_timeout, response: self.config.read_timeout }
    }

    /// Hands a message from a peer to raft. A snapshot comes through
    /// [`Shared::deliver_snapshot`] only, when its content is saved.
    pub(crate) fn deliver(&self, message: raftpb::Message) -> Result<(), Undelivered> {
        if message.r#type() == MessageType::MsgSnap {
            return Err(Undelivered::SnapshotWithoutContent);
        }
        self.admit(&message)?;
        Ok(self.handler().step(message)?)
    }

    /// Hands a snapshot to raft whose content is saved.
    pub(crate) fn deliver_snapshot(&self, message: raftpb::Message) -> Result<(), Undelivered> {
        self.admit(&message)?;
        Ok(self.handler().step(message)?)
    }

    /// Whether a message is one for this member from somebody who may send it.
    pub(crate) fn admit(&self, message: &raftpb::Message) -> Result<(), Undelivered> {
        if message.to() != self.id().0 {
            return Err(Undelivered::NotForUs);
        }
        if self.handler().is_removed(MemberId(message.from())) {
            return Err(Undelivered::Removed);
        }
        Ok(())
    }

    /// Writes down that a received message went no further.
    pub(crate) fn note_undelivered(
        &self,
        kind: MessageType,
        from: MemberId,
        peer_active: bool,
        error: Undelivered,
    ) {
        self.metrics.peer(from).received_failures.inc();
        let Some(held_back) = self.full_queue_lines.pass() else { return };
        let fields = [
            ("message-type", kind.as_str_name().into()),
            ("local-member-id", self.id().into()),
            ("from", from.into()),
            ("remote-peer-id", self.id().into()),
            ("remote-peer-active", peer_active.into()),
            ("error", error.to_string().into()),
            ("lines-held-back", held_back.into()),
        ];
        let text = match (error, peer_active) {
            (Undelivered::Step(StepError::Full), true) => {
                "dropped internal Raft message since receiving buffer is full (overloaded network)"
            }
            (Undelivered::Step(StepError::Full), false) => {
                "dropped Raft message since receiving buffer is full (overloaded network)"
            }
            _ => "failed to process Raft message",
        };
        self.log().warn(text, &fields);
    }
}
