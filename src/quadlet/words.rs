//! Words of a value, and values of words: systemd's quoting.
//!
//! # Source
//! `systemd.syntax(7)`, "QUOTING"; `systemd.service(5)`, "COMMAND LINES".

/// What a backslash is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backslash {
    /// The beginning of an escape, as in a command line.
    Escapes,
    /// A character like others, as in a list of units.
    IsKept,
}

/// Splits at white space outside of quotes, and takes the quotes away. A quote that is not closed ends with the text.
///
/// # Errors
/// An escape that nobody knows; its text.
pub(crate) fn split(text: &str, backslash: Backslash) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut quote = None;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
        match c {
            '\\' if backslash == Backslash::Escapes => {
                // A lone one at the end is nothing.
                if rest.is_empty() {
                    break;
                }
                let (bytes, length) = unescape(rest).ok_or_else(|| {
                    format!("unsupported escape \\{}", rest.chars().next().unwrap_or_default().escape_debug())
                })?;
                word.get_or_insert_default().extend(bytes);
                rest = rest.get(length..).unwrap_or_default();
            }
            '"' | '\'' if quote.is_none() => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            c if Some(c) == quote => quote = None,
            ' ' | '\t' | '\n' | '\r' if quote.is_none() => words.extend(word.take()),
            c => word.get_or_insert_default().extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    words.extend(word);
    Ok(words.into_iter().map(|word| String::from_utf8_lossy(&word).into_owned()).collect())
}

/// The bytes that an escape stands for, and its length without the backslash.
fn unescape(text: &str) -> Option<(Vec<u8>, usize)> {
    let kind = text.chars().next()?;
    let number = |from: usize, digits: usize, radix: u32| {
        let digits = text.get(from..from + digits)?;
        let is_number = digits.chars().all(|c| c.is_digit(radix));
        // A zero ends texts elsewhere.
        is_number.then(|| u32::from_str_radix(digits, radix).ok())?.filter(|number| *number != 0)
    };
    let single = match kind {
        'a' => 7,
        'b' => 8,
        't' => b'\t',
        'n' => b'\n',
        'v' => 11,
        'f' => 12,
        'r' => b'\r',
        's' => b' ',
        '\\' | '"' | '\'' => kind as u8,
        'x' => return Some((vec![u8::try_from(number(1, 2, 16)?).ok()?], 3)),
        '0'..='7' => return Some((vec![u8::try_from(number(0, 3, 8)?).ok()?], 3)),
        'u' => return Some((char::from_u32(number(1, 4, 16)?)?.to_string().into_bytes(), 5)),
        'U' => return Some((char::from_u32(number(1, 8, 16)?)?.to_string().into_bytes(), 9)),
        _ => return None,
    };
    Some((vec![single], 1))
}

/// The value that [`split`] takes apart into these words. Specifiers (`%h`) and variables (`$HOME`) keep their meaning.
pub(crate) fn join(words: &[String]) -> String {
    words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
}

/// One word, quoted if it must be.
pub(crate) fn quote(word: &str) -> String {
    let is_plain = |c: char| !c.is_ascii_whitespace() && !c.is_control() && !matches!(c, '"' | '\'' | '\\');
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            c if c.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A word that means itself, whatever is in it.
pub(crate) fn literal(word: &str) -> String {
    word.replace('%', "%%").replace('$', "$$")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_escapes_are_systemds() {
        for (text, expected) in [
            ("", &[][..]),
            ("  a\tb ", &["a", "b"]),
            (r#"a "b c" 'd "e"' f"g h"i"#, &["a", "b c", "d \"e\"", "fg hi"]),
            (r#""" a '' "#, &["", "a", ""]),
            (r"\x41\102\u00e9\U0001F600 \s\t\\ '\''", &["AB\u{e9}\u{1f600}", " \t\\", "'"]),
            (r"\xc3\xa9", &["\u{e9}"]),
            ("%h $HOME ; a\\", &["%h", "$HOME", ";", "a"]),
            (r#"open "quote of"#, &["open", "quote of"]),
        ] {
            assert_eq!(split(text, Backslash::Escapes).unwrap(), expected, "{text}");
        }
        for text in [r"\q", r"\x4", r"\x00", r"\400", r"\ud800", r"a \é"] {
            assert!(split(text, Backslash::Escapes).is_err(), "{text}");
        }
        assert_eq!(split(r"dev-disk\x2da.mount 'b c'", Backslash::IsKept).unwrap(), [r"dev-disk\x2da.mount", "b c"]);
    }

    #[test]
    fn joined_words_come_apart_again() {
        let words = ["", "a", "b c", "it's", "\"", "back\\slash", "\n\t\r\u{1}\u{7f}", "\u{85}", "é", "%h", "$X"]
            .map(str::to_owned);
        let joined = join(&words);
        assert_eq!(split(&joined, Backslash::Escapes).unwrap(), words, "{joined}");
        assert!(!joined.contains('\n'));
        assert_eq!(join(&words[..3]), r#""" a "b c""#);
        assert_eq!(literal("50% $5"), "50%% $$5");
    }
}
