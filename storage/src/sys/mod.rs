//! Kernel calls that `nix` lacks.

pub(crate) mod clone;
pub(crate) mod flags;
pub(crate) mod fuse;
pub(crate) mod mmap;
pub(crate) mod rename;
pub(crate) mod times;
pub(crate) mod xattr;
