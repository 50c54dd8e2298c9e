//! The flags between an instruction's name and its arguments.

use super::error::ParseError;
use super::mount::boolean;
use super::nearest::nearest;
use super::text::Text;
use super::word::Word;

/// A flag that an instruction knows.
pub(super) struct Known {
    name: &'static str,
    takes: Takes,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Truth,
    Value,
    Values,
}

/// A flag that is there or not.
pub(super) const fn truth(name: &'static str) -> Known {
    Known { name, takes: Takes::Truth }
}

/// A flag with a value.
pub(super) const fn value(name: &'static str) -> Known {
    Known { name, takes: Takes::Value }
}

/// A flag with a value that may be repeated.
pub(super) const fn values(name: &'static str) -> Known {
    Known { name, takes: Takes::Values }
}

/// The flags of an instruction as written, quotes and escapes already removed from their values.
pub(super) struct Flags<'a> {
    written: Vec<Written<'a>>,
}

struct Written<'a> {
    name: String,
    value: Option<String>,
    at: Text<'a>,
}

/// The flags at the beginning of `rest`, and what follows them. `--` ends them.
pub(super) fn split(rest: Text<'_>) -> (Flags<'_>, Text<'_>) {
    let mut written = Vec::new();
    let mut rest = rest.trim();
    while rest.as_str().starts_with("--") {
        let (said, length) = first_word(rest.as_str());
        let at = rest.slice(0, length);
        rest = rest.from(length).trim();
        let Some(flag) = said.strip_prefix("--").filter(|flag| !flag.is_empty()) else { break };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (flag.to_owned(), None),
        };
        written.push(Written { name, value, at });
    }
    (Flags { written }, rest)
}

/// A word without its quotes and escapes, and how many bytes it takes. `\` escapes here, whatever the file says.
fn first_word(text: &str) -> (String, usize) {
    let mut said = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return (said, at),
            None if matches!(c, '\'' | '"') => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ if c == '\\' => said.extend(chars.next().map(|(_, escaped)| escaped)),
            _ => said.push(c),
        }
    }
    (said, text.len())
}

impl<'a> Flags<'a> {
    /// Checks that `instruction` knows them all and that they are well formed.
    pub(super) fn check(self, instruction: &str, known: &[Known]) -> Result<Self, ParseError> {
        for (index, flag) in self.written.iter().enumerate() {
            let name = &flag.name;
            let error = |message: String| ParseError::new(flag.at.span(), message);
            let Some(found) = known.iter().find(|known| known.name == *name) else {
                let message = format!("unknown flag --{name} of {instruction}");
                return Err(error(message).hinted(hint(instruction, name, known)));
            };
            let is_repeated = self.written[..index].iter().any(|earlier| earlier.name == *name);
            if is_repeated && found.takes != Takes::Values {
                return Err(error(format!("flag --{name} is given twice")));
            }
            match (found.takes, &flag.value) {
                (Takes::Truth, None) => {}
                (Takes::Truth, Some(value)) if boolean(&value.to_ascii_lowercase()).is_some() => {}
                (Takes::Truth, Some(value)) => {
                    return Err(error(format!("invalid value {value:?} of flag --{name}: expected true or false")));
                }
                (_, None) => return Err(error(format!("flag --{name} needs a value: expected --{name}=VALUE"))),
                (_, Some(_)) => {}
            }
        }
        Ok(self)
    }

    /// The value of a flag.
    pub(super) fn value(&self, name: &str) -> Option<Word> {
        self.values(name).next()
    }

    /// The values of a flag that may be repeated.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = Word> {
        self.written(name).filter_map(|(value, at)| value.map(|value| at.with_raw(value)))
    }

    /// The values of a flag, each with its place.
    pub(super) fn written(&self, name: &str) -> impl Iterator<Item = (Option<&str>, Text<'a>)> {
        self.written.iter().filter(move |flag| flag.name == name).map(|flag| (flag.value.as_deref(), flag.at))
    }

    /// What a flag that is there or not says; `None` if it is not there.
    pub(super) fn truth(&self, name: &str) -> Option<bool> {
        let (value, _) = self.written(name).next()?;
        Some(value.and_then(|value| boolean(&value.to_ascii_lowercase())).unwrap_or(true))
    }
}

fn hint(instruction: &str, name: &str, known: &[Known]) -> String {
    if let Some(meant) = nearest(name, known.iter().map(|known| known.name)) {
        return format!("did you mean --{meant}?");
    }
    if known.is_empty() {
        return format!("{instruction} has no flags");
    }
    let names: Vec<_> = known.iter().map(|known| format!("--{}", known.name)).collect();
    format!("{instruction} has {}", names.join(" "))
}
