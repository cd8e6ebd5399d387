//! The configuration file: YAML (or JSON, which is YAML).
//!
//! Keys match without regard to case, unknown keys are skipped, null keeps the default, spans of
//! time are whole nanoseconds. Keys are taken in sorted order and the first value of a wrong kind
//! is reported. Everything else waits until all kinds have been checked.

use super::Config;
use super::duration::GoDuration;
use super::load::{Failure, Notice};
use super::removed;
use super::scalars::quote;
use super::table::{SETTINGS, Setting, Slot, flag};
use super::url::Url;
use super::yaml::{Node, parse};

/// What a file turned into.
#[derive(Default)]
pub(super) struct Read {
    pub notices: Vec<Notice>,
}

/// Reads `text` into `config`, which holds the defaults.
pub(super) fn read(text: &str, config: &mut Config) -> Result<Read, Failure> {
    let invalid = |text: String| Failure::Invalid(text);
    let root =
        parse(text).map_err(|reason| invalid(format!("error converting YAML to JSON: yaml: {reason}")))?;
    let decode_fault = |fault: String| {
        invalid(format!("error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {fault}"))
    };
    let entries = match root {
        Node::Null => Vec::new(),
        Node::Map(entries) => entries,
        other => {
            return Err(decode_fault(format!("{} into Go value of type embed.configYAML", other.kind())));
        }
    };
    let mut reader = Reader { config, first_fault: None, later: Vec::new(), removed: Vec::new() };
    reader.take_block("", &entries);
    let Reader { first_fault, later, removed, .. } = reader;
    if let Some(fault) = first_fault {
        return Err(decode_fault(fault));
    }
    let default_cluster = Config::default().initial_cluster;
    for (key, value) in &entries {
        config.given.insert(key.clone());
        if key == "peer-transport-security" && !matches!(value, Node::Map(_)) {
            return Err(invalid("invalid peer-transport-security".to_owned()));
        }
    }
    set_later(config, &later)?;
    if (!config.discovery_srv.is_empty() || !config.discovery.endpoints.is_empty())
        && config.initial_cluster == default_cluster
    {
        config.initial_cluster.clear();
    }
    if config.initial_cluster_state.is_empty() {
        "new".clone_into(&mut config.initial_cluster_state);
    }
    if config.self_signed_cert_validity_years == 0 {
        config.self_signed_cert_validity_years = 1;
    }
    let mut read = Read::default();
    for (name, node) in removed {
        take_removed(config, name, &node, &mut read).map_err(invalid)?;
    }
    Ok(read)
}

struct Reader<'c> {
    config: &'c mut Config,
    first_fault: Option<String>,
    /// Texts that are looked into only when every kind was right.
    later: Vec<(&'static Setting, String)>,
    removed: Vec<(&'static str, Node)>,
}

impl Reader<'_> {
    fn take_block(&mut self, prefix: &str, entries: &[(String, Node)]) {
        for (key, node) in entries {
            let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            if matches!(node, Node::Null) {
                continue;
            }
            if let Some(setting) = setting_at(&path) {
                let result = take(self.config, setting, node, &mut self.later);
                if let Err(fault) = result {
                    self.first_fault.get_or_insert(fault);
                }
            } else if let Some(block) = block_at(&path) {
                match node {
                    Node::Map(entries) => self.take_block(block.path, entries),
                    other => {
                        let fault = mismatch(other.kind(), block.path, block.go_type);
                        self.first_fault.get_or_insert(fault);
                    }
                }
            } else if let Some(removed) = removed::find(&path.to_lowercase()) {
                self.removed.push((removed.name, node.clone()));
            }
        }
    }
}

fn setting_at(path: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.file_key.is_some_and(|key| key.eq_ignore_ascii_case(path)))
}

/// A group of keys, and the names that Go's decoder gives it in errors.
struct Block {
    path: &'static str,
    /// Type of the block as a value.
    go_type: &'static str,
    /// Type of the block as the owner of its keys.
    owner: &'static str,
}

