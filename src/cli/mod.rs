//! Global flags, option groups, formats, tables, progress.
