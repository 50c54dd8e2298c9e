//! System calls a container may make.
//!
//! The default profile is docker's allowlist, for x86-64 with i386 and x32, and for aarch64 with
//! 32-bit ARM. For the default capabilities it is compiled by the build script: loading it is one
//! system call on static memory. Every other profile and capability set takes the same way at run
//! time. config.json carries the equivalent `linux.seccomp`, so that another OCI runtime applies the
//! same rules; what it cannot say is that calls newer than the profile answer `ENOSYS`.
//!
//! Runs in: the command line (compiling), the container's init (loading).
//!
//! | kernel feature | first version | fallback |
//! |---|---|---|
//! | `SECCOMP_SET_MODE_FILTER` | 3.17 | none: an error |
//! | `SECCOMP_RET_KILL_PROCESS`, `SECCOMP_RET_LOG` | 4.14 | none: an error |
//! | `SECCOMP_FILTER_FLAG_NEW_LISTENER` | 5.0 | single-id containers: [`load_succeeding`] |

pub mod compiler;
mod json;
mod oci;

pub use compiler::assembler::Instruction;

use std::borrow::Cow;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use oci_spec::runtime::LinuxSeccomp;

use self::compiler::abi::{Abi, SyscallTable};
use self::compiler::policy::Policy;
use self::compiler::profile::Profile;
use super::capabilities::CapabilitySet;
use crate::sys;

include!(concat!(env!("OUT_DIR"), "/default_seccomp.rs"));

