//! The lessor: all leases of a member and their clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use types::LeaseId;

use crate::keys::KeySet;
use crate::queue::{NEVER, Nanos, TimeQueue};
use crate::record::Record;

/// The longest TTL that can be granted.
pub const MAX_TTL_SECONDS: i64 = 9_000_000_000;

/// Expired leases handed out per round; a round comes each 500 ms.
pub const REVOKES_PER_ROUND: usize = 500;

/// Leases that may end in one second after a promotion: three quarters of what can be revoked.
pub const EXPIRIES_PER_SECOND: usize = 750;

/// With fewer leases than this a promotion does not spread them.
const SPREAD_FROM: usize = 1000;

const SECOND: Nanos = 1_000_000_000;

/// The smallest TTL a member grants: one and a half elections, rounded up to seconds.
pub fn minimum_ttl_seconds(election_ticks: u32, heartbeat: Duration) -> i64 {
    let time = heartbeat * (3 * election_ticks / 2);
    time.as_secs() as i64 + i64::from(time.subsec_nanos() > 0)
}

/// Settings of a [`Lessor`].
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Shorter TTLs are raised to this.
    pub minimum_ttl_seconds: i64,
    /// After this time an expired lease that still exists is handed out again: the request timeout.
    pub retry_interval: Duration,
    /// Time between two checkpoints of a lease; `None` = no checkpoints.
    pub checkpoint_interval: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Self { minimum_ttl_seconds: 2, retry_interval: Duration::from_secs(7), checkpoint_interval: None }
    }
}

/// Why a lease is not granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// Id 0 means "no lease".
    #[error("lease not found")]
    ZeroId,
    /// The TTL is above [`MAX_TTL_SECONDS`].
    #[error("too large lease TTL")]
    TtlTooLarge,
    /// The id is in use.
    #[error("lease already exists")]
    Exists,
}

/// A lease id that nobody holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("lease not found")]
pub struct UnknownLease(pub LeaseId);

/// What became of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewOutcome {
    /// Renewed for this many seconds, the granted TTL.
    Renewed(i64),
    /// No such lease: the client is told TTL 0.
    NotFound,
    /// The lease is over and waits for its revocation: the answer is due when it is gone
    /// (`NotFound`) or this member is primary no more.
    ExpiredPending,
    /// The lease has a checkpointed remainder, which a renewal must not survive: propose a
    /// checkpoint of 0 for it, and renew again when that is applied.
    ClearCheckpointFirst,
    /// Only the primary renews.
    NotPrimary,
}

/// Answer to a time-to-live question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeToLive {
    /// The granted TTL.
    pub granted_seconds: i64,
    /// Whole seconds left, truncated; negative when over. `None` while this member is not
    /// primary, so nobody here knows.
    pub remaining_seconds: Option<i64>,
}

/// One line of a list of leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Id of the lease.
    pub id: LeaseId,
    /// The granted TTL.
    pub ttl_seconds: i64,
}

#[derive(Debug)]
struct Lease {
    ttl_seconds: i64,
    /// 0 = no checkpoint.
    remaining_ttl_seconds: i64,
    /// `NEVER` unless primary.
    expiry: Nanos,
    /// Time of the live entry in the expiry queue; `NEVER` = none.
    queued_at: Nanos,
    /// Time of the live entry in the checkpoint queue; `NEVER` = none.
    checkpoint_at: Nanos,
    keys: KeySet,
}

impl Lease {
    fn new(ttl_seconds: i64, remaining_ttl_seconds: i64) -> Self {
        let (expiry, queued_at, checkpoint_at, keys) = (NEVER, NEVER, NEVER, KeySet::Empty);
        Self { ttl_seconds, remaining_ttl_seconds, expiry, queued_at, checkpoint_at, keys }
    }

    /// The TTL that counts when the clock is started anew.
    fn effective_ttl_seconds(&self) -> i64 {
        if self.remaining_ttl_seconds > 0 { self.remaining_ttl_seconds } else { self.ttl_seconds }
    }
}

/// All leases of a member. See the crate documentation.
#[derive(Debug)]
pub struct Lessor {
    options: Options,
    primary: bool,
    leases: HashMap<i64, Lease>,
    holders: HashMap<Arc<[u8]>, i64>,
    expiries: TimeQueue,
    checkpoints: TimeQueue,
}

