//! `buildx bake`: several builds out of one file, as docker compose asks for them. Here the plan, which is pure: a file
//! becomes command lines of `build`, in the order in which they need each other.
//!
//! The files are HCL, JSON or those of compose: see [`super::definition`].

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::definition;

/// A target that is to be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Planned {
    /// Its name.
    pub(super) name: String,
    /// What `build` is called with, without the contexts below.
    pub(super) words: Vec<String>,
    /// Contexts that are other targets: their names there, and those targets.
    pub(super) linked: Vec<(String, String)>,
    /// A Dockerfile that stands in the file.
    pub(super) inline: Option<String>,
    /// The target as it is after inheritance and `--set`, for `--print`.
    pub(super) definition: Value,
}

/// The targets and groups of one or more files.
#[derive(Debug, Default)]
pub(super) struct BakeFile {
    targets: BTreeMap<String, Map<String, Value>>,
    groups: BTreeMap<String, Vec<String>>,
}

impl BakeFile {
    /// Reads files; what a later one says of a target counts more.
    pub(super) fn read(
        sources: &[(String, String)],
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<BakeFile, String> {
        let mut file = BakeFile::default();
        for (name, document) in definition::read(sources, environment)? {
            file.add(document).map_err(|error| format!("{name}: {error}"))?;
        }
        Ok(file)
    }

    fn add(&mut self, document: Value) -> Result<(), String> {
        let Value::Object(document) = document else { return Err("expected an object".to_owned()) };
        for (key, value) in document {
            let Value::Object(entries) = value else { continue };
            match key.as_str() {
                "target" => {
                    for (name, definition) in entries {
                        let Value::Object(definition) = definition else {
                            return Err(format!("target {name}: expected an object"));
                        };
                        merge(self.targets.entry(name).or_default(), definition);
                    }
                }
                "group" => {
                    for (name, definition) in entries {
                        let targets = strings(definition.get("targets"), "targets")
                            .map_err(|error| format!("group {name}: {error}"))?;
                        self.groups.insert(name, targets);
                    }
                }
                other => return Err(format!("unknown block {other:?}: expected target or group")),
            }
        }
        Ok(())
    }

    /// Applies `TARGET.KEY[.NAME]=VALUE`.
    pub(super) fn set(&mut self, text: &str) -> Result<(), String> {
        let bad = || format!("--set {text}: expected TARGET.KEY=VALUE");
        let (path, value) = text.split_once('=').ok_or_else(bad)?;
        let mut parts = path.splitn(3, '.');
        let (pattern, key, name) = (parts.next().unwrap_or_default(), parts.next().ok_or_else(bad)?, parts.next());
        let mut is_known = false;
        for (target, definition) in &mut self.targets {
            let is_meant = match pattern.split_once('*') {
                Some((before, after)) => target.starts_with(before) && target.ends_with(after),
                None => target == pattern,
            };
            if !is_meant {
                continue;
            }
            is_known = true;
            let key = match key {
                "platform" => "platforms",
                "secrets" => "secret",
                key => key,
            };
            match (key, name) {
                ("args" | "labels" | "contexts" | "annotations", Some(name)) if key != "annotations" => {
                    let entry = definition.entry(key).or_insert_with(|| Value::Object(Map::new()));
                    if let Value::Object(entry) = entry {
                        entry.insert(name.to_owned(), Value::from(value));
                    }
                }
                (
                    "tags" | "platforms" | "output" | "secret" | "ssh" | "cache-from" | "cache-to" | "annotations",
                    None,
                ) => {
                    definition.insert(key.to_owned(), Value::from(vec![value]));
                }
                ("no-cache" | "pull", None) => {
                    definition.insert(key.to_owned(), Value::from(value == "true" || value == "1"));
                }
                ("context" | "dockerfile" | "dockerfile-inline" | "target" | "network", None) => {
                    definition.insert(key.to_owned(), Value::from(value));
                }
                _ => return Err(format!("--set {text}: unknown key {key:?}")),
            }
        }
        if is_known { Ok(()) } else { Err(format!("--set {text}: there is no target {pattern:?}")) }
    }

    /// The targets that `names` mean, and what they need, each once and after what it needs.
    pub(super) fn plan(&self, names: &[String]) -> Result<Vec<Planned>, String> {
        let asked: Vec<String> = if names.is_empty() { vec!["default".to_owned()] } else { names.to_vec() };
        let mut planned = Vec::new();
        for name in &asked {
            self.visit(name, &mut Vec::new(), &mut planned)?;
        }
        Ok(planned)
    }

    fn visit(&self, name: &str, path: &mut Vec<String>, planned: &mut Vec<Planned>) -> Result<(), String> {
        if path.iter().any(|above| above == name) {
            return Err(format!("{name} needs itself: {} → {name}", path.join(" → ")));
        }
        path.push(name.to_owned());
        // A group may have the name of a target of its own.
        if let Some(targets) = self.groups.get(name).filter(|targets| !targets.iter().any(|target| target == name)) {
            for target in targets {
                self.visit(target, path, planned)?;
            }
        } else if !planned.iter().any(|known| known.name == name) {
            let target = self.target(name, &mut Vec::new())?;
            let target = planned_target(name, target).map_err(|error| format!("target {name}: {error}"))?;
            for (_, other) in &target.linked {
                self.visit(other, path, planned)?;
            }
            planned.push(target);
        }
        path.pop();
        Ok(())
    }

    /// A target with what it inherits.
    fn target(&self, name: &str, below: &mut Vec<String>) -> Result<Map<String, Value>, String> {
        let own = self.targets.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.targets.keys().chain(self.groups.keys()).map(String::as_str).collect();
            format!("there is no target {name:?}: there are {}", known.join(", "))
        })?;
        if below.iter().any(|known| known == name) {
            return Err(format!("target {name} inherits itself"));
        }
        below.push(name.to_owned());
        let mut all = Map::new();
        for parent in strings(own.get("inherits"), "inherits").map_err(|error| format!("target {name}: {error}"))? {
            merge(&mut all, self.target(&parent, below)?);
        }
        below.pop();
        merge(&mut all, own.clone());
        all.remove("inherits");
        Ok(all)
    }
}

