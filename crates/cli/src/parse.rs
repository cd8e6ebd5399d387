//! From words to an [`Invocation`]: which command, which flags, which arguments.
//!
//! Two passes, as in cobra: first the command words are found among flags that may stand before
//! them, then all flags of that command are read, wherever they stand. `--` ends the flags.
//!
//! **Source**: `spf13/cobra` `command.go` (Find, legacyArgs), `spf13/pflag` `flag.go` (parseArgs).

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use crate::number;
use crate::spec::{Arguments, CommandSpec, FlagSpec, Kind};
use crate::text::{lossy, quote};

static HELP: FlagSpec = FlagSpec::new("help", Kind::Bool, "help for this command").short('h');

/// The value of a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Text(Bytes),
    List(Vec<String>),
    Duration(Duration),
}

/// The flags that a command knows, with their values.
#[derive(Clone, Debug)]
pub struct Flags {
    known: BTreeMap<&'static str, (&'static FlagSpec, Value)>,
    changed: BTreeMap<&'static str, ()>,
}

impl Flags {
    /// All flags at their defaults.
    pub fn new(specs: impl IntoIterator<Item = &'static FlagSpec>) -> Self {
        let known = specs
            .into_iter()
            .map(|spec| {
                let value = parse_value(spec.kind, spec.default.as_bytes())
                    .expect("defaults in the table are well-formed: checked by a test");
                (spec.name, (spec, value))
            })
            .collect();
        Self { known, changed: BTreeMap::new() }
    }

    /// The flags of the last command of `path`, inherited ones and `--help` included.
    pub fn of<R>(path: &[&'static CommandSpec<R>]) -> Self {
        let (last, parents) = path.split_last().expect("a path begins with the root");
        let inherited = parents.iter().flat_map(|parent| parent.persistent);
        Self::new(inherited.chain(last.persistent).chain(last.flags).chain([&HELP]))
    }

    fn value(&self, name: &str) -> &Value {
        &self.known.get(name).unwrap_or_else(|| panic!("flag {name} is not in the table")).1
    }

    /// A boolean flag.
    pub fn bool(&self, name: &str) -> bool {
        matches!(self.value(name), Value::Bool(true))
    }

    /// A signed number.
    pub fn int(&self, name: &str) -> i64 {
        match self.value(name) {
            Value::Int(number) => *number,
            _ => 0,
        }
    }

    /// An unsigned number.
    pub fn uint(&self, name: &str) -> u64 {
        match self.value(name) {
            Value::Uint(number) => *number,
            _ => 0,
        }
    }

    /// The bytes of a text flag.
    pub fn bytes(&self, name: &str) -> Bytes {
        match self.value(name) {
            Value::Text(bytes) => bytes.clone(),
            _ => Bytes::new(),
        }
    }

    /// A text flag.
    pub fn text(&self, name: &str) -> String {
        lossy(&self.bytes(name))
    }

    /// A list.
    pub fn list(&self, name: &str) -> Vec<String> {
        match self.value(name) {
            Value::List(items) => items.clone(),
            _ => Vec::new(),
        }
    }

    /// Required flags that were not given, sorted by name.
    pub fn missing(&self) -> Vec<&'static str> {
        let required = self.known.values().map(|(spec, _)| *spec).filter(|spec| spec.required);
        required.map(|spec| spec.name).filter(|name| !self.is_given(name)).collect()
    }

    /// A duration.
    pub fn duration(&self, name: &str) -> Duration {
        match self.value(name) {
            Value::Duration(duration) => *duration,
            _ => Duration::ZERO,
        }
    }

    /// Whether the flag, or its environment variable, was given.
    pub fn is_given(&self, name: &str) -> bool {
        self.changed.contains_key(name)
    }

    /// A boolean flag, if it was given.
    pub fn given_bool(&self, name: &str) -> Option<bool> {
        self.is_given(name).then(|| self.bool(name))
    }

