//! Settings that are read and checked but that this build cannot honour yet.
//!
//! A member never ignores what it was told: when one of these has another value than its default,
//! the start is refused and the flag named. Whoever builds the feature deletes its line here.

use super::Config;
use super::gates::Gate;
use super::table::flag;
use super::url::Url;

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

const TLS: &str = "TLS";
const DISCOVERY: &str = "discovery of the first members";
const TRACING: &str = "distributed tracing";

/// The whole list.
pub const LATER: &[Later] = &[
    later("cert-file", TLS),
    later("key-file", TLS),
    later("client-cert-auth", TLS),
    later("client-cert-file", TLS),
    later("client-key-file", TLS),
    later("client-crl-file", TLS),
    later("client-cert-allowed-hostname", TLS),
    later("client-transport-security.allowed-cn", TLS),
    later("client-transport-security.skip-client-san-verification", TLS),
    later("trusted-ca-file", TLS),
    later("auto-tls", TLS),
    later("peer-cert-file", TLS),
    later("peer-key-file", TLS),
    later("peer-client-cert-auth", TLS),
    later("peer-client-cert-file", TLS),
    later("peer-client-key-file", TLS),
    later("peer-trusted-ca-file", TLS),
    later("peer-cert-allowed-cn", TLS),
    later("peer-cert-allowed-hostname", TLS),
    later("peer-auto-tls", TLS),
    later("peer-crl-file", TLS),
    later("peer-skip-client-san-verification", TLS),
    later("self-signed-cert-validity", TLS),
    later("cipher-suites", TLS),
    later("tls-min-version", TLS),
    later("tls-max-version", TLS),
    later("discovery-token", DISCOVERY),
    later("discovery-endpoints", DISCOVERY),
    later("discovery-srv", DISCOVERY),
    later("discovery-srv-name", DISCOVERY),
    later("enable-distributed-tracing", TRACING),
    later("enable-pprof", "profiling"),
    later("enable-log-rotation", "log rotation"),
    later("memory-mlock", "locking memory"),
    later("bootstrap-defrag-threshold-megabytes", "defragmentation at start"),
    later("grpc-keepalive-min-time", "refusing clients that ping too often"),
    later("warning-apply-duration", "logging slow requests"),
    later("warning-unary-request-duration", "logging slow requests"),
    later("metrics", "latency histograms of calls"),
];

// Read and checked, not listed above and still without effect, because their default has the same
// effect or because they only tune what is listed:
// initial-election-tick-advance, backend-bbolt-freelist-type,
// socket-reuse-address (always on),
// enable-grpc-gateway (there is none to turn off), the other discovery and tracing flags,
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
    let lists = [
        ("listen-peer-urls", &config.listen_peer_urls),
        ("listen-client-urls", &config.listen_client_urls),
        ("listen-client-http-urls", &config.listen_client_http_urls),
        ("listen-metrics-urls", &config.listen_metrics_urls),
    ];
    for (name, urls) in lists {
        if let Some(url) = urls.iter().find(|url| Url::is_tls(url)) {
            return refuse(format!("--{name}={url}"), TLS);
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
        config.client_tls.cert_file = "a.pem".to_owned();
        assert_eq!(
            unsupported(&config).unwrap(),
            "--cert-file is not supported by this build yet: TLS is still to come; remove it to start"
        );
        let mut config = Config::default();
        config.feature_gates.merge("StopGRPCServiceOnDefrag=true").unwrap();
        assert!(unsupported(&config).unwrap().starts_with("--feature-gates=StopGRPCServiceOnDefrag=true is"));
        let config =
            Config { listen_client_urls: Url::parse_list("https://1.2.3.4:5").unwrap(), ..Config::default() };
        assert!(unsupported(&config).unwrap().starts_with("--listen-client-urls=https://1.2.3.4:5 is"));
    }
}
