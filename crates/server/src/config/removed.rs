//! Flags that etcd once had and 3.7 no longer knows.
//!
//! etcd refuses them. Here they are understood, so that a command line or file written for 3.4, 3.5
//! or 3.6 starts this server: most go on under their new name, with a warning; those that ask for
//! something that no longer exists are refused by name. The new name wins when both are given.

use super::Config;
use super::gates::Gate;
use super::scalars::{parse_bool, quote};
use super::table;

/// What becomes of a removed flag.
#[derive(Debug)]
pub(super) enum Fate {
    /// It is the flag of this name now.
    Becomes(&'static str),
    /// It switches this feature gate now.
    Gate(Gate),
    /// True stands for `--log-level=debug`.
    DebugLevel,
    /// Nothing is left of it, and nothing is missing.
    Nothing,
    /// These values ask for nothing; any other is refused for the reason given.
    Only(&'static [&'static str], &'static str),
}

/// One removed flag.
#[derive(Debug)]
pub(super) struct Removed {
    pub name: &'static str,
    pub is_bool: bool,
    pub fate: Fate,
}

const fn value(name: &'static str, fate: Fate) -> Removed {
    Removed { name, is_bool: false, fate }
}

const fn switch(name: &'static str, fate: Fate) -> Removed {
    Removed { name, is_bool: true, fate }
}

const NO_V2_DISCOVERY: &str =
    "v2 discovery no longer exists, use --discovery-token and --discovery-endpoints";
const NO_V2: &str = "the v2 API no longer exists";
const NO_PROXY: &str = "the v2 proxy no longer exists";

pub(super) static REMOVED: &[Removed] = &[
    value(
        "experimental-bootstrap-defrag-threshold-megabytes",
        Fate::Becomes("bootstrap-defrag-threshold-megabytes"),
    ),
    value("experimental-compact-hash-check-time", Fate::Becomes("compact-hash-check-time")),
    value("experimental-compaction-batch-limit", Fate::Becomes("compaction-batch-limit")),
    value("experimental-compaction-sleep-interval", Fate::Becomes("compaction-sleep-interval")),
    value("experimental-corrupt-check-time", Fate::Becomes("corrupt-check-time")),
    value("experimental-distributed-tracing-address", Fate::Becomes("distributed-tracing-address")),
    value("experimental-distributed-tracing-instance-id", Fate::Becomes("distributed-tracing-instance-id")),
    value(
        "experimental-distributed-tracing-sampling-rate",
        Fate::Becomes("distributed-tracing-sampling-rate"),
    ),
    value("experimental-distributed-tracing-service-name", Fate::Becomes("distributed-tracing-service-name")),
    value("experimental-downgrade-check-time", Fate::Becomes("downgrade-check-time")),
    switch("experimental-enable-distributed-tracing", Fate::Becomes("enable-distributed-tracing")),
    switch("experimental-memory-mlock", Fate::Becomes("memory-mlock")),
    switch(
        "experimental-peer-skip-client-san-verification",
        Fate::Becomes("peer-skip-client-san-verification"),
    ),
    value("experimental-snapshot-catchup-entries", Fate::Becomes("snapshot-catchup-entries")),
    // The spelling of that flag in the files of 3.5 and 3.6.
    value("experimental-snapshot-catch-up-entries", Fate::Becomes("snapshot-catchup-entries")),
    value("experimental-warning-apply-duration", Fate::Becomes("warning-apply-duration")),
    value("experimental-warning-unary-request-duration", Fate::Becomes("warning-unary-request-duration")),
    value("experimental-watch-progress-notify-interval", Fate::Becomes("watch-progress-notify-interval")),
    switch("experimental-compact-hash-check-enabled", Fate::Gate(Gate::CompactHashCheck)),
    switch("experimental-enable-lease-checkpoint", Fate::Gate(Gate::LeaseCheckpoint)),
    switch("experimental-enable-lease-checkpoint-persist", Fate::Gate(Gate::LeaseCheckpointPersist)),
    switch("experimental-initial-corrupt-check", Fate::Gate(Gate::InitialCorruptCheck)),
    switch("experimental-stop-grpc-service-on-defrag", Fate::Gate(Gate::StopGrpcServiceOnDefrag)),
    switch("experimental-txn-mode-write-with-shared-buffer", Fate::Gate(Gate::TxnModeWriteWithSharedBuffer)),
    value("discovery", Fate::Only(&[""], NO_V2_DISCOVERY)),
    value("discovery-proxy", Fate::Nothing),
    switch("enable-v2", Fate::Only(&["false", "FALSE", "False", "f", "F", "0"], NO_V2)),
    value("experimental-enable-v2v3", Fate::Only(&[""], NO_V2)),
    value("proxy", Fate::Only(&["off", "false"], NO_PROXY)),
    value("proxy-failure-wait", Fate::Nothing),
    value("proxy-refresh-interval", Fate::Nothing),
    value("proxy-dial-timeout", Fate::Nothing),
    value("proxy-write-timeout", Fate::Nothing),
    value("proxy-read-timeout", Fate::Nothing),
    switch("debug", Fate::DebugLevel),
    value("log-output", Fate::Becomes("log-outputs")),
    value("log-package-levels", Fate::Nothing),
    value("experimental-backend-bbolt-freelist-type", Fate::Becomes("backend-bbolt-freelist-type")),
];

/// The removed flag of this name.
pub(super) fn find(name: &str) -> Option<&'static Removed> {
    REMOVED.iter().find(|removed| removed.name == name)
}

