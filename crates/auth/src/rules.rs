//! Every change of users, roles and the switch.
//!
//! - A refused change changes nothing, the revision included.
//! - What a change writes comes out as records, in the bytes that upstream writes: members of a
//!   mixed cluster hold the same ones.
//! - The revision counts every change but switching auth on.
//!
//! **Source**: etcd `server/auth/store.go`.

use std::sync::Arc;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use sha2::{Digest, Sha256};

use crate::error::AuthError;
use crate::record::{Permission, Role, User, encode_enabled, encode_revision};
use crate::store::AuthStore;
use crate::{ENABLED_KEY, REVISION_KEY, ROOT, order, password};

/// Where a record belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bucket {
    /// Switch and revision.
    Auth,
    /// Users by name.
    Users,
    /// Roles by name.
    Roles,
}

/// One thing to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where.
    pub bucket: Bucket,
    /// Under which key.
    pub key: Bytes,
    /// What; `None` deletes.
    pub value: Option<Bytes>,
}

/// What is worth a line in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Upstream's message.
    pub message: &'static str,
    /// Upstream's fields.
    pub fields: Vec<(&'static str, Vec<String>)>,
}

/// A change that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// What to write.
    pub records: Vec<Record>,
    /// What to log.
    pub note: Note,
}

/// How to hash a password that came in clear text: requests in logs of etcd before 3.5.
///
/// Those releases drew a salt on every member, so their members did not hold the same bytes. Here
/// the salt follows from the entry.
#[derive(Clone, Copy, Debug)]
pub struct LegacyHash {
    /// Cost of the hash.
    pub cost: u32,
    /// Log index of the request.
    pub index: u64,
}

type Outcome = Result<Done, AuthError>;

impl AuthStore {
    /// Switches auth on.
    ///
    /// # Errors
    /// There is no user root with the role root.
    pub fn enable(&mut self) -> Outcome {
        if self.enabled {
            let message = "authentication is already enabled; ignored auth enable request";
            return Ok(Done { records: Vec::new(), note: Note { message, fields: Vec::new() } });
        }
        let root = self.users.get(ROOT).ok_or(AuthError::RootUserNotExist)?;
        if !root.is_root {
            return Err(AuthError::RootRoleNotExist);
        }
        self.enabled = true;
        Ok(Done { records: vec![switch(true)], note: note("enabled authentication", []) })
    }

    /// Switches auth off. `None` if it is off.
    pub fn disable(&mut self) -> Option<Done> {
        if !self.enabled {
            return None;
        }
        self.enabled = false;
        Some(self.changed(vec![switch(false)], note("disabled authentication", [])))
    }

    /// Adds a user.
    ///
    /// # Errors
    /// No name, a name in use, or an undecodable hash.
    pub fn user_add(&mut self, request: &pb::AuthUserAddRequest, legacy: LegacyHash) -> Outcome {
        if request.name.is_empty() {
            return Err(AuthError::UserEmpty);
        }
        if self.users.contains_key(&request.name) {
            return Err(AuthError::UserAlreadyExists);
        }
        let no_password = request.options.as_ref().is_some_and(|options| options.no_password);
        let password_hash = match no_password {
            true => Bytes::new(),
            false => password_hash(&request.name, &request.password, &request.hashed_password, legacy)?,
        };
        let user = User {
            name: request.name.clone(),
            password_hash,
            roles: Vec::new(),
            no_password: Some(no_password),
        };
        let note = note("added a user", [("user-name", vec![user.name.clone()])]);
        Ok(self.user_changed(user, note))
    }

    /// Deletes a user.
    ///
    /// # Errors
    /// Root while auth is on, or no such user.
    pub fn user_delete(&mut self, name: &str) -> Outcome {
        if self.enabled && name == ROOT {
            return Err(AuthError::InvalidManagement);
        }
        let account = self.users.remove(name).ok_or(AuthError::UserNotFound)?;
        let fields = [("user-name", vec![name.to_owned()]), ("user-roles", account.user.roles.clone())];
        Ok(self.changed(vec![record(Bucket::Users, name, None)], note("deleted a user", fields)))
    }

