//! The stream formats against recordings of real members, and against themselves.

use bytes::Bytes;
use peer::codec::{
    AppendDecoder, AppendEncoder, Batch, DecodeError, Decoder, MessageDecoder, encode_message,
    is_link_heartbeat, link_heartbeat,
};
use proptest::prelude::*;
use prost::Message as _;
use proto::raftpb::{Entry, Message, MessageType};
use types::MemberId;

const LOCAL: MemberId = MemberId(0x476b7be5c75a6e3f);
const REMOTE: MemberId = MemberId(0xdb9396b090c42950);

fn bytes_of(mut batch: Batch) -> Vec<u8> {
    let len = batch.len();
    let bytes = batch.take().concat();
    assert_eq!((bytes.len(), batch.len()), (len, 0));
    bytes
}

/// All messages of a stream that arrives in pieces of `piece` bytes.
fn decode(decoder: &mut impl Decoder, stream: &[u8], piece: usize) -> Result<Vec<Message>, DecodeError> {
    let mut messages = Vec::new();
    for part in stream.chunks(piece) {
        decoder.feed(part);
        while let Some(message) = decoder.next()? {
            messages.push(message);
        }
    }
    Ok(messages)
}

fn appends(stream: &[u8], piece: usize) -> Result<Vec<Message>, DecodeError> {
    decode(&mut AppendDecoder::new(LOCAL, REMOTE), stream, piece)
}

fn encode_appends(messages: Vec<Message>) -> Vec<u8> {
    let (mut encoder, mut batch) = (AppendEncoder::default(), Batch::new());
    for message in messages {
        encoder.encode(message, &mut batch);
    }
    bytes_of(batch)
}

fn encode_messages(messages: &[Message]) -> Vec<u8> {
    let mut batch = Batch::new();
    for message in messages {
        encode_message(message, &mut batch);
    }
    bytes_of(batch)
}

