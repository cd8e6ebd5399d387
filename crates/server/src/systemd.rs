//! Telling the service manager that the member serves.
//!
//! One datagram `READY=1` to `$NOTIFY_SOCKET`, nothing else ever: no stopping, watchdog or status
//! messages. Without that variable nothing is sent, and the two records are written all the same.
//!
//! Source: behaviour of etcd 3.7 `server/etcdmain/main.go`.

use crate::log;

/// Sends readiness. Called once, when the member has joined and serves.
pub fn notify_ready() {
    log::info("notifying init daemon", &[]);
    match sd_notify::notify(false, &[sd_notify::NotifyState::Ready]) {
        Ok(()) => log::info("successfully notified init daemon", &[]),
        Err(error) => {
            log::error("failed to notify systemd for readiness", &[("error", error.to_string().into())]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_records_are_written_without_a_socket() {
        let capture = log::Capture::start();
        notify_ready();
        let messages: Vec<String> = capture.records().into_iter().map(|record| record.msg).collect();
        assert_eq!(messages, ["notifying init daemon", "successfully notified init daemon"]);
    }
}