const BLOCKS: [Block; 9] = [
    Block { path: "client-transport-security", go_type: "embed.securityConfig", owner: "securityConfig" },
    Block { path: "peer-transport-security", go_type: "embed.securityConfig", owner: "securityConfig" },
    Block { path: "discovery-config", go_type: "v3discovery.DiscoveryConfig", owner: "DiscoveryConfig" },
    Block { path: "discovery-config.client", go_type: "clientv3.ConfigSpec", owner: "ConfigSpec" },
    Block { path: "discovery-config.client.secure", go_type: "clientv3.SecureConfig", owner: "SecureConfig" },
    Block { path: "discovery-config.client.auth", go_type: "clientv3.AuthConfig", owner: "AuthConfig" },
    Block { path: "socket-options", go_type: "transport.SocketOpts", owner: "SocketOpts" },
    Block { path: "ClientTLSInfo", go_type: "transport.TLSInfo", owner: "TLSInfo" },
    Block { path: "PeerTLSInfo", go_type: "transport.TLSInfo", owner: "TLSInfo" },
];

/// Top-level keys that live in the second half of etcd's file structure.
const SECOND_HALF: [&str; 10] = [
    "listen-peer-urls",
    "listen-client-urls",
    "listen-client-http-urls",
    "initial-advertise-peer-urls",
    "advertise-client-urls",
    "cors",
    "host-whitelist",
    "client-transport-security",
    "peer-transport-security",
    "feature-gates",
];

fn block_at(path: &str) -> Option<&'static Block> {
    BLOCKS.iter().find(|block| block.path.eq_ignore_ascii_case(path))
}

fn mismatch(what: &str, path: &str, go_type: &str) -> String {
    let top = path.split('.').next().unwrap_or_default();
    let half = if SECOND_HALF.contains(&top) { "configJSON" } else { "Config" };
    let owner = match path.rsplit_once('.') {
        None => "configYAML",
        Some((parent, _)) => block_at(parent).map_or("configYAML", |block| block.owner),
    };
    format!("{what} into Go struct field {owner}.{half}.{path} of type {go_type}")
}

