//! JSON as Go's `encoding/json` writes and reads it.

use serde_json::Value;

/// JSON that is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// Not JSON at all.
    #[error("not valid JSON")]
    Syntax(#[from] serde_json::Error),
    /// A field with a value of another kind.
    #[error("field {field:?} is not {expected}")]
    Kind {
        /// Name of the field.
        field: &'static str,
        /// What it should have been.
        expected: &'static str,
    },
}

/// Writes one JSON object, field by field, without white space.
pub(crate) struct ObjectWriter {
    text: String,
}

impl ObjectWriter {
    pub(crate) fn new() -> Self {
        Self { text: "{".to_owned() }
    }

    fn name(&mut self, name: &str) {
        if self.text.len() > 1 {
            self.text.push(',');
        }
        push_string(&mut self.text, name);
        self.text.push(':');
    }

    /// A field whose value is JSON already.
    pub(crate) fn raw(&mut self, name: &str, json: &str) {
        self.name(name);
        self.text.push_str(json);
    }

    pub(crate) fn string(&mut self, name: &str, value: &str) {
        self.name(name);
        push_string(&mut self.text, value);
    }

    pub(crate) fn strings(&mut self, name: &str, values: &[String]) {
        self.name(name);
        for (at, value) in values.iter().enumerate() {
            self.text.push(if at == 0 { '[' } else { ',' });
            push_string(&mut self.text, value);
        }
        self.text.push_str(if values.is_empty() { "[]" } else { "]" });
    }

    pub(crate) fn finish(mut self) -> String {
        self.text.push('}');
        self.text
    }
}

/// Appends a JSON string. Besides what JSON demands, Go escapes `<`, `>`, `&` and the two line
/// separators U+2028 and U+2029.
pub(crate) fn push_string(text: &mut String, value: &str) {
    text.push('"');
    for character in value.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                text.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            _ => text.push(character),
        }
    }
    text.push('"');
}

/// A JSON object that is read field by field. A missing field and `null` are the same.
pub(crate) struct Object(serde_json::Map<String, Value>);

impl Object {
    pub(crate) fn parse(json: &[u8]) -> Result<Self, JsonError> {
        match serde_json::from_slice(json)? {
            Value::Object(fields) => Ok(Self(fields)),
            Value::Null => Ok(Self(serde_json::Map::new())),
            _ => Err(JsonError::Kind { field: "", expected: "an object" }),
        }
    }

    /// The last field of this name, upper and lower case being equal.
    pub(crate) fn field(&self, name: &str) -> Option<&Value> {
        let named = |field: &&String| field.eq_ignore_ascii_case(name);
        let key = self.0.keys().rfind(named)?;
        self.0.get(key).filter(|value| !value.is_null())
    }

    pub(crate) fn number(&self, name: &'static str) -> Result<u64, JsonError> {
        self.read(name, "an unsigned 64-bit number", Value::as_u64)
    }

    pub(crate) fn bool(&self, name: &'static str) -> Result<bool, JsonError> {
        self.read(name, "a bool", Value::as_bool)
    }

    pub(crate) fn string(&self, name: &'static str) -> Result<String, JsonError> {
        self.read(name, "a string", |value| value.as_str().map(str::to_owned))
    }

    pub(crate) fn strings(&self, name: &'static str) -> Result<Option<Vec<String>>, JsonError> {
        let text = |value: &Value| match value {
            Value::Null => Some(String::new()),
            value => value.as_str().map(str::to_owned),
        };
        self.read(name, "a list of strings", |value| {
            Some(Some(value.as_array()?.iter().map(text).collect::<Option<Vec<_>>>()?))
        })
    }

    fn read<T: Default>(
        &self,
        field: &'static str,
        expected: &'static str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<T, JsonError> {
        match self.field(field) {
            None => Ok(T::default()),
            Some(value) => read(value).ok_or(JsonError::Kind { field, expected }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_as_go_does() {
        let mut text = String::new();
        push_string(&mut text, "a<b>&\"\\\n\u{1}\u{7f}\u{8}ü\u{2028}/");
        assert_eq!(text, r#""a\u003cb\u003e\u0026\"\\\n\u0001"#.to_owned() + "\u{7f}\\bü\\u2028/\"");
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), "a<b>&\"\\\n\u{1}\u{7f}\u{8}ü\u{2028}/");
    }

    #[test]
    fn fields_are_found_as_go_finds_them() {
        let object = Object::parse(br#"{"ID":1,"peerurls":null,"x":[],"id":18446744073709551615}"#).unwrap();
        assert_eq!(object.number("id").unwrap(), u64::MAX);
        assert_eq!(object.strings("peerURLs").unwrap(), None);
        assert_eq!(object.strings("x").unwrap(), Some(vec![]));
        assert!(object.bool("x").is_err());
        assert!(Object::parse(b"[1]").is_err());
        assert!(Object::parse(b"{").is_err());
    }
}
