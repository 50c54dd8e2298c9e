//! Bytes as packets of a container.

#![cfg_attr(fuzzing, no_main)]

#[cfg(not(fuzzing))]
#[path = "../../../storage/fuzz/fuzz_targets/plain.rs"]
mod plain;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| net::builtin::fuzz(bytes));

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    plain::main(net::builtin::fuzz)
}
