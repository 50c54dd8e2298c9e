//! The engine on real directories.

mod fixture;
mod reading;
