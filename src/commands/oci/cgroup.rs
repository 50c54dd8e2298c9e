//! The cgroup of a container, where one can be made.

use std::path::Path;

use oci_spec::runtime::Spec;
use runtime::cgroup::Cgroup;
use runtime::cgroup::resources::{self, Setting};

use super::log::{Level, Log};
use crate::error::{CommandError, reason};

/// How it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manager {
    /// Where the bundle says.
    Cgroupfs,
    /// Beside the caller's, by the name that systemd would give it.
    Systemd,
    /// Not at all.
    Disabled,
}

/// Makes the cgroup that the bundle asks for and sets its limits. A bundle without limits goes without where the user may
/// not make one.
pub(super) fn make(spec: &Spec, manager: Manager, log: &Log) -> Result<Option<Cgroup>, CommandError> {
    let Some(linux) = spec.linux() else { return Ok(None) };
    let settings = linux.resources().as_ref().map(resources::settings).transpose()?.unwrap_or_default();
    let path = linux.cgroups_path().as_deref().filter(|path| !path.as_os_str().is_empty());
    let made = match (manager, path) {
        (Manager::Disabled, _) => Err("cgroups are disabled".to_owned()),
        (_, None) if settings.is_empty() => return Ok(None),
        (_, None) => Err("linux.cgroupsPath is missing".to_owned()),
        (Manager::Systemd, Some(path)) => {
            let name = scope(path)?;
            Cgroup::create(&name).ok_or_else(|| format!("{name}: the user may not make a cgroup"))
        }
        (Manager::Cgroupfs, Some(path)) => {
            Cgroup::create_at(path).map_err(|error| format!("{}: {}", path.display(), reason(&error)))
        }
    };
    let cgroup = match made {
        Ok(cgroup) => cgroup,
        Err(why) if settings.is_empty() => {
            log.line(Level::Debug, format_args!("no cgroup of its own: {why}"));
            return Ok(None);
        }
        Err(why) => {
            let what = settings.iter().map(|(file, _)| file.as_str()).collect::<Vec<_>>().join(", ");
            return Err(CommandError::host(format_args!("linux.resources: {what} cannot be set: {why}")));
        }
    };
    match limit(&cgroup, &settings) {
        Ok(()) => Ok(Some(cgroup)),
        Err(error) => {
            let _ = cgroup.remove();
            Err(error)
        }
    }
}

/// Sets limits.
pub(super) fn limit(cgroup: &Cgroup, settings: &[Setting]) -> Result<(), CommandError> {
    resources::apply(cgroup.path(), settings).map_err(CommandError::from)
}

/// `slice:prefix:name` is `prefix-name.scope`.
fn scope(path: &Path) -> Result<String, CommandError> {
    let text = path.to_string_lossy();
    let parts: Vec<&str> = text.split(':').collect();
    match parts[..] {
        [_, prefix, name] if !name.is_empty() && !text.contains('/') => Ok(match prefix {
            "" => format!("{name}.scope"),
            prefix => format!("{prefix}-{name}.scope"),
        }),
        _ => Err(CommandError::user(format_args!("linux.cgroupsPath: {text}: systemd's form is SLICE:PREFIX:NAME"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_named_as_systemd_would() {
        assert_eq!(scope(Path::new("user.slice:libpod:1f")).unwrap(), "libpod-1f.scope");
        assert_eq!(scope(Path::new("::x")).unwrap(), "x.scope");
        for path in ["/a/b", "a:b", "a:b:", "a:../b:c"] {
            assert!(scope(Path::new(path)).is_err(), "{path}");
        }
    }
}
