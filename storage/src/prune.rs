//! What nothing refers to any more.
