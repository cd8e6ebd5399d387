//! Users and roles against a naive model, with etcd's conditions and errors written down once more.

use std::collections::{BTreeMap, BTreeSet};

use auth::{AuthError, AuthStore, Bucket, Done, Identity, LegacyHash, Record};
use bytes::Bytes;
use proptest::prelude::*;
use proto::{authpb, etcdserverpb as pb};

const LEGACY: LegacyHash = LegacyHash { cost: 4, index: 9 };
const USERS: [&str; 4] = ["root", "u1", "u2", ""];
const ROLES: [&str; 4] = ["root", "r1", "r2", ""];
const RANGES: [(&str, &str); 6] = [("a", ""), ("a", "c"), ("c", "e"), ("b", "\0"), ("c", "a"), ("", "z")];

#[derive(Clone, Copy, Debug)]
enum Step {
    Enable,
    Disable,
    UserAdd(usize, bool),
    UserDelete(usize),
    ChangePassword(usize),
    GrantRole(usize, usize),
    RevokeRole(usize, usize),
    RoleAdd(usize),
    RoleDelete(usize),
    Grant(usize, usize, i32),
    Revoke(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let (user, role, range) = (0..USERS.len(), 0..ROLES.len(), 0..RANGES.len());
    prop_oneof![
        1 => Just(Step::Enable),
        1 => Just(Step::Disable),
        4 => (user.clone(), any::<bool>()).prop_map(|(user, bare)| Step::UserAdd(user, bare)),
        1 => user.clone().prop_map(Step::UserDelete),
        1 => user.clone().prop_map(Step::ChangePassword),
        5 => (user.clone(), role.clone()).prop_map(|(user, role)| Step::GrantRole(user, role)),
        2 => (user, role.clone()).prop_map(|(user, role)| Step::RevokeRole(user, role)),
        4 => role.clone().prop_map(Step::RoleAdd),
        1 => role.clone().prop_map(Step::RoleDelete),
        5 => (role.clone(), range.clone(), 0..4).prop_map(|(role, range, kind)| Step::Grant(role, range, kind)),
        2 => (role, range).prop_map(|(role, range)| Step::Revoke(role, range)),
    ]
}

/// Sets of names, and per role what is allowed for which range.
#[derive(Default)]
struct Model {
    enabled: bool,
    revision: u64,
    users: BTreeMap<String, BTreeSet<String>>,
    roles: BTreeMap<String, BTreeMap<(String, String), i32>>,
}

impl Model {
    fn apply(&mut self, step: Step) -> Result<(), AuthError> {
        match step {
            Step::Enable => {
                if self.enabled {
                    return Ok(());
                }
                let roles = self.users.get("root").ok_or(AuthError::RootUserNotExist)?;
                if !roles.contains("root") {
                    return Err(AuthError::RootRoleNotExist);
                }
                self.enabled = true;
                return Ok(());
            }
            Step::Disable => {
                if !self.enabled {
                    return Ok(());
                }
                self.enabled = false;
            }
            Step::UserAdd(user, _) => {
                let user = USERS[user];
                if user.is_empty() {
                    return Err(AuthError::UserEmpty);
                }
                if self.users.contains_key(user) {
                    return Err(AuthError::UserAlreadyExists);
                }
                self.users.insert(user.to_owned(), BTreeSet::new());
            }
            Step::UserDelete(user) => {
                if self.enabled && USERS[user] == "root" {
                    return Err(AuthError::InvalidManagement);
                }
                self.users.remove(USERS[user]).ok_or(AuthError::UserNotFound)?;
            }
            Step::ChangePassword(user) => {
                self.users.get(USERS[user]).ok_or(AuthError::UserNotFound)?;
            }
            Step::GrantRole(user, role) => {
                let known = ROLES[role] == "root" || self.roles.contains_key(ROLES[role]);
                let roles = self.users.get_mut(USERS[user]).ok_or(AuthError::UserNotFound)?;
                if !known {
                    return Err(AuthError::RoleNotFound);
                }
                if !roles.insert(ROLES[role].to_owned()) {
                    return Ok(());
                }
            }
            Step::RevokeRole(user, role) => {
                if self.enabled && USERS[user] == "root" && ROLES[role] == "root" {
                    return Err(AuthError::InvalidManagement);
                }
                let roles = self.users.get_mut(USERS[user]).ok_or(AuthError::UserNotFound)?;
                if !roles.remove(ROLES[role]) {
                    return Err(AuthError::RoleNotGranted);
                }
            }
            Step::RoleAdd(role) => {
                let role = ROLES[role];
                if role.is_empty() {
                    return Err(AuthError::RoleEmpty);
                }
                if self.roles.contains_key(role) {
                    return Err(AuthError::RoleAlreadyExists);
                }
                self.roles.insert(role.to_owned(), BTreeMap::new());
            }
            Step::RoleDelete(role) => {
                if self.enabled && ROLES[role] == "root" {
                    return Err(AuthError::InvalidManagement);
                }
                self.roles.remove(ROLES[role]).ok_or(AuthError::RoleNotFound)?;
                for roles in self.users.values_mut() {
                    roles.remove(ROLES[role]);
                }
            }
            Step::Grant(role, range, kind) => {
                let (key, end) = RANGES[range];
                if key.is_empty() || !(end.is_empty() || end == "\0" || key < end) {
                    return Err(AuthError::InvalidManagement);
                }
                let role = self.roles.get_mut(ROLES[role]).ok_or(AuthError::RoleNotFound)?;
                role.insert((key.to_owned(), end.to_owned()), kind);
            }
            Step::Revoke(role, range) => {
                let (key, end) = RANGES[range];
                let role = self.roles.get_mut(ROLES[role]).ok_or(AuthError::RoleNotFound)?;
                role.remove(&(key.to_owned(), end.to_owned())).ok_or(AuthError::PermissionNotGranted)?;
            }
        }
        self.revision += 1;
        Ok(())
    }

