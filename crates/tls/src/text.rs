//! Go's words for what goes wrong in a handshake.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

/// The reason of a failed read or handshake: Go's words where it has some.
pub fn explain(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => tls(error),
        None if error.kind() == io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
        None => reason(error),
    }
}

/// An error of the operating system in lower case, as the resolver's words are not.
pub(crate) fn reason(error: &io::Error) -> String {
    types::os_reason(error).to_lowercase()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn tls(error: &Error) -> String {
    match error {
        Error::AlertReceived(alert) => format!("remote error: tls: {}", alert_text(*alert)),
        Error::NoCertificatesPresented => "tls: client didn't provide a certificate".to_owned(),
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        ) => "tls: first record does not look like a TLS handshake".to_owned(),
        Error::PeerIncompatible(reason) => match reason {
            PeerIncompatible::NoCipherSuitesInCommon => {
                "tls: no cipher suite supported by both client and server".to_owned()
            }
            PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::Tls13RequiredForQuic => {
                "tls: client offered only unsupported versions".to_owned()
            }
            PeerIncompatible::NoSignatureSchemesInCommon
            | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon => {
                "tls: peer doesn't support any of the certificate's signature algorithms".to_owned()
            }
            reason => format!("tls: {reason:?}"),
        },
        Error::NoApplicationProtocol => "tls: client requested unsupported application protocols".to_owned(),
        Error::InvalidCertificate(CertificateError::BadSignature) => {
            "tls: invalid signature by the certificate's key".to_owned()
        }
        Error::InvalidCertificate(CertificateError::Other(other)) => other.to_string(),
        Error::General(text) => text.clone(),
        error => format!("tls: {error}"),
    }
}

fn alert_text(alert: AlertDescription) -> String {
    use AlertDescription::*;
    let text = match alert {
        CloseNotify => "close notify",
        UnexpectedMessage => "unexpected message",
        BadRecordMac => "bad record MAC",
        DecryptionFailed => "decryption failed",
        RecordOverflow => "record overflow",
        DecompressionFailure => "decompression failure",
        HandshakeFailure => "handshake failure",
        BadCertificate => "bad certificate",
        UnsupportedCertificate => "unsupported certificate",
        CertificateRevoked => "revoked certificate",
        CertificateExpired => "expired certificate",
        CertificateUnknown => "unknown certificate",
        IllegalParameter => "illegal parameter",
        UnknownCA => "unknown certificate authority",
        AccessDenied => "access denied",
        DecodeError => "error decoding message",
        DecryptError => "error decrypting message",
        ExportRestriction => "export restriction",
        ProtocolVersion => "protocol version not supported",
        InsufficientSecurity => "insufficient security level",
        InternalError => "internal error",
        InappropriateFallback => "inappropriate fallback",
        UserCanceled => "user canceled",
        NoRenegotiation => "no renegotiation",
        MissingExtension => "missing extension",
        UnsupportedExtension => "unsupported extension",
        CertificateUnobtainable => "certificate unobtainable",
        UnrecognisedName => "unrecognized name",
        BadCertificateStatusResponse => "bad certificate status response",
        BadCertificateHashValue => "bad certificate hash value",
        UnknownPSKIdentity => "unknown PSK identity",
        CertificateRequired => "certificate required",
        NoApplicationProtocol => "no application protocol",
        other => return format!("alert({})", u8::from(other)),
    };
    text.to_owned()
}
