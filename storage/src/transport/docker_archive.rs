//! The archives of `docker save`.
