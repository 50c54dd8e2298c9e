//! Networks as others see them: in a lab of two network namespaces, a host and somebody outside, as an ordinary user.

pub(crate) mod lab;

mod service;

mod ports;

mod repair;

mod networks;

mod egress;

mod names;

use crate::support::framework::Test;

/// Every test of this area.
pub(crate) fn tests() -> Vec<Test> {
    [ports::TESTS, repair::TESTS, networks::TESTS, egress::TESTS, names::TESTS].concat()
}

/// The inner roles of this program.
pub(crate) fn inside(role: &str, argument: &str) -> Option<std::process::ExitCode> {
    match role {
        "--lab" => {
            Some(lab::inside(argument, &[ports::CASES, repair::CASES, networks::CASES, egress::CASES, names::CASES]))
        }
        "--service" => Some(service::run(argument)),
        "--ask-names" => Some(names::ask(argument)),
        _ => None,
    }
}
