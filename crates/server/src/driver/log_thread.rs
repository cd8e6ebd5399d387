//! The log thread: appends, syncs, reports. All that queued while a sync ran goes out with the
//! next one: group commit.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use env::Disk;
use member::Persist;
use types::Snapshot;
use wal::{Batch, Wal, WalSnapshot};

use super::Input;
use crate::fatal::Fatal;
use crate::log;
use crate::metrics::Metrics;

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

/// What the log thread works with.
pub struct LogThread {
    /// The open log.
    pub wal: Wal,
    /// Work.
    pub work: Receiver<LogWork>,
    /// To report what is on disk.
    pub to_raft: Sender<Input>,
    /// For `.snap` files.
    pub disk: Arc<dyn Disk>,
    /// Directory of `.snap` files.
    pub snap_dir: PathBuf,
    /// Asks for space to be prepared ahead.
    pub prepare: Sender<()>,
    /// Counters.
    pub metrics: Arc<Metrics>,
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
        loop {
            let first = match later.take() {
                Some(work) => work,
                None => match self.work.recv() {
                    Ok(work) => work,
                    Err(_) => return Ok(()),
                },
            };
            match first {
                LogWork::Stop => return Ok(()),
                LogWork::Snapshot(snapshot) => self.save_snapshot(&snapshot)?,
                LogWork::Persist(persist) => later = self.persist(persist)?,
            }
        }
    }

    /// Writes one round: `first` and all that queued behind it. Returns the work that ended it.
    fn persist(&mut self, first: Persist) -> Result<Option<LogWork>, LogError> {
        let mut round = first;
        let mut next = None;
        while round.entries.len() < MAX_ENTRIES_PER_ROUND {
            match self.work.try_recv() {
                Ok(LogWork::Persist(more)) => {
                    round.number = more.number;
                    round.entries.extend(more.entries);
                    round.hard_state = more.hard_state.or(round.hard_state);
                }
                Ok(other) => {
                    next = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        let start = Instant::now();
        let appended = self.wal.append(&Batch { entries: &round.entries, hard_state: round.hard_state })?;
        if appended.needs_sync {
            let written = start.elapsed();
            self.wal.sync()?;
            self.metrics.wal_write_duration.observe(written);
            self.metrics.wal_fsync(start.elapsed().saturating_sub(written));
        }
        self.metrics.wal_written(appended.bytes);
        if appended.cut.is_some() {
            // Full means that the preparer has been asked already.
            let _ = self.prepare.try_send(());
        }
        // The raft thread ends before this one; what it does not hear needs no answer.
        let _ = self.to_raft.send(Input::Persisted(round.number));
        Ok(next)
    }

    fn save_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), LogError> {
        let start = Instant::now();
        wal::snap::save(&*self.disk, &self.snap_dir, snapshot)?;
        self.metrics.snapshot_saved(start.elapsed());
        let record =
            WalSnapshot { position: snapshot.position, conf_state: Some(snapshot.conf_state.clone()) };
        self.wal.save_snapshot(&record)?;
        self.wal.release_to(snapshot.position.index);
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
