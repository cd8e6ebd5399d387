//! SIGINT and SIGTERM, and ending by them.
//!
//! Both are blocked in every thread and taken by one that does nothing but wait for them, so there
//! is no signal handler anywhere. Until the member serves, a signal ends the process at once, as if
//! it had never been blocked; afterwards it becomes an event. A process that stopped because of a
//! signal ends by that signal, which service managers and shells look at; as process 1, which the
//! kernel protects from that, it exits with 0.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use crate::Event;

/// One of the two signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT.
    Interrupt,
    /// SIGTERM.
    Terminated,
}

impl Signal {
    const ALL: [Self; 2] = [Self::Interrupt, Self::Terminated];

    /// Go's name of the signal.
    pub fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "interrupt",
            Self::Terminated => "terminated",
        }
    }

    fn number(self) -> libc::c_int {
        match self {
            Self::Interrupt => libc::SIGINT,
            Self::Terminated => libc::SIGTERM,
        }
    }
}

/// The watch for signals.
pub struct Signals {
    serving: Arc<AtomicBool>,
}

impl Signals {
    /// Blocks both signals in this thread and all it will start, and begins to wait for them.
    /// Called first thing in `main`.
    pub fn catch(events: Sender<Event>) -> Self {
        let serving = Arc::new(AtomicBool::new(false));
        change_mask(libc::SIG_BLOCK);
        let wait = {
            let serving = serving.clone();
            move || {
                loop {
                    let Some(signal) = next() else { continue };
                    if !serving.load(Ordering::SeqCst) {
                        end_by(signal);
                    }
                    // Nobody listens any more when a stop is under way; a second signal is nothing special.
                    let _ = events.send(Event::Signal(signal));
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name("signals".to_owned()).spawn(wait) {
            eprintln!("cannot start the thread that waits for signals: {error}");
            std::process::exit(1);
        }
        Self { serving }
    }

    /// From now on a signal is an event.
    pub fn member_serves(&self) {
        self.serving.store(true, Ordering::SeqCst);
    }

    /// Ends the process the way the signal would have.
    pub fn end_by(&self, signal: Signal) -> ! {
        end_by(signal)
    }
}

fn end_by(signal: Signal) -> ! {
    if std::process::id() == 1 {
        std::process::exit(0);
    }
    change_mask(libc::SIG_UNBLOCK);
    // SAFETY: raise has no memory arguments; the signal has its default action, which ends the process.
    unsafe { libc::raise(signal.number()) };
    // Reached only if the parent had the signal ignored.
    std::process::exit(128 + signal.number());
}

fn set() -> libc::sigset_t {
    // SAFETY: an all-zero sigset_t is a valid argument for sigemptyset, which initialises it; both
    // calls write only to the set on our stack.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in Signal::ALL {
            libc::sigaddset(&mut set, signal.number());
        }
        set
    }
}

fn change_mask(how: libc::c_int) {
    let set = set();
    // SAFETY: the set is initialised and lives through the call; the old mask is not asked for.
    let status = unsafe { libc::pthread_sigmask(how, &set, std::ptr::null_mut()) };
    assert_eq!(status, 0, "the signal mask of a thread can always be changed");
}

/// Waits for the next of both signals; nothing when the wait was disturbed.
fn next() -> Option<Signal> {
    let set = set();
    let mut number: libc::c_int = 0;
    // SAFETY: the set is initialised, `number` is ours, and both signals are blocked in all threads.
    let status = unsafe { libc::sigwait(&set, &mut number) };
    match status {
        0 => Signal::ALL.into_iter().find(|signal| signal.number() == number),
        _ => None,
    }
}
