//! Writes the seeds of a target, and what once found something, into a directory: the corpus that
//! the fuzzer starts from.
//!
//! ```text
//! seeds                        prints the names of all targets
//! seeds <target> <directory>
//! ```

use std::path::Path;

use fuzz_targets::TARGETS;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [name, directory] = &arguments[..] else {
        TARGETS.iter().for_each(|target| println!("{}", target.name));
        return Ok(());
    };
    let target = TARGETS.iter().find(|target| target.name == name).ok_or("no target of that name")?;
    std::fs::create_dir_all(directory)?;
    for (seed, bytes) in (target.seeds)() {
        std::fs::write(Path::new(directory).join(format!("seed-{seed}")), bytes)?;
    }
    let finds = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions").join(name);
    for find in std::fs::read_dir(finds).into_iter().flatten() {
        let find = find?;
        std::fs::copy(find.path(), Path::new(directory).join(find.file_name()))?;
    }
    Ok(())
}
