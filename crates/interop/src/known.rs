//! Known differences: the file `known-differences.tsv`.
//!
//! One line per difference: an id (it also stands in COMPAT.md), the names of the transcript
//! entries it concerns (blanks written as `_`, `*` at the end matches any rest; several separated by blanks), what is
//! compared (`server`, `etcdctl`, `etcdutl`, `sweep`, or the latter three with `-3.5` for what only the older tool does), and the reason. Lines beginning with `#` are comments.

use anyhow::{Context, ensure};

/// One difference.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Such as `D01`.
    pub id: String,
    /// Patterns of entry names.
    pub entries: Vec<String>,
    /// `server`, `etcdctl`, `etcdctl-3.5`, `etcdutl` or `etcdutl-3.5`.
    pub subject: String,
    /// Why it stays.
    pub reason: String,
}

/// All known differences, or those of one subject.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// In the order of the file.
    pub differences: Vec<Difference>,
}

impl Known {
    /// The list of this crate.
    pub fn load() -> anyhow::Result<Self> {
        Self::parse(include_str!("../known-differences.tsv"))
    }

    /// Nothing is known: every difference counts.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Parses the form described above.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut differences = Vec::new();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let fields: Vec<_> = line.split('\t').collect();
            let [id, entries, subject, reason] = fields[..] else {
                anyhow::bail!("known difference {line:?} does not have four fields");
            };
            ensure!(!reason.trim().is_empty(), "known difference {id} has no reason");
            ensure!(
                ["server", "etcdctl", "etcdctl-3.5", "etcdutl", "etcdutl-3.5", "sweep", "sweep-3.5"]
                    .contains(&subject),
                "known difference {id} concerns {subject}"
            );
            differences.push(Difference {
                id: id.to_owned(),
                entries: entries.split_whitespace().map(str::to_owned).collect(),
                subject: subject.to_owned(),
                reason: reason.to_owned(),
            });
        }
        Ok(Self { differences })
    }

    /// Only those that concern one of the subjects.
    pub fn of(&self, subjects: &[&str]) -> Self {
        let mut differences = self.differences.clone();
        differences.retain(|difference| subjects.contains(&difference.subject.as_str()));
        Self { differences }
    }

    /// Whether an entry may differ.
    pub fn allows(&self, name: &str) -> bool {
        self.differences
            .iter()
            .any(|difference| difference.entries.iter().any(|pattern| matches(pattern, name)))
    }

    /// Ids that a document does not mention.
    pub fn missing_in(&self, document: &str) -> Vec<String> {
        let has = |id: &str| document.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == id);
        self.differences.iter().map(|difference| difference.id.clone()).filter(|id| !has(id)).collect()
    }

    /// Patterns that match none of the names: spelling mistakes, or entries that are gone.
    pub fn unused<'a>(&'a self, names: &[&str]) -> Vec<&'a str> {
        let patterns = self.differences.iter().flat_map(|difference| &difference.entries);
        patterns
            .map(String::as_str)
            .filter(|pattern| !names.iter().any(|name| matches(pattern, name)))
            .collect()
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    let name = &name.replace(' ', "_");
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    }
}

/// Reads COMPAT.md.
pub fn compat_page() -> anyhow::Result<String> {
    let path = crate::programs::root().join("COMPAT.md");
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_well_formed_and_its_ids_differ() {
        let known = Known::load().unwrap();
        let mut ids: Vec<_> = known.differences.iter().map(|difference| &difference.id).collect();
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count, "an id is used twice");
    }

    #[test]
    fn patterns_match_starts_and_whole_names() {
        let known = Known::parse("# c\nD1\tkv/a_b* x\tserver\tbecause\nD2\ty\tetcdctl\tso\n").unwrap();
        assert!(known.allows("kv/a bc") && known.allows("x") && known.allows("y") && !known.allows("xy"));
        assert!(!known.of(&["server"]).allows("y"));
        assert_eq!(known.unused(&["kv/a b", "y"]), ["x"]);
        assert_eq!(known.missing_in("see D2, D11"), ["D1"]);
        assert!(Known::parse("D1\ta\tserver\n").is_err());
    }
}
