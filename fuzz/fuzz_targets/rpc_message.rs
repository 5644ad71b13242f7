#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| netd_fuzz::rpc_message(data));
