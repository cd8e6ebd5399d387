//! `--auth-token`: the kind of token and its options, `jwt,sign-method=RS256,pub-key=...`.
//!
//! **Source**: etcd `server/auth/{store,options}.go`.

use std::collections::BTreeMap;
use std::time::Duration;

use auth::tokens::{JwtOptions, SignMethod, TokenOptions};
use thiserror::Error;

use super::duration::GoDuration;
use crate::log;

/// Life of a signed token unless told otherwise.
const DEFAULT_JWT_TTL: Duration = Duration::from_secs(300);

/// A value of the flag that cannot be used.
#[derive(Debug, Error)]
pub enum BadAuthToken {
    /// Not a kind with options, or an option twice.
    #[error("auth: invalid auth options: --auth-token={0}")]
    Options(String),
    /// A method that is none, or that this build does not have.
    #[error("auth: invalid auth options: sign-method {0:?} is not supported")]
    SignMethod(String),
    /// A length of time that is none.
    #[error("auth: invalid auth options: ttl {0:?} is not a duration")]
    Ttl(String),
    /// A key file that cannot be read.
    #[error("auth: invalid auth options: {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
}

/// Reads the flag, and the key files that it names.
///
/// # Errors
/// It cannot be used.
pub fn token_options(flag: &str, simple_ttl: Duration) -> Result<TokenOptions, BadAuthToken> {
    let malformed = || BadAuthToken::Options(flag.to_owned());
    let mut parts = flag.split(',');
    let kind = parts.next().unwrap_or_default();
    let mut options = BTreeMap::new();
    for part in parts {
        let (name, value) = part.split_once('=').ok_or_else(malformed)?;
        if value.contains('=') || options.insert(name, value).is_some() {
            return Err(malformed());
        }
    }
    match kind {
        "simple" => Ok(TokenOptions::Simple { ttl: simple_ttl }),
        "jwt" => jwt(&options).map(TokenOptions::Jwt),
        "" => Ok(TokenOptions::None),
        _ => Err(malformed()),
    }
}

fn jwt(options: &BTreeMap<&str, &str>) -> Result<JwtOptions, BadAuthToken> {
    const KNOWN: [&str; 4] = ["sign-method", "pub-key", "priv-key", "ttl"];
    let unknown: Vec<String> =
        options.keys().filter(|name| !KNOWN.contains(name)).map(|name| (*name).to_owned()).collect();
    if !unknown.is_empty() {
        log::warn!("unknown JWT options", "keys" => &unknown);
    }
    let given = |name: &str| options.get(name).copied().filter(|value| !value.is_empty());
    let ttl = match given("ttl") {
        None => DEFAULT_JWT_TTL,
        Some(text) => text
            .parse::<GoDuration>()
            .map(GoDuration::to_std)
            .map_err(|_| BadAuthToken::Ttl(text.to_owned()))?,
    };
    let read = |name: &str| {
        let file = |path: &str| {
            std::fs::read(path).map_err(|source| BadAuthToken::File { path: path.to_owned(), source })
        };
        given(name).map(file).transpose()
    };
    let (public_key, private_key) = (read("pub-key")?, read("priv-key")?);
    let name = given("sign-method").unwrap_or_default();
    let method = SignMethod::parse(name).ok_or_else(|| BadAuthToken::SignMethod(name.to_owned()))?;
    Ok(JwtOptions { method, public_key, private_key, ttl })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flag: &str) -> Result<TokenOptions, String> {
        token_options(flag, Duration::from_secs(7)).map_err(|error| error.to_string())
    }

    #[test]
    fn kinds_and_options() {
        assert!(matches!(read("simple"), Ok(TokenOptions::Simple { ttl }) if ttl.as_secs() == 7));
        assert!(matches!(read(""), Ok(TokenOptions::None)));
        let Ok(TokenOptions::Jwt(jwt)) = read("jwt,sign-method=ES256,ttl=1h,color=red") else { panic!() };
        assert_eq!((jwt.method, jwt.ttl.as_secs()), (SignMethod::ES256, 3600));
        for (flag, text) in [
            ("paper", "auth: invalid auth options: --auth-token=paper"),
            ("jwt,a", "auth: invalid auth options: --auth-token=jwt,a"),
            ("jwt,a=1,a=2", "auth: invalid auth options: --auth-token=jwt,a=1,a=2"),
            ("jwt", "auth: invalid auth options: sign-method \"\" is not supported"),
            ("jwt,sign-method=ES512", "auth: invalid auth options: sign-method \"ES512\" is not supported"),
            ("jwt,ttl=1", "auth: invalid auth options: ttl \"1\" is not a duration"),
        ] {
            assert_eq!(read(flag).unwrap_err(), text);
        }
        assert!(
            read("jwt,sign-method=RS256,pub-key=/does/not/exist").unwrap_err().contains("/does/not/exist: ")
        );
    }
}
