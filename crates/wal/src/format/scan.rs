//! Reads the records of one segment in sequence, checking frames and the checksum chain.

use std::io;

use super::{DecodeError, FRAME_HEADER_LEN, Record, RecordKind, decode_record, is_torn, parse_length_field};

/// Bytes that can be read at a position: a file, or a slice.
pub trait Source {
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether there are no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Reads up to `buffer.len()` bytes at `offset`; fewer only at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl Source for &[u8] {
    fn len(&self) -> io::Result<u64> {
        Ok(<[u8]>::len(self) as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}

impl Source for &dyn env::File {
    fn len(&self) -> io::Result<u64> {
        env::File::len(*self)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        env::File::read_at(*self, buffer, offset)
    }
}

/// Why the records of a segment cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The bytes could not be read.
    #[error("cannot be read")]
    Read(#[from] io::Error),
    /// A frame that says it is longer than the rest of the file, or a record with a sector of
    /// zeros: what a write leaves that did not come to its end. Legal only at the end of the last
    /// segment.
    #[error("the record was not written to its end")]
    Torn,
    /// The stored checksum is not that of the data, and nothing looks torn.
    #[error("checksum mismatch (stored {stored:08x}, computed {computed:08x})")]
    Checksum {
        /// What the record says.
        stored: u32,
        /// What its data gives.
        computed: u32,
    },
    /// The record is no `walpb.Record`.
    #[error("not a log record: {0}")]
    Record(#[from] DecodeError),
    /// The checksum does not cover the type of a record. What it can turn into is told by the
    /// order: a segment opens with a crc and a metadata record, and has no more of either; only a
    /// crc record has no data.
    #[error("a {found:?} record that does not belong here")]
    Misplaced {
        /// Kind that the record claims to be.
        found: RecordKind,
    },
}

/// A reader of the records of one segment.
pub struct Scan<S> {
    source: S,
    source_len: u64,
    /// Place of `buffer[0]` in the source.
    buffer_offset: u64,
    buffer: Vec<u8>,
    /// Filled part of `buffer`.
    filled: usize,
    /// Place of the next frame in the source.
    offset: u64,
    crc: u32,
    /// Good records so far.
    count: u64,
}

impl<S: Source> Scan<S> {
    const READ_LEN: usize = 1 << 20;

    /// A reader from the start of `source` that continues the chain from `crc`; 0 accepts any seed.
    pub fn new(source: S, crc: u32) -> io::Result<Self> {
        let source_len = source.len()?;
        Ok(Self {
            source,
            source_len,
            buffer_offset: 0,
            buffer: Vec::new(),
            filled: 0,
            offset: 0,
            crc,
            count: 0,
        })
    }

    /// Where the next frame starts: behind the last good record.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Value of the checksum chain behind the last good record.
    pub fn crc(&self) -> u32 {
        self.crc
    }

    /// Number of good records so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The next record; `None` at the end of the log. An error leaves the reader in front of the
    /// record that caused it.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, ScanError> {
        let rest = self.source_len.saturating_sub(self.offset);
        if rest == 0 {
            return Ok(None);
        }
        if rest < FRAME_HEADER_LEN as u64 || !self.fill(FRAME_HEADER_LEN)? {
            return Err(ScanError::Torn);
        }
        let start = (self.offset - self.buffer_offset) as usize;
        let mut field = [0; FRAME_HEADER_LEN];
        field.copy_from_slice(&self.buffer[start..start + FRAME_HEADER_LEN]);
        let field = i64::from_le_bytes(field);
        if field == 0 {
            return Ok(None);
        }
        let (record_len, padding) = parse_length_field(field);
        let frame_len = FRAME_HEADER_LEN as u64 + record_len + padding;
        if frame_len > rest || !self.fill(frame_len as usize)? {
            return Err(ScanError::Torn);
        }
        let start = (self.offset - self.buffer_offset) as usize;
        let body = &self.buffer[start + FRAME_HEADER_LEN..start + frame_len as usize];
        let torn = || is_torn(body, self.offset + FRAME_HEADER_LEN as u64);
        let record = match decode_record(&body[..record_len as usize]) {
            Ok(record) => record,
            Err(_) if torn() => return Err(ScanError::Torn),
            Err(error) => return Err(error.into()),
        };
        let computed = match record.kind {
            // A chain that has not started takes whatever value the segment continues from.
            RecordKind::Crc if self.crc == 0 => record.crc,
            RecordKind::Crc => self.crc,
            _ => crc32c::crc32c_append(self.crc, record.data),
        };
        if record.crc != computed {
            if record.kind != RecordKind::Crc && torn() {
                return Err(ScanError::Torn);
            }
            return Err(ScanError::Checksum { stored: record.crc, computed });
        }
        let belongs = match record.kind {
            RecordKind::Crc => self.count == 0 && record.data.is_empty(),
            RecordKind::Metadata => self.count == 1,
            _ => self.count > 1 && !record.data.is_empty(),
        };
        if !belongs {
            return Err(ScanError::Misplaced { found: record.kind });
        }
        self.count += 1;
        self.crc = computed;
        self.offset += frame_len;
        Ok(Some(record))
    }

    /// Whether something other than zeros lies right behind the end of the log, as when the first
    /// sector of a write was lost and the others were not. Looks no further than 64 KiB.
    pub fn has_residue(&mut self) -> io::Result<bool> {
        let wanted = self.source_len.saturating_sub(self.offset).min(64 << 10) as usize;
        self.fill(wanted)?;
        let start = (self.offset - self.buffer_offset) as usize;
        let end = (start + wanted).min(self.filled);
        Ok(self.buffer[start.min(end)..end].iter().any(|byte| *byte != 0))
    }

    /// Makes `wanted` bytes from `offset` on available in the buffer; `false` if the source has
    /// become shorter.
    fn fill(&mut self, wanted: usize) -> io::Result<bool> {
        let start = (self.offset - self.buffer_offset) as usize;
        if start + wanted <= self.filled {
            return Ok(true);
        }
        let kept = self.filled.saturating_sub(start);
        self.buffer.copy_within(start.min(self.filled)..self.filled, 0);
        (self.buffer_offset, self.filled) = (self.offset, kept);
        let rest = (self.source_len - self.offset).min(usize::MAX as u64) as usize;
        let target = wanted.max(Self::READ_LEN).min(rest);
        if self.buffer.len() < target {
            self.buffer.resize(target, 0);
        }
        let read_at = self.buffer_offset + kept as u64;
        self.filled += self.source.read_at(&mut self.buffer[kept..target], read_at)?;
        Ok(self.filled >= wanted)
    }
}

/// Where and why reading a slice of records ended.
#[derive(Debug)]
pub struct End {
    /// Behind the last good record.
    pub offset: u64,
    /// The chain there.
    pub crc: u32,
    /// `None` at the regular end.
    pub error: Option<ScanError>,
}

/// The records of a slice, copied out.
#[derive(Debug)]
pub struct Records {
    /// Kind and data of each good record.
    pub records: Vec<(RecordKind, Vec<u8>)>,
    /// How it ended.
    pub end: End,
}

/// Reads all records of a segment that lies in memory.
pub fn read_records(segment: &[u8]) -> Records {
    let mut records = Vec::new();
    let error = match Scan::new(segment, 0) {
        Err(error) => return Records { records, end: End { offset: 0, crc: 0, error: Some(error.into()) } },
        Ok(mut scan) => {
            let error = loop {
                match scan.next_record() {
                    Ok(Some(record)) => records.push((record.kind, record.data.to_vec())),
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            };
            (scan.offset(), scan.crc(), error)
        }
    };
    let (offset, crc, error) = error;
    Records { records, end: End { offset, crc, error } }
}
