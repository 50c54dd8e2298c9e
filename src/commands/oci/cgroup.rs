//! The cgroup of a container, where one can be made.

use std::path::Path;

use oci_spec::runtime::Spec;
use runtime::cgroup::manager::{self, ManagerError, Scope};
use runtime::cgroup::resources::{self, Setting};
use runtime::cgroup::{Cgroup, hand_on};

use super::log::{Level, Log};
use crate::error::{CommandError, reason};

/// How it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manager {
    /// Where the bundle says.
    Cgroupfs,
    /// In a scope of the user's systemd; where there is none, beside the caller's by the name of that scope.
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
            let (slice, name) = scope(path)?;
            match in_scope(slice, &name, &settings) {
                Err(ManagerError::Unreachable) => {
                    Cgroup::create(&name).ok_or_else(|| format!("{name}: the user may not make a cgroup"))
                }
                made => made.map_err(|error| error.to_string()),
            }
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

/// The container's cgroup in a scope. We move there ourselves, as nobody may be born in what is not below the same delegated
/// cgroup as the one we are in; the scope goes with the last process in it.
fn in_scope(slice: &str, name: &str, settings: &[Setting]) -> Result<Cgroup, ManagerError> {
    let pid = std::process::id().cast_signed();
    let description = format!("Container {}", name.trim_end_matches(".scope"));
    let slice = if slice.is_empty() { "user.slice" } else { slice };
    manager::ask(&Scope { name, description: &description, slice: Some(slice), of_slice: &[], pid })?.wait()?;
    let made = || {
        let scope = Cgroup::of_process(pid).ok_or(std::io::ErrorKind::NotFound)?;
        // Processes and controllers for those below exclude each other.
        hand_on(&scope, &settings.iter().filter_map(resources::controller).collect(), true)?;
        Cgroup::create_in(&scope, CONTAINER)
    };
    made().map_err(ManagerError::Silent)
}

/// The container's cgroup in its scope; crun's name for it.
const CONTAINER: &str = "container";

/// Sets limits.
pub(super) fn limit(cgroup: &Cgroup, settings: &[Setting]) -> Result<(), CommandError> {
    resources::apply(cgroup.path(), settings).map_err(CommandError::from)
}

/// `slice:prefix:name` is `prefix-name.scope` in that slice.
fn scope(path: &Path) -> Result<(&str, String), CommandError> {
    let text = path.to_str().unwrap_or_default();
    let parts: Vec<&str> = text.split(':').collect();
    match parts[..] {
        [slice, prefix, name] if !name.is_empty() && !text.contains('/') => Ok(match prefix {
            "" => (slice, format!("{name}.scope")),
            prefix => (slice, format!("{prefix}-{name}.scope")),
        }),
        _ => {
            let path = path.display();
            Err(CommandError::user(format_args!("linux.cgroupsPath: {path}: systemd's form is SLICE:PREFIX:NAME")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_named_as_systemd_would() {
        let scope = |path: &'static str| scope(Path::new(path));
        assert_eq!(scope("user.slice:libpod:1f").unwrap(), ("user.slice", "libpod-1f.scope".to_owned()));
        assert_eq!(scope("::x").unwrap(), ("", "x.scope".to_owned()));
        for path in ["/a/b", "a:b", "a:b:", "a:../b:c"] {
            assert!(scope(path).is_err(), "{path}");
        }
    }
}
