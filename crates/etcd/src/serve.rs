//! The seam between the program and the member.

use std::sync::mpsc::Sender;

use server::config::Config;
use server::run::{self, RunError};

use crate::Event;

/// Starts a member and returns once it serves clients, with the way to stop it. If the member ends
/// by itself later, that is an [`Event::Ended`].
pub fn start(config: &Config, events: Sender<Event>) -> Result<Box<dyn FnOnce()>, RunError> {
    let removed = events.clone();
    let ended = move |reason: String| {
        let end = if reason == run::REMOVED { Ok(()) } else { Err(reason) };
        // The main thread is gone only when the process ends anyway.
        let _ = events.send(Event::Ended(end));
    };
    match run::start(config, ended) {
        Ok(member) => Ok(Box::new(move || member.stop())),
        Err(RunError::Fatal(reason)) if reason == run::REMOVED => {
            let _ = removed.send(Event::Ended(Ok(())));
            Ok(Box::new(|| {}))
        }
        Err(error) => Err(error),
    }
}
