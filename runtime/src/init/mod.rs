//! Container init: the steps from clone to execve.
//!
//! **Runs in:** C, the child that the supervisor cloned into the container's namespaces; single-threaded; a copy of the
//! supervisor's memory, so plain data is there without being passed.

pub mod handshake;

pub mod gate;

pub mod sealed_exe;

pub mod steps;

pub mod namespaces;

mod limits;

pub mod program;

pub mod credentials;

pub mod pid1;

mod pause;
