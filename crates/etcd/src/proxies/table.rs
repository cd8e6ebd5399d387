//! The commands, and every flag of theirs.

use cli::{CommandSpec, FlagSpec, Kind};

use super::Run;

type Command = CommandSpec<Run>;

/// Both commands; running a member is not among them.
pub static ROOT: Command = Command::group(
    "etcd",
    "etcd server",
    &[
        Command::group("gateway", "TCP gateway", GATEWAY_COMMANDS),
        Command::group("grpc-proxy", "proxy for the client API", GRPC_PROXY_COMMANDS),
    ],
);

const GATEWAY_COMMANDS: &[Command] =
    &[Command::command("start", "", Run::Gateway, "start the gateway").flags(GATEWAY)];
const GRPC_PROXY_COMMANDS: &[Command] =
    &[Command::command("start", "", Run::GrpcProxy, "start the gRPC proxy").flags(GRPC_PROXY)];

const fn flag(name: &'static str, kind: Kind, usage: &'static str) -> FlagSpec {
    FlagSpec::new(name, kind, usage)
}

const LISTEN: FlagSpec =
    flag("listen-addr", Kind::Text, "host:port to accept connections on").default("127.0.0.1:23790");
const ENDPOINTS: FlagSpec =
    flag("endpoints", Kind::List, "endpoints of the cluster, separated by commas").default("127.0.0.1:2379");
const SRV: FlagSpec = flag("discovery-srv", Kind::Text, "domain whose SRV records name the endpoints");
const SRV_NAME: FlagSpec =
    flag("discovery-srv-name", Kind::Text, "suffix of the service name in SRV records");
const INSECURE: FlagSpec =
    flag("insecure-discovery", Kind::Bool, "take discovered endpoints that are plain or not there, too");

static GATEWAY: &[FlagSpec] = &[
    LISTEN,
    ENDPOINTS,
    SRV,
    SRV_NAME,
    INSECURE,
    FlagSpec::path(
        "trusted-ca-file",
        "CAs of discovered endpoints; their certificates are for clients to check",
    ),
    flag("retry-delay", Kind::Duration, "how often an endpoint that failed is looked at again")
        .default("1m0s"),
];

