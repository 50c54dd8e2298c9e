//! Capabilities, seccomp, masked paths.
