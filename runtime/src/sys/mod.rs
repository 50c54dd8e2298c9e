//! Kernel calls that `nix` lacks.

pub(crate) mod caps;

pub(crate) mod keyring;

pub(crate) mod seccomp;
