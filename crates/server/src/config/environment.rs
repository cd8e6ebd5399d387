//! Variables: `ETCD_` and the flag's name.
//!
//! An empty variable counts as not set. A variable whose flag was given too is refused, even when
//! it is empty. What looks like one of ours and is not is warned about.

use std::collections::BTreeSet;

use super::Config;
use super::flags::IGNORED;
use super::load::Notice;
use super::removed::{self, REMOVED, Removed};
use super::scalars::quote;
use super::secrets;
use super::table::{SETTINGS, flag, variable_name};

/// Variables in the order of the process environment.
pub type Variables = [(String, String)];

/// What the environment said besides the values now in the configuration.
#[derive(Default)]
pub(super) struct Read {
    pub notices: Vec<Notice>,
    pub removed: Vec<(&'static Removed, String)>,
    /// Names of the flags that were set.
    pub given: BTreeSet<&'static str>,
    /// The last value that was refused.
    pub fault: Option<String>,
    /// The variable whose flag was given as well.
    pub conflict: Option<String>,
}

/// The value of a variable; the first of that name counts.
pub(super) fn get<'v>(variables: &'v Variables, name: &str) -> Option<&'v str> {
    variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// Reads the variables of all flags that the command line left alone.
pub(super) fn read(variables: &Variables, given: &BTreeSet<&'static str>, config: &mut Config) -> Read {
    let mut read = Read::default();
    let mut variables = variables.to_vec();
    if let Some(value) = get(&variables, "ETCD_VERSION").filter(|value| !value.is_empty()) {
        read.notices.push(
            Notice::warn("cannot set special environment variable")
                .field("key", "ETCD_VERSION")
                .field("value", value.to_owned()),
        );
        variables.retain(|(key, _)| key != "ETCD_VERSION");
    }
    let flags = SETTINGS.iter().filter(|setting| setting.is_flag()).map(|setting| setting.name);
    let mut names: Vec<&'static str> =
        flags.chain(IGNORED).chain(REMOVED.iter().map(|removed| removed.name)).collect();
    names.sort_unstable();
    let mut used = BTreeSet::new();
    for name in names {
        let variable = variable_name(name);
        let Some(value) = get(&variables, &variable).filter(|value| !value.is_empty()) else { continue };
        if given.contains(name) || !used.insert(variable.clone()) {
            continue;
        }
        match take(name, value, config, &mut read) {
            Ok(()) => {
                let shown = secrets::shown(&variable, value).to_owned();
                read.notices.push(
                    Notice::info("recognized and used environment variable")
                        .field("variable-name", variable)
                        .field("variable-value", shown),
                );
            }
            Err(reason) => {
                read.fault = Some(format!("invalid value {} for {variable}: {reason}", quote(value)));
            }
        }
    }
    look_at_the_rest(&variables, &used, given, &mut read);
    read
}

fn take(name: &'static str, value: &str, config: &mut Config, read: &mut Read) -> Result<(), String> {
    if let Some(setting) = flag(name) {
        setting.set(config, value)?;
        read.given.insert(name);
    } else if let Some(removed) = removed::find(name) {
        removed.check(value)?;
        read.removed.push((removed, value.to_owned()));
    }
    Ok(())
}

fn look_at_the_rest(
    variables: &Variables,
    used: &BTreeSet<String>,
    given: &BTreeSet<&'static str>,
    read: &mut Read,
) {
    let shadowed: BTreeSet<String> = given.iter().map(|name| variable_name(name)).collect();
    for (key, value) in variables {
        if used.contains(key) {
            continue;
        }
        if shadowed.contains(key) {
            read.conflict = Some(key.clone());
            return;
        }
        if key.starts_with("ETCD_") {
            read.notices.push(
                Notice::warn("unrecognized environment variable")
                    .field("environment-variable", format!("{key}={}", secrets::shown(key, value))),
            );
        }
    }
}
