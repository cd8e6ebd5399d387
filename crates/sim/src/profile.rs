//! What a seed decides at the start: size, settings, workload, kinds and rates of faults.

use env::SeededRandom;

use crate::random::Draw;

/// Milliseconds in microseconds.
pub(crate) const MS: u64 = 1000;
/// Seconds in microseconds.
pub(crate) const SECOND: u64 = 1_000_000;

/// The draw of a seed. All times in microseconds of virtual time.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    pub(crate) nodes: usize,
    /// When faults stop.
    pub(crate) faults_until: u64,
    /// When clients stop.
    pub(crate) clients_until: u64,
    /// When all has to be settled.
    pub(crate) end: u64,
    pub(crate) election_ticks: u32,
    pub(crate) pre_vote: bool,
    pub(crate) segment_bytes: u64,
    pub(crate) snapshot_count: u64,
    pub(crate) catch_up_entries: u64,
    pub(crate) commit_interval: u64,
    pub(crate) compaction_batch: usize,
    pub(crate) compaction_pause: u64,
    pub(crate) checkpoints: bool,
    pub(crate) clients: usize,
    pub(crate) watchers: usize,
    pub(crate) lease_clients: usize,
    pub(crate) keys: u64,
    pub(crate) think: u64,
    pub(crate) watch_queue: usize,
    pub(crate) compaction_weight: u64,
    /// Membership changes, on average one per this time; 0 = none.
    pub(crate) reconfigure_every: u64,
    /// Faults, on average one per this time; 0 = none.
    pub(crate) fault_every: u64,
    /// Weights of the kinds of faults, in the order of [`crate::faults::Kind`].
    pub(crate) fault_weights: [u64; crate::faults::KINDS],
    /// Messages lost and duplicated all the time, per million.
    pub(crate) loss: u64,
    pub(crate) duplication: u64,
    /// How often, in percent, power goes right after a vote.
    pub(crate) cuts_after_votes: u64,
    /// Whether space for the log is prepared ahead.
    pub(crate) prepares_log: bool,
    pub(crate) latency: (u64, u64),
    pub(crate) sync_latency: (u64, u64),
    pub(crate) apply_latency: (u64, u64),
}

impl Profile {
    pub(crate) fn draw(random: &mut SeededRandom) -> Self {
        let nodes = random.pick(&[3, 3, 3, 3, 5, 5, 1]);
        let faults_until = random.between(8, 20) * SECOND;
        let pre_vote = !random.percent(15);
        // Without pre-vote a member whose log is behind can call elections that it cannot win many
        // times in a row before another one's turn comes.
        let settling = if pre_vote { 8 * SECOND } else { 30 * SECOND };
        let clients_until = faults_until + settling;
        let calm = random.percent(8);
        let mut fault_weights = [0; crate::faults::KINDS];
        for weight in &mut fault_weights {
            // Each kind is off in a third of the runs: a run full of crashes hides what needs calm.
            *weight = if random.percent(33) { 0 } else { random.between(1, 10) };
        }
        Self {
            nodes,
            faults_until,
            clients_until,
            end: clients_until + 14 * SECOND,
            election_ticks: random.pick(&[10, 10, 5]),
            pre_vote,
            segment_bytes: random.pick(&[8 << 10, 16 << 10, 64 << 10]),
            snapshot_count: random.pick(&[20, 50, 150, 1000]),
            catch_up_entries: random.pick(&[5, 20, 100, 1000]),
            commit_interval: random.pick(&[50 * MS, 100 * MS, 100 * MS, 500 * MS, 2 * SECOND]),
            compaction_batch: random.pick(&[3, 20, 1000]),
            compaction_pause: random.pick(&[MS, 10 * MS, 300 * MS]),
            checkpoints: random.percent(30),
            clients: random.between(2, 5) as usize,
            watchers: random.between(0, 3) as usize,
            lease_clients: random.between(0, 2) as usize,
            keys: random.pick(&[1, 3, 6, 12, 30]),
            think: random.pick(&[10 * MS, 40 * MS, 100 * MS, 250 * MS]),
            watch_queue: random.pick(&[1, 4, 128]),
            compaction_weight: random.pick(&[0, 2, 8]),
            reconfigure_every: if random.percent(35) { random.between(1, 4) * SECOND } else { 0 },
            fault_every: if calm { 0 } else { random.between(200, 3000) * MS },
            fault_weights,
            loss: random.pick(&[0, 0, 1000, 20_000]),
            duplication: random.pick(&[0, 1000, 30_000]),
            cuts_after_votes: random.pick(&[0, 0, 0, 40]),
            prepares_log: random.percent(60),
            latency: random.pick(&[(100, 400), (200, 3 * MS), (MS, 30 * MS)]),
            sync_latency: random.pick(&[(50, 200), (100, 2 * MS), (MS, 20 * MS)]),
            apply_latency: random.pick(&[(5, 50), (50, MS), (MS, 10 * MS)]),
        }
    }
}
