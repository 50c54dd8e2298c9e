//! Where something stands in the source, and what is wrong there.

use std::fmt;

/// A stretch of the source. Lines and columns count from 1, columns in characters; the end is the first column after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Span {
    /// Which of several files, from 0.
    pub(crate) file: u16,
    /// The first line.
    pub(crate) line: u32,
    /// The first column, in `line`.
    pub(crate) column: u32,
    /// The last line.
    pub(crate) end_line: u32,
    /// The column after the last one, in `end_line`.
    pub(crate) end_column: u32,
}

impl Span {
    /// From the beginning of this one to the end of `other`.
    pub(crate) fn to(self, other: Span) -> Span {
        Span { end_line: other.end_line, end_column: other.end_column, ..self }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// The source is not a Dockerfile. Prints as `LINE:COLUMN: what is wrong`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ParseError {
    /// Where.
    pub(crate) span: Span,
    /// What is wrong, and what was expected.
    pub(crate) message: String,
    /// What might have been meant.
    pub(crate) hint: Option<String>,
}

impl ParseError {
    /// An error at `span`.
    pub(crate) fn new(span: Span, message: impl Into<String>) -> Self {
        ParseError { span, message: message.into(), hint: None }
    }

    /// Adds what might have been meant.
    pub(crate) fn hinted(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds what might have been meant, if anything.
    pub(crate) fn maybe_hinted(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }

    /// The lines of the source that it is about, the place marked. `source` is the file it stands in.
    ///
    /// ```text
    ///    3 | FROM debian
    ///    4 | COPY --form=a b c
    ///      |      ^^^^^^^^
    /// ```
    pub(crate) fn excerpt(&self, source: &[u8]) -> String {
        let mut out = String::new();
        let marked = self.span.line as usize;
        let text = String::from_utf8_lossy(source);
        for (index, line) in text.lines().enumerate().skip(marked.saturating_sub(3)).take(marked.min(3)) {
            let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            out.push_str(&format!("{:>4} | {line}\n", index + 1));
            if index + 1 != marked {
                continue;
            }
            let first = (self.span.column as usize).clamp(1, line.chars().count() + 1);
            let end = match self.span.end_line == self.span.line {
                true => (self.span.end_column as usize).min(line.chars().count() + 1),
                false => line.chars().count() + 1,
            };
            let marks = end.saturating_sub(first).max(1);
            out.push_str(&format!("     | {}{}\n", " ".repeat(first - 1), "^".repeat(marks)));
        }
        out
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.span, self.message)
    }
}

impl std::error::Error for ParseError {}

impl From<ExpandError> for ParseError {
    fn from(error: ExpandError) -> Self {
        ParseError::new(error.span, error.message)
    }
}

/// A word's variables cannot be expanded: it is malformed, or `${name:?message}` found no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExpandError {
    /// The word's place.
    pub(crate) span: Span,
    /// What is wrong.
    pub(crate) message: String,
}

impl fmt::Display for ExpandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.span, self.message)
    }
}

impl std::error::Error for ExpandError {}

/// Something that is accepted, but hardly meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Warning {
    /// Where.
    pub(crate) span: Span,
    /// The rule's name as BuildKit's checks have it, such as `NoEmptyContinuation`.
    pub(crate) rule: &'static str,
    /// What is noticed.
    pub(crate) message: String,
}
