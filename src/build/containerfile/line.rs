//! From bytes to logical lines: directives, comments, continuations; and the bodies of heredocs, on request.

use super::directive::{self, Directives};
use super::error::{ParseError, Span, Warning};
use super::heredoc::Opening;
use super::instruction::Heredoc;
use super::text::Logical;

/// Reads a file line by line.
pub(super) struct Reader<'a> {
    lines: Vec<&'a [u8]>,
    /// The index of the line that is read next.
    next: usize,
    file: u16,
    /// What the comments at the top say.
    pub(super) directives: Directives,
    /// What was noticed.
    pub(super) warnings: Vec<Warning>,
}

impl<'a> Reader<'a> {
    /// Begins a file and reads its directives.
    pub(super) fn new(source: &'a [u8], file: u16) -> Result<Self, ParseError> {
        let top = Span { file, line: 1, column: 1, end_line: 1, end_column: 1 };
        if source.starts_with(b"\xff\xfe") || source.starts_with(b"\xfe\xff") {
            return Err(ParseError::new(top, "the file is UTF-16, expected UTF-8").hinted("save it as UTF-8"));
        }
        let source = source.strip_prefix(b"\xef\xbb\xbf").unwrap_or(source);
        let lines: Vec<&[u8]> = source.split_inclusive(|byte| *byte == b'\n').collect();
        let directives = directive::read(&lines, file)?;
        Ok(Reader { lines, next: 0, file, directives, warnings: Vec::new() })
    }

    /// The next instruction with its continuations.
    pub(super) fn next_line(&mut self) -> Result<Option<Logical>, ParseError> {
        while let Some((number, bytes)) = self.take() {
            if is_comment(bytes) {
                continue;
            }
            let text = self.utf8(number, bytes)?.trim_end_matches(['\r', '\n']);
            let trimmed = text.trim_start();
            let column = text[..text.len() - trimmed.len()].chars().count() as u32 + 1;
            let mut logical = Logical::new(self.file);
            let Some(begun) = self.continued(trimmed) else {
                if trimmed.is_empty() {
                    continue;
                }
                logical.push(trimmed, number, column);
                return Ok(Some(logical));
            };
            logical.push(begun, number, column);
            self.join(&mut logical)?;
            if !logical.whole().trim().is_empty() {
                return Ok(Some(logical));
            }
        }
        Ok(None)
    }

    /// Appends the lines that continue an instruction, up to the first that is not continued itself.
    fn join(&mut self, logical: &mut Logical) -> Result<(), ParseError> {
        let mut is_empty_noticed = false;
        while let Some((number, bytes)) = self.take() {
            if is_comment(bytes) {
                continue;
            }
            let text = self.utf8(number, bytes)?.trim_end_matches(['\r', '\n']);
            if text.trim().is_empty() {
                if !is_empty_noticed {
                    is_empty_noticed = true;
                    let span = Span { file: self.file, line: number, column: 1, end_line: number, end_column: 1 };
                    let message = "Empty continuation line".to_owned();
                    self.warnings.push(Warning { span, rule: "NoEmptyContinuation", message });
                }
                continue;
            }
            match self.continued(text) {
                Some(more) => logical.push(more, number, 1),
                None => {
                    logical.push(text, number, 1);
                    break;
                }
            }
        }
        Ok(())
    }

    /// The bodies that the words of a line announce, in their order.
    pub(super) fn heredocs(&mut self, openings: Vec<(Opening, Span)>) -> Result<Vec<Heredoc>, ParseError> {
        openings.into_iter().map(|(opening, span)| self.heredoc(opening, span)).collect()
    }

    fn heredoc(&mut self, opening: Opening, announced: Span) -> Result<Heredoc, ParseError> {
        let first = self.next as u32 + 1;
        let mut raw = String::new();
        while let Some((number, bytes)) = self.take() {
            let text = self.utf8(number, bytes)?;
            let end = text.trim_end_matches(['\r', '\n']);
            let end = if opening.strip_tabs { end.trim_start_matches('\t') } else { end };
            if end == opening.name {
                let span = Span { file: self.file, line: first, column: 1, end_line: number, end_column: 1 };
                let Opening { name, expand, strip_tabs, file_descriptor } = opening;
                return Ok(Heredoc { name, raw, expand, strip_tabs, file_descriptor, span });
            }
            raw.push_str(text);
        }
        let name = &opening.name;
        let error = ParseError::new(announced, format!("unterminated heredoc: expected a line {name:?}"));
        Err(match name.find(['>', '|', ';', '&', ')']) {
            Some(at) if at > 0 => error.hinted(format!("put a space after {:?}", &name[..at])),
            _ => error,
        })
    }

    /// What a line says before the escape character that continues it; `None` if nothing does.
    fn continued<'t>(&self, text: &'t str) -> Option<&'t str> {
        let escape = self.directives.escape;
        let before = text.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
        (!before.ends_with(escape)).then_some(before)
    }

    fn take(&mut self) -> Option<(u32, &'a [u8])> {
        let line = self.lines.get(self.next)?;
        self.next += 1;
        Some((self.next as u32, line))
    }

    fn utf8(&self, number: u32, bytes: &'a [u8]) -> Result<&'a str, ParseError> {
        std::str::from_utf8(bytes).map_err(|error| {
            let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]).chars().count() as u32;
            let (line, column) = (number, before + 1);
            let span = Span { file: self.file, line, column, end_line: line, end_column: column + 1 };
            ParseError::new(span, "invalid character: expected UTF-8")
        })
    }

    /// The last line of the file, for what is missing at its end.
    pub(super) fn end(&self) -> Span {
        let line = (self.lines.len() as u32).max(1);
        Span { file: self.file, line, column: 1, end_line: line, end_column: 1 }
    }
}

/// Whether the first thing on a line is `#`.
fn is_comment(line: &[u8]) -> bool {
    line.trim_ascii_start().first() == Some(&b'#')
}