    /// Sets a flag. The error is the parser's, without the flag's name.
    pub fn set(&mut self, name: &str, text: &[u8]) -> Result<(), String> {
        let Some((spec, value)) = self.known.get_mut(name) else {
            return Err(format!("no such flag -{name}"));
        };
        let mut new = parse_value(spec.kind, text)?;
        // The first value replaces the default of a list, later ones add to it.
        if let (Value::List(old), Value::List(items), true) =
            (&value, &mut new, self.changed.contains_key(spec.name))
        {
            items.splice(..0, old.iter().cloned());
        }
        *value = new;
        self.changed.insert(spec.name, ());
        Ok(())
    }

    /// A flag's value as `--debug` prints it.
    pub fn shown(&self, name: &str) -> String {
        match self.value(name) {
            Value::Bool(value) => value.to_string(),
            Value::Int(value) => value.to_string(),
            Value::Uint(value) => value.to_string(),
            Value::Text(value) => lossy(value),
            Value::List(items) => format!("[{}]", items.join(",")),
            Value::Duration(value) => crate::text::duration(*value),
        }
    }

    fn by_short(&self, short: char) -> Option<&'static FlagSpec> {
        self.known.values().map(|(spec, _)| *spec).find(|spec| spec.short == Some(short))
    }

    fn long_is_bool(&self, name: &str) -> bool {
        self.known.get(name).is_some_and(|(spec, _)| spec.kind == Kind::Bool)
    }

    fn short_is_bool(&self, text: &str) -> bool {
        text.chars().next().and_then(|short| self.by_short(short)).is_some_and(|spec| spec.kind == Kind::Bool)
    }

    /// Whether the word is a flag whose value is the next word.
    fn takes_next(&self, word: &str) -> bool {
        match word.strip_prefix("--") {
            Some(_) if word.contains('=') => false,
            Some(name) => !self.long_is_bool(name),
            None => word.len() == 2 && word.starts_with('-') && !self.short_is_bool(&word[1..]),
        }
    }

    fn set_reported(&mut self, spec: &'static FlagSpec, text: &[u8]) -> Result<(), String> {
        self.set(spec.name, text).map_err(|cause| {
            let name = match spec.short {
                Some(short) => format!("-{short}, --{}", spec.name),
                None => format!("--{}", spec.name),
            };
            format!("invalid argument {} for {} flag: {cause}", quote(text), quote(name))
        })
    }

    /// Reads flags out of `words`; returns the other words and how many of them stood before `--`.
    pub fn parse(&mut self, words: &[Bytes]) -> Result<(Vec<Bytes>, Option<usize>), String> {
        let mut rest = Vec::new();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match &word[..] {
                [] | [b'-'] => rest.push(word.clone()),
                b"--" => {
                    let before = rest.len();
                    rest.extend(words.cloned());
                    return Ok((rest, Some(before)));
                }
                [b'-', b'-', ..] => self.parse_long(word, &mut words)?,
                [b'-', ..] => self.parse_short(word, &mut words)?,
                _ => rest.push(word.clone()),
            }
        }
        Ok((rest, None))
    }

    fn parse_long(&mut self, word: &Bytes, words: &mut std::slice::Iter<'_, Bytes>) -> Result<(), String> {
        let body = word.slice(2..);
        if matches!(body.first(), None | Some(b'-' | b'=')) {
            return Err(format!("bad flag syntax: {}", lossy(word)));
        }
        let (name, value) = split_value(&body);
        let name = lossy(&name);
        let Some((spec, _)) = self.known.get(&name[..]) else {
            return Err(format!("unknown flag: --{name}"));
        };
        let spec = *spec;
        let value = match value {
            Some(value) => value,
            None if spec.kind == Kind::Bool => Bytes::from_static(b"true"),
            None => words.next().cloned().ok_or_else(|| format!("flag needs an argument: --{name}"))?,
        };
        self.set_reported(spec, &value)
    }

    fn parse_short(&mut self, word: &Bytes, words: &mut std::slice::Iter<'_, Bytes>) -> Result<(), String> {
        let mut shorts = word.slice(1..);
        while let Some(&short) = shorts.first() {
            let short = char::from(short);
            let Some(spec) = self.by_short(short) else {
                return Err(format!("unknown shorthand flag: '{short}' in -{}", lossy(&shorts)));
            };
            let after = shorts.slice(1..);
            match &after[..] {
                [b'=', _, ..] => return self.set_reported(spec, &after[1..]),
                _ if spec.kind == Kind::Bool => {
                    self.set_reported(spec, b"true")?;
                    shorts = after;
                }
                [] => {
                    let missing = || format!("flag needs an argument: '{short}' in -{}", lossy(&shorts));
                    let value = words.next().cloned().ok_or_else(missing)?;
                    return self.set_reported(spec, &value);
                }
                value => return self.set_reported(spec, value),
            }
        }
        Ok(())
    }
}

