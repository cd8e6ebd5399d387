//! When the member compacts its history by itself.
//!
//! [`Compactor`] is a state machine over injected time: each [`Compactor::interval`] it is asked
//! what is [`Compactor::due`], told the outcome with [`Compactor::done`] if that was good, and
//! given the revision of the moment with [`Compactor::note`].
//!
//! * periodic: revisions are noted ten times per period (at most each 6 minutes). After a first
//!   whole period the revision at its beginning is due, then again each period or each hour,
//!   whichever is shorter, the oldest revision noted: that of one period and one sample ago, as
//!   upstream's window has it. A failed compaction is due again at the next sample.
//! * revision: every 5 minutes all but the newest revisions are due.
//!
//! A member that does not lead keeps noting revisions but compacts nothing.
//!
//! **Source**: etcd `server/etcdserver/api/v3compactor`.

use std::collections::VecDeque;
use std::time::Duration;

/// Time between two looks in revision mode.
const REVISION_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// A period beyond this is compacted each hour.
const LONGEST_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// Samples per period.
const SAMPLES: u32 = 10;

/// What to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// The history of this much time.
    Period(Duration),
    /// This many revisions.
    Revisions(i64),
}

/// Decides what is compacted.
#[derive(Debug)]
pub struct Compactor {
    retention: Retention,
    /// Revisions of the last period, the oldest first; only the periodic mode looks at it.
    noted: VecDeque<i64>,
    last_success: Duration,
    last_revision: i64,
    first_period_over: bool,
}

impl Compactor {
    /// A compactor that starts to watch now, at this revision.
    pub fn new(retention: Retention, now: Duration, revision: i64) -> Self {
        Self {
            retention,
            noted: VecDeque::from([revision]),
            last_success: now,
            last_revision: 0,
            first_period_over: false,
        }
    }

    /// What is kept.
    pub fn retention(&self) -> Retention {
        self.retention
    }

    /// Time from the start, or from the end of the work of one sample, to the next.
    pub fn interval(&self) -> Duration {
        match self.retention {
            Retention::Period(period) => period.min(LONGEST_INTERVAL) / SAMPLES,
            Retention::Revisions(_) => REVISION_INTERVAL,
        }
    }

    /// The revision to compact to now, if one is due. Afterwards [`Compactor::note`] takes the
    /// revision of this moment, or of the end of the compaction.
    pub fn due(&mut self, now: Duration, revision: i64, leads: bool) -> Option<i64> {
        if !leads {
            return None;
        }
        let target = match self.retention {
            Retention::Revisions(keep) => Some(revision - keep).filter(|target| *target > 0)?,
            Retention::Period(period) => {
                let wait = if self.first_period_over { period.min(LONGEST_INTERVAL) } else { period };
                if now.saturating_sub(self.last_success) < wait {
                    return None;
                }
                *self.noted.front()?
            }
        };
        if target == self.last_revision {
            return None;
        }
        self.first_period_over = true;
        Some(target)
    }

    /// Notes the revision of this sample.
    pub fn note(&mut self, revision: i64) {
        let Retention::Period(period) = self.retention else { return };
        let interval = self.interval().as_nanos().max(1);
        let keep = usize::try_from(period.as_nanos() / interval).unwrap_or(usize::MAX - 1) + 1;
        self.noted.push_back(revision);
        while self.noted.len() > keep {
            self.noted.pop_front();
        }
    }

    /// The compaction to this revision succeeded, or somebody else had compacted that far.
    pub fn done(&mut self, now: Duration, revision: i64) {
        self.last_revision = revision;
        self.last_success = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// Runs samples; revisions grow by one each minute. Returns minute and revision of each
    /// compaction.
    fn run(
        retention: Retention,
        minutes: u32,
        mut outcome: impl FnMut(u32) -> (bool, bool),
    ) -> Vec<(u32, i64)> {
        let mut compactor = Compactor::new(retention, Duration::ZERO, 1);
        let mut compacted = Vec::new();
        let step = compactor.interval();
        let mut now = step;
        while now <= MINUTE * minutes {
            let minute = (now.as_secs() / 60) as u32;
            let revision = 1 + i64::from(minute);
            let (leads, succeeds) = outcome(minute);
            if let Some(target) = compactor.due(now, revision, leads) {
                compacted.push((minute, target));
                if succeeds {
                    compactor.done(now, target);
                }
            }
            compactor.note(revision);
            now += step;
        }
        compacted
    }

    #[test]
    fn a_short_period_is_compacted_each_period() {
        let compacted = run(Retention::Period(10 * MINUTE), 31, |_| (true, true));
        assert_eq!(compacted, [(10, 1), (20, 10), (30, 20)]);
    }

    #[test]
    fn a_long_period_is_compacted_each_hour_after_the_first_whole_one() {
        let compacted = run(Retention::Period(180 * MINUTE), 301, |_| (true, true));
        assert_eq!(compacted, [(180, 1), (240, 55), (300, 115)]);
    }

    #[test]
    fn a_failed_compaction_is_tried_at_the_next_sample() {
        let compacted = run(Retention::Period(10 * MINUTE), 12, |minute| (true, minute > 10));
        assert_eq!(compacted, [(10, 1), (11, 1)]);
        let compacted = run(Retention::Period(60 * MINUTE), 67, |minute| (true, minute > 60));
        assert_eq!(compacted, [(60, 1), (66, 1)]);
    }

    #[test]
    fn a_follower_compacts_nothing() {
        assert_eq!(run(Retention::Period(10 * MINUTE), 60, |_| (false, true)), []);
        assert_eq!(run(Retention::Revisions(5), 60, |_| (false, true)), []);
    }

    #[test]
    fn a_number_of_revisions_is_kept() {
        let compacted = run(Retention::Revisions(8), 21, |_| (true, true));
        assert_eq!(compacted, [(10, 3), (15, 8), (20, 13)]);
    }

    #[test]
    fn an_idle_store_is_not_compacted_again() {
        let mut compactor = Compactor::new(Retention::Revisions(2), Duration::ZERO, 1);
        assert_eq!(compactor.due(5 * MINUTE, 10, true), Some(8));
        compactor.done(5 * MINUTE, 8);
        assert_eq!(compactor.due(10 * MINUTE, 10, true), None);
        let mut compactor = Compactor::new(Retention::Period(MINUTE), Duration::ZERO, 10);
        assert_eq!(compactor.due(MINUTE, 10, true), Some(10));
        compactor.done(MINUTE, 10);
        assert_eq!(compactor.due(2 * MINUTE, 10, true), None);
    }
}
