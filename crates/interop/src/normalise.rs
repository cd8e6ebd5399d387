//! What may differ between two answers that are equal: ids, addresses, times, sizes.

/// Replaces texts that belong to one server by names that mean the same on every server.
#[derive(Clone, Debug, Default)]
pub struct Normaliser {
    /// Longest first, so that an address does not eat a part of a URL.
    replacements: Vec<(String, String)>,
}

impl Normaliser {
    /// Every occurrence of `text` shall read `name`.
    pub fn replace(&mut self, text: impl Into<String>, name: impl Into<String>) {
        let text = text.into();
        if text.is_empty() {
            return;
        }
        self.replacements.push((text, name.into()));
        self.replacements.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
    }

    /// An id shall read `name` in decimal and in hexadecimal.
    pub fn replace_id(&mut self, id: u64, name: &str) {
        self.replace(id.to_string(), name);
        self.replace(format!("{id:x}"), name);
    }

    /// Applies all replacements, shortens times, and makes columns of tables as narrow as can be:
    /// their width depends on what was replaced.
    pub fn apply(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (from, to) in &self.replacements {
            text = text.replace(from, to);
        }
        narrow_tables(&durations(&text))
    }
}

/// In lines of a table, several rules or blanks become one.
fn narrow_tables(text: &str) -> String {
    if !text.contains('│') {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let in_table = line.starts_with(['┌', '│', '├', '└']);
        for character in line.chars() {
            if !(in_table && matches!(character, ' ' | '─') && out.ends_with(character)) {
                out.push(character);
            }
        }
    }
    out
}

/// Replaces Go durations with a fraction, such as `3.458665ms`, by `<duration>`.
fn durations(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut position = 0;
    while position < bytes.len() {
        match duration_length(bytes, position) {
            Some(length) => {
                out.push_str("<duration>");
                position += length;
            }
            None => {
                let character = text[position..].chars().next().unwrap_or(' ');
                out.push(character);
                position += character.len_utf8();
            }
        }
    }
    out
}

fn duration_length(bytes: &[u8], start: usize) -> Option<usize> {
    let digits = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    if start > 0 && (bytes[start - 1].is_ascii_alphanumeric() || bytes[start - 1] == b'.') {
        return None;
    }
    let whole = digits(start);
    let dot = start + whole;
    if whole == 0 || bytes.get(dot) != Some(&b'.') {
        return None;
    }
    let fraction = digits(dot + 1);
    let rest = &bytes[dot + 1 + fraction..];
    let unit = ["ms", "µs", "us", "ns", "s"].iter().find(|unit| rest.starts_with(unit.as_bytes()))?;
    let follows = rest.get(unit.len());
    if fraction == 0 || follows.is_some_and(u8::is_ascii_alphanumeric) {
        return None;
    }
    Some(whole + 1 + fraction + unit.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_durations_are_named() {
        let mut normaliser = Normaliser::default();
        normaliser.replace_id(255_000, "<member>");
        normaliser.replace("127.0.0.1:1", "<short>");
        normaliser.replace("127.0.0.1:12", "<long>");
        let text = normaliser.apply("255000 3e418 127.0.0.1:12 took 3.45ms, 1.5µs, v3.5.30 0.5second");
        assert_eq!(normaliser.apply("a  b\n│  1.5ms │\n├────┤\n"), "a  b\n│ <duration> │\n├─┤\n");
        assert_eq!(text, "<member> <member> <long> took <duration>, <duration>, v3.5.30 0.5second");
    }
}
