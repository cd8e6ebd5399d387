//! Tokens: what a user gets for a password, and shows from then on.
//!
//! - *simple*: random text plus a log index. Assigned when the request is applied, so every member
//!   knows every token; kept in memory, gone after a restart.
//! - *jwt*: signed by the member that was asked, verified by all that have the key; nothing is kept.
//! - *none*: nobody gets in by a password.
//!
//! **Source**: etcd `server/auth/{simple_token,jwt,nop,options}.go`.

mod der;
mod jwt;
mod simple;

use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::check::Identity;
use crate::error::AuthError;

pub use jwt::{Jwt, JwtOptions, KeyError, SignMethod};
pub use simple::{SimpleTokens, index_of, prefix};

/// The kind of tokens that a member hands out and takes.
pub enum Tokens {
    /// Kept by every member.
    Simple(SimpleTokens),
    /// Signed.
    Jwt(Box<Jwt>),
    /// No tokens.
    None,
}

impl Tokens {
    /// Gives the user a token, under the log index before that of the request. Empty where tokens
    /// are made by [`Tokens::sign`].
    pub fn assign(&self, username: &str, prefix: &str, index: u64, now: Duration) -> String {
        match self {
            Self::Simple(tokens) => tokens.assign(username, prefix, index, now),
            Self::Jwt(_) | Self::None => String::new(),
        }
    }

    /// The token for a user whose request was applied. `assigned` is what [`Tokens::assign`] gave.
    ///
    /// # Errors
    /// This member hands out none.
    pub fn sign(&self, assigned: String, who: &Identity, unix: Duration) -> Result<String, AuthError> {
        match self {
            Self::Simple(_) => Ok(assigned),
            Self::Jwt(jwt) => jwt.sign(who, unix),
            Self::None => Err(AuthError::AuthFailed),
        }
    }

    /// Whom a token stands for. A simple token counts at the current revision.
    ///
    /// # Errors
    /// It stands for nobody, or not any more.
    pub fn identify(
        &self,
        token: &str,
        revision: u64,
        now: Duration,
        unix: Duration,
    ) -> Result<Identity, AuthError> {
        let found = match self {
            Self::Simple(tokens) => {
                tokens.user_of(token, now).map(|username| Identity { username, revision })
            }
            Self::Jwt(jwt) => jwt.verify(token, unix),
            Self::None => None,
        };
        found.ok_or(AuthError::InvalidToken)
    }

    /// Forgets the tokens of a user.
    pub fn forget_user(&self, username: &str) {
        if let Self::Simple(tokens) = self {
            tokens.forget_user(username);
        }
    }

    /// Forgets all tokens.
    pub fn forget_all(&self) {
        if let Self::Simple(tokens) = self {
            tokens.forget_all();
        }
    }
}

impl Default for Tokens {
    fn default() -> Self {
        Self::Simple(SimpleTokens::default())
    }
}

/// What may stand in a log in the place of a token.
pub fn fingerprint(token: &str) -> String {
    Sha256::digest(token).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// The kind of tokens to build, with what it is built from.
#[derive(Clone, Debug)]
pub enum TokenOptions {
    /// Simple tokens that live this long after their last use; 0 = 300 s.
    Simple {
        /// Their life.
        ttl: Duration,
    },
    /// Signed tokens.
    Jwt(JwtOptions),
    /// No tokens.
    None,
}

impl TokenOptions {
    /// The tokens.
    ///
    /// # Errors
    /// A key cannot be used.
    pub fn build(&self) -> Result<Tokens, KeyError> {
        Ok(match self {
            Self::Simple { ttl } => Tokens::Simple(SimpleTokens::new(*ttl)),
            Self::Jwt(options) => Tokens::Jwt(Box::new(Jwt::new(options)?)),
            Self::None => Tokens::None,
        })
    }
}

impl Default for TokenOptions {
    fn default() -> Self {
        Self::Simple { ttl: Duration::ZERO }
    }
}
