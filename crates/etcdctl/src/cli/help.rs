//! Help and usage texts, laid out as cobra lays them out.

use super::spec::{CommandSpec, FlagSpec, Group, Kind, Run};
use crate::text::quote;

const POINTER: &str =
    "Use \"etcdctl options\" for a list of global command-line options (applies to all commands).\n";

/// The whole help of a command, for stdout.
pub fn help(path: &[&'static CommandSpec]) -> String {
    let command = path.last().expect("a path begins with the root");
    let text = if command.long.is_empty() { command.short } else { command.long };
    format!("{}\n\n{}{POINTER}", text.trim_end(), usage(path))
}

/// How to call a command.
pub fn usage(path: &[&'static CommandSpec]) -> String {
    let (command, parents) = path.split_last().expect("a path begins with the root");
    let name = path.iter().map(|command| command.name).collect::<Vec<_>>().join(" ");
    let mut out = "Usage:".to_owned();
    if command.run.is_some() {
        out.push_str(&format!("\n  {name}{}{}", command.arguments, flags_mark(command)));
    }
    if !command.children.is_empty() {
        out.push_str(&format!("\n  {name} [command]"));
        list_children(&mut out, command);
    }
    // Global flags have a command of their own; only those below the root are listed.
    if !parents.is_empty() {
        let own = command.flags.iter().chain(command.persistent);
        let help = format!("help for {}", command.name);
        let inherited: Vec<_> = parents[1..].iter().flat_map(|parent| parent.persistent).collect();
        out.push_str(&format!("\n\nFlags:\n{}", flag_table(own, Some(&help)).trim_end()));
        if !inherited.is_empty() {
            out.push_str(&format!("\n\nGlobal Flags:\n{}", flag_table(inherited, None).trim_end()));
        }
    }
    if !command.children.is_empty() {
        out.push_str(&format!("\n\nUse \"{name} [command] --help\" for more information about a command."));
    }
    out.push('\n');
    out
}

fn flags_mark(command: &CommandSpec) -> &'static str {
    // Completion says nothing about flags, it has none of its own.
    if command.run == Some(Run::Completion) { "" } else { " [flags]" }
}

fn list_children(out: &mut String, command: &CommandSpec) {
    let mut children: Vec<_> = command.children.iter().collect();
    children.sort_by_key(|child| child.name);
    let width = children.iter().map(|child| child.name.len()).max().unwrap_or(0).max(11);
    let mut section = |heading: &str, group: Option<Group>| {
        out.push_str(&format!("\n\n{heading}"));
        for child in children.iter().filter(|child| group.is_none_or(|group| child.group == group)) {
            out.push_str(&format!("\n  {:width$} {}", child.name, child.short));
        }
    };
    match command.children.iter().all(|child| child.group == Group::None) {
        true => section("Available Commands:", None),
        false => Group::HEADINGS.iter().for_each(|(group, heading)| section(heading, Some(*group))),
    }
}

/// One line per flag, sorted by name.
pub fn flag_table<'a>(specs: impl IntoIterator<Item = &'a FlagSpec>, help: Option<&str>) -> String {
    let mut rows: Vec<_> = specs.into_iter().map(|spec| (spec.name, left(spec), right(spec))).collect();
    if let Some(help) = help {
        rows.push(("help", "  -h, --help".to_owned(), help.to_owned()));
    }
    rows.sort();
    let width = rows.iter().map(|(_, left, _)| left.len()).max().unwrap_or(0);
    rows.iter().map(|(_, left, right)| format!("{left:width$}   {right}\n")).collect()
}

fn left(spec: &FlagSpec) -> String {
    let kind = match spec.kind {
        Kind::Bool => "",
        Kind::Int => " int",
        Kind::Uint => " uint",
        Kind::Text => " string",
        Kind::List => " strings",
        Kind::Duration => " duration",
    };
    match spec.short {
        Some(short) => format!("  -{short}, --{}{kind}", spec.name),
        None => format!("      --{}{kind}", spec.name),
    }
}

fn right(spec: &FlagSpec) -> String {
    match (spec.kind, spec.default) {
        (Kind::Bool, "false") | (Kind::Int | Kind::Uint, "0") | (_, "") | (Kind::Duration, "0s") => {
            spec.usage.to_owned()
        }
        (Kind::Text, default) => format!("{} (default {})", spec.usage, quote(default)),
        (Kind::List, default) => format!("{} (default [{default}])", spec.usage),
        (_, default) => format!("{} (default {default})", spec.usage),
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::ROOT;
    use super::*;

    #[test]
    fn the_root_help_has_all_headings_and_no_flags() {
        let text = help(&[&ROOT]);
        for (_, heading) in Group::HEADINGS {
            assert!(text.contains(&format!("\n\n{heading}\n  ")), "{heading}");
        }
        assert!(!text.contains("Flags:"));
        assert!(text.ends_with(POINTER));
        assert!(text.contains("\n  make-mirror "));
    }

    #[test]
    fn the_help_of_a_command_below_a_group() {
        let endpoint = ROOT.child(b"endpoint").unwrap();
        let hashkv = endpoint.child(b"hashkv").unwrap();
        let text = usage(&[&ROOT, endpoint, hashkv]);
        let expected = "Usage:\n  etcdctl endpoint hashkv [flags]\n\nFlags:\n  -h, --help      help for hashkv\n      --rev int   ";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.contains("\n\nGlobal Flags:\n      --cluster   "), "{text}");
    }

    #[test]
    fn defaults_are_shown_unless_they_are_zero() {
        let specs = [
            FlagSpec::new("on", Kind::Bool, "u").default("true"),
            FlagSpec::new("write-out", Kind::Text, "u").short('w').default("simple"),
            FlagSpec::new("rev", Kind::Int, "u"),
        ];
        let expected = "      --on                 u (default true)\n      --rev int            u\n  -w, --write-out string   u (default \"simple\")\n";
        assert_eq!(flag_table(&specs, None), expected);
    }
}
