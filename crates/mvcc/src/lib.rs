//! The multi-version key-value store.

pub mod event;
pub mod record;

pub use event::{Event, EventKind, RevisionEvents};
