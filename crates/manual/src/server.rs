//! The page and the completions of `etcd`.

use std::fmt::Write as _;

use cli::CommandSpec;
use etcd::proxies;
use server::config::Config;
use server::config::gates::FeatureGates;
use server::config::table::{SETTINGS, Section, Setting, Slot};

use crate::roff::Page;
use crate::tools;

/// The manual page.
pub fn page() -> String {
    let mut page = Page::new("etcd", "strongly consistent key-value store");
    page.section("SYNOPSIS");
    page.text("etcd [--flag value]...");
    page.text("etcd --config-file PATH");
    page.text("etcd gateway start | grpc-proxy start [--flag value]...");
    page.text("etcd --version | --help");
    page.section("DESCRIPTION");
    page.text(
        "Runs one member of a cluster. This is retcd, which stands in for etcd: the same API, flags, files, metrics and \
         logs. It listens for clients on port 2379 and for other members on port 2380, on this machine alone unless \
         told otherwise, and runs until it gets SIGINT or SIGTERM. The commands below run in the place of a \
         member; they have flags of their own and no variables.",
    );
    page.section("OPTIONS");
    page.text("One dash or two; a value stands behind a blank or an equals sign, that of a switch only behind the latter.");
    let defaults = Config::default();
    for section in Section::LISTED {
        page.subsection(section.title());
        for setting in listed(section) {
            page.item(&term(setting), setting.help);
            let default = setting.shown_default(&defaults);
            if !default.is_empty() && !setting.is_bool() {
                page.and(&format!("Default: {default}"));
            } else if default == "true" {
                page.and("Default: true");
            }
            if matches!(setting.slot, Slot::Gates(_)) {
                FeatureGates::known().for_each(|line| page.and(&line));
            }
        }
    }
    page.subsection("The program");
    page.item(
        "--config-file PATH",
        "Take all settings from this file, in YAML or JSON; other flags and variables are ignored.",
    );
    page.item("--version", "Print the version and leave.");
    page.item("-h, --help", "Print all flags and leave.");
    tools::commands(&mut page, &proxies::ROOT);
    page.section("ENVIRONMENT");
    page.text(
        "Each option has a variable: ETCD_ and its name in upper case with underscores, such as ETCD_DATA_DIR. To give \
         both is an error. NOTIFY_SOCKET: where systemd is told that the member serves.",
    );
    page.section("CONFIGURATION FILE");
    page.text(
        "Keys are the names of the options, except those below. Spans of time are whole nanoseconds, and lists of URLs are \
         one text, separated by commas.",
    );
    for setting in SETTINGS.iter().filter(|setting| setting.section != Section::Hidden) {
        match setting.file_key {
            Some(key) if !setting.is_flag() => page.item(key, "in the file only"),
            Some(key) if key != setting.name => page.item(key, &format!("--{}", setting.name)),
            _ => {}
        }
    }
    page.section("FILES");
    page.item("${data-dir}/member/snap/db", "the database: every revision of every key");
    page.item("${data-dir}/member/wal/", "the log; --wal-dir puts it elsewhere");
    page.item("/etc/default/etcd", "variables for the service, where the package is installed");
    page.section("EXIT STATUS");
    for (status, meaning) in [
        ("0", "--version, --help, or the member was removed from its cluster"),
        (
            "1",
            "settings that do not hold together, or the member cannot go on; the last line of the log says why",
        ),
        ("2", "a fault of the command line"),
        ("signal", "an orderly stop after SIGINT or SIGTERM ends with that signal"),
    ] {
        page.item(status, meaning);
    }
    page.section("SEE ALSO");
    page.text("etcdctl(1), etcdutl(1)");
    page.finish()
}

fn listed(section: Section) -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(move |setting| setting.section == section)
}

fn flags() -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(|setting| setting.is_flag())
}

