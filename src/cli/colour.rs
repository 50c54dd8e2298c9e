//! Colour, on terminals alone, and only where it says something.
//!
//! # Source
//! no-color.org: `NO_COLOR` that is set and not empty; a terminal that calls itself dumb has none either.

use std::io::IsTerminal;

/// What a text is to look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    /// Well.
    Green,
    /// Neither well nor ill.
    Yellow,
    /// Ill.
    Red,
    /// What to do about it.
    Cyan,
}

impl Colour {
    fn code(self) -> &'static str {
        match self {
            Self::Green => "32",
            Self::Yellow => "33",
            Self::Red => "1;31",
            Self::Cyan => "36",
        }
    }

    /// The text in this colour, if there is any.
    pub(crate) fn paint(self, text: &str, is_coloured: bool) -> String {
        match is_coloured {
            true => format!("\x1b[{}m{text}\x1b[0m", self.code()),
            false => text.to_owned(),
        }
    }
}

/// Whether standard output takes colour.
pub(crate) fn of_stdout() -> bool {
    std::io::stdout().is_terminal() && is_wanted(|name| std::env::var_os(name).map(|value| value.into_encoded_bytes()))
}

/// Whether standard error does.
pub(crate) fn of_stderr() -> bool {
    std::io::stderr().is_terminal() && is_wanted(|name| std::env::var_os(name).map(|value| value.into_encoded_bytes()))
}

fn is_wanted(variable: impl Fn(&str) -> Option<Vec<u8>>) -> bool {
    variable("NO_COLOR").is_none_or(|value| value.is_empty()) && variable("TERM").is_none_or(|term| term != b"dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gets_colour_who_does_not_want_it() {
        for (no_color, term, wanted) in [
            (None, Some("xterm"), true),
            (Some(""), Some("xterm"), true),
            (Some("1"), Some("xterm"), false),
            (None, Some("dumb"), false),
            (None, None, true),
        ] {
            let variable = |name: &str| match name {
                "NO_COLOR" => no_color.map(|text: &str| text.as_bytes().to_vec()),
                _ => term.map(|text: &str| text.as_bytes().to_vec()),
            };
            assert_eq!(is_wanted(variable), wanted, "{no_color:?} {term:?}");
        }
        assert_eq!(Colour::Red.paint("x", true), "\x1b[1;31mx\x1b[0m");
        assert_eq!(Colour::Red.paint("x", false), "x");
    }
}
