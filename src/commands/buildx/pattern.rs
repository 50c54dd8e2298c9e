//! `regex`, `regexall`, `regex_replace` and `regexreplace` of bake files: by RE2's syntax, as Go has it.

use hcl::Value;
use regex::{Captures, Regex};

/// What a pattern may take once it is compiled.
const MAX_BYTES: usize = 1 << 20;

fn compiled(pattern: &str) -> Result<Regex, String> {
    let built = regex::RegexBuilder::new(pattern).size_limit(MAX_BYTES).build();
    built.map_err(|error| format!("pattern {pattern:?}: {}", error.to_string().lines().last().unwrap_or_default()))
}

/// A match: the text; with groups without names a list of theirs, with names an object.
fn value(pattern: &Regex, found: &Captures<'_>) -> Value {
    let group = |number: usize| found.get(number).map_or(Value::Null, |part| Value::from(part.as_str()));
    let names: Vec<Option<&str>> = pattern.capture_names().collect();
    match names.as_slice() {
        [] | [_] => group(0),
        [_, groups @ ..] if groups.iter().any(Option::is_some) => {
            let named = groups.iter().zip(1..).filter_map(|(name, number)| Some(((*name)?.to_owned(), group(number))));
            Value::Object(named.collect())
        }
        [_, groups @ ..] => Value::Array((1..=groups.len()).map(group).collect()),
    }
}

/// The first match.
pub(super) fn first(pattern: &str, text: &str) -> Result<Value, String> {
    let pattern = compiled(pattern)?;
    let found = pattern.captures(text);
    found
        .map(|found| value(&pattern, &found))
        .ok_or_else(|| "pattern did not match any part of the given string".to_owned())
}

/// All matches.
pub(super) fn all(pattern: &str, text: &str) -> Result<Value, String> {
    let pattern = compiled(pattern)?;
    Ok(Value::Array(pattern.captures_iter(text).map(|found| value(&pattern, &found)).collect()))
}

/// The text with all matches replaced; `$1` and `${name}` are groups.
pub(super) fn replaced(text: &str, pattern: &str, by: &str) -> Result<Value, String> {
    Ok(Value::from(compiled(pattern)?.replace_all(text, by).into_owned()))
}
