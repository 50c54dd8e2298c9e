//! Mounts as data, then applied.
