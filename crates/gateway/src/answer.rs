//! What stands around messages: errors, lines of streams, statuses of HTTP.
//!
//! Errors that end a stream are a line of it.

use crate::encode::{Form, write_string};
use crate::schema::MessageId;
use crate::{EncodeError, encode};

/// The status of HTTP for a code of gRPC.
pub fn http_status(code: u8) -> u16 {
    match code {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

/// The body of an error.
pub fn error(code: u8, message: &str) -> Vec<u8> {
    status(code, message, Form::Plain)
}

/// The line that ends a stream with an error.
pub fn error_line(code: u8, message: &str) -> Vec<u8> {
    [b"{\"error\":", status(code, message, Form::Line).as_slice(), b"}\n"].concat()
}

fn status(code: u8, message: &str, form: Form) -> Vec<u8> {
    let mut json = format!("{{\"code\":{code}").into_bytes();
    if !message.is_empty() {
        json.extend_from_slice(b",\"message\":");
        write_string(message, form, &mut json);
    }
    json.push(b'}');
    json
}

/// The body of a whole answer.
pub fn message(id: MessageId, wire: &[u8]) -> Result<Vec<u8>, EncodeError> {
    let mut json = Vec::new();
    encode(id, wire, Form::Plain, &mut json)?;
    Ok(json)
}

/// A line of a stream.
pub fn line(id: MessageId, wire: &[u8]) -> Result<Vec<u8>, EncodeError> {
    let mut json = b"{\"result\":".to_vec();
    encode(id, wire, Form::Line, &mut json)?;
    json.extend_from_slice(b"}\n");
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_upstreams_form() {
        assert_eq!(error(5, "Not Found"), br#"{"code":5,"message":"Not Found"}"#);
        assert_eq!(error(2, ""), br#"{"code":2}"#);
        assert_eq!(error_line(3, "a<b"), b"{\"error\":{\"code\":3,\"message\":\"a\\u003cb\"}}\n");
    }

    #[test]
    fn every_code_has_a_status() {
        let statuses: Vec<_> = (0..=17).map(http_status).collect();
        let expected =
            [200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401, 500];
        assert_eq!(statuses, expected);
    }
}
