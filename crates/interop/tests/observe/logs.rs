//! Where records go: files that rotate, the journal.

use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use interop::cluster::{ctl, eventually};
use interop::member::Member;

use crate::{get, plain};

fn old_logs(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = entries.collect::<Result<Vec<_>, _>>()?;
    paths.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("etcd-20")));
    paths.sort();
    Ok(paths)
}

/// A large key makes large records: thirty puts are several megabytes.
#[test]
fn a_full_log_is_moved_aside_compressed_and_counted() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let log = dir.path().join("etcd.log");
    let outputs = format!("--log-outputs={}", log.display());
    let args = [
        outputs.as_str(),
        "--enable-log-rotation",
        "--log-rotation-config-json={\"maxsize\": 1, \"maxbackups\": 2, \"compress\": true}",
        "--warning-apply-duration=1ns",
        "--warning-unary-request-duration=1ns",
    ];
    let member = Member::start(&plain(), &args)?;
    let key = "k".repeat(100_000);
    for _ in 0..30 {
        ctl(&member).run(&["put", &key, "v"])?.success()?;
    }
    let mut old = Vec::new();
    eventually("two compressed old logs", || {
        old = old_logs(dir.path())?;
        Ok(old.len() == 2 && old.iter().all(|path| path.extension().is_some_and(|end| end == "gz")))
    })?;
    for path in &old {
        let mut text = String::new();
        flate2::read::GzDecoder::new(std::fs::File::open(path)?).read_to_string(&mut text)?;
        ensure!(text.len() <= 1 << 20 && text.ends_with('\n'), "{}: {} bytes", path.display(), text.len());
        for line in text.lines() {
            serde_json::from_str::<serde_json::Value>(line).context("a record was cut")?;
        }
    }
    ensure!(log.metadata()?.len() <= 1 << 20);
    Ok(())
}

/// Where nothing stands in for the journal on this machine, the test does; where that is not allowed,
/// there is no journal and the start is refused.
#[test]
fn records_reach_the_journal() -> anyhow::Result<()> {
    const SOCKET: &str = "/run/systemd/journal/socket";
    let refused = |text: &str| {
        let want = "can't find journal (dial unixgram /run/systemd/journal/socket: connect: ";
        text.contains(want)
    };
    if Path::new(SOCKET).exists() {
        // The machine's own journal: that the member starts and logs nothing else is all there is to see.
        let member = Member::start(&plain(), &["--log-outputs=systemd/journal"])?;
        ensure!(std::fs::read_to_string(member.log_file())?.is_empty(), "{}", member.log_tail());
        return Ok(());
    }
    let output = Command::new(plain().path).arg("--log-outputs=systemd/journal").env_clear().output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1) && refused(&text), "{text}");
    let made = std::fs::create_dir_all("/run/systemd/journal").and_then(|()| UnixDatagram::bind(SOCKET));
    let journal = match made {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(()),
        made => made?,
    };
    let seen = (|| {
        let (sender, records) = std::sync::mpsc::channel();
        // Its queue is short: somebody has to read while the member starts. Ends with the process.
        std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(length) = journal.recv(&mut buffer) {
                if sender.send(String::from_utf8_lossy(&buffer[..length]).into_owned()).is_err() {
                    return;
                }
            }
        });
        let member = Member::start(&plain(), &["--log-outputs=systemd/journal"])?;
        loop {
            let text = records.recv_timeout(Duration::from_secs(20)).context("the record did not come")?;
            ensure!(text.starts_with("PRIORITY="), "{text}");
            ensure!(text.contains("\nSYSLOG_IDENTIFIER=etcd\nMESSAGE={\"level\":"), "{text}");
            if text.contains("ready to serve client requests") {
                ensure!(text.starts_with("PRIORITY=6\nPACKAGE=server\n"), "{text}");
                break;
            }
        }
        ensure!(get(&member, "/health")?.0 == 200);
        Ok(())
    })();
    std::fs::remove_file(SOCKET)?;
    seen
}
