//! Destinations of log records.
//!
//! Every record goes to every destination. A failed write is not retried and not reported: there is
//! no better place to report it to.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;

/// One destination.
#[derive(Debug)]
pub(super) enum Sink {
    Stderr,
    Stdout,
    File(File),
}

/// A log file that cannot be opened; prints zap's words.
#[derive(Debug, thiserror::Error)]
#[error("open sink {path:?}: open {path}: {reason}")]
pub struct OpenSinkError {
    /// The path as configured.
    pub path: String,
    /// Why, without the path.
    pub reason: String,
}

impl Sink {
    /// Opens the destinations of a list: sorted, each once, `default` meaning stderr, and nothing
    /// at all when `/dev/null` is among them.
    pub fn open_all(outputs: &[String]) -> Result<Vec<Self>, OpenSinkError> {
        if outputs.iter().any(|output| output == "/dev/null") {
            return Ok(Vec::new());
        }
        let mut names: Vec<&str> = outputs
            .iter()
            .map(|output| if output == "default" { "stderr" } else { output.as_str() })
            .collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter().map(Self::open).collect()
    }

    fn open(name: &str) -> Result<Self, OpenSinkError> {
        match name {
            "stderr" => Ok(Self::Stderr),
            "stdout" => Ok(Self::Stdout),
            path => OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o644)
                .open(path)
                .map(Self::File)
                .map_err(|error| OpenSinkError { path: path.to_owned(), reason: reason(&error) }),
        }
    }

    pub fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Stderr => io::stderr().write_all(line),
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(line)?;
                out.flush()
            }
            Self::File(file) => file.write_all(line),
        }
    }
}

/// The words of the system without Rust's error number, in lower case as Go has them.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut symbols = text.chars();
    match symbols.next() {
        Some(first) => first.to_lowercase().chain(symbols).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(outputs: &[&str]) -> Result<Vec<Sink>, OpenSinkError> {
        Sink::open_all(&outputs.iter().map(|output| (*output).to_owned()).collect::<Vec<_>>())
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
            for sink in &mut Sink::open_all(std::slice::from_ref(&path)).unwrap() {
                sink.write(b"x\n").unwrap();
            }
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"x\nx\n");
    }
}
