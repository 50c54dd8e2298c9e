//! Which paths of a context a `.dockerignore` leaves out.
//!
//! Pure: patterns in, answers out. The rules are moby's (`patternmatcher`): Go's `filepath.Match` with `**`, later
//! patterns win, `!` takes back, a match of a directory holds for everything below it.

/// The patterns of a `.dockerignore`, or of `COPY --exclude`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ignore {
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone)]
struct Pattern {}

/// A pattern is malformed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{source_line}: invalid pattern {pattern:?}: {reason}")]
pub(crate) struct BadPattern {
    /// The line in the file, or the pattern's number.
    pub(crate) source_line: usize,
    /// The pattern.
    pub(crate) pattern: String,
    /// What is wrong with it.
    pub(crate) reason: &'static str,
}

/// What is to be done with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is part of the context.
    Keep,
    /// It is left out, but something below it may be taken back by a `!` pattern: a directory must be walked.
    Ignore,
    /// It is left out with everything below it: a directory need not be opened.
    Skip,
}

impl Ignore {
    /// Reads a `.dockerignore`.
    ///
    /// # Errors
    /// [`BadPattern`].
    pub(crate) fn parse(source: &[u8]) -> Result<Ignore, BadPattern> {
        let _ = source;
        Ok(Ignore::default())
    }

    /// Takes patterns as `--exclude` gives them.
    ///
    /// # Errors
    /// [`BadPattern`].
    pub(crate) fn from_patterns<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Ignore, BadPattern> {
        let _ = patterns.into_iter();
        Ok(Ignore::default())
    }

    /// Whether nothing is ever left out.
    pub(crate) fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// What is to be done with `path`, which is relative, `/`-separated, without `.` and `..`.
    pub(crate) fn verdict(&self, path: &[u8]) -> Verdict {
        let _ = path;
        Verdict::Keep
    }
}
