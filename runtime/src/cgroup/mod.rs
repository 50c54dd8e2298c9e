//! The container's cgroup, where one is writable.
