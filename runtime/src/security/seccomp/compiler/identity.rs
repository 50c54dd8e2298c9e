//! The filters of containers whose user namespace has one id: which system calls are not the kernel's to answer.
//!
//! Two programs. *Notify* hands the calls to the notifier (`crate::identity`), which keeps credentials and owners that
//! the kernel cannot. *Succeed* is for kernels and surroundings without user notification: what changes credentials
//! and owners does nothing, successfully.
//!
//! Either is loaded beside the container's own filter; of two verdicts the kernel takes the stricter, and a refusal is
//! stricter than a notification. So they add to what a profile refuses and open nothing.

use super::abi::Abi;
use super::policy::{Action, Comparison, Condition, Policy, Rule};

/// Calls that set credentials, in the spelling of every ABI. Of the pairs, the shorter name means 16-bit ids where the
/// longer one exists.
pub const SET_CREDENTIALS: &[&str] = &[
    "setuid",
    "setuid32",
    "setgid",
    "setgid32",
    "setreuid",
    "setreuid32",
    "setregid",
    "setregid32",
    "setresuid",
    "setresuid32",
    "setresgid",
    "setresgid32",
    "setfsuid",
    "setfsuid32",
    "setfsgid",
    "setfsgid32",
    "setgroups",
    "setgroups32",
];

/// Calls that ask for them.
pub const GET_CREDENTIALS: &[&str] = &[
    "getuid",
    "getuid32",
    "geteuid",
    "geteuid32",
    "getgid",
    "getgid32",
    "getegid",
    "getegid32",
    "getresuid",
    "getresuid32",
    "getresgid",
    "getresgid32",
    "getgroups",
    "getgroups32",
];

/// Calls that set owners.
pub const SET_OWNERS: &[&str] = &["chown", "chown32", "lchown", "lchown32", "fchown", "fchown32", "fchownat"];

/// Calls that ask for them.
pub const GET_OWNERS: &[&str] =
    &["stat", "stat64", "lstat", "lstat64", "fstat", "fstat64", "newfstatat", "fstatat64", "statx"];

/// Calls that make files, whatever their arguments.
pub const CREATE: &[&str] = &["creat", "openat2", "mkdir", "mkdirat", "mknod", "mknodat", "symlink", "symlinkat"];

/// Calls that execute, or move a process to where paths mean something else.
pub const EXECUTE_AND_MOVE: &[&str] = &["execve", "execveat", "chroot", "pivot_root", "unshare", "setns", "clone3"];

/// The resource limit that carries the credentials of a process (see `crate::identity::table`): `RLIMIT_LOCKS`, which
/// no kernel since 2.4 looks at.
pub const STATE_LIMIT: u32 = 10;

/// `O_CREAT` and the bit that only `O_TMPFILE` has, the same on every architecture we compile for.
pub const CREATING_FLAGS: [u64; 2] = [0o100, 0o20_000_000];

/// `CLONE_NEWNS` and `CLONE_NEWUSER`.
const MOVING_FLAGS: [u64; 2] = [0x0002_0000, 0x1000_0000];

/// `SOL_SOCKET` and `SO_PEERCRED`, as both architectures have them.
const PEER_CREDENTIALS: [u64; 2] = [1, 17];

/// What the notifier answers.
pub fn notify(abis: &[Abi]) -> Policy<'static> {
    let always = [SET_CREDENTIALS, GET_CREDENTIALS, SET_OWNERS, GET_OWNERS, CREATE, EXECUTE_AND_MOVE].concat();
    let mut rules = vec![Rule { names: always, action: Action::Notify, conditions: Vec::new() }];
    let mut when = |names: &[&'static str], conditions: Vec<Condition>| {
        rules.push(Rule { names: names.to_vec(), action: Action::Notify, conditions });
    };
    for flag in CREATING_FLAGS {
        when(&["open"], vec![has(1, flag)]);
        when(&["openat"], vec![has(2, flag)]);
    }
    for flag in MOVING_FLAGS {
        when(&["clone"], vec![has(0, flag)]);
    }
    when(&["getrlimit", "ugetrlimit", "setrlimit"], vec![is(0, STATE_LIMIT.into())]);
    when(&["prlimit64"], vec![is(1, STATE_LIMIT.into())]);
    when(&["getsockopt"], vec![is(1, PEER_CREDENTIALS[0]), is(2, PEER_CREDENTIALS[1])]);
    Policy { default: Action::Allow, abis: abis.to_vec(), rules }
}

/// What succeeds without having an effect.
pub fn succeed(abis: &[Abi]) -> Policy<'static> {
    let names = [SET_CREDENTIALS, SET_OWNERS].concat();
    let rules = vec![Rule { names, action: Action::Errno(0), conditions: Vec::new() }];
    Policy { default: Action::Allow, abis: abis.to_vec(), rules }
}

const fn is(argument: u8, value: u64) -> Condition {
    Condition { argument, comparison: Comparison::Eq, value }
}

const fn has(argument: u8, flag: u64) -> Condition {
    Condition { argument, comparison: Comparison::MaskedEq { mask: flag }, value: flag }
}
