//! Many small byte strings out of few allocations.

use bytes::{Bytes, BytesMut};

/// Memory taken at a time. A string that lives on keeps that much alive: small enough that what a
/// slow reader holds on to stays of the order of its own buffers.
const PIECE_LEN: usize = 16 << 10;
/// Strings above this length get memory of their own.
const LARGE_LEN: usize = PIECE_LEN / 4;

/// Cuts byte strings that are built one after the other out of larger pieces of memory: one
/// allocation for a dozen values or a hundred small ones, and one release on whichever thread lets
/// go of the last.
#[derive(Debug, Default)]
pub struct BytesArena {
    piece: BytesMut,
}

impl BytesArena {
    /// The bytes that `write` appends; `len` says how many that will be.
    pub fn build(&mut self, len: usize, write: impl FnOnce(&mut BytesMut)) -> Bytes {
        if len > LARGE_LEN {
            let mut own = BytesMut::with_capacity(len);
            write(&mut own);
            return own.freeze();
        }
        if self.piece.capacity() < len {
            self.piece = BytesMut::with_capacity(PIECE_LEN);
        }
        write(&mut self.piece);
        self.piece.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_keep_their_bytes_and_share_memory() {
        let mut arena = BytesArena::default();
        let lens = [0, 1, 100, 4096, 4097, 5, 3000, 70_000, 4000, 4000, 4000, 4000];
        let built: Vec<Bytes> = lens
            .iter()
            .enumerate()
            .map(|(number, len)| arena.build(*len, |out| out.resize(*len, number as u8)))
            .collect();
        for (number, (bytes, len)) in built.iter().zip(lens).enumerate() {
            assert!(bytes.len() == len && bytes.iter().all(|byte| *byte == number as u8), "{number}");
        }
        let near = built[2].as_ptr().addr() - built[1].as_ptr().addr();
        assert_eq!(near, 1, "neighbours lie in one piece");
        assert_ne!(built[5].as_ptr().addr() - built[3].as_ptr().addr(), 4096 + 4097, "a large one does not");
    }
}
