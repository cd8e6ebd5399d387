//! The records of the three auth buckets, one by one.

use bytes::Bytes;
use prost::Message;
use proto::authpb;
use types::KeyRange;

/// What a permission allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PermissionKind {
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Both.
    ReadWrite,
}

/// Keys, and what may be done with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    /// What is allowed.
    pub kind: PermissionKind,
    /// First key, as stored.
    pub key: Bytes,
    /// End of the range in wire form: empty = one key, a zero byte = no end.
    pub range_end: Bytes,
}

/// A stored user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Name; also the key.
    pub name: String,
    /// The bcrypt text; empty for users without password.
    pub password_hash: Bytes,
    /// Names of roles, sorted.
    pub roles: Vec<String>,
    /// The user can only come with a client certificate.
    pub no_password: bool,
}

/// A stored role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// Name; also the key.
    pub name: String,
    /// Sorted by key.
    pub permissions: Vec<Permission>,
}

/// A user or role that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not the protobuf message that it should be.
    #[error("record does not decode")]
    Decode(#[from] prost::DecodeError),
    /// The name is no text.
    #[error("name {name:02x?} is not UTF-8")]
    Name {
        /// The name.
        name: Vec<u8>,
    },
    /// A permission of an unknown type.
    #[error("permission type {number} is unknown")]
    PermissionKind {
        /// Its number.
        number: i32,
    },
}

/// A value in bucket `auth` of the wrong form.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} is {len} bytes long, not {expected}")]
pub struct AuthKeyError {
    /// The key.
    pub key: &'static str,
    /// Length found.
    pub len: usize,
    /// Length it has.
    pub expected: usize,
}

impl Permission {
    /// The keys it covers.
    pub fn range(&self) -> KeyRange {
        KeyRange::from_wire(self.key.clone(), self.range_end.clone())
    }

    /// Whether reading is allowed.
    pub fn reads(&self) -> bool {
        self.kind != PermissionKind::Write
    }

    /// Whether writing is allowed.
    pub fn writes(&self) -> bool {
        self.kind != PermissionKind::Read
    }

    /// The message in answers and records.
    pub fn to_proto(&self) -> authpb::Permission {
        use authpb::permission::Type;
        let kind = match self.kind {
            PermissionKind::Read => Type::Read,
            PermissionKind::Write => Type::Write,
            PermissionKind::ReadWrite => Type::Readwrite,
        };
        authpb::Permission {
            perm_type: kind.into(),
            key: self.key.clone(),
            range_end: self.range_end.clone(),
        }
    }

    /// Reads the message.
    pub fn from_proto(message: authpb::Permission) -> Result<Self, RecordError> {
        use authpb::permission::Type;
        let number = message.perm_type;
        let kind = match Type::try_from(number).map_err(|_| RecordError::PermissionKind { number })? {
            Type::Read => PermissionKind::Read,
            Type::Write => PermissionKind::Write,
            Type::Readwrite => PermissionKind::ReadWrite,
        };
        Ok(Self { kind, key: message.key, range_end: message.range_end })
    }
}

impl User {
    /// The stored form.
    pub fn encode(&self) -> Bytes {
        let message = authpb::User {
            name: Bytes::copy_from_slice(self.name.as_bytes()),
            password: self.password_hash.clone(),
            roles: self.roles.clone(),
            options: Some(authpb::UserAddOptions { no_password: self.no_password }),
        };
        message.encode_to_vec().into()
    }

    /// Reads the stored form. Records of etcd 3.3 have no options.
    pub fn decode(value: Bytes) -> Result<Self, RecordError> {
        let message = authpb::User::decode(value)?;
        Ok(Self {
            name: text(&message.name)?,
            password_hash: message.password,
            roles: message.roles,
            no_password: message.options.is_some_and(|options| options.no_password),
        })
    }
}

impl Role {
    /// The stored form.
    pub fn encode(&self) -> Bytes {
        let message = authpb::Role {
            name: Bytes::copy_from_slice(self.name.as_bytes()),
            key_permission: self.permissions.iter().map(Permission::to_proto).collect(),
        };
        message.encode_to_vec().into()
    }

