//! A body for the JSON gateway, on its way to a message and back.
//!
//! ```text
//! route:u8 piece:u8 body...
//! ```
//!
//! The body arrives in pieces of `piece` bytes. Promises: the pieces make no difference; no value makes
//! the transcoding panic; the wire form of a value is a message that reads back as JSON with the same
//! wire form.

use gateway::Form;
use gateway::routes::{self, Route};
use gateway::values::Values;

use crate::Seed;
use crate::input::Input;

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (number, piece) = (usize::from(input.u8()), usize::from(input.u8()).max(1));
    let body = input.rest();
    let paths: Vec<_> = routes::paths().collect();
    let route = routes::find(&paths[number % paths.len()]).expect("a path of the list");
    let (values, error) = cut(body, piece);
    assert_eq!((&values, &error), (&cut(body, body.len().max(1)).0, &cut(body, body.len().max(1)).1));
    for value in &values {
        there_and_back(route, value);
    }
    // What was not cut out by us is no promise, but no panic either.
    let _ = gateway::decode(route.request, body);
    let _ = gateway::encode(route.response, body, Form::Line, &mut Vec::new());
}

fn cut(body: &[u8], piece: usize) -> (Vec<Vec<u8>>, Option<String>) {
    let (mut values, mut found) = (Values::default(), Vec::new());
    for part in body.chunks(piece) {
        values.push(part);
        loop {
            match values.next_value() {
                Ok(Some(value)) => found.push(value.to_vec()),
                Ok(None) => break,
                Err(error) => return (found, Some(error.to_string())),
            }
        }
    }
    loop {
        match values.finish() {
            Ok(Some(value)) => found.push(value.to_vec()),
            Ok(None) => return (found, None),
            Err(error) => return (found, Some(error.to_string())),
        }
    }
}

fn there_and_back(route: &Route, value: &[u8]) {
    let Ok(wire) = gateway::decode(route.request, value) else { return };
    let mut json = Vec::new();
    gateway::encode(route.request, &wire, Form::Plain, &mut json).expect("our own wire form");
    let again = gateway::decode(route.request, &json).expect("our own JSON");
    let mut same = Vec::new();
    gateway::encode(route.request, &again, Form::Plain, &mut same).expect("our own wire form");
    assert_eq!(String::from_utf8_lossy(&json), String::from_utf8_lossy(&same));
}

/// Inputs to start from.
pub fn seeds() -> Vec<Seed> {
    let seed = |path: &str, piece: u8, body: &str| {
        let number = routes::paths().position(|known| known == path).expect("a route") as u8;
        [&[number, piece], body.as_bytes()].concat()
    };
    vec![
        (
            "range",
            seed("/v3/kv/range", 7, r#"{"key":"Zm9v","range_end":"Zm9w","limit":"10","sort_order":2}"#),
        ),
        (
            "txn",
            seed(
                "/v3/kv/txn",
                200,
                r#"{"compare":[{"target":"VERSION","key":"Zm9v","version":0}],"success":[{"requestPut":{"key":"YQ","value":"_-8="}},{"request_txn":{"failure":[{}]}}]}"#,
            ),
        ),
        (
            "watch",
            seed(
                "/v3/watch",
                1,
                r#"{"create_request":{"key":"YQ==","filters":["NOPUT",1]}} {"cancel_request":{"watch_id":1e0}}"#,
            ),
        ),
        (
            "user",
            seed(
                "/v3/auth/user/add",
                3,
                r#"{"name":"\u00e9\ud83d\ude00\"","options":{"no_password":true},"x":[null,{"a":-0.5e3}]}"#,
            ),
        ),
        (
            "members",
            seed("/v3/cluster/member/add", 5, "{\"peerURLs\":[\"http://a\",\"\"],\n\"isLearner\":false}"),
        ),
        ("broken", seed("/v3/lease/keepalive", 2, r#"{"ID":77}{"ID":"#)),
    ]
}
