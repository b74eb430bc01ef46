#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gwm::fuzz::xds_report(data));
