//! Processes, their descriptors and terminals.

/// Signals by name, and their actions in a new process.
pub mod signal;

/// Descriptors 0, 1 and 2 of a container and the supervisor's ends of them.
pub mod stdio;

/// Terminals: pty pairs for containers, raw mode for clients.
pub mod pty;
