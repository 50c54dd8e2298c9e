//! What happens to containers over time: by command, in number, and in what they cost.

use crate::support::framework::Test;

mod commands;
mod costs;
mod many;

/// Every test of this area.
pub(crate) fn tests() -> Vec<Test> {
    [commands::TESTS, many::TESTS, costs::TESTS].concat()
}
