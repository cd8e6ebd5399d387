//! Just enough DER to cut the signed part, the algorithms and the key out of a certificate.

/// Splits the first element off: tag, the whole element, its content, what follows.
pub(crate) fn element(bytes: &[u8]) -> Option<Element<'_>> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (len, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (len.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(len)?;
    Some(Element { tag, whole: &bytes[..bytes.len() - rest.len()], content, rest })
}

/// A cut out element.
pub(crate) struct Element<'b> {
    pub(crate) tag: u8,
    pub(crate) whole: &'b [u8],
    pub(crate) content: &'b [u8],
    pub(crate) rest: &'b [u8],
}

pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const BIT_STRING: u8 = 0x03;

/// An element that must have this tag.
pub(crate) fn expect(bytes: &[u8], tag: u8) -> Option<Element<'_>> {
    element(bytes).filter(|element| element.tag == tag)
}

/// The bytes of a bit string that ends with a whole byte.
pub(crate) fn bits(bytes: &[u8]) -> Option<&[u8]> {
    match expect(bytes, BIT_STRING)?.content.split_first()? {
        (0, bits) => Some(bits),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_come_apart() {
        let found = element(&[0x30, 0x03, 1, 2, 3, 9]).unwrap();
        assert_eq!(
            (found.tag, found.whole.len(), found.content, found.rest),
            (0x30, 5, &[1, 2, 3][..], &[9][..])
        );
        let mut long = vec![0x04, 0x82, 0x01, 0x00];
        long.extend([7; 256]);
        assert_eq!(element(&long).unwrap().content.len(), 256);
        assert_eq!(bits(&[3, 2, 0, 5]), Some(&[5][..]));
        for junk in [
            &[][..],
            &[0x30],
            &[0x30, 5, 1],
            &[0x30, 0x80],
            &[0x30, 0x85, 0, 0, 0, 0, 0],
            &[0x30, 0x84, 255, 255, 255, 255],
        ] {
            assert!(element(junk).is_none(), "{junk:?}");
        }
    }
}