/// Sets a value by its kind, or queues it.
fn take(
    config: &mut Config,
    setting: &'static Setting,
    node: &Node,
    later: &mut Vec<(&'static Setting, String)>,
) -> Result<(), String> {
    let path = setting.file_key.unwrap_or(setting.name);
    let wrong = |go_type: &str| Err(mismatch(node.kind(), path, go_type));
    let wrong_number = |go_type: &str| {
        let what =
            node.literal().map_or_else(|| node.kind().to_owned(), |literal| format!("number {literal}"));
        Err(mismatch(&what, path, go_type))
    };
    let whole = |bits: u32, signed: bool| {
        let range = match (bits, signed) {
            (32, false) => 0..=i128::from(u32::MAX),
            (_, false) => 0..=i128::from(u64::MAX),
            (_, true) => i128::from(i64::MIN)..=i128::from(i64::MAX),
        };
        node.whole().filter(|whole| range.contains(whole))
    };
    match &setting.slot {
        Slot::Text(_) | Slot::Choice(..) => match (node, setting.text_field(config)) {
            (Node::Text(text), Some(field)) => text.clone_into(field),
            _ => return wrong("string"),
        },
        Slot::Bool(_) => match node_as_bool(node) {
            Some(on) => setting.set(config, if on { "true" } else { "false" })?,
            None => return wrong("bool"),
        },
        Slot::Uint(_) | Slot::Uint64(_) | Slot::Uint32(_) => {
            let (bits, go_type) = match &setting.slot {
                Slot::Uint32(_) => (32, "uint32"),
                Slot::Uint64(_) => (64, "uint64"),
                _ => (64, "uint"),
            };
            match whole(bits, false) {
                Some(value) => setting.set(config, &value.to_string())?,
                None => return wrong_number(go_type),
            }
        }
        Slot::Int(_) | Slot::Int64(_) => match whole(64, true) {
            Some(value) => setting.set(config, &value.to_string())?,
            None if matches!(setting.slot, Slot::Int(_)) => return wrong_number("int"),
            None => return wrong_number("int64"),
        },
        Slot::Duration(_) => match (whole(64, true), setting.duration_field(config)) {
            (Some(nanos), Some(field)) => *field = GoDuration::from_nanos(nanos as i64),
            _ => return wrong_number("time.Duration"),
        },
        Slot::Urls(_) | Slot::Origins(_) | Slot::Names(_) | Slot::Gates(_) => match node {
            Node::Text(text) => later.push((setting, text.clone())),
            _ => return wrong("string"),
        },
        Slot::List(_) | Slot::SortedList(_) => match (node, setting.list_field(config)) {
            (Node::List(items), Some(field)) => *field = words(items, path)?,
            _ => return wrong("[]string"),
        },
        Slot::Choices(..) => {
            if !matches!(node, Node::Text(_)) {
                return wrong("config.V2DeprecationEnum");
            }
        }
        Slot::Compat(_) => match node {
            Node::Text(text) => later.push((setting, text.clone())),
            Node::Float(_) => later.extend(node.literal().map(|literal| (setting, literal))),
            _ => return wrong("string"),
        },
    }
    Ok(())
}

fn words(items: &[Node], path: &str) -> Result<Vec<String>, String> {
    items
        .iter()
        .map(|item| match item {
            Node::Text(text) => Ok(text.clone()),
            Node::Null => Ok(String::new()),
            other => Err(mismatch(other.kind(), path, "string")),
        })
        .collect()
}

fn node_as_bool(node: &Node) -> Option<bool> {
    match node {
        Node::Bool(on) => Some(*on),
        Node::Text(text) => match text.as_str() {
            "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(true),
            "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// The URLs in the order in which etcd looks at them, each with the name it uses in the error.
const URL_KEYS: [(&str, &str); 6] = [
    ("listen-peer-urls", "listen-peer-urls"),
    ("listen-client-urls", "listen-client-urls"),
    ("listen-client-http-urls", "listen-client-http-urls"),
    ("initial-advertise-peer-urls", "initial-advertise-peer-urls"),
    ("advertise-client-urls", "advertise-peer-urls"),
    ("listen-metrics-urls", "listen-metrics-urls"),
];

fn set_later(config: &mut Config, later: &[(&'static Setting, String)]) -> Result<(), Failure> {
    let given = |name: &str| {
        later
            .iter()
            .rfind(|(setting, text)| setting.name == name && !text.is_empty())
            .map(|(setting, text)| (*setting, text))
    };
    if let Some((setting, text)) = given("feature-gates") {
        setting.set(config, text).map_err(Failure::Invalid)?;
    }
    for (name, shown) in URL_KEYS {
        let Some((setting, text)) = given(name) else { continue };
        let urls = Url::parse_list(text)
            .map_err(|error| Failure::Plain(format!("unexpected error setting up {shown}: {error}")))?;
        if let Some(field) = setting.urls_field(config) {
            *field = urls;
        }
    }
    for name in ["cors", "host-whitelist", "compat-version"] {
        if let Some((setting, text)) = given(name) {
            setting.set(config, text).map_err(|reason| {
                Failure::Invalid(format!("invalid value {} for {name}: {reason}", quote(text)))
            })?;
        }
    }
    Ok(())
}

/// Acts on a key that etcd has dropped; its notation is that of its successor.
fn take_removed(config: &mut Config, name: &'static str, node: &Node, read: &mut Read) -> Result<(), String> {
    let Some(removed) = removed::find(name) else { return Ok(()) };
    let used_as = match (&removed.fate, node) {
        (removed::Fate::Becomes(successor), node) => {
            if let Some(setting) = flag(successor).filter(|_| !config.is_given(successor)) {
                let node = match (node, &setting.slot) {
                    (Node::Text(text), Slot::SortedList(_)) => {
                        Node::List(text.split(',').map(|word| Node::Text(word.to_owned())).collect())
                    }
                    _ => node.clone(),
                };
                let mut later = Vec::new();
                take(config, setting, &node, &mut later).map_err(|fault| {
                    format!("error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {fault}")
                })?;
            }
            successor.to_string()
        }
        (_, Node::Text(text)) => removed.apply(config, text)?,
        (_, Node::Bool(on)) => removed.apply(config, if *on { "true" } else { "false" })?,
        (removed::Fate::Nothing, _) => "nothing".to_owned(),
        (_, other) => return Err(format!("{name}: a {} is no value for this key", other.kind())),
    };
    read.notices.push(super::load::removed_notice(name, &used_as));
    Ok(())
}
