//! What a container's root is made of, and what is mounted over it.

use std::collections::BTreeMap;

use runtime::userns::Mapping;
use storage::state::container::Record;
use storage::state::request::{Mount, Overlay};

use crate::cli::format::Value;
use crate::commands::Context;
use crate::supervisor::rootfs;

/// A directory of the host (`--rootfs`) has none; podman names its own all the same.
pub(super) fn driver(record: &Record) -> &str {
    if record.driver.is_empty() { "overlay" } else { &record.driver }
}

pub(super) fn graph_driver(record: &Record, context: &Context) -> Value {
    let directory = context.layout.container(&record.id);
    let mut data: BTreeMap<String, Value> = BTreeMap::new();
    let ownership = rootfs::ownership(&Mapping::of_user());
    let paths: Vec<_> =
        rootfs::layers(&context.layout, record, ownership).map(|layer| layer.display().to_string()).collect();
    if !paths.is_empty() {
        data.insert("LowerDir".to_owned(), paths.join(":").into());
        data.insert("UpperDir".to_owned(), directory.join("upper").display().to_string().into());
        data.insert("WorkDir".to_owned(), directory.join("work").display().to_string().into());
    }
    let log = directory.join(crate::supervisor::union_server::LOG);
    if log.exists() {
        data.insert("ServerLog".to_owned(), log.display().to_string().into());
    }
    Value::Struct(vec![("Name", driver(record).into()), ("Data", Value::Map(data))])
}

pub(super) fn mount_point(mount: &Mount, context: &Context) -> Option<Value> {
    let mut fields = Vec::new();
    let (kind, source, driver, read_only, propagation, options) = match mount {
        Mount::Bind(bind) => {
            let recursion = if bind.non_recursive { "bind" } else { "rbind" };
            let options = bind.options.iter().cloned().chain(extras(bind.chown, &bind.overlay));
            let options = options.chain([recursion.to_owned()]).collect::<Vec<_>>();
            ("bind", bind.source.clone(), "", bind.read_only, bind.propagation, options)
        }
        Mount::Volume(volume) => {
            let name = volume.name.clone().unwrap_or_default();
            let source = context.layout.volume(&name).join("_data");
            let options = volume.options.iter().cloned().chain(extras(volume.chown, &volume.overlay));
            let options = options.chain(["rbind".to_owned()]).collect::<Vec<_>>();
            ("volume", source, "local", volume.read_only, volume.propagation, options)
        }
        Mount::Image(image) => ("image", image.image.clone().into(), "", !image.writable, None, Vec::new()),
        Mount::Tmpfs(_) | Mount::Devpts(_) => return None,
    };
    fields.push(("Type", kind.into()));
    if let Mount::Volume(volume) = mount {
        fields.push(("Name", volume.name.clone().unwrap_or_default().into()));
    }
    fields.extend([
        ("Source", source.display().to_string().into()),
        ("Destination", mount.target().display().to_string().into()),
        ("Driver", driver.into()),
        ("Mode", "".into()),
        ("Options", Value::strings(options)),
        ("RW", (!read_only).into()),
        ("Propagation", propagation.map_or("rprivate", |propagation| propagation.as_str()).into()),
    ]);
    Some(Value::Struct(fields))
}

/// `U` and `O`, as they were asked for.
fn extras(chown: bool, overlay: &Option<Overlay>) -> impl Iterator<Item = String> {
    let directories = overlay.iter().flat_map(|overlay| {
        let named = [("upperdir", &overlay.upper), ("workdir", &overlay.work)];
        named.into_iter().filter_map(|(key, path)| Some(format!("{key}={}", path.as_ref()?.display())))
    });
    let words = [chown.then_some("U"), overlay.is_some().then_some("O")];
    words.into_iter().flatten().map(str::to_owned).chain(directories.collect::<Vec<_>>())
}

/// A mount as `-v` would have it.
pub(super) fn bind(mount: &Mount) -> Option<String> {
    let (source, read_only, propagation, options) = match mount {
        Mount::Bind(bind) => {
            let options = bind.options.iter().cloned().chain(extras(bind.chown, &bind.overlay));
            (bind.source.display().to_string(), bind.read_only, bind.propagation, options)
        }
        Mount::Volume(volume) => {
            let options = volume.options.iter().cloned().chain(extras(volume.chown, &volume.overlay));
            (volume.name.clone().unwrap_or_default(), volume.read_only, volume.propagation, options)
        }
        Mount::Tmpfs(_) | Mount::Image(_) | Mount::Devpts(_) => return None,
    };
    let propagation = propagation.map_or("rprivate", |propagation| propagation.as_str());
    let mut words = vec![(if read_only { "ro" } else { "rw" }).to_owned(), propagation.to_owned()];
    words.extend(options);
    words.push("rbind".to_owned());
    Some(format!("{source}:{}:{}", mount.target().display(), words.join(",")))
}
