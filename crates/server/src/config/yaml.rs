//! A YAML document as plain nodes.
//!
//! Differences from a generic YAML value: of repeated keys the last one counts, only the first
//! document of a stream is read, and numbers remember whether they were whole. Differences from
//! etcd's own YAML 1.1 reader: quoted and plain words cannot be told apart, so that `"yes"` in
//! quotes is a boolean where one is expected.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// One node.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    /// What Go's JSON decoder calls this kind of value.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Int(_) | Self::Float(_) => "number",
            Self::Text(_) => "string",
            Self::List(_) => "array",
            Self::Map(_) => "object",
        }
    }

    /// The number as Go's JSON encoder writes it.
    pub fn literal(&self) -> Option<String> {
        match self {
            Self::Int(number) => Some(number.to_string()),
            Self::Float(number) => Some(float_literal(*number)),
            _ => None,
        }
    }

    /// The whole number, also when written like `1e2`, `0644` or `1_000`.
    pub fn whole(&self) -> Option<i128> {
        match self {
            Self::Int(number) => Some(*number),
            Self::Float(number) if number.fract() == 0.0 && number.abs() < 1e19 => Some(*number as i128),
            Self::Text(text) if looks_like_go_number(text) => {
                super::scalars::parse_int(text).ok().map(i128::from)
            }
            _ => None,
        }
    }
}

/// Number forms that YAML 1.1 has and the reader underneath leaves as text.
fn looks_like_go_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let all_digits = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
    all_digits
        && digits.starts_with(|first: char| first.is_ascii_digit())
        && (digits.contains('_') || digits.starts_with('0'))
}

fn float_literal(number: f64) -> String {
    let magnitude = number.abs();
    if magnitude != 0.0 && !(1e-6..1e21).contains(&magnitude) {
        let text = format!("{number:e}");
        return match text.split_once('e') {
            Some((digits, exponent)) if !exponent.starts_with('-') => format!("{digits}e+{exponent:0>2}"),
            Some((digits, exponent)) => format!("{digits}e-{:0>2}", &exponent[1..]),
            None => text,
        };
    }
    format!("{number}")
}

/// Reads the first document; an empty stream is null. The error is etcd's text behind `yaml: `.
pub(super) fn parse(text: &str) -> Result<Node, String> {
    let Some(document) = serde_norway::Deserializer::from_str(text).next() else { return Ok(Node::Null) };
    Node::deserialize(document).map_err(|error| describe(&error))
}

/// Go's reader puts the line in front, leaves it out for the first line, and counts it from 0 when
/// the fault is one of structure.
fn describe(error: &serde_norway::Error) -> String {
    let text = error.to_string();
    let problem =
        text.split(" at line ").next().unwrap_or_default().split(", while ").next().unwrap_or_default();
    let line = error.location().map_or(0, |location| location.line().saturating_sub(1));
    let line = if problem.starts_with("did not find expected") || line == 0 { line } else { line + 1 };
    match line {
        0 => problem.to_owned(),
        line => format!("line {line}: {problem}"),
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Int(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Int(value.into()))
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<Node, E> {
        Ok(Node::Int(value))
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<Node, E> {
        Ok(Node::Float(value as f64))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Float(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut map: Vec<(String, Node)> = Vec::new();
        while let Some((key, value)) = entries.next_entry::<Node, Node>()? {
            let key = match key {
                Node::Text(text) => text,
                Node::Bool(flag) => flag.to_string(),
                Node::Null => "null".to_owned(),
                other => other.literal().ok_or_else(|| A::Error::custom("invalid map key"))?,
            };
            match map.iter_mut().find(|(known, _)| *known == key) {
                Some(entry) => entry.1 = value,
                None => map.push((key, value)),
            }
        }
        map.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(Node::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_repeated_keys_counts() {
        let node = parse("b: 1\na: x\nb: 2\n").unwrap();
        assert_eq!(node, Node::Map(vec![("a".into(), Node::Text("x".into())), ("b".into(), Node::Int(2))]));
        assert_eq!(parse("").unwrap(), Node::Null);
        assert_eq!(parse("# nothing\n").unwrap(), Node::Null);
        assert_eq!(
            parse("{\"a\": [1, null]}").unwrap(),
            Node::Map(vec![("a".into(), Node::List(vec![Node::Int(1), Node::Null]))])
        );
        assert_eq!(parse("a: 1\n---\na: 2\n").unwrap(), Node::Map(vec![("a".into(), Node::Int(1))]));
    }

    #[test]
    fn whole_numbers_have_many_spellings() {
        for (text, want) in [
            ("100", Some(100)),
            ("1e2", Some(100)),
            ("1_000", Some(1000)),
            ("0644", Some(420)),
            ("0x10", Some(16)),
            ("1.5", None),
            ("\"100\"", None),
            ("abc", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(
                parse(text).unwrap().whole().filter(|whole| i64::try_from(*whole).is_ok()),
                want,
                "{text}"
            );
        }
        assert_eq!(
            parse("99999999999999999999").unwrap().literal().as_deref(),
            Some("100000000000000000000")
        );
        assert_eq!(Node::Float(1e21).literal().as_deref(), Some("1e+21"));
        assert_eq!(Node::Float(1.5e-7).literal().as_deref(), Some("1.5e-07"));
        assert_eq!(Node::Float(1.5).literal().as_deref(), Some("1.5"));
    }

    #[test]
    fn syntax_faults_name_the_line() {
        for (text, want) in [
            ("a: b: c\n", "mapping values are not allowed in this context"),
            ("\tname: x\n", "found character that cannot start any token"),
            ("name: [a\n", "line 1: did not find expected ',' or ']'"),
        ] {
            assert_eq!(parse(text).unwrap_err(), want, "{text}");
        }
    }
}
