//! Text from images, containers and registries on its way to a terminal.

use std::fmt;

/// Displays a string without its control characters, so that a name or a label cannot drive the terminal.
///
/// C0, C1 and DEL, and the characters that reorder or hide text, appear as `\x1b`, `\u{202e}` and the like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Printable<'a> {
    text: &'a str,
    lines: bool,
}

impl<'a> Printable<'a> {
    /// Everything on one line: a table cell, a part of a message.
    pub(crate) fn line(text: &'a str) -> Self {
        Self { text, lines: false }
    }

    /// Line ends and tabs are kept: the value of a field that was asked for by itself.
    pub(crate) fn lines(text: &'a str) -> Self {
        Self { text, lines: true }
    }
}

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.text;
        while let Some(at) = rest.find(|c| is_unsafe(c) && !(self.lines && matches!(c, '\n' | '\t'))) {
            let (safe, from) = rest.split_at(at);
            f.write_str(safe)?;
            let mut chars = from.chars();
            match chars.next() {
                Some('\n') => f.write_str("\\n")?,
                Some('\t') => f.write_str("\\t")?,
                Some('\r') => f.write_str("\\r")?,
                Some(c) if u32::from(c) < 0x100 => write!(f, "\\x{:02x}", u32::from(c))?,
                Some(c) => write!(f, "{}", c.escape_unicode())?,
                None => {}
            }
            rest = chars.as_str();
        }
        f.write_str(rest)
    }
}

fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_drives_the_terminal() {
        let hostile = "a\u{1b}[2Jb\u{9b}c\u{7f}\r\n\td\u{202e}eä→";
        assert_eq!(Printable::line(hostile).to_string(), "a\\x1b[2Jb\\x9bc\\x7f\\r\\n\\td\\u{202e}eä→");
        assert_eq!(Printable::lines("a\nb\tc\u{7}").to_string(), "a\nb\tc\\x07");
        assert_eq!(Printable::line("plain").to_string(), "plain");
    }
}
