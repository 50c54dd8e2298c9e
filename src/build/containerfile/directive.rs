//! The comment lines at the top that change how the rest is read: `# syntax=`, `# escape=`, `# check=`.

use super::error::{ParseError, Span};
use super::word::Word;

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

/// Reads the directives: they end with the first line that is none, be it an empty one or another comment.
pub(super) fn read(lines: &[&[u8]], file: u16) -> Result<Directives, ParseError> {
    let mut directives = Directives::default();
    let mut is_escape_seen = false;
    // A file that is a program of its own: `#!/usr/bin/env -S coracle build -f`.
    let first = usize::from(lines.first().is_some_and(|line| line.starts_with(b"#!")));
    for (index, line) in lines.iter().enumerate().skip(first) {
        let Some((key, value)) = std::str::from_utf8(line).ok().and_then(|line| split(line, index as u32 + 1, file))
        else {
            break;
        };
        let is_repeated = match key.as_str() {
            "syntax" => directives.syntax.replace(value.clone()).is_some(),
            "check" => directives.check.replace(value.clone()).is_some(),
            "escape" => {
                directives.escape = match value.raw.as_str() {
                    "\\" => '\\',
                    "`" => '`',
                    other => {
                        let message = format!("invalid escape character {other:?}: expected \\ or `");
                        return Err(ParseError::new(value.span, message));
                    }
                };
                std::mem::replace(&mut is_escape_seen, true)
            }
            _ => break,
        };
        if is_repeated {
            return Err(ParseError::new(value.span, format!("only one {key} parser directive can be used")));
        }
    }
    Ok(directives)
}

/// `# key = value` in its parts, the key in lower case.
fn split(line: &str, number: u32, file: u16) -> Option<(String, Word)> {
    let (key, value) = line.trim_start().strip_prefix('#')?.split_once('=')?;
    let (key, value) = (key.trim(), value.trim());
    let is_name = key.starts_with(|c: char| c.is_ascii_alphabetic()) && key.chars().all(|c| c.is_ascii_alphanumeric());
    if !is_name || value.is_empty() {
        return None;
    }
    let before = line.find('=').and_then(|at| Some(at + line[at..].find(value)?))?;
    let column = line[..before].chars().count() as u32 + 1;
    let end_column = column + value.chars().count() as u32;
    let span = Span { file, line: number, column, end_line: number, end_column };
    Some((key.to_ascii_lowercase(), Word { raw: value.to_owned(), span }))
}
