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
    if volume.anonymous {
        fields.push(("Anonymous", true.into()));
    }
    let data = volume.mountpoint(&context.layout);
    let is_empty = std::fs::read_dir(&data).is_ok_and(|mut entries| entries.next().is_none());
    fields.push(("MountCount", Value::Int(0)));
    if is_empty {
        fields.push(("NeedsCopyUp", true.into()));
        fields.push(("NeedsChown", true.into()));
    }
    Value::Struct(fields)
}