    /// Reads the stored form.
    pub fn decode(value: Bytes) -> Result<Self, RecordError> {
        let message = authpb::Role::decode(value)?;
        let permissions = message.key_permission.into_iter().map(Permission::from_proto);
        Ok(Self { name: text(&message.name)?, permissions: permissions.collect::<Result<_, _>>()? })
    }
}

fn text(name: &[u8]) -> Result<String, RecordError> {
    String::from_utf8(name.to_vec()).map_err(|error| RecordError::Name { name: error.into_bytes() })
}

/// Value of `authEnabled`.
pub fn encode_enabled(enabled: bool) -> Bytes {
    Bytes::from_static(if enabled { &[1] } else { &[0] })
}

/// Reads `authEnabled`; anything but a single 1 is off, as upstream has it.
pub fn decode_enabled(value: Option<&[u8]>) -> bool {
    value == Some(&[1])
}

/// Value of `authRevision`.
pub fn encode_revision(revision: u64) -> Bytes {
    Bytes::copy_from_slice(&revision.to_be_bytes())
}

/// Reads `authRevision`; absent = 0, a new store, in which upstream then puts 1.
pub fn decode_revision(value: Option<&[u8]>) -> Result<u64, AuthKeyError> {
    let Some(value) = value else { return Ok(0) };
    let wrong = |_| AuthKeyError { key: "authRevision", len: value.len(), expected: 8 };
    Ok(u64::from_be_bytes(value.try_into().map_err(wrong)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records of the fixture `clean-3.5.30`.
    const ALICE: &[u8] =
        b"\x0a\x05alice\x12<$2a$10$K.B/06PI9u9C465mKLsQ8.o6GqUO1le2I.nSj5A8ddechdRZ4oxIy\x1a\x06reader\"\x00";
    const READER: &[u8] =
        b"\x0a\x06reader\x12\x18\x12\x0a/registry/\x1a\x0a/registry0\x12\x0d\x08\x02\x12\x09counter/0";

    #[test]
    fn recorded_users_and_roles_are_read_and_written_back() {
        let alice = User::decode(Bytes::from_static(ALICE)).unwrap();
        assert_eq!(
            (alice.name.as_str(), &alice.roles[..], alice.no_password),
            ("alice", &["reader".to_owned()][..], false)
        );
        assert!(alice.password_hash.starts_with(b"$2a$10$"));
        assert_eq!(alice.encode(), ALICE);

        let reader = Role::decode(Bytes::from_static(READER)).unwrap();
        let [registry, counter] = &reader.permissions[..] else { panic!("{reader:?}") };
        assert!(registry.reads() && !registry.writes() && registry.range().contains(b"/registry/pods"));
        assert!(counter.reads() && counter.writes() && !counter.range().contains(b"counter/01"));
        assert_eq!(reader.encode(), READER);
    }

    #[test]
    fn the_switch_and_the_revision() {
        assert!(decode_enabled(Some(&encode_enabled(true))));
        assert!(!decode_enabled(Some(&encode_enabled(false))));
        assert!(!decode_enabled(None));
        assert_eq!(decode_revision(Some(b"\0\0\0\0\0\0\0\x06")), Ok(6));
        assert_eq!(encode_revision(6), b"\0\0\0\0\0\0\0\x06"[..]);
        assert_eq!(decode_revision(None), Ok(0));
        let error = decode_revision(Some(b"\x06")).unwrap_err();
        assert_eq!(error.to_string(), "authRevision is 1 bytes long, not 8");
    }

    #[test]
    fn junk_is_refused() {
        assert!(matches!(User::decode(Bytes::from_static(b"\x0a")), Err(RecordError::Decode(_))));
        assert!(matches!(User::decode(Bytes::from_static(b"\x0a\x01\xff")), Err(RecordError::Name { .. })));
        let unknown = Role::decode(Bytes::from_static(b"\x12\x02\x08\x09"));
        assert!(matches!(unknown, Err(RecordError::PermissionKind { number: 9 })));
    }
}
