//! The functions of templates: Go's own and those podman and docker add.

use std::cmp::Ordering;

use super::value::{Json, Value};

#[rustfmt::skip]
const NAMES: &[&str] = &[
    "and", "or", "not", "len", "index", "slice", "print", "printf", "println", "eq", "ne", "lt", "le", "gt", "ge",
    "html", "urlquery", "json", "join", "split", "lower", "upper", "title", "pad", "truncate",
];

pub(super) fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Calls a function; the error is what Go says after `error calling NAME: `.
pub(super) fn call(name: &str, args: &[Value]) -> Result<Value, String> {
    match name {
        // Their short cuts are the executor's business; what is left is the last argument.
        "and" | "or" => args.last().cloned().ok_or_else(|| wrong_count(name, 1, 0)),
        "not" => Ok(Value::Bool(!one(name, args)?.is_true())),
        "len" => length(one(name, args)?),
        "index" => {
            let (base, keys) = args.split_first().ok_or_else(|| wrong_count(name, 1, 0))?;
            keys.iter().try_fold(base.clone(), |value, key| index(&value, key))
        }
        "slice" => slice(args),
        "print" => Ok(Value::Str(sprint(args))),
        "println" => {
            let words: Vec<_> = args.iter().map(Value::to_text).collect();
            Ok(Value::Str(words.join(" ") + "\n"))
        }
        "printf" => {
            let (format, args) = args.split_first().ok_or_else(|| wrong_count(name, 1, 0))?;
            Ok(Value::Str(sprintf(&text(format)?, args)))
        }
        "eq" => {
            let (first, others) = args.split_first().ok_or("missing argument for comparison")?;
            if others.is_empty() {
                return Err("missing argument for comparison".to_owned());
            }
            others.iter().try_fold(false, |found, other| Ok(found || equal(first, other)?)).map(Value::Bool)
        }
        "ne" => two(name, args).and_then(|(a, b)| equal(a, b)).map(|equal| Value::Bool(!equal)),
        "lt" => compare(name, args, |order| order == Ordering::Less),
        "le" => compare(name, args, |order| order != Ordering::Greater),
        "gt" => compare(name, args, |order| order == Ordering::Greater),
        "ge" => compare(name, args, |order| order != Ordering::Less),
        "html" => Ok(Value::Str(html(&sprint(args)))),
        "urlquery" => Ok(Value::Str(url_query(&sprint(args)))),
        "json" => Ok(Value::Str(one(name, args)?.to_json(Json::LINE))),
        "join" => {
            let (list, separator) = two(name, args)?;
            let words: Vec<_> = match list {
                Value::List(list) => list.iter().map(Value::to_text).collect(),
                Value::Nil | Value::NilList => Vec::new(),
                _ => return Err("wrong type for value; expected []string".to_owned()),
            };
            Ok(Value::Str(words.join(&text(separator)?)))
        }
        "split" => {
            let (whole, separator) = two(name, args)?;
            let (whole, separator) = (text(whole)?, text(separator)?);
            Ok(if separator.is_empty() {
                Value::strings(whole.chars())
            } else {
                Value::strings(whole.split(&separator))
            })
        }
        "lower" => Ok(Value::Str(text(one(name, args)?)?.to_lowercase())),
        "upper" => Ok(Value::Str(text(one(name, args)?)?.to_uppercase())),
        "title" => Ok(Value::Str(title(&text(one(name, args)?)?))),
        "pad" => {
            let [text_value, Value::Int(before), Value::Int(after)] = args else {
                return Err(wrong_count(name, 3, args.len()));
            };
            let text = text(text_value)?;
            let spaces = |count: i64| " ".repeat(usize::try_from(count).unwrap_or(0).min(1024));
            Ok(Value::Str(if text.is_empty() { text } else { spaces(*before) + &text + &spaces(*after) }))
        }
        "truncate" => {
            let (whole, length) = two(name, args)?;
            let Value::Int(length) = length else { return Err("wrong type for value; expected int".to_owned()) };
            let length = usize::try_from(*length).unwrap_or(0);
            Ok(Value::Str(text(whole)?.chars().take(length).collect()))
        }
        _ => Err(format!("function {name:?} not defined")),
    }
}

fn wrong_count(name: &str, want: usize, got: usize) -> String {
    format!("wrong number of args for {name}: want {want} got {got}")
}

fn one<'a>(name: &str, args: &'a [Value]) -> Result<&'a Value, String> {
    if let [value] = args { Ok(value) } else { Err(wrong_count(name, 1, args.len())) }
}

fn two<'a>(name: &str, args: &'a [Value]) -> Result<(&'a Value, &'a Value), String> {
    if let [a, b] = args { Ok((a, b)) } else { Err(wrong_count(name, 2, args.len())) }
}

fn text(value: &Value) -> Result<String, String> {
    match value {
        Value::Str(text) => Ok(text.clone()),
        Value::Nil => Ok(String::new()),
        other => Err(format!("wrong type for value; expected string; got {}", other.to_text())),
    }
}

