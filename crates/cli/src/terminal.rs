//! Asking whoever sits at the terminal.

use std::io::Write as _;

/// Asks for a line, without showing it when typed on a terminal.
pub fn ask(prompt: &str) -> std::io::Result<String> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    print!("{prompt}");
    std::io::stdout().flush()?;
    let stdin = std::io::stdin();
    let saved = tcgetattr(&stdin).ok();
    if let Some(saved) = &saved {
        let mut silent = saved.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Flush, &silent)?;
    }
    let mut line = String::new();
    let read = stdin.read_line(&mut line);
    if let Some(saved) = &saved {
        tcsetattr(&stdin, OptionalActions::Flush, saved)?;
    }
    println!();
    // The end of the input is an empty answer.
    read.map(|_| line.trim_end_matches(['\n', '\r']).to_owned())
}
