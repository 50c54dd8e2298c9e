//! Processes: namespaces, mounts, init. Keeps no files of ours.
//!
//! ```text
//! bundle → userns → supervisor (src/) → mount → init → exec
//! ```

// The fences of clippy.toml are for what we ship; tests make their own surroundings.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod bundle;

pub mod userns;

pub mod mount;

pub mod init;

pub mod hooks;

pub mod exec;

pub mod process;

pub mod monitor;

pub mod cgroup;

pub mod security;

pub mod identity;

#[allow(unsafe_code)]
mod sys;