fn length(value: &Value) -> Result<Value, String> {
    Ok(Value::from(match value {
        Value::Str(text) => text.len() as u64,
        Value::List(list) => list.len() as u64,
        Value::Map(map) => map.len() as u64,
        Value::NilList | Value::NilMap => 0,
        Value::Nil | Value::NilPointer => return Err("len of nil pointer".to_owned()),
        other => return Err(format!("len of type {}", kind(other))),
    }))
}

fn index(value: &Value, key: &Value) -> Result<Value, String> {
    let position = |length: usize| match key {
        Value::Int(position) => match usize::try_from(*position) {
            Ok(found) if found < length => Ok(found),
            _ if matches!(value, Value::Str(_)) => Err(format!("index out of range: {position}")),
            _ => Err("reflect: slice index out of range".to_owned()),
        },
        other => Err(format!("cannot index slice/array with type {}", kind(other))),
    };
    match (value, key) {
        (Value::List(list), _) => Ok(list[position(list.len())?].clone()),
        (Value::NilList, _) => position(0).map(|_| Value::Nil),
        (Value::Str(text), _) => Ok(Value::Int(i64::from(text.as_bytes()[position(text.len())?]))),
        (Value::Map(map), Value::Str(key)) => Ok(match (map.get(key), map.values().next()) {
            (Some(value), _) => value.clone(),
            // The zero value of the map's element type.
            (None, Some(Value::Str(_)) | None) => Value::str(""),
            (None, Some(Value::List(_) | Value::NilList)) => Value::NilList,
            (None, _) => Value::Nil,
        }),
        (Value::NilMap, Value::Str(_)) => Ok(Value::str("")),
        (Value::Map(_) | Value::NilMap, other) => Err(format!("value has type {}; should be string", kind(other))),
        (Value::Nil | Value::NilPointer, _) => Err("index of nil pointer".to_owned()),
        (other, _) => Err(format!("can't index item of type {}", kind(other))),
    }
}

fn slice(args: &[Value]) -> Result<Value, String> {
    let (value, bounds) = args.split_first().ok_or_else(|| wrong_count("slice", 1, 0))?;
    let length = match value {
        Value::Str(text) => text.len(),
        Value::List(list) => list.len(),
        Value::NilList => 0,
        other => return Err(format!("can't slice item of type {}", kind(other))),
    };
    let mut range = [0, length];
    if bounds.len() > 2 {
        return Err(format!("too many slice indexes: {}", bounds.len()));
    }
    for (bound, given) in range.iter_mut().zip(bounds) {
        let Value::Int(position) = given else {
            return Err(format!("cannot index slice/array with type {}", kind(given)));
        };
        *bound = usize::try_from(*position)
            .ok()
            .filter(|position| *position <= length)
            .ok_or_else(|| format!("index out of range: {position}"))?;
    }
    let [from, to] = range;
    if from > to {
        return Err(format!("invalid slice index: {from} > {to}"));
    }
    Ok(match value {
        Value::Str(text) => Value::Str(String::from_utf8_lossy(&text.as_bytes()[from..to]).into_owned()),
        Value::List(list) => Value::List(list[from..to].to_vec()),
        _ => Value::NilList,
    })
}

fn equal(a: &Value, b: &Value) -> Result<bool, String> {
    match (a, b) {
        (Value::Nil | Value::NilList | Value::NilMap | Value::NilPointer, Value::Nil) => Ok(true),
        (_, Value::Nil) | (Value::Nil, _) => Ok(false),
        (Value::Bool(_), Value::Bool(_))
        | (Value::Int(_), Value::Int(_))
        | (Value::Float(_), Value::Float(_))
        | (Value::Str(_), Value::Str(_))
        | (Value::Time(_), Value::Time(_)) => Ok(a == b),
        (Value::List(_) | Value::NilList | Value::Map(_) | Value::NilMap, _) => {
            Err(format!("non-comparable type {}: {}", a.to_text(), kind(a)))
        }
        _ => Err("incompatible types for comparison".to_owned()),
    }
}

fn compare(name: &str, args: &[Value], accept: fn(Ordering) -> bool) -> Result<Value, String> {
    let (a, b) = two(name, args)?;
    let order = match (a, b) {
        (Value::Int(a), Value::Int(b)) => a.cmp(b),
        (Value::Float(a), Value::Float(b)) => a.partial_cmp(b).unwrap_or(Ordering::Equal),
        (Value::Str(a), Value::Str(b)) => a.cmp(b),
        (Value::Bool(_), Value::Bool(_)) => return Err("invalid type for comparison".to_owned()),
        _ => return Err("incompatible types for comparison".to_owned()),
    };
    Ok(Value::Bool(accept(order)))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Nil | Value::NilPointer => "nil",
        Value::NilList | Value::List(_) => "[]interface {}",
        Value::NilMap | Value::Map(_) => "map[string]interface {}",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int",
        Value::Float(_) => "float64",
        Value::Str(_) => "string",
        Value::Time(_) => "time.Time",
        Value::Struct(_) | Value::Row(..) => "struct",
        Value::Omitted(inner) => kind(inner),
    }
}

