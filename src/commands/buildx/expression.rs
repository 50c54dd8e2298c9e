//! The expressions of bake files: what a block says, once variables and functions are known. HCL's own syntax is the
//! crate's; here are the functions that docker documents for bake, and those that a file defines.

use std::cell::RefCell;
use std::collections::BTreeMap;

use hcl::eval::{Context, Evaluate, FuncArgs, FuncDef, ParamType};
use hcl::{Expression, Value};

use super::pattern;

/// A function of a file.
#[derive(Debug, Clone)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) params: Vec<String>,
    /// What takes the arguments that are left.
    pub(super) variadic: Option<String>,
    pub(super) result: Expression,
}

/// What is known where an expression stands.
#[derive(Debug, Clone, Default)]
pub(super) struct Scope {
    pub(super) variables: BTreeMap<String, Value>,
    pub(super) functions: Vec<Function>,
}

thread_local! {
    /// The scope of the evaluation that goes on: functions are called by plain pointers.
    static SCOPE: RefCell<Scope> = RefCell::default();
}

/// How many functions a file may define.
const MAX_FUNCTIONS: usize = 16;

/// How deep functions may call each other.
const MAX_DEPTH: usize = 64;

impl Scope {
    /// The value of an expression.
    pub(super) fn evaluate(&self, expression: &Expression) -> Result<Value, String> {
        if self.functions.len() > MAX_FUNCTIONS {
            return Err(format!("more than {MAX_FUNCTIONS} functions are defined"));
        }
        let outer = SCOPE.replace(self.clone());
        let value = self
            .attempted(expression)
            .and_then(|expression| expression.evaluate(&self.context()).map_err(|error| one_line(&error.to_string())));
        SCOPE.replace(outer);
        value
    }

    fn context(&self) -> Context<'static> {
        let mut context = Context::new();
        for (name, function) in KNOWN {
            context.declare_func(*name, FuncDef::builder().variadic_param(ParamType::Any).build(*function));
        }
        for (function, slot) in self.functions.iter().zip(SLOTS) {
            let definition = FuncDef::builder().variadic_param(ParamType::Any).build(slot);
            context.declare_func(function.name.as_str(), definition);
        }
        for (name, value) in &self.variables {
            context.declare_var(name.as_str(), value.clone());
        }
        context
    }

    /// The same, and these variables besides.
    pub(super) fn with(&self, more: impl IntoIterator<Item = (String, Value)>) -> Scope {
        let mut scope = self.clone();
        scope.variables.extend(more);
        scope
    }
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

type Call = fn(FuncArgs) -> Result<Value, String>;

/// One pointer for each function of a file.
const SLOTS: [Call; MAX_FUNCTIONS] = [
    own::<0>, own::<1>, own::<2>, own::<3>, own::<4>, own::<5>, own::<6>, own::<7>, own::<8>, own::<9>, own::<10>,
    own::<11>, own::<12>, own::<13>, own::<14>, own::<15>,
];

fn own<const NUMBER: usize>(args: FuncArgs) -> Result<Value, String> {
    let scope = SCOPE.with_borrow(Clone::clone);
    let function = scope.functions.get(NUMBER).cloned().ok_or("no such function")?;
    let mut args = args.into_values();
    let expected = function.params.len();
    if args.len() < expected || args.len() > expected && function.variadic.is_none() {
        return Err(format!("expected {expected} arguments, not {}", args.len()));
    }
    let depth = match scope.variables.get(DEPTH) {
        Some(Value::Number(depth)) => depth.as_u64().unwrap_or(0) + 1,
        _ => 1,
    };
    if depth > MAX_DEPTH as u64 {
        return Err(format!("functions call each other more than {MAX_DEPTH} deep"));
    }
    let rest = args.split_off(expected);
    let rest = function.variadic.map(|name| (name, Value::Array(rest)));
    let depth = (DEPTH.to_owned(), Value::from(depth));
    scope.with(function.params.into_iter().zip(args).chain(rest).chain([depth])).evaluate(&function.result)
}

/// No name of a file can be this one.
const DEPTH: &str = "functions called";

/// Where [`Scope::attempted`] does not come to.
const NOT_HERE: &str = "can() takes one argument, and is not known in a for expression";

