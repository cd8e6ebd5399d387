//! How the program ends when it does not succeed.

/// An RPC failed, or something else went wrong while working.
pub const ERROR: i32 = 1;
/// No client could be made.
pub const BAD_CONNECTION: i32 = 2;
/// What was read from stdin makes no sense.
pub const INVALID_INPUT: i32 = 3;
/// A known flag with a value that is not supported.
pub const BAD_FEATURE: i32 = 4;
/// A watch or a snapshot was cut off.
pub const INTERRUPTED: i32 = 5;
/// Wrong arguments.
pub const BAD_ARGUMENTS: i32 = 128;

/// An exit code, and the text for stderr if there is anything left to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Exit code of the process.
    pub code: i32,
    /// Printed as `Error: <text>`.
    pub text: Option<String>,
}

impl Failure {
    /// Ends with this code and `Error: <text>`.
    pub fn new(code: i32, text: impl ToString) -> Self {
        Self { code, text: Some(text.to_string()) }
    }

    /// Wrong arguments.
    pub fn arguments(text: impl ToString) -> Self {
        Self::new(BAD_ARGUMENTS, text)
    }

    /// Ends with this code; everything has been said.
    pub fn silent(code: i32) -> Self {
        Self { code, text: None }
    }
}

/// A failed call ends the program with code 1 unless the command says otherwise.
impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        Self::new(ERROR, error)
    }
}