impl Removed {
    /// Whether the value makes sense; the error is the reason alone.
    pub fn check(&self, value: &str) -> Result<(), String> {
        match &self.fate {
            Fate::Becomes(name) => match table::flag(name) {
                Some(setting) => setting.set(&mut Config::default(), value),
                None => Ok(()),
            },
            Fate::Gate(_) | Fate::DebugLevel => match parse_bool(value) {
                Some(_) => Ok(()),
                None => Err("parse error".to_owned()),
            },
            Fate::Nothing => Ok(()),
            Fate::Only(values, reason) => match values.contains(&value) {
                true => Ok(()),
                false => Err((*reason).to_owned()),
            },
        }
    }

    /// Acts on a checked value, unless the new name was given too. Returns what it was used as.
    pub fn apply(&self, config: &mut Config, value: &str) -> Result<String, String> {
        match &self.fate {
            Fate::Becomes(name) => {
                if let Some(setting) = table::flag(name).filter(|_| !config.is_given(name)) {
                    setting.set(config, value)?;
                    config.given.insert((*name).to_owned());
                }
                Ok(format!("--{name}"))
            }
            Fate::Gate(gate) => {
                let on = parse_bool(value).ok_or("parse error")?;
                if !config.feature_gates.is_chosen(*gate) {
                    config.feature_gates.choose(*gate, on);
                }
                Ok(format!("--feature-gates={}={on}", gate.name()))
            }
            Fate::DebugLevel => {
                let on = parse_bool(value).ok_or("parse error")?;
                if on && !config.is_given("log-level") {
                    "debug".clone_into(&mut config.log.level);
                }
                Ok("--log-level=debug".to_owned())
            }
            Fate::Nothing => Ok("nothing".to_owned()),
            Fate::Only(values, reason) => match values.contains(&value) {
                true => Ok("nothing".to_owned()),
                false => Err(format!("--{}={} is refused: {reason}", self.name, quote(value))),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_exist_and_agree_on_form() {
        for removed in REMOVED {
            assert!(table::flag(removed.name).is_none(), "{} is both removed and active", removed.name);
            if let Fate::Becomes(name) = removed.fate {
                let setting = table::flag(name).unwrap_or_else(|| panic!("{name} is no flag"));
                assert_eq!(setting.is_bool(), removed.is_bool, "{name}");
            }
        }
    }
}
