//! From the wire form of a message to JSON.
//!
//! Original names (but in records of a log), fields in the order of their declaration, unset ones left out; 64-bit integers as
//! strings, bytes as padded base64, enums by name or, unknown, by number. No blanks: upstream's own
//! come and go from build to build.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::encoding::{WireType, decode_key, decode_varint};

use crate::schema::{Field, Kind, MessageId, SCHEMA};

/// Messages within messages: deeper ones were refused when they came in.
const MOST_DEPTH: usize = 200;

/// How texts are escaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Whole answers.
    Plain,
    /// Lines of streams, which upstream makes fit to stand in a page.
    Line,
    /// Messages in records of a log: escaped as lines, and with JSON names instead of original ones.
    Record,
}

/// Bytes that are not the message they are said to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer is no message of its type")]
pub struct EncodeError;

/// Appends the JSON form of a message.
pub fn encode(message: MessageId, wire: &[u8], form: Form, json: &mut Vec<u8>) -> Result<(), EncodeError> {
    json.reserve(wire.len() * 3 / 2);
    encode_message(message, wire, form, json, MOST_DEPTH).ok_or(EncodeError)
}

/// A value on the wire.
#[derive(Clone, Copy, Debug)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn encode_message(id: MessageId, wire: &[u8], form: Form, json: &mut Vec<u8>, depth: usize) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    let message = SCHEMA.get(id);
    let mut values = Vec::new();
    let mut rest = wire;
    while !rest.is_empty() {
        let (number, value) = read_value(&mut rest)?;
        let Some(index) = message.field_numbered(number) else { continue };
        match value {
            Some(Value::Bytes(packed)) if is_packed(&message.fields[index]) => {
                let mut packed = packed;
                while !packed.is_empty() {
                    values.push((index, Value::Number(decode_varint(&mut packed).ok()?)));
                }
            }
            Some(value) => values.push((index, value)),
            None => {}
        }
    }
    // Stable: what is repeated keeps its order.
    values.sort_by_key(|(index, _)| *index);
    json.push(b'{');
    let mut is_first = true;
    for same in values.chunk_by(|(one, _), (other, _)| one == other) {
        let field = &message.fields[same[0].0];
        // What comes twice and is not repeated: the last one counts.
        let same = if field.repeated { same } else { &same[same.len() - 1..] };
        if !field.repeated && field.oneof.is_none() && is_default(field, same[0].1) {
            continue;
        }
        if !is_first {
            json.push(b',');
        }
        is_first = false;
        let name = if form == Form::Record { &field.json_name } else { &field.name };
        write_string(name, form, json);
        json.push(b':');
        if field.repeated {
            json.push(b'[');
        }
        for (at, (_, value)) in same.iter().enumerate() {
            if at > 0 {
                json.push(b',');
            }
            encode_value(field.kind, *value, form, json, depth)?;
        }
        if field.repeated {
            json.push(b']');
        }
    }
    json.push(b'}');
    Some(())
}

/// The next field and its value; fixed-width ones, which no message has, are passed over.
fn read_value<'a>(rest: &mut &'a [u8]) -> Option<(u32, Option<Value<'a>>)> {
    let (number, wire_type) = decode_key(rest).ok()?;
    let value = match wire_type {
        WireType::Varint => Some(Value::Number(decode_varint(rest).ok()?)),
        WireType::LengthDelimited => {
            let len = usize::try_from(decode_varint(rest).ok()?).ok()?;
            Some(Value::Bytes(rest.split_off(..len)?))
        }
        WireType::SixtyFourBit => rest.split_off(..8).map(|_| None)?,
        WireType::ThirtyTwoBit => rest.split_off(..4).map(|_| None)?,
        WireType::StartGroup | WireType::EndGroup => return None,
    };
    Some((number, value))
}

fn is_packed(field: &Field) -> bool {
    field.repeated && !matches!(field.kind, Kind::String | Kind::Bytes | Kind::Message(_))
}

fn is_default(field: &Field, value: Value<'_>) -> bool {
    match value {
        Value::Number(number) => number == 0,
        Value::Bytes(bytes) => bytes.is_empty() && !matches!(field.kind, Kind::Message(_)),
    }
}

fn encode_value(kind: Kind, value: Value<'_>, form: Form, json: &mut Vec<u8>, depth: usize) -> Option<()> {
    match (kind, value) {
        (Kind::Bool, Value::Number(number)) => {
            json.extend_from_slice(if number == 0 { b"false" } else { b"true" });
        }
        (Kind::Int32, Value::Number(number)) => write_number(number as i32, json),
        (Kind::Uint32, Value::Number(number)) => write_number(number as u32, json),
        (Kind::Int64, Value::Number(number)) => write_quoted(number as i64, json),
        (Kind::Uint64, Value::Number(number)) => write_quoted(number, json),
        (Kind::Enum(known), Value::Number(number)) => match SCHEMA.enumeration(known).name(number as i32) {
            Some(name) => write_string(name, form, json),
            None => write_number(number as i32, json),
        },
        (Kind::String, Value::Bytes(text)) => write_string(std::str::from_utf8(text).ok()?, form, json),
        (Kind::Bytes, Value::Bytes(bytes)) => write_base64(bytes, json),
        (Kind::Message(id), Value::Bytes(wire)) => encode_message(id, wire, form, json, depth)?,
        _ => return None,
    }
    Some(())
}

fn write_number(number: impl std::fmt::Display, json: &mut Vec<u8>) {
    use std::io::Write as _;
    // Writing to memory does not fail.
    let _ = write!(json, "{number}");
}

