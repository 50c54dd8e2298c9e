//! Bake files as one document: HCL and JSON say the same, and their expressions are replaced by what they come to. A
//! compose file is a document of its own ([`super::compose`]).

use std::collections::{BTreeMap, BTreeSet};

use hcl::expr::{ObjectKey, TemplateExpr};
use hcl::{Body, Expression, Structure, Value as HclValue};
use serde_json::{Map, Value, json};

use super::compose;
use super::expression::{Function, Scope};

/// A block, as it is written.
struct Block {
    kind: String,
    name: String,
    attributes: Vec<(String, Expression)>,
}

/// Reads files, in order, and gives a document of each: targets and groups without expressions.
pub(super) fn read(
    sources: &[(String, String)],
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<(String, Value)>, String> {
    let mut files: Vec<(String, Result<Vec<Block>, Value>)> = Vec::new();
    for (name, text) in sources {
        let blocks = match form(name, text) {
            Form::Json => Ok(json_blocks(name, text)?),
            Form::Hcl => Ok(hcl_blocks(name, text)?),
            Form::Compose => Err(compose::document(text, environment).map_err(|error| format!("{name}: {error}"))?),
        };
        files.push((name.clone(), blocks));
    }
    let scope = scope(&files, environment)?;
    let evaluated = files.into_iter().map(|(name, blocks)| {
        let document = match blocks {
            Ok(blocks) => document(&blocks, &scope).map_err(|error| format!("{name}: {error}"))?,
            Err(document) => document,
        };
        Ok((name, document))
    });
    evaluated.collect()
}

enum Form {
    Json,
    Hcl,
    Compose,
}

fn form(name: &str, text: &str) -> Form {
    let is_yaml = name.ends_with(".yml") || name.ends_with(".yaml");
    match text.trim_start().starts_with('{') {
        true if !is_yaml => Form::Json,
        _ if is_yaml => Form::Compose,
        _ => Form::Hcl,
    }
}

fn hcl_blocks(name: &str, text: &str) -> Result<Vec<Block>, String> {
    let body: Body = hcl::parse(text).map_err(|error| located(name, &error))?;
    let mut blocks = Vec::new();
    for structure in body {
        match structure {
            Structure::Attribute(attribute) => {
                // A variable in short.
                let attributes = vec![("default".to_owned(), attribute.expr)];
                blocks.push(Block { kind: "variable".to_owned(), name: attribute.key.to_string(), attributes });
            }
            Structure::Block(block) => {
                let kind = block.identifier.to_string();
                let [label] = block.labels.as_slice() else {
                    return Err(format!("{name}: block {kind}: expected one name"));
                };
                let mut attributes = Vec::new();
                for inner in block.body {
                    match inner {
                        Structure::Attribute(attribute) => {
                            attributes.push((attribute.key.to_string(), attribute.expr));
                        }
                        // What a value has to be like is for whoever wrote the file.
                        Structure::Block(inner) if inner.identifier.as_str() == "validation" => {}
                        Structure::Block(inner) => {
                            return Err(format!(
                                "{name}: {kind} {}: unknown block {}",
                                label.as_str(),
                                inner.identifier
                            ));
                        }
                    }
                }
                blocks.push(Block { kind, name: label.as_str().to_owned(), attributes });
            }
        }
    }
    Ok(blocks)
}

fn located(name: &str, error: &hcl::Error) -> String {
    let text = error.to_string();
    match error {
        hcl::Error::Parse(error) => {
            let at = error.location();
            format!("{name}:{}:{}: {}", at.line(), at.column(), error.message())
        }
        _ => format!("{name}: {}", text.lines().next().unwrap_or_default()),
    }
}

fn json_blocks(name: &str, text: &str) -> Result<Vec<Block>, String> {
    let document: Value =
        serde_json::from_str(text).map_err(|error| format!("{name}:{}:{}: {error}", error.line(), error.column()))?;
    let Value::Object(document) = document else { return Err(format!("{name}: expected an object")) };
    let mut blocks = Vec::new();
    for (kind, entries) in document {
        let Value::Object(entries) = entries else { continue };
        for (label, definition) in entries {
            let Value::Object(definition) = definition else {
                return Err(format!("{name}: {kind} {label}: expected an object"));
            };
            let attributes = definition.into_iter().map(|(key, value)| (key, expression(value))).collect();
            blocks.push(Block { kind: kind.clone(), name: label, attributes });
        }
    }
    Ok(blocks)
}

/// A value of JSON: its strings may have expressions.
fn expression(value: Value) -> Expression {
    match value {
        Value::Null => Expression::Null,
        Value::Bool(truth) => Expression::Bool(truth),
        Value::Number(number) => {
            let float = || number.as_f64().and_then(hcl::Number::from_f64);
            let whole = number.as_i64().map(hcl::Number::from);
            whole.or_else(float).map_or(Expression::Null, Expression::Number)
        }
        Value::String(text) if text.contains("${") || text.contains("%{") => {
            Expression::TemplateExpr(Box::new(TemplateExpr::QuotedString(text)))
        }
        Value::String(text) => Expression::String(text),
        Value::Array(items) => Expression::Array(items.into_iter().map(expression).collect()),
        Value::Object(entries) => {
            let entries = entries.into_iter();
            let pair = |(name, value)| (ObjectKey::Expression(Expression::String(name)), expression(value));
            Expression::Object(entries.map(pair).collect())
        }
    }
}

/// The variables and functions of all files: a later default hides an earlier one, the environment both.
fn scope(
    files: &[(String, Result<Vec<Block>, Value>)],
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Scope, String> {
    let blocks = || files.iter().filter_map(|(name, blocks)| Some((name, blocks.as_ref().ok()?)));
    let blocks = || blocks().flat_map(|(name, blocks)| blocks.iter().map(move |block| (name, block)));
    let mut scope = Scope::default();
    for (name, block) in blocks().filter(|(_, block)| block.kind == "function") {
        let function = function(block).map_err(|error| format!("{name}: function {}: {error}", block.name))?;
        scope.functions.retain(|known| known.name != function.name);
        scope.functions.push(function);
    }
    let mut defaults: BTreeMap<&str, (&str, Option<&Expression>)> = BTreeMap::new();
    for (name, block) in blocks().filter(|(_, block)| block.kind == "variable") {
        let default = attribute(block, "default");
        if default.is_some() || !defaults.contains_key(block.name.as_str()) {
            defaults.insert(&block.name, (name, default));
        }
    }
    // One may need another, in whatever order they stand.
    let mut missing: BTreeSet<&str> = defaults.keys().copied().collect();
    while !missing.is_empty() {
        let (before, mut why) = (missing.len(), String::new());
        for (variable, (name, default)) in &defaults {
            if !missing.contains(variable) {
                continue;
            }
            match default.map_or(Ok(HclValue::Null), |default| scope.evaluate(default)) {
                Ok(value) => {
                    let value = environment(variable).map_or(Ok(value.clone()), |text| typed(&text, &value));
                    let value = value.map_err(|error| format!("{name}: variable {variable}: {error}"))?;
                    scope.variables.insert((*variable).to_owned(), value);
                    missing.remove(variable);
                }
                Err(error) => why = format!("{name}: variable {variable}: {error}"),
            }
        }
        if missing.len() == before {
            return Err(why);
        }
    }
    Ok(scope)
}

fn attribute<'a>(block: &'a Block, name: &str) -> Option<&'a Expression> {
    block.attributes.iter().find(|(key, _)| key == name).map(|(_, expression)| expression)
}

