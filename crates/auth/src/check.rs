//! What a user may do.
//!
//! - With auth off everybody may do everything.
//! - Who holds the role root may do everything, at any auth revision for administration, at the
//!   current one for keys.
//!
//! **Source**: etcd `server/auth/store.go`: `isOpPermitted`, `IsAdminPermitted`.

use crate::ROOT;
use crate::error::AuthError;
use crate::store::{Account, AuthStore};

/// Who asks. Revision 0 is nobody: a request without a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Name of the user.
    pub username: String,
    /// Auth revision at which the user was known.
    pub revision: u64,
}

impl AuthStore {
    /// Whether the user may read a key (`range_end` empty) or a range.
    ///
    /// # Errors
    /// Not given, too old, or not allowed.
    pub fn may_read(&self, who: &Identity, key: &[u8], range_end: &[u8]) -> Result<(), AuthError> {
        self.may(who, |account| account.reads.covers(key, range_end))
    }

    /// Whether the user may write a key (`range_end` empty) or a range.
    ///
    /// # Errors
    /// As [`AuthStore::may_read`].
    pub fn may_write(&self, who: &Identity, key: &[u8], range_end: &[u8]) -> Result<(), AuthError> {
        self.may(who, |account| account.writes.covers(key, range_end))
    }

    fn may(&self, who: &Identity, allows: impl FnOnce(&Account) -> bool) -> Result<(), AuthError> {
        if !self.enabled {
            return Ok(());
        }
        if who.revision == 0 {
            return Err(AuthError::UserEmpty);
        }
        if who.revision < self.revision {
            return Err(AuthError::OldRevision);
        }
        match self.users.get(&who.username) {
            Some(account) if account.is_root || allows(account) => Ok(()),
            _ => Err(AuthError::PermissionDenied),
        }
    }

    /// Whether the user may administrate.
    ///
    /// # Errors
    /// Not given, not known, or not root.
    pub fn may_administrate(&self, who: Option<&Identity>) -> Result<(), AuthError> {
        if !self.enabled {
            return Ok(());
        }
        let who = who.filter(|who| !who.username.is_empty()).ok_or(AuthError::UserEmpty)?;
        let account = self.users.get(&who.username).ok_or(AuthError::UserNotFound)?;
        if account.is_root { Ok(()) } else { Err(AuthError::PermissionDenied) }
    }

    /// The user in whose name somebody without one may administrate: root, else the first who holds
    /// its role.
    pub fn administrator(&self) -> Option<Identity> {
        let is_root = |name: &&str| self.users.get(*name).is_some_and(|account| account.is_root);
        let other = || self.users.keys().map(String::as_str).find(is_root);
        let username = Some(ROOT).filter(is_root).or_else(other)?;
        Some(Identity { username: username.to_owned(), revision: self.revision })
    }

    /// Whether a user holds a role, by record.
    pub fn has_role(&self, username: &str, role: &str) -> bool {
        self.user(username).is_some_and(|user| user.roles.iter().any(|held| held == role))
    }
}
