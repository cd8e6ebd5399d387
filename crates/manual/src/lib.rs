//! Manual pages and shell completions of the three programs.
//!
//! Made from the tables that the programs themselves read their command lines with, so a flag that
//! is added there is in the page and in the completion of the next package. What a page says
//! beyond the tables (files, exit codes, examples) stands here.
//!
//! - [`server`]: the page and the completions of `etcd`, from `server::config::table`.
//! - [`tools`]: the pages of `etcdctl` and `etcdutl`, from their command tables. Their completions ask
//!   the program itself: `cli::complete`.
//! - [`roff`]: how text becomes a page.
//!
//! Paths are those of a Debian package, below the root that they are written to.

pub mod roff;
pub mod server;
pub mod tools;

/// A file of the package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Where it goes, below the root.
    pub path: String,
    /// What it holds.
    pub text: String,
}

impl File {
    fn new(path: impl Into<String>, text: String) -> Self {
        Self { path: path.into(), text }
    }
}

/// Every file.
pub fn files() -> Vec<File> {
    let mut files = vec![
        File::new("usr/share/man/man1/etcd.1", server::page()),
        File::new("usr/share/man/man1/etcdctl.1", tools::etcdctl_page()),
        File::new("usr/share/man/man1/etcdutl.1", tools::etcdutl_page()),
    ];
    for (shell, place) in [
        ("bash", "usr/share/bash-completion/completions/NAME"),
        ("zsh", "usr/share/zsh/vendor-completions/_NAME"),
        ("fish", "usr/share/fish/vendor_completions.d/NAME.fish"),
    ] {
        for program in ["etcd", "etcdctl", "etcdutl"] {
            let script = match program {
                "etcd" => server::completion(shell),
                tool => cli::complete::script(tool, shell),
            };
            files.push(File::new(place.replace("NAME", program), script.expect("a shell of the list above")));
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_has_a_page_and_three_completions() {
        let files = files();
        assert_eq!(files.len(), 12);
        for file in files {
            assert!(!file.path.contains("NAME") && file.text.ends_with('\n'), "{}", file.path);
        }
    }

    #[test]
    fn no_line_of_a_page_is_taken_for_a_request_that_there_is_not() {
        let requests = [".TH", ".SH", ".SS", ".TP", ".PP", ".B ", ".I ", ".nf", ".fi", ".RS", ".RE", ".br"];
        for file in files().iter().filter(|file| file.path.contains("/man1/")) {
            for line in file.text.lines().filter(|line| line.starts_with(['.', '\''])) {
                assert!(requests.iter().any(|request| line.starts_with(request)), "{}: {line}", file.path);
            }
        }
    }
}
