//! Kernel calls that `nix` lacks.
