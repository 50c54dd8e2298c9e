//! Unit files: parsed, looked into, changed, printed. Comments and order survive; sections of one name become one.
//!
//! # Source
//! `systemd.syntax(7)`. As podman does, a line that goes on after a backslash is joined without a space, and of repeated
//! keys that hold one value the last one counts.

use super::words::{self, Backslash};

/// A unit file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unit {
    sections: Vec<Section>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Section {
    /// Empty for the comments of a file that has nothing else.
    name: String,
    /// Before its head.
    comments: Vec<String>,
    lines: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Line {
    Comment(String),
    Pair { key: String, value: String },
}

impl Line {
    fn value_of(&self, wanted: &str) -> Option<&str> {
        match self {
            Line::Pair { key, value } if key == wanted => Some(value),
            _ => None,
        }
    }
}

impl Unit {
    /// Parses a file.
    ///
    /// # Errors
    /// What is wrong, and in which line.
    pub(crate) fn parse(text: &str) -> Result<Unit, String> {
        let mut unit = Unit::default();
        let mut current: Option<usize> = None;
        let mut comments: Vec<String> = Vec::new();
        let mut begun = String::new();
        let mut lines = text.strip_suffix('\n').unwrap_or(text).split('\n').enumerate().peekable();
        while let Some((number, line)) = lines.next() {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                // Within a line that goes on, it is as if it were not there.
                if begun.is_empty() {
                    comments.push(line.to_owned());
                }
                continue;
            }
            if let Some(first) = line.strip_suffix('\\') {
                begun.push_str(first);
                if lines.peek().is_some() {
                    continue;
                }
            } else {
                begun.push_str(line);
            }
            let line = std::mem::take(&mut begun);
            if let Some(name) = section_name(&line) {
                if name.is_empty() || name.contains(|c: char| c == '[' || c.is_control()) {
                    return Err(format!("invalid group name: {name}"));
                }
                let index = unit.ensure(name);
                // One empty line between sections is printed again.
                let empty = usize::from(comments.first().is_some_and(String::is_empty));
                if let Some(section) = unit.sections.get_mut(index) {
                    section.comments.extend(comments.drain(..).skip(empty));
                }
                current = Some(index);
                continue;
            }
            let pair = line.split_once('=').map(|(key, value)| (key.trim_end(), value.trim_start()));
            let Some((key, value)) = pair.filter(|(key, _)| !key.is_empty()) else {
                return Err(format!(
                    "file contains line {}: “{line}” which is not a key-value pair, group, or comment",
                    number + 1
                ));
            };
            let Some(section) = current.and_then(|index| unit.sections.get_mut(index)) else {
                return Err("key file does not start with a group".to_owned());
            };
            section.lines.extend(comments.drain(..).map(Line::Comment));
            section.lines.push(Line::Pair { key: key.to_owned(), value: value.to_owned() });
        }
        let last = current.unwrap_or_else(|| unit.ensure(""));
        if let Some(section) = unit.sections.get_mut(last) {
            section.lines.extend(comments.into_iter().map(Line::Comment));
        }
        Ok(unit)
    }

    fn ensure(&mut self, name: &str) -> usize {
        self.index(name).unwrap_or_else(|| {
            self.sections.push(Section { name: name.to_owned(), comments: Vec::new(), lines: Vec::new() });
            self.sections.len() - 1
        })
    }

    fn index(&self, name: &str) -> Option<usize> {
        self.sections.iter().position(|section| section.name == name)
    }

    fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    fn section_mut(&mut self, name: &str) -> Option<&mut Section> {
        let index = self.ensure(name);
        self.sections.get_mut(index)
    }

    /// Adds what another file says, as if it stood at the end.
    pub(crate) fn merge(&mut self, other: Unit) {
        for section in other.sections {
            if let Some(own) = self.section_mut(&section.name) {
                own.comments.extend(section.comments);
                own.lines.extend(section.lines);
            }
        }
    }

    /// Gives a section another name; if there is one of that name, they become one.
    pub(crate) fn rename(&mut self, name: &str, new: &str) {
        let Some(index) = self.index(name) else { return };
        if self.index(new).is_none() {
            if let Some(section) = self.sections.get_mut(index) {
                new.clone_into(&mut section.name);
            }
            return;
        }
        let mut section = self.sections.remove(index);
        new.clone_into(&mut section.name);
        self.merge(Unit { sections: vec![section] });
    }

    /// The keys of a section, each once.
    pub(crate) fn keys(&self, section: &str) -> Vec<&str> {
        let mut keys: Vec<&str> = Vec::new();
        for line in self.section(section).iter().flat_map(|section| &section.lines) {
            if let Line::Pair { key, .. } = line
                && !keys.contains(&key.as_str())
            {
                keys.push(key);
            }
        }
        keys
    }

    /// The last value of a key as it stands.
    pub(crate) fn last(&self, section: &str, key: &str) -> Option<&str> {
        self.section(section)?.lines.iter().rev().find_map(|line| line.value_of(key))
    }

    /// The last value of a key, without a pair of double quotes around all of it.
    pub(crate) fn value(&self, section: &str, key: &str) -> Option<&str> {
        let value = self.last(section, key)?.trim_end();
        Some(value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value))
    }

    /// The last value of a key, unless it is empty.
    pub(crate) fn filled(&self, section: &str, key: &str) -> Option<&str> {
        self.value(section, key).filter(|value| !value.is_empty())
    }

    /// The last value of a key as a boolean.
    pub(crate) fn flag(&self, section: &str, key: &str) -> Option<bool> {
        let value = self.value(section, key)?;
        Some(["1", "yes", "true", "on"].iter().any(|word| value.eq_ignore_ascii_case(word)))
    }

    /// Every value of a key; an empty one clears those before it.
    pub(crate) fn all(&self, section: &str, key: &str) -> Vec<&str> {
        let mut values = Vec::new();
        for value in
            self.section(section).iter().flat_map(|section| &section.lines).filter_map(|line| line.value_of(key))
        {
            if value.is_empty() {
                values.clear();
            } else {
                values.push(value.trim_end());
            }
        }
        values
    }

    /// The words of every value of a key that is a list.
    pub(crate) fn list(&self, section: &str, key: &str) -> Vec<String> {
        let split = |value| words::split(value, Backslash::IsKept).unwrap_or_default();
        self.all(section, key).into_iter().flat_map(split).collect()
    }

    /// The words of every value of a key whose values are parts of a command line.
    ///
    /// # Errors
    /// A value that cannot be taken apart.
    pub(crate) fn words(&self, section: &str, key: &str) -> Result<Vec<String>, String> {
        let mut all = Vec::new();
        for value in self.all(section, key) {
            all.extend(of_command(key, value)?);
        }
        Ok(all)
    }

    /// The words of the last value of a key that is a command line.
    ///
    /// # Errors
    /// A value that cannot be taken apart.
    pub(crate) fn command(&self, section: &str, key: &str) -> Result<Option<Vec<String>>, String> {
        self.last(section, key).map(|value| of_command(key, value)).transpose()
    }

    /// Adds a key at the end of a section.
    pub(crate) fn add(&mut self, section: &str, key: &str, value: impl Into<String>) {
        if let Some(section) = self.section_mut(section) {
            section.lines.push(Line::Pair { key: key.to_owned(), value: value.into() });
        }
    }

    /// Adds a key at the beginning of a section.
    pub(crate) fn add_first(&mut self, section: &str, key: &str, value: &str) {
        if let Some(section) = self.section_mut(section) {
            section.lines.insert(0, Line::Pair { key: key.to_owned(), value: value.to_owned() });
        }
    }

    /// Adds a key unless the section has it.
    pub(crate) fn add_default(&mut self, section: &str, key: &str, value: &str) {
        if self.last(section, key).is_none() {
            self.add(section, key, value);
        }
    }

    /// Gives a key one value.
    pub(crate) fn set(&mut self, section: &str, key: &str, value: &str) {
        if let Some(section) = self.section_mut(section) {
            let lines = section.lines.iter_mut().rev();
            let found = lines.into_iter().find_map(|line| match line {
                Line::Pair { key: other, value } if other == key => Some(value),
                _ => None,
            });
            match found {
                Some(old) => value.clone_into(old),
                None => section.lines.push(Line::Pair { key: key.to_owned(), value: value.to_owned() }),
            }
        }
    }

    /// Changes the value of every line of a section that has this key.
    pub(crate) fn change(&mut self, section: &str, key: &str, change: impl Fn(&str) -> String) {
        let section = self.sections.iter_mut().find(|one| one.name == section);
        for line in section.into_iter().flat_map(|section| &mut section.lines) {
            if let Line::Pair { key: other, value } = line
                && other == key
            {
                *value = change(value);
            }
        }
    }

    /// Puts a comment before everything.
    pub(crate) fn head(&mut self, comments: &[&str]) {
        if self.sections.is_empty() {
            self.ensure("");
        }
        if let Some(first) = self.sections.first_mut() {
            first.comments.splice(0..0, comments.iter().map(|line| format!("# {line}").trim_end().to_owned()));
        }
    }
}

