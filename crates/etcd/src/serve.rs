//! The seam between the program and the member.

use std::sync::mpsc::Sender;

use server::config::Config;

use crate::Event;

/// Starts a member and returns once it serves clients, with the way to stop it. If the member ends
/// by itself later, that is an [`Event::Ended`].
pub fn start(config: &Config, _events: Sender<Event>) -> Result<Box<dyn FnOnce()>, String> {
    Err(format!("{}: this build has no member to run", config.name))
}
