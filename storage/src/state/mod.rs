//! Every state file: its path, writer, lock and durability.

pub mod request;
