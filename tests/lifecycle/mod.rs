//! What happens to containers over time: by command, in number, and in what they cost.

use crate::support::framework::Test;

mod commands;
mod costs;
mod drivers;
mod health;
mod logs;
mod many;
mod pause;
mod restart;

/// Every test of this area.
pub(crate) fn tests() -> Vec<Test> {
    [
        commands::TESTS,
        drivers::TESTS,
        many::TESTS,
        costs::TESTS,
        restart::TESTS,
        pause::TESTS,
        health::TESTS,
        logs::TESTS,
    ]
    .concat()
}
