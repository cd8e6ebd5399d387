//! How far a long piece of work is: one line on stderr, redrawn in place, and only on a terminal.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
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
