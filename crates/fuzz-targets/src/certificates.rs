//! Certificates that the other side of a handshake shows.
//!
//! ```text
//! edits:u8 (mod 8), that many of: which:u8 place:u16 byte:u8     bytes of the true chain exchanged
//! rest: string...                                             certificates shown besides
//! kind:u8 (in `edits`, upper half) 0 the true chain first, 1 the others only
//! ```
//!
//! Promises: no panic; whoever is believed shows the true leaf as it was signed: no exchange of bytes and
//! no company makes another one believable.

use tls::verify::check_server;

use crate::Seed;
use crate::input::{Input, Output};

const ROOT: &[u8] = include_bytes!("../tests/fixtures/certificates/root.der");
const MIDDLE: &[u8] = include_bytes!("../tests/fixtures/certificates/mid.der");
const LEAF: &[u8] = include_bytes!("../tests/fixtures/certificates/leaf.der");
const HOST: &str = "member.example.org";
/// A moment in the life of all three: 2030.
const NOW: i64 = 1_893_456_000;
/// Certificates shown besides.
const MOST_SHOWN: usize = 16;

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let choice = input.u8();
    let mut chain = [LEAF.to_vec(), MIDDLE.to_vec()];
    for _ in 0..choice & 7 {
        let (which, place, byte) = (input.u8(), input.u16(), input.u8());
        let certificate = &mut chain[usize::from(which & 1)];
        let place = usize::from(place) % certificate.len();
        certificate[place] = byte;
    }
    let mut shown: Vec<&[u8]> = Vec::new();
    if choice < 128 {
        shown.extend(chain.iter().map(Vec::as_slice));
    }
    while !input.is_empty() && shown.len() < MOST_SHOWN {
        shown.push(input.string());
    }
    let verdict = check_server(&shown, &[ROOT], HOST, NOW);
    let believed = verdict.is_ok();
    if believed {
        assert_eq!(signed_part(shown[0]), signed_part(LEAF), "a forged certificate is believed");
    }
    if choice == 0 && shown.len() == chain.len() {
        assert!(believed, "the true chain is not believed: {verdict:?}");
    }
}

/// What the signature stands for: all between the outer header, of four bytes at this size, and the
/// algorithm and signature, which may be written in more than one way.
fn signed_part(certificate: &[u8]) -> &[u8] {
    let header = 4;
    let length = u16::from_be_bytes([certificate[header + 2], certificate[header + 3]]);
    &certificate[header..header + 4 + usize::from(length)]
}

/// The true chain, with and without company.
pub fn seeds() -> Vec<Seed> {
    vec![
        ("chain", Output::default().u8(0).0),
        ("edited", Output::default().u8(1).u8(0).u16(300).u8(7).0),
        ("with its root", Output::default().u8(0).string(ROOT).0),
        ("others only", {
            let shown = Output::default().u8(128).string(LEAF);
            shown.string(MIDDLE).string(ROOT).0
        }),
    ]
}
