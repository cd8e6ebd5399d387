//! From words, variables and a file to a configuration.
//!
//! Nothing is logged here. Records that belong before the configured logger exists are `early`,
//! those after it are `late`; the program writes both where they belong.

use std::fs;
use std::io;
use std::path::Path;

use types::CompatVersion;

use super::duration::GoDuration;
use super::environment::{self, Variables};
use super::validate::{LogFault, RuleError, log_settings, validate};
use super::{Config, built_in_snapshot_count, file, flags};
use crate::log::{self, Level, Value};

/// A log record that reading the configuration asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// Weight.
    pub level: Level,
    /// Message.
    pub msg: String,
    /// Fields.
    pub fields: Vec<(&'static str, Value<'static>)>,
}

impl Notice {
    pub(super) fn info(msg: impl Into<String>) -> Self {
        Self { level: Level::Info, msg: msg.into(), fields: Vec::new() }
    }

    pub(super) fn warn(msg: impl Into<String>) -> Self {
        Self { level: Level::Warn, msg: msg.into(), fields: Vec::new() }
    }

    pub(super) fn field(mut self, name: &'static str, value: impl Into<Value<'static>>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    /// Writes the record.
    #[track_caller]
    pub fn write(&self) {
        log::log(self.level, &self.msg, &self.fields);
    }
}

pub(super) fn removed_notice(name: &str, used_as: &str) -> Notice {
    Notice::warn("setting was removed from etcd and is still understood; use the new one")
        .field("setting", name.to_owned())
        .field("used-as", used_as.to_owned())
}

/// Why a start with this configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// A rule is broken: warn `failed to verify flags`, status 1.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// A value cannot be read: warn `failed to verify flags`, status 1.
    #[error("{0}")]
    Invalid(String),
    /// A variable whose flag was given too: a fatal record, status 1.
    #[error("variable {0} is given together with its flag")]
    Conflict(String),
    /// A line on stderr, status 1.
    #[error("{0}")]
    Plain(String),
    /// Ends like a Go panic: a line on stderr, status 2.
    #[error("{0}")]
    Panic(String),
}

/// A configuration and what there is to say about it.
#[derive(Debug)]
pub struct Loaded {
    /// The settings, as far as they could be read.
    pub config: Config,
    /// Records for the logger that exists before any configuration.
    pub early: Vec<Notice>,
    /// How to log; none when that could not be told.
    pub log: Option<log::Settings>,
    /// Records for the configured logger.
    pub late: Vec<Notice>,
    /// Why not to start.
    pub failure: Option<Failure>,
    /// Whether a file was the source.
    pub from_file: bool,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Outcome {
    /// Usage on stderr, flags on stdout, status 0.
    Help,
    /// The version of the release stood in for, status 0.
    Version(CompatVersion),
    /// This line and the usage on stderr, status 2.
    Usage(String),
    /// A member.
    Start(Box<Loaded>),
}

/// Reads a configuration file.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    fs::read(path)
}

/// Reads the words behind the program name, the variables, and with `read_file` the file that they
/// name.
pub fn load(
    words: &[String],
    variables: &Variables,
    read_file: &dyn Fn(&Path) -> io::Result<Vec<u8>>,
) -> Outcome {
    let mut config = Config::default();
    let mut read = match flags::read(words, &mut config) {
        Ok(read) => read,
        Err(flags::Stop::Help) => return Outcome::Help,
        Err(flags::Stop::Fault(line)) => return Outcome::Usage(line),
    };
    let mut loaded = Loaded::new(config);
    if let Some(word) = read.stray.take() {
        loaded.failure =
            Some(Failure::Invalid(format!("{} is not a valid flag", super::scalars::quote(&word))));
        return Outcome::Start(Box::new(loaded));
    }
    if loaded.config.show_version {
        return Outcome::Version(claimed_version(&loaded.config, &read, variables));
    }
    let from_variable = environment::get(variables, "ETCD_CONFIG_FILE").unwrap_or_default();
    let path = match loaded.config.config_file.as_str() {
        "" => from_variable.to_owned(),
        path => path.to_owned(),
    };
    let result = match path.as_str() {
        "" => loaded.read_words_and_variables(read, variables),
        path => loaded.read_path(path, read_file),
    };
    if !(loaded.from_file && result.is_err()) {
        loaded.late.extend(loaded.deprecations());
    }
    loaded.failure = result.err();
    Outcome::Start(Box::new(loaded))
}

