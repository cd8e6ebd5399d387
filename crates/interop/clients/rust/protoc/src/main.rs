//! The part of `protoc` that `prost-build` uses: compile files into a descriptor set.

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let (mut includes, mut files, mut out) = (Vec::new(), Vec::new(), None);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "-o" => out = args.next(),
            "-I" => includes.extend(args.next().map(PathBuf::from)),
            "--include_imports" | "--include_source_info" | "--experimental_allow_proto3_optional" => {}
            other if other.starts_with('-') => return Err(format!("unknown option {other}").into()),
            file => files.push(PathBuf::from(file)),
        }
    }
    let mut compiler = protox::Compiler::new(includes)?;
    compiler.include_imports(true).include_source_info(true).open_files(files)?;
    std::fs::write(out.ok_or("no output file given")?, compiler.encode_file_descriptor_set())?;
    Ok(())
}
