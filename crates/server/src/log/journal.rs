//! Records to systemd's journal, in its own protocol.
//!
//! One datagram per record: lines `NAME=value`, the message last. A datagram that the socket does not
//! take because of its size goes as a sealed file in memory.
//!
//! Never is the log the reason why a member stands still: nobody waits for the journal. While its queue
//! is full, records are dropped and counted, and the first one that it takes again is followed by the
//! count. When the journal was started anew, it is connected to again; where it is not to be found, a
//! record goes to stderr.
//!
//! **Source**: systemd's "Native Journal Protocol"; the fields are those of etcd
//! `client/pkg/logutil/zap_journal.go`.

use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::Level;

/// Where the journal listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// A connection to the journal.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    socket: UnixDatagram,
    identifier: String,
    /// Records that were dropped since the last count.
    lost: u64,
    /// The last record was taken.
    takes: bool,
}

/// What the journal calls a level.
const fn priority(level: Level) -> u8 {
    match level {
        Level::Debug => 7,
        Level::Info => 6,
        Level::Warn => 4,
        Level::Error => 3,
        Level::DPanic | Level::Panic | Level::Fatal => 2,
    }
}

impl Journal {
    /// Fails where nobody listens.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = open(path)?;
        let program = std::env::args_os().next().unwrap_or_default();
        let identifier = Path::new(&program).file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { path: path.to_owned(), socket, identifier, lost: 0, takes: true })
    }

    /// Sends a record; `directory` is that of its source file.
    pub fn write(&mut self, level: Level, directory: &str, line: &[u8]) -> io::Result<()> {
        let message = line.strip_suffix(b"\n").unwrap_or(line);
        let mut datagram = Vec::with_capacity(message.len() + 96);
        datagram.extend_from_slice(format!("PRIORITY={}\n", priority(level)).as_bytes());
        add(&mut datagram, "PACKAGE", directory.as_bytes());
        add(&mut datagram, "SYSLOG_IDENTIFIER", self.identifier.as_bytes());
        add(&mut datagram, "MESSAGE", message);
        let mut sent = self.send(&datagram);
        if sent.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock)
            && let Ok(socket) = open(&self.path)
        {
            self.socket = socket;
            sent = self.send(&datagram);
        }
        self.takes = sent.is_ok();
        match sent {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.lost += 1;
                Ok(())
            }
            Err(_) => io::stderr().write_all(line),
        }
    }

    /// What was dropped, if the last record was taken. It is forgotten with that.
    pub fn take_lost(&mut self) -> u64 {
        if self.takes { std::mem::take(&mut self.lost) } else { 0 }
    }

    fn send(&self, datagram: &[u8]) -> io::Result<()> {
        match self.socket.send(datagram) {
            Ok(_) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => self.send_file(datagram),
            Err(error) => Err(error),
        }
    }

    fn send_file(&self, datagram: &[u8]) -> io::Result<()> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = std::fs::File::from(memfd_create("journal-record", flags)?);
        file.write_all(datagram)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL)?;
        let file = OwnedFd::from(file);
        let files = [file.as_fd()];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&files));
        sendmsg(&self.socket, &[IoSlice::new(&[])], &mut ancillary, SendFlags::empty())?;
        Ok(())
    }
}

/// A connection that waits for nobody.
fn open(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Adds a field; one with a line break says its length.
fn add(datagram: &mut Vec<u8>, name: &str, value: &[u8]) {
    datagram.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        datagram.push(b'\n');
        datagram.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        datagram.push(b'=');
    }
    datagram.extend_from_slice(value);
    datagram.push(b'\n');
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};
    use std::time::Duration;

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    use super::*;

    fn listen() -> (tempfile::TempDir, UnixDatagram, Journal) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixDatagram::bind(&path).unwrap();
        listener.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let journal = Journal::connect(&path).unwrap();
        (dir, listener, journal)
    }

    #[test]
    fn records_are_datagrams_with_their_priority() {
        let (_dir, listener, mut journal) = listen();
        for (level, priority) in [(Level::Debug, 7), (Level::Warn, 4), (Level::Fatal, 2)] {
            journal.write(level, "server", b"{\"msg\":\"x\"}\n").unwrap();
            let mut buffer = [0; 4096];
            let length = listener.recv(&mut buffer).unwrap();
            let text = std::str::from_utf8(&buffer[..length]).unwrap();
            let want = format!(
                "PRIORITY={priority}\nPACKAGE=server\nSYSLOG_IDENTIFIER={}\nMESSAGE={{\"msg\":\"x\"}}\n",
                journal.identifier
            );
            assert_eq!(text, want);
        }
        let mut datagram = Vec::new();
        add(&mut datagram, "MESSAGE", b"a\nb");
        assert_eq!(datagram, b"MESSAGE\n\x03\0\0\0\0\0\0\0a\nb\n");
    }

    #[test]
    fn a_record_that_is_too_large_comes_as_a_file() {
        let (_dir, listener, mut journal) = listen();
        let line = vec![b'x'; 2 << 20];
        journal.write(Level::Info, "server", &line).unwrap();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        recvmsg(&listener, &mut [], &mut ancillary, RecvFlags::empty()).unwrap();
        let mut files = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(sent) = message {
                files.extend(sent);
            }
        }
        let mut file = std::fs::File::from(files.pop().expect("a file"));
        file.rewind().unwrap();
        let mut content = Vec::new();
        file.read_to_end(&mut content).unwrap();
        assert!(content.starts_with(b"PRIORITY=6\n") && content.ends_with(b"xxx\n"));
        assert!(content.len() > line.len());
    }

    #[test]
    fn a_journal_that_stands_still_costs_records_and_no_time() {
        let (_dir, listener, mut journal) = listen();
        let write = |journal: &mut Journal| journal.write(Level::Info, "server", b"{}\n").unwrap();
        let mut taken = 0;
        while journal.lost < 1000 {
            write(&mut journal);
            taken += u64::from(journal.takes);
        }
        assert_eq!(journal.take_lost(), 0, "there is no room for it");
        for _ in 0..taken {
            listener.recv(&mut [0; 4096]).unwrap();
        }
        write(&mut journal);
        assert_eq!((journal.take_lost(), journal.take_lost()), (1000, 0));
    }

    #[test]
    fn a_journal_that_comes_back_is_found_again() {
        let (dir, listener, mut journal) = listen();
        let path = dir.path().join("socket");
        drop(listener);
        std::fs::remove_file(&path).unwrap();
        journal.write(Level::Info, "server", b"goes to stderr\n").unwrap();
        let listener = UnixDatagram::bind(&path).unwrap();
        listener.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        journal.write(Level::Info, "server", b"again\n").unwrap();
        let mut buffer = [0; 4096];
        let length = listener.recv(&mut buffer).unwrap();
        assert!(buffer[..length].ends_with(b"MESSAGE=again\n"));
    }

    #[test]
    fn nobody_listens() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Journal::connect(&dir.path().join("socket")).is_err());
    }
}
