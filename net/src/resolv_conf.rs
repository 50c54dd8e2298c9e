//! The container's resolver configuration.
