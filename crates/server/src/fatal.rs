//! The one way out when the member cannot go on.

use std::sync::Arc;

use parking_lot::Mutex;

/// Says that the member must stop, and why. The first reason counts. Clones share it.
#[derive(Clone, Default)]
pub struct Fatal {
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    reason: Mutex<Option<String>>,
    notify: tokio::sync::Notify,
}

impl Fatal {
    /// Stops the member. May be called from any thread, any number of times.
    pub fn stop(&self, reason: String) {
        self.state.reason.lock().get_or_insert(reason);
        self.state.notify.notify_waiters();
        self.state.notify.notify_one();
    }

    /// Why the member has to stop, if it has to.
    pub fn reason(&self) -> Option<String> {
        self.state.reason.lock().clone()
    }

    /// Waits until the member has to stop.
    pub async fn stopped(&self) -> String {
        loop {
            if let Some(reason) = self.reason() {
                return reason;
            }
            self.state.notify.notified().await;
        }
    }
}
