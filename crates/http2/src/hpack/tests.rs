//! Blocks as bytes: the examples of RFC 7541, what is refused, and both ends against each other.

use std::rc::Rc;

use proptest::prelude::*;

use super::*;
use crate::head::Head;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap() as u8;
    digits.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

fn text(head: &Head) -> String {
    let show = |field: &Rc<Field>| {
        format!("{}={}", String::from_utf8_lossy(field.name()), String::from_utf8_lossy(field.value()))
    };
    head.all().map(show).collect::<Vec<_>>().join(" ")
}

fn check(decoder: &mut Decoder, block: &str, expected: &str) {
    assert_eq!(text(&decoder.decode(&bytes(block)).unwrap().head), expected);
}

const EXPECTED: [&str; 3] = [
    ":method=GET :scheme=http :authority=www.example.com :path=/",
    ":method=GET :scheme=http :authority=www.example.com :path=/ cache-control=no-cache",
    ":method=GET :scheme=https :authority=www.example.com :path=/index.html custom-key=custom-value",
];

#[test]
fn requests_of_the_rfc() {
    // C.3 and C.4: the same requests without and with Huffman coding.
    let plain = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    let coded = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    for blocks in [plain, coded] {
        let mut decoder = Decoder::new(4096);
        for (block, expected) in blocks.into_iter().zip(EXPECTED) {
            check(&mut decoder, block, expected);
        }
    }
}

#[test]
fn entries_leave_a_small_table() {
    // C.5.1 to C.5.3, after an update to 256 bytes; the third block needs what the first two left.
    let mut decoder = Decoder::new(4096);
    let first = "3fe1 01 4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 \
        2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d";
    let rest = "cache-control=private date=Mon, 21 Oct 2013 20:13:21 GMT location=https://www.example.com";
    check(&mut decoder, first, &format!(":status=302 {rest}"));
    check(&mut decoder, "4803 3330 37c1 c0bf", &format!(":status=307 {rest}"));
    // `:status 302` is the entry that had to go.
    assert!(decoder.decode(&bytes("c2")).is_err());
}

#[test]
fn what_is_refused() {
    for block in ["80", "c0", "ff ff ff ff ff 7f", "82 3f e1 1f", "3f e2 1f", "40", "00 05 61", "00 81 fe 00"]
    {
        assert!(Decoder::new(4096).decode(&bytes(block)).is_err(), "{block}");
    }
}

/// A one-byte index can name 4 KiB: the list is counted and not kept.
#[test]
fn a_bomb_stays_small() {
    let mut decoder = Decoder::new(16 << 10);
    let mut block = bytes("40 01 61 7f a1 1e");
    block.extend(vec![b'v'; 4000]);
    let added = decoder.decode(&block).unwrap();
    assert!(!added.too_large);
    let bomb = decoder.decode(&vec![0xbe; 100_000]).unwrap();
    assert!(bomb.too_large);
    assert_eq!(bomb.head.fields().count(), 4);
}

#[test]
fn blocks_that_come_again_are_remembered_until_the_table_changes() {
    let mut decoder = Decoder::new(4096);
    let first = bytes("8386 84 40 01 61 01 62");
    decoder.decode(&first).unwrap();
    let again = bytes("8386 84 be");
    let one = decoder.decode(&again).unwrap().head;
    assert!(Rc::ptr_eq(&one, &decoder.decode(&again).unwrap().head));
    // Another entry: the same bytes now mean something else.
    decoder.decode(&bytes("40 01 63 01 64")).unwrap();
    check(&mut decoder, "8386 84 be", ":method=POST :scheme=http :path=/ c=d");
    check(&mut decoder, "8386 84 bf", ":method=POST :scheme=http :path=/ a=b");
    // A smaller table, emptied: it names nothing.
    assert!(decoder.decode(&bytes("20 8386 84 be")).is_err());
}

fn head() -> impl Strategy<Value = Head> {
    let name = "[a-z][a-z-]{0,12}";
    let value = "[ -~]{0,60}";
    prop::collection::vec((name, value, any::<bool>()), 0..8).prop_map(|fields| {
        fields.into_iter().fold(
            Head::request("POST", "http", "me", "/a.B/C"),
            |head, (name, value, indexed)| {
                head.with(if indexed { Field::new(name, value) } else { Field::literal(name, value) })
            },
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    /// Whatever table sizes are set in between, the other end reads what was written.
    #[test]
    fn decoders_read_what_encoders_write(
        heads in prop::collection::vec(head(), 1..12),
        steps in prop::collection::vec((0..12_usize, prop::option::of(0..6000_usize)), 1..60),
    ) {
        let heads: Vec<Rc<Head>> = heads.into_iter().map(Rc::new).collect();
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(1 << 20));
        for (index, limit) in steps {
            if let Some(limit) = limit {
                encoder.set_peer_limit(limit);
            }
            let head = &heads[index % heads.len()];
            let mut block = Vec::new();
            encoder.encode(head, &mut block);
            let decoded = decoder.decode(&block).unwrap();
            // Names that HTTP/2 forbids are dropped on the way in.
            let expected = head.all().filter(|field| field.kind != Kind::Forbidden);
            let expected: Vec<_> = expected.map(|field| (field.name().to_vec(), field.value().to_vec())).collect();
            let found: Vec<_> =
                decoded.head.all().map(|field| (field.name().to_vec(), field.value().to_vec())).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn junk_does_no_harm(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..8)) {
        let mut decoder = Decoder::new(4096);
        for block in blocks {
            if decoder.decode(&block).is_err() {
                break;
            }
        }
    }
}
