//! The comment lines at the top that change how the rest is read: `# syntax=`, `# escape=`, `# check=`.

use super::Word;

/// What the directives say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Directives {
    /// `# syntax=IMAGE`: the frontend that the author had in mind. We have one of our own.
    pub(crate) syntax: Option<Word>,
    /// `# escape=`: the character that escapes, and that continues a line; `\` unless told otherwise.
    pub(crate) escape: char,
    /// `# check=skip=A,B;error=true`, as written.
    pub(crate) check: Option<Word>,
}

impl Default for Directives {
    fn default() -> Self {
        Directives { syntax: None, escape: '\\', check: None }
    }
}
