//! From a JSON value to the wire form of a message.
//!
//! Accepted as `protojson` has it: original and JSON names; 64-bit integers as strings or numbers,
//! enums by name or number, bytes in either base64 alphabet with or without padding; `null` for
//! unset; unknown fields and unknown names of enums are passed over. Refused: a field that comes
//! twice, two fields of a oneof.
//!
//! The input is a value of [`values`](crate::values); other input gives an error or something, but no
//! panic.

use std::borrow::Cow;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost::encoding::{WireType, encode_key, encode_varint};

use crate::number::{number_len, signed, unsigned};
use crate::schema::{Field, Kind, MessageId, SCHEMA};
use crate::text::{Cursor, Token, TokenKind};

pub use crate::text::DecodeError;

/// Messages within messages: the receiver takes no more than 100.
const MOST_DEPTH: usize = 200;

const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, lenient());
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, lenient());

/// Go's decoder looks neither for padding nor at the bits that are left over.
const fn lenient() -> GeneralPurposeConfig {
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
}

/// The wire form of the message that a JSON value describes.
pub fn decode(message: MessageId, value: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut wire = Vec::with_capacity(value.len());
    let mut cursor = Cursor::new(value);
    decode_message(&mut cursor, message, &mut wire, MOST_DEPTH)?;
    let token = cursor.read()?;
    match token.kind {
        TokenKind::End => Ok(wire),
        _ => Err(cursor.unexpected(&token)),
    }
}

fn decode_message(
    cursor: &mut Cursor<'_>,
    id: MessageId,
    wire: &mut Vec<u8>,
    depth: usize,
) -> Result<(), DecodeError> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(DecodeError("exceeded max recursion depth".to_owned()));
    };
    let token = cursor.read()?;
    if token.kind != TokenKind::ObjectOpen {
        return Err(cursor.unexpected(&token));
    }
    let message = SCHEMA.get(id);
    let (mut seen, mut seen_oneofs) = (Vec::new(), Vec::new());
    loop {
        let token = cursor.read()?;
        let name = match &token.kind {
            TokenKind::ObjectClose => return Ok(()),
            TokenKind::String(name) => name,
            _ => return Err(cursor.unexpected(&token)),
        };
        let Some(index) = message.field_named(name) else {
            cursor.skip_value()?;
            continue;
        };
        let shown = || String::from_utf8_lossy(token.raw);
        if seen.contains(&index) {
            return Err(cursor.error(token.at, &format!("duplicate field {}", shown())));
        }
        seen.push(index);
        if cursor.next_is(b'n') {
            cursor.read()?;
            continue;
        }
        let field = &message.fields[index];
        if field.repeated {
            decode_list(cursor, field, wire, depth)?;
            continue;
        }
        if let Some(oneof) = field.oneof {
            if seen_oneofs.contains(&oneof) {
                let name = &message.oneofs[oneof];
                let text = format!("error parsing {}, oneof {name} is already set", shown());
                return Err(cursor.error(token.at, &text));
            }
            seen_oneofs.push(oneof);
        }
        decode_value(cursor, field, wire, depth)?;
    }
}

fn decode_list(
    cursor: &mut Cursor<'_>,
    field: &Field,
    wire: &mut Vec<u8>,
    depth: usize,
) -> Result<(), DecodeError> {
    let token = cursor.read()?;
    if token.kind != TokenKind::ArrayOpen {
        return Err(cursor.unexpected(&token));
    }
    while !cursor.next_is(b']') {
        decode_value(cursor, field, wire, depth)?;
    }
    cursor.read().map(drop)
}

/// One value of a field: a value of a list is written by itself, which every reader takes.
fn decode_value(
    cursor: &mut Cursor<'_>,
    field: &Field,
    wire: &mut Vec<u8>,
    depth: usize,
) -> Result<(), DecodeError> {
    if let Kind::Message(id) = field.kind {
        let mut inner = Vec::new();
        decode_message(cursor, id, &mut inner, depth)?;
        write_bytes(field, &inner, wire);
        return Ok(());
    }
    let token = cursor.read()?;
    if token.kind == TokenKind::End {
        return Err(cursor.unexpected(&token));
    }
    match decode_scalar(&token, field, wire) {
        Some(()) => Ok(()),
        None => {
            let (kind, name) = (field.kind.name(), &field.json_name);
            let text =
                format!("invalid value for {kind} field {name}: {}", String::from_utf8_lossy(token.raw));
            Err(cursor.error(token.at, &text))
        }
    }
}

