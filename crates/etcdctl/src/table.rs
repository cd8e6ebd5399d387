//! Every command and every flag.
//!
//! The order of commands is upstream's: suggestions for a mistyped word follow it, help is sorted.

use cli::{Arguments, CommandSpec, FlagSpec, Kind, complete};

use crate::commands::Run;

const CONSISTENCY: FlagSpec =
    FlagSpec::new("consistency", Kind::Text, "linearizable (l) or serializable (s)")
        .default("l")
        .choices(&["l", "s"]);
const CLUSTER: FlagSpec =
    FlagSpec::new("cluster", Kind::Bool, "ask the member list for the endpoints of all members");

const KEY_VALUE: &str = "Key-value commands";
const MAINTENANCE: &str = "Cluster maintenance commands";
const CONCURRENCY: &str = "Concurrency commands";
const AUTHENTICATION: &str = "Authentication commands";
const UTILITY: &str = "Utility commands";

type Command = CommandSpec<Run>;

const fn group(
    name: &'static str,
    heading: &'static str,
    short: &'static str,
    children: &'static [Command],
) -> Command {
    Command::group(name, short, children).under(heading)
}

const fn command(name: &'static str, arguments: &'static str, run: Run, short: &'static str) -> Command {
    Command::command(name, arguments, run, short)
}

/// Flags of every command; each has an environment variable.
pub static GLOBAL: &[FlagSpec] = &[
    FlagSpec::new("endpoints", Kind::List, "addresses of the members to talk to").default("127.0.0.1:2379"),
    FlagSpec::new("debug", Kind::Bool, "show what the client does"),
    FlagSpec::new("write-out", Kind::Text, "output format: fields, json, protobuf, simple or table")
        .short('w')
        .default("simple")
        .choices(&["fields", "json", "protobuf", "simple", "table"]),
    FlagSpec::new("hex", Kind::Bool, "show keys, values and ids in hexadecimal"),
    FlagSpec::new("dial-timeout", Kind::Duration, "limit for one attempt to connect").default("2s"),
    FlagSpec::new("command-timeout", Kind::Duration, "limit for a short command, connecting excluded")
        .default("5s"),
    FlagSpec::new("keepalive-time", Kind::Duration, "how often a quiet connection is probed").default("2s"),
    FlagSpec::new("keepalive-timeout", Kind::Duration, "how long a probe may stay unanswered").default("6s"),
    FlagSpec::new("max-request-bytes", Kind::Int, "largest request sent (0 means 2 MiB)"),
    FlagSpec::new("max-recv-bytes", Kind::Int, "largest answer accepted (0 means 2^31-1)"),
    FlagSpec::new("insecure-transport", Kind::Bool, "plain text when no TLS file is given").default("true"),
    FlagSpec::new("insecure-discovery", Kind::Bool, "accept SRV records of the plain service")
        .default("true"),
    FlagSpec::new(
        "insecure-skip-tls-verify",
        Kind::Bool,
        "do not verify the server's certificate (tests only)",
    ),
    FlagSpec::path("cert", "client certificate, a PEM file"),
    FlagSpec::path("key", "key of the client certificate, a PEM file"),
    FlagSpec::path("cacert", "certificates that may sign the server's, a PEM file"),
    FlagSpec::new("auth-jwt-token", Kind::Text, "token to authenticate with, instead of user and password"),
    FlagSpec::new("user", Kind::Text, "name[:password] to authenticate with; asks for a missing password"),
    FlagSpec::new("password", Kind::Text, "password to authenticate with; --user has none then"),
    FlagSpec::new("discovery-srv", Kind::Text, "domain whose SRV records name the endpoints").short('d'),
    FlagSpec::new("discovery-srv-name", Kind::Text, "suffix of the service in SRV records"),
];