    /// Changes a password.
    ///
    /// # Errors
    /// No such user, or an undecodable hash.
    pub fn user_change_password(
        &mut self,
        request: &pb::AuthUserChangePasswordRequest,
        legacy: LegacyHash,
    ) -> Outcome {
        let mut user = self.user(&request.name).ok_or(AuthError::UserNotFound)?.clone();
        user.password_hash = match user.no_password {
            Some(true) => Bytes::new(),
            _ => password_hash(&request.name, &request.password, &request.hashed_password, legacy)?,
        };
        let fields = [("user-name", vec![user.name.clone()]), ("user-roles", user.roles.clone())];
        Ok(self.user_changed(user, note("changed a password of a user", fields)))
    }

    /// Gives a role to a user. The role root need not exist.
    ///
    /// # Errors
    /// No such user or role.
    pub fn user_grant_role(&mut self, name: &str, role: &str) -> Outcome {
        let mut user = self.user(name).ok_or(AuthError::UserNotFound)?.clone();
        if role != ROOT && !self.roles.contains_key(role) {
            return Err(AuthError::RoleNotFound);
        }
        let Err(position) = user.roles.binary_search_by(|held| held.as_str().cmp(role)) else {
            let fields = [
                ("user-name", vec![user.name]),
                ("user-roles", user.roles),
                ("duplicate-role-name", vec![role.to_owned()]),
            ];
            let note = note("ignored grant role request to a user", fields);
            return Ok(Done { records: Vec::new(), note });
        };
        user.roles.insert(position, role.to_owned());
        let fields = [
            ("user-name", vec![user.name.clone()]),
            ("user-roles", user.roles.clone()),
            ("added-role-name", vec![role.to_owned()]),
        ];
        Ok(self.user_changed(user, note("granted a role to a user", fields)))
    }

    /// Takes a role from a user.
    ///
    /// # Errors
    /// Root's own role while auth is on; no such user; a role the user does not hold.
    pub fn user_revoke_role(&mut self, name: &str, role: &str) -> Outcome {
        if self.enabled && name == ROOT && role == ROOT {
            return Err(AuthError::InvalidManagement);
        }
        let mut user = self.user(name).ok_or(AuthError::UserNotFound)?.clone();
        let old_roles = user.roles.clone();
        user.roles.retain(|held| held != role);
        if user.roles.len() == old_roles.len() {
            return Err(AuthError::RoleNotGranted);
        }
        let fields = [
            ("user-name", vec![user.name.clone()]),
            ("old-user-roles", old_roles),
            ("new-user-roles", user.roles.clone()),
            ("revoked-role-name", vec![role.to_owned()]),
        ];
        Ok(self.user_changed(user, note("revoked a role from a user", fields)))
    }

    /// Adds a role.
    ///
    /// # Errors
    /// No name, or a name in use.
    pub fn role_add(&mut self, name: &str) -> Outcome {
        if name.is_empty() {
            return Err(AuthError::RoleEmpty);
        }
        if self.roles.contains_key(name) {
            return Err(AuthError::RoleAlreadyExists);
        }
        let role = Role { name: name.to_owned(), permissions: Vec::new() };
        let fields = [("role-name", vec![name.to_owned()])];
        Ok(self.role_changed(role, note("created a role", fields)))
    }

    /// Deletes a role, and takes it from all users.
    ///
    /// # Errors
    /// Root while auth is on, or no such role.
    pub fn role_delete(&mut self, name: &str) -> Outcome {
        if self.enabled && name == ROOT {
            return Err(AuthError::InvalidManagement);
        }
        self.roles.remove(name).ok_or(AuthError::RoleNotFound)?;
        let mut records = vec![record(Bucket::Roles, name, None)];
        for mut user in self.holders(name) {
            user.roles.retain(|held| held != name);
            records.push(record(Bucket::Users, &user.name, Some(user.encode())));
            self.set_user(user);
        }
        Ok(self.changed(records, note("deleted a role", [("role-name", vec![name.to_owned()])])))
    }

