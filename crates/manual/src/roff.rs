//! Text as a manual page: man(7) macros, the few that every reader of pages knows.

use std::fmt::Write as _;

/// A page in the making.
#[derive(Debug)]
pub struct Page(String);

impl Page {
    /// Begins a page of section 1.
    pub fn new(program: &str, purpose: &str) -> Self {
        let mut page = Self(String::new());
        let title = program.to_uppercase();
        let version = env!("CARGO_PKG_VERSION");
        let _ = writeln!(page.0, ".TH {title} 1 \"\" \"retcd {version}\" \"User Commands\"");
        page.section("NAME");
        let _ = writeln!(page.0, "{} \\- {}", escape(program), escape(purpose));
        page
    }

    /// A heading.
    pub fn section(&mut self, title: &str) {
        let _ = writeln!(self.0, ".SH {}", escape(title));
    }

    /// A heading below a heading.
    pub fn subsection(&mut self, title: &str) {
        let _ = writeln!(self.0, ".SS {}", escape(title));
    }

    /// A paragraph; blank lines in it begin new ones, indented lines stay as they are.
    pub fn text(&mut self, text: &str) {
        let mut literal = false;
        self.0.push_str(".PP\n");
        for line in text.trim_end().lines() {
            let indented = line.starts_with("  ");
            if indented != literal {
                self.0.push_str(if indented { ".RS\n.nf\n" } else { ".fi\n.RE\n" });
                literal = indented;
            }
            match line.trim() {
                "" => self.0.push_str(".PP\n"),
                line => {
                    let _ = writeln!(self.0, "{}", escape(line));
                }
            }
        }
        if literal {
            self.0.push_str(".fi\n.RE\n");
        }
    }

    /// A term in bold with its meaning.
    pub fn item(&mut self, term: &str, meaning: &str) {
        let _ = writeln!(self.0, ".TP\n.B {}", escape(term));
        for line in meaning.lines().filter(|line| !line.trim().is_empty()) {
            let _ = writeln!(self.0, "{}", escape(line.trim()));
        }
    }

    /// Another line for the meaning before.
    pub fn and(&mut self, line: &str) {
        let _ = writeln!(self.0, ".br\n{}", escape(line));
    }

    /// The page.
    pub fn finish(self) -> String {
        self.0
    }
}

/// Text that is not taken for roff: backslashes, dashes that can be copied, dots at the front.
pub fn escape(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-");
    match escaped.starts_with(['.', '\'']) {
        true => format!("\\&{escaped}"),
        false => escaped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_roff_would_take_for_its_own_is_escaped() {
        assert_eq!(escape(".etcd a\\b --c"), "\\&.etcd a\\eb \\-\\-c");
        assert_eq!(escape("'quoted'"), "\\&'quoted'");
    }

    #[test]
    fn indented_lines_stay_as_they_are() {
        let mut page = Page::new("tool", "does");
        page.text("One.\n\n  a   b\n\nTwo.");
        let text = page.finish();
        assert!(text.ends_with(".PP\nOne.\n.PP\n.RS\n.nf\na   b\n.fi\n.RE\n.PP\nTwo.\n"), "{text}");
    }
}