/// The functions that are there anyway.
const KNOWN: &[(&str, Call)] = &[
    ("add", |args| number(float(&args, 0)? + float(&args, 1)?)),
    ("and", |args| Ok((truth(&args, 0)? && truth(&args, 1)?).into())),
    ("base64encode", |args| {
        use base64::Engine;
        Ok(base64::engine::general_purpose::STANDARD.encode(text(&args, 0)?).into())
    }),
    ("basename", |args| {
        Ok(text(&args, 0)?.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned().into())
    }),
    ("can", |_| Err(NOT_HERE.to_owned())),
    ("chomp", |args| Ok(text(&args, 0)?.trim_end_matches(['\n', '\r']).to_owned().into())),
    ("coalesce", |args| {
        let found = args.iter().find(|value| !value.is_null() && value.as_str() != Some(""));
        found.cloned().ok_or_else(|| "all arguments are null".to_owned())
    }),
    ("compact", |args| {
        Ok(Value::Array(list(&args, 0)?.iter().filter(|item| item.as_str() != Some("")).cloned().collect()))
    }),
    ("concat", |args| {
        let mut all = Vec::new();
        for at in 0..args.len() {
            all.extend_from_slice(list(&args, at)?);
        }
        Ok(Value::Array(all))
    }),
    ("contains", |args| Ok(list(&args, 0)?.contains(argument(&args, 1)?).into())),
    ("dirname", |args| {
        let path = text(&args, 0)?;
        Ok(path.rsplit_once('/').map_or(".", |(above, _)| if above.is_empty() { "/" } else { above }).to_owned().into())
    }),
    ("distinct", |args| {
        let mut seen: Vec<Value> = Vec::new();
        for item in list(&args, 0)? {
            if !seen.contains(item) {
                seen.push(item.clone());
            }
        }
        Ok(Value::Array(seen))
    }),
    ("divide", |args| number(float(&args, 0)? / float(&args, 1)?)),
    ("element", |args| {
        let (list, at) = (list(&args, 0)?, float(&args, 1)? as usize);
        let at = at.checked_rem(list.len()).ok_or("the list is empty")?;
        list.get(at).cloned().ok_or_else(|| "no such element".to_owned())
    }),
    ("equal", |args| Ok((argument(&args, 0)? == argument(&args, 1)?).into())),
    ("flatten", |args| Ok(Value::Array(flat(list(&args, 0)?)))),
    ("format", |args| formatted(&args).map(Value::from)),
    ("greaterthan", |args| Ok((float(&args, 0)? > float(&args, 1)?).into())),
    ("indexof", |args| {
        let at = list(&args, 0)?.iter().position(|item| Some(item) == args.get(1));
        at.map(Value::from).ok_or_else(|| "no such element".to_owned())
    }),
    ("int", |args| number(float(&args, 0)?.trunc())),
    ("join", |args| {
        let mut parts = Vec::new();
        for at in 1..args.len() {
            parts.extend(list(&args, at)?.iter().map(shown).collect::<Result<Vec<_>, _>>()?);
        }
        Ok(parts.join(&text(&args, 0)?).into())
    }),
    ("jsonencode", |args| {
        serde_json::to_string(argument(&args, 0)?).map(Value::from).map_err(|error| error.to_string())
    }),
    ("keys", |args| Ok(Value::Array(object(&args, 0)?.keys().cloned().map(Value::from).collect()))),
    ("length", |args| match argument(&args, 0)? {
        Value::Array(items) => Ok(items.len().into()),
        Value::Object(entries) => Ok(entries.len().into()),
        other => Ok(shown(other)?.chars().count().into()),
    }),
    ("lessthan", |args| Ok((float(&args, 0)? < float(&args, 1)?).into())),
    ("lookup", |args| Ok(object(&args, 0)?.get(&text(&args, 1)?).or(args.get(2)).cloned().unwrap_or(Value::Null))),
    ("lower", |args| Ok(text(&args, 0)?.to_lowercase().into())),
    ("max", |args| number(floats(&args)?.into_iter().fold(f64::NEG_INFINITY, f64::max))),
    ("merge", |args| {
        let mut all = hcl::Map::new();
        for at in 0..args.len() {
            all.extend(object(&args, at)?.clone());
        }
        Ok(Value::Object(all))
    }),
    ("min", |args| number(floats(&args)?.into_iter().fold(f64::INFINITY, f64::min))),
    ("modulo", |args| number(float(&args, 0)? % float(&args, 1)?)),
    ("multiply", |args| number(float(&args, 0)? * float(&args, 1)?)),
    ("not", |args| Ok((!truth(&args, 0)?).into())),
    ("notequal", |args| Ok((argument(&args, 0)? != argument(&args, 1)?).into())),
    ("or", |args| Ok((truth(&args, 0)? || truth(&args, 1)?).into())),
    ("range", |args| {
        let (first, end) = match args.len() {
            1 => (0.0, float(&args, 0)?),
            _ => (float(&args, 0)?, float(&args, 1)?),
        };
        let (first, end) = (first as i64, end as i64);
        Ok(Value::Array((first..end.min(first.saturating_add(1024))).map(Value::from).collect()))
    }),
    ("regex", |args| pattern::first(&text(&args, 0)?, &text(&args, 1)?)),
    ("regex_replace", |args| pattern::replaced(&text(&args, 0)?, &text(&args, 1)?, &text(&args, 2)?)),
    ("regexall", |args| pattern::all(&text(&args, 0)?, &text(&args, 1)?)),
    ("regexreplace", |args| pattern::replaced(&text(&args, 0)?, &text(&args, 1)?, &text(&args, 2)?)),
    ("replace", |args| Ok(text(&args, 0)?.replace(&text(&args, 1)?, &text(&args, 2)?).into())),
    ("reverselist", |args| Ok(Value::Array(list(&args, 0)?.iter().rev().cloned().collect()))),
    ("sanitize", |args| {
        let is_kept = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        Ok(text(&args, 0)?.replace(|c: char| !is_kept(c), "_").into())
    }),
    ("sort", |args| {
        let mut items = list(&args, 0)?.iter().map(shown).collect::<Result<Vec<_>, _>>()?;
        items.sort();
        Ok(items.into())
    }),
    ("split", |args| Ok(text(&args, 1)?.split(&text(&args, 0)?).map(Value::from).collect::<Vec<_>>().into())),
    ("strlen", |args| Ok(text(&args, 0)?.chars().count().into())),
    ("substr", |args| {
        let (text, from, count) = (text(&args, 0)?, float(&args, 1)? as i64, float(&args, 2)? as i64);
        let len = text.chars().count() as i64;
        let from = if from < 0 { (len + from).max(0) } else { from };
        let count = if count < 0 { len } else { count };
        Ok(text.chars().skip(from as usize).take(count as usize).collect::<String>().into())
    }),
    ("subtract", |args| number(float(&args, 0)? - float(&args, 1)?)),
    ("timestamp", |_| Ok(jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into())),
    ("title", |args| {
        let mut begins = true;
        let title = text(&args, 0)?
            .chars()
            .flat_map(|c| {
                let shown: Vec<char> = if begins { c.to_uppercase().collect() } else { vec![c] };
                begins = c.is_whitespace();
                shown
            })
            .collect::<String>();
        Ok(title.into())
    }),
    ("trim", |args| {
        let set: Vec<char> = text(&args, 1)?.chars().collect();
        Ok(text(&args, 0)?.trim_matches(set.as_slice()).to_owned().into())
    }),
    ("trimprefix", |args| {
        let (text, prefix) = (text(&args, 0)?, text(&args, 1)?);
        Ok(text.strip_prefix(&prefix).unwrap_or(&text).to_owned().into())
    }),
    ("trimspace", |args| Ok(text(&args, 0)?.trim().to_owned().into())),
    ("try", |_| Err("no call to function \"try\" succeeded here".to_owned())),
    ("trimsuffix", |args| {
        let (text, suffix) = (text(&args, 0)?, text(&args, 1)?);
        Ok(text.strip_suffix(&suffix).unwrap_or(&text).to_owned().into())
    }),
    ("upper", |args| Ok(text(&args, 0)?.to_uppercase().into())),
    ("values", |args| Ok(Value::Array(object(&args, 0)?.values().cloned().collect()))),
];

