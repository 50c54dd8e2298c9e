//! Images and callers that mean harm.

use crate::support::framework::Test;

mod container;
mod image;
mod layer;

/// Every test of this area.
pub(crate) fn tests() -> Vec<Test> {
    [container::TESTS, image::TESTS, layer::TESTS].concat()
}
