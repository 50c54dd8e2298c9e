//! The container's hosts file.
