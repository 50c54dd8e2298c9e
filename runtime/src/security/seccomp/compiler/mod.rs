//! From a policy about named system calls to a classic BPF program.
//!
//! ```text
//! profile text ─ profile ─┐
//! docker's JSON ──────────┼→ Policy ─ resolve → numbers and actions ─ emit → Program
//! linux.seccomp ──────────┘            for each ABI                 (assembler)
//! ```
//! Pure Rust without other crates: the build script includes this module to compile the default
//! profile, the runtime has it for every other profile and capability set.
//!
//! # Source
//! `seccomp(2)`; `Documentation/userspace-api/seccomp_filter.rst`; libseccomp 2.5 for what several
//! rules about one call mean together.

pub mod abi;
pub mod assembler;
pub mod emit;
pub mod identity;
pub mod oci_json;
pub mod policy;
pub mod profile;
pub mod resolve;

/// The system call numbers of every ABI; made by `contrib/seccomp/syscall-table`.
pub const SYSCALLS: &str = include_str!("syscalls.txt");

/// The default profile; see [`profile`] for the format.
pub const DEFAULT_PROFILE: &str = include_str!("default.profile");
