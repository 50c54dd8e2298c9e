//! What `registries.conf` and `daemon.json` have in force, as `info` shows it.

use std::collections::BTreeMap;

use storage::transport::registry::registries::{PullFromMirror, Registries, Rule};

use crate::cli::format::Value;
use crate::error::CommandError;

/// All of it, in both personas' order of keys.
pub(super) fn load() -> Result<Registries, CommandError> {
    Registries::load(&|name| std::env::var_os(name)).map_err(CommandError::host)
}

/// As podman shows it, and the files that say so.
pub(super) fn describe() -> Result<Value, CommandError> {
    let all = load()?;
    let mut map: BTreeMap<String, Value> =
        all.rules.iter().map(|rule| (rule.prefix.clone(), describe_rule(rule))).collect();
    if let Some(search) = &all.unqualified {
        map.insert("search".to_owned(), Value::strings(search));
    }
    if !all.insecure().is_empty() {
        map.insert("insecure".to_owned(), Value::strings(all.insecure()));
    }
    if !all.files.is_empty() {
        map.insert("files".to_owned(), Value::strings(all.files.iter().map(|path| path.display().to_string())));
    }
    Ok(Value::Map(map))
}

fn describe_rule(rule: &Rule) -> Value {
    let mirrors = rule.mirrors.iter().map(|mirror| {
        let pull_from = match mirror.pull_from {
            PullFromMirror::All => "",
            PullFromMirror::DigestOnly => "digest-only",
            PullFromMirror::TagOnly => "tag-only",
        };
        Value::Struct(vec![
            ("Location", Value::str(&mirror.location)),
            ("Insecure", Value::Bool(mirror.is_insecure)),
            ("PullFromMirror", Value::str(pull_from)),
        ])
    });
    let mirrors: Vec<Value> = mirrors.collect();
    let is_by_digest =
        !rule.mirrors.is_empty() && rule.mirrors.iter().all(|mirror| mirror.pull_from == PullFromMirror::DigestOnly);
    Value::Struct(vec![
        ("Prefix", Value::str(&rule.prefix)),
        ("Location", Value::str(if rule.location.is_empty() { &rule.prefix } else { &rule.location })),
        ("Insecure", Value::Bool(rule.is_insecure)),
        ("Mirrors", if mirrors.is_empty() { Value::NilList } else { Value::List(mirrors) }),
        ("Blocked", Value::Bool(rule.is_blocked)),
        ("MirrorByDigestOnly", Value::Bool(is_by_digest)),
        ("PullFromMirror", Value::str("")),
        ("File", Value::str(rule.file.display().to_string())),
    ])
}

/// The addresses of Docker Hub's mirrors, as docker lists them.
pub(super) fn hub_mirrors(all: &Registries) -> Vec<String> {
    let rules = all.rules.iter().filter(|rule| rule.prefix == storage::reference::DOCKER_HUB);
    let mirrors = rules.flat_map(|rule| &rule.mirrors);
    mirrors
        .map(|mirror| format!("{}://{}/", if mirror.is_insecure { "http" } else { "https" }, mirror.location))
        .collect()
}
