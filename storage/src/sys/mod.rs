//! Kernel calls that `nix` lacks.

pub(crate) mod xattr;
