//! The variables of a container, and what stands for them in its command.

use std::collections::BTreeMap;

use storage::state::request::{SecretKind, SecretUse};

use super::container::Parts;
use crate::commands::kube::model::{Container, EnvVar, KeyRef, Quantity, ResourceFieldRef};
use crate::error::CommandError;

/// The variables of one container.
#[derive(Debug, Default)]
pub(super) struct Environment {
    /// In their order; a later one replaces an earlier one of its name.
    variables: Vec<(String, Value)>,
}

#[derive(Clone, Debug)]
enum Value {
    Plain(String),
    /// A key of a secret, and what it holds now.
    Secret(SecretUse, String),
}

impl Environment {
    pub(super) fn of(parts: &Parts<'_>, container: &Container) -> Result<Self, CommandError> {
        let mut environment = Self::default();
        environment.take_sources(parts, container)?;
        for variable in &container.env {
            check_name(&variable.name)?;
            let cannot = |why: String| CommandError::user(format!("cannot set env {}: {why}", variable.name));
            let value = match &variable.value_from {
                None => Some(Value::Plain(environment.expand(&variable.value))),
                Some(from) => match (&from.config_map_key_ref, &from.secret_key_ref, &from.field_ref) {
                    (Some(key), _, _) => config_map_key(parts, key).map_err(cannot)?,
                    (_, Some(key), _) => secret_key(parts, variable, key)?,
                    (_, _, Some(field)) => Some(Value::Plain(field_value(parts, variable, &field.field_path)?)),
                    _ => match &from.resource_field_ref {
                        Some(field) => Some(Value::Plain(resource_value(parts, container, variable, field)?)),
                        None => Some(Value::Plain(environment.expand(&variable.value))),
                    },
                },
            };
            if let Some(value) = value {
                environment.set(&variable.name, value);
            }
        }
        Ok(environment)
    }

    /// `envFrom`: below what is named one by one.
    fn take_sources(&mut self, parts: &Parts<'_>, container: &Container) -> Result<(), CommandError> {
        for source in &container.env_from {
            if let Some(reference) = &source.config_map_ref {
                match parts.world.config_maps.get(&reference.name) {
                    Some(map) => {
                        for (name, value) in &map.data {
                            self.set(&format!("{}{name}", source.prefix), Value::Plain(value.clone()));
                        }
                    }
                    None if reference.optional => {}
                    None => return Err(CommandError::user(format_args!("configmap {} not found", reference.name))),
                }
            }
            if let Some(reference) = &source.secret_ref {
                match (parts.world.secret)(&reference.name)? {
                    Some(keys) => {
                        for (key, data) in keys {
                            let variable = format!("{}{key}", source.prefix);
                            let value = secret_value(&reference.name, &key, data, &variable)?;
                            self.set(&variable, value);
                        }
                    }
                    None if reference.optional => {}
                    None => {
                        return Err(CommandError::user(format_args!(
                            "no secret with name or id {:?}: no such secret",
                            reference.name
                        )));
                    }
                }
            }
        }
        self.variables.retain(|(name, _)| !name.is_empty() && !name.contains(['=', '\0']));
        Ok(())
    }

    fn set(&mut self, name: &str, value: Value) {
        self.variables.retain(|(other, _)| other != name);
        self.variables.push((name.to_owned(), value));
    }

    /// Plain variables, and those that secrets hold.
    pub(super) fn split(self) -> (Vec<(String, String)>, Vec<SecretUse>) {
        let (mut plain, mut secrets) = (Vec::new(), Vec::new());
        for (name, value) in self.variables {
            match value {
                Value::Plain(text) => plain.push((name, text)),
                Value::Secret(secret, _) => secrets.push(secret),
            }
        }
        (plain, secrets)
    }

    /// `$(NAME)` is the value of a variable, `$$` a dollar; names that stand for nothing stay as they are.
    pub(super) fn expand(&self, text: &str) -> String {
        let mut expanded = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            expanded.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                expanded.push('$');
                rest = after;
            } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|name| name.split_once(')')) {
                match self.variables.iter().find(|(other, _)| other == name) {
                    Some((_, Value::Plain(value) | Value::Secret(_, value))) => expanded.push_str(value),
                    None => expanded.push_str(&format!("$({name})")),
                }
                rest = after;
            } else {
                expanded.push('$');
            }
        }
        expanded.push_str(rest);
        expanded
    }
}