/// Flags of `get`; lines of `txn` know them too.
static GET_FLAGS: &[FlagSpec] = &[
    CONSISTENCY,
    FlagSpec::new("order", Kind::Text, "ASCEND or DESCEND; sorts by key unless --sort-by says otherwise")
        .choices(&["ASCEND", "DESCEND"]),
    FlagSpec::new("sort-by", Kind::Text, "CREATE, KEY, MODIFY, VALUE or VERSION")
        .choices(&["CREATE", "KEY", "MODIFY", "VALUE", "VERSION"]),
    FlagSpec::new("limit", Kind::Int, "show no more results than this"),
    FlagSpec::new("prefix", Kind::Bool, "all keys that begin with the key"),
    FlagSpec::new("from-key", Kind::Bool, "all keys from the key on"),
    FlagSpec::new("rev", Kind::Int, "read as of this revision"),
    FlagSpec::new("keys-only", Kind::Bool, "keys without values"),
    FlagSpec::new("count-only", Kind::Bool, "only the number of keys"),
    FlagSpec::new("print-value-only", Kind::Bool, "values without keys, in the simple format"),
    FlagSpec::new("min-create-rev", Kind::Int, "keys created at this revision or later"),
    FlagSpec::new("max-create-rev", Kind::Int, "keys created at this revision or earlier"),
    FlagSpec::new("min-mod-rev", Kind::Int, "keys changed last at this revision or later"),
    FlagSpec::new("max-mod-rev", Kind::Int, "keys changed last at this revision or earlier"),
    FlagSpec::new("stream", Kind::Bool, "use the streaming call"),
];

static PUT_FLAGS: &[FlagSpec] = &[
    FlagSpec::new("lease", Kind::Text, "lease to attach the key to, in hexadecimal").default("0"),
    FlagSpec::new("prev-kv", Kind::Bool, "show the key and value as they were"),
    FlagSpec::new("ignore-value", Kind::Bool, "keep the value, change only the lease"),
    FlagSpec::new("ignore-lease", Kind::Bool, "keep the lease, change only the value"),
];

static DEL_FLAGS: &[FlagSpec] = &[
    FlagSpec::new("prefix", Kind::Bool, "all keys that begin with the key"),
    FlagSpec::new("prev-kv", Kind::Bool, "show what was deleted"),
    FlagSpec::new("from-key", Kind::Bool, "all keys from the key on"),
    FlagSpec::new("range", Kind::Bool, "delete a range without the delay for second thoughts"),
];

/// Flags of `watch`; lines of `watch -i` know them too.
pub static WATCH_FLAGS: &[FlagSpec] = &[
    FlagSpec::new("interactive", Kind::Bool, "read watches from stdin").short('i'),
    FlagSpec::new("prefix", Kind::Bool, "all keys that begin with the key"),
    FlagSpec::new("rev", Kind::Int, "start with the events of this revision"),
    FlagSpec::new("prev-kv", Kind::Bool, "show the key and value as they were before"),
    FlagSpec::new("progress-notify", Kind::Bool, "show how far the watch is when nothing happens"),
    FlagSpec::new("filter-put", Kind::Bool, "drop PUT events; --filter-put=false shows PUT events only"),
    FlagSpec::new(
        "filter-delete",
        Kind::Bool,
        "drop DELETE events; --filter-delete=false shows DELETE events only",
    ),
];

const GET: Command =
    command("get", " [options] <key> [range_end]", Run::Get, "Reads a key or a range of keys")
        .flags(GET_FLAGS);
const PUT: Command = command(
    "put",
    " [options] <key> <value> (<value> can also be given from stdin)",
    Run::Put,
    "Writes a key",
)
.long(
    "Writes a key. Without a value on the command line, all of stdin is the value.\n\n\
     A key or value that begins with '-' needs '--' in front:\n\n  \
     etcdctl put -- <key> <value>\n",
)
.flags(PUT_FLAGS);
const DEL: Command = command(
    "del",
    " [options] <key> [range_end]",
    Run::Del,
    "Deletes a key or a range of keys [key, range_end)",
)
.flags(DEL_FLAGS);

/// The commands that lines of a transaction may hold.
pub static TXN_ROOT: Command = group("", "", "", &[PUT, GET, DEL]);

const INTERACTIVE_PASSWORD: FlagSpec = FlagSpec::new(
    "interactive",
    Kind::Bool,
    "ask for the password twice; false: take the first word of stdin",
)
.default("true");

static PERMISSION_FLAGS: &[FlagSpec] = &[
    FlagSpec::new("prefix", Kind::Bool, "all keys that begin with the key"),
    FlagSpec::new("from-key", Kind::Bool, "all keys from the key on"),
];

const PEER_URLS: FlagSpec = FlagSpec::new("peer-urls", Kind::Text, "comma separated URLs for other members");

const AUTO_COMPACT: FlagSpec = FlagSpec::new("auto-compact", Kind::Bool, "compact when done");
const AUTO_DEFRAG: FlagSpec = FlagSpec::new("auto-defrag", Kind::Bool, "defragment when done");
const LOAD: FlagSpec = FlagSpec::new("load", Kind::Text, "s(mall), m(edium), l(arge) or xl (xLarge)")
    .default("s")
    .choices(&["small", "medium", "large", "xLarge"]);

