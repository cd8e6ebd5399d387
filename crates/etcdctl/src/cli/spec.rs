//! The shape of the command table.

/// The type of a flag's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `--flag` or `--flag=true|false`; never takes the next word.
    Bool,
    /// A signed number; `0x`, `0o`, `0b` prefixes are understood.
    Int,
    /// An unsigned number.
    Uint,
    /// Any text.
    Text,
    /// Comma separated; repeated flags add up.
    List,
    /// `300ms`, `1m30s`.
    Duration,
}

/// One flag.
#[derive(Debug)]
pub struct FlagSpec {
    /// Long name, without dashes.
    pub name: &'static str,
    /// One-letter name.
    pub short: Option<char>,
    /// Type of the value.
    pub kind: Kind,
    /// Default, as it would be written.
    pub default: &'static str,
    /// Help text.
    pub usage: &'static str,
    /// Values that shell completion offers.
    pub choices: &'static [&'static str],
}

impl FlagSpec {
    /// A flag without a short name, with the zero value as its default.
    pub const fn new(name: &'static str, kind: Kind, usage: &'static str) -> Self {
        let default = match kind {
            Kind::Bool => "false",
            Kind::Int | Kind::Uint => "0",
            Kind::Text | Kind::List => "",
            Kind::Duration => "0s",
        };
        Self { name, short: None, kind, default, usage, choices: &[] }
    }

    /// Sets the default.
    pub const fn default(self, default: &'static str) -> Self {
        Self { default, ..self }
    }

    /// Sets the short name.
    pub const fn short(self, short: char) -> Self {
        Self { short: Some(short), ..self }
    }

    /// Sets the values offered by completion.
    pub const fn choices(self, choices: &'static [&'static str]) -> Self {
        Self { choices, ..self }
    }
}

/// A heading of the root help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Below another command.
    None,
    /// Keys, watches, leases.
    KeyValue,
    /// Members and storage.
    Maintenance,
    /// Locks and elections.
    Concurrency,
    /// Users and roles.
    Authentication,
    /// The rest.
    Utility,
}

impl Group {
    /// All headings, in the order of the help.
    pub const HEADINGS: [(Self, &'static str); 5] = [
        (Self::KeyValue, "Key-value commands"),
        (Self::Maintenance, "Cluster maintenance commands"),
        (Self::Concurrency, "Concurrency commands"),
        (Self::Authentication, "Authentication commands"),
        (Self::Utility, "Utility commands"),
    ];
}

/// What a command does; see `commands::run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Run {
    Get,
    Put,
    Del,
    Txn,
    Compaction,
    Watch,
    LeaseGrant,
    LeaseRevoke,
    LeaseTimeToLive,
    LeaseList,
    LeaseKeepAlive,
    AlarmList,
    AlarmDisarm,
    Defrag,
    DowngradeValidate,
    DowngradeEnable,
    DowngradeCancel,
    EndpointHealth,
    EndpointStatus,
    EndpointHashKv,
    MemberAdd,
    MemberRemove,
    MemberUpdate,
    MemberPromote,
    MemberList,
    MoveLeader,
    SnapshotSave,
    Elect,
    Lock,
    AuthEnable,
    AuthDisable,
    AuthStatus,
    UserAdd,
    UserDelete,
    UserGet,
    UserList,
    UserPasswd,
    UserGrantRole,
    UserRevokeRole,
    RoleAdd,
    RoleDelete,
    RoleGet,
    RoleList,
    RoleGrantPermission,
    RoleRevokePermission,
    CheckPerf,
    CheckDatascale,
    MakeMirror,
    Version,
    Options,
    Completion,
    Help,
}

/// One command or group of commands.
#[derive(Debug)]
pub struct CommandSpec {
    /// The word that calls it.
    pub name: &'static str,
    /// What follows the name in the usage line, beginning with a blank if not empty.
    pub arguments: &'static str,
    /// One line for lists.
    pub short: &'static str,
    /// More, for its own help; the short text if empty.
    pub long: &'static str,
    /// Heading in the root help.
    pub group: Group,
    /// Its own flags.
    pub flags: &'static [FlagSpec],
    /// Flags that its sub-commands have too.
    pub persistent: &'static [FlagSpec],
    /// Sub-commands.
    pub children: &'static [CommandSpec],
    /// `None` for a group.
    pub run: Option<Run>,
}

impl CommandSpec {
    /// The child with this name, or the only one whose name begins so.
    pub fn child(&self, word: &[u8]) -> Option<&'static CommandSpec> {
        if let Some(exact) = self.children.iter().find(|child| child.name.as_bytes() == word) {
            return Some(exact);
        }
        let mut candidates = self.children.iter().filter(|child| child.name.as_bytes().starts_with(word));
        candidates.next().filter(|_| candidates.next().is_none())
    }
}
