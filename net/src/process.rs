//! What the processes that we fork have in common.

use std::os::fd::RawFd;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::sys;

/// Closes every descriptor but the first three and these.
pub(crate) fn close_all_but(kept: &mut [RawFd]) {
    kept.sort_unstable();
    let mut next: RawFd = 3;
    for fd in kept.iter().copied().filter(|fd| *fd > 2) {
        sys::close_range(next, fd - 1);
        next = fd + 1;
    }
    sys::close_range(next, RawFd::MAX);
}

/// Takes as many descriptors as the hard limit gives, but not more than `most`; returns the limit that holds.
pub(crate) fn raise_descriptor_limit(most: u64) -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    let wanted = hard.min(most).max(soft);
    match setrlimit(Resource::RLIMIT_NOFILE, wanted, hard) {
        Ok(()) => wanted,
        Err(_) => soft,
    }
}
