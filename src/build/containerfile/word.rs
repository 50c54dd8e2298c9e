//! A piece of text whose variables can be expanded.

use super::error::{ExpandError, Span};
use super::expand::{Expander, Mode};

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
        Expander::new(&self.raw, escape, Mode::Word, lookup).run().map(|out| out.text).map_err(self.failed())
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
        Expander::new(&self.raw, escape, Mode::Word, lookup).run().map(|out| out.words).map_err(self.failed())
    }

    /// The text with its variables replaced and its quotes kept: what becomes of a heredoc in COPY and ADD. `\` escapes
    /// here, whatever the file says.
    ///
    /// # Errors
    /// As [`expand`](Self::expand).
    pub(crate) fn expand_text(&self, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, ExpandError> {
        Expander::new(&self.raw, '\\', Mode::Text, lookup).run().map(|out| out.text).map_err(self.failed())
    }

    /// The variables that the word needs and `lookup` does not have; those with a default are not among them. Empty for
    /// a malformed word.
    pub(crate) fn undefined(&self, escape: char, lookup: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
        Expander::new(&self.raw, escape, Mode::Word, lookup).run().map(|out| out.undefined).unwrap_or_default()
    }

    /// Whether there is something in it that may be a variable.
    pub(crate) fn has_variable(&self) -> bool {
        self.raw.contains('$')
    }

    fn failed(&self) -> impl Fn(String) -> ExpandError {
        let (span, raw) = (self.span, self.raw.clone());
        move |message| ExpandError { span, message: format!("cannot expand {raw:?}: {message}") }
    }
}