fn split_value(body: &Bytes) -> (Bytes, Option<Bytes>) {
    match body.iter().position(|&byte| byte == b'=') {
        Some(place) => (body.slice(..place), Some(body.slice(place + 1..))),
        None => (body.clone(), None),
    }
}

fn parse_value(kind: Kind, bytes: &[u8]) -> Result<Value, String> {
    let text = lossy(bytes);
    match kind {
        Kind::Bool => number::boolean(&text).map(Value::Bool),
        Kind::Int => number::int(&text, 0).map(Value::Int),
        Kind::Uint => number::uint(&text, 0).map(Value::Uint),
        Kind::Uint32 => number::uint32(&text, 0).map(|number| Value::Uint(number.into())),
        Kind::Text => Ok(Value::Text(Bytes::copy_from_slice(bytes))),
        Kind::List => comma_separated(&text).map(Value::List),
        Kind::Duration => number::duration(&text).map(Value::Duration),
    }
}

/// One line of comma-separated values; a field may be quoted, a quote in it is doubled.
fn comma_separated(line: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut rest = line;
    if line.is_empty() {
        return Ok(fields);
    }
    loop {
        let mut field = String::new();
        match rest.strip_prefix('"') {
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                if let Some(place) = rest[..end].find('"') {
                    let column = line.len() - rest.len() + place + 1;
                    return Err(format!(
                        "parse error on line 1, column {column}: bare \" in non-quoted-field"
                    ));
                }
                field.push_str(&rest[..end]);
                rest = &rest[end..];
            }
            Some(mut inside) => loop {
                let Some(end) = inside.find('"') else {
                    let column = line.len() + 1;
                    return Err(format!(
                        "parse error on line 1, column {column}: extraneous or missing \" in quoted-field"
                    ));
                };
                field.push_str(&inside[..end]);
                rest = &inside[end + 1..];
                match rest.strip_prefix('"') {
                    Some(more) => {
                        field.push('"');
                        inside = more;
                    }
                    None => break,
                }
            },
        }
        fields.push(field);
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None if rest.is_empty() => return Ok(fields),
            None => {
                let column = line.len() - rest.len();
                return Err(format!(
                    "parse error on line 1, column {column}: extraneous or missing \" in quoted-field"
                ));
            }
        }
    }
}

/// A command to carry out.
#[derive(Debug)]
pub struct Invocation<R: 'static> {
    /// From the root to the command.
    pub path: Vec<&'static CommandSpec<R>>,
    /// Its flags.
    pub flags: Flags,
    /// Its arguments.
    pub args: Vec<Bytes>,
    /// How many arguments stood before `--`, if there was one.
    pub before_dash: Option<usize>,
}

impl<R> Invocation<R> {
    /// The command.
    pub fn command(&self) -> &'static CommandSpec<R> {
        self.path.last().expect("a path begins with the root")
    }

    /// An argument as text.
    pub fn arg_text(&self, index: usize) -> String {
        self.args.get(index).map(|arg| lossy(arg)).unwrap_or_default()
    }
}

