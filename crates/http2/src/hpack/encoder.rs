//! Header blocks out.
//!
//! A field that is sent again and again goes into the table at its first use and is one byte from
//! then on. A head made of such fields only is one copy of remembered bytes: heads are compared by
//! address. Strings are sent as they are: what is worth compressing is in the table.
//!
//! **Source**: RFC 7541, sections 3 and 6.

use std::rc::Rc;

use super::table::{DEFAULT_TABLE_BYTES, Table};
use crate::head::Head;

/// Heads whose bytes are remembered.
const REMEMBERED: usize = 8;

struct Memory {
    head: Rc<Head>,
    changes: u64,
    block: Box<[u8]>,
}

pub(crate) struct Encoder {
    table: Table,
    /// The smallest limit the peer has set since the last block, when that is still to be said.
    resize: Option<usize>,
    /// What the peer allows now; we use no more than the default.
    allowed: usize,
    remembered: Vec<Memory>,
    next: usize,
}

impl Encoder {
    pub(crate) fn new() -> Self {
        let allowed = DEFAULT_TABLE_BYTES;
        Self { table: Table::new(), resize: None, allowed, remembered: Vec::new(), next: 0 }
    }

    /// The peer's SETTINGS_HEADER_TABLE_SIZE.
    pub(crate) fn set_peer_limit(&mut self, limit: usize) {
        self.allowed = limit.min(DEFAULT_TABLE_BYTES);
        if self.allowed != self.table.limit() || self.resize.is_some() {
            self.resize = Some(self.resize.map_or(self.allowed, |least| least.min(self.allowed)));
        }
    }

    /// Appends the block of a head.
    pub(crate) fn encode(&mut self, head: &Rc<Head>, out: &mut Vec<u8>) {
        if let Some(least) = self.resize.take() {
            for limit in [least, self.allowed] {
                if limit != self.table.limit() {
                    self.table.set_limit(limit);
                    integer(out, 0x20, 5, limit);
                }
            }
        }
        let changes = self.table.changes();
        if let Some(memory) =
            self.remembered.iter().find(|memory| Rc::ptr_eq(&memory.head, head) && memory.changes == changes)
        {
            out.extend_from_slice(&memory.block);
            return;
        }
        let begin = out.len();
        let mut repeats = true;
        for field in head.all() {
            let found = self.table.find(field);
            if let Some((index, true)) = found {
                integer(out, 0x80, 7, index);
                continue;
            }
            // Something larger than half of the table would push out all the others.
            let remember = field.indexed && field.size() <= self.table.limit() / 2;
            repeats &= field.indexed;
            let (pattern, bits) = if remember { (0x40, 6) } else { (0, 4) };
            match found {
                Some((index, _)) => integer(out, pattern, bits, index),
                None => {
                    out.push(pattern);
                    string(out, field.name());
                }
            }
            string(out, field.value());
            if remember {
                self.table.add(field.clone());
            }
        }
        if repeats && self.table.changes() == changes {
            self.remember(Memory { head: head.clone(), changes, block: out[begin..].into() });
        }
    }

    fn remember(&mut self, memory: Memory) {
        match self.remembered.get_mut(self.next) {
            Some(place) => *place = memory,
            None => self.remembered.push(memory),
        }
        self.next = (self.next + 1) % REMEMBERED;
    }
}

fn integer(out: &mut Vec<u8>, pattern: u8, bits: u32, value: usize) {
    let mask = (1_usize << bits) - 1;
    if value < mask {
        out.push(pattern | value as u8);
        return;
    }
    out.push(pattern | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn string(out: &mut Vec<u8>, text: &[u8]) {
    integer(out, 0, 7, text.len());
    out.extend_from_slice(text);
}
