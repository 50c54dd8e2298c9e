//! An image, as `image inspect` shows it.

use std::collections::BTreeMap;

use runtime::userns::Mapping;
use serde_json::Value as Raw;
use storage::image::store::{Image, Layer};

use crate::cli::format::Value;
use crate::commands::{Context, images};
use crate::role::Persona;
use crate::supervisor::rootfs::ownership;

/// The members of `config` in the order podman has them.
const CONFIG: [&str; 12] = [
    "User",
    "ExposedPorts",
    "Env",
    "Entrypoint",
    "Cmd",
    "Volumes",
    "WorkingDir",
    "Labels",
    "StopSignal",
    "Healthcheck",
    "OnBuild",
    "Shell",
];

/// Everything about an image.
pub(crate) fn describe(image: &Image, context: &Context) -> Value {
    let raw: Raw = serde_json::from_slice(&image.raw_config).unwrap_or(Raw::Null);
    let text = |key: &str| raw.get(key).and_then(Raw::as_str).unwrap_or_default().to_owned();
    let config = raw.get("config").cloned().unwrap_or(Raw::Null);
    let layers = image.layers.iter().map(|layer| layer.diff_id.to_string());
    let history = raw.get("history").and_then(Raw::as_array).cloned().unwrap_or_default();
    // docker's configurations have one of their own.
    let own = raw.get("comment").and_then(Raw::as_str).filter(|comment| !comment.is_empty());
    let comment = own.or_else(|| history.last()?.get("comment")?.as_str()).unwrap_or_default();
    let docker = context.persona == Persona::Docker;
    let id = if docker { image.id.to_string() } else { image.id.hex().to_owned() };
    let names = |name: String| {
        let familiar = || storage::reference::Reference::parse(&name).map(|reference| reference.familiar());
        if docker { familiar().map_or(name, |name| images::of_docker(&name).to_owned()) } else { name }
    };
    let ownership = ownership(&Mapping::of_user());
    let place = |layer: &Layer| context.layout.layer(&layer.diff_id, ownership).join("diff").display().to_string();
    let top = image.layers.last().map(place);
    let mut data: BTreeMap<String, Value> = BTreeMap::new();
    let lower: Vec<_> = image.layers.iter().rev().skip(1).collect();
    if !lower.is_empty() {
        let paths: Vec<_> = lower.into_iter().map(place).collect();
        data.insert("LowerDir".to_owned(), paths.join(":").into());
    }
    data.extend(top.map(|top| ("UpperDir".to_owned(), top.into())));
    // podman has it beside the configuration as well.
    let check = config.get("Healthcheck").filter(|check| !check.is_null()).map(Value::from);
    let check = check.filter(|_| !docker).map(|check| ("Healthcheck", check));
    let mut fields = vec![
        ("Id", id.into()),
        ("Digest", image.manifest.digest.to_string().into()),
        ("RepoTags", Value::strings(images::repo_tags(image).into_iter().map(names))),
        ("RepoDigests", Value::strings(images::repo_digests(image).into_iter().map(names))),
        ("Parent", "".into()),
        ("Comment", comment.into()),
        ("Created", time(raw.get("created"))),
        ("Config", ordered(&config)),
        ("Version", text("docker_version").into()),
        ("Author", text("author").into()),
        ("Architecture", image.platform.architecture.as_str().into()),
        ("Variant", Value::Str(image.platform.variant.clone().unwrap_or_default()).omitempty()),
        ("Os", image.platform.os.as_str().into()),
        ("Size", images::size(image, context.persona).into()),
        ("VirtualSize", images::size(image, context.persona).into()),
        ("GraphDriver", Value::Struct(vec![("Name", "overlay".into()), ("Data", Value::Map(data))])),
        ("RootFS", Value::Struct(vec![("Type", "layers".into()), ("Layers", Value::strings(layers))])),
        ("Labels", images::labels(image, true)),
        ("Annotations", Value::Map(BTreeMap::new())),
        ("ManifestType", image.manifest.media_type.as_str().into()),
        ("User", config.get("User").and_then(Raw::as_str).unwrap_or_default().into()),
        ("History", Value::List(history.iter().map(step).collect())),
        ("NamesHistory", Value::strings(image.names.iter().map(ToString::to_string))),
    ];
    fields.extend(check);
    Value::Struct(fields)
}

fn time(raw: Option<&Raw>) -> Value {
    Value::Time(raw.and_then(Raw::as_str).and_then(|text| text.parse().ok()))
}

/// All members in podman's order; JSON leaves out the empty ones.
fn ordered(config: &Raw) -> Value {
    let fields = CONFIG.iter().map(|name| {
        let value = match config.get(*name) {
            Some(value) if !value.is_null() => Value::from(value),
            _ => match *name {
                "User" | "WorkingDir" | "StopSignal" => "".into(),
                "Env" | "Entrypoint" | "Cmd" | "OnBuild" | "Shell" => Value::NilList,
                "Healthcheck" => Value::Nil,
                _ => Value::NilMap,
            },
        };
        (*name, value.omitempty())
    });
    Value::Struct(fields.collect())
}

fn step(raw: &Raw) -> Value {
    let mut fields = vec![("created", time(raw.get("created")))];
    for name in ["created_by", "author", "comment"] {
        if let Some(text) = raw.get(name).and_then(Raw::as_str).filter(|text| !text.is_empty()) {
            fields.push((name, text.into()));
        }
    }
    if raw.get("empty_layer") == Some(&Raw::Bool(true)) {
        fields.push(("empty_layer", true.into()));
    }
    Value::Struct(fields)
}
