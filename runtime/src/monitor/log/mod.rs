//! Log drivers: they write to a descriptor they are given.
