//! Compose files as bake reads them: a target for each service that has something to build.

use serde_json::{Map, Value, json};

/// The document of a compose file.
pub(super) fn document(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<Value, String> {
    let mut file: Value = serde_saphyr::from_str(text)
        .map_err(|error| error.to_string().lines().next().unwrap_or("not YAML").to_owned())?;
    interpolate(&mut file, environment)?;
    let services = file.get("services").and_then(Value::as_object).ok_or("there are no services")?;
    let mut targets = Map::new();
    for (name, service) in services {
        if let Some(build) = service.get("build").filter(|build| !build.is_null()) {
            let target = target(service, build).map_err(|error| format!("service {name}: {error}"))?;
            targets.insert(name.clone(), Value::Object(target));
        }
    }
    let names: Vec<&String> = targets.keys().collect();
    Ok(json!({ "group": { "default": { "targets": names } }, "target": targets }))
}

fn target(service: &Value, build: &Value) -> Result<Map<String, Value>, String> {
    let mut target = Map::new();
    let mut tags: Vec<Value> = service.get("image").cloned().into_iter().collect();
    match build {
        Value::String(context) => drop(target.insert("context".to_owned(), json!(context))),
        Value::Object(build) => {
            for (key, value) in build {
                let (key, value) = match key.as_str() {
                    "context" | "dockerfile" | "target" | "network" | "pull" | "platforms" => {
                        (key.as_str(), value.clone())
                    }
                    "dockerfile_inline" => ("dockerfile-inline", value.clone()),
                    "no_cache" => ("no-cache", value.clone()),
                    "shm_size" => ("shm-size", value.clone()),
                    "cache_from" => ("cache-from", value.clone()),
                    "cache_to" => ("cache-to", value.clone()),
                    "ssh" => ("ssh", value.clone()),
                    "args" => ("args", pairs(value, key, '=')?),
                    "labels" => ("labels", pairs(value, key, '=')?),
                    "additional_contexts" => ("contexts", pairs(value, key, '=')?),
                    "extra_hosts" => ("extra-hosts", pairs(value, key, if has(value, '=') { '=' } else { ':' })?),
                    "tags" => {
                        tags.extend(value.as_array().cloned().unwrap_or_default());
                        continue;
                    }
                    "provenance" | "sbom" if matches!(value, Value::Bool(false)) => continue,
                    // What only bake is told.
                    "x-bake" => {
                        target.extend(value.as_object().cloned().unwrap_or_default());
                        continue;
                    }
                    other if other.starts_with("x-") => continue,
                    other => return Err(format!("build: {other} is not supported")),
                };
                target.entry(key).or_insert(value);
            }
        }
        _ => return Err("build: expected a string or an object".to_owned()),
    }
    target.entry("context").or_insert_with(|| json!("."));
    if !tags.is_empty() {
        target.entry("tags").or_insert(Value::Array(tags));
    }
    Ok(target)
}

fn has(value: &Value, sign: char) -> bool {
    value.as_array().is_some_and(|list| list.iter().any(|item| item.as_str().is_some_and(|text| text.contains(sign))))
}

/// An object, or a list of `NAME=VALUE`.
fn pairs(value: &Value, key: &str, sign: char) -> Result<Value, String> {
    let Value::Array(list) = value else { return Ok(value.clone()) };
    let pair = |item: &Value| {
        let text = item.as_str().ok_or_else(|| format!("build: {key}: expected strings"))?;
        Ok(match text.split_once(sign) {
            Some((name, value)) => (name.to_owned(), json!(value)),
            None => (text.to_owned(), Value::Null),
        })
    };
    Ok(Value::Object(list.iter().map(pair).collect::<Result<_, String>>()?))
}

/// Replaces `$NAME`, `${NAME}`, `${NAME:-default}`, `${NAME-default}`, `${NAME:?error}`, `${NAME:+other}` and `$$` in all
/// strings.
fn interpolate(value: &mut Value, environment: &dyn Fn(&str) -> Option<String>) -> Result<(), String> {
    match value {
        Value::String(text) if text.contains('$') => *text = interpolated(text, environment)?,
        Value::Array(list) => list.iter_mut().try_for_each(|item| interpolate(item, environment))?,
        Value::Object(entries) => entries.iter_mut().try_for_each(|(_, item)| interpolate(item, environment))?,
        _ => {}
    }
    Ok(())
}

fn interpolated(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = after.strip_prefix('{') {
            let (inner, after) = after.split_once('}').ok_or_else(|| format!("{text:?}: expected '}}'"))?;
            let (name, rule) = inner.split_at(inner.find(|c| !is_of_name(c)).unwrap_or(inner.len()));
            let is_strict = rule.starts_with(':');
            let given = environment(name).filter(|value| !is_strict || !value.is_empty());
            let rule = rule.strip_prefix(':').unwrap_or(rule);
            match (rule.chars().next(), given) {
                (None | Some('-' | '?'), Some(value)) => out.push_str(&value),
                (None, None) | (Some('+'), None) => {}
                (Some('-' | '+'), _) => out.push_str(&rule[1..]),
                (Some('?'), None) => return Err(format!("{name} is not set: {}", &rule[1..])),
                (Some(other), _) => return Err(format!("{text:?}: {other:?} is not expected here")),
            }
            rest = after;
        } else {
            let (name, after) = after.split_at(after.find(|c| !is_of_name(c)).unwrap_or(after.len()));
            if name.is_empty() {
                return Err(format!("{text:?}: a name is expected after $, which is written $$"));
            }
            out.push_str(&environment(name).unwrap_or_default());
            rest = after;
        }
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_that_are_built_are_targets() {
        let text = "services:\n  web:\n    image: reg/web:${TAG:-1}\n    build:\n      context: ./web\n      \
                    dockerfile_inline: |\n        FROM x\n        RUN echo $$HOME\n      args: [A=1, B]\n      tags: [other]\n      \
                    x-bake: {platforms: [linux/amd64]}\n  db: {image: postgres}\n  api: {build: ./api}\n";
        let environment = |name: &str| (name == "TAG").then(|| "2".to_owned());
        let document = document(text, &environment).expect("a file");
        assert_eq!(document["group"]["default"]["targets"], json!(["web", "api"]));
        let web = json!({
            "context": "./web", "dockerfile-inline": "FROM x\nRUN echo $HOME\n", "args": { "A": "1", "B": null },
            "platforms": ["linux/amd64"], "tags": ["reg/web:2", "other"],
        });
        assert_eq!(document["target"]["web"], web);
        assert_eq!(document["target"]["api"], json!({ "context": "./api" }));
    }

    #[test]
    fn variables_have_the_rules_of_compose() {
        let environment = |name: &str| match name {
            "A" => Some("a".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        for (text, wanted) in [
            ("$A-${A}", Ok("a-a")),
            ("$$A", Ok("$A")),
            ("${NONE}", Ok("")),
            ("${NONE:-x}${EMPTY:-y}${EMPTY-z}", Ok("xy")),
            ("${A:+b}${NONE:+c}", Ok("b")),
            ("${NONE:?must be}", Err("must be")),
            ("${A", Err("expected '}'")),
            ("a $", Err("expected after $")),
        ] {
            match (interpolated(text, &environment), wanted) {
                (Ok(got), Ok(wanted)) => assert_eq!(got, wanted, "{text}"),
                (Err(error), Err(wanted)) => assert!(error.contains(wanted), "{text}: {error}"),
                (got, _) => panic!("{text}: {got:?}"),
            }
        }
    }
}
