//! Bytes as queries to the DNS server.

#![cfg_attr(fuzzing, no_main)]

#[cfg(not(fuzzing))]
#[path = "../../../storage/fuzz/fuzz_targets/plain.rs"]
mod plain;

/// As they are, and as what follows the head of a query: few bytes begin like one by chance.
fn run(bytes: &[u8]) {
    net::dns::examine(bytes);
    for additional in [0, 1] {
        let head = [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, additional, 3, b'w', b'e', b'b'];
        net::dns::examine(&[&head, bytes].concat());
        net::dns::examine(&[&head[..], &[0, 0, 1, 0, 1], bytes].concat());
    }
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| run(bytes));

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    plain::main(run)
}
