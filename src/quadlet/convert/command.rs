//! A command line in the making.

use std::collections::BTreeMap;

use crate::quadlet::unit::Unit;
use crate::quadlet::words;

/// A key that is an option as it is: its name, and the option's.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    /// Its last value, unless that is empty.
    One(&'static str, &'static str),
    /// Each of its values.
    Every(&'static str, &'static str),
    /// Each word of its values.
    List(&'static str, &'static str),
    /// Each word of its values, which may have escapes.
    Words(&'static str, &'static str),
    /// Each word of its values, as the value of `--security-opt NAME=`.
    Security(&'static str, &'static str),
    /// Yes or no.
    Bool(&'static str, &'static str),
    /// Assignments; the last one of a name counts.
    Pairs(&'static str, &'static str),
    /// Capabilities, in lower case.
    Capabilities(&'static str, &'static str),
}

impl Rule {
    pub(super) fn key(self) -> &'static str {
        let (Self::One(key, _)
        | Self::Every(key, _)
        | Self::List(key, _)
        | Self::Words(key, _)
        | Self::Security(key, _)
        | Self::Bool(key, _)
        | Self::Pairs(key, _)
        | Self::Capabilities(key, _)) = self;
        key
    }
}

/// A command line.
#[derive(Clone, Debug)]
pub(super) struct Command(Vec<String>);

impl Command {
    pub(super) fn new(binary: &str) -> Self {
        Self(vec![binary.replace('%', "%%")])
    }

    pub(super) fn add<W: Into<String>>(&mut self, words: impl IntoIterator<Item = W>) {
        self.0.extend(words.into_iter().map(Into::into));
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// A switch that may be off.
    pub(super) fn add_bool(&mut self, flag: &str, is_on: bool) {
        self.0.push(if is_on { flag.to_owned() } else { format!("{flag}=false") });
    }

    /// The value of `ExecStart=` and its kin.
    pub(super) fn to_value(&self) -> String {
        words::join(&self.0)
    }

    /// The same; its failure is none.
    pub(super) fn may_fail(mut self) -> Self {
        if let Some(binary) = self.0.first_mut() {
            binary.insert(0, '-');
        }
        self
    }

    /// Adds what a section says.
    ///
    /// # Errors
    /// A value that cannot be taken apart.
    pub(super) fn apply(
        &mut self,
        rules: &[Rule],
        unit: &Unit,
        section: &str,
        warnings: &mut Vec<String>,
    ) -> Result<(), String> {
        for rule in rules {
            match *rule {
                Rule::One(key, flag) => {
                    if let Some(value) = unit.filled(section, key) {
                        self.add([flag, value]);
                    }
                }
                Rule::Every(key, flag) => unit.all(section, key).iter().for_each(|value| self.add([flag, value])),
                Rule::List(key, flag) => unit.list(section, key).iter().for_each(|word| self.add([flag, word])),
                Rule::Words(key, flag) => unit.words(section, key)?.iter().for_each(|word| self.add([flag, word])),
                Rule::Security(key, name) => {
                    for word in unit.words(section, key)? {
                        self.add(["--security-opt".to_owned(), format!("{name}={word}")]);
                    }
                }
                Rule::Bool(key, flag) => {
                    if let Some(is_on) = unit.flag(section, key) {
                        self.add_bool(flag, is_on);
                    }
                }
                Rule::Pairs(key, flag) => {
                    for (name, value) in pairs(unit, section, key, warnings)? {
                        self.add([flag.to_owned(), value.map_or(name.clone(), |value| format!("{name}={value}"))]);
                    }
                }
                Rule::Capabilities(key, flag) => {
                    unit.list(section, key).iter().for_each(|name| self.add([flag, &name.to_ascii_lowercase()]));
                }
            }
        }
        Ok(())
    }
}

/// `NAME=VALUE …`; a name alone has no value. One that follows an assignment was hardly meant.
fn pairs(
    unit: &Unit,
    section: &str,
    key: &str,
    warnings: &mut Vec<String>,
) -> Result<BTreeMap<String, Option<String>>, String> {
    let mut all = BTreeMap::new();
    for line in unit.all(section, key) {
        let words = words::split(line, words::Backslash::Escapes).map_err(|error| format!("{key}={line}: {error}"))?;
        let mut has_assigned = false;
        for word in words {
            match word.split_once('=') {
                Some((name, value)) => {
                    all.insert(name.to_owned(), Some(value.to_owned()));
                    has_assigned = true;
                }
                None => {
                    if has_assigned {
                        warnings.push(format!(
                            "{key}=: {word:?} has no '=': a value with white space needs double quotes, {key}=\"NAME=VALUE \
                             WITH SPACES\""
                        ));
                    }
                    all.insert(word, None);
                }
            }
        }
    }
    Ok(all)
}
