//! The supervisor: one process for each running container.
//!
//! ```text
//! P (CLI)                       S (supervisor)                        C (init)
//!  │ clone3(NEWUSER|NEWPID) ──▶ │                                     ·
//!  │ newuidmap ‖ newgidmap      │ lock, directories, record           ·
//!  │                            │ pipes, cgroup, clone3(NEW*) ──────▶ │ waits
//!  │ ── maps ─────────────────▶ │ id 0 ── go ───────────────────────▶ │ root, mounts, pivot
//!  │                            │ ◀── /dev/fuse ───────────────────── │ (only with a FUSE mount)
//!  │                            │ forks the union server U, which answers C
//!  │                            │ network, in parallel                │
//!  │                            │ ◀── console, ready ──────────────── │
//!  │                            │ state: running ── go ─────────────▶ │ credentials, execve
//!  │ ◀── started ────────────── │ ◀══ end of file                     ▼
//!  │ ◀── exited {code} ──────── │ ◀── pidfd
//!  ▼ exit                       │ helpers stop, trash, lock
//! ```
//! Dies any of them, the next command finds the truth: see `storage::state::status`.

pub(crate) mod accounts;

/// Images that are not all there yet.
pub(crate) mod arrival;

pub(crate) mod auto_ids;

pub(crate) mod bundle;

/// What a container may use.
pub(crate) mod resources;

/// The cgroup that holds it to that.
pub(crate) mod cgroup;

pub(crate) mod channel;

pub(crate) mod launch;

pub(crate) mod mounts;

pub(crate) mod network;

pub(crate) mod leader;

/// Networks that come and go while the container runs.
mod rejoin;

mod names;

pub(crate) mod notify;

pub(crate) mod rootfs;

pub(crate) mod secrets;

pub(crate) mod union_server;

/// A new container on disk.
mod create;

/// What goes in and out of the container.
mod streams;

/// Build-up.
mod build;

/// What finishes its root.
mod hooks;

/// What is ready and not started.
mod hold;

/// The loop.
mod supervise;

/// What clients have done.
mod questions;

/// Whether the container is healthy.
mod health;

/// What the journal of events is told.
mod journal;
/// Another run of the same container.
mod restart;

/// Tear-down.
mod teardown;

pub(crate) use create::write_bundle;
pub(crate) use launch::{Birth, Launch, Running, start};
pub(crate) use streams::{FirstClient, log_file};
