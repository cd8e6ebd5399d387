//! What the program says about itself: usage, help and version.

use std::fmt::Write as _;

use types::CompatVersion;

use super::Config;
use super::gates::FeatureGates;
use super::table::{SETTINGS, Section, Slot};

/// The short usage, printed to stderr on help and on every fault of the command line.
pub const USAGE_LINES: &str = "\
Usage:

  etcd [flags]
    Run a member.

  etcd --version
    Print the version and leave.

  etcd -h | --help
    Print this and all flags, and leave.

  etcd --config-file PATH
    Run a member with the settings of a YAML or JSON file. All other flags and all variables are
    ignored then. Spans of time are whole nanoseconds in the file (600000000000 for 10m).

";

/// Every flag with default and meaning, printed to stdout on help.
pub fn flags_text() -> String {
    let defaults = Config::default();
    let mut out = String::new();
    for section in Section::LISTED {
        let _ = writeln!(out, "\n{}:", section.title());
        for setting in SETTINGS.iter().filter(|setting| setting.section == section) {
            let _ = writeln!(
                out,
                "  --{} '{}'\n    {}",
                setting.name,
                setting.shown_default(&defaults),
                setting.help
            );
            if matches!(setting.slot, Slot::Gates(_)) {
                for line in FeatureGates::known() {
                    let _ = writeln!(out, "    {line}");
                }
            }
        }
    }
    out.push_str("\nThe unsafe flags can break the guarantees of the consensus protocol and lose data.\n");
    out
}

/// The text of `--version`: etcd's four lines with the release this member stands in for, and our
/// own version.
pub fn version_text(compat: CompatVersion) -> String {
    format!(
        "etcd Version: {}\nGit SHA: {}\nGo Version: {}\nGo OS/Arch: {}/{}\nretcd Version: {}\n",
        compat.server_version(),
        super::startup::GIT_SHA,
        super::startup::RUNTIME_VERSION,
        super::startup::OS,
        super::startup::ARCH,
        super::startup::OWN_VERSION,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_lists_every_flag_once() {
        let text = flags_text();
        for setting in SETTINGS {
            let listed = text.matches(&format!("  --{} '", setting.name)).count();
            let want = usize::from(!matches!(setting.section, Section::Hidden | Section::FileOnly));
            assert_eq!(listed, want, "{}", setting.name);
        }
        assert!(text.contains("  --data-dir '${name}.etcd'\n"));
        assert!(text.contains("    TxnModeWriteWithSharedBuffer=true|false (BETA - default=true)\n"));
    }

    #[test]
    fn version_has_five_lines() {
        let text = version_text(CompatVersion::V3_6);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5);
        assert_eq!(lines[0], "etcd Version: 3.6.14");
        assert!(lines[3].starts_with("Go OS/Arch: linux/"));
        assert!(lines[4].starts_with("retcd Version: "));
    }
}
