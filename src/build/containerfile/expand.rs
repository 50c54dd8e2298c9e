//! Expansion of variables, quotes and escapes, as a shell does it and BuildKit has it.
//!
//! | form | gives |
//! | --- | --- |
//! | `$v` `${v}` | the value, nothing if there is none |
//! | `${v:-w}` `${v-w}` | `w` if there is no value; with the colon also if it is empty |
//! | `${v:+w}` `${v+w}` | `w` if there is a value; with the colon only if it is not empty |
//! | `${v:?w}` `${v?w}` | an error that says `w` if there is no value; with the colon also if it is empty |
//! | `${v#p}` `${v##p}` | without the shortest, longest beginning that matches `p` |
//! | `${v%p}` `${v%%p}` | without the shortest, longest end that matches `p` |
//! | `${v/p/r}` `${v//p/r}` | with the first, every match of `p` replaced by `r` |

use super::glob::Glob;

/// What has a meaning besides `$` and escapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Quotes quote, and are removed.
    Word,
    /// Quotes are characters as others.
    Text,
}

/// What became of a text.
#[derive(Debug, Default)]
pub(super) struct Expanded {
    /// All of it.
    pub(super) text: String,
    /// Its words.
    pub(super) words: Vec<String>,
    /// The variables that were needed and have no value.
    pub(super) undefined: Vec<String>,
}

/// How deep `${a:-${b:-…}}` may go: what reads it calls itself.
const DEEPEST: usize = 100;

/// Reads a text once, from left to right.
pub(super) struct Expander<'a> {
    chars: std::iter::Peekable<std::str::Chars<'a>>,
    escape: char,
    mode: Mode,
    lookup: &'a dyn Fn(&str) -> Option<String>,
    undefined: Vec<String>,
    depth: usize,
}

impl<'a> Expander<'a> {
    pub(super) fn new(text: &'a str, escape: char, mode: Mode, lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Expander { chars: text.chars().peekable(), escape, mode, lookup, undefined: Vec::new(), depth: 0 }
    }

    pub(super) fn run(mut self) -> Result<Expanded, String> {
        let (text, words) = self.until(None, false)?;
        Ok(Expanded { text, words, undefined: self.undefined })
    }

    /// Reads up to `stop`, which it takes, or to the end. `raw_escapes` keeps escapes, for patterns.
    fn until(&mut self, stop: Option<char>, raw_escapes: bool) -> Result<(String, Vec<String>), String> {
        let mut text = String::new();
        let mut words = Words::default();
        while let Some(&c) = self.chars.peek() {
            if Some(c) == stop {
                self.chars.next();
                return Ok((text, words.end()));
            }
            match c {
                '\'' if self.mode == Mode::Word => {
                    let quoted = self.single_quoted()?;
                    words.push_quoted(&quoted);
                    text.push_str(&quoted);
                }
                '"' if self.mode == Mode::Word => {
                    let quoted = self.double_quoted(raw_escapes)?;
                    words.push_quoted(&quoted);
                    text.push_str(&quoted);
                }
                '$' => {
                    let value = self.variable()?;
                    value.chars().for_each(|c| words.push(c));
                    text.push_str(&value);
                }
                c if c == self.escape => {
                    self.chars.next();
                    if raw_escapes {
                        words.push_escaped(c);
                        text.push(c);
                    }
                    // At the end there is nothing to escape.
                    if let Some(escaped) = self.chars.next() {
                        words.push_escaped(escaped);
                        text.push(escaped);
                    }
                }
                c => {
                    self.chars.next();
                    words.push(c);
                    text.push(c);
                }
            }
        }
        match stop {
            Some(stop) => Err(format!("expected {stop:?}")),
            None => Ok((text, words.end())),
        }
    }

    fn single_quoted(&mut self) -> Result<String, String> {
        self.chars.next();
        let mut text = String::new();
        for c in self.chars.by_ref() {
            if c == '\'' {
                return Ok(text);
            }
            text.push(c);
        }
        Err("expected a second single quote".to_owned())
    }

    fn double_quoted(&mut self, raw_escapes: bool) -> Result<String, String> {
        self.chars.next();
        let mut text = String::new();
        while let Some(&c) = self.chars.peek() {
            if c == '$' {
                text.push_str(&self.variable()?);
                continue;
            }
            self.chars.next();
            if c == '"' {
                return Ok(text);
            }
            if c != self.escape {
                text.push(c);
                continue;
            }
            if raw_escapes {
                text.push(c);
            }
            // Only these are escaped in quotes; elsewhere the escape character stands for itself.
            match self.chars.next_if(|next| matches!(next, '"' | '$') || *next == c) {
                Some(escaped) => text.push(escaped),
                None if self.chars.peek().is_some() && !raw_escapes => text.push(c),
                None => {}
            }
        }
        Err("expected a second double quote".to_owned())
    }

