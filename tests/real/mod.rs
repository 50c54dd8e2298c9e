//! Real images in a real registry: Debian and what is installed into it, made on the spot by mmdebstrap from the mirror
//! that this machine uses itself.

use crate::support::framework::Test;

mod builds;
mod debian;
mod deployments;
mod networks;

/// Every test of this area.
pub(crate) fn tests() -> Vec<Test> {
    [builds::TESTS, debian::TESTS, deployments::TESTS, networks::TESTS].concat()
}