impl Lessor {
    /// A lessor without leases, not primary.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            primary: false,
            leases: HashMap::new(),
            holders: HashMap::new(),
            expiries: TimeQueue::default(),
            checkpoints: TimeQueue::default(),
        }
    }

    /// Replaces everything by what is stored: the `lease` records, and the lease of each live key.
    /// TTLs below the minimum are raised; keys of unknown leases stay without lease, their number
    /// is returned. The lessor is not primary afterwards.
    pub fn restore(
        &mut self,
        records: impl IntoIterator<Item = Record>,
        attachments: impl IntoIterator<Item = (Bytes, LeaseId)>,
    ) -> usize {
        *self = Self::new(self.options);
        for record in records {
            let ttl = record.ttl_seconds.max(self.options.minimum_ttl_seconds);
            self.leases.insert(record.id.0, Lease::new(ttl, record.remaining_ttl_seconds));
        }
        attachments.into_iter().filter(|(key, id)| self.attach(key, *id).is_err()).count()
    }

    /// Grants a lease and returns what to store. Id 0 must have been replaced before.
    pub fn grant(&mut self, id: LeaseId, ttl_seconds: i64, now: Duration) -> Result<Record, GrantError> {
        if id.0 == 0 {
            return Err(GrantError::ZeroId);
        }
        if ttl_seconds > MAX_TTL_SECONDS {
            return Err(GrantError::TtlTooLarge);
        }
        if self.leases.contains_key(&id.0) {
            return Err(GrantError::Exists);
        }
        let ttl_seconds = ttl_seconds.max(self.options.minimum_ttl_seconds);
        self.leases.insert(id.0, Lease::new(ttl_seconds, 0));
        if self.primary {
            self.refresh(id, now);
            self.schedule_checkpoint(id, now);
        }
        Ok(Record { id, ttl_seconds, remaining_ttl_seconds: 0 })
    }

    /// Ends a lease. Returns its keys in ascending order, which the caller deletes in this order
    /// together with the lease's record.
    pub fn revoke(&mut self, id: LeaseId) -> Option<Vec<Bytes>> {
        let lease = self.leases.remove(&id.0)?;
        let keys = lease.keys.sorted();
        for key in &keys {
            self.holders.remove(&key[..]);
        }
        self.drop_dead_entries();
        Some(keys.into_iter().map(|key| Bytes::copy_from_slice(key)).collect())
    }

    /// Hangs a key on a lease, taking it off another one if needed.
    pub fn attach(&mut self, key: &[u8], id: LeaseId) -> Result<(), UnknownLease> {
        if !self.leases.contains_key(&id.0) {
            return Err(UnknownLease(id));
        }
        if self.holders.get(key) == Some(&id.0) {
            return Ok(());
        }
        self.detach(key);
        let key: Arc<[u8]> = key.into();
        self.holders.insert(key.clone(), id.0);
        if let Some(lease) = self.leases.get_mut(&id.0) {
            lease.keys.insert(key);
        }
        Ok(())
    }

    /// Takes a key off its lease and returns which one that was.
    pub fn detach(&mut self, key: &[u8]) -> Option<LeaseId> {
        let id = self.holders.remove(key)?;
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.remove(key);
        }
        Some(LeaseId(id))
    }

    /// The lease a key hangs on.
    pub fn lease_of(&self, key: &[u8]) -> Option<LeaseId> {
        self.holders.get(key).copied().map(LeaseId)
    }

    /// Whether the lease exists.
    pub fn contains(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id.0)
    }

    /// Number of leases.
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether there is no lease.
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// The keys of a lease, ascending.
    pub fn keys(&self, id: LeaseId) -> Option<Vec<Bytes>> {
        let lease = self.leases.get(&id.0)?;
        Some(lease.keys.sorted().into_iter().map(|key| Bytes::copy_from_slice(key)).collect())
    }

    /// Number of keys of a lease.
    pub fn key_count(&self, id: LeaseId) -> Option<usize> {
        self.leases.get(&id.0).map(|lease| lease.keys.len())
    }

    /// All leases, those first that end first; where no times are known (or equal), by id.
    pub fn leases(&self) -> Vec<LeaseInfo> {
        let mut order: Vec<_> =
            self.leases.iter().map(|(id, lease)| (lease.expiry, *id, lease.ttl_seconds)).collect();
        order.sort_unstable();
        order.into_iter().map(|(_, id, ttl_seconds)| LeaseInfo { id: LeaseId(id), ttl_seconds }).collect()
    }

    /// Granted and remaining TTL.
    pub fn time_to_live(&self, id: LeaseId, now: Duration) -> Option<TimeToLive> {
        let lease = self.leases.get(&id.0)?;
        let remaining = i128::from(lease.expiry) - i128::from(nanos(now));
        let remaining_seconds = (lease.expiry != NEVER).then_some((remaining / i128::from(SECOND)) as i64);
        Some(TimeToLive { granted_seconds: lease.ttl_seconds, remaining_seconds })
    }

    /// Starts the clock of all leases: this member became leader. Each lease gets its remaining
    /// TTL plus `extend` (the election timeout, in which nobody could renew), and from 1000 leases
    /// on no more than [`EXPIRIES_PER_SECOND`] end in any one second.
    pub fn promote(&mut self, now: Duration, extend: Duration) {
        self.primary = true;
        let start = nanos(now).saturating_add(nanos(extend));
        let mut order: Vec<(Nanos, i64)> = self
            .leases
            .iter()
            .map(|(id, lease)| (after_seconds(start, lease.effective_ttl_seconds()), *id))
            .collect();
        if order.len() >= SPREAD_FROM {
            order.sort_unstable();
            for at in EXPIRIES_PER_SECOND..order.len() {
                let earliest = order[at - EXPIRIES_PER_SECOND].0.saturating_add(SECOND);
                order[at].0 = order[at].0.max(earliest);
            }
        }
        for (expiry, id) in &order {
            if let Some(lease) = self.leases.get_mut(id) {
                lease.expiry = *expiry;
                lease.queued_at = *expiry;
                lease.checkpoint_at = NEVER;
            }
        }
        self.expiries.rebuild(order.iter().copied());
        self.checkpoints.rebuild(std::iter::empty());
        if self.options.checkpoint_interval.is_some() {
            for (_, id) in order {
                self.schedule_checkpoint(LeaseId(id), now);
            }
        }
    }

    /// Stops the clock: this member leads no more.
    pub fn demote(&mut self) {
        self.primary = false;
        for lease in self.leases.values_mut() {
            (lease.expiry, lease.queued_at, lease.checkpoint_at) = (NEVER, NEVER, NEVER);
        }
        self.expiries = TimeQueue::default();
        self.checkpoints = TimeQueue::default();
    }

    /// Whether this member lets leases expire and renews them.
    pub fn is_primary(&self) -> bool {
        self.primary
    }

    /// Starts the TTL of a lease anew.
    pub fn renew(&mut self, id: LeaseId, now: Duration) -> RenewOutcome {
        if !self.primary {
            return RenewOutcome::NotPrimary;
        }
        let Some(lease) = self.leases.get_mut(&id.0) else {
            return RenewOutcome::NotFound;
        };
        if lease.expiry <= nanos(now) {
            return RenewOutcome::ExpiredPending;
        }
        if lease.remaining_ttl_seconds > 0 {
            return RenewOutcome::ClearCheckpointFirst;
        }
        let ttl = lease.ttl_seconds;
        self.refresh(id, now);
        RenewOutcome::Renewed(ttl)
    }

    /// Names up to `limit` leases that are over, earliest first. Each is named again after the
    /// retry interval while it exists. Call it each 500 ms with [`REVOKES_PER_ROUND`].
    pub fn expired(&mut self, now: Duration, limit: usize) -> Vec<LeaseId> {
        let retry_at = nanos(now).saturating_add(nanos(self.options.retry_interval).max(1));
        let now = nanos(now);
        let mut expired = Vec::new();
        while self.primary && expired.len() < limit {
            let Some((at, id)) = self.expiries.pop_due(now) else { break };
            let Some(lease) = self.leases.get_mut(&id).filter(|lease| lease.queued_at == at) else {
                continue;
            };
            lease.queued_at = if lease.expiry > now {
                lease.expiry
            } else {
                expired.push(LeaseId(id));
                retry_at
            };
            self.expiries.push(lease.queued_at, id);
        }
        expired
    }

    /// Names up to `limit` leases whose remaining TTL should be written down now, with that TTL
    /// in seconds, rounded up. Upstream puts up to 1000 into one log entry.
    pub fn due_checkpoints(&mut self, now: Duration, limit: usize) -> Vec<(LeaseId, i64)> {
        let mut due = Vec::new();
        while self.primary && due.len() < limit {
            let Some((at, id)) = self.checkpoints.pop_due(nanos(now)) else { break };
            let Some(lease) = self.leases.get_mut(&id).filter(|lease| lease.checkpoint_at == at) else {
                continue;
            };
            lease.checkpoint_at = NEVER;
            let left = lease.expiry.saturating_sub(nanos(now));
            let remaining = left.div_ceil(SECOND) as i64;
            if left > 0 && remaining < lease.ttl_seconds {
                due.push((LeaseId(id), remaining));
            }
            self.schedule_checkpoint(LeaseId(id), now);
        }
        due
    }

    /// Takes over a checkpoint from the log; 0 clears it. Returns what to store if `persist`
    /// (the cluster version is 3.6 or later, or the operator asked for it). The running clock is
    /// not touched: the remainder counts from the next promotion on.
    pub fn checkpoint(
        &mut self,
        id: LeaseId,
        remaining_ttl_seconds: i64,
        persist: bool,
        now: Duration,
    ) -> Option<Record> {
        let lease = self.leases.get_mut(&id.0)?;
        lease.remaining_ttl_seconds = remaining_ttl_seconds;
        let record = Record { id, ttl_seconds: lease.ttl_seconds, remaining_ttl_seconds };
        if self.primary {
            self.schedule_checkpoint(id, now);
        }
        persist.then_some(record)
    }

    /// Time until [`Lessor::expired`] or [`Lessor::due_checkpoints`] may have something to say;
    /// `None` = not before something else happens. May be early, never late.
    pub fn next_event(&self, now: Duration) -> Option<Duration> {
        let first = self.expiries.first().into_iter().chain(self.checkpoints.first()).min()?;
        Some(Duration::from_nanos(first.saturating_sub(nanos(now))))
    }

    /// Sets the expiry to now + TTL. The queue entry, if earlier, moves when it comes up.
    fn refresh(&mut self, id: LeaseId, now: Duration) {
        let Some(lease) = self.leases.get_mut(&id.0) else { return };
        lease.expiry = after_seconds(nanos(now), lease.ttl_seconds);
        if lease.queued_at > lease.expiry {
            lease.queued_at = lease.expiry;
            self.expiries.push(lease.expiry, id.0);
        }
    }

    /// Plans the next checkpoint of a lease that is long enough to deserve one.
    fn schedule_checkpoint(&mut self, id: LeaseId, now: Duration) {
        let Some(interval) = self.options.checkpoint_interval else { return };
        let Some(lease) = self.leases.get_mut(&id.0) else { return };
        lease.checkpoint_at = NEVER;
        if lease.effective_ttl_seconds() > interval.as_secs() as i64 {
            lease.checkpoint_at = nanos(now).saturating_add(nanos(interval).max(1));
            self.checkpoints.push(lease.checkpoint_at, id.0);
        }
        self.drop_dead_entries();
    }

    /// Rebuilds a queue that is mostly made of entries nobody means any more, as grant-and-revoke
    /// of long leases would leave them.
    fn drop_dead_entries(&mut self) {
        let bound = 2 * self.leases.len() + 1024;
        let live = |times: fn(&Lease) -> Nanos| {
            let all = self.leases.iter().map(move |(id, lease)| (times(lease), *id));
            all.filter(|(at, _)| *at != NEVER)
        };
        if self.expiries.len() > bound {
            self.expiries.rebuild(live(|lease| lease.queued_at));
        }
        if self.checkpoints.len() > bound {
            self.checkpoints.rebuild(live(|lease| lease.checkpoint_at));
        }
    }
}

fn nanos(time: Duration) -> Nanos {
    u64::try_from(time.as_nanos()).unwrap_or(NEVER)
}

/// `start` plus whole seconds; stays below [`NEVER`], which means that no clock runs.
fn after_seconds(start: Nanos, seconds: i64) -> Nanos {
    let seconds = u64::try_from(seconds).unwrap_or(0);
    start.saturating_add(seconds.saturating_mul(SECOND)).min(NEVER - 1)
}
