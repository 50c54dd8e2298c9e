//! What a filter shall do, by names of system calls.

use super::abi::Abi;

/// What happens to a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The whole process dies by SIGSYS.
    KillProcess,
    /// The calling thread dies.
    KillThread,
    /// SIGSYS is sent to the thread.
    Trap,
    /// The call fails with this errno.
    Errno(u16),
    /// A tracer is notified with this value; `ENOSYS` without one.
    Trace(u16),
    /// A supervisor answers in the kernel's place.
    Notify,
    /// The call is executed and logged.
    Log,
    /// The call is executed.
    Allow,
}

impl Action {
    /// `SECCOMP_RET_*` with its data.
    pub const fn code(self) -> u32 {
        match self {
            Self::KillProcess => 0x8000_0000,
            Self::KillThread => 0x0000_0000,
            Self::Trap => 0x0003_0000,
            Self::Errno(errno) => 0x0005_0000 | errno as u32,
            Self::Trace(data) => 0x7ff0_0000 | data as u32,
            Self::Notify => 0x7fc0_0000,
            Self::Log => 0x7ffc_0000,
            Self::Allow => 0x7fff_0000,
        }
    }

    /// Whether the call may be executed. A tracer is trusted to decide.
    pub const fn is_permissive(self) -> bool {
        matches!(self, Self::Allow | Self::Log | Self::Trace(_))
    }
}

/// How an argument is compared, as unsigned 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Comparison {
    /// Different from the value.
    Ne,
    /// Below the value.
    Lt,
    /// Not above the value.
    Le,
    /// Equal to the value.
    Eq,
    /// Not below the value.
    Ge,
    /// Above the value.
    Gt,
    /// The bits of `mask` are those of the value.
    MaskedEq {
        /// The bits that count.
        mask: u64,
    },
}

/// A condition on one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Condition {
    /// Which argument, 0 to 5.
    pub argument: u8,
    /// How it is compared.
    pub comparison: Comparison,
    /// With what.
    pub value: u64,
}

impl Condition {
    /// Whether it holds for this value of the argument.
    pub const fn holds(self, argument: u64) -> bool {
        match self.comparison {
            Comparison::Ne => argument != self.value,
            Comparison::Lt => argument < self.value,
            Comparison::Le => argument <= self.value,
            Comparison::Eq => argument == self.value,
            Comparison::Ge => argument >= self.value,
            Comparison::Gt => argument > self.value,
            Comparison::MaskedEq { mask } => argument & mask == self.value,
        }
    }
}

/// An action for some system calls when all conditions hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule<'a> {
    /// The calls; names that an ABI does not have are ignored there.
    pub names: Vec<&'a str>,
    /// What happens to them.
    pub action: Action,
    /// No two on the same argument: config.json has no way to say that.
    pub conditions: Vec<Condition>,
}

/// A whole filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy<'a> {
    /// What happens to calls that no rule speaks of.
    pub default: Action,
    /// The ABIs a process may use; any other kills it.
    pub abis: Vec<Abi>,
    /// The rules; their order counts only between conditional rules of different actions.
    pub rules: Vec<Rule<'a>>,
}

/// Errno names that profiles use.
pub fn errno(name: &str) -> Option<u16> {
    // Linux has the same numbers for these on every architecture we compile for.
    Some(match name {
        "EPERM" => 1,
        "ENOENT" => 2,
        "EIO" => 5,
        "EBADF" => 9,
        "EAGAIN" => 11,
        "ENOMEM" => 12,
        "EACCES" => 13,
        "EFAULT" => 14,
        "EBUSY" => 16,
        "EEXIST" => 17,
        "ENODEV" => 19,
        "EINVAL" => 22,
        "ENOTTY" => 25,
        "ENOSPC" => 28,
        "EROFS" => 30,
        "ENOSYS" => 38,
        "EOPNOTSUPP" | "ENOTSUP" => 95,
        "EAFNOSUPPORT" => 97,
        _ => return None,
    })
}
