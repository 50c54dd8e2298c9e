//! Capabilities as values: names, a bit set, and how `--cap-add` and `--cap-drop` change it.
//!
//! Pure and free of other modules: the build script compiles the default seccomp profile for
//! [`CapabilitySet::DEFAULT`] and includes this very file.

use std::fmt;
use std::str::FromStr;

macro_rules! capabilities {
    ($($number:literal $variant:ident $name:literal,)*) => {
        /// A Linux capability.
        ///
        /// # Source
        /// `capabilities(7)`, `include/uapi/linux/capability.h` of Linux 6.12.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Capability {
            $(
                #[doc = concat!("`CAP_", $name, "`")]
                $variant = $number,
            )*
        }

        impl Capability {
            /// Every capability this version knows, in the kernel's order.
            pub const EVERY: &'static [Self] = &[$(Self::$variant,)*];

            /// The kernel's name without `CAP_`: `NET_ADMIN`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

capabilities! {
    0 Chown "CHOWN",
    1 DacOverride "DAC_OVERRIDE",
    2 DacReadSearch "DAC_READ_SEARCH",
    3 Fowner "FOWNER",
    4 Fsetid "FSETID",
    5 Kill "KILL",
    6 Setgid "SETGID",
    7 Setuid "SETUID",
    8 Setpcap "SETPCAP",
    9 LinuxImmutable "LINUX_IMMUTABLE",
    10 NetBindService "NET_BIND_SERVICE",
    11 NetBroadcast "NET_BROADCAST",
    12 NetAdmin "NET_ADMIN",
    13 NetRaw "NET_RAW",
    14 IpcLock "IPC_LOCK",
    15 IpcOwner "IPC_OWNER",
    16 SysModule "SYS_MODULE",
    17 SysRawio "SYS_RAWIO",
    18 SysChroot "SYS_CHROOT",
    19 SysPtrace "SYS_PTRACE",
    20 SysPacct "SYS_PACCT",
    21 SysAdmin "SYS_ADMIN",
    22 SysBoot "SYS_BOOT",
    23 SysNice "SYS_NICE",
    24 SysResource "SYS_RESOURCE",
    25 SysTime "SYS_TIME",
    26 SysTtyConfig "SYS_TTY_CONFIG",
    27 Mknod "MKNOD",
    28 Lease "LEASE",
    29 AuditWrite "AUDIT_WRITE",
    30 AuditControl "AUDIT_CONTROL",
    31 Setfcap "SETFCAP",
    32 MacOverride "MAC_OVERRIDE",
    33 MacAdmin "MAC_ADMIN",
    34 Syslog "SYSLOG",
    35 WakeAlarm "WAKE_ALARM",
    36 BlockSuspend "BLOCK_SUSPEND",
    37 AuditRead "AUDIT_READ",
    38 Perfmon "PERFMON",
    39 Bpf "BPF",
    40 CheckpointRestore "CHECKPOINT_RESTORE",
}

impl Capability {
    /// The kernel's number, which is also the bit in a [`CapabilitySet`].
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The capability with this number, if this version knows it.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::EVERY.get(usize::from(number)).copied()
    }
}

/// Prints `CAP_NET_ADMIN`.
impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CAP_{}", self.name())
    }
}

/// A name that is no capability.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownCapability(pub String);

impl fmt::Display for UnknownCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown capability {:?}", self.0)
    }
}

impl std::error::Error for UnknownCapability {}

/// Accepts any case, with or without `CAP_`.
impl FromStr for Capability {
    type Err = UnknownCapability;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bare = match text.get(..4) {
            Some(prefix) if prefix.eq_ignore_ascii_case("CAP_") => &text[4..],
            _ => text,
        };
        Self::EVERY
            .iter()
            .copied()
            .find(|capability| capability.name().eq_ignore_ascii_case(bare))
            .ok_or_else(|| UnknownCapability(text.to_owned()))
    }
}

/// A value of `--cap-add` or `--cap-drop`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// `ALL`, in any case.
    All,
    /// One capability.
    One(Capability),
}

