//! snapshot save.
//!
//! The file appears under its name only when it is complete and on disk: it is written to
//! `<name>.part`, synced, renamed. A target that is a pipe or a device is written directly.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use client::Snapshot;
use types::os_reason;

use crate::failure::{Failure, INTERRUPTED};
use crate::log::{Field, Level, log};
use crate::print::say;
use crate::session::{Session, Settings};
use cli::text;

/// The file is followed by its SHA-256.
const HASH_BYTES: u64 = 32;
const SECTOR_BYTES: u64 = 512;

pub async fn save(session: &mut Session) -> Result<(), Failure> {
    let [name] = &session.invocation.args[..] else {
        return Err(Failure::arguments("snapshot save expects one argument <filename>"));
    };
    let name = name.clone();
    let settings = session.settings()?.logging_as("client");
    let path = PathBuf::from(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&name));
    let version = fetch(&settings, &path).await?;
    let mut lines = format!("Snapshot saved at {}", text::lossy(&name));
    if !version.is_empty() {
        lines.push_str(&format!("\nServer version {version}"));
    }
    // A pipe may be our own stdout; then the lines must not follow the database.
    if is_pipe(&path) {
        eprintln!("{lines}")
    } else {
        say(lines)
    }
    Ok(())
}

fn failed(text: impl ToString) -> Failure {
    Failure::new(INTERRUPTED, text)
}

/// Upstream shows the whole status here, except for a deadline.
fn not_opened(error: client::Error) -> Failure {
    match error {
        client::Error::DeadlineExceeded => failed(error),
        error => failed(error.status_text()),
    }
}

fn is_pipe(path: &Path) -> bool {
    let kind = fs::metadata(path).map(|metadata| metadata.file_type());
    kind.is_ok_and(|kind| kind.is_fifo() || kind.is_char_device() || kind.is_socket())
}

/// A file that is removed unless it was renamed.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

async fn fetch(settings: &Settings, path: &Path) -> Result<String, Failure> {
    let endpoints = &settings.options.endpoints;
    let [endpoint] = &endpoints[..] else {
        let all = endpoints.join(" ");
        return Err(failed(format!("snapshot must be requested to one selected node, not multiple [{all}]")));
    };
    let client = settings.connect().await.map_err(|failure| match failure.code {
        crate::failure::BAD_CONNECTION => Failure { code: INTERRUPTED, ..failure },
        _ => failure,
    })?;
    let client = settings.limited_if_asked(&client);
    if is_pipe(path) {
        let mut file = OpenOptions::new().write(true).open(path).map_err(failed)?;
        let mut snapshot = client.snapshot().await.map_err(not_opened)?;
        copy(&mut snapshot, &mut file, settings).await?;
        return Ok(snapshot.storage_version().to_owned());
    }
    let mut part_name = path.as_os_str().to_owned();
    part_name.push(".part");
    let part = Part(PathBuf::from(part_name));
    let shown_part = part.0.display().to_string();
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part.0).map_err(
            |error| failed(format!("could not open {shown_part} (open {shown_part}: {})", os_reason(&error))),
        )?;
    log(Level::Info, None, "created temporary db file", &[("path", Field::Text(&shown_part))]);

    let start = Instant::now();
    let mut snapshot = client.snapshot().await.map_err(not_opened)?;
    log(Level::Info, Some("client"), "opened snapshot stream; downloading", &[]);
    log(Level::Info, None, "fetching snapshot", &[("endpoint", Field::Text(endpoint))]);
    let size = copy(&mut snapshot, &mut file, settings).await?;
    log(Level::Info, Some("client"), "completed snapshot read; closing", &[]);
    file.sync_all().map_err(|error| failed(format!("could not fsync snapshot: {}", os_reason(&error))))?;
    drop(file);
    let version = snapshot.storage_version().to_owned();
    let fields = [
        ("endpoint", Field::Text(endpoint)),
        ("size", Field::Text(&text::size(size))),
        ("took", Field::Text(&text::duration(start.elapsed()))),
        ("etcd-version", Field::Text(&version)),
    ];
    log(Level::Info, None, "fetched snapshot", &fields);
    let shown = path.display().to_string();
    fs::rename(&part.0, path).map_err(|error| {
        failed(format!(
            "could not rename {shown_part} to {shown} (rename {shown_part} {shown}: {})",
            os_reason(&error)
        ))
    })?;
    sync_directory(path);
    log(Level::Info, None, "saved", &[("path", Field::Text(&shown))]);
    Ok(version)
}

/// Copies the stream and checks that it ends with a hash. Returns the size.
async fn copy(snapshot: &mut Snapshot, file: &mut File, settings: &Settings) -> Result<u64, Failure> {
    let cannot = |error: String| failed(format!("could not write snapshot: {error}"));
    let mut size = 0u64;
    let work = async {
        while let Some(piece) = snapshot.next().await.map_err(|error| cannot(error.to_string()))? {
            file.write_all(&piece).map_err(|error| cannot(os_reason(&error)))?;
            size += piece.len() as u64;
        }
        Ok::<_, Failure>(())
    };
    match settings.explicit_timeout {
        false => work.await?,
        true => match tokio::time::timeout(settings.command_timeout, work).await {
            Ok(result) => result?,
            Err(_) => return Err(cannot(client::Error::DeadlineExceeded.to_string())),
        },
    }
    match size % SECTOR_BYTES {
        HASH_BYTES => Ok(size),
        _ => Err(failed(format!("sha256 checksum not found [bytes: {size}]"))),
    }
}

/// The rename is durable once the directory is. Some file systems cannot sync one: not an error.
fn sync_directory(path: &Path) {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let _ = File::open(parent).and_then(|directory| directory.sync_all());
}