fn term(setting: &Setting) -> String {
    let value = match &setting.slot {
        Slot::Bool(_) => return format!("--{}[=false]", setting.name),
        Slot::Text(_) if takes_files(setting) => "PATH",
        Slot::Choice(_, words) | Slot::Choices(_, words) if !words.is_empty() => {
            return format!("--{} {}", setting.name, words.join("|"));
        }
        Slot::Text(_) | Slot::Choice(..) | Slot::Choices(..) => "TEXT",
        Slot::Uint(_) | Slot::Uint64(_) | Slot::Uint32(_) | Slot::Int(_) | Slot::Int64(_) => "NUMBER",
        Slot::Duration(_) => "DURATION",
        Slot::Urls(_) => "URL,...",
        Slot::Origins(_) | Slot::Names(_) | Slot::SortedList(_) | Slot::List(_) => "TEXT,...",
        Slot::Gates(_) => "GATE=true|false,...",
        Slot::Compat(_) => "3.5|3.6|3.7",
    };
    format!("--{} {value}", setting.name)
}

fn takes_files(setting: &Setting) -> bool {
    ["-file", "-dir", "-cacert", "-cert", "-key"].iter().any(|end| setting.name.ends_with(end))
}

fn words(setting: &Setting) -> &'static [&'static str] {
    match setting.slot {
        Slot::Choice(_, words) | Slot::Choices(_, words) => words,
        Slot::Compat(_) => &["3.5", "3.6", "3.7"],
        _ => &[],
    }
}

/// The completion for a shell; `None` for a shell that has none.
pub fn completion(shell: &str) -> Option<String> {
    match shell {
        "bash" => Some(bash()),
        "zsh" => Some(zsh()),
        "fish" => Some(fish()),
        _ => None,
    }
}

/// The two commands, each with the flags of its only sub-command.
fn others() -> impl Iterator<Item = (&'static str, Vec<String>)> {
    let flags = |spec: &'static CommandSpec<proxies::Run>| {
        let all = spec.children.iter().flat_map(|child| child.flags);
        all.map(|flag| format!("--{}", flag.name)).collect()
    };
    proxies::ROOT.children.iter().map(move |spec| (spec.name, flags(spec)))
}

fn bash() -> String {
    let mut out = String::from(
        "# bash completion for etcd\n\n_etcd() {\n    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}\n    \
         [[ $COMP_CWORD -gt 1 ]] && case ${COMP_WORDS[1]} in\n",
    );
    for (name, flags) in others() {
        let _ = writeln!(
            out,
            "        {name})\n            COMPREPLY=($(compgen -W \"start {}\" -- \"$current\"))\n            return ;;",
            flags.join(" ")
        );
    }
    out.push_str("    esac\n    case $previous in\n");
    let files: Vec<_> =
        flags().filter(|flag| takes_files(flag)).map(|flag| format!("--{}", flag.name)).collect();
    let _ = writeln!(
        out,
        "        {})\n            COMPREPLY=($(compgen -f -- \"$current\"))\n            return ;;",
        files.join("|")
    );
    for flag in flags().filter(|flag| !words(flag).is_empty()) {
        let _ = writeln!(
            out,
            "        --{})\n            COMPREPLY=($(compgen -W \"{}\" -- \"$current\"))\n            return ;;",
            flag.name,
            words(flag).join(" ")
        );
    }
    let all: Vec<_> = flags().map(|flag| format!("--{}", flag.name)).collect();
    let _ = writeln!(
        out,
        "    esac\n    COMPREPLY=($(compgen -W \"{} --help gateway grpc-proxy\" -- \"$current\"))\n}}\n\ncomplete -F _etcd etcd",
        all.join(" ")
    );
    out
}

fn zsh() -> String {
    let mut out = String::from("#compdef etcd\n\n(( CURRENT > 2 )) && case $words[2] in\n");
    for (name, flags) in others() {
        let flags: Vec<_> = flags.iter().map(|flag| format!("'{flag}=[]:value:_files'")).collect();
        let _ = writeln!(
            out,
            "    {name}) _arguments '1:command:({name})' '2:command:(start)' {}; return ;;",
            flags.join(" ")
        );
    }
    out.push_str("esac\n_arguments '1:command:(gateway grpc-proxy)' \\\n");
    for flag in flags() {
        let value = match words(flag) {
            _ if flag.is_bool() => String::new(),
            [] if takes_files(flag) => ":path:_files".to_owned(),
            [] => ":value: ".to_owned(),
            words => format!(":value:({})", words.join(" ")),
        };
        let equals = if flag.is_bool() { "" } else { "=" };
        // What has a meaning for _arguments is not in the short texts of the table, but be sure.
        let help = first_sentence(flag).replace(['[', ']', ':'], " ").replace('\'', "'\\''");
        let _ = writeln!(out, "    '--{}{equals}[{help}]{value}' \\", flag.name);
    }
    out.push_str("    '--help[Print all flags and leave]'\n");
    out
}

