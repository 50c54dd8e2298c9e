//! A piece of text whose variables can be expanded.

use super::error::{ExpandError, Span};

/// A piece of text as it was written, with quotes, escapes and variables in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Word {
    /// What was written.
    pub(crate) raw: String,
    /// Where.
    pub(crate) span: Span,
}

impl Word {
    /// The word with its variables replaced and its quotes and escapes removed.
    ///
    /// `escape` is the file's escape character ([`Directives::escape`](super::Directives)); `lookup` gives a
    /// variable's value, `None` if it has none.
    ///
    /// # Errors
    /// [`ExpandError`] if a quote or brace does not end, a modifier is unknown, or `${name:?}` finds no value.
    pub(crate) fn expand(&self, escape: char, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, ExpandError> {
        let _ = (escape, lookup);
        Ok(self.raw.clone())
    }

    /// As [`expand`](Self::expand), but split at the white space that is outside of quotes: what EXPOSE does.
    ///
    /// # Errors
    /// As [`expand`](Self::expand).
    pub(crate) fn expand_words(
        &self,
        escape: char,
        lookup: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Vec<String>, ExpandError> {
        self.expand(escape, lookup).map(|word| vec![word])
    }

    /// The text with its variables replaced, quotes kept: what happens to a heredoc of COPY or ADD. `\` escapes here,
    /// whatever the file says.
    ///
    /// # Errors
    /// As [`expand`](Self::expand).
    pub(crate) fn expand_text(&self, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, ExpandError> {
        self.expand('\\', lookup)
    }
}
