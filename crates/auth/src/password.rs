//! Passwords: bcrypt texts, and a memory of pairs that were found right.
//!
//! Hashing is slow on purpose (tens of milliseconds at the default cost): everything here but the
//! memory runs on threads meant for that, never on one that serves requests or applies entries.

use std::collections::{HashSet, VecDeque};

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Cheapest hash.
pub const MIN_COST: u32 = 4;
/// Dearest hash.
pub const MAX_COST: u32 = 31;
/// Cost unless told otherwise.
pub const DEFAULT_COST: u32 = 10;

/// bcrypt looks at no more than this many bytes.
const MAX_BYTES: usize = 72;
/// Pairs that are remembered.
const REMEMBERED: usize = 1024;

/// A password that would be cut before it is hashed.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("bcrypt: password length exceeds 72 bytes")]
pub struct TooLong;

/// The bcrypt text of a password, in the form that etcd writes.
///
/// # Errors
/// The password is too long.
///
/// # Panics
/// If the cost is outside of [`MIN_COST`] to [`MAX_COST`].
pub fn hash(password: &str, cost: u32, salt: [u8; 16]) -> Result<String, TooLong> {
    if password.len() > MAX_BYTES {
        return Err(TooLong);
    }
    let hash = bcrypt::hash_with_salt(password, cost, salt).expect("the cost was checked at start");
    Ok(hash.format_for_version(bcrypt::Version::TwoA))
}

/// Whether this is the password of the stored text. What is stored may be anything.
pub fn verify(stored: &[u8], password: &str) -> bool {
    let Ok(stored) = std::str::from_utf8(stored) else { return false };
    bcrypt::verify(password, stored).unwrap_or(false)
}

/// How a bcrypt text travels in a request.
pub fn to_wire(hash: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(hash)
}

/// Reads it back, as leniently as upstream: line ends are skipped, unused bits ignored.
pub(crate) fn from_wire(text: &str) -> Option<Bytes> {
    let config = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical);
    let text: Vec<u8> = text.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
    GeneralPurpose::new(&alphabet::STANDARD, config).decode(text).ok().map(Bytes::from)
}

/// Pairs of a stored text and a password that were found right lately.
///
/// Bounded; forgotten as a whole when the auth revision moves. A pair is kept as a digest under a
/// key drawn at the start of the process; wrong passwords are never kept, so nobody can push others
/// out without knowing a password.
pub struct Verified {
    key: [u8; 32],
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    revision: u64,
    digests: HashSet<[u8; 32]>,
    oldest_first: VecDeque<[u8; 32]>,
}

impl Verified {
    /// An empty memory. `key` is random and secret.
    pub fn new(key: [u8; 32]) -> Self {
        Self { key, known: Mutex::default() }
    }

    /// Whether the pair was found right at this auth revision.
    pub fn knows(&self, revision: u64, stored: &[u8], password: &str) -> bool {
        let digest = self.digest(stored, password);
        let known = self.known.lock();
        known.revision == revision && known.digests.contains(&digest)
    }

    /// Remembers a pair that was found right at this auth revision.
    pub fn remember(&self, revision: u64, stored: &[u8], password: &str) {
        let digest = self.digest(stored, password);
        let mut known = self.known.lock();
        if known.revision > revision {
            return;
        }
        if known.revision < revision {
            *known = Known { revision, ..Known::default() };
        }
        if known.digests.insert(digest) {
            known.oldest_first.push_back(digest);
        }
        if known.oldest_first.len() > REMEMBERED
            && let Some(oldest) = known.oldest_first.pop_front()
        {
            known.digests.remove(&oldest);
        }
    }

    fn digest(&self, stored: &[u8], password: &str) -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update(self.key);
        digest.update((stored.len() as u64).to_be_bytes());
        digest.update(stored);
        digest.update(password);
        digest.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_have_upstreams_form_and_verify() {
        let text = hash("123", MIN_COST, [7; 16]).unwrap();
        assert!(text.starts_with("$2a$04$") && text.len() == 60, "{text}");
        assert!(verify(text.as_bytes(), "123") && !verify(text.as_bytes(), "124"));
        // From the test vectors of bcrypt itself.
        let vector = b"$2a$06$DCq7YPn5Rq63x1Lad4cll.TV4S6ytwfsfvkgY8jIucDrjc8deX1s.";
        assert!(verify(vector, "") && !verify(vector, "a"));
        for junk in
            [&b""[..], b"\xff", b"$2a$", b"$2a$99$DCq7YPn5Rq63x1Lad4cll.TV4S6ytwfsfvkgY8jIucDrjc8deX1s."]
        {
            assert!(!verify(junk, ""));
        }
        assert_eq!(hash(&"x".repeat(73), MIN_COST, [0; 16]), Err(TooLong));
        assert!(hash(&"x".repeat(72), MIN_COST, [0; 16]).is_ok());
    }

    #[test]
    fn the_wire_form_is_read_leniently() {
        assert_eq!(from_wire(&to_wire("$2a$x")).unwrap(), "$2a$x");
        assert_eq!(from_wire("").unwrap(), "");
        assert_eq!(from_wire("YW\nJj\r\n").unwrap(), "abc");
        assert_eq!(from_wire("YR==").unwrap(), "a");
        for junk in ["YQ", "!", "YWJj=", "YQ=="[..3].as_ref()] {
            assert_eq!(from_wire(junk), None, "{junk}");
        }
    }

    #[test]
    fn only_right_pairs_of_this_revision_are_known() {
        let verified = Verified::new([1; 32]);
        verified.remember(5, b"hash", "pw");
        assert!(verified.knows(5, b"hash", "pw"));
        assert!(!verified.knows(5, b"hash", "pw2") && !verified.knows(5, b"has", "hpw"));
        assert!(!verified.knows(6, b"hash", "pw"));
        verified.remember(6, b"other", "pw");
        assert!(!verified.knows(5, b"hash", "pw") && verified.knows(6, b"other", "pw"));
        verified.remember(5, b"late", "pw");
        assert!(!verified.knows(6, b"late", "pw"), "found right at an older revision");
    }

    #[test]
    fn the_memory_is_bounded() {
        let verified = Verified::new([1; 32]);
        for number in 0..REMEMBERED + 10 {
            verified.remember(1, b"hash", &number.to_string());
        }
        assert_eq!(verified.known.lock().digests.len(), REMEMBERED);
        assert!(!verified.knows(1, b"hash", "0") && verified.knows(1, b"hash", &REMEMBERED.to_string()));
    }
}
