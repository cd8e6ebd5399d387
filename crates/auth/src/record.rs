//! The records of the three auth buckets, one by one.

use bytes::Bytes;
use prost::Message;
use proto::authpb;

/// What a permission allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PermissionKind {
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Both.
    ReadWrite,
    /// A number that no release knows: stored as it came, and it allows nothing.
    Unknown(i32),
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
    /// The user can only come with a client certificate. `None` in records of etcd 3.3, which had
    /// no options; such a record stays without when it is changed.
    pub no_password: Option<bool>,
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
    /// Whether reading is allowed.
    pub fn reads(&self) -> bool {
        matches!(self.kind, PermissionKind::Read | PermissionKind::ReadWrite)
    }

    /// Whether writing is allowed.
    pub fn writes(&self) -> bool {
        matches!(self.kind, PermissionKind::Write | PermissionKind::ReadWrite)
    }

    /// Name of the kind, as logs have it.
    pub(crate) fn kind_name(&self) -> String {
        match self.kind {
            PermissionKind::Read => "READ".to_owned(),
            PermissionKind::Write => "WRITE".to_owned(),
            PermissionKind::ReadWrite => "READWRITE".to_owned(),
            PermissionKind::Unknown(_) => String::new(),
        }
    }

    /// The message in answers and records.
    pub fn to_proto(&self) -> authpb::Permission {
        use authpb::permission::Type;
        let kind = match self.kind {
            PermissionKind::Read => Type::Read,
            PermissionKind::Write => Type::Write,
            PermissionKind::ReadWrite => Type::Readwrite,
            PermissionKind::Unknown(number) => return self.message(number),
        };
        self.message(kind.into())
    }

    fn message(&self, perm_type: i32) -> authpb::Permission {
        authpb::Permission { perm_type, key: self.key.clone(), range_end: self.range_end.clone() }
    }

    /// Reads the message.
    pub fn from_proto(message: authpb::Permission) -> Self {
        use authpb::permission::Type;
        let kind = match Type::try_from(message.perm_type) {
            Ok(Type::Read) => PermissionKind::Read,
            Ok(Type::Write) => PermissionKind::Write,
            Ok(Type::Readwrite) => PermissionKind::ReadWrite,
            Err(_) => PermissionKind::Unknown(message.perm_type),
        };
        Self { kind, key: message.key, range_end: message.range_end }
    }
}

impl User {
    /// The stored form.
    pub fn encode(&self) -> Bytes {
        let message = authpb::User {
            name: Bytes::copy_from_slice(self.name.as_bytes()),
            password: self.password_hash.clone(),
            roles: self.roles.clone(),
            options: self.no_password.map(|no_password| authpb::UserAddOptions { no_password }),
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
            no_password: message.options.map(|options| options.no_password),
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
        let permissions = message.key_permission.into_iter().map(Permission::from_proto).collect();
        Ok(Self { name: text(&message.name)?, permissions })
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
            ("alice", &["reader".to_owned()][..], Some(false))
        );
        assert!(alice.password_hash.starts_with(b"$2a$10$"));
        assert_eq!(alice.encode(), ALICE);

        let reader = Role::decode(Bytes::from_static(READER)).unwrap();
        let [registry, counter] = &reader.permissions[..] else { panic!("{reader:?}") };
        assert!(registry.reads() && !registry.writes());
        assert!(counter.reads() && counter.writes());
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
    }

    #[test]
    fn an_unknown_kind_of_permission_is_kept_and_allows_nothing() {
        let role = Role::decode(Bytes::from_static(b"\x12\x02\x08\x09")).unwrap();
        let permission = &role.permissions[0];
        assert_eq!(permission.kind, PermissionKind::Unknown(9));
        assert!(!permission.reads() && !permission.writes());
        assert_eq!(role.encode(), b"\x12\x02\x08\x09"[..]);
    }
}
