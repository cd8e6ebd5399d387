//! Writes manual pages and shell completions below a directory, laid out as packages want them.

use std::path::PathBuf;
use std::process::exit;

fn main() {
    let mut words = std::env::args_os().skip(1);
    let (Some(root), None) = (words.next(), words.next()) else {
        eprintln!("usage: manual DIRECTORY");
        exit(2)
    };
    let root = PathBuf::from(root);
    for file in manual::files() {
        let path = root.join(&file.path);
        let parent = path.parent().unwrap_or(&root);
        let written = std::fs::create_dir_all(parent).and_then(|()| std::fs::write(&path, &file.text));
        if let Err(error) = written {
            eprintln!("manual: cannot write {}: {error}", path.display());
            exit(1)
        }
    }
}