/// Puts `more` over `base`: names of arguments, labels and contexts one by one, everything else as a whole.
fn merge(base: &mut Map<String, Value>, more: Map<String, Value>) {
    for (key, value) in more {
        match (base.get_mut(&key), value) {
            (Some(Value::Object(base)), Value::Object(more)) => base.extend(more),
            (_, value) => drop(base.insert(key, value)),
        }
    }
}

fn planned_target(name: &str, target: Map<String, Value>) -> Result<Planned, String> {
    let mut planned = Planned {
        name: name.to_owned(),
        words: Vec::new(),
        linked: Vec::new(),
        inline: None,
        definition: Value::Object(target.clone()),
    };
    let mut context = ".".to_owned();
    let mut dockerfile = None;
    for (key, value) in &target {
        if value.is_null() {
            continue;
        }
        let text = || scalar(value).ok_or_else(|| format!("{key}: expected a string"));
        let flag = |flag: &str, values: Vec<String>| {
            values.into_iter().map(move |value| format!("--{flag}={value}")).collect::<Vec<_>>()
        };
        let words = match key.as_str() {
            "context" => {
                context = text()?;
                Vec::new()
            }
            "dockerfile" => {
                dockerfile = Some(text()?);
                Vec::new()
            }
            "dockerfile-inline" => {
                planned.inline = Some(text()?);
                Vec::new()
            }
            "contexts" => {
                let mut words = Vec::new();
                for (name, value) in pairs(value, key)? {
                    match value.as_deref().unwrap_or_default().split_once("target:") {
                        Some(("", other)) => planned.linked.push((name, other.to_owned())),
                        _ => words.push(format!("--build-context={name}={}", value.unwrap_or_default())),
                    }
                }
                words
            }
            "args" => pairs(value, key)?
                .into_iter()
                .map(|(name, value)| match value {
                    Some(value) => format!("--build-arg={name}={value}"),
                    None => format!("--build-arg={name}"),
                })
                .collect(),
            "labels" => pairs(value, key)?
                .into_iter()
                .map(|(name, value)| format!("--label={name}={}", value.unwrap_or_default()))
                .collect(),
            "extra-hosts" => pairs(value, key)?
                .into_iter()
                .map(|(name, value)| format!("--add-host={name}:{}", value.unwrap_or_default()))
                .collect(),
            "tags" => flag("tag", strings(Some(value), key)?),
            "annotations" => flag("annotation", strings(Some(value), key)?),
            "platforms" => {
                let platforms = strings(Some(value), key)?;
                if platforms.is_empty() { Vec::new() } else { vec![format!("--platform={}", platforms.join(","))] }
            }
            "target" => flag("target", vec![text()?].into_iter().filter(|text| !text.is_empty()).collect()),
            "network" => flag("network", vec![text()?].into_iter().filter(|text| !text.is_empty()).collect()),
            "shm-size" => flag("shm-size", vec![text()?]),
            "ulimits" => flag("ulimit", strings(Some(value), key)?),
            "secret" => flag("secret", specs(value, key)?),
            "ssh" => flag("ssh", ssh(value, key)?),
            "output" => flag("output", specs(value, key)?),
            "cache-from" => flag("cache-from", specs(value, key)?),
            "cache-to" => flag("cache-to", specs(value, key)?),
            "no-cache" if value == &Value::Bool(true) => vec!["--no-cache".to_owned()],
            "pull" if value == &Value::Bool(true) => vec!["--pull".to_owned()],
            "no-cache" | "pull" | "description" => Vec::new(),
            "call" if matches!(value.as_str(), Some("build" | "")) => Vec::new(),
            // A build gets no rights that the caller would have to give.
            "entitlements" => Vec::new(),
            "attest" if value.as_array().is_some_and(|list| list.iter().all(is_switched_off)) => Vec::new(),
            other => return Err(format!("{other} is not supported")),
        };
        planned.words.extend(words);
    }
    if let (Some(dockerfile), None) = (dockerfile, &planned.inline) {
        // docker takes it from the context, our `build` as podman from here.
        let is_here = dockerfile.starts_with('/') || context.contains("://") || context == "-";
        let path = if is_here { dockerfile } else { format!("{}/{dockerfile}", context.trim_end_matches('/')) };
        planned.words.push(format!("--file={path}"));
    }
    planned.words.push("--".to_owned());
    planned.words.push(context);
    Ok(planned)
}

