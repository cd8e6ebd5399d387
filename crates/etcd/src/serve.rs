//! The seam between the program and the member.

use std::sync::mpsc::Sender;

use server::config::Config;
use server::run;

use crate::Event;

/// Starts a member and returns once it serves clients, with the way to stop it. If the member ends
/// by itself later, that is an [`Event::Ended`].
pub fn start(config: &Config, events: Sender<Event>) -> Result<Box<dyn FnOnce()>, String> {
    let ended = move |reason: String| {
        // The main thread is gone only when the process ends anyway.
        let _ = events.send(Event::Ended(Err(reason)));
    };
    let member = run::start(config, ended).map_err(|error| error.to_string())?;
    Ok(Box::new(move || member.stop()))
}
