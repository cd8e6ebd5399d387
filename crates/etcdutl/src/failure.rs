//! How the program ends when it does not succeed.

/// Something went wrong while working.
pub const ERROR: i32 = 1;
/// A known flag with a value that is not supported.
pub const BAD_FEATURE: i32 = 4;
/// Wrong arguments.
pub const BAD_ARGUMENTS: i32 = 128;

/// An exit code, and the text for stderr.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Exit code of the process.
    pub code: i32,
    /// Printed as `Error: <text>`; nothing if everything has been said.
    pub text: Option<String>,
}

impl Failure {
    /// Ends with this code and `Error: <text>`.
    pub fn new(code: i32, text: impl ToString) -> Self {
        Self { code, text: Some(text.to_string()) }
    }

    /// Something went wrong while working.
    pub fn error(text: impl ToString) -> Self {
        Self::new(ERROR, text)
    }

    /// Wrong arguments.
    pub fn arguments(text: impl ToString) -> Self {
        Self::new(BAD_ARGUMENTS, text)
    }
}

/// An error with its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = match error.downcast_ref::<std::io::Error>() {
            Some(error) => crate::files::reason(error),
            None => error.to_string(),
        };
        if !text.contains(&next) {
            text.push_str(&format!(": {next}"));
        }
        cause = error.source();
    }
    text
}

macro_rules! from_errors {
    ($($error:ty),*) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::error(chain(&error))
            }
        }
    )*};
}

from_errors!(
    backend::Error,
    bolt::Error,
    membership::BootstrapError,
    membership::UrlError,
    mvcc::ReadError,
    wal::Error,
    wal::snap::Error
);
