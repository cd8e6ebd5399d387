//! JSON objects, built member by member in the order in which they are to appear.

use std::fmt::Display;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cli::print::json_string;

/// An object under construction.
#[derive(Debug)]
pub struct Object {
    out: String,
}

impl Object {
    /// An object without members.
    pub fn new() -> Self {
        Self { out: "{".to_owned() }
    }

    /// A member whose value is JSON already.
    pub fn raw(mut self, name: &str, value: impl Display) -> Self {
        if self.out.len() > 1 {
            self.out.push(',');
        }
        self.out.push_str(&format!("\"{name}\":{value}"));
        self
    }

    /// A text.
    pub fn text(self, name: &str, text: impl AsRef<str>) -> Self {
        self.raw(name, json_string(text))
    }

    /// A number, left out if it is zero.
    pub fn number(self, name: &str, number: impl Into<i128>) -> Self {
        match number.into() {
            0 => self,
            number => self.raw(name, number),
        }
    }

    /// `true`, left out if it is not.
    pub fn flag(self, name: &str, set: bool) -> Self {
        if set { self.raw(name, true) } else { self }
    }

    /// Bytes: as a text if they are one, else in base64 with `_base64` behind the name.
    pub fn bytes(self, name: &str, bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.text(name, text),
            Err(_) => self.text(&format!("{name}_base64"), STANDARD.encode(bytes)),
        }
    }

    /// Bytes, left out if there are none.
    pub fn bytes_if_any(self, name: &str, bytes: &[u8]) -> Self {
        if bytes.is_empty() { self } else { self.bytes(name, bytes) }
    }

    /// The object.
    pub fn end(self) -> String {
        self.out + "}"
    }
}

/// A list of values that are JSON already.
pub fn array(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_told_apart() {
        let object = Object::new()
            .bytes("key", b"a\"")
            .bytes("value", b"\xff\x00")
            .number("lease", 0)
            .number("ttl", 5_i64)
            .flag("off", false)
            .bytes_if_any("range_end", b"")
            .raw("list", array(["1".to_owned(), "2".to_owned()].into_iter()));
        assert_eq!(object.end(), r#"{"key":"a\"","value_base64":"/wA=","ttl":5,"list":[1,2]}"#);
        assert_eq!(Object::new().end(), "{}");
    }
}
