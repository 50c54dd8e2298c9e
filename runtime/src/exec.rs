//! Joins a running container.
