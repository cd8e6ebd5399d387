//! Simple tokens: `<16 letters>.<log index>`.
//!
//! A token lives for a time after its last use on this member. Members do not tell each other about
//! uses, as upstream's do not.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

/// How long an unused token lives unless told otherwise.
const DEFAULT_TTL: Duration = Duration::from_secs(300);
/// Tokens that are over are looked for once in this time, when one is assigned.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Letters of a token.
const LETTERS: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
/// Number of them.
const PREFIX_LETTERS: usize = 16;

/// The simple tokens of a cluster, as one member knows them.
pub struct SimpleTokens {
    ttl: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tokens: HashMap<String, Token>,
    next_sweep: Duration,
}

struct Token {
    username: String,
    /// Good up to and including this time.
    until: Duration,
}

impl Default for SimpleTokens {
    fn default() -> Self {
        Self::new(DEFAULT_TTL)
    }
}

impl SimpleTokens {
    /// Tokens that live this long after their last use; 0 = the default.
    pub fn new(ttl: Duration) -> Self {
        let ttl = if ttl.is_zero() { DEFAULT_TTL } else { ttl };
        Self { ttl, state: Mutex::default() }
    }

    pub(super) fn assign(&self, username: &str, prefix: &str, index: u64, now: Duration) -> String {
        let token = format!("{prefix}.{index}");
        let mut state = self.state.lock();
        if now >= state.next_sweep {
            state.next_sweep = now + SWEEP_INTERVAL;
            state.tokens.retain(|_, token| now <= token.until);
        }
        let until = now.saturating_add(self.ttl);
        state.tokens.insert(token.clone(), Token { username: username.to_owned(), until });
        token
    }

    /// The user of a token, whose life begins anew.
    pub(super) fn user_of(&self, token: &str, now: Duration) -> Option<String> {
        let mut state = self.state.lock();
        let known = state.tokens.get_mut(token).filter(|known| now <= known.until)?;
        known.until = now.saturating_add(self.ttl);
        Some(known.username.clone())
    }

    pub(super) fn forget_user(&self, username: &str) {
        self.state.lock().tokens.retain(|_, token| token.username != username);
    }

    pub(super) fn forget_all(&self) {
        self.state.lock().tokens.clear();
    }
}

/// The log index in a simple token: whoever looks the token up must have applied that entry and the
/// one behind it to know it. `None` if it is no simple token.
pub fn index_of(token: &str) -> Option<u64> {
    let (_, index) = token.split_once('.')?;
    let digits = !index.is_empty() && index.bytes().all(|byte| byte.is_ascii_digit());
    index.parse().ok().filter(|_| digits)
}

/// The random letters of a new token. `draw` gives random bytes.
pub fn prefix(mut draw: impl FnMut(&mut [u8])) -> String {
    let mut letters = String::with_capacity(PREFIX_LETTERS);
    let mut bytes = [0; 2 * PREFIX_LETTERS];
    while letters.len() < PREFIX_LETTERS {
        draw(&mut bytes);
        for byte in bytes {
            // 208 = 4 * 52: each letter is equally likely.
            if byte < 208 && letters.len() < PREFIX_LETTERS {
                letters.push(char::from(LETTERS[usize::from(byte % 52)]));
            }
        }
    }
    letters
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_token_lives_while_it_is_used() {
        let tokens = SimpleTokens::new(10 * SECOND);
        let token = tokens.assign("alice", "abc", 7, Duration::ZERO);
        assert_eq!(token, "abc.7");
        assert_eq!(tokens.user_of(&token, 10 * SECOND).as_deref(), Some("alice"));
        assert_eq!(tokens.user_of(&token, 20 * SECOND).as_deref(), Some("alice"));
        assert_eq!(tokens.user_of(&token, 31 * SECOND), None);
        assert_eq!(tokens.user_of("abc.8", SECOND), None);
    }

    #[test]
    fn tokens_that_are_over_are_dropped() {
        let tokens = SimpleTokens::new(SECOND);
        for index in 0..100 {
            tokens.assign("alice", "abc", index, index as u32 * SECOND);
        }
        assert!(tokens.state.lock().tokens.len() < 4);
    }

    #[test]
    fn tokens_go_with_their_user() {
        let tokens = SimpleTokens::default();
        let (alice, bob) = (tokens.assign("alice", "a", 1, SECOND), tokens.assign("bob", "b", 2, SECOND));
        tokens.forget_user("alice");
        assert_eq!(
            (tokens.user_of(&alice, SECOND), tokens.user_of(&bob, SECOND).as_deref()),
            (None, Some("bob"))
        );
        tokens.forget_all();
        assert_eq!(tokens.user_of(&bob, SECOND), None);
    }

    #[test]
    fn prefixes_are_letters_and_indexes_are_read() {
        let mut next = 0_u8;
        let prefix = prefix(|bytes| {
            for byte in bytes {
                *byte = next;
                next = next.wrapping_add(51);
            }
        });
        assert!(prefix.len() == 16 && prefix.bytes().all(|byte| byte.is_ascii_alphabetic()), "{prefix}");
        assert_eq!(index_of("abc.17"), Some(17));
        for junk in ["abc", "abc.", "abc.x", "a.b.1", "abc.+1", "abc.99999999999999999999"] {
            assert_eq!(index_of(junk), None, "{junk}");
        }
    }
}
