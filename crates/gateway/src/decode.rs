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
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use crate::number::{number_len, signed, unsigned};
use crate::schema::{Field, Kind, MessageId, SCHEMA};
use crate::text::{Cursor, Token, TokenKind};

pub use crate::text::DecodeError;

/// Messages within messages: the receiver takes no more than 100.
const MOST_DEPTH: usize = 200;

const STANDARD: GeneralPurpose = engine(&alphabet::STANDARD, DecodePaddingMode::RequireCanonical);
const STANDARD_BARE: GeneralPurpose = engine(&alphabet::STANDARD, DecodePaddingMode::RequireNone);
const URL_SAFE: GeneralPurpose = engine(&alphabet::URL_SAFE, DecodePaddingMode::RequireCanonical);
const URL_SAFE_BARE: GeneralPurpose = engine(&alphabet::URL_SAFE, DecodePaddingMode::RequireNone);

/// Go's decoder does not look at the bits that are left over.
const fn engine(alphabet: &alphabet::Alphabet, padding: DecodePaddingMode) -> GeneralPurpose {
    let config = GeneralPurposeConfig::new();
    GeneralPurpose::new(
        alphabet,
        config.with_decode_allow_trailing_bits(true).with_decode_padding_mode(padding),
    )
}

/// The wire form so far. The length of a message within it is known only behind it, so lengths are put
/// in at the end, all at once: however deep messages nest, a byte is moved once.
struct Wire {
    /// Without the lengths of inner messages.
    bytes: Vec<u8>,
    /// Where they belong in `bytes`, in order, and what they are.
    lengths: Vec<(usize, usize)>,
    /// Bytes that the lengths of messages which have ended will take.
    added: usize,
}

/// A message within another that has begun.
struct Inner {
    /// Its place in [`Wire::lengths`].
    length: usize,
    added_before: usize,
}

impl Wire {
    fn begin_inner(&mut self) -> Inner {
        self.lengths.push((self.bytes.len(), 0));
        Inner { length: self.lengths.len() - 1, added_before: self.added }
    }

    fn end_inner(&mut self, inner: Inner) {
        let (start, length) = &mut self.lengths[inner.length];
        *length = self.bytes.len() - *start + self.added - inner.added_before;
        self.added += encoded_len_varint(*length as u64);
    }

    fn finish(self) -> Vec<u8> {
        if self.lengths.is_empty() {
            return self.bytes;
        }
        let mut whole = Vec::with_capacity(self.bytes.len() + self.added);
        let mut copied = 0;
        for (start, length) in self.lengths {
            whole.extend_from_slice(&self.bytes[copied..start]);
            copied = start;
            encode_varint(length as u64, &mut whole);
        }
        whole.extend_from_slice(&self.bytes[copied..]);
        whole
    }
}

/// The wire form of the message that a JSON value describes.
pub fn decode(message: MessageId, value: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut wire = Wire { bytes: Vec::with_capacity(value.len()), lengths: Vec::new(), added: 0 };
    let mut cursor = Cursor::new(value);
    decode_message(&mut cursor, message, &mut wire, MOST_DEPTH)?;
    let token = cursor.read()?;
    match token.kind {
        TokenKind::End => Ok(wire.finish()),
        _ => Err(cursor.unexpected(&token)),
    }
}

