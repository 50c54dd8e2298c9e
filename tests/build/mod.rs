//! `coracle build`: what Dockerfiles make, what is known of it afterwards, and what is left when it fails.

use crate::support::framework::Test;

mod elsewhere;
mod interrupts;
mod many;
mod oracle;
mod steps;
mod tutorials;

/// Every test of this area.
pub(crate) fn tests() -> Vec<Test> {
    [steps::TESTS, tutorials::TESTS, elsewhere::TESTS, interrupts::TESTS, many::TESTS, oracle::TESTS].concat()
}
