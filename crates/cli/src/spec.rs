//! The shape of a command table.

/// The type of a flag's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `--flag` or `--flag=true|false`; never takes the next word.
    Bool,
    /// A signed number; `0x`, `0o`, `0b` prefixes are understood.
    Int,
    /// An unsigned number.
    Uint,
    /// An unsigned number of 32 bits.
    Uint32,
    /// Any text.
    Text,
    /// Comma separated; repeated flags add up.
    List,
    /// `300ms`, `1m30s`.
    Duration,
}

/// One flag.
#[derive(Clone, Copy, Debug)]
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
    /// Whether the value is the name of a file or a directory.
    pub is_path: bool,
    /// Whether the command is refused without it.
    pub required: bool,
}

impl FlagSpec {
    /// A flag without a short name, with the zero value as its default.
    pub const fn new(name: &'static str, kind: Kind, usage: &'static str) -> Self {
        let default = match kind {
            Kind::Bool => "false",
            Kind::Int | Kind::Uint | Kind::Uint32 => "0",
            Kind::Text | Kind::List => "",
            Kind::Duration => "0s",
        };
        Self { name, short: None, kind, default, usage, choices: &[], is_path: false, required: false }
    }

    /// A text flag that names a file or a directory.
    pub const fn path(name: &'static str, usage: &'static str) -> Self {
        Self { is_path: true, ..Self::new(name, Kind::Text, usage) }
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

    /// The command is refused without it.
    pub const fn required(self) -> Self {
        Self { required: true, ..self }
    }
}

/// What shell completion offers for the arguments of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arguments {
    /// Nothing that could be known.
    Unknown,
    /// Names of files.
    Files,
    /// These words.
    Words(&'static [&'static str]),
    /// Commands of the program.
    Topics,
}

/// One command or group of commands. `R` says what it does.
#[derive(Clone, Copy, Debug)]
pub struct CommandSpec<R: 'static> {
    /// The word that calls it.
    pub name: &'static str,
    /// What follows the name in the usage line, beginning with a blank if not empty.
    pub arguments: &'static str,
    /// One line for lists.
    pub short: &'static str,
    /// More, for its own help; the short text if empty.
    pub long: &'static str,
    /// Heading above it in its parent's help; empty for none.
    pub heading: &'static str,
    /// Headings of its sub-commands, in the order of the help.
    pub headings: &'static [&'static str],
    /// Its own flags.
    pub flags: &'static [FlagSpec],
    /// Flags that its sub-commands have too.
    pub persistent: &'static [FlagSpec],
    /// Sub-commands.
    pub children: &'static [CommandSpec<R>],
    /// What completion offers behind it.
    pub offers: Arguments,
    /// Number of arguments, if another one is refused before anything else is looked at.
    pub exactly: Option<usize>,
    /// `None` for a group.
    pub run: Option<R>,
}

impl<R: Copy> CommandSpec<R> {
    /// A group of commands.
    pub const fn group(name: &'static str, short: &'static str, children: &'static [Self]) -> Self {
        Self { children, run: None, ..Self::empty(name, short) }
    }

    /// A command.
    pub const fn command(name: &'static str, arguments: &'static str, run: R, short: &'static str) -> Self {
        Self { arguments, run: Some(run), ..Self::empty(name, short) }
    }

    const fn empty(name: &'static str, short: &'static str) -> Self {
        Self {
            name,
            arguments: "",
            short,
            long: "",
            heading: "",
            headings: &[],
            flags: &[],
            persistent: &[],
            children: &[],
            offers: Arguments::Unknown,
            exactly: None,
            run: None,
        }
    }

    /// Sets the heading above it in its parent's help.
    pub const fn under(self, heading: &'static str) -> Self {
        Self { heading, ..self }
    }

    /// Sets the headings of its sub-commands.
    pub const fn headings(self, headings: &'static [&'static str]) -> Self {
        Self { headings, ..self }
    }

    /// Sets its own flags.
    pub const fn flags(self, flags: &'static [FlagSpec]) -> Self {
        Self { flags, ..self }
    }

    /// Sets the flags that its sub-commands have too.
    pub const fn persistent(self, persistent: &'static [FlagSpec]) -> Self {
        Self { persistent, ..self }
    }

    /// Sets its own help.
    pub const fn long(self, long: &'static str) -> Self {
        Self { long, ..self }
    }

    /// Refuses any other number of arguments.
    pub const fn exactly(self, count: usize) -> Self {
        Self { exactly: Some(count), ..self }
    }

    /// Sets what completion offers for its arguments; words are all that is accepted.
    pub const fn offers(self, offers: Arguments) -> Self {
        Self { offers, ..self }
    }
}

impl<R> CommandSpec<R> {
    /// The child with this name, or the only one whose name begins so.
    pub fn child(&self, word: &[u8]) -> Option<&'static CommandSpec<R>> {
        if let Some(exact) = self.children.iter().find(|child| child.name.as_bytes() == word) {
            return Some(exact);
        }
        let mut candidates = self.children.iter().filter(|child| child.name.as_bytes().starts_with(word));
        candidates.next().filter(|_| candidates.next().is_none())
    }
}
