//! `--experimental-enable-grpc-logging`: every message of a caller, and every one he is sent, as records.
//!
//! Passwords and tokens are left out: a log is read by more people than they are meant for.
//!
//! **Source**: etcd `server/etcdmain/grpc_proxy_logger.go` (texts and fields; messages are `jsonpb`'s).

use std::cell::Cell;

use api::grpc::{CallContext, PREFIX_LEN, Status};
use api::services::methods::path;
use bytes::Bytes;
use client::{Code, Error};
use gateway::schema::MessageId;
use gateway::{Form, encode, routes};
use prost::Message;
use proto::etcdserverpb as pb;
use server::log;

const REQUEST: Side =
    ("received payload logged as grpc.request.content field", "grpc.request.error", "grpc.request.content");
const RESPONSE: Side = (
    "returned response payload logged as grpc.response.content field",
    "grpc.response.error",
    "grpc.response.content",
);

/// A message and two names of fields: for an error, for the payload.
type Side = (&'static str, &'static str, &'static str);

/// Puts the messages of one call on record, if that is wanted.
pub(crate) struct Payloads(Option<Named>);

struct Named {
    path: String,
    messages: Option<(MessageId, MessageId)>,
    peer: Option<String>,
    /// Whether the end of something that the caller began is still to be put on record.
    is_open: Cell<bool>,
}

impl Payloads {
    pub(crate) fn of(context: &CallContext, wanted: bool) -> Self {
        Self(wanted.then(|| {
            let path = context.headers.path();
            let path = path.split_once('?').map_or(path, |(path, _)| path).to_owned();
            Named {
                messages: routes::messages(&path),
                peer: context.peer.address.map(|address| address.to_string()),
                is_open: Cell::new(is_bidi(&path)),
                path,
            }
        }))
    }

    /// A message of the caller.
    pub(crate) fn received(&self, message: &impl Message) {
        if let Some(named) = &self.0 {
            named.is_open.set(!is_filled_by_us(&named.path));
            named.write(&REQUEST, None, &named.json(named.messages.map(|(request, _)| request), message));
        }
    }

    /// The caller sends no more, for this reason if there is one.
    pub(crate) fn receives_no_more(&self, reason: Option<&Status>) {
        if let Some(named) = &self.0 {
            named.is_open.set(false);
            let reason = reason.map_or_else(|| "EOF".to_owned(), long_text);
            named.write(&REQUEST, Some(&reason), "{}");
        }
    }

    /// Framed messages for the caller, and what came of them.
    pub(crate) fn sent(&self, mut frames: &[u8], outcome: &Result<(), Status>) {
        let Some(named) = &self.0 else { return };
        let error = outcome.as_ref().err().map(long_text);
        while let Some((prefix, rest)) = frames.split_first_chunk::<PREFIX_LEN>() {
            let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
            let (message, rest) = rest.split_at(length.min(rest.len()));
            let json = named.wire_json(named.messages.map(|(_, response)| response), message);
            named.write(&RESPONSE, error.as_deref(), &json);
            frames = rest;
        }
    }

    /// The only answer of a call, framed.
    pub(crate) fn answered(&self, outcome: Result<&[u8], &Status>) {
        let Some(named) = &self.0 else { return };
        named.is_open.set(false);
        match outcome {
            Ok(frame) => self.sent(frame, &Ok(())),
            Err(status) => named.write(&RESPONSE, Some(&short_text(status)), ""),
        }
    }

    pub(crate) fn wanted(&self) -> bool {
        self.0.is_some()
    }
}

impl Drop for Payloads {
    fn drop(&mut self) {
        // The caller has given up.
        if let Some(named) = self.0.as_ref().filter(|named| named.is_open.get()) {
            let reason = long_text(&Status::canceled());
            match is_bidi(&named.path) {
                true => named.write(&REQUEST, Some(&reason), "{}"),
                false => named.write(&RESPONSE, Some(&reason), ""),
            }
        }
    }
}

impl Named {
    fn json(&self, id: Option<MessageId>, message: &impl Message) -> String {
        self.wire_json(id, &message.encode_to_vec())
    }

    fn wire_json(&self, id: Option<MessageId>, wire: &[u8]) -> String {
        let without = without_secrets(&self.path, id, wire);
        let mut json = Vec::new();
        let encoded =
            id.and_then(|id| encode(id, without.as_deref().unwrap_or(wire), Form::Record, &mut json).ok());
        match encoded {
            Some(()) => String::from_utf8_lossy(&json).into_owned(),
            None => String::new(),
        }
    }

    fn write(&self, side: &Side, error: Option<&str>, content: &str) {
        let (service, method) = self.path.trim_start_matches('/').split_once('/').unwrap_or_default();
        let mut fields: Vec<log::Field<'_>> = Vec::new();
        fields.extend(error.map(|error| (side.1, error.into())));
        fields.push((side.2, content.into()));
        fields.push(("grpc.service", service.into()));
        fields.push(("grpc.method", method.into()));
        fields.extend(self.peer.as_deref().map(|peer| ("peer.address", peer.into())));
        log::info(side.0, &fields);
    }
}

fn is_bidi(path: &str) -> bool {
    matches!(path, path::WATCH | path::LEASE_KEEP_ALIVE)
}

/// One message in, any number out.
fn is_filled_by_us(path: &str) -> bool {
    matches!(path, path::SNAPSHOT | path::OBSERVE | path::RANGE_STREAM)
}

/// The message without what nobody should read, if there is such a thing in it.
fn without_secrets(path: &str, id: Option<MessageId>, wire: &[u8]) -> Option<Vec<u8>> {
    let is_request = routes::messages(path).map(|(request, _)| request) == id;
    match (path, is_request) {
        (path::AUTHENTICATE, true) => {
            clear(wire, |message: &mut pb::AuthenticateRequest| message.password.clear())
        }
        (path::AUTHENTICATE, false) => {
            clear(wire, |message: &mut pb::AuthenticateResponse| message.token.clear())
        }
        (path::USER_ADD, true) => clear(wire, |message: &mut pb::AuthUserAddRequest| {
            message.password.clear();
            message.hashed_password.clear();
        }),
        (path::USER_CHANGE_PASSWORD, true) => {
            clear(wire, |message: &mut pb::AuthUserChangePasswordRequest| {
                message.password.clear();
                message.hashed_password.clear();
            })
        }
        _ => None,
    }
}

fn clear<M: Message + Default>(wire: &[u8], clear: impl FnOnce(&mut M)) -> Option<Vec<u8>> {
    // What cannot be read is not shown as it is either.
    let mut message = M::decode(Bytes::copy_from_slice(wire)).unwrap_or_default();
    clear(&mut message);
    Some(message.encode_to_vec())
}

fn error_of(status: &Status) -> Error {
    Error::Rpc { code: Code::from_i32(status.code as i32), message: status.message.to_string() }
}

fn short_text(status: &Status) -> String {
    error_of(status).to_string()
}

fn long_text(status: &Status) -> String {
    error_of(status).status_text()
}
