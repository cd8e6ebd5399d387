#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_targets::grpc_bytes::run(data));
