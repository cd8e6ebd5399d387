//! The log thread: appends, syncs, reports. All that queued while a sync ran goes out with the
//! next one: group commit.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use env::Disk;
use member::Persist;
use parking_lot::Mutex;
use types::Snapshot;
use wal::{Batch, Wal, WalSnapshot};

use super::Input;
use super::apply_thread::ApplyWork;
use crate::fatal::Fatal;
use crate::log;
use crate::mailbox::{Receiver, Sender};
use crate::metrics::Metrics;

/// A sync that takes longer is told.
const SLOW_SYNC: Duration = Duration::from_secs(1);

/// Entries written with one sync, at most: bounds the memory of a round.
const MAX_ENTRIES_PER_ROUND: usize = 16 * 1024;

/// Work for the log thread.
#[derive(Debug)]
pub enum LogWork {
    /// Append and sync.
    Persist(Persist),
    /// Save a disk snapshot: the `.snap` file, then its record in the log.
    Snapshot(Snapshot),
    /// Finish what was queued before and stop.
    Stop,
}

/// The open log with what belongs to writing it. Whoever holds the lock writes: the log thread, or
/// the raft thread of a member without peers.
pub struct LogWriter {
    /// The open log.
    pub wal: Wal,
    /// Asks for space to be prepared ahead.
    pub prepare: crossbeam_channel::Sender<()>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

impl LogWriter {
    /// Appends and syncs. What is in `persist` is on disk when this returns.
    ///
    /// # Errors
    /// The write or the sync failed: what is on disk is not known.
    pub fn persist(&mut self, persist: &Persist) -> Result<(), wal::Error> {
        let start = Instant::now();
        let batch = Batch { entries: &persist.entries, hard_state: persist.hard_state };
        let appended = self.wal.append(&batch)?;
        if appended.needs_sync {
            let written = start.elapsed();
            self.wal.sync()?;
            self.metrics.wal_write_duration.observe(written);
            let took = start.elapsed().saturating_sub(written);
            self.metrics.wal_fsync(took);
            if took > SLOW_SYNC {
                log::warn!("slow fdatasync", "took" => took, "expected-duration" => SLOW_SYNC);
            }
        }
        self.metrics.wal_written(appended.bytes);
        if appended.cut.is_some() {
            // Full means that the preparer has been asked already.
            let _ = self.prepare.try_send(());
        }
        Ok(())
    }
}

/// What the log thread works with.
pub struct LogThread {
    /// The log.
    pub log: Arc<Mutex<LogWriter>>,
    /// Work.
    pub work: Receiver<LogWork>,
    /// To have received snapshots installed.
    pub to_apply: Sender<ApplyWork>,
    /// To report what is on disk.
    pub to_raft: Sender<Input>,
    /// For `.snap` files.
    pub disk: Arc<dyn Disk>,
    /// Directory of `.snap` files.
    pub snap_dir: PathBuf,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Index of the last snapshot in the log.
    pub last_snapshot: u64,
    /// Where to report the end of everything.
    pub fatal: Fatal,
}

impl LogThread {
    /// Runs until told to stop, or until a write fails.
    pub fn run(mut self) {
        if let Err(error) = self.run_inner() {
            self.fatal.stop(error.to_string());
        }
    }

    fn run_inner(&mut self) -> Result<(), LogError> {
        let mut later = None;
        while let Some(work) = later.take().or_else(|| self.work.recv()) {
            match work {
                LogWork::Stop => return Ok(self.log.lock().wal.sync()?),
                LogWork::Snapshot(snapshot) => self.save_snapshot(&snapshot)?,
                LogWork::Persist(persist) => later = self.persist(persist)?,
            }
        }
        Ok(())
    }

    /// Writes one round: `first` and all that queued behind it. Returns the work that ended it.
    fn persist(&mut self, first: Persist) -> Result<Option<LogWork>, LogError> {
        let mut round = first;
        let mut next = None;
        let received = round.snapshot.take();
        if let Some(snapshot) = &received {
            self.save_snapshot(snapshot)?;
        }
        while round.entries.len() < MAX_ENTRIES_PER_ROUND {
            match self.work.try_recv() {
                Some(LogWork::Persist(more)) if more.snapshot.is_none() => {
                    round.number = more.number;
                    round.entries.extend(more.entries);
                    round.hard_state = more.hard_state.or(round.hard_state);
                }
                Some(other) => {
                    next = Some(other);
                    break;
                }
                None => break,
            }
        }
        self.log.lock().persist(&round)?;
        if let Some(snapshot) = received {
            // Before the raft thread hears of it, and so hands out entries behind it.
            self.log.lock().wal.sync()?;
            let _ = self.to_apply.send(ApplyWork::Install(snapshot));
        }
        // The raft thread ends before this one; what it does not hear needs no answer.
        let _ = self.to_raft.send(Input::Persisted(round.number));
        Ok(next)
    }

    fn save_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), LogError> {
        if snapshot.position.index <= self.last_snapshot {
            // One of the leader's was faster.
            return Ok(());
        }
        self.last_snapshot = snapshot.position.index;
        let start = Instant::now();
        let content = wal::snap::encode(snapshot);
        let encoded = start.elapsed();
        wal::snap::save_encoded(&*self.disk, &self.snap_dir, snapshot.position, &content)?;
        self.metrics.snapshot_saved(encoded, start.elapsed());
        let record =
            WalSnapshot { position: snapshot.position, conf_state: Some(snapshot.conf_state.clone()) };
        let mut log = self.log.lock();
        log.wal.save_snapshot(&record)?;
        log.wal.release_to(snapshot.position.index);
        drop(log);
        log::info!("saved snapshot to disk", "snapshot-index" => snapshot.position.index);
        Ok(())
    }
}

/// Why the log thread ends.
#[derive(Debug, thiserror::Error)]
enum LogError {
    #[error(transparent)]
    Wal(#[from] wal::Error),
    #[error(transparent)]
    Snap(#[from] wal::snap::Error),
}
