//! The multi-version key-value store.

pub mod event;
mod index;
pub mod record;
pub mod watch;

pub use event::{Event, EventKind, RevisionEvents};
