//! `etcd grpc-proxy start`: from flags to the proxy's settings.

use cli::Flags;
use proxy::discover::Question;
use proxy::grpc::{Identity, Prepared, Settings, StartError};
use server::{log, systemd};
use tls::{CipherSuites, Versions};

use super::{fail, log_from};

pub fn start(flags: &Flags) -> ! {
    if let Err(text) = check(flags) {
        fail(text);
    }
    log_from(if flags.bool("debug") { log::Level::Debug } else { log::Level::Info });
    let suites = match CipherSuites::from_names(&flags.list("listen-cipher-suites")) {
        Ok(suites) => suites,
        Err(error) => fail(error),
    };
    let proxy = match Prepared::start(settings(flags, suites)) {
        Ok(proxy) => proxy,
        Err(StartError::CallerTls(reason)) => {
            log::fatal("failed to create TLS listener", &[("error", reason.into())])
        }
        Err(error) => fail(error),
    };
    systemd::notify_ready();
    loop {
        // The workers serve; a signal ends the process.
        std::thread::park();
        std::hint::black_box(&proxy);
    }
}

/// What does not hold together, in etcd's order and words.
fn check(flags: &Flags) -> Result<(), String> {
    let (prefix, ttl) = (flags.text("resolver-prefix"), flags.int("resolver-ttl"));
    let advertise = flags.text("advertise-client-url");
    if !prefix.is_empty() && ttl < 1 {
        return Err(format!("invalid resolver-ttl {ttl}"));
    }
    if prefix.is_empty() && ttl > 0 {
        return Err(format!("invalid resolver-prefix {prefix:?}"));
    }
    if !prefix.is_empty() && advertise.is_empty() {
        return Err(format!("invalid advertise-client-url {advertise:?}"));
    }
    if flags.bool("auto-tls") && flags.uint("self-signed-cert-validity") == 0 {
        return Err("selfSignedCertValidity is invalid,it should be greater than 0".to_owned());
    }
    let version = |name: &str| {
        let text = flags.text(name);
        match text.as_str() {
            "" => Ok(0),
            "TLS1.2" => Ok(2),
            "TLS1.3" => Ok(3),
            _ => Err(format!(
                "{name} is invalid: unexpected TLS version {text:?} (must be one of: TLS1.2, TLS1.3)"
            )),
        }
    };
    let (min, max) = (version("tls-min-version")?, version("tls-max-version")?);
    if max != 0 && min > max {
        let (min, max) = (flags.text("tls-min-version"), flags.text("tls-max-version"));
        return Err(format!("min version ({min}) is greater than max version ({max})"));
    }
    if min == 3 && !flags.list("listen-cipher-suites").is_empty() {
        return Err("cipher suites cannot be configured when only TLS1.3 is enabled".to_owned());
    }
    Ok(())
}

fn settings(flags: &Flags, suites: CipherSuites) -> Settings {
    let text = |name| flags.text(name);
    Settings {
        listen: text("listen-addr"),
        metrics_url: text("metrics-addr"),
        endpoints: flags.list("endpoints"),
        sync_interval: flags.duration("endpoints-auto-sync-interval"),
        discovery: Question {
            domain: text("discovery-srv"),
            service_name: text("discovery-srv-name"),
            insecure: flags.bool("insecure-discovery"),
            ca_file: text("cacert"),
        },
        dial_keepalive_time: flags.duration("dial-keepalive-time"),
        dial_keepalive_timeout: flags.duration("dial-keepalive-timeout"),
        permit_without_stream: flags.bool("permit-without-stream"),
        max_send_bytes: flags.int("max-send-bytes"),
        max_receive_bytes: flags.int("max-recv-bytes"),
        cluster_tls: tls::Settings {
            cert_file: text("cert"),
            key_file: text("key"),
            trusted_ca_file: text("cacert"),
            insecure_skip_verify: flags.bool("insecure-skip-tls-verify"),
            ..tls::Settings::default()
        },
        caller_tls: tls::Settings {
            cert_file: text("cert-file"),
            key_file: text("key-file"),
            trusted_ca_file: text("trusted-ca-file"),
            crl_file: text("client-crl-file"),
            suites,
            versions: Versions::from_names(&text("tls-min-version"), &text("tls-max-version")),
            ..tls::Settings::default()
        },
        auto_tls: flags.bool("auto-tls"),
        validity_years: flags.uint("self-signed-cert-validity"),
        data_dir: text("data-dir"),
        identity: Identity {
            advertise: text("advertise-client-url"),
            prefix: text("resolver-prefix"),
            ttl_seconds: flags.int("resolver-ttl"),
        },
        namespace: text("namespace"),
        leasing_prefix: text("experimental-leasing-prefix"),
        ordering: flags.bool("experimental-serializable-ordering"),
        payload_log: flags.bool("experimental-enable-grpc-logging"),
        keepalive_min_time: flags.duration("grpc-keepalive-min-time"),
        keepalive_interval: flags.duration("grpc-keepalive-interval"),
        keepalive_timeout: flags.duration("grpc-keepalive-timeout"),
        // The flag has 32 bits.
        max_concurrent_streams: u32::try_from(flags.uint("max-concurrent-streams")).unwrap_or(u32::MAX),
        enable_pprof: flags.bool("enable-pprof"),
    }
}
