//! What the operating system says when it refuses.

use std::io;

/// The words of the system as Go has them: without Rust's error number, and beginning in lower case.
pub fn os_reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_lowercase().chain(characters).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_go() {
        let check = |error: io::Error, expected: &str| assert_eq!(os_reason(&error), expected);
        check(io::Error::from_raw_os_error(13), "permission denied");
        check(io::Error::from_raw_os_error(2), "no such file or directory");
        check(io::Error::from_raw_os_error(28), "no space left on device");
        check(io::Error::new(io::ErrorKind::NotFound, "no such host"), "no such host");
        check(io::Error::other("Odd: Words"), "odd: Words");
        check(io::Error::other(""), "");
    }
}
