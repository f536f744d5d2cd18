#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nsctl_fuzz::bodies::wg_quick(bytes));