    /// Gives a role a permission, or changes the kind of the one for the same range.
    ///
    /// # Errors
    /// No permission, a range that is none, or no such role.
    pub fn role_grant_permission(&mut self, request: pb::AuthRoleGrantPermissionRequest) -> Outcome {
        let granted = Permission::from_proto(request.perm.ok_or(AuthError::PermissionNotGiven)?);
        if !is_range(&granted.key, &granted.range_end) {
            return Err(AuthError::InvalidManagement);
        }
        let mut role = self.role(&request.name).ok_or(AuthError::RoleNotFound)?.clone();
        let fields = [
            ("user-name", vec![request.name]),
            ("permission-name", vec![granted.kind_name()]),
            ("key", vec![String::from_utf8_lossy(&granted.key).into_owned()]),
            ("range-end", vec![String::from_utf8_lossy(&granted.range_end).into_owned()]),
        ];
        // Only the first permission with this key is looked at, as upstream does: behind another one
        // with the same key the same range can stand twice.
        let first = role.permissions.partition_point(|held| held.key < granted.key);
        match role.permissions.get_mut(first) {
            Some(held) if held.key == granted.key && held.range_end == granted.range_end => {
                held.kind = granted.kind;
            }
            _ => {
                role.permissions.push(granted);
                order::sort(&mut role.permissions, |left, right| left.key < right.key);
            }
        }
        Ok(self.role_changed(role, note("granted/updated a permission to a user", fields)))
    }

    /// Takes a permission for exactly this range from a role.
    ///
    /// # Errors
    /// No such role, or it has no such permission.
    pub fn role_revoke_permission(&mut self, request: &pb::AuthRoleRevokePermissionRequest) -> Outcome {
        let mut role = self.role(&request.role).ok_or(AuthError::RoleNotFound)?.clone();
        let before = role.permissions.len();
        role.permissions.retain(|held| held.key != request.key || held.range_end != request.range_end);
        if role.permissions.len() == before {
            return Err(AuthError::PermissionNotGranted);
        }
        let fields = [
            ("role-name", vec![request.role.clone()]),
            ("key", vec![String::from_utf8_lossy(&request.key).into_owned()]),
            ("range-end", vec![String::from_utf8_lossy(&request.range_end).into_owned()]),
        ];
        Ok(self.role_changed(role, note("revoked a permission on range", fields)))
    }

    /// The revision that a store must have before anything is asked of it: upstream writes 1 into a
    /// new one at its first start.
    pub fn begin(&mut self) -> Option<Record> {
        if self.revision != 0 {
            return None;
        }
        self.revision = 1;
        Some(self.revision_record())
    }

    fn user_changed(&mut self, user: User, note: Note) -> Done {
        let written = record(Bucket::Users, &user.name, Some(user.encode()));
        self.set_user(user);
        self.changed(vec![written], note)
    }

    fn role_changed(&mut self, role: Role, note: Note) -> Done {
        let name = role.name.clone();
        let written = record(Bucket::Roles, &name, Some(role.encode()));
        self.roles.insert(name.clone(), Arc::new(role));
        for user in self.holders(&name) {
            self.set_user(user);
        }
        self.changed(vec![written], note)
    }

    fn changed(&mut self, mut records: Vec<Record>, note: Note) -> Done {
        self.revision += 1;
        records.push(self.revision_record());
        Done { records, note }
    }

    fn revision_record(&self) -> Record {
        Record {
            bucket: Bucket::Auth,
            key: Bytes::from_static(REVISION_KEY),
            value: Some(encode_revision(self.revision)),
        }
    }

    fn holders(&self, role: &str) -> Vec<User> {
        self.users().filter(|user| user.roles.iter().any(|held| held == role)).cloned().collect()
    }
}

fn switch(enabled: bool) -> Record {
    let key = Bytes::from_static(ENABLED_KEY);
    Record { bucket: Bucket::Auth, key, value: Some(encode_enabled(enabled)) }
}

fn record(bucket: Bucket, name: &str, value: Option<Bytes>) -> Record {
    Record { bucket, key: Bytes::copy_from_slice(name.as_bytes()), value }
}

fn note<const N: usize>(message: &'static str, fields: [(&'static str, Vec<String>); N]) -> Note {
    Note { message, fields: fields.into() }
}

fn password_hash(name: &str, clear: &str, hashed: &str, legacy: LegacyHash) -> Result<Bytes, AuthError> {
    if clear.is_empty() || !hashed.is_empty() {
        return password::from_wire(hashed).ok_or(AuthError::NoPasswordUser);
    }
    let mut digest = Sha256::new();
    digest.update(legacy.index.to_be_bytes());
    digest.update(name);
    let digest = digest.finalize();
    let salt = std::array::from_fn(|at| digest[at]);
    let hash = password::hash(clear, legacy.cost, salt).map_err(|_| AuthError::NoPasswordUser)?;
    Ok(hash.into())
}

fn is_range(key: &[u8], range_end: &[u8]) -> bool {
    !key.is_empty() && (range_end.is_empty() || range_end == [0] || key < range_end)
}