/// The program.
pub static ROOT: Command = group(
    "etcdctl",
    "",
    "The command-line client of retcd and etcd.",
    &[
        GET.under(KEY_VALUE),
        PUT.under(KEY_VALUE),
        DEL.under(KEY_VALUE),
        command("txn", " [options]", Run::Txn, "Runs several requests in one transaction")
            .under(KEY_VALUE)
            .long(
                "Reads three blocks of lines from stdin, each ended by an empty line, and runs them as one\n\
                 transaction: conditions, requests for the case that all conditions hold, requests for the\n\
                 case that one does not.\n\n\
                 Conditions:  mod(\"key1\") > \"0\"    (also ver, create, value, lease; =, !=, <, >)\n\
                 Requests:    put key1 \"a value\"    (also get and del, with their flags)\n",
            )
            .flags(&[FlagSpec::new("interactive", Kind::Bool, "prompt for the blocks").short('i')]),
        command("compaction", " [options] <revision>", Run::Compaction, "Drops history before a revision")
            .under(KEY_VALUE)
            .flags(&[FlagSpec::new("physical", Kind::Bool, "wait until the old revisions are gone from disk")]),
        group(
            "alarm",
            MAINTENANCE,
            "Alarms; see `etcdctl alarm --help`",
            &[
                command("disarm", "", Run::AlarmDisarm, "Clears all alarms"),
                command("list", "", Run::AlarmList, "Lists all alarms"),
            ],
        ),
        command("defrag", "", Run::Defrag, "Defragments the database of the given endpoints")
            .under(MAINTENANCE)
            .persistent(&[CLUSTER]),
        group(
            "endpoint",
            MAINTENANCE,
            "State of single endpoints; see `etcdctl endpoint --help`",
            &[
                command("health", "", Run::EndpointHealth, "Checks that each endpoint can commit"),
                command("status", "", Run::EndpointStatus, "Shows the status of each endpoint"),
                command("hashkv", "", Run::EndpointHashKv, "Shows the hash of the history at each endpoint")
                    .persistent(&[FlagSpec::new("rev", Kind::Int, "hash up to this revision (0 means the newest)")]),
            ],
        )
        .persistent(&[CLUSTER]),
        command(
            "move-leader",
            " <transferee-member-id>",
            Run::MoveLeader,
            "Makes another member the leader",
        )
        .under(MAINTENANCE),
        command(
            "watch",
            " [options] [key or prefix] [range_end] [--] [exec-command arg1 arg2 ...]",
            Run::Watch,
            "Shows changes as they happen",
        )
        .under(KEY_VALUE)
        .flags(WATCH_FLAGS),
        command("version", "", Run::Version, "Shows the version of etcdctl").under(UTILITY),
        group(
            "lease",
            KEY_VALUE,
            "Leases; see `etcdctl lease --help`",
            &[
                command("grant", " <ttl>", Run::LeaseGrant, "Grants a lease"),
                command("revoke", " <leaseID>", Run::LeaseRevoke, "Revokes a lease and deletes its keys"),
                command("timetolive", " <leaseID> [options]", Run::LeaseTimeToLive, "Shows a lease")
                    .flags(&[FlagSpec::new("keys", Kind::Bool, "show the attached keys too")]),
                command("list", "", Run::LeaseList, "Lists all leases"),
                command("keep-alive", " [options] <leaseID>", Run::LeaseKeepAlive, "Renews a lease again and again")
                    .flags(&[FlagSpec::new("once", Kind::Bool, "renew once and end")]),
            ],
        ),
        group(
            "member",
            MAINTENANCE,
            "Members of the cluster; see `etcdctl member --help`",
            &[
                command("add", " <memberName> [options]", Run::MemberAdd, "Adds a member").flags(&[
                    PEER_URLS,
                    FlagSpec::new("learner", Kind::Bool, "the member does not vote until promoted"),
                ]),
                command("remove", " <memberID>", Run::MemberRemove, "Removes a member"),
                command("update", " <memberID> [options]", Run::MemberUpdate, "Changes the URLs of a member")
                    .flags(&[PEER_URLS]),
                command("list", "", Run::MemberList, "Lists all members").flags(&[CONSISTENCY]),
                command("promote", " <memberID>", Run::MemberPromote, "Gives a learner its vote"),
            ],
        ),
        group(
            "snapshot",
            MAINTENANCE,
            "Snapshots of the database of one member",
            &[command("save", " <filename>", Run::SnapshotSave, "Saves a snapshot of the endpoint to a file")
                .offers(Arguments::Files)],
        ),
        command("make-mirror", " [options] <destination>", Run::MakeMirror, "Copies keys to another cluster, for ever")
            .under(UTILITY)
            .flags(&[
                FlagSpec::new("prefix", Kind::Text, "copy keys that begin so"),
                FlagSpec::new("rev", Kind::Int, "skip the first copy, follow from this revision"),
                FlagSpec::new("max-txn-ops", Kind::Uint, "largest transaction sent to the destination")
                    .default("128"),
                FlagSpec::new("dest-prefix", Kind::Text, "replaces the prefix at the destination"),
                FlagSpec::new("no-dest-prefix", Kind::Bool, "cuts the prefix off at the destination"),
                FlagSpec::path("dest-cert", "client certificate for the destination, a PEM file"),
                FlagSpec::path("dest-key", "key of that certificate, a PEM file"),
                FlagSpec::path("dest-cacert", "certificates that may sign the destination's, a PEM file"),
                FlagSpec::new("dest-insecure-transport", Kind::Bool, "plain text when no TLS file is given")
                    .default("true"),
                FlagSpec::new("dest-user", Kind::Text, "name[:password] at the destination"),
                FlagSpec::new("dest-password", Kind::Text, "password at the destination"),
            ]),
        command("lock", " <lockname> [exec-command arg1 arg2 ...]", Run::Lock, "Takes a lock")
            .under(CONCURRENCY)
            .flags(&[FlagSpec::new("ttl", Kind::Int, "seconds that the lock outlives this program").default("10")]),
        command("elect", " <election-name> [proposal]", Run::Elect, "Stands for election, or watches one")
            .under(CONCURRENCY)
            .flags(&[FlagSpec::new("listen", Kind::Bool, "show the leaders instead of standing").short('l')]),
        group(
            "auth",
            AUTHENTICATION,
            "Switches authentication; see `etcdctl auth --help`",
            &[
                command("enable", "", Run::AuthEnable, "Switches authentication on"),
                command("disable", "", Run::AuthDisable, "Switches authentication off"),
                command("status", "", Run::AuthStatus, "Shows whether authentication is on"),
            ],
        ),
        group(
            "user",
            AUTHENTICATION,
            "Users; see `etcdctl user --help`",
            &[
                command("add", " <user name or user:password> [options]", Run::UserAdd, "Adds a user").flags(&[
                    INTERACTIVE_PASSWORD,
                    FlagSpec::new("new-user-password", Kind::Text, "password of the new user"),
                    FlagSpec::new("no-password", Kind::Bool, "the user can log in only with a certificate"),
                ]),
                command("delete", " <user name>", Run::UserDelete, "Deletes a user"),
                command("get", " <user name> [options]", Run::UserGet, "Shows the roles of a user")
                    .flags(&[FlagSpec::new("detail", Kind::Bool, "show what the roles permit")]),
                command("list", "", Run::UserList, "Lists all users"),
                command("passwd", " <user name> [options]", Run::UserPasswd, "Changes a password")
                    .flags(&[INTERACTIVE_PASSWORD]),
                command("grant-role", " <user name> <role name>", Run::UserGrantRole, "Gives a user a role"),
                command("revoke-role", " <user name> <role name>", Run::UserRevokeRole, "Takes a role from a user"),
            ],
        ),
        group(
            "role",
            AUTHENTICATION,
            "Roles; see `etcdctl role --help`",
            &[
                command("add", " <role name>", Run::RoleAdd, "Adds a role"),
                command("delete", " <role name>", Run::RoleDelete, "Deletes a role"),
                command("get", " <role name>", Run::RoleGet, "Shows what a role permits"),
                command("list", "", Run::RoleList, "Lists all roles"),
                command(
                    "grant-permission",
                    " [options] <role name> <permission type> <key> [endkey]",
                    Run::RoleGrantPermission,
                    "Permits a role to read or write keys",
                )
                .flags(PERMISSION_FLAGS),
                command(
                    "revoke-permission",
                    " <role name> <key> [endkey]",
                    Run::RoleRevokePermission,
                    "Takes a permission from a role",
                )
                .flags(PERMISSION_FLAGS),
            ],
        ),
        group(
            "check",
            UTILITY,
            "Tests what a cluster can do; see `etcdctl check --help`",
            &[
                command("perf", " [options]", Run::CheckPerf, "Writes at a steady rate for a minute").flags(&[
                    LOAD,
                    FlagSpec::new("prefix", Kind::Text, "where to write").default("/etcdctl-check-perf/"),
                    AUTO_COMPACT,
                    AUTO_DEFRAG,
                ]),
                command("datascale", " [options]", Run::CheckDatascale, "Shows how much memory keys take").flags(&[
                    LOAD,
                    FlagSpec::new("prefix", Kind::Text, "where to write").default("/etcdctl-check-datascale/"),
                    AUTO_COMPACT,
                    AUTO_DEFRAG,
                ]),
            ],
        ),
        command("completion", " [bash|zsh|fish|powershell]", Run::Completion, "Prints a script for shell completion")
            .under(UTILITY)
            .offers(Arguments::Words(complete::SHELLS))
.exactly(1)
            .long(
                "Prints a script that teaches a shell to complete etcdctl's commands and flags. To use it now:\n\n  \
                 bash:        source <(etcdctl completion bash)\n  \
                 zsh:         source <(etcdctl completion zsh)\n  \
                 fish:        etcdctl completion fish | source\n  \
                 powershell:  etcdctl completion powershell | Out-String | Invoke-Expression\n\n\
                 To use it always, save the script where the shell looks for completions.\n",
            ),
        group(
            "downgrade",
            MAINTENANCE,
            "Downgrades; see `etcdctl downgrade --help`",
            &[
                command("validate", " <TARGET_VERSION>", Run::DowngradeValidate, "Checks whether a downgrade could start"),
                command("enable", " <TARGET_VERSION>", Run::DowngradeEnable, "Starts a downgrade"),
                command("cancel", "", Run::DowngradeCancel, "Calls a downgrade off"),
            ],
        ),
        command("options", "", Run::Options, "Shows the flags that all commands have").under(UTILITY),
        command("help", " [command]", Run::Help, "Help about any command")
            .under(UTILITY)
            .offers(Arguments::Topics)
            .long("Help about any command: etcdctl help [path to command].\n"),
    ],
)
.persistent(GLOBAL)
.headings(&[KEY_VALUE, MAINTENANCE, CONCURRENCY, AUTHENTICATION, UTILITY]);

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use cli::complete::complete;
    use cli::help::{help, usage};
    use cli::parse::parse;
    use cli::{Flags, Invocation, Outcome};

    use crate::GLOBAL_FLAGS;

    fn visit(path: &mut Vec<&'static Command>, seen: &mut usize) {
        // Building the flags parses every default.
        Flags::of(path);
        let here = *path.last().unwrap();
        assert_eq!(here.run.is_none(), !here.children.is_empty(), "{} is a group or a command", here.name);
        *seen += 1;
        for child in here.children {
            path.push(child);
            visit(path, seen);
            path.pop();
        }
    }

    #[test]
    fn the_table_is_well_formed() {
        let mut seen = 0;
        visit(&mut vec![&ROOT], &mut seen);
        assert!(seen > 60, "only {seen} commands");
        assert!(ROOT.children.iter().all(|child| ROOT.headings.contains(&child.heading)));
    }

    fn line(line: &str) -> Outcome<Run> {
        let words: Vec<Bytes> = line
            .split(' ')
            .filter(|word| !word.is_empty())
            .map(|word| Bytes::copy_from_slice(word.as_bytes()))
            .collect();
        parse(&ROOT, &words)
    }

    fn run(text: &str) -> Invocation<Run> {
        match line(text) {
            Outcome::Run(invocation) => invocation,
            other => panic!("{text:?} became {other:?}"),
        }
    }

    fn check_failure(text: &str, expected: &str) {
        match line(text) {
            Outcome::Usage(text, _) | Outcome::UnknownCommand(text) => assert_eq!(text, expected),
            other => panic!("{text:?} became {other:?}"),
        }
    }

    #[test]
    fn flags_stand_anywhere() {
        let invocation = run("--endpoints a:1,b:2 -w json get k --endpoints=c:3 --limit 0x10 --prefix=f e");
        assert_eq!(invocation.command().name, "get");
        assert_eq!(invocation.args, ["k", "e"]);
        assert_eq!(invocation.flags.list("endpoints"), ["a:1", "b:2", "c:3"]);
        assert_eq!(invocation.flags.int("limit"), 16);
        assert!(!invocation.flags.bool("prefix") && invocation.flags.is_given("prefix"));
        assert_eq!(invocation.flags.text("write-out"), "json");
    }

    #[test]
    fn words_may_be_cut_and_dashes_end_flags() {
        assert_eq!(run("mem li").command().name, "list");
        let invocation = run("pu k -- -v --x");
        assert_eq!(invocation.args, ["k", "-v", "--x"]);
        assert_eq!(invocation.before_dash, Some(1));
        // A value before the command, which is not mistaken for the command.
        assert_eq!(run("-w get put k").command().name, "put");
        assert_eq!(run("elect -lwjson e").flags.text("write-out"), "json");
    }

    #[test]
    fn what_pflag_refuses() {
        check_failure("get --bogus k", "unknown flag: --bogus");
        check_failure("get -x k", "unknown shorthand flag: 'x' in -x");
        check_failure("get k -w", "flag needs an argument: 'w' in -w");
        check_failure("get k --rev", "flag needs an argument: --rev");
        check_failure("get k --=3", "bad flag syntax: --=3");
        check_failure(
            "get k --rev x",
            "invalid argument \"x\" for \"--rev\" flag: strconv.ParseInt: parsing \"x\": invalid syntax",
        );
        check_failure(
            "get k --prefix=maybe",
            "invalid argument \"maybe\" for \"--prefix\" flag: strconv.ParseBool: parsing \"maybe\": invalid syntax",
        );
        check_failure("bogus", "unknown command \"bogus\" for \"etcdctl\"");
        check_failure("gte", "unknown command \"gte\" for \"etcdctl\"\n\nDid you mean this?\n\tget\n");
        check_failure(
            "e k",
            "unknown command \"e\" for \"etcdctl\"\n\nDid you mean this?\n\tget\n\tdel\n\tendpoint\n\telect\n",
        );
    }

    #[test]
    fn groups_show_help_whatever_follows() {
        for text in
            ["", "--help", "lease", "lease bogus", "snapshot status x.db", "get --help k", "lease -h grant"]
        {
            assert!(matches!(line(text), Outcome::Help(_)), "{text:?}");
        }
    }

    #[test]
    fn the_root_help_has_all_headings_and_no_flags() {
        let text = help(&[&ROOT], GLOBAL_FLAGS);
        for heading in ROOT.headings {
            assert!(text.contains(&format!("\n\n{heading}\n  ")), "{heading}");
        }
        assert!(!text.contains("Flags:"));
        assert!(text.ends_with("(applies to all commands).\n"));
        assert!(text.contains("\n  make-mirror "));
    }

    #[test]
    fn the_help_of_a_command_below_a_group() {
        let endpoint = ROOT.child(b"endpoint").unwrap();
        let hashkv = endpoint.child(b"hashkv").unwrap();
        let text = usage(&[&ROOT, endpoint, hashkv], GLOBAL_FLAGS);
        let expected = "Usage:\n  etcdctl endpoint hashkv [flags]\n\nFlags:\n  -h, --help      help for hashkv\n      --rev int   ";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.contains("\n\nGlobal Flags:\n      --cluster   "), "{text}");
    }

    fn check_candidates(line: &[&'static str], expected: &str) {
        let words: Vec<Bytes> = line.iter().map(|word| Bytes::from_static(word.as_bytes())).collect();
        assert_eq!(complete(&ROOT, &words, false), expected, "{line:?}");
    }

    #[test]
    fn candidates_come_from_the_table() {
        check_candidates(&["le"], "lease\n:4\n");
        check_candidates(&["lease", ""], "grant\nkeep-alive\nlist\nrevoke\ntimetolive\n:4\n");
        check_candidates(&["get", "--order", ""], "ASCEND\nDESCEND\n:4\n");
        check_candidates(&["-w", "j"], "json\n:4\n");
        check_candidates(&["--write-out=t"], "--write-out=table\n:4\n");
        check_candidates(&["get", "k", "--min"], "--min-create-rev\n--min-mod-rev\n:4\n");
        check_candidates(&["snapshot", "save", ""], ":0\n");
        check_candidates(&["completion", "f"], "fish\n:4\n");
        check_candidates(&["help", "mem"], "member\n:4\n");
        check_candidates(&["help", "member", "a"], "add\n:4\n");
    }
}
