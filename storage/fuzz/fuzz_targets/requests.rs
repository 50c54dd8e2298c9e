//! Bytes as requests of `/dev/fuse`.

#![cfg_attr(fuzzing, no_main)]

#[cfg(not(fuzzing))]
mod plain;

use storage::union::server::harness::Harness;

fn run(bytes: &[u8]) {
    let place = tempfile::tempdir().expect("TMPDIR can be written");
    Harness::new(place.path()).send_all(bytes);
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| run(bytes));

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    plain::main(run)
}