fn write_quoted(number: impl std::fmt::Display, json: &mut Vec<u8>) {
    json.push(b'"');
    write_number(number, json);
    json.push(b'"');
}

fn write_base64(bytes: &[u8], json: &mut Vec<u8>) {
    json.push(b'"');
    let start = json.len();
    json.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(bytes, &mut json[start..]).expect("there is room for just that");
    json.truncate(start + written);
    json.push(b'"');
}

/// Appends a JSON string.
pub(crate) fn write_string(text: &str, form: Form, json: &mut Vec<u8>) {
    use std::io::Write as _;
    json.push(b'"');
    for character in text.chars() {
        match character {
            '"' => json.extend_from_slice(b"\\\""),
            '\\' => json.extend_from_slice(b"\\\\"),
            '\u{8}' => json.extend_from_slice(b"\\b"),
            '\u{c}' => json.extend_from_slice(b"\\f"),
            '\n' => json.extend_from_slice(b"\\n"),
            '\r' => json.extend_from_slice(b"\\r"),
            '\t' => json.extend_from_slice(b"\\t"),
            '\0'..' ' => drop(write!(json, "\\u{:04x}", u32::from(character))),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' if form != Form::Plain => {
                drop(write!(json, "\\u{:04x}", u32::from(character)));
            }
            _ => json.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    json.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{etcdserverpb as pb, mvccpb};

    fn json(name: &str, message: &impl prost::Message, form: Form) -> String {
        let mut json = Vec::new();
        encode(SCHEMA.message(name).unwrap(), &message.encode_to_vec(), form, &mut json).unwrap();
        String::from_utf8(json).unwrap()
    }

    #[test]
    fn values_have_upstreams_form() {
        let header = pb::ResponseHeader { cluster_id: u64::MAX, member_id: 0, revision: -1, raft_term: 2 };
        let kv = mvccpb::KeyValue { key: "foo".into(), mod_revision: 2, ..mvccpb::KeyValue::default() };
        let range =
            pb::RangeResponse { header: Some(header), kvs: vec![kv.clone(), kv], more: true, count: 2 };
        assert_eq!(
            json("etcdserverpb.RangeResponse", &range, Form::Plain),
            concat!(
                r#"{"header":{"cluster_id":"18446744073709551615","revision":"-1","raft_term":"2"},"#,
                r#""kvs":[{"key":"Zm9v","mod_revision":"2"},{"key":"Zm9v","mod_revision":"2"}],"#,
                r#""more":true,"count":"2"}"#
            )
        );
        assert_eq!(
            json("etcdserverpb.RangeResponse", &range, Form::Record),
            concat!(
                r#"{"header":{"clusterId":"18446744073709551615","revision":"-1","raftTerm":"2"},"#,
                r#""kvs":[{"key":"Zm9v","modRevision":"2"},{"key":"Zm9v","modRevision":"2"}],"#,
                r#""more":true,"count":"2"}"#
            )
        );
        let hash = pb::HashResponse { header: Some(pb::ResponseHeader::default()), hash: 7 };
        assert_eq!(json("etcdserverpb.HashResponse", &hash, Form::Plain), r#"{"header":{},"hash":7}"#);
        let alarm = |alarm| pb::AlarmMember { member_id: 1, alarm };
        let alarms = pb::AlarmResponse { header: None, alarms: vec![alarm(1), alarm(9), alarm(0)] };
        assert_eq!(
            json("etcdserverpb.AlarmResponse", &alarms, Form::Plain),
            r#"{"alarms":[{"memberID":"1","alarm":"NOSPACE"},{"memberID":"1","alarm":9},{"memberID":"1"}]}"#
        );
        let create = pb::WatchCreateRequest { filters: vec![0, 1], ..pb::WatchCreateRequest::default() };
        assert_eq!(
            json("etcdserverpb.WatchCreateRequest", &create, Form::Plain),
            r#"{"filters":["NOPUT","NODELETE"]}"#
        );
    }

    #[test]
    fn texts_are_escaped() {
        let users = pb::AuthUserListResponse { header: None, users: vec!["<&>é\u{2028}\"\\\n\u{1}".into()] };
        let name = "etcdserverpb.AuthUserListResponse";
        assert_eq!(json(name, &users, Form::Plain), "{\"users\":[\"<&>é\u{2028}\\\"\\\\\\n\\u0001\"]}");
        assert_eq!(json(name, &users, Form::Line), r#"{"users":["\u003c\u0026\u003eé\u2028\"\\\n\u0001"]}"#);
    }

    #[test]
    fn order_and_repetition_on_the_wire_do_not_matter() {
        // count 2, kv "b", count 3, more false, kv "a", an unknown field
        let wire = [0x20, 2, 0x12, 3, 0x0a, 1, b'b', 0x20, 3, 0x18, 0, 0x12, 3, 0x0a, 1, b'a', 0x78, 1];
        let mut json = Vec::new();
        encode(SCHEMA.message("etcdserverpb.RangeResponse").unwrap(), &wire, Form::Plain, &mut json).unwrap();
        assert_eq!(json, br#"{"kvs":[{"key":"Yg=="},{"key":"YQ=="}],"count":"3"}"#);
        let broken =
            encode(SCHEMA.message("etcdserverpb.RangeResponse").unwrap(), &[0x12, 9], Form::Plain, &mut json);
        assert_eq!(broken, Err(EncodeError));
    }
}