/// `None` if the token is no value of the field.
fn decode_scalar(token: &Token<'_>, field: &Field, wire: &mut Vec<u8>) -> Option<()> {
    match (field.kind, &token.kind) {
        (Kind::Bool, TokenKind::Bool(value)) => write_number(field, u64::from(*value), wire),
        (Kind::Int64, _) => write_number(field, signed(&integer(token)?)? as u64, wire),
        (Kind::Uint64, _) => write_number(field, unsigned(&integer(token)?)?, wire),
        (Kind::Int32, _) => {
            let value = i32::try_from(signed(&integer(token)?)?).ok()?;
            write_number(field, i64::from(value) as u64, wire);
        }
        (Kind::Uint32, _) => {
            let value = u32::try_from(unsigned(&integer(token)?)?).ok()?;
            write_number(field, u64::from(value), wire);
        }
        (Kind::String, TokenKind::String(text)) => write_text(field, text.as_bytes(), wire),
        (Kind::Bytes, TokenKind::String(text)) => write_text(field, &decode_base64(text)?, wire),
        (Kind::Enum(number), TokenKind::String(name)) => {
            if let Some(value) = SCHEMA.enumeration(number).number(name) {
                write_number(field, i64::from(value) as u64, wire);
            }
        }
        (Kind::Enum(_), TokenKind::Number(number)) => {
            let value = i32::try_from(signed(number)?).ok()?;
            write_number(field, i64::from(value) as u64, wire);
        }
        _ => return None,
    }
    Some(())
}

/// The JSON number of a token; of a string what stands at its start.
fn integer<'t>(token: &'t Token<'_>) -> Option<Cow<'t, str>> {
    match &token.kind {
        TokenKind::Number(number) => Some(Cow::Borrowed(*number)),
        TokenKind::String(text) if text.trim().len() == text.len() => {
            Some(Cow::Borrowed(&text[..number_len(text.as_bytes())?]))
        }
        _ => None,
    }
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let url_safe = text.contains(['-', '_']);
    let engine = if url_safe { &URL_SAFE } else { &STANDARD };
    // Go passes over line ends, and takes padding only at the end of a whole group.
    let text: Cow<'_, str> = match text.contains(['\n', '\r']) {
        true => text.replace(['\n', '\r'], "").into(),
        false => text.into(),
    };
    if !text.len().is_multiple_of(4) && text.ends_with('=') {
        return None;
    }
    engine.decode(text.as_bytes()).ok()
}

/// A field that is unset when it has its default writes nothing then.
fn is_written(field: &Field, is_default: bool) -> bool {
    field.repeated || field.oneof.is_some() || !is_default
}

fn write_number(field: &Field, value: u64, wire: &mut Vec<u8>) {
    if is_written(field, value == 0) {
        encode_key(field.number, WireType::Varint, wire);
        encode_varint(value, wire);
    }
}

fn write_text(field: &Field, value: &[u8], wire: &mut Vec<u8>) {
    if is_written(field, value.is_empty()) {
        write_bytes(field, value, wire);
    }
}

