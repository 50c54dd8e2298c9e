//! Processes, their descriptors and terminals.
