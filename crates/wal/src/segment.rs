//! Names of segments and the choice of those that a reader needs.

use std::path::{Path, PathBuf};

use env::Disk;

use crate::error::{Context, Error};

/// Name of a segment: `<sequence:016x>-<first index:016x>.wal`.
///
/// Sequence numbers rise by one without gaps; the index is that of the first entry the segment
/// may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentName {
    /// Number of the segment.
    pub sequence: u64,
    /// Last entry of the segment before it, plus one; 0 for the first segment.
    pub first_index: u64,
}

impl SegmentName {
    /// The file name.
    pub fn file_name(&self) -> String {
        format!("{:016x}-{:016x}.wal", self.sequence, self.first_index)
    }

    /// Reads a file name; `None` if it is not that of a segment.
    pub fn parse(name: &str) -> Option<Self> {
        let (sequence, first_index) = name.strip_suffix(".wal")?.split_once('-')?;
        Some(Self { sequence: parse_hex(sequence)?, first_index: parse_hex(first_index)? })
    }
}

/// Sixteen lower-case hexadecimal digits.
pub(crate) fn parse_hex(digits: &str) -> Option<u64> {
    let plain = digits.len() == 16 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

/// The segments in `dir`, ascending; other files are passed over.
pub fn segments(disk: &dyn Disk, dir: &Path) -> Result<Vec<SegmentName>, Error> {
    let mut names: Vec<_> = disk
        .list(dir)
        .context("list", dir)?
        .iter()
        .filter(|entry| !entry.is_dir)
        .filter_map(|entry| SegmentName::parse(&entry.name))
        .collect();
    names.sort();
    Ok(names)
}

/// Whether `dir` holds a log.
pub fn exists(disk: &dyn Disk, dir: &Path) -> Result<bool, Error> {
    Ok(disk.exists(dir).context("look up", dir)? && !segments(disk, dir)?.is_empty())
}

/// The segments that a reader needs to start behind entry `index`.
pub(crate) fn select(disk: &dyn Disk, dir: &Path, index: u64) -> Result<Vec<SegmentName>, Error> {
    let all = segments(disk, dir)?;
    if all.is_empty() {
        return Err(Error::NoSegments { dir: dir.to_owned() });
    }
    let Some(start) = all.iter().rposition(|name| name.first_index <= index) else {
        return Err(Error::NoSegmentFor { dir: dir.to_owned(), index });
    };
    let selected = all[start..].to_vec();
    check_sequence(dir, &selected)?;
    Ok(selected)
}

/// Refuses a gap in the sequence numbers.
pub(crate) fn check_sequence(dir: &Path, names: &[SegmentName]) -> Result<(), Error> {
    for pair in names.windows(2) {
        let expected = pair[0].sequence.wrapping_add(1);
        if pair[1].sequence != expected {
            return Err(Error::MissingSegment { dir: dir.to_owned(), missing: expected });
        }
    }
    Ok(())
}

/// Path of a segment.
pub(crate) fn path_of(dir: &Path, name: SegmentName) -> PathBuf {
    dir.join(name.file_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_upstreams_form() {
        let name = SegmentName { sequence: 2, first_index: 0x61 };
        assert_eq!(name.file_name(), "0000000000000002-0000000000000061.wal");
        assert_eq!(SegmentName::parse(&name.file_name()), Some(name));
        for other in
            ["0.tmp", "x.wal", "0000000000000002-61.wal", "0000000000000002-0000000000000061.wal.broken"]
        {
            assert_eq!(SegmentName::parse(other), None, "{other}");
        }
    }
}