/// What the environment says, as what the default is.
fn typed(text: &str, default: &HclValue) -> Result<HclValue, String> {
    match default {
        HclValue::Bool(_) => match text {
            "1" | "true" => Ok(true.into()),
            "0" | "false" => Ok(false.into()),
            _ => Err(format!("{text:?} in the environment is neither true nor false")),
        },
        HclValue::Number(_) => {
            text.parse::<i64>().map(HclValue::from).map_err(|_| format!("{text:?} in the environment is not a number"))
        }
        HclValue::Array(_) => Ok(text.split(',').map(HclValue::from).collect::<Vec<_>>().into()),
        _ => Ok(text.into()),
    }
}

fn function(block: &Block) -> Result<Function, String> {
    let names = |key: &str| -> Result<Vec<String>, String> {
        let name = |item: &Expression| match item {
            Expression::Variable(variable) => Ok(variable.to_string()),
            Expression::String(text) => Ok(text.clone()),
            _ => Err(format!("{key}: expected names")),
        };
        match attribute(block, key) {
            None => Ok(Vec::new()),
            Some(Expression::Array(items)) => items.iter().map(name).collect(),
            Some(one) => name(one).map(|name| vec![name]),
        }
    };
    let result = attribute(block, "result").ok_or("result is missing")?.clone();
    Ok(Function {
        name: block.name.clone(),
        params: names("params")?,
        variadic: names("variadic_params")?.into_iter().next(),
        result,
    })
}

fn document(blocks: &[Block], scope: &Scope) -> Result<Value, String> {
    let (mut targets, mut groups) = (Map::new(), Map::new());
    for block in blocks {
        let failed = |error: String| format!("{} {}: {error}", block.kind, block.name);
        match block.kind.as_str() {
            "target" => {
                let made = expanded(block, scope).map_err(failed)?;
                if made.len() > 1 || made.first().is_some_and(|(name, _)| *name != block.name) {
                    // The name of a matrix is that of all it stands for.
                    let names: Vec<&str> = made.iter().map(|(name, _)| name.as_str()).collect();
                    groups.insert(block.name.clone(), json!({ "targets": names }));
                }
                targets.extend(made);
            }
            "group" => drop(groups.insert(block.name.clone(), attributes(block, scope).map_err(failed)?)),
            "variable" | "function" => {}
            other => return Err(format!("unknown block {other:?}: expected target, group, variable or function")),
        }
    }
    Ok(json!({ "target": targets, "group": groups }))
}

