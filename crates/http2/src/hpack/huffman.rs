//! The Huffman code of header strings: decoding only, since what we send is short or indexed.
//!
//! The code is canonical: codes of one length follow each other in the order of their symbols. So
//! the lengths say everything, and the tables are computed from them at compile time. Codes of up to
//! eight bits, which is all text is made of, are found with one look-up.
//!
//! **Source**: RFC 7541, section 5.2 and appendix B.

/// Code lengths in bits, by symbol; the last one is the end of the string, which is never sent.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];
const END_OF_STRING: u16 = 256;
const LONGEST: usize = 30;
/// Codes up to this length are looked up.
const SHORT: u32 = 8;

struct Tables {
    /// Symbols in the order of their codes.
    symbols: [u16; 257],
    /// By length: the code behind the last one of that length, moved to the top of 32 bits.
    limit: [u64; LONGEST + 1],
    /// By length: the first code, and the place of its symbol.
    first: [(u32, u16); LONGEST + 1],
    /// By the next eight bits: symbol and length; length 0 for the beginning of a longer code.
    short: [(u8, u8); 1 << SHORT],
}

const fn tables() -> Tables {
    let mut tables = Tables {
        symbols: [0; 257],
        limit: [0; LONGEST + 1],
        first: [(0, 0); LONGEST + 1],
        short: [(0, 0); 1 << SHORT],
    };
    let (mut code, mut place, mut length) = (0_u32, 0, 1);
    while length <= LONGEST {
        code <<= 1;
        tables.first[length] = (code, place);
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                tables.symbols[place as usize] = symbol as u16;
                if length <= SHORT as usize {
                    let spare = SHORT - length as u32;
                    let mut entry = code << spare;
                    while entry < (code + 1) << spare {
                        tables.short[entry as usize] = (symbol as u8, length as u8);
                        entry += 1;
                    }
                }
                code += 1;
                place += 1;
            }
            symbol += 1;
        }
        tables.limit[length] = (code as u64) << (32 - length);
        length += 1;
    }
    // Every bit string begins with exactly one code.
    assert!(tables.limit[LONGEST] == 1 << 32 && place == 257);
    tables
}

static TABLES: Tables = tables();

/// Appends what `encoded` says. False if it is no proper code.
pub(super) fn decode(encoded: &[u8], out: &mut Vec<u8>) -> bool {
    out.reserve(encoded.len() * 8 / 5 + 1);
    // The lowest `count` bits of `bits` are still to be read.
    let (mut bits, mut count) = (0_u64, 0_u32);
    let mut input = encoded.iter();
    loop {
        while count <= 56 {
            let Some(&byte) = input.next() else { break };
            bits = bits << 8 | u64::from(byte);
            count += 8;
        }
        if count == 0 {
            return true;
        }
        // The next 32 bits, filled up with ones at the end: that is what the padding has to be.
        let next = match count {
            32.. => (bits >> (count - 32)) as u32,
            _ => (bits << (32 - count)) as u32 | (u32::MAX >> count),
        };
        let (symbol, length) = match TABLES.short[(next >> (32 - SHORT)) as usize] {
            (_, 0) => {
                let length = (SHORT as usize + 1..LONGEST)
                    .find(|&length| u64::from(next) < TABLES.limit[length])
                    .unwrap_or(LONGEST);
                let (first, place) = TABLES.first[length];
                let place = usize::from(place) + ((next >> (32 - length)) - first) as usize;
                (TABLES.symbols[place], length as u32)
            }
            (symbol, length) => (u16::from(symbol), u32::from(length)),
        };
        if length > count {
            // Nothing but padding is left: less than a byte of ones.
            return count < 8 && next == u32::MAX;
        }
        if symbol == END_OF_STRING {
            return false;
        }
        out.push(symbol as u8);
        count -= length;
        bits &= (1 << count) - 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(encoded: &[u8], expected: Option<&[u8]>) {
        let mut out = Vec::new();
        let good = decode(encoded, &mut out);
        assert_eq!(good.then_some(&out[..]), expected, "{encoded:02x?}");
    }

    #[test]
    fn examples_of_the_rfc() {
        let www = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        check(&www, Some(b"www.example.com"));
        check(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], Some(b"no-cache"));
        check(&[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f], Some(b"custom-key"));
        check(&[0x64, 0x02], Some(b"302"));
        check(&[], Some(b""));
    }

    #[test]
    fn every_symbol_and_no_bad_end() {
        for symbol in 0..=255_u8 {
            // Packs the symbol's code, found by counting through the lengths once more.
            let length = usize::from(LENGTHS[usize::from(symbol)]);
            let before = (0..symbol).filter(|&other| usize::from(LENGTHS[usize::from(other)]) == length);
            let code = u64::from(TABLES.first[length].0) + before.count() as u64;
            let bytes = ((code << (40 - length)) | ((1 << (40 - length)) - 1)).to_be_bytes();
            let whole = &bytes[3..3 + length.div_ceil(8)];
            check(whole, Some(&[symbol]));
        }
        check(&[0xff], None); // eight bits of padding
        check(&[0x1e], None); // padding of zeros behind `a`
        check(&[0xff, 0xff, 0xff, 0xff], None); // the end of the string, spelled out
    }
}
