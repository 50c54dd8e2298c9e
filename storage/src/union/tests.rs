//! The engine on real directories.

mod fixture;
mod reading;
mod sequences;
mod single;
mod writing;
