//! Kernel calls that `nix` lacks, each as a safe function over owned and borrowed descriptors.

pub(crate) mod caps;

pub mod heap;

pub(crate) mod keyring;

pub(crate) mod monitor;

pub(crate) mod mount;

pub(crate) mod notify;

pub(crate) mod process;

pub(crate) mod seccomp;

use std::fmt;

use nix::errno::Errno;

/// A kernel call that failed, printed as the call with its arguments.
#[derive(Debug, thiserror::Error)]
#[error("{call}({args}): {errno}", errno = ErrnoText(*.errno))]
pub struct SysError {
    /// The call's name as in section 2 of the manual.
    pub call: &'static str,
    /// The arguments that tell one call from another.
    pub args: String,
    /// Why the kernel refused.
    pub errno: Errno,
}

/// An errno as `strerror(3)` has it, in lower case as messages are.
struct ErrnoText(Errno);

impl fmt::Display for ErrnoText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.desc().to_lowercase())
    }
}

impl SysError {
    /// Builds a function for `map_err` which keeps the call and its arguments.
    pub fn of<A: fmt::Display>(call: &'static str, args: A) -> impl FnOnce(Errno) -> SysError {
        move |errno| SysError { call, args: args.to_string(), errno }
    }
}

/// The result of a kernel call.
pub(crate) type Result<T> = std::result::Result<T, SysError>;

/// Why an I/O call failed, as messages have it: lower case, without the number.
pub(crate) fn reason(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_lowercase(),
        None => error.to_string(),
    }
}
