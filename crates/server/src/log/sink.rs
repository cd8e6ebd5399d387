//! Destinations of log records.
//!
//! Every record goes to every destination. A failed write is not retried and not reported: there is
//! no better place to report it to. `systemd/journal` stands alone.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::encode::Caller;
use super::journal::{self, Journal};
use super::rotate::{RotatingFile, Rotation};
use super::{Level, Settings};

/// One destination.
#[derive(Debug)]
pub(super) enum Sink {
    Stderr,
    Stdout,
    File(File),
    Rotating(RotatingFile),
    Journal(Journal),
}

/// A destination that cannot be used; prints etcd's words.
#[derive(Debug, thiserror::Error)]
pub enum OpenSinkError {
    /// A log file cannot be opened.
    #[error("open sink {path:?}: open {path}: {reason}")]
    File {
        /// The path as configured.
        path: String,
        /// Why, without the path.
        reason: String,
    },
    /// There is no journal.
    #[error("can't find journal (dial unixgram {}: connect: {reason})", journal::SOCKET)]
    Journal {
        /// Why.
        reason: String,
    },
}

impl Sink {
    /// Opens the destinations of a list: sorted, each once, `default` meaning stderr, and nothing
    /// at all when `/dev/null` is among them.
    pub fn open_all(settings: &Settings) -> Result<Vec<Self>, OpenSinkError> {
        let outputs = &settings.outputs;
        if outputs.iter().any(|output| output == "/dev/null") {
            return Ok(Vec::new());
        }
        let mut names: Vec<&str> = outputs
            .iter()
            .map(|output| if output == "default" { "stderr" } else { output.as_str() })
            .collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter().map(|name| Self::open(name, settings.rotation.as_ref())).collect()
    }

    fn open(name: &str, rotation: Option<&Rotation>) -> Result<Self, OpenSinkError> {
        let refused = |error: io::Error| OpenSinkError::File {
            path: name.to_owned(),
            reason: types::os_reason(&error),
        };
        match (name, rotation) {
            ("stderr", _) => Ok(Self::Stderr),
            ("stdout", _) => Ok(Self::Stdout),
            ("systemd/journal", _) => Journal::connect(Path::new(journal::SOCKET))
                .map(Self::Journal)
                .map_err(|error| OpenSinkError::Journal { reason: types::os_reason(&error) }),
            (path, Some(rotation)) => {
                RotatingFile::open(Path::new(path), rotation).map(Self::Rotating).map_err(refused)
            }
            (path, None) => OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o644)
                .open(path)
                .map(Self::File)
                .map_err(refused),
        }
    }

    pub fn write(&mut self, level: Level, caller: Caller<'_>, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Stderr => io::stderr().write_all(line),
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(line)?;
                out.flush()
            }
            Self::File(file) => file.write_all(line),
            Self::Rotating(file) => file.write(line),
            Self::Journal(journal) => journal.write(level, caller.directory(), line),
        }
    }
}

impl Sink {
    /// Records that were dropped so that nobody had to wait, if there is room for them again. They are
    /// forgotten with that.
    pub fn take_lost(&mut self) -> u64 {
        match self {
            Self::Journal(journal) => journal.take_lost(),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(outputs: &[&str]) -> Result<Vec<Sink>, OpenSinkError> {
        let outputs = outputs.iter().map(|output| (*output).to_owned()).collect();
        Sink::open_all(&Settings { outputs, ..Settings::default() })
    }

    #[test]
    fn lists_are_merged_and_dev_null_wins() {
        assert_eq!(open(&["default", "stderr", "stdout"]).unwrap().len(), 2);
        assert_eq!(open(&["stdout", "/dev/null"]).unwrap().len(), 0);
    }

    #[test]
    fn a_missing_directory_is_named() {
        assert_eq!(
            open(&["/nonexistent-dir/a.log"]).unwrap_err().to_string(),
            "open sink \"/nonexistent-dir/a.log\": open /nonexistent-dir/a.log: no such file or directory"
        );
    }

    #[test]
    fn files_are_appended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log").to_str().unwrap().to_owned();
        for _ in 0..2 {
            for sink in &mut open(&[&path]).unwrap() {
                sink.write(Level::Info, Caller { file: "a/b.rs", line: 1 }, b"x\n").unwrap();
            }
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"x\nx\n");
    }
}
