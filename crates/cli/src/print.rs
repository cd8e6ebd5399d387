//! Output formats, JSON strings and tables, as upstream's tools print them.

use std::fmt::Write as _;

/// An output format. Which ones a command has is the tool's to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Simple,
    /// `"Name" : value` lines.
    Fields,
    /// One line of JSON per answer.
    Json,
    /// The encoded answer.
    Protobuf,
    /// A table with borders.
    Table,
}

impl Format {
    /// The format of this name; `None` if there is none.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "simple" => Some(Self::Simple),
            "fields" => Some(Self::Fields),
            "json" => Some(Self::Json),
            "protobuf" => Some(Self::Protobuf),
            "table" => Some(Self::Table),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Fields => "fields",
            Self::Json => "json",
            Self::Protobuf => "protobuf",
            Self::Table => "table",
        }
    }
}

/// A string as Go's JSON encoder writes it: `<`, `>` and `&` escaped.
pub fn json_string(text: impl AsRef<str>) -> String {
    let mut out = String::from("\"");
    for character in text.as_ref().chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '<' | '>' | '&' | '\0'..='\x1f' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", character as u32);
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

/// A table with borders: heading in capitals and centred, cells to the right. Each row must have as
/// many cells as the heading.
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([heading[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let border = |left: &str, middle: &str, right: &str| {
        let lines: Vec<_> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
        format!("{left}{}{right}\n", lines.join(middle))
    };
    let mut out = border("┌", "┬", "┐");
    for (cell, &width) in heading.iter().zip(&widths) {
        out.push_str(&format!("│ {cell:^width$} "));
    }
    out.push_str("│\n");
    if !rows.is_empty() {
        out.push_str(&border("├", "┼", "┤"));
    }
    for row in rows {
        for (cell, &width) in row.iter().zip(&widths) {
            out.push_str(&format!("│ {cell:>width$} "));
        }
        out.push_str("│\n");
    }
    out + &border("└", "┴", "┘")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_as_go_does() {
        assert_eq!(json_string("a\"<\n\u{1}é"), "\"a\\\"\\u003c\\n\\u0001é\"");
    }

    #[test]
    fn cells_stand_to_the_right() {
        let rows = [vec!["1".to_owned(), "long cell".to_owned()]];
        assert_eq!(
            table(&["ID", "NAME"], &rows),
            "┌────┬───────────┐\n│ ID │   NAME    │\n├────┼───────────┤\n│  1 │ long cell │\n└────┴───────────┘\n"
        );
    }
}
