//! Kernel calls that `nix` lacks.

pub(crate) mod fuse;
pub(crate) mod mmap;
pub(crate) mod rename;
pub(crate) mod xattr;
