#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gwm::fuzz::haproxy_answer(data));