fn fish() -> String {
    let mut out = String::from("# fish completion for etcd\n\ncomplete -c etcd -f\n");
    for flag in flags() {
        let value = match words(flag) {
            _ if flag.is_bool() => String::new(),
            [] if takes_files(flag) => " -r -F".to_owned(),
            [] => " -x".to_owned(),
            words => format!(" -x -a '{}'", words.join(" ")),
        };
        let help = first_sentence(flag).replace('\\', "\\\\").replace('\'', "\\'");
        let _ = writeln!(out, "complete -c etcd -l {}{value} -d '{help}'", flag.name);
    }
    for (name, flags) in others() {
        let _ = writeln!(out, "complete -c etcd -n __fish_use_subcommand -a {name}");
        let _ = writeln!(out, "complete -c etcd -n '__fish_seen_subcommand_from {name}' -a start");
        for flag in flags {
            let flag = flag.trim_start_matches('-');
            let _ = writeln!(out, "complete -c etcd -n '__fish_seen_subcommand_from {name}' -r -F -l {flag}");
        }
    }
    out.push_str("complete -c etcd -s h -l help -d 'Print all flags and leave'\n");
    out
}

fn first_sentence(flag: &Setting) -> &str {
    let end = flag.help.find(['.', ';', ',']).unwrap_or(flag.help.len());
    match flag.help[..end].trim() {
        "" => "Settings of the program itself",
        sentence => sentence,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roff::escape;

    #[test]
    fn every_flag_is_in_the_page_and_in_the_completions() {
        let (page, bash, zsh, fish) = (page(), bash(), zsh(), fish());
        for flag in flags() {
            let name = flag.name;
            let term = format!(".B {}", escape(&format!("--{name}")));
            let listed = page.lines().take_while(|line| *line != ".SH COMMANDS").filter(|line| {
                line.strip_prefix(&term).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '[']))
            });
            assert_eq!(listed.count(), 1, "{name}");
            assert!(bash.contains(&format!("--{name} ")), "{name}");
            assert!(zsh.contains(&format!("'--{name}=[")) || zsh.contains(&format!("'--{name}[")), "{name}");
            assert!(fish.contains(&format!(" -l {name} ")), "{name}");
        }
        for setting in SETTINGS.iter().filter(|setting| !setting.is_flag()) {
            assert!(page.contains(&escape(setting.name)), "{}", setting.name);
        }
    }

    #[test]
    fn the_other_commands_are_there_with_every_flag() {
        let (page, bash, zsh, fish) = (page(), bash(), zsh(), fish());
        assert!(tools::tests::check(&page, "", &proxies::ROOT) > 40);
        for (name, flags) in others() {
            assert!(bash.contains(&format!("{name})\n")) && zsh.contains(&format!(" {name}) ")), "{name}");
            for flag in flags {
                assert!(bash.contains(&format!(" {flag}")) && zsh.contains(&format!("'{flag}=[")), "{flag}");
                assert!(fish.contains(&format!(" -l {}\n", flag.trim_start_matches('-'))), "{flag}");
            }
        }
    }

    /// The shell itself judges its script.
    #[test]
    fn bash_reads_its_scripts_and_completes() {
        let script = bash()
            + "\nCOMP_WORDS=(etcd --initial-cluster-state e); COMP_CWORD=2; _etcd; echo \"${COMPREPLY[@]}\""
            + "\nCOMP_WORDS=(etcd --data-d); COMP_CWORD=1; _etcd; echo \"${COMPREPLY[@]}\""
            + "\nCOMP_WORDS=(etcd gateway start --retry); COMP_CWORD=3; _etcd; echo \"${COMPREPLY[@]}\"";
        let output = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "existing\n--data-dir\n--retry-delay\n",
            "{output:?}"
        );
    }
}
