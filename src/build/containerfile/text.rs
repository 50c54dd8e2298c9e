//! A logical line and pieces of it that know where they stand.
//!
//! ```text
//! 7:RUN a && \        text:  RUN a &&   b
//! 8:# why             seams: 0 → 7:1    9 → 9:1
//! 9:  b
//! ```

use super::error::Span;
use super::word::Word;

/// A line with its continuations joined.
#[derive(Debug, Clone, Default)]
pub(super) struct Logical {
    /// What it says; neither comments nor the characters that continue it.
    text: String,
    /// Where pieces of it come from, by their first byte; the first is at 0.
    seams: Vec<Seam>,
    /// Which of the files.
    file: u16,
}

#[derive(Debug, Clone, Copy)]
struct Seam {
    at: usize,
    line: u32,
    column: u32,
}

impl Logical {
    /// A line of which nothing is known yet.
    pub(super) fn new(file: u16) -> Self {
        Logical { file, ..Logical::default() }
    }

    /// Appends what stands at `line` and `column`.
    pub(super) fn push(&mut self, text: &str, line: u32, column: u32) {
        self.seams.push(Seam { at: self.text.len(), line, column });
        self.text.push_str(text);
    }

    /// All of it.
    pub(super) fn whole(&self) -> Text<'_> {
        Text { line: self, start: 0, end: self.text.len() }
    }

    /// Line and column of a byte; where two pieces meet, `at_end` asks for the end of the first.
    fn place(&self, at: usize, at_end: bool) -> (u32, u32) {
        let fits = |seam: &&Seam| if at_end && at > 0 { seam.at < at } else { seam.at <= at };
        let Some(seam) = self.seams.iter().rev().find(fits) else { return (1, 1) };
        let columns = self.text.get(seam.at..at).map_or(0, |text| text.chars().count());
        (seam.line, seam.column + columns as u32)
    }
}

/// A piece of a logical line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text<'a> {
    line: &'a Logical,
    start: usize,
    end: usize,
}

impl<'a> Text<'a> {
    /// What it says.
    pub(super) fn as_str(self) -> &'a str {
        self.line.text.get(self.start..self.end).unwrap_or_default()
    }

    /// Where it stands.
    pub(super) fn span(self) -> Span {
        let (line, column) = self.line.place(self.start, false);
        let (end_line, end_column) = self.line.place(self.end.max(self.start), self.end > self.start);
        Span { file: self.line.file, line, column, end_line, end_column }
    }

    /// The bytes from `from` to `to` of it.
    pub(super) fn slice(self, from: usize, to: usize) -> Text<'a> {
        let end = (self.start + to).min(self.end);
        Text { start: (self.start + from).min(end), end, ..self }
    }

    /// What remains from byte `at`.
    pub(super) fn from(self, at: usize) -> Text<'a> {
        self.slice(at, self.end - self.start)
    }

    /// From the beginning of this one to the end of `other`, which stands on the same line.
    pub(super) fn to(self, other: Text<'a>) -> Text<'a> {
        Text { end: other.end, ..self }
    }

    /// Whether nothing is in it.
    pub(super) fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Without the white space around it.
    pub(super) fn trim(self) -> Text<'a> {
        let text = self.as_str();
        let from = text.len() - text.trim_start().len();
        self.slice(from, from + text.trim().len())
    }

    /// The part before the first white space, and what follows that space.
    pub(super) fn split_word(self) -> (Text<'a>, Text<'a>) {
        let text = self.as_str();
        let word = text.find(is_blank).unwrap_or(text.len());
        let rest = &text[word..];
        let blanks = rest.len() - rest.trim_start_matches(is_blank).len();
        (self.slice(0, word), self.from(word + blanks))
    }

    /// The parts between white space.
    pub(super) fn split_blanks(self) -> Vec<Text<'a>> {
        let mut words = Vec::new();
        let mut rest = self.trim();
        while !rest.is_empty() {
            let (word, following) = rest.split_word();
            words.push(word);
            rest = following;
        }
        words
    }

    /// The parts between white space, where quotes and `escape` keep white space in a part; both stay in it.
    pub(super) fn split_quoted(self, escape: char) -> Vec<Text<'a>> {
        let text = self.as_str();
        let mut words = Vec::new();
        let mut start: Option<usize> = None;
        let mut quote: Option<char> = None;
        let mut chars = text.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            if start.is_none() {
                if c.is_whitespace() {
                    continue;
                }
                start = Some(at);
            }
            if c == escape && quote != Some('\'') {
                if chars.next().is_none() {
                    // Nothing to escape: it does not count.
                    words.extend(start.take().filter(|start| *start < at).map(|start| self.slice(start, at)));
                }
                continue;
            }
            match quote {
                Some(open) if c == open => quote = None,
                Some(_) => {}
                None if c == '\'' || c == '"' => quote = Some(c),
                None if c.is_whitespace() => words.extend(start.take().map(|start| self.slice(start, at))),
                None => {}
            }
        }
        words.extend(start.map(|start| self.from(start)));
        words
    }

    /// The word as it will be expanded.
    pub(super) fn to_word(self) -> Word {
        Word { raw: self.as_str().to_owned(), span: self.span() }
    }

    /// A word that stands here, but says something else: a string out of JSON, say.
    pub(super) fn with_raw(self, raw: impl Into<String>) -> Word {
        Word { raw: raw.into(), span: self.span() }
    }
}

/// The white space that separates words on a line.
fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{b}' | '\u{c}' | '\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Logical {
        let mut line = Logical::new(0);
        line.push("RUN é && ", 7, 3);
        line.push("  b 'c d'", 9, 1);
        line
    }

    #[test]
    fn piece_of_a_continued_line_knows_its_own_line_and_column() {
        let line = line();
        let words = line.whole().split_quoted('\\');
        let said: Vec<_> = words.iter().map(|word| (word.as_str(), word.span().line, word.span().column)).collect();
        assert_eq!(said, [("RUN", 7, 3), ("é", 7, 7), ("&&", 7, 9), ("b", 9, 3), ("'c d'", 9, 5)]);
        assert_eq!((line.whole().span().end_line, line.whole().span().end_column), (9, 10));
    }

    #[test]
    fn escape_at_the_end_of_a_word_list_does_not_count() {
        let mut line = Logical::new(0);
        line.push("a=b\\ c \\", 1, 1);
        let words: Vec<_> = line.whole().split_quoted('\\').iter().map(|word| word.as_str()).collect();
        assert_eq!(words, ["a=b\\ c"]);
    }
}
