//! The state machine: one committed entry in; one result, its events and its follow-up out.
//!
//! The only writer of the backend's data. Deterministic: the same entries give the same answers,
//! the same records and the same hashes on every member, whatever the time or the answerer.
//!
//! Invariants:
//! - each entry appends exactly one write set to the backend, which carries the entry's position:
//!   data and consistent index always leave in the same transaction;
//! - an entry at or below the stored consistent index changes nothing any more;
//! - a refused request changes no data, yet still advances the index. The quota is the one
//!   exception: the request that passes it is applied *and* answered with "no space".
//!
//! With auth on, each request is checked here, against users and roles as they are at its place in
//! the log: what the services check before is a courtesy.
//!
//! Runs on the apply thread. Time comes in as an argument and only moves lease expiry, which is
//! not part of the replicated state.
//!
//! **Source**: etcd `server/etcdserver/apply`, `server/etcdserver/txn`.

pub mod access;
mod alarms;
mod auth_requests;
mod kind;
mod kv;
pub mod members;
mod outcome;
pub mod quota;
pub mod range;
mod requests;
pub mod restore;
mod shared;
mod txn;

use std::sync::Arc;
use std::time::Duration;

use backend::{Backend, WriteSet};
use bytes::Bytes;
use mvcc::Store;
use proto::etcdserverpb as pb;
use types::{CompatVersion, Entry, EntryKind, LogPosition, MemberId, RequestId};

pub use alarms::Alarms;
pub use auth_requests::to_change as auth_change;
pub use kind::RequestKind;
pub use outcome::{Applied, ApplyError, FatalApplyError, FollowUp, Reply};
pub use quota::Quota;
pub use shared::{Auth, Shared};
pub use txn::{ReadTxnError, is_read_only, is_serializable, read as read_txn};

/// What the applier needs to know beside the entries.
///
/// Entries whose request id does not start with this member's 16 bits skip the work that only an
/// answer needs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Id of this member.
    pub member: MemberId,
    /// The release that this member stands in for.
    pub compat: CompatVersion,
    /// The space quota.
    pub quota: Quota,
    /// `--bcrypt-cost`, for passwords in clear text in logs of etcd before 3.5.
    pub bcrypt_cost: u32,
}

/// Applies committed entries, in order.
pub struct Applier {
    options: Options,
    backend: Backend,
    store: Arc<Store>,
    shared: Arc<Shared>,
    /// Position of the last entry given to [`Applier::apply`].
    position: LogPosition,
    /// Position up to which the backend held everything when this process opened it.
    restored: LogPosition,
}

/// An entry on its way through the applier.
struct Context {
    position: LogPosition,
    now: Duration,
    /// Somebody here waits for the answer.
    wanted: bool,
}

impl Context {
    fn write_set(&self) -> WriteSet {
        WriteSet { applied: Some(self.position), ..WriteSet::default() }
    }
}

impl Applier {
    /// An applier on a restored store.
    pub fn new(options: Options, backend: Backend, store: Arc<Store>, shared: Arc<Shared>) -> Self {
        let restored = backend.consistent_position();
        Self { options, backend, store, shared, position: restored, restored }
    }

    /// Position of the last entry applied.
    pub fn position(&self) -> LogPosition {
        self.position
    }

    /// Applies one committed entry. `now` is the monotonic time.
    ///
    /// Entries that the backend already held at start only pass through: conf changes among them
    /// are still reported, because consensus starts from an older configuration.
    ///
    /// # Errors
    /// The entry cannot be applied by this build: the member must stop without advancing.
    pub fn apply(&mut self, entry: &Entry, now: Duration) -> Result<Applied, FatalApplyError> {
        let position = LogPosition { index: entry.index, term: entry.term };
        assert!(
            position.index > self.position.index || position.index <= self.restored.index,
            "entry {} came after entry {}",
            position.index,
            self.position.index,
        );
        let replayed = position.index <= self.restored.index;
        let mut context = Context { position, now, wanted: false };
        let applied = match entry.kind {
            EntryKind::Normal if replayed => Applied::nothing(),
            EntryKind::Normal if entry.data.is_empty() => {
                self.backend.append(context.write_set());
                // Not the only empty entry of its term: consensus puts one in the place of a conf
                // change that it refuses.
                match self.position.term < entry.term {
                    true => Applied::follow_up(FollowUp::FirstCommitInTerm { term: entry.term }),
                    false => Applied::nothing(),
                }
            }
            EntryKind::Normal => self.apply_normal(&entry.data, &mut context)?,
            EntryKind::ConfChange => self.apply_conf_change(&entry.data, &context, replayed)?,
            EntryKind::ConfChangeV2 => return Err(FatalApplyError::ConfChangeV2 { index: entry.index }),
        };
        if !replayed {
            self.position = position;
        }
        Ok(applied)
    }

    fn apply_normal(&mut self, data: &Bytes, context: &mut Context) -> Result<Applied, FatalApplyError> {
        let index = context.position.index;
        let request = match membership::decode_entry(data.clone()) {
            Ok(Some(request)) => request,
            Ok(None) => {
                self.backend.append(context.write_set());
                return Ok(Applied::nothing());
            }
            Err(source) => return Err(FatalApplyError::Undecodable { index, source: source.into() }),
        };
        let id = request_id(&request);
        context.wanted = self.is_own(id);
        let kind = RequestKind::of(&request);
        let mut applied = self.dispatch(request, context)?;
        applied.kind = Some(kind);
        applied.request = (id != RequestId::default()).then_some(id);
        Ok(applied)
    }

    /// Whether the request may come from this member: its id starts with the member's 16 bits.
    fn is_own(&self, id: RequestId) -> bool {
        id.0 >> 48 == self.options.member.0 & 0xffff
    }

    /// The current header of answers that report only the store's revision.
    fn header(&self) -> Option<pb::ResponseHeader> {
        Some(range::header(self.store.current_revision()))
    }
}

/// The id under which somebody may wait for the request.
fn request_id(request: &pb::InternalRaftRequest) -> RequestId {
    match (request.id, &request.header) {
        (0, Some(header)) => RequestId(header.id),
        (id, _) => RequestId(id),
    }
}

impl Applied {
    fn nothing() -> Self {
        Self {
            request: None,
            kind: None,
            result: Ok(Reply::Empty),
            events: None,
            follow_up: None,
            note: None,
        }
    }

    fn reply(reply: Reply) -> Self {
        Self { result: Ok(reply), ..Self::nothing() }
    }

    fn refuse(error: impl Into<ApplyError>) -> Self {
        Self { result: Err(error.into()), ..Self::nothing() }
    }

    fn follow_up(follow_up: FollowUp) -> Self {
        Self { follow_up: Some(follow_up), ..Self::nothing() }
    }

    fn with(self, follow_up: FollowUp) -> Self {
        Self { follow_up: Some(follow_up), ..self }
    }
}
