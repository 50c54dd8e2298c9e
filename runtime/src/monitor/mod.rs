//! What watches a running container: the supervisor's loop and everything it reacts with.
//!
//! ```text
//!            ┌─────────────── S: event_loop ───────────────┐
//! C stdout ─▶│ relay ──▶ log drivers ──▶ descriptor of log │
//! C stderr ─▶│   │                                         │
//! C stdin  ◀─│   └──▶ endpoints of attached clients        │◀── attach.sock: client's stdin, stdout, stderr
//! C exit   ─▶│ reaper                                      │──▶ control channel: exited, detached
//!            └─────────────────────────────────────────────┘
//! ```
//! **Runs in:** the supervisor S, single-threaded; [`attach::Client`] in the CLI; `relay` also in the CLI of an
//! `exec -t`, which has no supervisor. Nothing here blocks, polls or panics; memory is bounded by constants.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

/// Waits for named events.
pub mod event_loop;

/// Children that have ended, and their exit codes.
pub mod reaper;

/// Log drivers: they write to a descriptor they are given.
pub mod log;

/// Keys that detach a client.
pub mod detach_keys;

/// A client's standard descriptors, without blocking and without touching their flags.
mod endpoint;

/// The exchange with attached clients.
pub mod attach;

/// Copies between a container, its log and its clients.
pub mod relay;
