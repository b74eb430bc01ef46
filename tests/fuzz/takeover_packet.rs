#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gwm::fuzz::takeover_packet(data));
