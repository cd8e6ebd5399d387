//! The msgapp stream: entries that follow the previous ones go without the message around them.
//!
//! Both sides remember (term, index) of the last entry that passed, (0, 0) after connecting. A
//! message whose position is exactly that, at that term, is sent as its entries and commit index.

use bytes::Bytes;
use prost::Message as _;
use proto::raftpb;
use types::MemberId;

use super::{Batch, DecodeError, Decoder, Input, MAX_MESSAGE_BYTES, checked_len, is_link_heartbeat};

const LINK_HEARTBEAT: u8 = 0;
const ENTRIES: u8 = 1;
const MESSAGE: u8 = 2;

/// Tag of `Entry.Data`, its last field: number 4, length-delimited.
const ENTRY_DATA_TAG: u64 = 4 << 3 | 2;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Position {
    term: u64,
    index: u64,
}

impl Position {
    fn after(message: &raftpb::Message) -> Self {
        let last = message.entries.last().map(raftpb::Entry::index);
        Self { term: message.term(), index: last.unwrap_or(message.index()) }
    }
}

/// Writes a msgapp stream, one per connection.
#[derive(Debug, Default)]
pub struct AppendEncoder {
    position: Position,
}

impl AppendEncoder {
    /// Appends a message.
    pub fn encode(&mut self, message: raftpb::Message, out: &mut Batch) {
        if is_link_heartbeat(&message) {
            out.put_u8(LINK_HEARTBEAT);
        } else if self.follows(&message) {
            self.encode_entries(message, out);
        } else {
            self.position = Position::after(&message);
            out.put_u8(MESSAGE);
            out.put_u64(message.encoded_len() as u64);
            out.put_message(&message);
        }
    }

    fn follows(&self, message: &raftpb::Message) -> bool {
        let at = Position { term: message.log_term(), index: message.index() };
        at == self.position && message.log_term() == message.term()
    }

    fn encode_entries(&mut self, message: raftpb::Message, out: &mut Batch) {
        let commit = message.commit();
        out.put_u8(ENTRIES);
        out.put_u64(message.entries.len() as u64);
        self.position.index += message.entries.len() as u64;
        for entry in message.entries {
            encode_entry(entry, out);
        }
        out.put_u64(commit);
    }
}

/// An entry with its length; large data is not copied.
fn encode_entry(mut entry: raftpb::Entry, out: &mut Batch) {
    out.put_u64(entry.encoded_len() as u64);
    let data = entry.data.take();
    out.put_message(&entry);
    if let Some(data) = data {
        out.put_varint(ENTRY_DATA_TAG);
        out.put_varint(data.len() as u64);
        out.put_shared(data);
    }
}

/// What comes next on the stream.
#[derive(Debug)]
enum Expect {
    Frame,
    MessageLen,
    Message(usize),
    EntryCount,
    EntryLen(Entries),
    Entry(Entries, usize),
    Commit(Entries),
}

/// Entries received so far.
#[derive(Debug)]
struct Entries {
    /// Those that are still to come.
    missing: u64,
    received: Vec<raftpb::Entry>,
    /// Memory that they hold.
    bytes: u64,
}

impl Entries {
    fn expect(self) -> Expect {
        if self.missing == 0 { Expect::Commit(self) } else { Expect::EntryLen(self) }
    }

    /// Takes `len` more bytes into account.
    fn grow(&mut self, len: u64) -> Result<usize, DecodeError> {
        self.bytes = self.bytes.saturating_add(len).saturating_add(size_of::<raftpb::Entry>() as u64);
        checked_len(self.bytes)?;
        checked_len(len)
    }

    fn push(&mut self, bytes: Bytes) -> Result<(), DecodeError> {
        self.received.push(raftpb::Entry::decode(bytes)?);
        self.missing -= 1;
        Ok(())
    }
}

/// Reads a msgapp stream, one per connection.
#[derive(Debug)]
pub struct AppendDecoder {
    local: MemberId,
    remote: MemberId,
    position: Position,
    input: Input,
    expect: Expect,
}

impl AppendDecoder {
    /// A decoder for what `remote` sends to `local`.
    pub fn new(local: MemberId, remote: MemberId) -> Self {
        Self { local, remote, position: Position::default(), input: Input::default(), expect: Expect::Frame }
    }

    /// Takes one step; `None` if there are not enough bytes for it.
    fn step(&mut self) -> Result<Option<Option<raftpb::Message>>, DecodeError> {
        let input = &mut self.input;
        let expect = std::mem::replace(&mut self.expect, Expect::Frame);
        let mut message = None;
        let next = match expect {
            Expect::Frame => match input.take_u8() {
                None => Err(Expect::Frame),
                Some(LINK_HEARTBEAT) => {
                    message = Some(super::link_heartbeat());
                    Ok(Expect::Frame)
                }
                Some(ENTRIES) => Ok(Expect::EntryCount),
                Some(MESSAGE) => Ok(Expect::MessageLen),
                Some(other) => return Err(DecodeError::UnknownFrame(other)),
            },
            Expect::MessageLen => match input.take_u64() {
                None => Err(Expect::MessageLen),
                Some(len) => Ok(Expect::Message(checked_len(len)?)),
            },
            Expect::Message(len) => match input.take(len) {
                None => Err(Expect::Message(len)),
                Some(bytes) => {
                    let whole = raftpb::Message::decode(bytes)?;
                    self.position = Position::after(&whole);
                    message = Some(whole);
                    Ok(Expect::Frame)
                }
            },
            Expect::EntryCount => match input.take_u64() {
                None => Err(Expect::EntryCount),
                // An entry holds a byte at least in memory: the count alone can be too much.
                Some(count) if count > MAX_MESSAGE_BYTES => return Err(DecodeError::TooLong),
                Some(count) => Ok(Entries { missing: count, received: Vec::new(), bytes: 0 }.expect()),
            },
            Expect::EntryLen(mut entries) => match input.take_u64() {
                None => Err(Expect::EntryLen(entries)),
                Some(len) => {
                    let len = entries.grow(len)?;
                    Ok(Expect::Entry(entries, len))
                }
            },
            Expect::Entry(mut entries, len) => match input.take(len) {
                None => Err(Expect::Entry(entries, len)),
                Some(bytes) => {
                    entries.push(bytes)?;
                    Ok(entries.expect())
                }
            },
            Expect::Commit(entries) => match input.take_u64() {
                None => Err(Expect::Commit(entries)),
                Some(commit) => {
                    message = Some(self.entries_message(entries.received, commit));
                    Ok(Expect::Frame)
                }
            },
        };
        match next {
            Ok(expect) => {
                self.expect = expect;
                Ok(Some(message))
            }
            Err(unchanged) => {
                self.expect = unchanged;
                Ok(None)
            }
        }
    }

    fn entries_message(&mut self, entries: Vec<raftpb::Entry>, commit: u64) -> raftpb::Message {
        let Position { term, index } = self.position;
        self.position.index = index.saturating_add(entries.len() as u64);
        raftpb::Message {
            r#type: Some(raftpb::MessageType::MsgApp.into()),
            from: Some(self.remote.0),
            to: Some(self.local.0),
            term: Some(term),
            log_term: Some(term),
            index: Some(index),
            entries,
            commit: Some(commit),
            ..Default::default()
        }
    }
}

impl Decoder for AppendDecoder {
    fn feed(&mut self, bytes: &[u8]) {
        self.input.feed(bytes);
    }

    fn next(&mut self) -> Result<Option<raftpb::Message>, DecodeError> {
        while let Some(message) = self.step()? {
            if message.is_some() {
                return Ok(message);
            }
        }
        Ok(None)
    }
}