/// The release in the version text: the flag, else the variable, else the default.
fn claimed_version(config: &Config, read: &flags::Read, variables: &Variables) -> CompatVersion {
    if read.given.contains("compat-version") {
        return config.compat_version;
    }
    environment::get(variables, "ETCD_COMPAT_VERSION").and_then(|text| text.parse().ok()).unwrap_or_default()
}

impl Loaded {
    fn new(config: Config) -> Self {
        Self { config, early: Vec::new(), log: None, late: Vec::new(), failure: None, from_file: false }
    }

    fn read_words_and_variables(&mut self, words: flags::Read, variables: &Variables) -> Result<(), Failure> {
        let environment = environment::read(variables, &words.given, &mut self.config);
        self.early = environment.notices;
        if let Some(variable) = environment.conflict {
            return Err(Failure::Conflict(variable));
        }
        if let Some(fault) = environment.fault {
            return Err(Failure::Invalid(fault));
        }
        self.config.given =
            words.given.iter().chain(&environment.given).map(|name| (*name).to_owned()).collect();
        for (removed, value) in words.removed.iter().chain(&environment.removed) {
            let used_as = removed.apply(&mut self.config, value).map_err(Failure::Invalid)?;
            self.early.push(removed_notice(removed.name, &used_as));
        }
        self.raise_raft_timeouts();
        let config = &mut self.config;
        if config.is_given("listen-client-urls") && !config.is_given("advertise-client-urls") {
            config.advertise_client_urls.clear();
        }
        let discovers = !config.discovery_srv.is_empty()
            || !config.discovery_srv_name.is_empty()
            || !config.discovery.endpoints.is_empty();
        if discovers && !config.is_given("initial-cluster") {
            config.initial_cluster.clear();
        }
        if config.discovery_fallback == "proxy" {
            return Err(RuleError::FallbackProxy.into());
        }
        self.check()
    }

    fn read_path(
        &mut self,
        path: &str,
        read_file: &dyn Fn(&Path) -> io::Result<Vec<u8>>,
    ) -> Result<(), Failure> {
        self.from_file = true;
        self.config = Config { config_file: path.to_owned(), ..Config::default() };
        let bytes = read_file(Path::new(path))
            .map_err(|error| Failure::Invalid(format!("open {path}: {}", types::os_reason(&error))))?;
        let text = String::from_utf8(bytes).map_err(|_| {
            Failure::Invalid("error converting YAML to JSON: yaml: invalid leading UTF-8 octet".to_owned())
        })?;
        let read = file::read(&text, &mut self.config)?;
        self.early.extend(read.notices);
        self.check()?;
        self.late.push(
            Notice::info(
                "loaded server configuration, other configuration command line flags and environment variables will be ignored if provided",
            )
            .field("path", path.to_owned()),
        );
        Ok(())
    }

    /// What is the same for every source.
    fn check(&mut self) -> Result<(), Failure> {
        if !self.config.is_given("snapshot-count") {
            self.config.snapshot_count = built_in_snapshot_count(self.config.compat_version);
        }
        if self.config.warning_unary_request_duration.is_zero() {
            self.config.warning_unary_request_duration = GoDuration::from_millis(300);
        }
        match log_settings(&self.config) {
            Ok(settings) => self.log = Some(settings),
            Err(LogFault::Rule(error)) => return Err(error.into()),
            Err(LogFault::Level(error)) => return Err(Failure::Panic(format!("panic: {error}"))),
        }
        Ok(validate(&self.config, &mut self.late)?)
    }

    fn raise_raft_timeouts(&mut self) {
        let least = GoDuration::from_secs(5);
        let (read, write) = (&mut self.config.raft_read_timeout, &mut self.config.raft_write_timeout);
        for (name, value) in [("raft-read-timeout", read), ("raft-write-timeout", write)] {
            if *value < least {
                *value = least;
                self.early.push(Notice::info(format!("{name} increased to minimum value: {least}")));
            }
        }
    }

    fn deprecations(&self) -> Vec<Notice> {
        let texts = [
            ("max-snapshots", "--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8."),
            (
                "v2-deprecation",
                "--v2-deprecation is deprecated and scheduled for removal in v3.8. The default value is enforced, ignoring user input.",
            ),
        ];
        if self.log.is_none() {
            return Vec::new();
        }
        let given = texts.into_iter().filter(|(name, _)| self.config.is_given(name));
        given.map(|(_, text)| Notice::warn(text)).collect()
    }
}
