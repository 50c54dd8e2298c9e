//! A document as YAML, as `podman info` lays it out.

use crate::cli::format::{Json, Value};

/// The document as YAML, keys sorted, as podman prints it.
pub(super) fn of(value: &Value) -> String {
    let mut out = String::new();
    write_yaml(value, 0, &mut out);
    out
}

fn write_yaml(value: &Value, depth: usize, out: &mut String) {
    let mut fields: Vec<(&str, &Value)> = match value {
        Value::Struct(fields) => fields.iter().map(|(name, value)| (*name, value)).collect(),
        Value::Map(map) => map.iter().map(|(name, value)| (name.as_str(), value)).collect(),
        _ => return,
    };
    fields.sort_by_key(|(name, _)| *name);
    let indent = "  ".repeat(depth);
    for (name, value) in fields {
        out.push_str(&format!("{indent}{name}:"));
        match value {
            Value::List(list) if !list.is_empty() => {
                out.push('\n');
                for item in list {
                    if matches!(item, Value::Struct(_) | Value::Map(_)) {
                        // The first key stands behind the dash, the others below it.
                        let mut text = String::new();
                        write_yaml(item, depth + 1, &mut text);
                        let inner = "  ".repeat(depth + 1);
                        out.push_str(&text.replacen(&inner, &format!("{indent}- "), 1));
                    } else {
                        out.push_str(&format!("{indent}- {}\n", scalar(item)));
                    }
                }
            }
            Value::Struct(fields) if !fields.is_empty() => {
                out.push('\n');
                write_yaml(value, depth + 1, out);
            }
            Value::Map(map) if !map.is_empty() => {
                out.push('\n');
                write_yaml(value, depth + 1, out);
            }
            value => out.push_str(&format!(" {}\n", scalar(value))),
        }
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::Nil | Value::NilList | Value::NilMap => "null".to_owned(),
        Value::List(_) => "[]".to_owned(),
        Value::Map(_) | Value::Struct(_) => "{}".to_owned(),
        Value::Str(text) if needs_quotes(text) => value.to_json(Json::LINE),
        value => value.to_text(),
    }
}

/// Whether a plain scalar would read as something else.
fn needs_quotes(text: &str) -> bool {
    text.is_empty()
        || text.parse::<f64>().is_ok()
        || matches!(text, "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "~")
        || text.starts_with([
            ' ', '-', '?', ':', ',', '[', ']', '{', '}', '#', '&', '*', '!', '|', '>', '\'', '"', '%', '@', '`',
        ])
        || text.ends_with([' ', ':'])
        || text.contains(": ")
        || text.contains(" #")
        || text.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::super::map;
    use super::*;

    #[test]
    fn yaml_is_laid_out_as_podman_does() {
        let value = map([
            ("b", map([("x", "13".into()), ("w", true.into())])),
            ("a", Value::List(vec![map([("size", Value::Int(1)), ("id", Value::Int(0))])])),
            ("c", Value::List(Vec::new())),
            ("d", "".into()),
            ("e", Value::strings(["one", "a: b"])),
            ("f", Value::NilList),
        ]);
        assert_eq!(
            of(&value),
            "a:\n- id: 0\n  size: 1\nb:\n  w: true\n  x: \"13\"\nc: []\nd: \"\"\ne:\n- one\n- \"a: b\"\nf: null\n"
        );
    }
}