impl std::fmt::Display for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (number, section) in self.sections.iter().enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            for comment in &section.comments {
                writeln!(f, "{comment}")?;
            }
            if !section.name.is_empty() {
                writeln!(f, "[{}]", section.name)?;
            }
            for line in &section.lines {
                match line {
                    Line::Comment(text) => writeln!(f, "{text}")?,
                    Line::Pair { key, value } => writeln!(f, "{key}={value}")?,
                }
            }
        }
        Ok(())
    }
}

fn section_name(line: &str) -> Option<&str> {
    line.strip_prefix('[')?.strip_suffix(']').filter(|name| !name.contains(']'))
}

fn of_command(key: &str, value: &str) -> Result<Vec<String>, String> {
    words::split(value, Backslash::Escapes).map_err(|error| format!("{key}={value}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# head\n\n[Unit]\nDescription=a b\n; note\nAfter=x\n\n# of the section\n[Container]\nImage=i\nExec=a \\\n# between\n  b\n\n\
                        [Unit]\nAfter=y\n";

    #[test]
    fn comments_and_order_survive_and_sections_become_one() {
        let unit = Unit::parse(TEXT).unwrap();
        let printed = "# head\n\n[Unit]\nDescription=a b\n; note\nAfter=x\nAfter=y\n\n# of the section\n[Container]\n\
                       Image=i\nExec=a b\n";
        assert_eq!(unit.to_string(), printed);
        assert_eq!(Unit::parse(printed).unwrap(), unit);
        assert_eq!(Unit::parse("# only this\n").unwrap().to_string(), "# only this\n");
    }

    #[test]
    fn values_are_found_as_their_kind_wants_it() {
        let unit = Unit::parse(
            "[A]\nX=1\nX=\nX= 2  \nX=\"3 4\" 5\nY=\"in quotes\" \nZ=\"a\" b\nF=On\nG=off\nL=a b\\x20 'c d'\nE=a \\x41\nB=\\q\n",
        )
        .unwrap();
        assert_eq!(unit.all("A", "X"), ["2", "\"3 4\" 5"]);
        assert_eq!(unit.value("A", "Y"), Some("in quotes"));
        assert_eq!(unit.value("A", "Z"), Some("\"a\" b"));
        assert_eq!((unit.flag("A", "F"), unit.flag("A", "G"), unit.flag("A", "H")), (Some(true), Some(false), None));
        assert_eq!(unit.list("A", "L"), ["a", "b\\x20", "c d"]);
        assert_eq!(unit.words("A", "E").unwrap(), ["a", "A"]);
        assert!(unit.words("A", "B").unwrap_err().contains("B=\\q"));
        assert_eq!(unit.keys("A"), ["X", "Y", "Z", "F", "G", "L", "E", "B"]);
    }

    #[test]
    fn lines_that_are_nothing_are_named() {
        for (text, message) in [
            ("[A]\nrubbish\n", "line 2"),
            ("X=1\n", "does not start with a group"),
            ("[A]\n=x\n", "line 2"),
            ("[]\n", "group name"),
        ] {
            let error = Unit::parse(text).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn what_is_changed_stands_where_it_belongs() {
        let mut unit = Unit::parse("[Container]\nImage=i\n[X-Container]\nOld=1\n").unwrap();
        unit.rename("Container", "X-Container");
        unit.rename("Absent", "Other");
        unit.add("Unit", "After", "b");
        unit.add_first("Unit", "After", "a");
        unit.add_default("Unit", "After", "c");
        unit.set("Unit", "After", "d");
        unit.change("Unit", "After", |value| format!("{value}.x"));
        unit.head(&["made", ""]);
        assert_eq!(unit.to_string(), "# made\n#\n[X-Container]\nOld=1\nImage=i\n\n[Unit]\nAfter=a.x\nAfter=d.x\n");
    }
}