fn attributes(block: &Block, scope: &Scope) -> Result<Value, String> {
    let mut all = Map::new();
    for (key, expression) in &block.attributes {
        if key == "matrix" || key == "name" {
            continue;
        }
        let value = scope.evaluate(expression).map_err(|error| format!("{key}: {error}"))?;
        all.insert(key.clone(), serde_json::to_value(&value).map_err(|error| format!("{key}: {error}"))?);
    }
    Ok(Value::Object(all))
}

/// A target; of a matrix one for each combination of its values.
fn expanded(block: &Block, scope: &Scope) -> Result<Vec<(String, Value)>, String> {
    let Some(matrix) = attribute(block, "matrix") else {
        return Ok(vec![(block.name.clone(), attributes(block, scope)?)]);
    };
    let name = attribute(block, "name").ok_or("matrix: name is missing, which tells its targets apart")?;
    let matrix = scope.evaluate(matrix).map_err(|error| format!("matrix: {error}"))?;
    let axes = matrix.as_object().filter(|axes| !axes.is_empty()).ok_or("matrix: expected an object of lists")?;
    let mut combinations: Vec<Vec<(String, HclValue)>> = vec![Vec::new()];
    for (axis, values) in axes {
        let values = values.as_array().ok_or_else(|| format!("matrix: {axis}: expected a list"))?;
        let with = |combination: &Vec<(String, HclValue)>, value: &HclValue| {
            let mut longer = combination.clone();
            longer.push((axis.clone(), value.clone()));
            longer
        };
        combinations = combinations.iter().flat_map(|one| values.iter().map(move |value| with(one, value))).collect();
    }
    let mut made: Vec<(String, Value)> = Vec::new();
    for combination in combinations {
        let scope = scope.with(combination);
        let name = scope.evaluate(name).map_err(|error| format!("name: {error}"))?;
        let name = name.as_str().ok_or("name: expected a string")?.to_owned();
        if made.iter().any(|(known, _)| *known == name) {
            return Err(format!("matrix: two of its targets are called {name:?}"));
        }
        made.push((name, attributes(block, &scope)?));
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HCL: &str = r#"
        variable "TAG" { default = "1" }
        variable "FULL" { default = "${REGISTRY}/app" }
        variable "REGISTRY" { default = "r.example" }
        variable "DEBUG" {
          default = false
          validation { condition = true }
        }
        variable "UNSET" {}
        function "tag" {
          params = [name]
          result = "${FULL}:${name}"
        }
        group "default" { targets = ["app", "all"] }
        target "app" {
          context = "./app"
          args = { MODE = DEBUG ? "debug" : "release", NONE = UNSET }
          tags = [tag(TAG)]
        }
        target "all" {
          name = "all-${os}-${replace(version, ".", "-")}"
          matrix = { os = ["a", "b"], version = ["1.0", "2.0"] }
          inherits = ["app"]
          args = { OS = os, VERSION = version }
        }
    "#;

    #[test]
    fn hcl_comes_to_what_json_says() {
        let environment = |name: &str| match name {
            "TAG" => Some("7".to_owned()),
            "DEBUG" => Some("1".to_owned()),
            _ => None,
        };
        let documents = read(&[("docker-bake.hcl".to_owned(), HCL.to_owned())], &environment).expect("a file");
        let document = &documents[0].1;
        let app = json!({
            "context": "./app", "args": { "MODE": "debug", "NONE": null }, "tags": ["r.example/app:7"],
        });
        assert_eq!(document["target"]["app"], app);
        let names = json!(["all-a-1-0", "all-a-2-0", "all-b-1-0", "all-b-2-0"]);
        assert_eq!(document["group"]["all"]["targets"], names);
        let one = json!({ "inherits": ["app"], "args": { "OS": "b", "VERSION": "2.0" } });
        assert_eq!(document["target"]["all-b-2-0"], one);
        let json = r#"{"variable": {"A": {"default": "x"}}, "target": {"t": {"tags": ["${upper(A)}", "$${A}", "%"]}}}"#;
        let documents = read(&[("-".to_owned(), json.to_owned())], &environment).expect("a file");
        assert_eq!(documents[0].1["target"]["t"]["tags"], json!(["X", "${A}", "%"]));
    }

    #[test]
    fn what_is_wrong_with_a_definition() {
        for (text, wanted) in [
            ("target \"a\" {", "f:1:"),
            ("target { }", "expected one name"),
            ("target \"a\" { matrix = { x = [] } }", "name is missing"),
            ("target \"a\" {\n name = \"b\"\n matrix = { x = [1, 2] }\n}", "two of its targets"),
            ("variable \"A\" { default = B }\nvariable \"B\" { default = A }", "variable"),
            ("target \"a\" { tags = [nope(1)] }", "nope"),
            ("other \"a\" {}", "unknown block"),
            ("function \"f\" { params = [] }", "result is missing"),
        ] {
            let error = read(&[("f".to_owned(), text.to_owned())], &|_| None).expect_err(text);
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
