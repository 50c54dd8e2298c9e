//! Behaviour of the `coracle` command, as a user without root sees it. One binary, its own small framework: each test
//! runs in a process and a home of its own, and must leave nothing behind.
//!
//! ```text
//! cargo test --test runner -- [FILTER…] [--exact] [--skip PATTERN] [--jobs N] [--list]
//! ```
//!
//! `CORACLE_BIN` names the binary to test (default: the one that cargo built), `CORACLE_TEST_REQUIRE` what must not be
//! skipped (see `support/needs.rs`), `PODMAN` the podman to compare with. `CORACLE_TEST_ORACLE=1 CORACLE_BIN=podman` turns
//! it round: the tests themselves are checked by a tool whose behaviour they claim.

mod support;

mod cli;

mod build;

mod lifecycle;

mod net;

mod single;

mod oci;

mod attack;

mod crash;

mod real;

mod union;

fn main() -> std::process::ExitCode {
    let areas = [
        cli::tests(),
        build::tests(),
        lifecycle::tests(),
        net::tests(),
        single::tests(),
        oci::tests(),
        attack::tests(),
        crash::tests(),
        union::tests(),
        real::tests(),
    ];
    support::runner::main(&areas.concat())
}