    /// What begins with `$`.
    fn variable(&mut self) -> Result<String, String> {
        self.chars.next();
        if self.chars.peek() != Some(&'{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(self.needed(&name).unwrap_or_default());
        }
        self.chars.next();
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err("too many braces within braces".to_owned());
        }
        let value = self.braced();
        self.depth -= 1;
        value
    }

    /// What follows `${`.
    fn braced(&mut self) -> Result<String, String> {
        match self.chars.peek() {
            None => return Err("expected a name and '}' after \"${\"".to_owned()),
            Some('{' | '}' | ':') => return Err("bad substitution: expected a name after \"${\"".to_owned()),
            Some(_) => {}
        }
        let name = self.name();
        match self.chars.next() {
            Some('}') => Ok(self.needed(&name).unwrap_or_default()),
            Some(':') => match self.chars.next() {
                Some(modifier @ ('-' | '+' | '?')) => self.conditional(&name, modifier, true),
                None => Err("expected '}'".to_owned()),
                Some(other) => Err(format!("unsupported modifier \":{other}\": expected \":-\", \":+\" or \":?\"")),
            },
            Some(modifier @ ('-' | '+' | '?')) => self.conditional(&name, modifier, false),
            Some(modifier @ ('#' | '%')) => self.trimmed(&name, modifier),
            Some('/') => self.replaced(&name),
            None => Err("expected '}'".to_owned()),
            Some(other) => Err(format!("unsupported modifier {other:?}: expected '}}', ':', or one of \"-+?#%/\"")),
        }
    }

    fn conditional(&mut self, name: &str, modifier: char, empty_is_unset: bool) -> Result<String, String> {
        let needed_so_far = self.undefined.len();
        let (word, _) = self.until(Some('}'), false)?;
        let value = (self.lookup)(name);
        let is_given = value.as_ref().is_some_and(|value| !(empty_is_unset && value.is_empty()));
        // What the word would have needed is not missed where the word is not taken.
        if is_given == (modifier != '+') {
            self.undefined.truncate(needed_so_far);
        }
        match modifier {
            '-' if is_given => Ok(value.unwrap_or_default()),
            '-' => Ok(word),
            '+' if is_given => Ok(word),
            '+' => Ok(String::new()),
            _ if is_given => Ok(value.unwrap_or_default()),
            _ if !word.is_empty() => Err(format!("{name}: {word}")),
            _ if value.is_some() => Err(format!("{name}: is not allowed to be empty")),
            _ => Err(format!("{name}: is not allowed to be unset")),
        }
    }

    fn trimmed(&mut self, name: &str, modifier: char) -> Result<String, String> {
        let is_greedy = self.chars.next_if_eq(&modifier).is_some();
        let (pattern, _) = self.until(Some('}'), true)?;
        let glob = Glob::new(&pattern)?;
        let value = self.needed(name).unwrap_or_default();
        Ok(if modifier == '#' {
            glob.without_prefix(&value, is_greedy)
        } else {
            glob.without_suffix(&value, is_greedy)
        })
    }

    fn replaced(&mut self, name: &str) -> Result<String, String> {
        let is_all = self.chars.next_if_eq(&'/').is_some();
        let (pattern, _) = self.until(Some('/'), true)?;
        let (replacement, _) = self.until(Some('}'), true)?;
        let glob = Glob::new(&pattern)?;
        let value = self.needed(name).unwrap_or_default();
        Ok(glob.replaced(&value, &replacement, is_all))
    }

    fn needed(&mut self, name: &str) -> Option<String> {
        let value = (self.lookup)(name);
        if value.is_none() && !self.undefined.iter().any(|known| known == name) {
            self.undefined.push(name.to_owned());
        }
        value
    }

    /// A name: letters, digits and `_`; or only digits; or one of the shell's special parameters.
    fn name(&mut self) -> String {
        let mut name = String::new();
        if let Some(special) = self.chars.next_if(|c| matches!(c, '@' | '*' | '#' | '?' | '-' | '$' | '!')) {
            name.push(special);
            return name;
        }
        let is_number = self.chars.peek().is_some_and(|c| c.is_numeric());
        while let Some(c) = self.chars.next_if(|c| c.is_numeric() || (!is_number && (c.is_alphabetic() || *c == '_'))) {
            name.push(c);
        }
        name
    }
}

/// The words of a text: split at white space that comes neither out of quotes nor from an escape.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    current: String,
}

impl Words {
    fn push(&mut self, c: char) {
        if !c.is_whitespace() {
            self.current.push(c);
        } else if !self.current.is_empty() {
            self.done.push(std::mem::take(&mut self.current));
        }
    }

    fn push_escaped(&mut self, c: char) {
        self.current.push(c);
    }

    fn push_quoted(&mut self, text: &str) {
        self.current.push_str(text);
    }

    fn end(mut self) -> Vec<String> {
        if !self.current.is_empty() {
            self.done.push(self.current);
        }
        self.done
    }
}

#[cfg(test)]
#[path = "expand_tests.rs"]
mod tests;