/// A filter that could not be made or loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no system call table for this machine.
    #[error("seccomp: no system call table for {}: run with --security-opt seccomp=unconfined", std::env::consts::ARCH)]
    UnsupportedMachine,
    /// The default profile is damaged; a test holds that it is not.
    #[error(transparent)]
    DefaultProfile(#[from] compiler::profile::SyntaxError),
    /// A profile that is not JSON, or has a field that we do not know and so cannot honour.
    #[error("seccomp profile: {0}")]
    Json(#[from] serde_json::Error),
    /// A profile that contradicts itself or asks for what we do not have.
    #[error("seccomp profile: {0}")]
    Profile(String),
    /// More instructions than the kernel takes.
    #[error("seccomp profile: {0} instructions, the kernel takes 4096")]
    TooLong(usize),
    /// Loading.
    #[error("seccomp(SECCOMP_SET_MODE_FILTER, {flags:#x}, {length} instructions): {}", errno.desc().to_lowercase())]
    Load {
        /// `SECCOMP_FILTER_FLAG_*`.
        flags: u32,
        /// Instructions of the program.
        length: usize,
        /// Why.
        errno: Errno,
    },
}

/// A compiled filter.
#[derive(Clone, Debug)]
pub struct Filter {
    program: Cow<'static, [Instruction]>,
    /// `SECCOMP_FILTER_FLAG_*`.
    flags: u32,
    source: Source,
    unknown: Vec<String>,
}

#[derive(Clone, Debug)]
enum Source {
    /// The default profile for these capabilities.
    Default(CapabilitySet),
    /// Any other.
    Oci(Box<LinuxSeccomp>),
}

impl Filter {
    /// The default profile for a container with this bounding set.
    ///
    /// For [`CapabilitySet::DEFAULT`] nothing is computed and nothing allocated.
    ///
    /// # Errors
    /// [`Error::UnsupportedMachine`].
    pub fn default_for(capabilities: CapabilitySet) -> Result<Self, Error> {
        let program = if capabilities == CapabilitySet::DEFAULT {
            Cow::Borrowed(&DEFAULT_PROGRAM[..])
        } else {
            Cow::Owned(compile(&default_policy(capabilities)?, &SyscallTable::parse(compiler::SYSCALLS))?)
        };
        if program.is_empty() {
            return Err(Error::UnsupportedMachine);
        }
        Ok(Self { program, flags: 0, source: Source::Default(capabilities), unknown: Vec::new() })
    }

    /// A profile in docker's JSON format (podman's too), for a container with this bounding set:
    /// `--security-opt seccomp=FILE`.
    ///
    /// # Errors
    /// [`Error::Json`] also for unknown fields, [`Error::Profile`], [`Error::TooLong`].
    pub fn from_profile_json(json: &[u8], capabilities: CapabilitySet) -> Result<Self, Error> {
        Self::from_oci(&json::to_oci(json, capabilities)?)
    }

    /// The `linux.seccomp` section of a config.json.
    ///
    /// # Errors
    /// [`Error::Profile`], [`Error::TooLong`].
    pub fn from_oci(seccomp: &LinuxSeccomp) -> Result<Self, Error> {
        let table = SyscallTable::parse(compiler::SYSCALLS);
        let policy = oci::to_policy(seccomp)?;
        let unknown = policy.rules.iter().flat_map(|rule| &rule.names).filter(|name| !table.knows(name));
        let unknown = unknown.map(ToString::to_string).collect();
        let program = Cow::Owned(compile(&policy, &table)?);
        Ok(Self { program, flags: oci::flags(seccomp)?, source: Source::Oci(Box::new(seccomp.clone())), unknown })
    }

    /// The `linux.seccomp` section as text: the default's own is recognised by comparison, without
    /// being parsed.
    ///
    /// # Errors
    /// [`Error::Json`], [`Error::Profile`], [`Error::TooLong`].
    pub fn from_oci_json(json: &str) -> Result<Self, Error> {
        if json == default_oci_json() {
            Self::default_for(CapabilitySet::DEFAULT)
        } else {
            Self::from_oci(&serde_json::from_str(json)?)
        }
    }

    /// The equivalent section of config.json.
    ///
    /// # Errors
    /// Never for a filter that exists, but for the default profile it is computed anew.
    pub fn to_oci(&self) -> Result<LinuxSeccomp, Error> {
        match &self.source {
            Source::Default(capabilities) => oci::from_policy(&default_policy(*capabilities)?),
            Source::Oci(seccomp) => Ok(seccomp.as_ref().clone()),
        }
    }

    /// Names in the profile that are no system call of any ABI we know: a misspelling, or a call newer
    /// than this version, or of another architecture. Their rules have no effect, which a user who
    /// wrote a list of refusals would want to know.
    pub fn unknown_names(&self) -> &[String] {
        &self.unknown
    }

    /// The program.
    pub fn program(&self) -> &[Instruction] {
        &self.program
    }

    /// Puts the filter on the calling thread and all it will start.
    ///
    /// Needs `no_new_privs`, else `CAP_SYS_ADMIN` in the user namespace: then it must come before
    /// capabilities are given up, and the filter must let init's last steps through (setuid, capset,
    /// prctl, execve), as the default does. With `no_new_privs` it is the last step before `execve`.
    /// Allocates nothing and is async-signal-safe.
    ///
    /// # Errors
    /// [`Error::Load`].
    pub fn load(&self) -> Result<(), Error> {
        sys::seccomp::set_mode_filter(&self.program, self.flags).map_err(|errno| Error::Load {
            flags: self.flags,
            length: self.program.len(),
            errno,
        })
    }
}

/// Puts the filter of single-id containers that notifies (see [`compiler::identity`]) on the calling thread, and
/// returns its listener.
///
/// # Errors
/// [`Error::UnsupportedMachine`]; [`Error::Load`] where there is no user notification, or another listener.
pub fn load_notifying() -> Result<OwnedFd, Error> {
    if NOTIFY_PROGRAM.is_empty() {
        return Err(Error::UnsupportedMachine);
    }
    sys::seccomp::set_mode_filter_notifying(&NOTIFY_PROGRAM).map_err(|errno| Error::Load {
        flags: 1 << 3,
        length: NOTIFY_PROGRAM.len(),
        errno,
    })
}

/// Puts the filter of single-id containers under which changes of credentials and owners succeed without effect on the
/// calling thread.
///
/// # Errors
/// [`Error::UnsupportedMachine`], [`Error::Load`].
pub fn load_succeeding() -> Result<(), Error> {
    if SUCCEED_PROGRAM.is_empty() {
        return Err(Error::UnsupportedMachine);
    }
    let length = SUCCEED_PROGRAM.len();
    sys::seccomp::set_mode_filter(&SUCCEED_PROGRAM, 0).map_err(|errno| Error::Load { flags: 0, length, errno })
}

/// The `linux.seccomp` section of config.json for the default profile and capabilities, ready to be
/// copied into the file: the same as [`Filter::to_oci`], serialised.
pub fn default_oci_json() -> &'static str {
    include_str!(concat!(env!("OUT_DIR"), "/default_seccomp.json"))
}

/// The ABIs of the machine we run on, native first.
fn native_abis() -> Result<&'static [Abi], Error> {
    match Abi::of_machine(std::env::consts::ARCH) {
        [] => Err(Error::UnsupportedMachine),
        abis => Ok(abis),
    }
}

fn default_policy(capabilities: CapabilitySet) -> Result<Policy<'static>, Error> {
    let has = |name: &str| name.parse().is_ok_and(|capability| capabilities.contains(capability));
    Ok(Profile::parse(compiler::DEFAULT_PROFILE)?.select(native_abis()?, &has))
}

fn compile(policy: &Policy<'_>, table: &SyscallTable<'_>) -> Result<Vec<Instruction>, Error> {
    compiler::emit::compile(policy, table).map_err(|too_long| Error::TooLong(too_long.length))
}

#[cfg(test)]
mod emulator;
#[cfg(test)]
mod tests;
