//! Union mounts: what a stack of layers looks like.
