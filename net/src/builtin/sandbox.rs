//! What the stack may still do once it serves: read the device, make sockets, read the host's list of name servers.
//!
//! Everything the container sends is parsed by a process that, were it taken over, has no capability, opens no file but
//! below `/etc` and `/run` for reading, starts nothing, and makes no socket but of the Internet's kinds.
//!
//! # Source
//! seccomp(2), landlock(7), capabilities(7).

use landlock::{
    ABI, Access as _, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError,
};

use crate::sys;

/// Where the list of name servers is, or leads to.
const READABLE: [&str; 2] = ["/etc", "/run"];

/// System calls that the stack uses, and those of its allocator.
const CALLS: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_connect,
    libc::SYS_setsockopt,
    libc::SYS_getsockopt,
    libc::SYS_shutdown,
    libc::SYS_close,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_ctl,
    libc::SYS_fcntl,
    libc::SYS_clock_gettime,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mprotect,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigreturn,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // The file of name servers: Landlock says which.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    libc::SYS_openat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_lseek,
];

/// Families of the sockets it makes.
const FAMILIES: [u32; 2] = [libc::AF_INET as u32, libc::AF_INET6 as u32];

/// Gives up everything that is not needed to serve.
///
/// # Errors
/// What could not be given up. A kernel without Landlock is no error.
pub(super) fn enter() -> Result<(), String> {
    nix::sys::prctl::set_no_new_privs().map_err(|errno| format!("no_new_privs: {}", errno.desc().to_lowercase()))?;
    restrict_files().map_err(|error| format!("landlock: {error}"))?;
    sys::drop_capabilities().map_err(|error| format!("drop capabilities: {}", sys::reason(&error)))?;
    sys::allow_calls(CALLS, libc::SYS_socket, &FAMILIES)
        .map_err(|error| format!("seccomp filter: {}", sys::reason(&error)))
}

fn restrict_files() -> Result<(), RulesetError> {
    let all = AccessFs::from_all(ABI::V5);
    let mut rules = Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(all)?.create()?;
    for path in READABLE {
        if let Ok(directory) = PathFd::new(path) {
            rules = rules.add_rule(PathBeneath::new(directory, AccessFs::ReadFile))?;
        }
    }
    rules.restrict_self().map(drop)
}
