//! What the processes that we fork have in common.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::SigSet;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};

use crate::sys;

/// Names a step of a set-up that failed.
pub(crate) fn step(what: &'static str) -> impl Fn(Errno) -> String {
    move |errno| format!("{what}: {}", errno.desc().to_lowercase())
}

/// Makes a forked process one of its own: under this name, with no signal blocked, without a terminal, and with no
/// descriptors but these. The supervisor's others are locks, pipes and terminals whose end somebody waits for.
pub(crate) fn become_role(name: &CStr, kept: &mut [RawFd]) -> Result<(), String> {
    SigSet::empty().thread_set_mask().map_err(step("unblock signals"))?;
    sys::ignore_sigpipe();
    let _ = nix::sys::prctl::set_name(name);
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.map_err(|error| format!("open /dev/null: {}", sys::reason(&error)))?;
    dup2_stdin(&null).and_then(|()| dup2_stdout(&null)).and_then(|()| dup2_stderr(&null)).map_err(step("dup2"))?;
    // Before its number is closed with the others.
    drop(null);
    close_all_but(kept);
    Ok(())
}

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