fn is_switched_off(attestation: &Value) -> bool {
    attestation.as_str().is_some_and(|text| text.contains("disabled=true"))
        || attestation.get("disabled").is_some_and(|disabled| disabled == &Value::Bool(true) || disabled == "true")
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

fn strings(value: Option<&Value>, key: &str) -> Result<Vec<String>, String> {
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => {
            list.iter().map(|item| scalar(item).ok_or_else(|| format!("{key}: expected strings"))).collect()
        }
        Some(_) => Err(format!("{key}: expected a list of strings")),
    }
}

fn pairs(value: &Value, key: &str) -> Result<Vec<(String, Option<String>)>, String> {
    let Value::Object(entries) = value else { return Err(format!("{key}: expected an object")) };
    let pair = |(name, value): (&String, &Value)| match value {
        Value::Null => Ok((name.clone(), None)),
        value => scalar(value).map(|text| (name.clone(), Some(text))).ok_or_else(|| format!("{key}: expected strings")),
    };
    entries.iter().map(pair).collect()
}

/// `type=x,dest=y`, also as `{"type": "x", "dest": "y"}`.
fn specs(value: &Value, key: &str) -> Result<Vec<String>, String> {
    let Value::Array(list) = value else { return Err(format!("{key}: expected a list")) };
    let spec = |item: &Value| match item {
        Value::String(text) => Ok(text.clone()),
        Value::Object(_) => {
            let parts = pairs(item, key)?.into_iter().filter(|(_, value)| value.as_deref() != Some(""));
            let parts: Vec<String> =
                parts.map(|(name, value)| format!("{name}={}", value.unwrap_or_default())).collect();
            Ok(parts.join(","))
        }
        _ => Err(format!("{key}: expected strings or objects")),
    };
    list.iter().map(spec).collect()
}

