//! Processes that are killed at any moment, machines that were switched off: the next command sees the truth and nothing
//! is lost that was there before.

use crate::support::framework::Test;

mod check;
mod full_disk;
pub(crate) mod kill;
mod power_cut;
mod series;

/// Every test of this area.
pub(crate) fn tests() -> Vec<Test> {
    [check::TESTS, full_disk::TESTS, kill::TESTS, power_cut::TESTS, series::TESTS].concat()
}
