//! A copy of the database while it is in use.
//!
//! The image is meta page 0 with the transaction's id, meta page 1 with the same but the id
//! before, and then all pages up to the high-water mark as they are in the file. Pages that are
//! free in this state may be written at the same moment, so they are read through the file and
//! not through the map; what they hold does not matter.
//!
//! Source: bbolt `tx.go` (`WriteTo`).

use std::io::{self, Read};
use std::sync::Arc;

use crate::error::Error;
use crate::format::{META_BYTES, Meta, PAGE_HEADER_BYTES};
use crate::read::ReadTx;
use crate::snapshot::Snapshot;

const CHUNK_BYTES: usize = 1 << 20;

impl ReadTx {
    /// Hands a complete image of this state to `write`, piece by piece; returns its length,
    /// which is [`ReadTx::size_bytes`].
    pub fn copy_to(&self, write: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> Result<u64, Error> {
        let mut reader = self.copy_reader();
        let mut buffer = vec![0; CHUNK_BYTES.min(self.size_bytes() as usize)];
        loop {
            let count = reader
                .read(&mut buffer)
                .map_err(|source| Error::Io { action: "read the pages to copy", source })?;
            if count == 0 {
                return Ok(reader.position);
            }
            write(&buffer[..count]).map_err(Error::Copy)?;
        }
    }

    /// The same image as something to read from. It keeps this state alive.
    pub fn copy_reader(&self) -> CopyReader {
        CopyReader { snapshot: self.snapshot.clone(), position: 0 }
    }
}

/// Reads the image of a database: see [`ReadTx::copy_reader`].
pub struct CopyReader {
    snapshot: Arc<Snapshot>,
    position: u64,
}

impl CopyReader {
    /// Length of the whole image in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.snapshot.size_bytes()
    }
}

impl Read for CopyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let snapshot = &self.snapshot;
        let page_size = snapshot.page_size() as u64;
        let rest = snapshot.size_bytes() - self.position;
        let wanted = buffer.len().min(rest.min(usize::MAX as u64) as usize);
        if wanted == 0 {
            return Ok(0);
        }
        let count = if self.position < 2 * page_size {
            self.read_meta(&mut buffer[..wanted])
        } else {
            match &snapshot.file {
                Some(file) => file.read_at(&mut buffer[..wanted], self.position)?,
                None => {
                    buffer[..wanted].copy_from_slice(snapshot.bytes(self.position as usize, wanted));
                    wanted
                }
            }
        };
        if count == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        self.position += count as u64;
        Ok(count)
    }
}

impl CopyReader {
    fn read_meta(&self, buffer: &mut [u8]) -> usize {
        let meta = self.snapshot.meta;
        let page_size = self.snapshot.page_size();
        let id = self.position as usize / page_size;
        let at = self.position as usize % page_size;
        let page = Meta { txid: meta.txid.wrapping_sub(id as u64), ..meta }.page(id as u64);
        let count = buffer.len().min(page_size - at);
        buffer[..count].copy_from_slice(&page[at..at + count]);
        count
    }
}

const _: () = assert!(PAGE_HEADER_BYTES + META_BYTES <= crate::format::MIN_PAGE_SIZE);
