//! Splits a template into text and the tokens of its actions.
//!
//! # Source
//! Go, `text/template/parse/lex.go`.

use super::parse::ParseError;

/// A token of an action.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// Text outside of actions, trimmed as the actions beside it ask.
    Text(String),
    /// `{{`.
    Open,
    /// `}}`.
    Close,
    /// `.`.
    Dot,
    /// `.Name`.
    Field(String),
    /// `$` or `$name`, without the dollar.
    Variable(String),
    /// A function or a keyword.
    Identifier(String),
    /// A string, quotes and escapes resolved.
    Str(String),
    /// A number or a character, as it stands.
    Number(String),
    /// `|`.
    Pipe,
    /// `,`.
    Comma,
    /// `:=`.
    Declare,
    /// `=`.
    Assign,
    /// `(`.
    Left,
    /// `)`.
    Right,
}

/// A token and where it stands, in bytes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Spanned {
    pub(super) token: Token,
    pub(super) start: usize,
    pub(super) end: usize,
}

const SPACE: &[char] = &[' ', '\t', '\r', '\n'];

/// Splits a whole template.
pub(super) fn tokens(text: &str) -> Result<Vec<Spanned>, ParseError> {
    let mut tokens = Vec::new();
    let mut at = 0;
    let mut trim_next = false;
    loop {
        let open = text[at..].find("{{").map(|found| at + found);
        let mut piece = &text[at..open.unwrap_or(text.len())];
        if trim_next {
            piece = piece.trim_start_matches(SPACE);
        }
        let Some(open) = open else {
            push(&mut tokens, Token::Text(piece.to_owned()), at, text.len());
            return Ok(tokens);
        };
        let mut inside = open + 2;
        let trims = text[inside..].strip_prefix('-').is_some_and(|rest| rest.starts_with(SPACE));
        if trims {
            piece = piece.trim_end_matches(SPACE);
            inside += 1;
        }
        push(&mut tokens, Token::Text(piece.to_owned()), at, open);
        if text[inside..].trim_start_matches(SPACE).starts_with("/*") {
            let error = || ParseError::new(text, open, "unclosed comment");
            let close = inside + text[inside..].find("*/").ok_or_else(error)? + 2;
            let rest = text[close..].trim_start_matches(SPACE);
            let end = rest.strip_prefix("}}").or_else(|| rest.strip_prefix("-}}"));
            let end = end.ok_or_else(|| ParseError::new(text, open, "comment ends before closing delimiter"))?;
            trim_next = rest.starts_with('-');
            at = text.len() - end.len();
            continue;
        }
        push(&mut tokens, Token::Open, open, inside);
        (at, trim_next) = action(text, inside, &mut tokens)?;
    }
}

fn push(tokens: &mut Vec<Spanned>, token: Token, start: usize, end: usize) {
    if token != Token::Text(String::new()) {
        tokens.push(Spanned { token, start, end });
    }
}

/// Reads one action up to its end; returns where the text goes on and whether it is trimmed there.
fn action(text: &str, from: usize, tokens: &mut Vec<Spanned>) -> Result<(usize, bool), ParseError> {
    let mut at = from;
    let mut parentheses = 0usize;
    loop {
        let rest = &text[at..];
        let fail = |message: &str| ParseError::new(text, at, message);
        let Some(c) = rest.chars().next() else { return Err(fail("unclosed action")) };
        let trimmed_close = rest.starts_with(SPACE) && rest.trim_start_matches(SPACE).starts_with("-}}");
        if trimmed_close || rest.starts_with("}}") {
            if parentheses > 0 {
                return Err(fail("unclosed left paren"));
            }
            let end = at + rest.find("}}").unwrap_or(0) + 2;
            push(tokens, Token::Close, at, end);
            return Ok((end, trimmed_close));
        }
        let name_len = |text: &str| text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        let (token, len) = match c {
            ' ' | '\t' | '\r' | '\n' => {
                at += 1;
                continue;
            }
            '|' => (Token::Pipe, 1),
            ',' => (Token::Comma, 1),
            '(' => {
                parentheses += 1;
                (Token::Left, 1)
            }
            ')' => {
                parentheses = parentheses.checked_sub(1).ok_or_else(|| fail("unexpected right paren"))?;
                (Token::Right, 1)
            }
            ':' if rest.starts_with(":=") => (Token::Declare, 2),
            ':' => return Err(fail("expected :=")),
            '=' => (Token::Assign, 1),
            '"' => {
                let (value, len) = quoted(rest).ok_or_else(|| fail("unterminated quoted string"))?;
                (Token::Str(value), len)
            }
            '`' => {
                let len = rest[1..].find('`').ok_or_else(|| fail("unterminated raw quoted string"))?;
                (Token::Str(rest[1..=len].to_owned()), len + 2)
            }
            '\'' => {
                let len = rest[1..].find('\'').ok_or_else(|| fail("unterminated character constant"))?;
                (Token::Number(rest[..len + 2].to_owned()), len + 2)
            }
            '$' => {
                let len = name_len(&rest[1..]);
                (Token::Variable(rest[1..=len].to_owned()), len + 1)
            }
            '.' if !rest[1..].starts_with(|c: char| c.is_ascii_digit()) => match name_len(&rest[1..]) {
                0 => (Token::Dot, 1),
                len => (Token::Field(rest[1..=len].to_owned()), len + 1),
            },
            '+' | '-' | '.' | '0'..='9' => {
                let number = |c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '.');
                let len = 1 + rest[1..].find(number).unwrap_or(rest.len() - 1);
                (Token::Number(rest[..len].to_owned()), len)
            }
            c if c.is_alphabetic() || c == '_' => {
                let len = name_len(rest);
                (Token::Identifier(rest[..len].to_owned()), len)
            }
            c => return Err(fail(&format!("bad character U+{:04X} '{}'", u32::from(c), c.escape_debug()))),
        };
        push(tokens, token, at, at + len);
        at += len;
    }
}

/// Reads a Go string literal; `None` if it does not end or has an escape Go does not know.
fn quoted(text: &str) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, at + 1)),
            '\n' => return None,
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                'a' => '\u{7}',
                'b' => '\u{8}',
                'f' => '\u{c}',
                'v' => '\u{b}',
                kind @ ('x' | 'u' | 'U') => {
                    let digits = match kind {
                        'x' => 2,
                        'u' => 4,
                        _ => 8,
                    };
                    let hex: String = chars.by_ref().take(digits).map(|(_, c)| c).collect();
                    char::from_u32(u32::from_str_radix(&hex, 16).ok()?)?
                }
                c @ ('\\' | '"' | '\'') => c,
                _ => return None,
            }),
            c => value.push(c),
        }
    }
    None
}
