//! Signatures, by `ring`.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::SignatureVerificationAlgorithm;
use rustls::{DigitallySignedStruct, Error, SignatureScheme, client::danger::HandshakeSignatureValid};

use crate::certificate::Certificate;
use crate::suites::CipherSuites;

/// Everything cryptographic, with these suites only.
pub(crate) fn provider(suites: &CipherSuites) -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    provider.cipher_suites.retain(|suite| suites.allows(*suite));
    Arc::new(provider)
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    ring::default_provider().signature_verification_algorithms
}

/// Whether `issuer`'s key signed `child`; `None` if the algorithm is not known.
pub(crate) fn is_signed_by(child: &Certificate, issuer: &Certificate) -> Option<bool> {
    let fitting = |algorithm: &&&dyn SignatureVerificationAlgorithm| {
        *algorithm.signature_alg_id() == *child.signature_algorithm
            && *algorithm.public_key_alg_id() == *issuer.key_algorithm
    };
    let algorithm = algorithms().all.iter().find(fitting)?;
    Some(algorithm.verify_signature(&issuer.key, &child.signed, &child.signature).is_ok())
}

pub(crate) fn schemes() -> Vec<SignatureScheme> {
    algorithms().supported_schemes()
}

/// The signature of a handshake. In TLS 1.3 the scheme fixes the curve, in 1.2 it does not.
pub(crate) fn verify_handshake(
    message: &[u8],
    certificate: &[u8],
    signed: &DigitallySignedStruct,
    tls13: bool,
) -> Result<HandshakeSignatureValid, Error> {
    let bad = |error: rustls::CertificateError| Error::InvalidCertificate(error);
    let certificate =
        Certificate::parse(certificate).map_err(|_| bad(rustls::CertificateError::BadEncoding))?;
    let known = algorithms();
    let of_scheme = known.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme);
    let candidates = of_scheme.map_or(&[][..], |(_, candidates)| candidates);
    let candidates = if tls13 { &candidates[..candidates.len().min(1)] } else { candidates };
    let algorithm =
        candidates.iter().find(|algorithm| *algorithm.public_key_alg_id() == *certificate.key_algorithm);
    match algorithm.map(|algorithm| algorithm.verify_signature(&certificate.key, message, signed.signature()))
    {
        Some(Ok(())) => Ok(HandshakeSignatureValid::assertion()),
        _ => Err(bad(rustls::CertificateError::BadSignature)),
    }
}