fn decode_message(
    cursor: &mut Cursor<'_>,
    id: MessageId,
    wire: &mut Wire,
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
    wire: &mut Wire,
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
    wire: &mut Wire,
    depth: usize,
) -> Result<(), DecodeError> {
    if let Kind::Message(id) = field.kind {
        encode_key(field.number, WireType::LengthDelimited, &mut wire.bytes);
        let inner = wire.begin_inner();
        decode_message(cursor, id, wire, depth)?;
        wire.end_inner(inner);
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
fn decode_scalar(token: &Token<'_>, field: &Field, wire: &mut Wire) -> Option<()> {
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
    // Line ends are passed over, but count for the length that says whether there is padding.
    let engine = match (url_safe, text.len().is_multiple_of(4)) {
        (false, true) => &STANDARD,
        (false, false) => &STANDARD_BARE,
        (true, true) => &URL_SAFE,
        (true, false) => &URL_SAFE_BARE,
    };
    let text: Cow<'_, str> = match text.contains(['\n', '\r']) {
        true => text.replace(['\n', '\r'], "").into(),
        false => text.into(),
    };
    engine.decode(text.as_bytes()).ok()
}

/// A field that is unset when it has its default writes nothing then.
fn is_written(field: &Field, is_default: bool) -> bool {
    field.repeated || field.oneof.is_some() || !is_default
}

fn write_number(field: &Field, value: u64, wire: &mut Wire) {
    if is_written(field, value == 0) {
        encode_key(field.number, WireType::Varint, &mut wire.bytes);
        encode_varint(value, &mut wire.bytes);
    }
}

fn write_text(field: &Field, value: &[u8], wire: &mut Wire) {
    if is_written(field, value.is_empty()) {
        encode_key(field.number, WireType::LengthDelimited, &mut wire.bytes);
        encode_varint(value.len() as u64, &mut wire.bytes);
        wire.bytes.extend_from_slice(value);
    }
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

    /// Go judges the padding before it passes over line ends.
    #[test]
    fn base64_is_read_as_go_reads_it() {
        let key = |text: &str| range(&format!(r#"{{"key":"{text}"}}"#)).ok().map(|range| range.key);
        let cases: [(&str, Option<&[u8]>); 16] = [
            ("YQ==", Some(b"a")),
            ("YQ", Some(b"a")),
            (r"Y\nQ==\n\r\n", Some(b"a")),
            (r"Y\nQ\n=\n=", None),
            (r"\nYQ\n=\n=\n", Some(b"a")),
            (r"YQ==\n", None),
            (r"YQ\n", Some(b"a")),
            (r"YQ\n\n", None),
            (r"YWJ\nj\n", Some(b"abc")),
            (r"YWJj\n", Some(b"abc")),
            ("YR==", Some(b"a")),
            ("YQ=", None),
            ("Y", None),
            ("YQ==YQ==", None),
            ("_-8", Some(b"\xff\xef")),
            ("", Some(b"")),
        ];
        for (text, bytes) in cases {
            assert_eq!(key(text).as_deref(), bytes, "{text}");
        }
    }

    /// Lengths take one to four bytes, on every level.
    #[test]
    fn messages_nest() {
        use base64::engine::general_purpose::STANDARD as BASE64;
        for value_bytes in (0..300).chain(16_300..16_400).chain([2_097_100, 2_097_152]) {
            let value = vec![7; value_bytes];
            let mut json = format!(
                r#"{{"success":[{{"request_put":{{"key":"YQ==","value":"{}"}}}},{{"request_range":{{}}}}]}}"#,
                BASE64.encode(&value)
            );
            let put = pb::PutRequest { key: "a".into(), value: value.into(), ..Default::default() };
            let op = |request| pb::RequestOp { request: Some(request) };
            let range = op(pb::request_op::Request::RequestRange(pb::RangeRequest::default()));
            let ops = vec![op(pb::request_op::Request::RequestPut(put)), range.clone()];
            let mut txn = pb::TxnRequest { success: ops, ..Default::default() };
            for _ in 0..40 {
                json = format!(r#"{{"success":[{{"request_txn":{json}}},{{"request_range":{{}}}}]}}"#);
                let inner = op(pb::request_op::Request::RequestTxn(txn));
                txn = pb::TxnRequest { success: vec![inner, range.clone()], ..Default::default() };
            }
            assert!(to::<pb::TxnRequest>("etcdserverpb.TxnRequest", &json).unwrap() == txn, "{value_bytes}");
        }
    }
}
