//! Global flags, option groups, formats, tables, progress.

pub(crate) mod format;
pub(crate) mod printable;
pub(crate) mod progress;
pub(crate) mod table;
pub(crate) mod units;
pub(crate) mod user;
