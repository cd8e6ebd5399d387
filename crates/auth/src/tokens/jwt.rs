//! JSON Web Tokens, signed and verified by `ring`.
//!
//! Claims: `username` (text), `revision` (number: the auth revision) and `exp` (Unix seconds). A
//! member with a public key alone verifies and never signs.
//!
//! Not offered: ES512 and RSA keys below 2048 bits, which `ring` does not do.
//!
//! **Source**: etcd `server/auth/{jwt,options}.go`.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaEncoding, RsaKeyPair,
    UnparsedPublicKey, VerificationAlgorithm,
};
use serde_json::{Value, json};
use thiserror::Error;

use super::der;
use crate::check::Identity;
use crate::error::AuthError;

/// How tokens are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of RFC 7518")]
pub enum SignMethod {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

/// What tokens are made with.
#[derive(Clone)]
pub struct JwtOptions {
    /// How.
    pub method: SignMethod,
    /// Content of the public key's file.
    pub public_key: Option<Vec<u8>>,
    /// Content of the private key's file; the key itself for HS methods.
    pub private_key: Option<Vec<u8>>,
    /// How long a token lives.
    pub ttl: Duration,
}

impl std::fmt::Debug for JwtOptions {
    /// Without the keys.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("JwtOptions")
            .field("method", &self.method)
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

/// Keys that cannot be used.
#[derive(Debug, Error)]
pub enum KeyError {
    /// None given.
    #[error("auth: missing key data")]
    Missing,
    /// The two do not belong together.
    #[error("auth: public and private keys don't match")]
    Mismatch,
    /// A file that holds no PEM.
    #[error("{which}: not a PEM file: {reason}")]
    Pem {
        /// Which key.
        which: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A key of another kind.
    #[error("{which}: not a key for {method}: {reason}")]
    Unusable {
        /// Which key.
        which: &'static str,
        /// For what.
        method: &'static str,
        /// What is wrong.
        reason: String,
    },
}

const PRIVATE: &str = "private key";
const PUBLIC: &str = "public key";

enum Signer {
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

enum Keys {
    Hmac(hmac::Key),
    Pair { signer: Option<Signer>, verifier: UnparsedPublicKey<Vec<u8>> },
}

/// Signs and verifies tokens.
pub struct Jwt {
    method: SignMethod,
    keys: Keys,
    ttl: Duration,
    random: SystemRandom,
}

impl SignMethod {
    const ALL: [Self; 12] = [
        Self::HS256,
        Self::HS384,
        Self::HS512,
        Self::RS256,
        Self::RS384,
        Self::RS512,
        Self::PS256,
        Self::PS384,
        Self::PS512,
        Self::ES256,
        Self::ES384,
        Self::EdDSA,
    ];

    /// The method of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.name() == name)
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HS256 => "HS256",
            Self::HS384 => "HS384",
            Self::HS512 => "HS512",
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::EdDSA => "EdDSA",
        }
    }

    const fn hmac(self) -> Option<hmac::Algorithm> {
        match self {
            Self::HS256 => Some(hmac::HMAC_SHA256),
            Self::HS384 => Some(hmac::HMAC_SHA384),
            Self::HS512 => Some(hmac::HMAC_SHA512),
            _ => None,
        }
    }

    fn rsa(self) -> Option<&'static dyn RsaEncoding> {
        match self {
            Self::RS256 => Some(&signature::RSA_PKCS1_SHA256),
            Self::RS384 => Some(&signature::RSA_PKCS1_SHA384),
            Self::RS512 => Some(&signature::RSA_PKCS1_SHA512),
            Self::PS256 => Some(&signature::RSA_PSS_SHA256),
            Self::PS384 => Some(&signature::RSA_PSS_SHA384),
            Self::PS512 => Some(&signature::RSA_PSS_SHA512),
            _ => None,
        }
    }

