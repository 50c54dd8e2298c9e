//! What a template sees: values with Go's kinds, as far as they change what is printed.
//!
//! JSON alone would not do: Go prints a map as `map[a:b]` and a struct as `{b}`, a missing key of the first is
//! `<no value>`, of the second an error; a time prints otherwise than it marshals; an absent list is `null` in JSON and
//! `[]` in a template.

use std::collections::BTreeMap;
use std::fmt::Write;

use jiff::Timestamp;

use crate::cli::units;

/// A value of one of Go's kinds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// Nothing of no kind.
    Nil,
    /// No list.
    NilList,
    /// No map.
    NilMap,
    /// No struct where there could be one.
    NilPointer,
    /// A boolean.
    Bool(bool),
    /// An integer of any width.
    Int(i64),
    /// A floating point number.
    Float(f64),
    /// Text.
    Str(String),
    /// A time; absent is Go's zero time.
    Time(Option<Timestamp>),
    /// A list.
    List(Vec<Value>),
    /// A map: sorted, any key may be asked for.
    Map(BTreeMap<String, Value>),
    /// A struct: in order, other fields do not exist.
    Struct(Vec<(&'static str, Value)>),
    /// A field that templates see and JSON leaves out, as Go's `omitempty` does.
    Omitted(Box<Value>),
    /// A row of a listing: the fields a template may use, and the object that is its JSON.
    Row(Vec<(&'static str, Value)>, Box<Value>),
}

/// How JSON is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Json {
    /// Spaces per level; on one line if absent.
    pub(crate) indent: Option<usize>,
    /// `<`, `>` and `&` as `\u003c` and so on, as Go does unless told otherwise.
    pub(crate) escape_html: bool,
    /// An empty map takes two lines, as the JSON library behind `podman ps` has it.
    pub(crate) open_empty_maps: bool,
}

impl Json {
    /// On one line, nothing but what JSON demands escaped: the template function `json`.
    pub(crate) const LINE: Self = Self { indent: None, escape_html: false, open_empty_maps: false };

    /// As `podman inspect` writes it.
    pub(crate) const INSPECT: Self = Self { indent: Some(5), escape_html: false, open_empty_maps: false };
}

impl Value {
    /// Text.
    pub(crate) fn str(text: impl Into<String>) -> Self {
        Self::Str(text.into())
    }

    /// A list of texts; empty is empty.
    pub(crate) fn strings<S: Into<String>>(texts: impl IntoIterator<Item = S>) -> Self {
        Self::List(texts.into_iter().map(Self::str).collect())
    }

    /// A list of texts; empty is absent.
    pub(crate) fn strings_or_nil<S: Into<String>>(texts: impl IntoIterator<Item = S>) -> Self {
        match Self::strings(texts) {
            Self::List(list) if list.is_empty() => Self::NilList,
            list => list,
        }
    }

    /// A map of texts.
    pub(crate) fn map<'a>(entries: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        Self::Map(entries.into_iter().map(|(key, value)| (key.clone(), Self::str(value))).collect())
    }

    /// A map of texts; empty is absent.
    pub(crate) fn map_or_nil<'a>(entries: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        match Self::map(entries) {
            Self::Map(map) if map.is_empty() => Self::NilMap,
            map => map,
        }
    }

    /// The field of a struct or the entry of a map.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        let found = match self {
            Self::Struct(fields) | Self::Row(fields, _) => {
                fields.iter().find(|(field, _)| *field == name).map(|(_, value)| value)
            }
            Self::Map(map) => map.get(name),
            _ => None,
        };
        match found {
            Some(Self::Omitted(inner)) => Some(inner),
            found => found,
        }
    }

    /// The value, left out of JSON if it is zero or empty.
    pub(crate) fn omitempty(self) -> Self {
        match &self {
            Self::Struct(fields) if !fields.is_empty() => self,
            value if value.is_true() => self,
            _ => Self::Omitted(Box::new(self)),
        }
    }

    /// Go's idea of true: not zero, not empty.
    pub(crate) fn is_true(&self) -> bool {
        match self {
            Self::Nil | Self::NilList | Self::NilMap | Self::NilPointer => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Str(text) => !text.is_empty(),
            Self::List(list) => !list.is_empty(),
            Self::Omitted(inner) => inner.is_true(),
            Self::Map(map) => !map.is_empty(),
            // A struct is always true, and a time is one.
            Self::Time(_) | Self::Struct(_) | Self::Row(..) => true,
        }
    }

    /// The value as Go's `%v` prints it.
    pub(crate) fn to_text(&self) -> String {
        let mut out = String::new();
        self.print(&mut out);
        out
    }

    fn print(&self, out: &mut String) {
        let write_list = |list: &[Value], out: &mut String| {
            for (index, value) in list.iter().enumerate() {
                if index > 0 {
                    out.push(' ');
                }
                value.print(out);
            }
        };
        match self {
            Self::Nil | Self::NilPointer => out.push_str("<nil>"),
            Self::NilList => out.push_str("[]"),
            Self::NilMap => out.push_str("map[]"),
            Self::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            // Writing to a String does not fail.
            Self::Int(value) => _ = write!(out, "{value}"),
            Self::Float(value) => _ = write!(out, "{value}"),
            Self::Str(text) => out.push_str(text),
            Self::Time(time) => out.push_str(&units::go_time(*time)),
            Self::Omitted(inner) => inner.print(out),
            Self::List(list) => {
                out.push('[');
                write_list(list, out);
                out.push(']');
            }
            Self::Map(map) => {
                out.push_str("map[");
                for (index, (key, value)) in map.iter().enumerate() {
                    if index > 0 {
                        out.push(' ');
                    }
                    out.push_str(key);
                    out.push(':');
                    value.print(out);
                }
                out.push(']');
            }
            Self::Struct(fields) | Self::Row(fields, _) => {
                out.push('{');
                for (index, (_, value)) in fields.iter().enumerate() {
                    if index > 0 {
                        out.push(' ');
                    }
                    value.print(out);
                }
                out.push('}');
            }
        }
    }

    /// The value as JSON.
    pub(crate) fn to_json(&self, style: Json) -> String {
        let mut out = String::new();
        self.write_json(style, 0, &mut out);
        out
    }

    fn write_json(&self, style: Json, depth: usize, out: &mut String) {
        match self {
            Self::Nil | Self::NilList | Self::NilMap | Self::NilPointer => out.push_str("null"),
            Self::Bool(_) | Self::Int(_) | Self::Float(_) => self.print(out),
            Self::Str(text) => write_string(text, style, out),
            Self::Time(time) => write_string(&units::rfc3339(*time), style, out),
            Self::List(list) => {
                let items = list.iter().map(|value| (None, value));
                write_items(['[', ']'], items, style, depth, out);
            }
            Self::Map(map) => {
                let items = map.iter().map(|(key, value)| (Some(key.as_str()), value));
                write_items(['{', '}'], items, style, depth, out);
            }
            Self::Struct(fields) => {
                let shown = fields.iter().filter(|(_, value)| !matches!(value, Self::Omitted(_)));
                let items = shown.map(|(key, value)| (Some(*key), value)).collect::<Vec<_>>().into_iter();
                write_items(['{', '}'], items, style, depth, out);
            }
            Self::Row(_, json) => json.write_json(style, depth, out),
            Self::Omitted(inner) => inner.write_json(style, depth, out),
        }
    }
}

