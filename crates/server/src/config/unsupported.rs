//! Settings that are read and checked but that this build cannot honour yet.
//!
//! A member never ignores what it was told: when one of these has another value than its default,
//! the start is refused and the flag named. Whoever builds the feature deletes its line here.

use super::Config;
use super::gates::Gate;
use super::table::flag;

/// Flags whose feature is still to come, with the feature's name.
#[derive(Clone, Copy, Debug)]
pub struct Later {
    /// Flag without dashes.
    pub flag: &'static str,
    /// The feature that is missing.
    pub feature: &'static str,
}

const fn later(flag: &'static str, feature: &'static str) -> Later {
    Later { flag, feature }
}

const DISCOVERY: &str = "discovery of the first members";
const TRACING: &str = "distributed tracing";

/// The whole list.
pub const LATER: &[Later] = &[
    later("discovery-token", DISCOVERY),
    later("discovery-endpoints", DISCOVERY),
    later("discovery-srv", DISCOVERY),
    later("discovery-srv-name", DISCOVERY),
    later("enable-distributed-tracing", TRACING),
    later("enable-pprof", "profiling"),
    later("enable-log-rotation", "log rotation"),
    later("memory-mlock", "locking memory"),
    later("bootstrap-defrag-threshold-megabytes", "defragmentation at start"),
    later("warning-apply-duration", "logging slow requests"),
    later("warning-unary-request-duration", "logging slow requests"),
    later("metrics", "latency histograms of calls"),
];

// Read and checked, not listed above and still without effect, because their default has the same
// effect or because they only tune what is listed:
// initial-election-tick-advance, backend-bbolt-freelist-type,
// socket-reuse-address (always on),
// the other discovery and tracing flags,
// log-rotation-config-json, v2-deprecation and discovery-fallback (without effect in etcd too).

/// Gates whose feature is still to come. Gates that only tune are harmless and not listed.
const LATER_GATES: &[(Gate, &str)] = &[
    (Gate::StopGrpcServiceOnDefrag, "reporting defragmentation as not serving"),
    (Gate::SetMemberLocalAddr, "choosing the source address of peer connections"),
];

/// The first setting that this build cannot honour, as an error text.
pub fn unsupported(config: &Config) -> Option<String> {
    let defaults = Config::default();
    let refuse = |what: String, feature: &str| {
        Some(format!(
            "{what} is not supported by this build yet: {feature} is still to come; remove it to start"
        ))
    };
    for Later { flag: name, feature } in LATER {
        let setting = super::table::SETTINGS.iter().find(|setting| setting.name == *name)?;
        if setting.text(config) != setting.text(&defaults) {
            let dashes = if flag(name).is_some() { "--" } else { "" };
            return refuse(format!("{dashes}{name}"), feature);
        }
    }
    for (gate, feature) in LATER_GATES {
        if config.feature_gates.enabled(*gate) {
            return refuse(format!("--feature-gates={}=true", gate.name()), feature);
        }
    }
    if let Some(url) =
        config.listen_peer_urls.iter().chain(&config.listen_metrics_urls).find(|url| url.is_unix())
    {
        return refuse(url.to_string(), "listening for peers or metrics on a unix socket");
    }
    if config.log.outputs.iter().any(|output| output == "systemd/journal") {
        return refuse("--log-outputs=systemd/journal".to_owned(), "logging to the journal");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::table::SETTINGS;

    #[test]
    fn every_line_names_a_setting() {
        for later in LATER {
            assert!(SETTINGS.iter().any(|setting| setting.name == later.flag), "{}", later.flag);
        }
    }

    #[test]
    fn defaults_are_fine_and_missing_features_are_named() {
        let mut config = Config::default();
        assert_eq!(unsupported(&config), None);
        config.enable_pprof = true;
        assert_eq!(
            unsupported(&config).unwrap(),
            "--enable-pprof is not supported by this build yet: profiling is still to come; remove it to start"
        );
        let mut config = Config::default();
        config.feature_gates.merge("StopGRPCServiceOnDefrag=true").unwrap();
        assert!(unsupported(&config).unwrap().starts_with("--feature-gates=StopGRPCServiceOnDefrag=true is"));
    }
}