/// What the words amount to.
#[derive(Debug)]
pub enum Outcome<R: 'static> {
    /// Carry out a command.
    Run(Invocation<R>),
    /// Print the help of the last command of this path.
    Help(Vec<&'static CommandSpec<R>>),
    /// No such command.
    UnknownCommand(String),
    /// A flag is wrong: the text, and whose usage to print.
    Usage(String, Vec<&'static CommandSpec<R>>),
}

/// Finds the command: returns the path to it and the words that are not command words.
pub fn find<R>(root: &'static CommandSpec<R>, words: &[Bytes]) -> (Vec<&'static CommandSpec<R>>, Vec<Bytes>) {
    let mut path = vec![root];
    let mut words = words.to_vec();
    loop {
        let flags = Flags::of(&path);
        let Some(place) = first_bare_word(&flags, &words) else { break };
        let here = path.last().expect("a path begins with the root");
        let Some(child) = here.child(&words[place]) else { break };
        words.remove(place);
        path.push(child);
    }
    (path, words)
}

/// Where the first word stands that is neither a flag nor the value of one.
fn first_bare_word(flags: &Flags, words: &[Bytes]) -> Option<usize> {
    let mut place = 0;
    while let Some(word) = words.get(place) {
        let text = lossy(word);
        if text == "--" {
            return None;
        }
        if text.starts_with('-') {
            place += if flags.takes_next(&text) { 2 } else { 1 };
        } else if text.is_empty() {
            place += 1;
        } else {
            return Some(place);
        }
    }
    None
}

/// Reads a command line, program name excluded.
pub fn parse<R>(root: &'static CommandSpec<R>, words: &[Bytes]) -> Outcome<R> {
    let (path, words) = find(root, words);
    let mut flags = Flags::of(&path);
    if path.len() == 1
        && let Some(place) = first_bare_word(&flags, &words)
    {
        return Outcome::UnknownCommand(unknown_command(root, &lossy(&words[place])));
    }
    let (args, before_dash) = match flags.parse(&words) {
        Ok(parsed) => parsed,
        Err(text) => return Outcome::Usage(text, path),
    };
    let invocation = Invocation { path, flags, args, before_dash };
    match invocation.command().run {
        Some(_) if !invocation.flags.bool("help") => Outcome::Run(invocation),
        _ => Outcome::Help(invocation.path),
    }
}

/// What the table alone says of arguments and flags: their number, the words that are accepted, flags
/// that must be given. The error is for whoever called the command wrongly.
pub fn check_arguments<R>(invocation: &Invocation<R>, program: &str) -> Result<(), String> {
    let (command, count) = (invocation.command(), invocation.args.len());
    if let Some(exactly) = command.exactly.filter(|exactly| *exactly != count) {
        return Err(format!("accepts {exactly} arg(s), received {count}"));
    }
    if let Arguments::Words(words) = command.offers
        && let Some(other) =
            invocation.args.iter().find(|arg| !words.iter().any(|word| word.as_bytes() == &arg[..]))
    {
        return Err(format!(
            "invalid argument {} for {}",
            quote(other),
            quote(format!("{program} {}", command.name))
        ));
    }
    let missing: Vec<_> = invocation.flags.missing().into_iter().map(quote).collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(format!("required flag(s) {} not set", missing.join(", "))),
    }
}

fn unknown_command<R>(root: &'static CommandSpec<R>, word: &str) -> String {
    let mut text = format!("unknown command {} for {}", quote(word), quote(root.name));
    let similar: Vec<_> = root
        .children
        .iter()
        .map(|child| child.name)
        .filter(|name| name.starts_with(&word.to_lowercase()) || distance(word, name) <= 2)
        .collect();
    if !similar.is_empty() {
        text.push_str("\n\nDid you mean this?\n");
        similar.iter().for_each(|name| text.push_str(&format!("\t{name}\n")));
    }
    text
}

/// Levenshtein distance, upper and lower case alike.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, one) in left.to_lowercase().chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], line + 1);
        for (column, other) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(one != *other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_comma_separated_values() {
        assert_eq!(
            comma_separated("a,\"b,c\",\"d\"\"e\""),
            Ok(vec!["a".into(), "b,c".into(), "d\"e".into()])
        );
        assert_eq!(comma_separated("a,"), Ok(vec!["a".into(), String::new()]));
        assert_eq!(comma_separated(""), Ok(vec![]));
        assert!(comma_separated("a\"b").is_err());
        assert!(comma_separated("\"open").is_err());
    }
}
