#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_targets::snap_file::run(data));
