//! Every command and every flag.

use cli::{Arguments, CommandSpec, FlagSpec, Kind, complete};

use crate::commands::Run;

type Command = CommandSpec<Run>;

const fn command(name: &'static str, arguments: &'static str, run: Run, short: &'static str) -> Command {
    Command::command(name, arguments, run, short)
}

/// Flags of every command.
static GLOBAL: &[FlagSpec] = &[
    FlagSpec::new("timeout", Kind::Duration, "how long to wait for the lock of a database, 0 for ever")
        .default("10s"),
    FlagSpec::new("write-out", Kind::Text, "output format: fields, json, protobuf, simple or table")
        .short('w')
        .default("simple")
        .choices(&["fields", "json", "protobuf", "simple", "table"]),
];

const DATA_DIR: FlagSpec = FlagSpec::path("data-dir", "data directory of a stopped member").required();
const WAL_DIR: FlagSpec =
    FlagSpec::path("wal-dir", "directory of its log (default: inside the data directory)");

static RESTORE_FLAGS: &[FlagSpec] = &[
    FlagSpec::path("data-dir", "directory to make (default: the name with .etcd behind it)"),
    FlagSpec::path("wal-dir", "directory for the log (default: inside the data directory)"),
    FlagSpec::new("initial-cluster", Kind::Text, "names and peer URLs of all members of the new cluster")
        .default("default=http://localhost:2380"),
    FlagSpec::new("initial-cluster-token", Kind::Text, "token of the new cluster").default("etcd-cluster"),
    FlagSpec::new("initial-advertise-peer-urls", Kind::Text, "peer URLs of this member")
        .default("http://localhost:2380"),
    FlagSpec::new("name", Kind::Text, "name of this member").default("default"),
    FlagSpec::new(
        "skip-hash-check",
        Kind::Bool,
        "do not compare the checksum (needed for a database copied from a data directory)",
    ),
    FlagSpec::new(
        "initial-memory-map-size",
        Kind::Uint,
        "bytes of address space for the database, 0 for the default",
    )
    .default("10737418240"),
    FlagSpec::new("bump-revision", Kind::Uint, "how much to raise the newest revision"),
    FlagSpec::new(
        "mark-compacted",
        Kind::Bool,
        "mark the raised revision as compacted (goes with --bump-revision)",
    ),
];

static MIGRATE_FLAGS: &[FlagSpec] = &[
    DATA_DIR,
    FlagSpec::new("target-version", Kind::Text, "version to make the files fit for, as X.Y, 3.5 or later")
        .required(),
    FlagSpec::new("force", Kind::Bool, "override the stored version even if the files may not fit"),
];

static FILES: &[FlagSpec] = &[DATA_DIR, WAL_DIR];

static RESET_ROOT_FLAGS: &[FlagSpec] = &[
    DATA_DIR,
    FlagSpec::new("new-password", Kind::Text, "the password (default: asked for, or a line of stdin)"),
    FlagSpec::new("bcrypt-cost", Kind::Uint, "cost of its hash, 4 to 31").default("10"),
];

static AUTH_DISABLE_FLAGS: &[FlagSpec] = &[
    DATA_DIR,
    FlagSpec::new("on-every-member", Kind::Bool, "all members are stopped, and this is done on each of them"),
];

static BACKUP_FLAGS: &[FlagSpec] = &[
    FlagSpec::path("data-dir", "not used"),
    FlagSpec::path("wal-dir", "not used"),
    FlagSpec::path("backup-dir", "not used"),
    FlagSpec::path("backup-wal-dir", "not used"),
    FlagSpec::new("with-v3", Kind::Bool, "not used").default("true"),
];

