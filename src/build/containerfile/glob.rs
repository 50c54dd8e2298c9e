//! The patterns of `${v#pattern}` and its kin: `*`, `?` and escapes; no brackets, as in BuildKit.

/// A pattern.
#[derive(Debug)]
pub(super) struct Glob {
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Char(char),
    Any,
    Star,
}

impl Glob {
    /// Reads a pattern.
    pub(super) fn new(pattern: &str) -> Result<Glob, String> {
        let mut tokens = Vec::new();
        let mut chars = pattern.chars();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' => Token::Star,
                '?' => Token::Any,
                '\\' => match chars.next() {
                    // The first two are escaped for the sake of `${}`, the others for the pattern's.
                    Some(escaped @ ('}' | '/' | '*' | '?' | '\\')) => Token::Char(escaped),
                    Some(other) => {
                        return Err(format!(
                            "invalid pattern {pattern:?}: expected one of \"*?\\}}/\" after \\, not {other:?}"
                        ));
                    }
                    None => return Err(format!("invalid pattern {pattern:?}: expected a character after \\")),
                },
                c => Token::Char(c),
            });
        }
        Ok(Glob { tokens })
    }

    /// `value` without the beginning that matches: the longest, or the shortest.
    pub(super) fn without_prefix(&self, value: &str, longest: bool) -> String {
        let chars: Vec<char> = value.chars().collect();
        match self.end_of_match(&chars, longest) {
            Some(end) => chars[end..].iter().collect(),
            None => value.to_owned(),
        }
    }

    /// `value` without the end that matches: the longest, or the shortest.
    pub(super) fn without_suffix(&self, value: &str, longest: bool) -> String {
        let reversed = Glob { tokens: self.tokens.iter().rev().copied().collect() };
        let chars: Vec<char> = value.chars().rev().collect();
        match reversed.end_of_match(&chars, longest) {
            Some(end) => chars[end..].iter().rev().collect(),
            None => value.to_owned(),
        }
    }

    /// `value` with its first match, or with all of them, replaced; each is the longest at its place.
    pub(super) fn replaced(&self, value: &str, replacement: &str, all: bool) -> String {
        let chars: Vec<char> = value.chars().collect();
        let mut out = String::new();
        let mut at = 0;
        let mut last_end = None;
        while at <= chars.len() {
            match self.end_of_match(&chars[at..], true) {
                // An empty match right behind another one is part of it.
                Some(length) if length > 0 || last_end != Some(at) => {
                    out.push_str(replacement);
                    out.extend(chars[at..].iter().take(usize::from(length == 0)));
                    last_end = Some(at + length);
                    at += length.max(1);
                    if !all {
                        break;
                    }
                }
                _ => {
                    out.extend(chars.get(at));
                    at += 1;
                }
            }
        }
        out.extend(chars.iter().skip(at));
        out
    }

    /// Where a match that begins with the first character ends.
    fn end_of_match(&self, chars: &[char], longest: bool) -> Option<usize> {
        // For each place in `chars`: whether the tokens so far can end there.
        let mut ends = vec![false; chars.len() + 1];
        ends[0] = true;
        for token in &self.tokens {
            let mut next = vec![false; chars.len() + 1];
            match token {
                Token::Star => {
                    let first = ends.iter().position(|end| *end)?;
                    next[first..].fill(true);
                }
                Token::Any => next[1..].copy_from_slice(&ends[..chars.len()]),
                Token::Char(wanted) => {
                    for (at, c) in chars.iter().enumerate() {
                        next[at + 1] = ends[at] && c == wanted;
                    }
                }
            }
            ends = next;
        }
        if longest { ends.iter().rposition(|end| *end) } else { ends.iter().position(|end| *end) }
    }
}
