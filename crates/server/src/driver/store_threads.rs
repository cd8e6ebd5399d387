//! The threads behind the backend: commits, disk snapshots, physical compaction, watch.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backend::Backend;
use crossbeam_channel::RecvTimeoutError;
use mvcc::{CompactionJob, Store};
use parking_lot::{Condvar, Mutex};
use types::Snapshot;

use super::log_thread::LogWork;
use crate::fatal::Fatal;
use crate::log;
use crate::mailbox::{Receiver, Sender};
use crate::metrics::Metrics;

/// How far apply may run ahead of the backend, in batches, before it waits.
const MAX_BATCHES_AHEAD: usize = 16;

/// The apply thread's handle to the backend thread: wakes it, and waits when it is far behind.
#[derive(Clone)]
pub struct BackendSignal {
    backend: Backend,
    batch_limit: usize,
    state: Arc<SignalState>,
}

#[derive(Default)]
struct SignalState {
    wanted: Mutex<Wanted>,
    changed: Condvar,
}

#[derive(Default)]
struct Wanted {
    commit_now: bool,
    stop: bool,
}

impl BackendSignal {
    /// A signal for this backend.
    pub fn new(backend: Backend, batch_limit: usize) -> Self {
        Self { backend, batch_limit, state: Arc::default() }
    }

    /// Says that something was appended. Returns at once unless the backend is more than
    /// [`MAX_BATCHES_AHEAD`] batches behind: then memory would grow without bound, so the caller
    /// commits what there is before it goes on.
    pub fn pending(&self) {
        let pending = self.backend.pending();
        if pending < self.batch_limit {
            return;
        }
        self.commit_now();
        if pending > MAX_BATCHES_AHEAD * self.batch_limit {
            // A failed commit is reported by the backend thread, which meets it as well.
            let _ = self.backend.commit();
        }
    }

    /// An image of everything that was appended.
    ///
    /// # Errors
    /// The commit before it failed.
    pub fn snapshot(&self) -> Result<backend::Snapshot, backend::Error> {
        self.backend.snapshot()
    }

    /// What is in the backend now.
    pub fn view(&self) -> Arc<backend::View> {
        self.backend.view()
    }

    /// Asks for a commit without waiting for it.
    pub fn commit_now(&self) {
        self.state.wanted.lock().commit_now = true;
        self.state.changed.notify_all();
    }

    /// Ends the backend thread after a last commit.
    pub fn stop(&self) {
        self.state.wanted.lock().stop = true;
        self.state.changed.notify_all();
    }

    /// Commits each `interval`, or as soon as asked. Runs until stopped.
    pub fn run(&self, interval: Duration, metrics: &Metrics, fatal: &Fatal) {
        loop {
            let stop = {
                let mut wanted = self.state.wanted.lock();
                let until = Instant::now() + interval;
                while !wanted.commit_now && !wanted.stop {
                    if self.state.changed.wait_until(&mut wanted, until).timed_out() {
                        break;
                    }
                }
                wanted.commit_now = false;
                wanted.stop
            };
            let start = Instant::now();
            match self.backend.commit() {
                Ok(stats) if stats.committed => metrics.backend_commit(start.elapsed(), &stats.bolt),
                Ok(_) => {}
                Err(error) => return fatal.stop(format!("backend: {error}")),
            }
            if stop {
                return;
            }
        }
    }
}

/// A compaction to carry out.
#[derive(Debug)]
pub struct CompactionWork {
    /// What to do, and how far it is.
    pub job: CompactionJob,
}

/// Carries out compactions one after the other.
pub struct CompactionThread {
    /// The store.
    pub store: Arc<Store>,
    /// Its backend.
    pub backend: BackendSignal,
    /// Work.
    pub work: Receiver<CompactionWork>,
    /// Pause between two batches.
    pub pause: Duration,
    /// Set to end the thread, also in the middle of a compaction: it resumes at the next start.
    pub stop: crossbeam_channel::Receiver<()>,
    /// Finished compactions.
    pub finished: tokio::sync::watch::Sender<i64>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Where to report the end of everything.
    pub fatal: Fatal,
}

impl CompactionThread {
    /// Runs until told to stop.
    pub fn run(mut self) {
        while let Some(CompactionWork { mut job }) = self.work.recv() {
            let start = Instant::now();
            log::info!("compact tree index", "revision" => job.revision());
            if !self.compact(&mut job) {
                return;
            }
            self.metrics.compaction(start.elapsed(), job.deleted() as u64);
            log::info!(
                "finished scheduled compaction",
                "compact-revision" => job.revision(),
                "took" => start.elapsed(),
                "number-of-keys-compacted" => job.deleted() as i64
            );
            self.finished.send_modify(|last| *last = (*last).max(job.revision()));
        }
    }

    /// Returns whether to go on.
    fn compact(&self, job: &mut CompactionJob) -> bool {
        let mut in_index = Duration::ZERO;
        loop {
            let start = Instant::now();
            let had_index = !job.is_index_done();
            match self.store.compaction_step(job) {
                Ok(step) => {
                    if had_index {
                        in_index += start.elapsed();
                        if job.is_index_done() {
                            self.metrics.index_compaction_pause.observe_whole_millis(in_index);
                        }
                    } else {
                        self.metrics.compaction_step(start.elapsed());
                    }
                    if step.commit {
                        self.backend.commit_now();
                    }
                    if step.finished {
                        return true;
                    }
                }
                Err(error) => {
                    self.fatal.stop(format!("compaction to revision {}: {error}", job.revision()));
                    return false;
                }
            }
            match self.stop.recv_timeout(self.pause) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }
}

/// Takes disk snapshots: the backend first reaches the snapshot's index, then the `.snap` file
/// and its log record are written.
pub fn run_snapshots(
    work: &mut Receiver<Snapshot>,
    backend: &Backend,
    to_log: &Sender<LogWork>,
    fatal: &Fatal,
) {
    while let Some(snapshot) = work.recv() {
        if let Err(error) = backend.commit() {
            return fatal.stop(format!("backend: {error}"));
        }
        let _ = to_log.send(LogWork::Snapshot(snapshot));
    }
}