    /// The curve's signing algorithm and its object identifier.
    fn ecdsa(self) -> Option<(&'static EcdsaSigningAlgorithm, &'static [u8])> {
        const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
        const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
        match self {
            Self::ES256 => Some((&signature::ECDSA_P256_SHA256_FIXED_SIGNING, P256)),
            Self::ES384 => Some((&signature::ECDSA_P384_SHA384_FIXED_SIGNING, P384)),
            _ => None,
        }
    }

    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::RS256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Self::RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Self::RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Self::PS256 => &signature::RSA_PSS_2048_8192_SHA256,
            Self::PS384 => &signature::RSA_PSS_2048_8192_SHA384,
            Self::PS512 => &signature::RSA_PSS_2048_8192_SHA512,
            Self::ES256 => &signature::ECDSA_P256_SHA256_FIXED,
            Self::ES384 => &signature::ECDSA_P384_SHA384_FIXED,
            Self::EdDSA | Self::HS256 | Self::HS384 | Self::HS512 => &signature::ED25519,
        }
    }
}

impl Jwt {
    /// Reads the keys.
    ///
    /// # Errors
    /// They cannot be used.
    pub fn new(options: &JwtOptions) -> Result<Self, KeyError> {
        let method = options.method;
        let given = |key: &Option<Vec<u8>>| key.clone().filter(|key| !key.is_empty());
        let (private, public) = (given(&options.private_key), given(&options.public_key));
        let keys = match method.hmac() {
            Some(algorithm) => Keys::Hmac(hmac::Key::new(algorithm, &private.ok_or(KeyError::Missing)?)),
            None => {
                let signer = private.map(|pem| read_private(method, &pem)).transpose()?;
                let public = public.map(|pem| read_public(method, &pem)).transpose()?;
                let own = signer.as_ref().map(Signer::public_key);
                if let (Some(own), Some(public)) = (&own, &public)
                    && own != public
                {
                    return Err(KeyError::Mismatch);
                }
                let key = own.or(public).ok_or(KeyError::Missing)?;
                Keys::Pair { signer, verifier: UnparsedPublicKey::new(method.verification(), key) }
            }
        };
        Ok(Self { method, keys, ttl: options.ttl, random: SystemRandom::new() })
    }

    /// A token for a user.
    pub(super) fn sign(&self, who: &Identity, unix: Duration) -> Result<String, AuthError> {
        let header = json!({ "alg": self.method.name(), "typ": "JWT" });
        let expires = unix.saturating_add(self.ttl).as_secs();
        let claims = json!({ "exp": expires, "revision": who.revision, "username": who.username });
        let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature = self.signature(signed.as_bytes())?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    fn signature(&self, message: &[u8]) -> Result<Vec<u8>, AuthError> {
        // A key that was read signs, unless the system has no random numbers.
        let failed = |_| AuthError::AuthFailed;
        match &self.keys {
            Keys::Hmac(key) => Ok(hmac::sign(key, message).as_ref().to_vec()),
            Keys::Pair { signer: None, .. } => Err(AuthError::VerifyOnly),
            Keys::Pair { signer: Some(Signer::Rsa(pair, encoding)), .. } => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(*encoding, &self.random, message, &mut signature).map_err(failed)?;
                Ok(signature)
            }
            Keys::Pair { signer: Some(Signer::Ecdsa(pair)), .. } => {
                Ok(pair.sign(&self.random, message).map_err(failed)?.as_ref().to_vec())
            }
            Keys::Pair { signer: Some(Signer::Ed25519(pair)), .. } => {
                Ok(pair.sign(message).as_ref().to_vec())
            }
        }
    }

    /// Whom a token stands for, if it is good now.
    pub(super) fn verify(&self, token: &str, unix: Duration) -> Option<Identity> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        // The method is the configured one, whatever the token says.
        if header.get("alg")?.as_str()? != self.method.name() {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        match &self.keys {
            Keys::Hmac(key) => hmac::verify(key, signed.as_bytes(), &signature).ok()?,
            Keys::Pair { verifier, .. } => verifier.verify(signed.as_bytes(), &signature).ok()?,
        }
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        let now = unix.as_secs() as f64;
        if time(&claims, "exp")?.is_some_and(|expires| now >= expires)
            || time(&claims, "nbf")?.is_some_and(|begins| now < begins)
        {
            return None;
        }
        let username = claims.get("username")?.as_str()?.to_owned();
        // A number beyond what the conversion holds becomes its bound.
        let revision = claims.get("revision")?.as_f64()? as u64;
        Some(Identity { username, revision })
    }
}

