//! Header blocks in.
//!
//! A gRPC client sends the same few blocks again and again. A block that only names entries of the
//! table, or carries literals that are not to be remembered, means the same as long as the table is
//! the same: the last such blocks are kept with what they meant, and cost one comparison.
//!
//! A list above the limit is decoded to its end, because the table must follow, but not kept.
//!
//! **Source**: RFC 7541, sections 3 and 6.

use std::rc::Rc;

use super::field::Field;
use super::huffman;
use super::table::{DEFAULT_TABLE_BYTES, Table};
use crate::head::{Builder, Head};

/// Blocks remembered: the methods that a client uses at the same time.
const REMEMBERED: usize = 8;
/// Longest block worth remembering.
const REMEMBERED_BYTES: usize = 512;
/// The buffer for strings does not stay larger than this.
const TEXT_BYTES: usize = 4096;

/// A block that does not decode: the table is lost, and the connection with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadBlock;

/// What a block said.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) head: Rc<Head>,
    /// The list was longer than allowed: `head` is not all of it.
    pub(crate) too_large: bool,
}

struct Memory {
    block: Box<[u8]>,
    changes: u64,
    head: Rc<Head>,
}

pub(crate) struct Decoder {
    table: Table,
    max_list_bytes: usize,
    remembered: Vec<Memory>,
    /// The memory that the next block replaces.
    next: usize,
    text: Vec<u8>,
}

impl Decoder {
    pub(crate) fn new(max_list_bytes: usize) -> Self {
        Self { table: Table::new(), max_list_bytes, remembered: Vec::new(), next: 0, text: Vec::new() }
    }

    /// Decodes one whole block.
    pub(crate) fn decode(&mut self, block: &[u8]) -> Result<Decoded, BadBlock> {
        let changes = self.table.changes();
        if let Some(memory) =
            self.remembered.iter().find(|memory| memory.changes == changes && *memory.block == *block)
        {
            return Ok(Decoded { head: memory.head.clone(), too_large: false });
        }
        let mut builder = Builder::new(self.max_list_bytes);
        let mut input = Input(block);
        let mut may_resize = true;
        while let Some(&first) = input.0.first() {
            if first & 0xe0 == 0x20 {
                let limit = input.integer(5)?;
                if !may_resize || limit > DEFAULT_TABLE_BYTES {
                    return Err(BadBlock);
                }
                self.table.set_limit(limit);
                continue;
            }
            may_resize = false;
            if first & 0x80 != 0 {
                builder.push(self.table.get(input.integer(7)?).ok_or(BadBlock)?);
                continue;
            }
            let remember = first & 0x40 != 0;
            let index = input.integer(if remember { 6 } else { 4 })?;
            let field = self.literal(index, &mut input, remember)?;
            builder.push(&field);
            if remember {
                self.table.add(field);
            }
        }
        self.text.clear();
        self.text.shrink_to(TEXT_BYTES);
        let (head, too_large) = builder.finish();
        let head = Rc::new(head);
        if self.table.changes() == changes && block.len() <= REMEMBERED_BYTES && !too_large {
            self.remember(Memory { block: block.into(), changes, head: head.clone() });
        }
        Ok(Decoded { head, too_large })
    }

    fn literal(&mut self, index: usize, input: &mut Input<'_>, indexed: bool) -> Result<Rc<Field>, BadBlock> {
        self.text.clear();
        let name_len = match index {
            0 => {
                input.string(&mut self.text)?;
                self.text.len()
            }
            _ => {
                let name = self.table.get(index).ok_or(BadBlock)?.name();
                self.text.extend_from_slice(name);
                name.len()
            }
        };
        input.string(&mut self.text)?;
        let (name, value) = self.text.split_at(name_len);
        Ok(if indexed { Field::new(name, value) } else { Field::literal(name, value) })
    }

    fn remember(&mut self, memory: Memory) {
        match self.remembered.get_mut(self.next) {
            Some(place) => *place = memory,
            None => self.remembered.push(memory),
        }
        self.next = (self.next + 1) % REMEMBERED;
    }
}

/// The rest of a block.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Result<u8, BadBlock> {
        let (&first, rest) = self.0.split_first().ok_or(BadBlock)?;
        self.0 = rest;
        Ok(first)
    }

    /// An integer whose first byte has `bits` bits for it. Nothing we accept needs more than 28.
    fn integer(&mut self, bits: u32) -> Result<usize, BadBlock> {
        let mask = (1_usize << bits) - 1;
        let mut value = usize::from(self.byte()?) & mask;
        if value < mask {
            return Ok(value);
        }
        for shift in [0, 7, 14, 21] {
            let byte = usize::from(self.byte()?);
            value += (byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(BadBlock)
    }

    fn string(&mut self, out: &mut Vec<u8>) -> Result<(), BadBlock> {
        let coded = self.0.first().is_some_and(|first| first & 0x80 != 0);
        let len = self.integer(7)?;
        let (text, rest) = self.0.split_at_checked(len).ok_or(BadBlock)?;
        self.0 = rest;
        if !coded {
            out.extend_from_slice(text);
        } else if !huffman::decode(text, out) {
            return Err(BadBlock);
        }
        Ok(())
    }
}
