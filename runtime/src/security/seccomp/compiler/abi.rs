//! The system call ABIs and their numbers.

use std::collections::HashMap;

/// A way into the kernel: a register layout and a table of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Abi {
    /// x86-64.
    X86_64,
    /// 32-bit pointers on x86-64: the same `AUDIT_ARCH`, numbers with [`X32_BIT`].
    X32,
    /// 32-bit x86.
    I386,
    /// 64-bit ARM.
    Aarch64,
    /// 32-bit ARM, EABI.
    Arm,
}

/// Set in every x32 number.
pub const X32_BIT: u32 = 0x4000_0000;

impl Abi {
    /// Every ABI, in the order of the columns of the table.
    pub const EVERY: [Self; 5] = [Self::X86_64, Self::X32, Self::I386, Self::Aarch64, Self::Arm];

    /// The ABIs of a machine, native first; the machine as in `std::env::consts::ARCH`.
    pub fn of_machine(machine: &str) -> &'static [Self] {
        match machine {
            "x86_64" => &[Self::X86_64, Self::I386, Self::X32],
            "aarch64" => &[Self::Aarch64, Self::Arm],
            _ => &[],
        }
    }

    /// `AUDIT_ARCH_*`, the `arch` of `struct seccomp_data`.
    pub const fn audit_arch(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::I386 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// What is added to a number of the table.
    pub const fn offset(self) -> u32 {
        match self {
            Self::X32 => X32_BIT,
            _ => 0,
        }
    }

    /// Whether arguments are 32 bits wide: the kernel then clears the upper halves. x32 passes 64.
    pub const fn has_narrow_arguments(self) -> bool {
        matches!(self, Self::I386 | Self::Arm)
    }

    /// The name in config.json and in docker's profiles.
    pub const fn scmp_name(self) -> &'static str {
        match self {
            Self::X86_64 => "SCMP_ARCH_X86_64",
            Self::X32 => "SCMP_ARCH_X32",
            Self::I386 => "SCMP_ARCH_X86",
            Self::Aarch64 => "SCMP_ARCH_AARCH64",
            Self::Arm => "SCMP_ARCH_ARM",
        }
    }
}

/// Numbers from here on are private to an architecture and not in the order of invention.
pub const PRIVATE: u32 = 0xf_0000;

/// Names to numbers.
pub struct SyscallTable<'a> {
    numbers: HashMap<&'a str, [Option<u32>; Abi::EVERY.len()]>,
}

impl<'a> SyscallTable<'a> {
    /// Reads the table; lines of another shape are skipped.
    pub fn parse(text: &'a str) -> Self {
        let numbers = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let mut words = line.split(' ');
            let name = words.next()?;
            let mut row = [None; Abi::EVERY.len()];
            for (cell, word) in row.iter_mut().zip(words) {
                *cell = word.parse().ok();
            }
            Some((name, row))
        });
        Self { numbers: numbers.collect() }
    }

    /// The number of a call, without the ABI's offset.
    pub fn number(&self, abi: Abi, name: &str) -> Option<u32> {
        self.numbers.get(name)?[abi as usize]
    }

    /// Whether any ABI has a call of this name.
    pub fn knows(&self, name: &str) -> bool {
        self.numbers.contains_key(name) || Multiplexer::of(name).is_some()
    }
}

/// A call that leads to others by the number in its first argument (i386 alone has them).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Multiplexer {
    /// `socketcall` or `ipc`.
    pub name: &'static str,
    /// The first argument that means the call.
    pub call: u64,
    /// The bits of the first argument that the kernel looks at.
    pub mask: u64,
}

impl Multiplexer {
    /// The other way to a system call of i386.
    ///
    /// # Source
    /// `include/uapi/linux/net.h`, `include/uapi/linux/ipc.h`.
    pub fn of(name: &str) -> Option<Self> {
        const SOCKETCALL: [&str; 20] = [
            "socket",
            "bind",
            "connect",
            "listen",
            "accept",
            "getsockname",
            "getpeername",
            "socketpair",
            "send",
            "recv",
            "sendto",
            "recvfrom",
            "shutdown",
            "setsockopt",
            "getsockopt",
            "sendmsg",
            "recvmsg",
            "accept4",
            "recvmmsg",
            "sendmmsg",
        ];
        if let Some(index) = SOCKETCALL.iter().position(|call| *call == name) {
            return Some(Self { name: "socketcall", call: index as u64 + 1, mask: 0xffff_ffff });
        }
        let call = match name {
            "semop" => 1,
            "semget" => 2,
            "semctl" => 3,
            "semtimedop" => 4,
            "msgsnd" => 11,
            "msgrcv" => 12,
            "msgget" => 13,
            "msgctl" => 14,
            "shmat" => 21,
            "shmdt" => 22,
            "shmget" => 23,
            "shmctl" => 24,
            _ => return None,
        };
        // The upper half of ipc's first argument is a version.
        Some(Self { name: "ipc", call, mask: 0xffff })
    }
}
