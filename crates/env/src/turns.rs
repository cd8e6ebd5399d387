//! Short turns for the threads that everybody waits for.
//!
//! A thread that wakes up beside a busy one waits until that one has had its slice, three or four
//! milliseconds on Linux, however much nicer that is, and a put passes three threads, one of them twice. Who
//! asks for short slices goes first and gives up nothing but the length of its turns: its share of the core
//! is the same.
//!
//! **Source**: sched_setattr(2): since Linux 6.12 `sched_runtime` is the slice of an ordinary thread. Older
//! kernels ignore it there.

use std::mem::{size_of, zeroed};
use std::time::Duration;

use libc::sched_attr;

/// The shortest that the kernel takes.
const SLICE: Duration = Duration::from_micros(100);
const SIZE: u32 = size_of::<sched_attr>() as u32;

/// Asks the kernel for short turns of this thread, and of those that it starts. If it refuses, everything
/// goes on as before.
pub fn shorten() {
    ask(SLICE);
}

/// Takes that back: for a thread with long work that one with short turns has started.
pub fn lengthen() {
    ask(Duration::ZERO);
}

fn ask(slice: Duration) {
    let Some(mut own) = attributes() else { return };
    // Somebody chose a class for the whole process: that says more than we know.
    if own.sched_policy != libc::SCHED_OTHER as u32 {
        return;
    }
    own.sched_runtime = slice.as_nanos() as u64;
    // SAFETY: the kernel reads the structure, whose size it holds, during the call and keeps nothing.
    let _ = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const own, 0) };
}

/// How this thread is scheduled.
fn attributes() -> Option<sched_attr> {
    // SAFETY: a structure of numbers, of which all may be zero.
    let mut own: sched_attr = unsafe { zeroed() };
    // SAFETY: the kernel writes at most `SIZE` bytes, which is the size of what it is given.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut own, SIZE, 0) };
    (got == 0).then_some(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_turns_change() {
        let before = attributes().unwrap();
        shorten();
        let after = attributes().unwrap();
        assert_eq!((after.sched_policy, after.sched_nice), (before.sched_policy, before.sched_nice));
        // Kernels before 6.12 have no slices to tell, and other classes are left alone.
        let is_told = before.sched_runtime > 0 && before.sched_policy == libc::SCHED_OTHER as u32;
        assert_eq!(after.sched_runtime, if is_told { 100_000 } else { before.sched_runtime });
        let of_child = std::thread::spawn(|| {
            let inherited = attributes().unwrap().sched_runtime;
            lengthen();
            (inherited, attributes().unwrap().sched_runtime)
        });
        assert_eq!(of_child.join().unwrap(), (after.sched_runtime, before.sched_runtime));
    }
}
