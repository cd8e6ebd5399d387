//! Typed values of log fields.

use std::borrow::Cow;
use std::time::Duration;

use jiff::Timestamp;
use types::{ClusterId, LeaseId, MemberId};

use crate::config::duration::GoDuration;
use crate::config::url::Url;

/// The value of one field. Borrowing keeps records that are not written cheap.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'v> {
    /// Text.
    Text(Cow<'v, str>),
    /// A signed number.
    Int(i64),
    /// An unsigned number.
    Uint(u64),
    /// A number with decimals.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// A span of time, printed as Go does (`1.05ms`).
    Duration(GoDuration),
    /// A moment, printed as the record's own.
    Time(Timestamp),
    /// An id: hexadecimal without padding.
    Hex(u64),
    /// A list.
    List(Vec<Value<'v>>),
    /// A group of named values.
    Object(Vec<(Cow<'v, str>, Value<'v>)>),
}

impl Value<'_> {
    /// The value without borrowed parts.
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Self::Text(text) => Value::Text(Cow::Owned(text.into_owned())),
            Self::Int(number) => Value::Int(number),
            Self::Uint(number) => Value::Uint(number),
            Self::Float(number) => Value::Float(number),
            Self::Bool(flag) => Value::Bool(flag),
            Self::Duration(span) => Value::Duration(span),
            Self::Time(time) => Value::Time(time),
            Self::Hex(id) => Value::Hex(id),
            Self::List(items) => Value::List(items.into_iter().map(Value::into_owned).collect()),
            Self::Object(items) => Value::Object(
                items
                    .into_iter()
                    .map(|(key, value)| (Cow::Owned(key.into_owned()), value.into_owned()))
                    .collect(),
            ),
        }
    }

    /// The text of anything printable; for errors: the whole chain of causes, once.
    pub fn error(error: &(dyn std::error::Error + '_)) -> Value<'static> {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.ends_with(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            source = cause.source();
        }
        Value::Text(Cow::Owned(text))
    }
}

macro_rules! from {
    ($($source:ty => |$name:ident| $value:expr;)*) => {
        $(impl<'v> From<$source> for Value<'v> {
            fn from($name: $source) -> Self {
                $value
            }
        })*
    };
}

from! {
    &'v str => |text| Value::Text(Cow::Borrowed(text));
    &'v String => |text| Value::Text(Cow::Borrowed(text));
    String => |text| Value::Text(Cow::Owned(text));
    Cow<'v, str> => |text| Value::Text(text);
    i32 => |number| Value::Int(i64::from(number));
    i64 => |number| Value::Int(number);
    u16 => |number| Value::Uint(u64::from(number));
    u32 => |number| Value::Uint(u64::from(number));
    u64 => |number| Value::Uint(number);
    usize => |number| Value::Uint(number as u64);
    f64 => |number| Value::Float(number);
    bool => |flag| Value::Bool(flag);
    Duration => |span| Value::Duration(span.into());
    Timestamp => |time| Value::Time(time);
    GoDuration => |span| Value::Duration(span);
    MemberId => |id| Value::Hex(id.0);
    ClusterId => |id| Value::Hex(id.0);
    LeaseId => |id| Value::Hex(id.0 as u64);
    Vec<String> => |items| Value::List(items.into_iter().map(Value::from).collect());
    &'v [String] => |items| Value::List(items.iter().map(Value::from).collect());
    &'v Vec<String> => |items| Value::List(items.iter().map(Value::from).collect());
    &'v [Url] => |items| Value::List(items.iter().map(|url| Value::from(url.as_str())).collect());
    &'v Vec<Url> => |items| Value::List(items.iter().map(|url| Value::from(url.as_str())).collect());
    &'v Url => |url| Value::from(url.as_str());
}
