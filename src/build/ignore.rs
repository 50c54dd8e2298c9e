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
struct Pattern {
    /// `!`: what matches is taken back.
    is_exception: bool,
    tokens: Vec<Token>,
    /// The pattern's text where it has no special character: most have none.
    literal: Option<String>,
    /// What every match begins with, up to the first special character.
    prefix: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Char(char),
    /// `?`
    Any,
    /// `*`
    Star,
    /// `**/`, or `**` before something: any number of directories, none included.
    Directories,
    /// `**` at the end.
    Everything,
    /// `[a-z]`, `[^a-z]`
    Class {
        is_negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// A pattern is malformed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: invalid pattern {pattern:?}: {reason}")]
pub(crate) struct BadPattern {
    /// The line in the file, or the pattern's number, from 1.
    pub(crate) line: usize,
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
    /// Reads a `.dockerignore`. Lines that begin with `#` are comments.
    ///
    /// # Errors
    /// [`BadPattern`].
    pub(crate) fn parse(source: &[u8]) -> Result<Ignore, BadPattern> {
        let source = source.strip_prefix(b"\xef\xbb\xbf").unwrap_or(source);
        let text = String::from_utf8_lossy(source);
        let lines = text.split('\n').enumerate().filter(|(_, line)| !line.starts_with('#'));
        Self::from_lines(lines.map(|(index, line)| (index + 1, line)))
    }

    /// Takes patterns as `--exclude` gives them.
    ///
    /// # Errors
    /// [`BadPattern`].
    pub(crate) fn from_patterns<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Ignore, BadPattern> {
        Self::from_lines(patterns.into_iter().enumerate().map(|(index, pattern)| (index + 1, pattern)))
    }

    fn from_lines<'a>(lines: impl Iterator<Item = (usize, &'a str)>) -> Result<Ignore, BadPattern> {
        let mut patterns = Vec::new();
        for (line, written) in lines {
            let pattern = Pattern::read(written.trim());
            patterns.extend(pattern.map_err(|reason| BadPattern {
                line,
                pattern: written.trim().to_owned(),
                reason,
            })?);
        }
        Ok(Ignore { patterns })
    }

    /// Whether nothing is ever left out.
    pub(crate) fn is_empty(&self) -> bool {
        !self.patterns.iter().any(|pattern| !pattern.is_exception)
    }

    /// Whether there are `!` patterns.
    pub(crate) fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.is_exception)
    }

    /// What is to be done with `path`, which is relative, `/`-separated, without `.` and `..`. Bytes that are no UTF-8
    /// match as U+FFFD.
    pub(crate) fn verdict(&self, path: &[u8]) -> Verdict {
        let path = String::from_utf8_lossy(path);
        // The pattern that leaves the path out; it does so for everything below, up to a later exception.
        let mut ignored_by = None;
        for (index, pattern) in self.patterns.iter().enumerate() {
            // Only what would change the answer is asked.
            if pattern.is_exception == ignored_by.is_some() && pattern.matches_or_a_parent(&path) {
                ignored_by = (!pattern.is_exception).then_some(index);
            }
        }
        let Some(index) = ignored_by else { return Verdict::Keep };
        let mut later = self.patterns.iter().skip(index + 1).filter(|pattern| pattern.is_exception);
        if later.any(|pattern| pattern.may_match_below(&path)) { Verdict::Ignore } else { Verdict::Skip }
    }
}

