//! The command line, read as Go's `flag` package reads it.
//!
//! One dash or two, `--flag value` or `--flag=value`; booleans take a value only behind `=`. The
//! first word that is no flag ends the flags, and so does a bare `--`. Reading stops at the first
//! fault.

use std::collections::BTreeSet;

use super::Config;
use super::removed::{self, Removed};
use super::scalars::{parse_bool, quote};
use super::table::{self, Setting};

/// Flags of the first releases: understood, and without any effect or message.
pub(super) const IGNORED: [&str; 15] = [
    "cluster-active-size",
    "cluster-remove-delay",
    "cluster-sync-interval",
    "config",
    "force",
    "max-result-buffer",
    "max-retry-attempts",
    "peer-heartbeat-interval",
    "peer-election-timeout",
    "retry-interval",
    "snapshot",
    "v",
    "vv",
    "test.coverprofile",
    "test.outputdir",
];

/// Why reading stopped.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Help was asked for.
    Help,
    /// A fault, in Go's words.
    Fault(String),
}

/// What the command line said besides the values now in the configuration.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// Names of all flags seen, of every kind.
    pub given: BTreeSet<&'static str>,
    /// Flags that etcd has dropped, in the order given.
    pub removed: Vec<(&'static Removed, String)>,
    /// The first word that is no flag.
    pub stray: Option<String>,
}

enum Known {
    Setting(&'static Setting),
    Removed(&'static Removed),
    Ignored(&'static str),
}

impl Known {
    fn find(name: &str) -> Option<Self> {
        if let Some(setting) = table::flag(name) {
            return Some(Self::Setting(setting));
        }
        if let Some(removed) = removed::find(name) {
            return Some(Self::Removed(removed));
        }
        IGNORED.into_iter().find(|ignored| *ignored == name).map(Self::Ignored)
    }

    fn is_bool(&self) -> bool {
        match self {
            Self::Setting(setting) => setting.is_bool(),
            Self::Removed(removed) => removed.is_bool,
            Self::Ignored(_) => true,
        }
    }

    fn take(&self, config: &mut Config, read: &mut Read, value: &str) -> Result<(), String> {
        match self {
            Self::Setting(setting) => {
                setting.set(config, value)?;
                read.given.insert(setting.name);
            }
            Self::Removed(removed) => {
                if removed.is_bool && parse_bool(value).is_none() {
                    return Err("parse error".to_owned());
                }
                removed.check(value)?;
                read.given.insert(removed.name);
                read.removed.push((removed, value.to_owned()));
            }
            Self::Ignored(name) => {
                read.given.insert(name);
            }
        }
        Ok(())
    }
}

/// Reads the words behind the program name into `config`.
pub(super) fn read(words: &[String], config: &mut Config) -> Result<Read, Stop> {
    let mut read = Read::default();
    let mut words = words.iter();
    while let Some(word) = words.as_slice().first() {
        let Some(name) = word.strip_prefix('-').filter(|name| !name.is_empty()) else { break };
        words.next();
        if name == "-" {
            break;
        }
        let name = name.strip_prefix('-').unwrap_or(name);
        if name.starts_with(['-', '=']) {
            return Err(Stop::Fault(format!("bad flag syntax: {word}")));
        }
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (name, None),
        };
        let Some(known) = Known::find(name) else {
            return Err(match name {
                "help" | "h" => Stop::Help,
                name => Stop::Fault(format!("flag provided but not defined: -{name}")),
            });
        };
        if known.is_bool() {
            let value = value.unwrap_or("true");
            known.take(config, &mut read, value).map_err(|reason| {
                Stop::Fault(format!("invalid boolean value {} for -{name}: {reason}", quote(value)))
            })?;
            continue;
        }
        let Some(value) = value.or_else(|| words.next().map(String::as_str)) else {
            return Err(Stop::Fault(format!("flag needs an argument: -{name}")));
        };
        known.take(config, &mut read, value).map_err(|reason| {
            Stop::Fault(format!("invalid value {} for flag -{name}: {reason}", quote(value)))
        })?;
    }
    read.stray = words.next().cloned();
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str]) -> (Config, Result<Read, Stop>) {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let mut config = Config::default();
        let read = read(&words, &mut config);
        (config, read)
    }

    #[track_caller]
    fn fault(words: &[&str], want: &str) {
        assert_eq!(run(words).1.unwrap_err(), Stop::Fault(want.to_owned()));
    }

    #[test]
    fn forms_of_a_flag() {
        for words in
            [&["--name", "x"][..], &["-name", "x"], &["--name=x"], &["-name=x"], &["--name", "y", "--name=x"]]
        {
            assert_eq!(run(words).0.name, "x", "{words:?}");
        }
        assert_eq!(run(&["--name="]).0.name, "");
        assert_eq!(run(&["--name", "--data-dir"]).0.name, "--data-dir");
        assert!(!run(&["--pre-vote=f"]).0.pre_vote);
        assert!(run(&["--enable-pprof"]).0.enable_pprof);
    }

    #[test]
    fn the_first_plain_word_ends_the_flags() {
        for (words, stray) in [
            (&["x", "--name=a"][..], Some("x")),
            (&["--pre-vote", "false"], Some("false")),
            (&["-"], Some("-")),
            (&["--", "--name=a"], Some("--name=a")),
            (&["--"], None),
            (&["--force", "y"], Some("y")),
            (&[""], Some("")),
        ] {
            let (config, read) = run(words);
            assert_eq!(read.unwrap().stray.as_deref(), stray, "{words:?}");
            assert_eq!(config.name, "default");
        }
    }

    #[test]
    fn faults_use_the_known_words() {
        fault(&["--bogus"], "flag provided but not defined: -bogus");
        fault(&["--bogus=1", "--help"], "flag provided but not defined: -bogus");
        fault(&["-=x"], "bad flag syntax: -=x");
        fault(&["---x"], "bad flag syntax: ---x");
        fault(&["--heartbeat-interval"], "flag needs an argument: -heartbeat-interval");
        fault(
            &["--heartbeat-interval=abc"],
            "invalid value \"abc\" for flag -heartbeat-interval: parse error",
        );
        fault(&["--pre-vote=maybe"], "invalid boolean value \"maybe\" for -pre-vote: parse error");
        assert_eq!(run(&["-h", "--bogus"]).1.unwrap_err(), Stop::Help);
        assert_eq!(run(&["--help"]).1.unwrap_err(), Stop::Help);
    }
}
