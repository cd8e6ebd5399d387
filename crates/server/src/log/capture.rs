//! Log records as test evidence.
//!
//! While a [`Capture`] lives, every record of the process, whatever its level, goes to it and
//! nowhere else. Captures are exclusive: a second one waits for the first to end, which keeps tests
//! that look at the log from reading each other's records.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::{Field, Level, Value};

static ACTIVE: AtomicBool = AtomicBool::new(false);
static RECORDS: Mutex<Vec<Captured>> = Mutex::new(Vec::new());
static TURN: Mutex<()> = Mutex::new(());

/// One caught record.
#[derive(Clone, Debug, PartialEq)]
pub struct Captured {
    /// Weight.
    pub level: Level,
    /// Name of the logger, or empty.
    pub logger: String,
    /// Message.
    pub msg: String,
    /// Fields in order.
    pub fields: Vec<(String, Value<'static>)>,
}

impl Captured {
    /// A field in its JSON form.
    pub fn field(&self, name: &str) -> Option<String> {
        self.fields.iter().find(|(key, _)| key == name).map(|(_, value)| {
            let mut out = String::new();
            super::encode::write_value(&mut out, value, "");
            out
        })
    }
}

/// Catches records until dropped.
pub struct Capture {
    _turn: MutexGuard<'static, ()>,
}

impl Capture {
    /// Starts catching, after any other capture has ended.
    pub fn start() -> Self {
        let turn = TURN.lock();
        RECORDS.lock().clear();
        ACTIVE.store(true, Ordering::SeqCst);
        Self { _turn: turn }
    }

    /// The records so far.
    pub fn records(&self) -> Vec<Captured> {
        RECORDS.lock().clone()
    }

    /// Whether a record with this message was caught.
    pub fn contains(&self, msg: &str) -> bool {
        RECORDS.lock().iter().any(|record| record.msg == msg)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        ACTIVE.store(false, Ordering::SeqCst);
    }
}

/// Keeps others from catching, for tests of what happens while nobody does.
#[cfg(test)]
pub(super) fn hold() -> MutexGuard<'static, ()> {
    TURN.lock()
}

pub(super) fn active() -> bool {
    ACTIVE.load(Ordering::Relaxed)
}

/// Keeps the record if somebody is catching.
pub(super) fn take(level: Level, logger: &str, msg: &str, fields: &[Field<'_>]) -> bool {
    if !active() {
        return false;
    }
    let fields = fields.iter().map(|(key, value)| ((*key).to_owned(), value.clone().into_owned())).collect();
    RECORDS.lock().push(Captured { level, logger: logger.to_owned(), msg: msg.to_owned(), fields });
    true
}
