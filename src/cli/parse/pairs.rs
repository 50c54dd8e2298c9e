//! `NAME=value` in its variants: environment, environment files, labels, annotations.

use super::Parsed;

/// Looks a name up in the caller's environment.
pub(crate) type Environment<'a> = &'a [(String, String)];

fn lookup<'a>(environment: Environment<'a>, name: &str) -> Option<&'a str> {
    environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// What one `-e` adds: `NAME=value` as it is, `NAME` from the caller's environment if it is there, `PREFIX*` every
/// variable that begins so.
pub(crate) fn environment(value: &str, environment: Environment<'_>) -> Parsed<Vec<(String, String)>> {
    if value.contains('\0') {
        return Err("must not contain a NUL byte".to_owned());
    }
    match value.split_once('=') {
        Some(("", _)) => Err("invalid variable: no name".to_owned()),
        Some((name, value)) => Ok(vec![(name.to_owned(), value.to_owned())]),
        None if value.is_empty() => Err("invalid variable: no name".to_owned()),
        None => match value.strip_suffix('*') {
            Some(prefix) => Ok(environment.iter().filter(|(name, _)| name.starts_with(prefix)).cloned().collect()),
            None => {
                Ok(lookup(environment, value).map(|found| (value.to_owned(), found.to_owned())).into_iter().collect())
            }
        },
    }
}

/// The lines of an environment file: docker's rules. Leading blanks are cut, `#` begins a comment line, quotes are
/// part of the value, and so are trailing blanks.
pub(crate) fn environment_file(content: &[u8], caller: Environment<'_>) -> Parsed<Vec<(String, String)>> {
    let mut all = Vec::new();
    for (number, line) in lines(content)? {
        let name = line.split('=').next().unwrap_or_default();
        if name.contains(char::is_whitespace) {
            return Err(format!("line {number}: variable {name:?} contains white space"));
        }
        all.extend(environment(line, caller).map_err(|reason| format!("line {number}: {reason}"))?);
    }
    Ok(all)
}

/// The lines of a label file.
pub(crate) fn label_file(content: &[u8]) -> Parsed<Vec<(String, String)>> {
    lines(content)?
        .into_iter()
        .map(|(number, line)| label(line).map_err(|reason| format!("line {number}: {reason}")))
        .collect()
}

/// A label: `name=value`, or `name` with an empty value.
pub(crate) fn label(value: &str) -> Parsed<(String, String)> {
    let (name, value) = value.split_once('=').unwrap_or((value, ""));
    if name.is_empty() { Err("invalid label: no name".to_owned()) } else { Ok((name.to_owned(), value.to_owned())) }
}

/// A value with `$NAME`, `${NAME}`, `${NAME:-default}` and `${NAME:+instead}` filled in from these variables; what is not
/// there is empty, `\\$` is a dollar.
pub(crate) fn expand(value: &str, env: &[(String, String)]) -> String {
    let mut out = String::new();
    let mut rest = value;
    while let Some(at) = rest.find(['$', '\\']) {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if rest.as_bytes()[at] == b'\\' {
            let escaped = after.chars().next();
            out.extend(escaped);
            rest = &after[escaped.map_or(0, char::len_utf8)..];
        } else if let Some((inner, tail)) = after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            let (name, operator) = match inner.find([':']) {
                Some(colon) => inner.split_at(colon),
                None => (inner, ""),
            };
            let found = lookup(env, name).unwrap_or_default();
            match (operator.get(..2), found.is_empty()) {
                (Some(":-"), true) | (Some(":+"), false) => out.push_str(&operator[2..]),
                (Some(":+"), true) => {}
                _ => out.push_str(found),
            }
            rest = tail;
        } else {
            let length = after.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
            match length {
                0 => out.push('$'),
                _ => out.push_str(lookup(env, &after[..length]).unwrap_or_default()),
            }
            rest = &after[length..];
        }
    }
    out + rest
}

/// An annotation: a label that must have a value.
pub(crate) fn annotation(value: &str) -> Parsed<(String, String)> {
    match value.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("annotations must be formatted KEY=VALUE".to_owned()),
    }
}

/// Numbered lines that are neither empty nor comments, without a byte order mark.
fn lines(content: &[u8]) -> Parsed<Vec<(usize, &str)>> {
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    let text = std::str::from_utf8(content).map_err(|error| format!("not UTF-8 at byte {}", error.valid_up_to()))?;
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim_start()));
    Ok(lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).collect())
}

/// Sets a variable, at its old place if it was there.
pub(crate) fn set(all: &mut Vec<(String, String)>, name: &str, value: &str) {
    match all.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => value.clone_into(old),
        None => all.push((name.to_owned(), value.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn variables_come_from_the_option_or_the_caller() {
        let caller = pairs(&[("HOME", "/home/me"), ("LC_ALL", "C"), ("LC_TIME", "de"), ("EMPTY", "")]);
        for (text, expected) in [
            ("A=b", pairs(&[("A", "b")])),
            ("A=", pairs(&[("A", "")])),
            ("A=b=c", pairs(&[("A", "b=c")])),
            ("A=\"b c\"", pairs(&[("A", "\"b c\"")])),
            ("HOME", pairs(&[("HOME", "/home/me")])),
            ("EMPTY", pairs(&[("EMPTY", "")])),
            ("MISSING", vec![]),
            ("LC_*", pairs(&[("LC_ALL", "C"), ("LC_TIME", "de")])),
            ("A*=x", pairs(&[("A*", "x")])),
        ] {
            assert_eq!(environment(text, &caller), Ok(expected), "{text}");
        }
        for text in ["", "=x", "A=\0"] {
            assert!(environment(text, &caller).is_err(), "{text}");
        }
    }

    #[test]
    fn environment_file_keeps_quotes_and_trailing_blanks() {
        let file = b"\xef\xbb\xbf# comment\n\n  A=1\nB='two words' \nHOME\nMISSING\nC=a#b\r\n";
        let expected = pairs(&[("A", "1"), ("B", "'two words' "), ("HOME", "/h"), ("C", "a#b")]);
        assert_eq!(environment_file(file, &pairs(&[("HOME", "/h")])), Ok(expected));
        for (file, why) in [
            (&b"A B=1"[..], "line 1: variable \"A B\" contains white space"),
            (b"ok=1\n=x", "line 2: invalid variable: no name"),
            (b"A=\xff", "not UTF-8 at byte 2"),
        ] {
            assert_eq!(environment_file(file, &[]), Err(why.to_owned()));
        }
    }

    #[test]
    fn labels_may_be_empty_and_annotations_may_not() {
        assert_eq!(label("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(label("a"), Ok(("a".to_owned(), String::new())));
        assert!(label("=b").is_err());
        assert!(annotation("a").is_err());
        assert_eq!(annotation("a="), Ok(("a".to_owned(), String::new())));
        assert_eq!(label_file(b"# x\na=1\n b\n"), Ok(pairs(&[("a", "1"), ("b", "")])));
    }
}