impl Pattern {
    /// Reads a line; nothing if it says nothing.
    fn read(line: &str) -> Result<Option<Pattern>, &'static str> {
        let (is_exception, text) = match line.strip_prefix('!') {
            Some(rest) => (true, rest.trim()),
            None => (false, line),
        };
        if text.is_empty() {
            return if is_exception { Err("expected a pattern after !") } else { Ok(None) };
        }
        let text = clean(text);
        let tokens = tokens(&text)?;
        let literals = tokens.iter().map_while(|token| match token {
            Token::Char(c) => Some(*c),
            _ => None,
        });
        let prefix: String = literals.collect();
        let literal = (prefix.chars().count() == tokens.len()).then(|| prefix.clone());
        Ok(Some(Pattern { is_exception, tokens, literal, prefix }))
    }

    fn matches_or_a_parent(&self, path: &str) -> bool {
        if let Some(literal) = &self.literal {
            return path.strip_prefix(literal.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        }
        if !path.starts_with(&self.prefix) {
            return false;
        }
        self.ends(path).any(|end| end == path.len() || path[end..].starts_with('/'))
    }

    /// Whether something below the directory `path` may match.
    fn may_match_below(&self, path: &str) -> bool {
        if let Some(literal) = &self.literal {
            let below = literal.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
            return below || self.matches_or_a_parent(path);
        }
        // Text that neither begins with the other cannot meet.
        let (shorter, longer) =
            if self.prefix.len() < path.len() { (self.prefix.as_str(), path) } else { (path, self.prefix.as_str()) };
        longer.starts_with(shorter)
    }

    /// Where in `path` a match that begins at its beginning can end.
    fn ends<'p>(&self, path: &'p str) -> impl Iterator<Item = usize> + use<'p> {
        let chars: Vec<(usize, char)> = path.char_indices().collect();
        // For each place: whether the tokens so far can end before its character.
        let mut ends = vec![false; chars.len() + 1];
        ends[0] = true;
        for token in &self.tokens {
            ends = token.step(&ends, &chars);
            if !ends.contains(&true) {
                break;
            }
        }
        let length = path.len();
        let at = move |index: usize| chars.get(index).map_or(length, |(at, _)| *at);
        ends.into_iter().enumerate().filter(|(_, end)| *end).map(move |(index, _)| at(index))
    }
}

impl Token {
    fn step(&self, ends: &[bool], chars: &[(usize, char)]) -> Vec<bool> {
        let mut next = vec![false; ends.len()];
        // Whether an earlier end is carried along.
        let mut is_open = false;
        for (index, end) in ends.iter().enumerate() {
            let before = index.checked_sub(1).map(|index| chars[index].1);
            next[index] = match self {
                Token::Char(wanted) => before == Some(*wanted) && ends[index - 1],
                Token::Any => before.is_some_and(|c| c != '/') && ends[index - 1],
                Token::Class { is_negated, ranges } => {
                    let is_in = |c: char| ranges.iter().any(|(first, last)| (*first..=*last).contains(&c));
                    before.is_some_and(|c| c != '/' && is_in(c) != *is_negated) && ends[index - 1]
                }
                Token::Star => {
                    is_open = *end || (is_open && before != Some('/'));
                    is_open
                }
                Token::Everything => {
                    is_open |= *end;
                    is_open
                }
                Token::Directories => {
                    let is_reached = *end || (is_open && before == Some('/'));
                    is_open |= *end;
                    is_reached
                }
            };
        }
        next
    }
}

/// The shortest path that means the same, as Go's `filepath.Clean` makes it, without a leading slash.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            // Nothing is above the root.
            ".." if path.starts_with('/') => {}
            part => parts.push(part),
        }
    }
    match parts.is_empty() {
        true => ".".to_owned(),
        false => parts.join("/"),
    }
}

fn tokens(pattern: &str) -> Result<Vec<Token>, &'static str> {
    let mut tokens = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        tokens.push(match c {
            '*' if chars.next_if_eq(&'*').is_some() => {
                chars.next_if_eq(&'/');
                if chars.peek().is_some() { Token::Directories } else { Token::Everything }
            }
            '*' => Token::Star,
            '?' => Token::Any,
            '\\' => Token::Char(chars.next().ok_or("expected a character after \\")?),
            '[' => class(&mut chars)?,
            c => Token::Char(c),
        });
    }
    Ok(tokens)
}

fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Token, &'static str> {
    let is_negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
            return Ok(Token::Class { is_negated, ranges });
        }
        let first = class_char(chars)?;
        let last = if chars.next_if_eq(&'-').is_some() { class_char(chars)? } else { first };
        ranges.push((first, last));
    }
}

fn class_char(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<char, &'static str> {
    match chars.next() {
        Some('\\') => chars.next().ok_or("expected a character after \\"),
        Some('-' | ']') => Err("expected a character in [], - and ] only after \\"),
        Some(c) => Ok(c),
        None => Err("expected ]"),
    }
}

#[cfg(test)]
#[path = "ignore_tests.rs"]
mod tests;
