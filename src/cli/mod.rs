//! The command line: option groups that commands share, and the small languages of their values; formats, tables and
//! progress.
//!
//! ```text
//! argv → clap → option groups → parse (pure) → Request
//! ```

/// Options that are taken and have no effect.
pub(crate) mod accepted;

/// What a wrong command line is answered with.
pub(crate) mod usage;

/// Values of options, each a pure function with its table of tests.
pub(crate) mod parse;

/// The option groups of `run` and `create`.
pub(crate) mod options;

/// All of them together, and what becomes of them with an image.
pub(crate) mod container_options;

/// The options of `exec`.
pub(crate) mod exec_options;

/// `user[:group]` against the container's passwd and group files.
pub(crate) mod user;

/// What a shell may complete a command line with.
pub(crate) mod complete;

/// Manual pages from the definitions of the command line.
pub(crate) mod man;

/// What may have been meant by words that are not known.
pub(crate) mod suggest;

/// Colour on terminals.
pub(crate) mod colour;

pub(crate) mod format;
pub(crate) mod output;
pub(crate) mod pattern;
pub(crate) mod printable;
pub(crate) mod progress;
pub(crate) mod prompt;
pub(crate) mod table;
pub(crate) mod units;
