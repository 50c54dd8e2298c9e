//! The words that announce heredocs, and what becomes of their bodies.

use super::error::{ExpandError, Span};
use super::instruction::Heredoc;
use super::text::Text;
use super::word::Word;

/// A word such as `<<EOF` or `3<<-"END"`; white space may stand before the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Opening {
    /// The word that ends the body.
    pub(super) name: String,
    /// Whether it was without quotes.
    pub(super) expand: bool,
    /// `<<-`.
    pub(super) strip_tabs: bool,
    /// The number before it, 0 if there is none.
    pub(super) file_descriptor: u32,
}

/// Reads a word; `None` if it is not of that kind.
pub(super) fn opening(word: &str) -> Option<Opening> {
    let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let rest = word[digits..].strip_prefix("<<")?;
    let (strip_tabs, name) = match rest.strip_prefix('-') {
        Some(name) => (true, name),
        None => (false, rest),
    };
    let name = name.trim_start();
    if name.is_empty() || name.contains('<') {
        return None;
    }
    // Variables are not replaced: `<<$x` ends with `$x`.
    let as_written = |variable: &str| Some(format!("${variable}"));
    let words = Word { raw: name.to_owned(), span: Span::default() }.expand_words('\\', &as_written).ok()?;
    let [unquoted] = words.as_slice() else { return None };
    let quotes = |text: &str| text.chars().filter(|c| matches!(c, '\'' | '"')).count();
    Some(Opening {
        expand: quotes(unquoted) == quotes(name),
        name: unquoted.clone(),
        strip_tabs,
        file_descriptor: word[..digits].parse().unwrap_or(0),
    })
}

/// The openings on a line, and where they stand. A line whose quotes do not close has none.
pub(super) fn openings(line: Text<'_>) -> Vec<(Opening, Span)> {
    if !line.as_str().contains("<<") || !is_closed(line.as_str()) {
        return Vec::new();
    }
    words(line).into_iter().filter_map(|word| Some((opening(word.as_str())?, word.span()))).collect()
}

/// The words of a line, where `<< EOF` is one.
pub(super) fn words(line: Text<'_>) -> Vec<Text<'_>> {
    let mut words: Vec<Text<'_>> = Vec::new();
    for word in line.split_quoted('\\') {
        match words.last_mut() {
            Some(last) if is_bare(last.as_str()) => *last = last.to(word),
            _ => words.push(word),
        }
    }
    words
}

/// `<<` or `<<-`, whose name is the next word.
fn is_bare(word: &str) -> bool {
    matches!(word.trim_start_matches(|c: char| c.is_ascii_digit()), "<<" | "<<-")
}

/// Whether every quote on a line has its second half.
fn is_closed(text: &str) -> bool {
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match quote {
            _ if c == '\\' && quote != Some('\'') => {
                chars.next();
            }
            Some(open) if c == open => quote = None,
            None if c == '\'' || c == '"' => quote = Some(c),
            _ => {}
        }
    }
    quote.is_none()
}

impl Heredoc {
    /// The body, with the tabs at the beginning of its lines removed if `<<-` asks for it.
    pub(crate) fn text(&self) -> String {
        if !self.strip_tabs {
            return self.raw.clone();
        }
        self.raw.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }

    /// The content of the file that COPY or ADD makes of it: [`text`](Self::text), its variables replaced unless the
    /// word was quoted. `\` escapes here, whatever the file says.
    ///
    /// # Errors
    /// As [`Word::expand`].
    pub(crate) fn content(&self, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, ExpandError> {
        let text = self.text();
        if !self.expand {
            return Ok(text);
        }
        Word { raw: text, span: self.span }.expand_text(lookup)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_open_heredocs() {
        /// Name, expanded, tabs removed, descriptor.
        type Wanted = Option<(&'static str, bool, bool, u32)>;
        let cases: &[(&str, Wanted)] = &[
            ("<<EOF", Some(("EOF", true, false, 0))),
            ("<<-EOF", Some(("EOF", true, true, 0))),
            ("<<'EOF'", Some(("EOF", false, false, 0))),
            ("<<\"EO F\"", Some(("EO F", false, false, 0))),
            ("3<<-\"END\"", Some(("END", false, true, 3))),
            ("<<E'O'F", Some(("EOF", false, false, 0))),
            ("<<$x", Some(("$x", true, false, 0))),
            ("<< EOF", Some(("EOF", true, false, 0))),
            ("<<-  EOF", Some(("EOF", true, true, 0))),
            ("<< -EOF", Some(("-EOF", true, false, 0))),
            ("<<EO\\'F", Some(("EO'F", true, false, 0))),
            ("<<'E'O\\'F", Some(("EO'F", false, false, 0))),
            ("<<EOF'", None),
            ("<<", None),
            ("<<-", None),
            ("<<<EOF", None),
            ("a<<EOF", None),
            ("<<a b", None),
            ("<<'EOF", None),
            ("<EOF", None),
        ];
        for (word, wanted) in cases {
            let found = opening(word);
            let found = found.as_ref().map(|o| (o.name.as_str(), o.expand, o.strip_tabs, o.file_descriptor));
            assert_eq!(found, *wanted, "{word}");
        }
    }
}
