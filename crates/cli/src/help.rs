//! Help and usage texts, laid out as cobra lays them out.

use bytes::Bytes;

use crate::parse;
use crate::spec::{Arguments, CommandSpec, FlagSpec, Kind};
use crate::text::{lossy, quote};

/// How a program shows the flags that all its commands have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GlobalFlags {
    /// In the help of every command.
    Listed,
    /// Nowhere; this line, which says where they are, ends each help.
    Elsewhere(&'static str),
}

/// The whole help of a command, for stdout.
pub fn help<R>(path: &[&'static CommandSpec<R>], globals: GlobalFlags) -> String {
    let command = path.last().expect("a path begins with the root");
    let text = if command.long.is_empty() { command.short } else { command.long };
    let pointer = match globals {
        GlobalFlags::Listed => "",
        GlobalFlags::Elsewhere(pointer) => pointer,
    };
    format!("{}\n\n{}{pointer}", text.trim_end(), usage(path, globals))
}

/// The help of the command that the words of `help` name; the error is for stderr.
pub fn topic<R>(
    root: &'static CommandSpec<R>,
    words: &[Bytes],
    globals: GlobalFlags,
) -> Result<String, String> {
    let (path, rest) = parse::find(root, words);
    if path.len() == 1 && !rest.is_empty() {
        let words: Vec<_> = words.iter().map(|word| format!("`{}`", lossy(word))).collect();
        return Err(format!("Unknown help topic [{}]\n{}", words.join(" "), usage(&path, globals)));
    }
    Ok(help(&path, globals))
}

/// How to call a command.
pub fn usage<R>(path: &[&'static CommandSpec<R>], globals: GlobalFlags) -> String {
    let (command, parents) = path.split_last().expect("a path begins with the root");
    let name = path.iter().map(|command| command.name).collect::<Vec<_>>().join(" ");
    let mut out = "Usage:".to_owned();
    if command.run.is_some() {
        // What takes one word and nothing else says so instead.
        let mark = if matches!(command.offers, Arguments::Words(_)) { "" } else { " [flags]" };
        out.push_str(&format!("\n  {name}{}{mark}", command.arguments));
    }
    if !command.children.is_empty() {
        out.push_str(&format!("\n  {name} [command]"));
        list_children(&mut out, command);
    }
    let listed = globals == GlobalFlags::Listed;
    if listed || !parents.is_empty() {
        let own = command.flags.iter().chain(command.persistent);
        let help = format!("help for {}", command.name);
        out.push_str(&format!("\n\nFlags:\n{}", flag_table(own, Some(&help)).trim_end()));
        let above = if listed { parents } else { parents.get(1..).unwrap_or_default() };
        let inherited: Vec<_> = above.iter().flat_map(|parent| parent.persistent).collect();
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

fn list_children<R>(out: &mut String, command: &CommandSpec<R>) {
    let mut children: Vec<_> = command.children.iter().collect();
    children.sort_by_key(|child| child.name);
    let width = children.iter().map(|child| child.name.len()).max().unwrap_or(0).max(11);
    let mut section = |title: &str, heading: Option<&str>| {
        out.push_str(&format!("\n\n{title}"));
        for child in children.iter().filter(|child| heading.is_none_or(|heading| child.heading == heading)) {
            out.push_str(&format!("\n  {:width$} {}", child.name, child.short));
        }
    };
    match command.headings {
        [] => section("Available Commands:", None),
        headings => headings.iter().for_each(|heading| section(heading, Some(heading))),
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

/// Both columns of the table, in the order given: for pages with another layout.
pub fn flag_rows<'a>(specs: impl IntoIterator<Item = &'a FlagSpec>) -> Vec<(String, String)> {
    specs.into_iter().map(|spec| (left(spec), right(spec))).collect()
}

fn left(spec: &FlagSpec) -> String {
    let kind = match spec.kind {
        Kind::Bool => "",
        Kind::Int => " int",
        Kind::Uint => " uint",
        Kind::Uint32 => " uint32",
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
        (Kind::Bool, "false")
        | (Kind::Int | Kind::Uint | Kind::Uint32, "0")
        | (_, "")
        | (Kind::Duration, "0s") => spec.usage.to_owned(),
        (Kind::Text, default) => format!("{} (default {})", spec.usage, quote(default)),
        (Kind::List, default) => format!("{} (default [{default}])", spec.usage),
        (_, default) => format!("{} (default {default})", spec.usage),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    static LEAF: CommandSpec<()> = CommandSpec::command("leaf", " <file>", (), "Does something")
        .flags(&[FlagSpec::new("rev", Kind::Int, "which revision")]);
    static ROOT: CommandSpec<()> = CommandSpec::group("tool", "A tool", &[LEAF])
        .persistent(&[FlagSpec::new("timeout", Kind::Duration, "how long").default("10s")]);

    #[test]
    fn global_flags_are_listed_or_elsewhere() {
        let expected = "Usage:\n  tool leaf <file> [flags]\n\nFlags:\n  -h, --help      help for leaf\n      --rev int   which revision\n";
        assert_eq!(usage(&[&ROOT, &LEAF], GlobalFlags::Elsewhere("")), expected);
        let listed =
            format!("{expected}\nGlobal Flags:\n      --timeout duration   how long (default 10s)\n");
        assert_eq!(usage(&[&ROOT, &LEAF], GlobalFlags::Listed), listed);
    }
}
