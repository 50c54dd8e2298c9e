//! A volume, as `volume inspect` shows it.

use storage::volume::Volume;

use crate::cli::format::Value;
use crate::commands::Context;

/// Everything about a volume.
pub(crate) fn describe(volume: &Volume, context: &Context) -> Value {
    let mut fields = vec![
        ("Name", volume.name.as_str().into()),
        ("Driver", "local".into()),
        ("Mountpoint", volume.mountpoint(&context.layout).display().to_string().into()),
        ("CreatedAt", Value::Time(Some(volume.created))),
        ("Labels", Value::map(&volume.labels)),
        ("Scope", "local".into()),
        ("Options", Value::map(&volume.options)),
    ];
    fields.extend([("UID", Value::Int(0).omitempty()), ("GID", Value::Int(0).omitempty())]);
    fields.push(("Anonymous", Value::from(volume.anonymous).omitempty()));
    let data = volume.mountpoint(&context.layout);
    let is_empty = std::fs::read_dir(&data).is_ok_and(|mut entries| entries.next().is_none());
    fields.push(("MountCount", Value::Int(0)));
    fields.extend(["NeedsCopyUp", "NeedsChown"].map(|name| (name, Value::from(is_empty).omitempty())));
    fields.extend([("Timeout", Value::Int(0).omitempty()), ("StorageID", Value::from("").omitempty())]);
    Value::Struct(fields)
}
