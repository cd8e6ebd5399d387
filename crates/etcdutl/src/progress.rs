//! How far a long piece of work is: one line on stderr, redrawn in place, and only on a terminal.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cli::text::size;

/// Work that takes less long is done in silence.
const PATIENCE: Duration = Duration::from_millis(500);
const INTERVAL: Duration = Duration::from_millis(100);
const WIDTH: usize = 40;

/// Whether a bar stands on the line of the cursor.
static DRAWN: AtomicBool = AtomicBool::new(false);

/// A piece of work, measured in bytes.
#[derive(Debug)]
pub struct Progress {
    what: &'static str,
    total: u64,
    done: u64,
    shown: bool,
    next: Instant,
}

impl Progress {
    /// Begins a piece of work of `total` bytes.
    pub fn start(what: &'static str, total: u64) -> Self {
        let shown = std::io::stderr().is_terminal();
        Self { what, total, done: 0, shown, next: Instant::now() + PATIENCE }
    }

    /// So many more bytes are done.
    pub fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        if self.shown && Instant::now() >= self.next {
            self.next = Instant::now() + INTERVAL;
            DRAWN.store(true, Ordering::Relaxed);
            eprint!("\r{}", bar(self.what, self.done, self.total));
            let _ = std::io::stderr().flush();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        clear();
    }
}

/// A piece of work that does not tell how far it is: somebody else looks, on a thread of its own.
#[derive(Debug)]
pub struct Watched {
    /// Closed when the work is over.
    running: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watched {
    /// Begins; `position` says how many of `total` bytes are done, and is not asked where `total` is 0:
    /// then the seconds are shown.
    pub fn start(what: &'static str, total: u64, position: impl Fn() -> u64 + Send + 'static) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { running: None, thread: None };
        }
        let (running, ended) = channel::<()>();
        let start = Instant::now();
        let thread = std::thread::spawn(move || {
            let mut wait = PATIENCE;
            while ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                wait = INTERVAL;
                DRAWN.store(true, Ordering::Relaxed);
                match total {
                    0 => eprint!("\r{what}: {} s", start.elapsed().as_secs()),
                    total => eprint!("\r{}", bar(what, position(), total)),
                }
                let _ = std::io::stderr().flush();
            }
        });
        Self { running: Some(running), thread: Some(thread) }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        drop(self.running.take());
        if let Some(thread) = self.thread.take() {
            // It draws and nothing else; a panic in there is on the screen already.
            let _ = thread.join();
        }
        clear();
    }
}

/// Takes a bar away that stands on the line of the cursor.
pub fn clear() {
    if DRAWN.swap(false, Ordering::Relaxed) {
        eprint!("\r\x1b[K");
    }
}

fn bar(what: &str, done: u64, total: u64) -> String {
    let done = done.min(total);
    let per_mille = (u128::from(done) * 1000).checked_div(u128::from(total)).unwrap_or(1000) as usize;
    let filled = per_mille * WIDTH / 1000;
    format!(
        "{what} [{}{}] {}% of {}",
        "=".repeat(filled),
        " ".repeat(WIDTH - filled),
        per_mille / 10,
        size(total)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars() {
        assert_eq!(bar("copying", 0, 0), format!("copying [{}] 100% of 0 B", "=".repeat(WIDTH)));
        assert!(bar("copying", 250, 1000).starts_with("copying [==========   "));
        assert!(bar("copying", 250, 1000).ends_with(" ] 25% of 1.0 kB"));
        assert!(bar("copying", 2000, 1000).contains("100%"), "never more than everything");
    }
}
