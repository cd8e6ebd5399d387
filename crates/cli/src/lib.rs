//! The command line of a tool: one table of commands and flags, from which parsing, help and shell
//! completion all follow.
//!
//! Behaves like the cobra and pflag packages of upstream's tools: flags stand anywhere, commands may
//! be cut to a unique prefix, the texts of errors are the same. What a command does is the tool's: the
//! table holds a value of its own type `R` for each. Beside it lies what every tool prints with: Go's
//! quoting, numbers and durations ([`text`], [`number`]), formats, JSON strings and tables ([`print`]), and asks with
//! ([`terminal`]).
//!
//! Deliberately absent: environment variables, exit codes, what each format shows.
//!
//! **Source**: `spf13/cobra`, `spf13/pflag`.

pub mod complete;
pub mod help;
pub mod number;
pub mod parse;
pub mod print;
pub mod spec;
pub mod terminal;
pub mod text;

pub use parse::{Flags, Invocation, Outcome};
pub use spec::{Arguments, CommandSpec, FlagSpec, Kind};
