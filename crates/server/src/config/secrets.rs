//! What of the settings must not stand in a log: values of flags and variables with PASSWORD or
//! SECRET in their names, ours and those of images and scripts around us.

/// What stands in the place of a secret.
const MASK: &str = "***";

/// A value as a log may show it.
pub fn shown<'a>(name: &str, value: &'a str) -> &'a str {
    let name = name.to_uppercase();
    let is_secret = ["PASSWORD", "SECRET"].iter().any(|word| name.contains(word));
    if is_secret && !value.is_empty() { MASK } else { value }
}

/// The words of the command line as a log may show them.
pub fn shown_words(words: &[String]) -> Vec<String> {
    let mut out = Vec::with_capacity(words.len());
    let mut flag = "";
    for word in words {
        match word.split_once('=') {
            Some((name, value)) if word.starts_with('-') => {
                out.push(format!("{name}={}", shown(name, value)));
                flag = "";
            }
            _ => {
                out.push(shown(flag, word).to_owned());
                flag = if word.starts_with('-') { word } else { "" };
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked() {
        assert_eq!(shown("ETCD_DISCOVERY_PASSWORD", "x"), MASK);
        assert_eq!(shown("ETCD_ROOT_PASSWORD", ""), "");
        assert_eq!(shown("ETCD_NAME", "x"), "x");
        let words = ["etcd", "--name", "a", "--discovery-password", "x", "-discovery-password=x", "--name=b"];
        let shown = shown_words(&words.map(str::to_owned));
        assert_eq!(
            shown,
            ["etcd", "--name", "a", "--discovery-password", MASK, "-discovery-password=***", "--name=b"]
        );
    }
}
