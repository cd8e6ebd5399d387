//! Output formats of the two commands that have any.

use std::io::Write as _;

pub use cli::print::Format;
use cli::print::{json_string, table};
use cli::text::size;

use crate::commands::hash_kv::HashKv;
use crate::commands::status::Status;
use crate::failure::{BAD_FEATURE, Failure};

/// The format of this name.
pub fn format(name: &str) -> Result<Format, Failure> {
    Format::parse(name).ok_or_else(|| Failure::new(BAD_FEATURE, "unsupported output format"))
}

/// Something with a name for each format: in the fields form, as JSON key, in the table.
struct Cell {
    field: &'static str,
    key: &'static str,
    heading: &'static str,
    /// In simple and table.
    shown: String,
    /// In fields and JSON; JSON quotes texts.
    value: String,
    is_text: bool,
}

/// Shows what `snapshot status` found.
pub fn status(format: Format, status: &Status) -> Result<String, Failure> {
    let Status { hash, revision, total_keys, total_bytes, version } = status;
    let cell = |field, key, heading, shown: String, value: String| Cell {
        field,
        key,
        heading,
        shown,
        value,
        is_text: false,
    };
    render(
        format,
        &[
            cell("Hash", "hash", "HASH", format!("{hash:x}"), hash.to_string()),
            cell("Revision", "revision", "REVISION", revision.to_string(), revision.to_string()),
            cell("Keys", "totalKey", "TOTAL KEYS", total_keys.to_string(), total_keys.to_string()),
            cell("Size", "totalSize", "TOTAL SIZE", size(*total_bytes), total_bytes.to_string()),
            Cell { is_text: true, ..cell("Version", "version", "VERSION", version.clone(), version.clone()) },
        ],
    )
}

/// Shows what `hashkv` found.
pub fn hash_kv(format: Format, hash: &HashKv) -> Result<String, Failure> {
    let cell = |field, key, heading, number: i64| Cell {
        field,
        key,
        heading,
        shown: number.to_string(),
        value: number.to_string(),
        is_text: false,
    };
    render(
        format,
        &[
            cell("Hash", "hash", "HASH", hash.hash.into()),
            cell("Hash revision", "hashRevision", "HASH REVISION", hash.hash_revision),
            cell("Compact revision", "compactRevision", "COMPACT REVISION", hash.compact_revision),
        ],
    )
}

fn render(format: Format, cells: &[Cell]) -> Result<String, Failure> {
    let shown = || cells.iter().map(|cell| cell.shown.clone()).collect::<Vec<_>>();
    Ok(match format {
        Format::Simple => shown().join(", ") + "\n",
        Format::Table => table(&cells.iter().map(|cell| cell.heading).collect::<Vec<_>>(), &[shown()]),
        Format::Fields => cells.iter().map(|cell| format!("\"{}\" : {}\n", cell.field, cell.value)).collect(),
        Format::Json => {
            let member = |cell: &Cell| {
                let value = if cell.is_text { json_string(&cell.value) } else { cell.value.clone() };
                format!("\"{}\":{value}", cell.key)
            };
            format!("{{{}}}\n", cells.iter().map(member).collect::<Vec<_>>().join(","))
        }
        Format::Protobuf => {
            return Err(Failure::new(BAD_FEATURE, "protobuf not supported as output format"));
        }
    })
}

/// Writes to stdout. Nobody left to read it: ends the program quietly, as a broken pipe does.
pub fn write_stdout(text: &str) {
    crate::progress::clear();
    let mut stdout = std::io::stdout().lock();
    if stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_err() {
        std::process::exit(141);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_in_all_formats() {
        let found = Status {
            hash: 0x5c9b_5ffc,
            revision: 20,
            total_keys: 1,
            total_bytes: 24_576,
            version: "3.7.0".into(),
        };
        let show = |format| status(format, &found).unwrap();
        assert_eq!(show(Format::Simple), "5c9b5ffc, 20, 1, 25 kB, 3.7.0\n");
        assert_eq!(
            show(Format::Json),
            "{\"hash\":1553686524,\"revision\":20,\"totalKey\":1,\"totalSize\":24576,\"version\":\"3.7.0\"}\n"
        );
        assert_eq!(
            show(Format::Fields),
            "\"Hash\" : 1553686524\n\"Revision\" : 20\n\"Keys\" : 1\n\"Size\" : 24576\n\"Version\" : 3.7.0\n"
        );
        assert_eq!(
            show(Format::Table),
            "\
┌──────────┬──────────┬────────────┬────────────┬─────────┐
│   HASH   │ REVISION │ TOTAL KEYS │ TOTAL SIZE │ VERSION │
├──────────┼──────────┼────────────┼────────────┼─────────┤
│ 5c9b5ffc │       20 │          1 │      25 kB │   3.7.0 │
└──────────┴──────────┴────────────┴────────────┴─────────┘
"
        );
        let refused = status(Format::Protobuf, &found).unwrap_err();
        assert_eq!(refused, Failure::new(4, "protobuf not supported as output format"));
    }

    #[test]
    fn a_hash_in_all_formats() {
        let found = HashKv { hash: 2_832_542_383, hash_revision: 20, compact_revision: -1 };
        let show = |format| hash_kv(format, &found).unwrap();
        assert_eq!(show(Format::Simple), "2832542383, 20, -1\n");
        assert_eq!(show(Format::Json), "{\"hash\":2832542383,\"hashRevision\":20,\"compactRevision\":-1}\n");
        assert_eq!(
            show(Format::Fields),
            "\"Hash\" : 2832542383\n\"Hash revision\" : 20\n\"Compact revision\" : -1\n"
        );
        assert!(show(Format::Table).contains("│    HASH    │ HASH REVISION │ COMPACT REVISION │"));
    }

    #[test]
    fn formats_have_names() {
        assert_eq!(format("table"), Ok(Format::Table));
        assert_eq!(format("yaml"), Err(Failure::new(4, "unsupported output format")));
    }
}
