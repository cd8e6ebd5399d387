//! Writing records in whole blocks, so that they can go to the disk around the page cache.
//!
//! A log is written once and read only after a restart: keeping it in the page cache costs memory
//! bandwidth and a page allocation per 4 KiB, and gives nothing back. Writes around the cache must
//! be whole, aligned blocks. The block that the last record ends in is written again with the
//! next one: its old bytes are unchanged, and behind the last record there are zeros before and
//! after, so a write that is torn leaves what an append that is torn leaves.
//!
//! Invariant: while `offset` is the end of the log, the first `offset % BLOCK_LEN` bytes of the
//! buffer are the file's bytes in front of it.

use std::io;

use env::{DIRECT_BLOCK_LEN as BLOCK_LEN, File};

/// Bytes per write, at most.
const BUFFER_LEN: usize = 1 << 20;

/// Memory that starts at a block boundary.
pub(crate) struct AlignedBuffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// `len` zeros.
    pub(crate) fn zeroed(len: usize) -> Self {
        let memory = vec![0; len + BLOCK_LEN as usize];
        let start = memory.as_ptr().align_offset(BLOCK_LEN as usize);
        Self { memory, start, len }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// Appends bytes to a file in whole blocks.
pub(crate) struct BlockWriter {
    buffer: AlignedBuffer,
}

/// End of the block that `offset` lies in or ends.
pub(crate) fn block_end(offset: u64) -> u64 {
    offset.next_multiple_of(BLOCK_LEN)
}

/// Writes zeros to the whole blocks of `from..to`, without the cache if the file avoids it.
pub(crate) fn write_zeros(file: &dyn File, from: u64, to: u64) -> io::Result<()> {
    let (mut from, to) = (block_end(from), to - to % BLOCK_LEN);
    if from >= to {
        return Ok(());
    }
    let zeros = AlignedBuffer::zeroed((to - from).min(BUFFER_LEN as u64) as usize);
    while from < to {
        let count = (to - from).min(zeros.len as u64);
        file.write_at(&zeros.bytes()[..count as usize], from)?;
        from += count;
    }
    Ok(())
}

/// Length of the part of `offset`'s block that lies in front of it.
fn in_block(offset: u64) -> usize {
    (offset % BLOCK_LEN) as usize
}

impl BlockWriter {
    /// A writer for a file whose log ends at `offset`. Reads the last block: call it before the
    /// file is asked to avoid the cache.
    pub(crate) fn new(file: &dyn File, offset: u64) -> io::Result<Self> {
        let mut writer = Self { buffer: AlignedBuffer::zeroed(BUFFER_LEN) };
        let kept = in_block(offset);
        let block = &mut writer.buffer.bytes_mut()[..kept];
        if file.read_at(block, offset - kept as u64)? < kept {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(writer)
    }

    /// Writes `bytes` at `offset`, the end of the log, and zeros to the end of the block.
    pub(crate) fn append(&mut self, file: &dyn File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            let kept = in_block(offset);
            let block_start = offset - kept as u64;
            let buffer = self.buffer.bytes_mut();
            let count = bytes.len().min(buffer.len() - kept);
            let end = kept + count;
            let padded_end = end.next_multiple_of(BLOCK_LEN as usize);
            buffer[kept..end].copy_from_slice(&bytes[..count]);
            buffer[end..padded_end].fill(0);
            file.write_at(&buffer[..padded_end], block_start)?;
            let last_block = end - end % BLOCK_LEN as usize;
            buffer.copy_within(last_block..end, 0);
            bytes = &bytes[count..];
            offset += count as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use env::real::RealDisk;
    use env::{Disk, OpenMode};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Whatever the lengths, the file holds the bytes one after the other, with and without a
        /// reopening in between, through the page cache and around it.
        #[test]
        fn bytes_end_up_one_behind_the_other(
            lens in prop::collection::vec((0usize..10_000, any::<bool>()), 1..20),
            big in 0usize..3_000_000,
            direct in any::<bool>(),
        ) {
            let dir = tempfile::tempdir().unwrap();
            check(dir.path(), &lens, big, direct);
        }
    }

    fn check(dir: &Path, lens: &[(usize, bool)], big: usize, direct: bool) {
        let open = || RealDisk.open(&dir.join("log"), OpenMode::CreateIfMissing(0o600)).unwrap();
        let mut file = open();
        let mut expected: Vec<u8> = Vec::new();
        let mut writer = BlockWriter::new(&*file, 0).unwrap();
        for (number, (len, reopen)) in lens.iter().chain([&(big, true)]).enumerate() {
            if *reopen {
                file = open();
                writer = BlockWriter::new(&*file, expected.len() as u64).unwrap();
                if direct {
                    file.avoid_cache();
                }
            }
            let bytes: Vec<u8> = (0..*len).map(|at| (at + number) as u8 | 1).collect();
            writer.append(&*file, &bytes, expected.len() as u64).unwrap();
            expected.extend(bytes);
        }
        let mut found = std::fs::read(dir.join("log")).unwrap();
        assert_eq!(found.len() as u64, block_end(expected.len() as u64));
        assert!(found.split_off(expected.len()).iter().all(|byte| *byte == 0));
        assert!(found == expected);
    }
}
