//! From architecture and number to what a call means here.

use std::collections::HashMap;

use super::attributes::Layout;
use super::credentials::Kind;
use crate::security::seccomp::compiler::abi::{Abi, SyscallTable};
use crate::security::seccomp::compiler::{SYSCALLS, identity as names};

/// How wide ids are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    /// 16 bits, of calls that 32-bit ABIs have from the beginnings.
    Narrow,
    /// 32 bits.
    Wide,
}

/// How a file is named. Numbers are positions of arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A path, relative to the working directory; a link at its end is followed or not.
    Path {
        /// Position of the path.
        path: usize,
        /// A link at the end means its target.
        follow: bool,
    },
    /// A path relative to a descriptor, with `AT_*` flags.
    At {
        /// Position of the descriptor; the path follows it.
        dir: usize,
        /// Position of the flags.
        flags: Option<usize>,
    },
    /// A descriptor, the first argument.
    Descriptor,
}

/// A call that the filter notifies of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    SetOne(Kind, Width),
    SetTwo(Kind, Width),
    SetThree(Kind, Width),
    SetFilesystem(Kind, Width),
    SetGroups(Width),
    GetReal(Kind, Width),
    GetEffective(Kind, Width),
    GetThree(Kind, Width),
    GetGroups(Width),
    /// The ids stand at `first` and behind.
    SetOwner {
        place: Place,
        first: usize,
        width: Width,
    },
    GetOwner {
        place: Place,
        layout: Layout,
        out: usize,
    },
    /// `mask` stands in front of `out`.
    Statx,
    Open {
        at: bool,
    },
    Openat2,
    Creat,
    MakeDirectory {
        at: bool,
    },
    MakeNode {
        at: bool,
    },
    MakeLink {
        at: bool,
    },
    Execute {
        at: bool,
    },
    Move,
    GetLimit,
    SetLimit,
    GetAndSetLimit,
    PeerCredentials,
}

/// Every call of every ABI of this machine.
#[derive(Debug)]
pub(super) struct Calls(HashMap<(u32, u32), Call>);

impl Calls {
    /// Reads the table of system calls.
    pub(super) fn of_machine() -> Calls {
        let table = SyscallTable::parse(SYSCALLS);
        let mut calls = HashMap::new();
        let others: &[&str] =
            &["open", "openat", "clone", "getrlimit", "ugetrlimit", "setrlimit", "prlimit64", "getsockopt"];
        let groups = [
            names::SET_CREDENTIALS,
            names::GET_CREDENTIALS,
            names::SET_OWNERS,
            names::GET_OWNERS,
            names::CREATE,
            names::EXECUTE_AND_MOVE,
            others,
        ];
        for abi in Abi::of_machine(std::env::consts::ARCH) {
            for name in groups.iter().copied().flatten() {
                if let (Some(number), Some(call)) = (table.number(*abi, name), Call::of(*abi, name)) {
                    calls.insert((abi.audit_arch(), abi.offset() + number), call);
                }
            }
        }
        Calls(calls)
    }

    /// What a notified call is; `None` for one that is the kernel's after all.
    pub(super) fn find(&self, arch: u32, number: u32) -> Option<Call> {
        self.0.get(&(arch, number)).copied()
    }
}

impl Call {
    fn of(abi: Abi, name: &str) -> Option<Call> {
        let is_32_bit = abi.has_narrow_arguments();
        let width = if is_32_bit && !name.ends_with("32") { Width::Narrow } else { Width::Wide };
        let short = name.strip_suffix("32").unwrap_or(name);
        let path = |follow| Place::Path { path: 0, follow };
        let stat = |place, layout: Option<Layout>, out| Some(Call::GetOwner { place, layout: layout?, out });
        Some(match short {
            "setuid" => Call::SetOne(Kind::User, width),
            "setgid" => Call::SetOne(Kind::Group, width),
            "setreuid" => Call::SetTwo(Kind::User, width),
            "setregid" => Call::SetTwo(Kind::Group, width),
            "setresuid" => Call::SetThree(Kind::User, width),
            "setresgid" => Call::SetThree(Kind::Group, width),
            "setfsuid" => Call::SetFilesystem(Kind::User, width),
            "setfsgid" => Call::SetFilesystem(Kind::Group, width),
            "setgroups" => Call::SetGroups(width),
            "getuid" => Call::GetReal(Kind::User, width),
            "getgid" => Call::GetReal(Kind::Group, width),
            "geteuid" => Call::GetEffective(Kind::User, width),
            "getegid" => Call::GetEffective(Kind::Group, width),
            "getresuid" => Call::GetThree(Kind::User, width),
            "getresgid" => Call::GetThree(Kind::Group, width),
            "getgroups" => Call::GetGroups(width),
            "chown" => Call::SetOwner { place: path(true), first: 1, width },
            "lchown" => Call::SetOwner { place: path(false), first: 1, width },
            "fchown" => Call::SetOwner { place: Place::Descriptor, first: 1, width },
            "fchownat" => {
                let place = Place::At { dir: 0, flags: Some(4) };
                Call::SetOwner { place, first: 2, width: Width::Wide }
            }
            "stat" => return stat(path(true), Layout::of(abi, false), 1),
            "lstat" => return stat(path(false), Layout::of(abi, false), 1),
            "fstat" => return stat(Place::Descriptor, Layout::of(abi, false), 1),
            "stat64" => return stat(path(true), Layout::of(abi, true), 1),
            "lstat64" => return stat(path(false), Layout::of(abi, true), 1),
            "fstat64" => return stat(Place::Descriptor, Layout::of(abi, true), 1),
            "newfstatat" => return stat(Place::At { dir: 0, flags: Some(3) }, Layout::of(abi, false), 2),
            "fstatat64" => return stat(Place::At { dir: 0, flags: Some(3) }, Layout::of(abi, true), 2),
            "statx" => Call::Statx,
            "open" => Call::Open { at: false },
            "openat" => Call::Open { at: true },
            "openat2" => Call::Openat2,
            "creat" => Call::Creat,
            "mkdir" => Call::MakeDirectory { at: false },
            "mkdirat" => Call::MakeDirectory { at: true },
            "mknod" => Call::MakeNode { at: false },
            "mknodat" => Call::MakeNode { at: true },
            "symlink" => Call::MakeLink { at: false },
            "symlinkat" => Call::MakeLink { at: true },
            "execve" => Call::Execute { at: false },
            "execveat" => Call::Execute { at: true },
            "chroot" | "pivot_root" | "unshare" | "setns" | "clone" | "clone3" => Call::Move,
            // Structures with 32-bit numbers: the kernel may tell what nobody can use.
            "getrlimit" | "ugetrlimit" if is_32_bit => return None,
            "getrlimit" | "ugetrlimit" => Call::GetLimit,
            "setrlimit" => Call::SetLimit,
            "prlimit64" => Call::GetAndSetLimit,
            "getsockopt" => Call::PeerCredentials,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn every_abi_of_the_machine_is_known() {
        let calls = Calls::of_machine();
        let (long, int) = (0xc000_003e, 0x4000_0003);
        assert_eq!(calls.find(long, libc::SYS_getuid as u32), Some(Call::GetReal(Kind::User, Width::Wide)));
        assert_eq!(calls.find(int, 24), Some(Call::GetReal(Kind::User, Width::Narrow)));
        assert_eq!(calls.find(int, 199), Some(Call::GetReal(Kind::User, Width::Wide)));
        assert_eq!(calls.find(long, 0x4000_0000 + libc::SYS_getuid as u32), calls.find(long, 102));
        assert_eq!(calls.find(long, libc::SYS_read as u32), None);
    }
}
