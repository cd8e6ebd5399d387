//! The ports to the outside world: disk, clock and randomness, as small blocking traits; and what a thread
//! can ask of the scheduler.
//!
//! The layers above take these as arguments, so that the same code runs on real files under the
//! server and on [`sim::SimDisk`], which loses and tears what was not synced, under tests.
//! Async and sockets are not here: they begin at floor 4.

mod clock;
mod disk;
pub mod real;
pub mod sim;
pub mod turns;

pub use clock::{Clock, Random, SeededRandom};
pub use disk::{DIRECT_BLOCK_LEN, DirEntry, Disk, File, LockKind, Mapping, OpenMode};
