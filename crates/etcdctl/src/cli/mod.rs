//! The command line: one table of commands and flags, from which parsing, help and shell
//! completion all follow.
//!
//! Behaves like the cobra and pflag packages of upstream's tools: flags stand anywhere, commands
//! may be cut to a unique prefix, the texts and exit codes of errors are the same.

pub mod complete;
pub mod help;
pub mod parse;
pub mod spec;
pub mod table;

pub use parse::{Flags, Invocation, Outcome};
pub use spec::{CommandSpec, Run};
