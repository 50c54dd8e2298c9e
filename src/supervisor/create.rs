//! A new container on disk: its lock, directories, name, record and bundle.
//!
//! **Runs in:** S; `coracle create` writes its bundles with `write_bundle`, in the storage child.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use oci_spec::runtime::Spec;
use storage::state::atomic::Durability;
use storage::state::container::{Creation, Record};
use storage::state::layout::Layout;
use storage::state::lock::FileLock;

use super::launch::{Birth, Launch, Seccomp};
use crate::error::CommandError;

/// Creates the container: lock, directories, name, record, bundle.
pub(super) fn create(launch: &mut Launch) -> Result<FileLock, CommandError> {
    let Birth::New { name } = &launch.birth else {
        return Err(CommandError::new(crate::error::Kind::Internal, "the container exists already"));
    };
    let layout = launch.layout.clone();
    let mut creation = Creation::begin(&layout, launch.record.id.clone()).map_err(CommandError::host)?;
    launch.record.name = match name {
        Some(name) => {
            creation.claim_name(name).map_err(CommandError::host)?;
            name.clone()
        }
        None => creation.claim_random_name().map_err(CommandError::host)?,
    };
    write_bundle(&layout, &launch.record, &launch.spec, launch.seccomp.as_ref())?;
    let durability = if launch.record.request.remove { Durability::None } else { Durability::Data };
    let published = creation.publish(&launch.record, durability).map_err(CommandError::host);
    launch.ids = None;
    published
}

/// Writes what stands beside the record: `config.json` and the writable directories.
pub(crate) fn write_bundle(
    layout: &Layout,
    record: &Record,
    spec: &Spec,
    seccomp: Option<&Seccomp>,
) -> Result<(), CommandError> {
    let directory = layout.container(&record.id);
    let fail = |path: std::path::PathBuf| {
        move |error: std::io::Error| {
            CommandError::host(format!("create {}: {}", path.display(), crate::error::reason(&error)))
        }
    };
    if record.request.rootfs.is_none() {
        for name in ["upper", "work"] {
            let path = directory.join(name);
            // The upper directory becomes the container's root directory: the caller's umask has no say in it.
            let made = std::fs::create_dir(&path);
            let made = made.and_then(|()| std::fs::set_permissions(&path, Permissions::from_mode(0o755)));
            made.map_err(fail(path))?;
        }
    }
    let path = directory.join("config.json");
    std::fs::write(&path, config_json(spec, seccomp.map(|seccomp| seccomp.json.as_ref()))?).map_err(fail(path))
}

/// The text of `config.json`. The system call filter's section is long and known as text: it is put in its place
/// instead of being made of objects. The place is unambiguous, since in a JSON string the quotes would be escaped.
fn config_json(spec: &Spec, seccomp: Option<&str>) -> Result<String, CommandError> {
    let internal = |error: &dyn std::fmt::Display| CommandError::new(crate::error::Kind::Internal, error);
    let mut text = serde_json::to_string(spec).map_err(|error| internal(&error))?;
    if let Some(seccomp) = seccomp {
        let key = "\"linux\":{";
        let place = text.find(key).ok_or_else(|| internal(&"a specification without a linux section"))? + key.len();
        text.insert_str(place, &format!("\"seccomp\":{seccomp},"));
    }
    Ok(text)
}