/// A point in time among the claims: `Some(None)` if there is none (0 counts as none), `None` if it
/// is no number.
fn time(claims: &Value, name: &str) -> Option<Option<f64>> {
    let Some(value) = claims.get(name) else { return Some(None) };
    Some(Some(value.as_f64()?.trunc()).filter(|seconds| *seconds != 0.0))
}

impl Signer {
    fn public_key(&self) -> Vec<u8> {
        match self {
            Self::Rsa(pair, _) => pair.public().as_ref().to_vec(),
            Self::Ecdsa(pair) => pair.public_key().as_ref().to_vec(),
            Self::Ed25519(pair) => pair.public_key().as_ref().to_vec(),
        }
    }
}

fn read_pem(which: &'static str, file: &[u8]) -> Result<pem::Pem, KeyError> {
    let blocks = pem::parse_many(file).map_err(|error| KeyError::Pem { which, reason: error.to_string() })?;
    // OpenSSL writes the parameters of a curve before its key.
    let mut keys = blocks.into_iter().filter(|block| block.tag() != "EC PARAMETERS");
    keys.next().ok_or_else(|| KeyError::Pem { which, reason: "it holds no block".to_owned() })
}

fn read_private(method: SignMethod, file: &[u8]) -> Result<Signer, KeyError> {
    let block = read_pem(PRIVATE, file)?;
    let refuse = |reason: String| KeyError::Unusable { which: PRIVATE, method: method.name(), reason };
    let rejected = |reason: ring::error::KeyRejected| refuse(reason.to_string());
    let (tag, key) = (block.tag(), block.contents());
    if let Some(encoding) = method.rsa() {
        let pair = match tag {
            "RSA PRIVATE KEY" => RsaKeyPair::from_der(key),
            "PRIVATE KEY" => RsaKeyPair::from_pkcs8(key),
            _ => return Err(refuse(format!("it is a {tag}"))),
        };
        return Ok(Signer::Rsa(pair.map_err(rejected)?, encoding));
    }
    if let Some((algorithm, curve)) = method.ecdsa() {
        let wrapped;
        let key = match tag {
            "EC PRIVATE KEY" => {
                wrapped = der::sec1_to_pkcs8(curve, key);
                &wrapped
            }
            "PRIVATE KEY" => key,
            _ => return Err(refuse(format!("it is a {tag}"))),
        };
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, key, &SystemRandom::new());
        return Ok(Signer::Ecdsa(pair.map_err(rejected)?));
    }
    match tag {
        "PRIVATE KEY" => {
            Ok(Signer::Ed25519(Ed25519KeyPair::from_pkcs8_maybe_unchecked(key).map_err(rejected)?))
        }
        _ => Err(refuse(format!("it is a {tag}"))),
    }
}

/// The public key as `ring` takes it.
fn read_public(method: SignMethod, file: &[u8]) -> Result<Vec<u8>, KeyError> {
    let block = read_pem(PUBLIC, file)?;
    let refuse = |reason: String| KeyError::Unusable { which: PUBLIC, method: method.name(), reason };
    let malformed = || refuse("it is malformed".to_owned());
    let key = match block.tag() {
        "PUBLIC KEY" => der::public_key(block.contents()).ok_or_else(malformed)?,
        "CERTIFICATE" => {
            der::key_of_certificate(block.contents()).and_then(der::public_key).ok_or_else(malformed)?
        }
        "RSA PUBLIC KEY" if method.rsa().is_some() => block.contents(),
        tag => return Err(refuse(format!("it is a {tag}"))),
    };
    // Lengths tell the kinds apart: a point of the curve, 32 bytes, a sequence of two numbers.
    let fits = match method {
        SignMethod::ES256 => key.len() == 65,
        SignMethod::ES384 => key.len() == 97,
        SignMethod::EdDSA => key.len() == 32,
        _ => key.first() == Some(&0x30),
    };
    if fits { Ok(key.to_vec()) } else { Err(refuse("it is a key of another kind".to_owned())) }
}