    /// One key, one kind (0 read, 1 write; 2 is both).
    fn may(&self, user: &str, key: &str, kind: i32) -> bool {
        let Some(roles) = self.users.get(user) else { return false };
        roles.contains("root")
            || roles.iter().filter_map(|role| self.roles.get(role)).flatten().any(
                |((start, end), allowed)| {
                    let inside = match end.as_str() {
                        "" => key == start,
                        "\0" => key >= start.as_str(),
                        end => start.as_str() <= key && key < end,
                    };
                    inside && (*allowed == 2 || *allowed == kind)
                },
            )
    }
}

fn apply(store: &mut AuthStore, step: Step) -> Result<Done, AuthError> {
    let nothing = || store_nothing();
    match step {
        Step::Enable => store.enable(),
        Step::Disable => Ok(store.disable().unwrap_or_else(nothing)),
        Step::UserAdd(user, no_password) => {
            let options = Some(authpb::UserAddOptions { no_password });
            let request = pb::AuthUserAddRequest { name: USERS[user].into(), options, ..Default::default() };
            store.user_add(&request, LEGACY)
        }
        Step::UserDelete(user) => store.user_delete(USERS[user]),
        Step::ChangePassword(user) => {
            let request =
                pb::AuthUserChangePasswordRequest { name: USERS[user].into(), ..Default::default() };
            store.user_change_password(&request, LEGACY)
        }
        Step::GrantRole(user, role) => store.user_grant_role(USERS[user], ROLES[role]),
        Step::RevokeRole(user, role) => store.user_revoke_role(USERS[user], ROLES[role]),
        Step::RoleAdd(role) => store.role_add(ROLES[role]),
        Step::RoleDelete(role) => store.role_delete(ROLES[role]),
        Step::Grant(role, range, perm_type) => {
            let (key, range_end) = (RANGES[range].0.into(), RANGES[range].1.into());
            let perm = Some(authpb::Permission { perm_type, key, range_end });
            store.role_grant_permission(pb::AuthRoleGrantPermissionRequest { name: ROLES[role].into(), perm })
        }
        Step::Revoke(role, range) => store.role_revoke_permission(&pb::AuthRoleRevokePermissionRequest {
            role: ROLES[role].into(),
            key: RANGES[range].0.into(),
            range_end: RANGES[range].1.into(),
        }),
    }
}

fn store_nothing() -> Done {
    Done { records: Vec::new(), note: auth::Note { message: "", fields: Vec::new() } }
}

/// The buckets that the records of changes add up to.
#[derive(Default)]
struct Disk {
    buckets: [BTreeMap<Bytes, Bytes>; 3],
}

impl Disk {
    fn write(&mut self, records: Vec<Record>) {
        for record in records {
            let bucket = &mut self.buckets[match record.bucket {
                Bucket::Auth => 0,
                Bucket::Users => 1,
                Bucket::Roles => 2,
            }];
            match record.value {
                Some(value) => drop(bucket.insert(record.key, value)),
                None => drop(bucket.remove(&record.key)),
            }
        }
    }

