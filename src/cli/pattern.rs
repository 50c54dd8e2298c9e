//! Patterns in filters: the part of regular expressions and globs that people write there.

use std::path::{Component, Path, PathBuf};

/// Whether `pattern`, a regular expression of literals, `.`, `*`, `+`, `?`, `^`, `$`, `|` between whole alternatives and
/// `\` before a character, is found in `text`.
///
/// podman and docker take all of Go's syntax; groups and classes are taken literally here.
pub(crate) fn regex_is_found(pattern: &str, text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    pattern.split('|').any(|alternative| {
        let (anchored, alternative) = match alternative.strip_prefix('^') {
            Some(rest) => (true, rest),
            None => (false, alternative),
        };
        let atoms = atoms(alternative);
        let starts = if anchored { 0..=0 } else { 0..=text.len() };
        starts.into_iter().any(|start| matches(&atoms, &text[start..]))
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Atom {
    One(char),
    Any,
    End,
}

#[derive(Clone, Copy)]
struct Repeated {
    atom: Atom,
    min: usize,
    max: usize,
}

fn atoms(pattern: &str) -> Vec<Repeated> {
    let mut atoms: Vec<Repeated> = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        let atom = match c {
            '\\' => Atom::One(chars.next().unwrap_or('\\')),
            '.' => Atom::Any,
            '$' if chars.peek().is_none() => Atom::End,
            '*' | '+' | '?' if !atoms.is_empty() => {
                if let Some(last) = atoms.last_mut() {
                    last.min = usize::from(c == '+');
                    last.max = if c == '?' { 1 } else { usize::MAX };
                }
                continue;
            }
            c => Atom::One(c),
        };
        atoms.push(Repeated { atom, min: 1, max: 1 });
    }
    atoms
}

/// All positions an expression can have reached, atom by atom: never more than the text has.
fn matches(atoms: &[Repeated], text: &[char]) -> bool {
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for Repeated { atom, min, max } in atoms {
        let mut next = vec![false; text.len() + 1];
        for (start, _) in reached.iter().enumerate().filter(|(_, reached)| **reached) {
            if *atom == Atom::End {
                next[start] |= start == text.len();
                continue;
            }
            let mut count = 0;
            loop {
                if count >= *min {
                    if next[start + count] && *max > 1 {
                        break;
                    }
                    next[start + count] = true;
                }
                let fits = text.get(start + count).is_some_and(|c| match atom {
                    Atom::One(wanted) => c == wanted,
                    Atom::Any => true,
                    Atom::End => false,
                });
                if !fits || count == *max {
                    break;
                }
                count += 1;
            }
        }
        reached = next;
    }
    reached.contains(&true)
}

/// Whether the shell pattern, with `*`, `?` and without classes, fits the whole of `text`.
pub(crate) fn glob_fits(pattern: &str, text: &str) -> bool {
    let atoms: Vec<Repeated> = pattern
        .chars()
        .map(|c| match c {
            '*' => Repeated { atom: Atom::Any, min: 0, max: usize::MAX },
            '?' => Repeated { atom: Atom::Any, min: 1, max: 1 },
            c => Repeated { atom: Atom::One(c), min: 1, max: 1 },
        })
        .chain([Repeated { atom: Atom::End, min: 1, max: 1 }])
        .collect();
    matches(&atoms, &text.chars().collect::<Vec<_>>())
}

/// The paths of the host that an absolute shell pattern fits, in order. A leading dot is matched by a dot alone.
pub(crate) fn glob_paths(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/")];
    for part in pattern.components() {
        let Component::Normal(part) = part else { continue };
        let part = part.to_string_lossy();
        if !part.contains(['*', '?']) {
            for path in &mut found {
                path.push(part.as_ref());
            }
            continue;
        }
        let entries = found.iter().filter_map(|directory| std::fs::read_dir(directory).ok()).flatten().flatten();
        let mut next: Vec<PathBuf> = entries
            .filter(|entry| {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                (part.starts_with('.') || !name.starts_with('.')) && glob_fits(&part, &name)
            })
            .map(|entry| entry.path())
            .collect();
        next.sort();
        found = next;
    }
    found.retain(|path| std::fs::symlink_metadata(path).is_ok());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_found_as_go_finds_them() {
        for (pattern, text, found) in [
            ("web", "my-web-1", true),
            ("^web", "my-web", false),
            ("^web$", "web", true),
            ("^web$", "web1", false),
            ("^we.*1$", "web-21", true),
            ("a+b", "xaaab", true),
            ("a+b", "xb", false),
            ("colou?r", "color", true),
            ("x|^b$", "b", true),
            (r"a\.b", "axb", false),
            (r"a\.b", "a.b", true),
            ("", "anything", true),
            ("b$", "ba", false),
            (".", "", false),
        ] {
            assert_eq!(regex_is_found(pattern, text), found, "{pattern} {text}");
        }
    }

    #[test]
    fn hostile_expressions_end() {
        let text = "a".repeat(2000);
        assert!(!regex_is_found(&format!("{}b", "a*".repeat(50)), &text));
    }

    #[test]
    fn globs_fit_the_whole_text() {
        for (pattern, text, fits) in [
            ("foo", "foo", true),
            ("fo*", "foobar", true),
            ("*bar", "foobar", true),
            ("f?o", "foo", true),
            ("fo", "foo", false),
        ] {
            assert_eq!(glob_fits(pattern, text), fits, "{pattern} {text}");
        }
    }
}