fn argument(args: &FuncArgs, at: usize) -> Result<&Value, String> {
    args.get(at).ok_or_else(|| format!("argument {} is missing", at + 1))
}

fn shown(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(truth) => Ok(truth.to_string()),
        Value::Null => Err("null is no string".to_owned()),
        Value::Array(_) | Value::Object(_) => Err("expected a string".to_owned()),
    }
}

fn text(args: &FuncArgs, at: usize) -> Result<String, String> {
    shown(argument(args, at)?)
}

fn float(args: &FuncArgs, at: usize) -> Result<f64, String> {
    let value = argument(args, at)?;
    let number = value.as_f64().or_else(|| value.as_str()?.parse().ok());
    number.ok_or_else(|| "expected a number".to_owned())
}

fn floats(args: &FuncArgs) -> Result<Vec<f64>, String> {
    (0..args.len()).map(|at| float(args, at)).collect()
}

fn number(value: f64) -> Result<Value, String> {
    if value.fract() == 0.0 && value.abs() < 9e15 {
        return Ok((value as i64).into());
    }
    hcl::Number::from_f64(value).map(Value::Number).ok_or_else(|| "not a number".to_owned())
}

fn truth(args: &FuncArgs, at: usize) -> Result<bool, String> {
    match argument(args, at)? {
        Value::Bool(truth) => Ok(*truth),
        Value::String(text) if text == "true" => Ok(true),
        Value::String(text) if text == "false" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

fn list(args: &FuncArgs, at: usize) -> Result<&Vec<Value>, String> {
    argument(args, at)?.as_array().ok_or_else(|| "expected a list".to_owned())
}

fn object(args: &FuncArgs, at: usize) -> Result<&hcl::Map<String, Value>, String> {
    argument(args, at)?.as_object().ok_or_else(|| "expected an object".to_owned())
}

fn flat(items: &[Value]) -> Vec<Value> {
    let inner = |item: &Value| match item {
        Value::Array(items) => flat(items),
        item => vec![item.clone()],
    };
    items.iter().flat_map(inner).collect()
}

/// `%s`, `%d`, `%v`, `%q` and `%%`.
fn formatted(args: &FuncArgs) -> Result<String, String> {
    let format = text(args, 0)?;
    let (mut out, mut next, mut chars) = (String::new(), 1, format.chars());
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('%') => out.push('%'),
            Some(verb @ ('s' | 'd' | 'v' | 'q')) => {
                let value = text(args, next)?;
                out.push_str(&if verb == 'q' { format!("{value:?}") } else { value });
                next += 1;
            }
            Some(other) => return Err(format!("%{other} is not supported: expected %s, %d, %v or %q")),
            None => return Err("the format ends with %".to_owned()),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluated(text: &str) -> Result<String, String> {
        let result = |text: &str| text.parse::<Expression>().expect("an expression");
        let function = |name: &str, params: &[&str], variadic: Option<&str>, text: &str| Function {
            name: name.to_owned(),
            params: params.iter().map(ToString::to_string).collect(),
            variadic: variadic.map(ToOwned::to_owned),
            result: result(text),
        };
        let scope = Scope {
            variables: [("TAG".to_owned(), Value::from("1.2"))].into(),
            functions: vec![
                function("tag", &["name"], None, r#""${name}:${TAG}""#),
                function("tags", &["prefix"], Some("rest"), r#"[for one in rest : tag("${prefix}/${one}")]"#),
                function("loops", &[], None, "loops()"),
            ],
        };
        let value = scope.evaluate(&text.parse::<Expression>().map_err(|error| error.to_string())?)?;
        serde_json::to_string(&value).map_err(|error| error.to_string())
    }

    #[test]
    fn expressions_have_the_functions_of_bake_and_their_own() {
        for (text, wanted) in [
            (r#""${TAG}-x""#, r#""1.2-x""#),
            (r#"TAG == "1.2" ? ["a"] : []"#, r#"["a"]"#),
            (r#"tags("r", "a", "b")"#, r#"["r/a:1.2","r/b:1.2"]"#),
            (r#"upper(trimprefix("v1a", "v"))"#, r#""1A""#),
            (r#"join("-", split(".", TAG))"#, r#""1-2""#),
            ("add(1, multiply(2, 3))", "7"),
            ("divide(1, 4)", "0.25"),
            (r#"concat(["a"], compact(["", "b"]))"#, r#"["a","b"]"#),
            (r#"merge({a = 1}, {b = 2})"#, r#"{"a":1,"b":2}"#),
            (r#"format("%s-%d%%", "a", 3)"#, r#""a-3%""#),
            (r#"and(contains(["a"], "a"), notequal("a", "b"))"#, "true"),
            (r#"lookup({a = "1"}, "b", "none")"#, r#""none""#),
            (r#"substr("hello", 1, 3)"#, r#""ell""#),
            (r#"sanitize("a/b:c")"#, r#""a_b_c""#),
            (r#"coalesce("", "b")"#, r#""b""#),
            ("length([1, 2])", "2"),
            (r#"try(NONE, lookup({}, "a", "b"))"#, r#""b""#),
            (r#"upper("${try(NONE, TAG)}-a")"#, r#""1.2-A""#),
            (r#"can(NONE) ? "yes" : "no""#, r#""no""#),
            (r#"[can(upper("a")), can(upper([]))]"#, "[true,false]"),
            (r#"{a = try(none(), "c")}"#, r#"{"a":"c"}"#),
            (r#"regex("[0-9]+", "a12b3")"#, r#""12""#),
            (r#"regex("([a-z])([0-9]+)", "a12b3")"#, r#"["a","12"]"#),
            (r#"regex("(?P<word>[a-z])", "a1")"#, r#"{"word":"a"}"#),
            (r#"regexall("[0-9]+", "a12b3")"#, r#"["12","3"]"#),
            (r#"regex_replace("v1.2", "v([0-9])", "$1")"#, r#""1.2""#),
            (r#"try(regex("x", "a"), "none")"#, r#""none""#),
        ] {
            assert_eq!(evaluated(text).expect(text), wanted, "{text}");
        }
        for (text, wanted) in [
            ("NONE", "NONE"),
            ("none()", "none"),
            ("tag()", "expected 1 arguments"),
            ("loops()", "deep"),
            (r#"format("%x", 1)"#, "%x"),
            ("divide(1, 0)", "not a number"),
            (r#"regex("(", "a")"#, "unclosed group"),
            (r#"regex("x", "a")"#, "did not match"),
            ("try(NONE)", "NONE"),
        ] {
            let error = evaluated(text).expect_err(text);
            assert!(error.contains(wanted) && !error.contains('\n'), "{text}: {error}");
        }
    }
}