fn write_bytes(field: &Field, value: &[u8], wire: &mut Vec<u8>) {
    encode_key(field.number, WireType::LengthDelimited, wire);
    encode_varint(value.len() as u64, wire);
    wire.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::etcdserverpb as pb;

    fn to<M: prost::Message + Default>(name: &str, json: &str) -> Result<M, String> {
        let id = SCHEMA.message(name).unwrap();
        let wire = decode(id, json.as_bytes()).map_err(|error| error.to_string())?;
        Ok(M::decode(wire.as_slice()).unwrap())
    }

    fn range(json: &str) -> Result<pb::RangeRequest, String> {
        to("etcdserverpb.RangeRequest", json)
    }

    #[test]
    fn all_forms_of_values_are_taken() {
        let expected = pb::RangeRequest {
            key: "a\u{ff}?".into(),
            range_end: "b".into(),
            limit: 10,
            sort_order: 2,
            serializable: true,
            ..pb::RangeRequest::default()
        };
        for json in [
            r#"{"key":"YcO/Pw==","range_end":"Yg==","limit":"10","sort_order":"DESCEND","serializable":true}"#,
            r#"{"key":"YcO_Pw","rangeEnd":"Yg","limit":1e1,"sortOrder":2,"serializable":true,"revision":null}"#,
            "{ \"key\" : \"YcO_Pw==\",\n\"range_end\":\"Yg\", \"limit\":\"1.0e1\",\"sort_order\":\"DESCEND\",
               \"serializable\":true, \"unknown\":[{\"a\":[1]},null], \"sort_target\":\"NOSUCH\"}",
        ] {
            assert_eq!(range(json).unwrap(), expected, "{json}");
        }
        assert_eq!(range("{}").unwrap(), pb::RangeRequest::default());
    }

    #[test]
    fn refusals_name_place_and_value() {
        for (json, text) in [
            ("[]", "proto: syntax error (line 1:1): unexpected token ["),
            ("null", "proto: syntax error (line 1:1): unexpected token null"),
            (r#"{"key":5}"#, "proto: (line 1:8): invalid value for bytes field key: 5"),
            (r#"{"key":"%%%"}"#, r#"proto: (line 1:8): invalid value for bytes field key: "%%%""#),
            (r#"{"key":"YQ="}"#, r#"proto: (line 1:8): invalid value for bytes field key: "YQ=""#),
            (r#"{"limit":1.5}"#, "proto: (line 1:10): invalid value for int64 field limit: 1.5"),
            (
                "{\"\u{e9}\":1,\n \"limit\":\"5 \"}",
                r#"proto: (line 2:10): invalid value for int64 field limit: "5 ""#,
            ),
            (r#"{"sort_order":{}}"#, "proto: (line 1:15): invalid value for enum field sortOrder: {"),
            (
                r#"{"serializable":"true"}"#,
                r#"proto: (line 1:17): invalid value for bool field serializable: "true""#,
            ),
            (r#"{"key":"YQ","key":"YQ"}"#, r#"proto: (line 1:13): duplicate field "key""#),
            (r#"{"x":"a\ud800"}"#, "proto: unexpected EOF"),
            (
                r#"{"x":"a\ud800zzzzzzz"}"#,
                r#"proto: syntax error (line 1:6): invalid escape code "zzzzzz" in string"#,
            ),
        ] {
            assert_eq!(range(json).unwrap_err(), text, "{json}");
        }
        let txn = |json: &str| to::<pb::TxnRequest>("etcdserverpb.TxnRequest", json).unwrap_err();
        assert_eq!(txn(r#"{"compare":{}}"#), "proto: syntax error (line 1:12): unexpected token {");
        assert_eq!(txn(r#"{"compare":[null]}"#), "proto: syntax error (line 1:13): unexpected token null");
        assert_eq!(
            txn(r#"{"compare":[{"version":"1","value":""}]}"#),
            "proto: (line 1:28): error parsing \"value\", oneof etcdserverpb.Compare.target_union is already set"
        );
        let deep = r#"{"success":[{"request_txn":"#.repeat(300);
        assert_eq!(txn(&deep), "proto: exceeded max recursion depth");
    }

    #[test]
    fn a_oneof_is_set_to_its_default() {
        let txn: pb::TxnRequest = to(
            "etcdserverpb.TxnRequest",
            r#"{"compare":[{"key":"YQ","target":"CREATE","createRevision":"0"}],"success":[{"requestPut":{}}]}"#,
        )
        .unwrap();
        assert_eq!(txn.compare[0].target_union, Some(pb::compare::TargetUnion::CreateRevision(0)));
        assert!(matches!(txn.success[0].request, Some(pb::request_op::Request::RequestPut(_))));
    }

    #[test]
    fn lists_keep_defaults_and_unknown_names_leave_them() {
        let create: pb::WatchCreateRequest =
            to("etcdserverpb.WatchCreateRequest", r#"{"filters":["NOPUT",1,"NOSUCH",0]}"#).unwrap();
        assert_eq!(create.filters, [0, 1, 0]);
        let add: pb::MemberAddRequest =
            to("etcdserverpb.MemberAddRequest", r#"{"peerURLs":["","a\n\u00e9\ud83d\ude00\/"]}"#).unwrap();
        assert_eq!(add.peer_ur_ls, ["", "a\n\u{e9}\u{1f600}/"]);
    }
}
