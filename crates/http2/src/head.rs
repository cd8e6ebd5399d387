//! The header list of a request, a response, or a message's trailers.
//!
//! Fields are shared with the compression table, so a head costs a vector of pointers; a request
//! that is sent again costs one pointer. `:authority` is carried as it came: clients put all sorts
//! of things there, and nothing here depends on it.
//!
//! **Source**: RFC 9113, section 8.

use std::rc::Rc;

use crate::hpack::{Field, Kind};

/// A header list in the order in which it was sent.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// `:method` or `:status`.
    first: Option<Rc<Field>>,
    scheme: Option<Rc<Field>>,
    authority: Option<Rc<Field>>,
    path: Option<Rc<Field>>,
    fields: Vec<Rc<Field>>,
    content_length: Option<u64>,
    malformed: bool,
}

/// What a header block may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Request,
    Response,
    Trailers,
}

impl Head {
    /// A request.
    pub fn request(method: &str, scheme: &str, authority: &str, path: &str) -> Self {
        Self {
            first: Some(Field::new(":method", method)),
            scheme: Some(Field::new(":scheme", scheme)),
            authority: Some(Field::new(":authority", authority)),
            path: Some(Field::new(":path", path)),
            ..Self::default()
        }
    }

    /// A response.
    pub fn response(status: u16) -> Self {
        Self { first: Some(Field::new(":status", status.to_string())), ..Self::default() }
    }

    /// Trailers, or a head whose fields are all that matters.
    pub fn trailers() -> Self {
        Self::default()
    }

    /// Adds a field.
    pub fn with(mut self, field: Rc<Field>) -> Self {
        self.fields.push(field);
        self
    }

    /// `:method`.
    pub fn method(&self) -> &[u8] {
        match &self.first {
            Some(field) if field.kind == Kind::Method => field.value(),
            _ => b"",
        }
    }

    /// `:status`; 0 if there is none.
    pub fn status(&self) -> u16 {
        match &self.first {
            Some(field) if field.kind == Kind::Status => number(field.value()).unwrap_or(0) as u16,
            _ => 0,
        }
    }

    /// `:path`; empty if there is none or it is not text.
    pub fn path(&self) -> &str {
        let value = self.path.as_ref().map_or(&b""[..], |field| field.value());
        std::str::from_utf8(value).unwrap_or_default()
    }

    /// `:authority`, whatever the client put there.
    pub fn authority(&self) -> Option<&[u8]> {
        self.authority.as_ref().map(|field| field.value())
    }

    /// The first value of a name, which is in small letters.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let found = self.fields.iter().find(|field| field.name() == name.as_bytes());
        found.map(|field| field.value())
    }

    /// All fields but those that begin with a colon.
    pub fn fields(&self) -> impl Iterator<Item = &Field> {
        self.fields.iter().map(|field| &**field)
    }

    /// Everything, those with a colon first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Rc<Field>> {
        [&self.first, &self.scheme, &self.authority, &self.path].into_iter().flatten().chain(&self.fields)
    }

    pub(crate) fn content_length(&self) -> Option<u64> {
        self.content_length
    }

    /// Whether this may stand where it stands.
    pub(crate) fn is_proper(&self, role: Role) -> bool {
        let kind = self.first.as_ref().map(|field| field.kind);
        let others = self.scheme.is_some() || self.authority.is_some() || self.path.is_some();
        !self.malformed
            && match role {
                Role::Request if self.method() == b"CONNECT" => self.scheme.is_none() && self.path.is_none(),
                Role::Request => kind == Some(Kind::Method) && self.scheme.is_some() && self.path.is_some(),
                Role::Response => kind == Some(Kind::Status) && !others && self.status() >= 100,
                Role::Trailers => kind.is_none() && !others,
            }
    }
}

/// Puts a head together from decoded fields.
pub(crate) struct Builder {
    head: Head,
    bytes: usize,
    max_bytes: usize,
}

impl Builder {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self { head: Head { fields: Vec::with_capacity(6), ..Head::default() }, bytes: 0, max_bytes }
    }

    pub(crate) fn push(&mut self, field: &Rc<Field>) {
        self.bytes = self.bytes.saturating_add(field.size());
        if self.bytes > self.max_bytes {
            return;
        }
        let head = &mut self.head;
        let place = match field.kind {
            Kind::Regular => {
                head.fields.push(field.clone());
                return;
            }
            Kind::ContentLength => {
                let length = number(field.value());
                // Said twice, it has to be the same.
                head.malformed |=
                    length.is_none() || head.content_length.is_some_and(|was| Some(was) != length);
                head.content_length = length;
                head.fields.push(field.clone());
                return;
            }
            Kind::Forbidden => {
                head.malformed = true;
                return;
            }
            Kind::Method | Kind::Status => &mut head.first,
            Kind::Scheme => &mut head.scheme,
            Kind::Authority => &mut head.authority,
            Kind::Path => &mut head.path,
        };
        // Each once, and before all others.
        head.malformed |= place.is_some() || !head.fields.is_empty();
        *place = Some(field.clone());
    }

    /// The head, and whether it was too large.
    pub(crate) fn finish(self) -> (Head, bool) {
        (self.head, self.bytes > self.max_bytes)
    }
}

fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 18 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}