impl FromStr for Selection {
    type Err = UnknownCapability;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.eq_ignore_ascii_case("ALL") { Ok(Self::All) } else { text.parse().map(Self::One) }
    }
}

/// A set of capabilities, one bit each.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct CapabilitySet(u64);

impl CapabilitySet {
    /// No capability.
    pub const EMPTY: Self = Self(0);

    /// Every capability this version knows.
    pub const ALL: Self = Self((1 << Capability::EVERY.len()) - 1);

    /// What a container gets by default: podman's eleven.
    pub const DEFAULT: Self = Self::of(&[
        Capability::Chown,
        Capability::DacOverride,
        Capability::Fowner,
        Capability::Fsetid,
        Capability::Kill,
        Capability::NetBindService,
        Capability::Setfcap,
        Capability::Setgid,
        Capability::Setpcap,
        Capability::Setuid,
        Capability::SysChroot,
    ]);

    /// Docker's fourteen: the upper bound of what any default of ours may ever hold.
    ///
    /// Beyond [`CapabilitySet::DEFAULT`] docker gives `MKNOD` (useless in a user namespace),
    /// `AUDIT_WRITE` and `NET_RAW` (packet spoofing on a shared network); a container that needs
    /// one asks for it.
    pub const DOCKER: Self =
        Self(Self::DEFAULT.0 | Self::of(&[Capability::Mknod, Capability::AuditWrite, Capability::NetRaw]).0);

    /// The set of exactly these.
    pub const fn of(capabilities: &[Capability]) -> Self {
        let mut bits = 0;
        let mut index = 0;
        while index < capabilities.len() {
            bits |= 1 << capabilities[index].number();
            index += 1;
        }
        Self(bits)
    }

    /// The set with these bits; bits of capabilities this version does not know are kept.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// One bit for each capability, the kernel's numbering.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether the set holds this capability.
    pub const fn contains(self, capability: Capability) -> bool {
        self.0 & (1 << capability.number()) != 0
    }

    /// Whether the set holds none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many it holds.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// This set and one more.
    #[must_use]
    pub const fn with(self, capability: Capability) -> Self {
        Self(self.0 | 1 << capability.number())
    }

    /// This set without one.
    #[must_use]
    pub const fn without(self, capability: Capability) -> Self {
        Self(self.0 & !(1 << capability.number()))
    }

    /// What is in either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both sets.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in this set and not in the other.
    #[must_use]
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The set without what is above `last`, the highest capability of the running kernel.
    #[must_use]
    pub const fn up_to(self, last: u8) -> Self {
        if last >= 63 { self } else { Self(self.0 & ((1 << (last + 1)) - 1)) }
    }

    /// Every member this version knows, in the kernel's order.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        Capability::EVERY.iter().copied().filter(move |capability| self.contains(*capability))
    }

    /// Applies `--cap-add` and `--cap-drop` by docker's rules.
    ///
    /// - `ALL` added: every capability except the ones dropped by name.
    /// - `ALL` dropped: exactly the ones added.
    /// - else drops come first, so a capability in both lists is added.
    #[must_use]
    pub fn adjust(self, add: &[Selection], drop: &[Selection]) -> Self {
        let named = |list: &[Selection]| {
            list.iter().fold(Self::EMPTY, |set, selection| match selection {
                Selection::All => set,
                Selection::One(capability) => set.with(*capability),
            })
        };
        if add.contains(&Selection::All) {
            Self::ALL.difference(named(drop))
        } else if drop.contains(&Selection::All) {
            named(add)
        } else {
            self.difference(named(drop)).union(named(add))
        }
    }
}

impl FromIterator<Capability> for CapabilitySet {
    fn from_iter<I: IntoIterator<Item = Capability>>(capabilities: I) -> Self {
        capabilities.into_iter().fold(Self::EMPTY, Self::with)
    }
}

/// Prints `{CAP_CHOWN, CAP_KILL}`.
impl fmt::Debug for CapabilitySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|capability| format_args!("{capability}").to_string())).finish()
    }
}