/// Go puts a space between two operands when neither is a string.
fn sprint(args: &[Value]) -> String {
    let mut out = String::new();
    for (index, value) in args.iter().enumerate() {
        let strings = matches!(value, Value::Str(_)) || matches!(args.get(index.wrapping_sub(1)), Some(Value::Str(_)));
        if index > 0 && !strings {
            out.push(' ');
        }
        out.push_str(&value.to_text());
    }
    out
}

/// Go's `fmt.Sprintf` with flags, width and precision for the verbs templates use.
fn sprintf(format: &str, args: &[Value]) -> String {
    let mut out = String::new();
    let mut args = args.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let (mut left, mut zero, mut plus, mut sharp) = (false, false, false, false);
        while let Some(flag) = chars.next_if(|c| matches!(c, '-' | '0' | '+' | '#' | ' ')) {
            left |= flag == '-';
            zero |= flag == '0';
            plus |= flag == '+';
            sharp |= flag == '#';
        }
        let mut digits = || {
            let mut number = None;
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                number = Some((number.unwrap_or(0) * 10 + digit.to_digit(10).unwrap_or(0) as usize).min(4096));
            }
            number
        };
        let width = digits().unwrap_or(0);
        let precision = if chars.next_if_eq(&'.').is_some() {
            let mut number = 0;
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                number = (number * 10 + digit.to_digit(10).unwrap_or(0) as usize).min(4096);
            }
            Some(number)
        } else {
            None
        };
        let Some(verb) = chars.next() else {
            out.push_str("%!(NOVERB)");
            break;
        };
        if verb == '%' {
            out.push('%');
            continue;
        }
        let Some(value) = args.next() else {
            out.push_str(&format!("%!{verb}(MISSING)"));
            continue;
        };
        let cell = formatted(verb, value, precision, plus, sharp);
        let fill = width.saturating_sub(cell.chars().count());
        match () {
            () if left => out.extend(cell.chars().chain(std::iter::repeat_n(' ', fill))),
            () if zero && matches!(value, Value::Int(_) | Value::Float(_)) => {
                let (sign, number) = match cell.strip_prefix(['-', '+']) {
                    Some(number) => (&cell[..1], number),
                    None => ("", cell.as_str()),
                };
                out.push_str(sign);
                out.extend(std::iter::repeat_n('0', fill));
                out.push_str(number);
            }
            () => out.extend(std::iter::repeat_n(' ', fill).chain(cell.chars())),
        }
    }
    let extra: Vec<_> = args.map(|value| format!("{}={}", kind(value), value.to_text())).collect();
    if !extra.is_empty() {
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    out
}

fn formatted(verb: char, value: &Value, precision: Option<usize>, plus: bool, sharp: bool) -> String {
    let cut = |text: String| match precision {
        Some(length) => text.chars().take(length).collect(),
        None => text,
    };
    match (verb, value) {
        ('v' | 's', Value::Nil | Value::NilPointer) => {
            if verb == 'v' {
                "<nil>".to_owned()
            } else {
                "%!s(<nil>)".to_owned()
            }
        }
        ('v', Value::Str(text)) if sharp => go_quoted(text),
        ('v', Value::Float(number)) => number.to_string(),
        ('v', value) => value.to_text(),
        ('d', Value::Int(number)) if plus => format!("{number:+}"),
        ('d', Value::Int(number)) => number.to_string(),
        ('s', value @ (Value::Int(_) | Value::Float(_) | Value::Bool(_))) => {
            format!("%!s({}={})", kind(value), value.to_text())
        }
        ('s', value) => cut(value.to_text()),
        ('q', Value::Str(text)) => go_quoted(&cut(text.clone())),
        ('q', Value::List(list)) => {
            let words: Vec<_> = list.iter().map(|value| formatted('q', value, precision, plus, sharp)).collect();
            format!("[{}]", words.join(" "))
        }
        ('t', Value::Bool(value)) => value.to_string(),
        ('x', Value::Int(number)) => format!("{number:x}"),
        ('x', Value::Str(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
        ('X', Value::Int(number)) => format!("{number:X}"),
        ('o', Value::Int(number)) => format!("{number:o}"),
        ('b', Value::Int(number)) => format!("{number:b}"),
        ('c', Value::Int(number)) => {
            u32::try_from(*number).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER).to_string()
        }
        ('f' | 'F', Value::Float(number)) => format!("{number:.*}", precision.unwrap_or(6)),
        ('g', Value::Float(number)) => number.to_string(),
        ('T', value) => kind(value).to_owned(),
        (verb, value) => format!("%!{verb}({}={})", kind(value), value.to_text()),
    }
}

fn go_quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if u32::from(c) < 0x80 && c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn html(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

fn url_query(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn title(text: &str) -> String {
    let mut out = String::new();
    let mut start = true;
    for c in text.chars() {
        if start {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
        start = !c.is_alphanumeric() && c != '_' && c != '\'';
    }
    out
}