/// `default`, `ID=PATH`, also as `{"id": "ID", "paths": ["PATH"]}`.
fn ssh(value: &Value, key: &str) -> Result<Vec<String>, String> {
    let Value::Array(list) = value else { return Err(format!("{key}: expected a list")) };
    let agent = |item: &Value| match item {
        Value::String(text) => Ok(text.clone()),
        Value::Object(entry) => {
            let id = entry.get("id").and_then(scalar).unwrap_or_else(|| "default".to_owned());
            let paths = strings(entry.get("paths"), key)?;
            Ok(if paths.is_empty() { id } else { format!("{id}={}", paths.join(",")) })
        }
        _ => Err(format!("{key}: expected strings or objects")),
    };
    list.iter().map(agent).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<BakeFile, String> {
        let environment = |name: &str| (name == "TAG").then(|| "2".to_owned());
        BakeFile::read(&[("-".to_owned(), text.to_owned())], &environment)
    }

    #[test]
    fn compose_asks_for_builds() {
        let file = read(
            r#"{"group": {"default": {"targets": ["web", "db"]}},
                "target": {
                  "web": {"context": "/src/web", "dockerfile": "Dockerfile.dev", "args": {"A": "$${B}", "C": null},
                          "labels": {"l": "1"}, "tags": ["p-web"], "target": "dev", "secret": ["id=s,src=/f"],
                          "ssh": ["default"], "extra-hosts": {"h": "1.2.3.4"}, "output": ["type=docker"],
                          "contexts": {"base": "target:db", "other": "/o"}, "pull": true, "no-cache": false,
                          "entitlements": [], "call": "build", "platforms": ["linux/amd64"]},
                  "db": {"context": ".", "dockerfile-inline": "FROM x\n", "output": [{"type": "docker", "dest": ""}]},
                  "unused": {"other": {}}}}"#,
        )
        .expect("a file");
        let planned = file.plan(&[]).expect("a plan");
        let names: Vec<&str> = planned.iter().map(|target| target.name.as_str()).collect();
        assert_eq!(names, ["db", "web"]);
        assert_eq!(planned[0].words, ["--output=type=docker", "--", "."]);
        assert_eq!(planned[0].inline.as_deref(), Some("FROM x\n"));
        assert_eq!(planned[1].linked, [("base".to_owned(), "db".to_owned())]);
        let wanted = [
            "--build-arg=A=${B}",
            "--build-arg=C",
            "--label=l=1",
            "--tag=p-web",
            "--target=dev",
            "--secret=id=s,src=/f",
            "--ssh=default",
            "--add-host=h:1.2.3.4",
            "--output=type=docker",
            "--build-context=other=/o",
            "--pull",
            "--platform=linux/amd64",
            "--file=/src/web/Dockerfile.dev",
            "--",
            "/src/web",
        ];
        assert_eq!(planned[1].words, wanted);
    }

    #[test]
    fn targets_inherit_and_are_overridden() {
        let mut file = read(
            r#"{"variable": {"TAG": {"default": "1"}, "OTHER": {"default": "o"}},
                "target": {"base": {"args": {"A": "1", "B": "1"}, "tags": ["x"]},
                           "app": {"inherits": ["base"], "args": {"B": "${OTHER}"}, "tags": ["app:${TAG}"]}}}"#,
        )
        .expect("a file");
        file.set("*.args.C=3").expect("a key");
        file.set("app.no-cache=true").expect("a key");
        let planned = file.plan(&["app".to_owned()]).expect("a plan");
        let mut words = planned[0].words.clone();
        words.sort();
        let wanted = ["--", "--build-arg=A=1", "--build-arg=B=o", "--build-arg=C=3", "--no-cache", "--tag=app:2", "."];
        assert_eq!(words, wanted);
        assert!(file.set("none.tags=x").is_err() && file.set("app.tags").is_err() && file.set("app.other=1").is_err());
    }

    #[test]
    fn what_is_wrong_with_a_file() {
        let cases = [
            ("{", "-:1:1"),
            (r#"{"target": {"a": {"matrix": {}}}}"#, "name is missing"),
            (r#"{"target": {"a": {"args": ["x"]}}}"#, "expected an object"),
            (r#"{"target": {"a": {"context": "${NONE}"}}}"#, "NONE"),
            (r#"{"target": {"a": {"inherits": ["a"]}}}"#, "inherits itself"),
            (
                r#"{"target": {"a": {"contexts": {"x": "target:b"}}, "b": {"contexts": {"y": "target:a"}}}}"#,
                "needs itself",
            ),
            (r#"{"target": {"b": {}}}"#, "there is no target \"a\""),
            (r#"{"other": {"f": {}}}"#, "unknown block"),
        ];
        for (text, wanted) in cases {
            let error = read(text).and_then(|file| file.plan(&["a".to_owned()])).expect_err(text);
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