fn check_name(name: &str) -> Result<(), CommandError> {
    match name.is_empty() || name.contains(['=', '\0']) {
        true => Err(CommandError::user(format_args!("env: {name:?} is not a name of a variable"))),
        false => Ok(()),
    }
}

fn config_map_key(parts: &Parts<'_>, key: &KeyRef) -> Result<Option<Value>, String> {
    let map = parts.world.config_maps.get(&key.name);
    match map.and_then(|map| map.data.get(&key.key)) {
        Some(value) => Ok(Some(Value::Plain(value.clone()))),
        None if key.optional => Ok(None),
        None if map.is_some() => Err(format!("key {} not found in configmap {}", key.key, key.name)),
        None => Err(format!("configmap {} not found", key.name)),
    }
}

fn secret_key(parts: &Parts<'_>, variable: &EnvVar, key: &KeyRef) -> Result<Option<Value>, CommandError> {
    let cannot = |why: String| CommandError::user(format!("cannot set env {}: {why}", variable.name));
    match (parts.world.secret)(&key.name)? {
        Some(mut keys) => match keys.remove(&key.key) {
            Some(data) => secret_value(&key.name, &key.key, data, &variable.name).map(Some),
            None if key.optional => Ok(None),
            None => Err(cannot(format!("secret {} has not {} key", key.name, key.key))),
        },
        None if key.optional => Ok(None),
        None => Err(cannot(format!("no secret with name or id {:?}: no such secret", key.name))),
    }
}

fn secret_value(name: &str, key: &str, data: Vec<u8>, variable: &str) -> Result<Value, CommandError> {
    let text = String::from_utf8(data).ok().filter(|text| !text.contains('\0')).ok_or_else(|| {
        CommandError::user(format_args!("cannot set env {variable}: key {key} of secret {name} is no text"))
    })?;
    let kind = SecretKind::Env { variable: variable.to_owned() };
    Ok(Value::Secret(SecretUse { name: name.to_owned(), key: Some(key.to_owned()), kind }, text))
}

fn field_value(parts: &Parts<'_>, variable: &EnvVar, path: &str) -> Result<String, CommandError> {
    let member = |kind: &str, all: &BTreeMap<String, String>| {
        let key = path.strip_prefix(kind)?.strip_prefix("['")?.strip_suffix("']")?;
        Some(all.get(key).cloned().unwrap_or_default())
    };
    match path {
        "metadata.name" => Ok(parts.named.name.clone()),
        "metadata.uid" => Ok(parts.world.pod_id.to_owned()),
        _ => member("metadata.labels", &parts.named.labels)
            .or_else(|| member("metadata.annotations", parts.annotations))
            .ok_or_else(|| {
                CommandError::user(format_args!(
                    "can not set env {}. Reason: fieldPath {path} is either not valid or not supported",
                    variable.name
                ))
            }),
    }
}

/// What the container may have at most, or asks for; the host's own where it says nothing.
fn resource_value(
    parts: &Parts<'_>,
    container: &Container,
    variable: &EnvVar,
    field: &ResourceFieldRef,
) -> Result<String, CommandError> {
    let cannot = |why: String| CommandError::user(format!("can not set env {}. Reason: {why}", variable.name));
    let unknown = || cannot(format!("resource {} is either not valid or not supported", field.resource));
    let (list, name) = field.resource.split_once('.').ok_or_else(unknown)?;
    let host = match name {
        "memory" => parts.world.memory_bytes.to_string(),
        "cpu" => parts.world.cpus.to_string(),
        _ => return Err(unknown()),
    };
    let (limits, requests) = (&container.resources.limits, &container.resources.requests);
    let found = match list {
        "limits" => limits.get(name),
        "requests" => requests.get(name).or_else(|| limits.get(name)),
        _ => return Err(unknown()),
    };
    let quantity = found.cloned().unwrap_or(Quantity(host));
    let value = quantity.milli().ok_or_else(|| cannot(format!("{:?} is no quantity", quantity.0)))?;
    let one = Quantity("1".to_owned());
    let divisor = field.divisor.as_ref().filter(|divisor| divisor.0 != "0").unwrap_or(&one);
    let divisor = divisor
        .milli()
        .filter(|milli| *milli > 0)
        .ok_or_else(|| cannot(format!("divisor value {} is not valid", divisor.0)))?;
    Ok((value / divisor + i128::from(value % divisor > 0)).to_string())
}