#[test]
fn recorded_entries_are_read_and_written_back() {
    for stream in
        [&include_bytes!("golden/3.5.30-msgapp.bin")[..], &include_bytes!("golden/3.7.1-msgapp.bin")[..]]
    {
        let messages = appends(stream, stream.len()).unwrap();
        assert_eq!(appends(stream, 1).unwrap(), messages);
        assert_eq!(encode_appends(messages.clone()), stream);
        let entries: Vec<_> = messages.iter().flat_map(|message| &message.entries).collect();
        assert!(entries.len() > 4, "{entries:?}");
        for pair in entries.windows(2) {
            assert_eq!(pair[1].index(), pair[0].index() + 1);
        }
        for message in messages.iter().filter(|message| !is_link_heartbeat(message)) {
            assert_eq!(message.r#type(), MessageType::MsgApp);
            if let Some(first) = message.entries.first() {
                assert_eq!(first.index(), message.index() + 1);
            }
        }
    }
}

#[test]
fn a_silent_leader_sends_single_bytes() {
    let stream = include_bytes!("golden/3.5.30-msgapp-idle.bin");
    let messages = appends(stream, 7).unwrap();
    assert_eq!(messages.len(), stream.len());
    assert!(messages.iter().all(is_link_heartbeat));
    assert_eq!(encode_appends(messages), stream);
}

#[test]
fn recorded_messages_are_read_and_written_back() {
    let streams = [
        &include_bytes!("golden/3.5.30-message-follower-to-leader.bin")[..],
        &include_bytes!("golden/3.5.30-message-leader-to-follower.bin")[..],
        &include_bytes!("golden/3.7.1-message-follower-to-leader.bin")[..],
        &include_bytes!("golden/3.7.1-message-leader-to-follower.bin")[..],
    ];
    let mut kinds = std::collections::BTreeSet::new();
    for stream in streams {
        let messages = decode(&mut MessageDecoder::default(), stream, stream.len()).unwrap();
        assert_eq!(decode(&mut MessageDecoder::default(), stream, 3).unwrap(), messages);
        assert_eq!(encode_messages(&messages), stream);
        kinds.extend(messages.iter().map(|message| message.r#type.unwrap()));
    }
    let expected = [2, 4, 5, 6, 8, 9, 14, 16, 17, 18];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn a_posted_message_is_one_message() {
    let body = Bytes::from_static(include_bytes!("golden/3.5.30-pipeline.bin"));
    let message = Message::decode(body.clone()).unwrap();
    assert_eq!((message.r#type(), message.term()), (MessageType::MsgHeartbeat, 3));
    assert_eq!(message.encode_to_vec(), body);
}

#[test]
fn junk_is_refused_without_reserving_memory() {
    assert_eq!(appends(&[7], 1).unwrap_err(), DecodeError::UnknownFrame(7));
    for frame in [2_u8, 1] {
        let mut stream = vec![frame];
        stream.extend(u64::MAX.to_be_bytes());
        assert_eq!(appends(&stream, 9).unwrap_err(), DecodeError::TooLong);
    }
    // A count or length within the limit of which nothing comes holds nothing.
    for promise in [[1_u8, 0x1f], [2, 0x1f]] {
        let mut stream = vec![promise[0], 0, 0, 0, 0, promise[1], 0xff, 0xff, 0xff];
        assert_eq!(appends(&stream, 9).unwrap(), []);
        stream.extend([0; 64]);
        assert_eq!(appends(&stream, 9).unwrap(), []);
    }
    let mut stream = vec![2];
    stream.extend(2_u64.to_be_bytes());
    stream.extend([0xff, 0xff]);
    assert!(matches!(appends(&stream, 4).unwrap_err(), DecodeError::Malformed(_)));
    let long = (600_u64 << 20).to_be_bytes();
    assert_eq!(decode(&mut MessageDecoder::default(), &long, 8).unwrap_err(), DecodeError::TooLong);
    let mut short = MessageDecoder::with_limit(10);
    assert_eq!(decode(&mut short, &11_u64.to_be_bytes(), 8).unwrap_err(), DecodeError::TooLong);
}

#[test]
fn what_follows_a_message_is_left_alone() {
    let message = append(3, 3, 9, 2);
    let mut body = encode_messages(std::slice::from_ref(&message));
    body.extend(b"database");
    let mut decoder = MessageDecoder::default();
    decoder.feed(&body);
    assert_eq!(decoder.next().unwrap(), Some(message));
    assert_eq!(&decoder.into_rest()[..], b"database");
}

#[test]
fn large_data_is_shared_not_copied() {
    let data = Bytes::from(vec![7; 64 << 10]);
    let mut message = append(3, 3, 9, 1);
    message.entries[0].data = Some(data.clone());
    let (mut encoder, mut batch) = (AppendEncoder::default(), Batch::new());
    encoder.encode(append(3, 2, 8, 1), &mut batch);
    encoder.encode(message.clone(), &mut batch);
    let pieces = batch.take();
    assert!(pieces.iter().any(|piece| piece.as_ptr() == data.as_ptr()), "{} pieces", pieces.len());
    assert_eq!(appends(&pieces.concat(), 1000).unwrap()[1].entries, message.entries);
}

/// A message of a leader: `count` entries behind `index`.
fn append(term: u64, log_term: u64, index: u64, count: u64) -> Message {
    let entry = |at| Entry {
        r#type: Some(0),
        term: Some(term),
        index: Some(at),
        data: Some(Bytes::from(format!("data of {at}"))),
    };
    Message {
        r#type: Some(MessageType::MsgApp.into()),
        to: Some(LOCAL.0),
        from: Some(REMOTE.0),
        term: Some(term),
        log_term: Some(log_term),
        index: Some(index),
        entries: (index + 1..=index + count).map(entry).collect(),
        commit: Some(index),
        ..Default::default()
    }
}

/// What a message says, without the difference between a missing and a zero field.
fn meaning(message: &Message) -> (i32, [u64; 6], Vec<Entry>) {
    let numbers =
        [message.to(), message.from(), message.term(), message.log_term(), message.index(), message.commit()];
    (message.r#type() as i32, numbers, message.entries.clone())
}

fn messages_of_a_leader() -> impl Strategy<Value = Vec<Message>> {
    let step = (0_u8..10, 1_u64..4, 0_u64..4, 0_usize..40_000);
    proptest::collection::vec(step, 0..40).prop_map(|steps| {
        let (mut term, mut index) = (1, 0);
        let mut messages = Vec::new();
        for (kind, jump, count, len) in steps {
            let log_term = term;
            match kind {
                0 => {
                    messages.push(link_heartbeat());
                    continue;
                }
                // A new term, or going back after a rejection: the next cannot go as entries.
                1 => term += jump,
                2 => index = u64::saturating_sub(index, jump),
                _ => {}
            }
            let mut message = append(term, log_term, index, count);
            if let Some(entry) = message.entries.first_mut().filter(|_| kind == 3) {
                entry.data = (len > 0).then(|| Bytes::from(vec![kind; len]));
            }
            index += count;
            messages.push(message);
        }
        messages
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_a_leader_sends_arrives(messages in messages_of_a_leader(), piece in 1_usize..5000) {
        let stream = encode_appends(messages.clone());
        let arrived = appends(&stream, piece).unwrap();
        let sent: Vec<_> = messages.iter().map(meaning).collect();
        prop_assert_eq!(arrived.iter().map(meaning).collect::<Vec<_>>(), sent);

        let stream = encode_messages(&messages);
        let arrived = decode(&mut MessageDecoder::default(), &stream, piece).unwrap();
        prop_assert_eq!(arrived, messages);
    }

    #[test]
    fn no_bytes_do_harm(stream in proptest::collection::vec(any::<u8>(), 0..400), piece in 1_usize..50) {
        let _ = appends(&stream, piece);
        let _ = decode(&mut MessageDecoder::default(), &stream, piece);
        let mut damaged = include_bytes!("golden/3.7.1-msgapp.bin").to_vec();
        for (at, byte) in stream.iter().enumerate().take(4) {
            let at = (usize::from(*byte) * 31 + at) % damaged.len();
            damaged[at] ^= byte;
        }
        let _ = appends(&damaged, piece);
    }
}
