//! As much of DER as keys need: the fields of a sequence, one after the other.

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;
/// Version of a certificate: context-specific, constructed, number 0.
const EXPLICIT_0: u8 = 0xa0;

/// One field and what stands behind it.
struct Field<'a> {
    tag: u8,
    content: &'a [u8],
    whole: &'a [u8],
    rest: &'a [u8],
}

fn field(input: &[u8]) -> Option<Field<'_>> {
    let (&tag, behind_tag) = input.split_first()?;
    let (&first, mut rest) = behind_tag.split_first()?;
    let mut length = usize::from(first);
    if first >= 0x80 {
        let count = usize::from(first & 0x7f);
        if count == 0 || count > 4 {
            return None;
        }
        let (bytes, behind) = rest.split_at_checked(count)?;
        length = bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        rest = behind;
    }
    let (content, rest) = rest.split_at_checked(length)?;
    Some(Field { tag, content, whole: &input[..input.len() - rest.len()], rest })
}

/// The key in a SubjectPublicKeyInfo: the content of its bit string.
pub(super) fn public_key(spki: &[u8]) -> Option<&[u8]> {
    let outer = field(spki).filter(|field| field.tag == SEQUENCE)?;
    let algorithm = field(outer.content)?;
    let key = field(algorithm.rest).filter(|field| field.tag == BIT_STRING)?;
    // The first byte counts unused bits.
    key.content.split_first().filter(|(unused, _)| **unused == 0).map(|(_, key)| key)
}

/// The SubjectPublicKeyInfo of an X.509 certificate.
pub(super) fn key_of_certificate(certificate: &[u8]) -> Option<&[u8]> {
    let outer = field(certificate).filter(|field| field.tag == SEQUENCE)?;
    let to_be_signed = field(outer.content).filter(|field| field.tag == SEQUENCE)?;
    let mut next = field(to_be_signed.content)?;
    if next.tag == EXPLICIT_0 {
        next = field(next.rest)?;
    }
    // Behind the serial number: signature algorithm, issuer, validity, subject.
    for _ in 0..5 {
        next = field(next.rest)?;
    }
    Some(next.whole)
}

/// Wraps an EC private key in the older form (SEC 1) as PKCS #8.
pub(super) fn sec1_to_pkcs8(curve_oid: &[u8], key: &[u8]) -> Vec<u8> {
    const EC_PUBLIC_KEY: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    const VERSION_0: &[u8] = &[0x02, 0x01, 0x00];
    let algorithm = wrap(SEQUENCE, &[EC_PUBLIC_KEY, curve_oid].concat());
    wrap(SEQUENCE, &[VERSION_0, &algorithm, &wrap(0x04, key)].concat())
}

fn wrap(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        length @ 0..0x80 => out.push(length as u8),
        length => {
            let bytes = (length as u32).to_be_bytes();
            let skipped = bytes.iter().take_while(|byte| **byte == 0).count();
            out.push(0x80 | (bytes.len() - skipped) as u8);
            out.extend_from_slice(&bytes[skipped..]);
        }
    }
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn junk_is_no_key() {
        for junk in
            [&b""[..], b"\x30", b"\x30\x05\x01", b"\x30\x84\xff\xff\xff\xff", b"\x30\x80", b"\x31\x00"]
        {
            assert_eq!(public_key(junk), None, "{junk:02x?}");
            assert_eq!(key_of_certificate(junk), None, "{junk:02x?}");
        }
    }

    #[test]
    fn long_lengths() {
        let wrapped = wrap(0x04, &[7; 300]);
        assert_eq!(wrapped[..4], [0x04, 0x82, 0x01, 0x2c]);
        assert_eq!(field(&wrapped).unwrap().content, [7; 300]);
    }
}
