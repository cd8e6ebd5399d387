//! Signed tokens with keys made by OpenSSL 3 (`tests/keys`), in every form that Go reads.

use std::time::Duration;

use auth::tokens::{Jwt, JwtOptions, SignMethod};
use auth::{AuthError, Identity, Tokens};

const NOW: Duration = Duration::from_secs(1_800_000_000);
const SECOND: Duration = Duration::from_secs(1);

macro_rules! key {
    ($name:literal) => {
        Some(&include_bytes!(concat!("keys/", $name, ".pem"))[..])
    };
}

fn tokens(method: &str, public: Option<&[u8]>, private: Option<&[u8]>) -> Result<Tokens, String> {
    let options = JwtOptions {
        method: SignMethod::parse(method).unwrap(),
        public_key: public.map(<[u8]>::to_vec),
        private_key: private.map(<[u8]>::to_vec),
        ttl: 10 * SECOND,
    };
    Jwt::new(&options).map(|jwt| Tokens::Jwt(Box::new(jwt))).map_err(|error| error.to_string())
}

fn alice() -> Identity {
    Identity { username: "alice".to_owned(), revision: 7 }
}

fn sign(tokens: &Tokens) -> Result<String, AuthError> {
    tokens.sign(String::new(), &alice(), NOW)
}

fn identify(tokens: &Tokens, token: &str, unix: Duration) -> Option<Identity> {
    tokens.identify(token, 1, Duration::ZERO, unix).ok()
}

#[test]
fn every_method_signs_and_verifies() {
    let pairs = [
        ("RS256", key!("rsa.pub"), key!("rsa")),
        ("RS384", key!("rsa1.pub"), key!("rsa8")),
        ("RS512", key!("rsa.crt"), key!("rsa")),
        ("PS256", key!("rsa.pub"), key!("rsa")),
        ("PS384", key!("rsa.pub"), key!("rsa")),
        ("PS512", key!("rsa.pub"), key!("rsa")),
        ("ES256", key!("ec256.pub"), key!("ec256")),
        ("ES256", key!("ec256.pub"), key!("ec2568")),
        ("ES384", key!("ec384.pub"), key!("ec384")),
        ("ES384", key!("ec384.pub"), key!("ec3848")),
        ("EdDSA", key!("ed.pub"), key!("ed")),
    ];
    for (method, public, private) in pairs {
        let signer = tokens(method, None, private).unwrap();
        let both = tokens(method, public, private).unwrap();
        let verifier = tokens(method, public, None).unwrap();
        let token = sign(&signer).unwrap();
        for judge in [&signer, &both, &verifier] {
            assert_eq!(identify(judge, &token, NOW), Some(alice()), "{method}");
            assert_eq!(identify(judge, &token, NOW + 9 * SECOND), Some(alice()), "{method}");
            assert_eq!(identify(judge, &token, NOW + 10 * SECOND), None, "{method}: over");
            let (signed, _) = token.rsplit_once('.').unwrap();
            for forged in
                [format!("{signed}."), signed.to_owned(), token.replacen("ey", "ex", 1), format!("{token}A")]
            {
                assert_eq!(identify(judge, &forged, NOW), None, "{method}: {forged}");
            }
        }
        assert_eq!(sign(&verifier), Err(AuthError::VerifyOnly));
    }
    for method in ["HS256", "HS384", "HS512"] {
        let shared = tokens(method, None, Some(b"secret")).unwrap();
        let token = sign(&shared).unwrap();
        assert_eq!(identify(&shared, &token, NOW), Some(alice()));
        assert_eq!(identify(&tokens(method, None, Some(b"other")).unwrap(), &token, NOW), None);
    }
}

/// A public key is no secret: a token that is signed with it as an HMAC key, and says so, must not
/// pass where the method is another.
#[test]
fn the_token_does_not_choose_the_method() {
    let judge = tokens("RS256", key!("rsa.pub"), None).unwrap();
    let forger = tokens("HS256", None, key!("rsa.pub")).unwrap();
    assert_eq!(identify(&judge, &sign(&forger).unwrap(), NOW), None);
    let other = tokens("RS384", None, key!("rsa")).unwrap();
    assert_eq!(identify(&judge, &sign(&other).unwrap(), NOW), None);
    let none = "eyJhbGciOiJub25lIn0.eyJ1c2VybmFtZSI6InJvb3QiLCJyZXZpc2lvbiI6MX0.";
    assert_eq!(identify(&judge, none, NOW), None);
}

#[test]
fn keys_that_do_not_fit_are_refused() {
    let text = |method, public, private| tokens(method, public, private).map(drop).unwrap_err();
    assert_eq!(text("RS256", None, None), "auth: missing key data");
    assert_eq!(text("HS256", key!("rsa.pub"), None), "auth: missing key data");
    assert_eq!(text("EdDSA", key!("other.pub"), key!("ed")), "auth: public and private keys don't match");
    assert!(text("RS256", key!("ec256.pub"), None).starts_with("public key: not a key for RS256: "));
    assert!(text("ES256", None, key!("rsa")).starts_with("private key: not a key for ES256: "));
    assert!(text("ES256", None, key!("ec384")).starts_with("private key: not a key for ES256: "));
    assert!(text("ES384", key!("ec256.pub"), None).starts_with("public key: not a key for ES384: "));
    assert!(text("RS256", Some(b"junk"), None).starts_with("public key: not a PEM file: "));
}
