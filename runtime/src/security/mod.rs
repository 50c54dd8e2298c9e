//! What a container may not do: capabilities, masked paths, keyring, system calls.
//!
//! Everything here is computed as a plain value first, then applied by the container's init.

pub mod capabilities;

pub mod masks;

pub mod keyring;

pub mod seccomp;
