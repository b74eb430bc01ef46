#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gwm::fuzz::nft_listing(data));