    fn load(&self) -> AuthStore {
        let [auth, users, roles] = self.buckets.clone();
        AuthStore::load(auth, users, roles).unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn changes_agree_with_the_model_and_with_what_is_stored(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let (mut store, mut disk) = (AuthStore::default(), Disk::default());
        let mut model = Model { revision: 1, ..Model::default() };
        disk.write(store.begin().into_iter().collect());
        for step in steps {
            let before = store.clone();
            let (got, want) = (apply(&mut store, step), model.apply(step));
            prop_assert_eq!(got.as_ref().map(drop).map_err(|error| *error), want, "{:?}", step);
            match got {
                Ok(done) => disk.write(done.records),
                Err(_) => prop_assert_eq!(&store, &before, "a refused change changed something"),
            }
            prop_assert_eq!((store.is_enabled(), store.revision()), (model.enabled, model.revision));
            prop_assert_eq!(&disk.load(), &store, "what is stored is not what is known, after {:?}", step);
        }
        for user in USERS {
            let who = Identity { username: user.to_owned(), revision: store.revision() };
            for key in ["a", "b", "bb", "c", "d", "e", "z"] {
                let verdict = |allowed| if !model.enabled || allowed { Ok(()) } else { Err(AuthError::PermissionDenied) };
                prop_assert_eq!(store.may_read(&who, key.as_bytes(), b""), verdict(model.may(user, key, 0)));
                prop_assert_eq!(store.may_write(&who, key.as_bytes(), b""), verdict(model.may(user, key, 1)));
            }
        }
    }
}

fn enabled() -> AuthStore {
    let mut store = AuthStore::default();
    store.begin();
    for step in [Step::UserAdd(0, false), Step::UserAdd(1, false), Step::GrantRole(0, 0), Step::Enable] {
        apply(&mut store, step).unwrap();
    }
    store
}

#[test]
fn who_is_asked_first_and_which_error_comes() {
    let store = enabled();
    let who = |username: &str, revision| Identity { username: username.to_owned(), revision };
    let now = store.revision();
    assert_eq!(now, 4, "enabling does not count");
    assert_eq!(store.may_read(&Identity::default(), b"a", b""), Err(AuthError::UserEmpty));
    assert_eq!(store.may_read(&who("root", now - 1), b"a", b""), Err(AuthError::OldRevision));
    assert_eq!(store.may_read(&who("nobody", now), b"a", b""), Err(AuthError::PermissionDenied));
    assert_eq!(store.may_read(&who("root", now), b"\0", b"\0"), Ok(()));
    // A token of a later revision than this member knows.
    assert_eq!(store.may_read(&who("root", now + 1), b"a", b""), Ok(()));

    assert_eq!(store.may_administrate(None), Err(AuthError::UserEmpty));
    assert_eq!(store.may_administrate(Some(&who("", now))), Err(AuthError::UserEmpty));
    assert_eq!(store.may_administrate(Some(&who("nobody", now))), Err(AuthError::UserNotFound));
    assert_eq!(store.may_administrate(Some(&who("u1", now))), Err(AuthError::PermissionDenied));
    assert_eq!(store.may_administrate(Some(&who("root", 0))), Ok(()), "no revision is asked for");
    assert_eq!(AuthStore::default().may_administrate(None), Ok(()));
}

#[test]
fn passwords_come_hashed_and_clear_ones_only_from_old_logs() {
    let mut store = AuthStore::default();
    let add = |name: &str, password: &str, hashed: &str| pb::AuthUserAddRequest {
        name: name.into(),
        password: password.into(),
        hashed_password: hashed.into(),
        ..Default::default()
    };
    store.user_add(&add("a", "", "YWJj"), LEGACY).unwrap();
    assert_eq!(store.user("a").unwrap().password_hash, "abc");
    assert_eq!(store.user_add(&add("b", "", "!"), LEGACY), Err(AuthError::NoPasswordUser));
    store.user_add(&add("old", "pw", ""), LEGACY).unwrap();
    let stored = store.user("old").unwrap().password_hash.clone();
    assert!(auth::password::verify(&stored, "pw"));
    let mut other = AuthStore::default();
    other.user_add(&add("old", "pw", ""), LEGACY).unwrap();
    assert_eq!(other.user("old").unwrap().password_hash, stored, "the same on every member");
}