static GRPC_PROXY: &[FlagSpec] = &[
    LISTEN,
    flag(
        "advertise-client-url",
        Kind::Text,
        "address that clients reach this proxy at; empty: members are those of the cluster",
    )
    .default("127.0.0.1:23790"),
    flag("metrics-addr", Kind::Text, "one more URL for metrics and health"),
    ENDPOINTS,
    flag(
        "endpoints-auto-sync-interval",
        Kind::Duration,
        "how often the endpoints are taken from the member list (0: never)",
    ),
    SRV,
    SRV_NAME,
    INSECURE,
    flag(
        "dial-keepalive-time",
        Kind::Duration,
        "how often a quiet connection to the cluster is probed (0: never)",
    ),
    flag("dial-keepalive-timeout", Kind::Duration, "how long a probe may stay unanswered").default("20s"),
    flag("permit-without-stream", Kind::Bool, "probe connections without calls as well"),
    flag("resolver-prefix", Kind::Text, "key prefix under which proxies of this cluster register"),
    flag("resolver-ttl", Kind::Int, "seconds that the registration outlives this proxy"),
    flag("namespace", Kind::Text, "prefix of all keys at the cluster"),
    FlagSpec::path("data-dir", "directory for what is generated").default("default.proxy"),
    flag("max-send-bytes", Kind::Int, "longest message sent to the cluster").default("1572864"),
    flag("max-recv-bytes", Kind::Int, "longest message taken from the cluster").default("2147483647"),
    flag("max-concurrent-streams", Kind::Uint32, "calls and streams of one connection at the same time")
        .default("4294967295"),
    flag("grpc-keepalive-min-time", Kind::Duration, "clients that probe more often than this are sent away")
        .default("5s"),
    flag("grpc-keepalive-interval", Kind::Duration, "how often clients are probed").default("2h0m0s"),
    flag("grpc-keepalive-timeout", Kind::Duration, "how long a client may leave a probe unanswered")
        .default("20s"),
    FlagSpec::path("cert", "certificate shown to the cluster; without a common name"),
    FlagSpec::path("key", "its key"),
    FlagSpec::path("cacert", "CAs that the cluster's certificates are checked against"),
    flag("insecure-skip-tls-verify", Kind::Bool, "take any certificate of the cluster (for tests)"),
    FlagSpec::path("cert-file", "certificate shown to clients"),
    FlagSpec::path("key-file", "its key"),
    FlagSpec::path(
        "trusted-ca-file",
        "CAs that clients' certificates are checked against; makes them mandatory",
    ),
    flag("auto-tls", Kind::Bool, "generate a certificate for clients if none is given"),
    flag("self-signed-cert-validity", Kind::Uint, "years that a generated certificate is valid").default("1"),
    FlagSpec::path("client-crl-file", "revoked certificates of clients"),
    flag("listen-cipher-suites", Kind::List, "suites of TLS 1.2 for clients, separated by commas"),
    flag("tls-min-version", Kind::Text, "lowest version of TLS for clients: TLS1.2, TLS1.3")
        .default("TLS1.2"),
    flag("tls-max-version", Kind::Text, "highest version of TLS for clients: TLS1.2, TLS1.3"),
    flag("enable-pprof", Kind::Bool, "serve profiles under /debug/pprof/"),
    flag("debug", Kind::Bool, "log what the proxy does in detail"),
    flag(
        "experimental-serializable-ordering",
        Kind::Bool,
        "never show an older revision than one already shown",
    ),
    flag(
        "experimental-leasing-prefix",
        Kind::Text,
        "key prefix of claims on keys, whose owner reads them from memory",
    ),
    flag("experimental-enable-grpc-logging", Kind::Bool, "log all requests and answers, but passwords"),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of the command in the table of flags that etcd 3.7.1 has: name, type, default.
    const GATEWAY_ROWS: &str = "listen-addr string 127.0.0.1:23790|endpoints strings 127.0.0.1:2379|\
        discovery-srv string |discovery-srv-name string |insecure-discovery bool false|\
        trusted-ca-file string |retry-delay duration 1m0s";
    const GRPC_PROXY_ROWS: &str = "listen-addr string 127.0.0.1:23790|\
        advertise-client-url string 127.0.0.1:23790|metrics-addr string |endpoints strings 127.0.0.1:2379|\
        endpoints-auto-sync-interval duration 0s|discovery-srv string |discovery-srv-name string |\
        insecure-discovery bool false|dial-keepalive-time duration 0s|dial-keepalive-timeout duration 20s|\
        permit-without-stream bool false|resolver-prefix string |resolver-ttl int 0|namespace string |\
        data-dir string default.proxy|max-send-bytes int 1572864|max-recv-bytes int 2147483647|\
        max-concurrent-streams uint32 4294967295|grpc-keepalive-min-time duration 5s|\
        grpc-keepalive-interval duration 2h0m0s|grpc-keepalive-timeout duration 20s|cert string |key string |\
        cacert string |insecure-skip-tls-verify bool false|cert-file string |key-file string |\
        trusted-ca-file string |auto-tls bool false|self-signed-cert-validity uint 1|client-crl-file string |\
        listen-cipher-suites strings |tls-min-version string TLS1.2|tls-max-version string |\
        enable-pprof bool false|debug bool false|experimental-serializable-ordering bool false|\
        experimental-leasing-prefix string |experimental-enable-grpc-logging bool false";

    #[test]
    fn the_flags_are_etcds() {
        let row = |flag: &FlagSpec| {
            let kind = match flag.kind {
                Kind::Bool => "bool",
                Kind::Int => "int",
                Kind::Uint => "uint",
                Kind::Uint32 => "uint32",
                Kind::Text => "string",
                Kind::List => "strings",
                Kind::Duration => "duration",
            };
            format!("{} {kind} {}", flag.name, flag.default)
        };
        for (flags, rows) in [(GATEWAY, GATEWAY_ROWS), (GRPC_PROXY, GRPC_PROXY_ROWS)] {
            let found: Vec<String> = flags.iter().map(row).collect();
            assert_eq!(found, rows.split('|').collect::<Vec<_>>());
            // Defaults that do not parse panic here.
            cli::Flags::new(flags);
        }
    }
}