/// The program.
pub static ROOT: Command = Command::group(
    "etcdutl",
    "The tool for files of retcd and etcd: snapshots, and data directories of stopped members.",
    &[
        command("defrag", "", Run::Defrag, "Removes the holes from the database of a stopped member")
            .flags(&[DATA_DIR]),
        Command::group(
            "snapshot",
            "Looks at snapshots and restores them",
            &[
                command(
                    "restore",
                    " <filename> --data-dir {output dir} [options]",
                    Run::SnapshotRestore,
                    "Makes the data directory of a member out of a snapshot",
                )
                .flags(RESTORE_FLAGS)
                .offers(Arguments::Files),
                command("status", " <filename>", Run::SnapshotStatus, "Shows what a snapshot holds")
                    .long(
                        "Checks the structure of a snapshot and shows what it holds. In the simple format the \
                         items are\nhash, newest revision, number of keys, size, storage version.\n",
                    )
                    .offers(Arguments::Files),
            ],
        ),
        command("hashkv", " <filename>", Run::HashKv, "Hashes the history of the keys in a file")
            .flags(&[FlagSpec::new("rev", Kind::Int, "newest revision to hash (default: all)")])
            .offers(Arguments::Files)
            .exactly(1),
        command("version", "", Run::Version, "Shows the version of etcdutl"),
        command(
            "completion",
            " [bash|zsh|fish|powershell]",
            Run::Completion,
            "Prints a script for shell completion",
        )
        .offers(Arguments::Words(complete::SHELLS))
.exactly(1)
        .long(
            "Prints a script that teaches a shell to complete etcdutl's commands and flags. To use it now:\n\n  \
             bash:        source <(etcdutl completion bash)\n  \
             zsh:         source <(etcdutl completion zsh)\n  \
             fish:        etcdutl completion fish | source\n  \
             powershell:  etcdutl completion powershell | Out-String | Invoke-Expression\n\n\
             To use it always, save the script where the shell looks for completions.\n",
        ),
        command("migrate", "", Run::Migrate, "Makes the files of a stopped member fit for another version")
            .flags(MIGRATE_FLAGS),
        Command {
            children: &[command(
                "v2store",
                "",
                Run::CheckV2Store,
                "Looks for user data of etcd 2 (there never is any)",
            )
            .flags(FILES)],
            ..command("check", "", Run::Check, "Checks the files of a stopped member and says whether it can start")
                .flags(FILES)
                .long(
                    "Checks database, log and snapshots of a stopped member, each by itself and all together, and\n\
                     says in plain words whether the member can be started. Changes nothing. Exit code 1 if not.\n\
                     Formats: simple, json.\n",
                )
        },
        Command::group(
            "dump",
            "Prints a database or a log as JSON, one record per line",
            &[
                command("db", " <filename>", Run::DumpDb, "Prints every record of a database or a snapshot")
                    .offers(Arguments::Files)
                    .exactly(1),
                command("wal", " <directory>", Run::DumpWal, "Prints every record of the log in a directory")
                    .offers(Arguments::Files)
                    .exactly(1),
            ],
        ),
        Command::group(
            "auth",
            "Lets a stopped member's administrator in again",
            &[
                command("reset-root", "", Run::AuthResetRoot, "Gives root a new password")
                    .flags(RESET_ROOT_FLAGS)
                    .long(
                        "Gives root a new password in the data directory of a stopped member, for when nobody knows the\n\
                         old one. Asks for it twice, or reads a line from stdin. In a cluster only this member knows\n\
                         the new password then: log in through it and run `etcdctl user passwd root`.\n",
                    ),
                command("disable", "", Run::AuthDisable, "Switches authentication off")
                    .flags(AUTH_DISABLE_FLAGS)
                    .long(
                        "Switches authentication off in the data directory of a stopped member. In a cluster all members\n\
                         must be stopped, and this run on each, before any of them starts again.\n",
                    ),
            ],
        ),
        command("backup", "", Run::Backup, "Gone since etcd 3.6; says what to use instead").flags(BACKUP_FLAGS),
        command("help", " [command]", Run::Help, "Help about any command")
            .offers(Arguments::Topics)
            .long("Help about any command: etcdutl help [path to command].\n"),
    ],
)
.persistent(GLOBAL);
