//! Containers whose user namespace has one id: images with many users run all the same.

use crate::support::framework::Test;

mod ids;
mod life;

/// Every test of this area.
pub(crate) fn tests() -> Vec<Test> {
    [ids::TESTS, life::TESTS].concat()
}
