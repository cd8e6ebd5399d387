#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_targets::bolt_page::run(data));