fn write_items<'a>(
    [open, close]: [char; 2],
    items: impl ExactSizeIterator<Item = (Option<&'a str>, &'a Value)>,
    style: Json,
    depth: usize,
    out: &mut String,
) {
    let line = |depth: usize, out: &mut String| {
        if let Some(indent) = style.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    };
    out.push(open);
    if items.len() == 0 {
        if open == '{' && style.open_empty_maps {
            line(depth + 1, out);
            line(depth, out);
        }
        out.push(close);
        return;
    }
    for (index, (key, value)) in items.enumerate() {
        if index > 0 {
            out.push(',');
        }
        line(depth + 1, out);
        if let Some(key) = key {
            write_string(key, style, out);
            out.push_str(if style.indent.is_some() { ": " } else { ":" });
        }
        value.write_json(style, depth + 1, out);
    }
    line(depth, out);
    out.push(close);
}

fn write_string(text: &str, style: Json, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' if style.escape_html => _ = write!(out, "\\u{:04x}", u32::from(c)),
            // DEL and C1 need no escape in JSON, but a terminal obeys them.
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => _ = write!(out, "\\u{:04x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out.push('"');
}

impl From<&serde_json::Value> for Value {
    /// JSON of unknown origin: its objects are maps.
    fn from(json: &serde_json::Value) -> Self {
        match json {
            serde_json::Value::Null => Self::Nil,
            serde_json::Value::Bool(value) => Self::Bool(*value),
            serde_json::Value::Number(number) => match number.as_i64() {
                Some(value) => Self::Int(value),
                None => Self::Float(number.as_f64().unwrap_or(0.0)),
            },
            serde_json::Value::String(text) => Self::str(text),
            serde_json::Value::Array(list) => Self::List(list.iter().map(Self::from).collect()),
            serde_json::Value::Object(map) => {
                Self::Map(map.iter().map(|(key, value)| (key.clone(), Self::from(value))).collect())
            }
        }
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Int(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::str(text)
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Value {
        let labels = BTreeMap::from([("b".to_owned(), Value::str("<2>")), ("a".to_owned(), Value::str("1"))]);
        Value::Struct(vec![
            ("Labels", Value::Map(labels)),
            ("Empty", Value::Map(BTreeMap::new())),
            ("None", Value::NilMap),
            ("List", Value::strings(["x", "y\u{1b}"])),
            ("NoList", Value::NilList),
            ("On", true.into()),
            ("At", Value::Time(None)),
        ])
    }

    #[test]
    fn values_print_as_go_prints_them() {
        assert_eq!(
            sample().to_text(),
            "{map[a:1 b:<2>] map[] map[] [x y\u{1b}] [] true 0001-01-01 00:00:00 +0000 UTC}"
        );
    }

    #[test]
    fn json_follows_the_style_of_the_command() {
        assert_eq!(
            sample().to_json(Json::LINE),
            r#"{"Labels":{"a":"1","b":"<2>"},"Empty":{},"None":null,"List":["x","y\u001b"],"NoList":null,"On":true,"At":"0001-01-01T00:00:00Z"}"#
        );
        let ps = Json { indent: Some(2), escape_html: true, open_empty_maps: true };
        assert_eq!(
            Value::List(vec![Value::Struct(vec![("M", Value::Map(BTreeMap::new())), ("S", "<".into())])]).to_json(ps),
            "[\n  {\n    \"M\": {\n      \n    },\n    \"S\": \"\\u003c\"\n  }\n]"
        );
        assert_eq!(Value::List(Vec::new()).to_json(Json::INSPECT), "[]");
    }
}
