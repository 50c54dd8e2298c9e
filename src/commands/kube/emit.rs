//! JSON values → YAML, laid out as Go's libraries do: keys in their order, lists as deep as their key.

use serde_json::Value;

/// The document of one object.
pub(super) fn yaml(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out
}

/// A value that begins on a line of its own.
fn block(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            let mut keys: Vec<&String> = members.keys().collect();
            keys.sort();
            for (number, key) in keys.into_iter().enumerate() {
                // The first one may stand behind the dash of a list.
                if number > 0 || out.is_empty() || out.ends_with('\n') {
                    indent(depth, out);
                }
                out.push_str(&scalar(key));
                out.push(':');
                member(members.get(key).unwrap_or(&Value::Null), depth, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                indent(depth, out);
                out.push('-');
                match item {
                    Value::Object(members) if !members.is_empty() => {
                        out.push(' ');
                        block(item, depth + 2, out);
                    }
                    _ => member(item, depth, out),
                }
            }
        }
        other => {
            indent(depth, out);
            inline(other, depth, out);
        }
    }
}

/// What follows a colon or a dash.
fn member(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            out.push('\n');
            block(value, depth + 2, out);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            block(value, depth, out);
        }
        other => {
            out.push(' ');
            inline(other, depth + 2, out);
        }
    }
}

fn indent(depth: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', depth));
}

/// A value without parts, and the end of its line. A text of several lines is a block below.
fn inline(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::String(text) => match literal(text, depth) {
            Some(block) => out.push_str(&block),
            None => out.push_str(&scalar(text)),
        },
        other => out.push_str(&other.to_string()),
    }
    out.push('\n');
}

/// A text of several lines, as it is.
fn literal(text: &str, depth: usize) -> Option<String> {
    let is_plain = |c: char| {
        c == '\n' || c == '\t' || !c.is_control() && !matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}')
    };
    let body = text.trim_end_matches('\n');
    // Where the first line is indented or empty, or a line ends with a blank, its reader would have to be told more.
    let is_simple = body.contains('\n') || text.ends_with('\n');
    if !is_simple
        || body.is_empty()
        || body.starts_with([' ', '\n', '\t'])
        || !text.chars().all(is_plain)
        || body.lines().any(|line| line.ends_with([' ', '\t']))
    {
        return None;
    }
    let ends = text.len() - body.len();
    let mut block = match ends {
        0 => "|-",
        1 => "|",
        _ => "|+",
    }
    .to_owned();
    for line in body.split('\n').chain(std::iter::repeat_n("", ends.saturating_sub(1))) {
        block.push('\n');
        if !line.is_empty() {
            indent(depth, &mut block);
            block.push_str(line);
        }
    }
    Some(block)
}

/// A text in one line: as it is where no reader takes it for something else.
fn scalar(text: &str) -> String {
    let is_odd = |c: char| c.is_control() || matches!(c, '\u{85}' | '\u{a0}' | '\u{2028}' | '\u{2029}' | '\u{feff}');
    if text.is_empty() || text.chars().any(is_odd) || looks_typed(text) {
        return quoted(text);
    }
    let begins = |marks: &[char]| text.starts_with(marks);
    let is_mark = begins(&['-', '?', ':']) && text.chars().nth(1).is_none_or(|next| next == ' ')
        || text == "---"
        || text.starts_with("--- ")
        || text == "..."
        || text.starts_with("... ");
    let is_plain = !is_mark
        && !begins(&[',', '[', ']', '{', '}', '#', '&', '*', '!', '|', '>', '\'', '"', '%', '@', '`', ' '])
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !text.contains(" #");
    if is_plain { text.to_owned() } else { format!("'{}'", text.replace('\'', "''")) }
}

/// Whether a reader, of today or of old, could take it for a number, a boolean, a date or nothing.
fn looks_typed(text: &str) -> bool {
    const WORDS: [&str; 14] =
        ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "~", ".inf", "-.inf", "+.inf", ".nan"];
    let lower = text.to_ascii_lowercase();
    if WORDS.contains(&lower.as_str()) || text == "<<" || text == "=" {
        return true;
    }
    if text.bytes().filter(|byte| *byte == b'.').count() > 1 {
        return false;
    }
    let digits = text.trim_start_matches(['+', '-', '.']);
    digits.starts_with(|c: char| c.is_ascii_digit())
        && text.len() - digits.len() <= 2
        && (digits.bytes().all(|byte| byte.is_ascii_digit() || b"_.:-+eETtzZ ".contains(&byte))
            || ["0x", "0o", "0b"].iter().any(|prefix| digits.to_ascii_lowercase().starts_with(prefix)))
}

fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\0' => out.push_str("\\0"),
            c if c.is_control() || matches!(c, '\u{85}' | '\u{a0}' | '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                out.push_str(&format!("\\u{:04X}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_are_laid_out_as_podman_does() {
        let value = json!({
            "spec": {
                "containers": [{ "name": "c", "args": ["1000", "a b"], "env": [{ "name": "A", "value": "b: c" }] }],
                "empty": [],
                "none": {},
            },
            "kind": "Pod",
            "text": "one\ntwo\n",
            "number": 5,
        });
        let expected = "kind: Pod\nnumber: 5\nspec:\n  containers:\n  - args:\n    - \"1000\"\n    - a b\n    env:\n    - name: A\n      value: 'b: c'\n    name: c\n  empty: []\n  none: {}\ntext: |\n  one\n  two\n";
        assert_eq!(yaml(&value), expected);
    }

    #[test]
    fn whatever_is_written_is_read_back() {
        let texts = [
            "",
            " ",
            "a",
            "5",
            "0644",
            "0x1f",
            "1e3",
            "1:20",
            "yes",
            "~",
            "null",
            "true",
            "-",
            "-c",
            "- a",
            "a: b",
            "a:",
            ":a",
            "a #b",
            "#a",
            "'",
            "\"",
            "it's",
            "\\",
            "[a]",
            "{a}",
            "*a",
            "&a",
            "!a",
            "%a",
            "@a",
            "`a",
            "|",
            ">",
            "a\nb",
            "a\nb\n",
            "a\n\n",
            "\na",
            " a\nb",
            "a \nb",
            "\ta",
            "a\tb",
            "\u{1b}[31m",
            "ä",
            "\u{85}",
            "---",
            "--- a",
            "...",
            "2001-01-01",
            "1.2.3",
            "=",
            "<<",
            "a,b",
            "a\r\nb",
            "\n",
            "$(A)",
            "key=value",
            "?",
            "? a",
            "\u{feff}x",
            "12 monkeys",
            "+5",
            ".5",
        ];
        for text in texts {
            let value = json!({ "outer": [{ "k": text, "list": [text] }], text: "as a key" });
            let written = yaml(&value);
            let read: Value =
                serde_saphyr::from_str(&written).unwrap_or_else(|error| panic!("{text:?}: {error}\n{written}"));
            assert_eq!(read, value, "{written}");
        }
    }
}
