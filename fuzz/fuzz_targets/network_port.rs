#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| netd_fuzz::network_port(data));
