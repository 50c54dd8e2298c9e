//! A bundle that was made by somebody else: read, checked, and refused where we could not keep what it says.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};
use runtime::bundle::{validate_bundle, validate_process};

use crate::error::{CommandError, reason};

/// Nobody's configuration is larger.
const CONFIG_MAX_BYTES: u64 = 16 << 20;

/// A bundle.
#[derive(Debug)]
pub(super) struct Bundle {
    /// Its directory, absolute.
    pub(super) path: PathBuf,
    /// `config.json`, as it is.
    pub(super) text: Vec<u8>,
    /// What it says.
    pub(super) spec: Spec,
    /// The root file system, absolute.
    pub(super) rootfs: PathBuf,
}

impl Bundle {
    /// Reads the bundle in a directory; `config` is another name for its `config.json`.
    pub(super) fn open(directory: &Path, config: Option<&Path>) -> Result<Bundle, CommandError> {
        let failed = |path: &Path, error| CommandError::user(format_args!("{}: {}", path.display(), reason(&error)));
        let path = directory.canonicalize().map_err(|error| failed(directory, error))?;
        let config = path.join(config.unwrap_or(Path::new("config.json")));
        let text = read(&config)?;
        let spec = parse(&config, &text)?;
        let refused = |error: &dyn std::fmt::Display| CommandError::user(format_args!("{}: {error}", config.display()));
        validate_bundle(&spec).map_err(|error| refused(&error))?;
        supported(&spec).map_err(|error| refused(&error))?;
        let named = spec.root().as_ref().map(|root| path.join(root.path())).unwrap_or_default();
        let rootfs = named
            .canonicalize()
            .map_err(|error| refused(&format!("root.path: {}: {}", named.display(), reason(&error))))?;
        if !rootfs.is_dir() {
            return Err(refused(&format!("root.path: {}: not a directory", named.display())));
        }
        Ok(Bundle { path, text, spec, rootfs })
    }
}

/// Reads a file of JSON.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, CommandError> {
    let mut text = Vec::new();
    let file = File::open(path).and_then(|file| file.take(CONFIG_MAX_BYTES + 1).read_to_end(&mut text));
    file.map_err(|error| CommandError::user(format_args!("{}: {}", path.display(), reason(&error))))?;
    if text.len() as u64 > CONFIG_MAX_BYTES {
        return Err(CommandError::user(format_args!("{}: larger than {CONFIG_MAX_BYTES} bytes", path.display())));
    }
    Ok(text)
}

/// Parses a configuration.
pub(super) fn parse(path: &Path, text: &[u8]) -> Result<Spec, CommandError> {
    serde_json::from_slice(text).map_err(|error| CommandError::user(format_args!("{}: {error}", path.display())))
}

/// Checks a process that is to run in a container that there is.
pub(super) fn check_process(process: &Process) -> Result<(), CommandError> {
    validate_process(process).map_err(CommandError::user)?;
    supported_process(process).map_err(CommandError::user)
}

/// What a bundle may not ask for.
fn supported(spec: &Spec) -> Result<(), String> {
    let refuse = |object: &str, why: &str| Err(format!("{object}: {why}"));
    if let Some(process) = spec.process() {
        supported_process(process)?;
    }
    for mount in spec.mounts().iter().flatten() {
        let is_id_mapped = mount.uid_mappings().as_ref().is_some_and(|map| !map.is_empty());
        let asks = |option: &String| ["idmap", "ridmap"].contains(&option.split('=').next().unwrap_or_default());
        if is_id_mapped || mount.options().iter().flatten().any(asks) {
            let object = format!("mounts: {}", mount.destination().display());
            return refuse(&object, "mounts with ids of their own are not supported");
        }
    }
    let Some(linux) = spec.linux() else { return refuse("linux", "missing") };
    for namespace in linux.namespaces().iter().flatten() {
        match namespace.typ() {
            LinuxNamespaceType::Time if namespace.path().is_none() => {
                return refuse("linux.namespaces: time", "new time namespaces are not supported");
            }
            LinuxNamespaceType::Mount if namespace.path().is_some() => {
                return refuse("linux.namespaces: mount", "a mount namespace cannot be joined");
            }
            _ => {}
        }
    }
    let is_given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    if linux.time_offsets().as_ref().is_some_and(|all| !all.is_empty()) {
        return refuse("linux.timeOffsets", "time namespaces are not supported");
    }
    if is_given(linux.mount_label()) {
        return refuse("linux.mountLabel", "SELinux labels are not supported");
    }
    if linux.intel_rdt().is_some() {
        return refuse("linux.intelRdt", "not supported");
    }
    if linux.personality().is_some() {
        return refuse("linux.personality", "not supported");
    }
    if linux.memory_policy().is_some() {
        return refuse("linux.memoryPolicy", "not supported");
    }
    if linux.net_devices().as_ref().is_some_and(|all| !all.is_empty()) {
        return refuse("linux.netDevices", "network devices of the host cannot be moved without root");
    }
    if let Some(seccomp) = linux.seccomp()
        && is_given(&seccomp.listener_path().as_ref().map(|path| path.display().to_string()))
    {
        return refuse("linux.seccomp.listenerPath", "notifications are not supported");
    }
    Ok(())
}

fn supported_process(process: &Process) -> Result<(), String> {
    let refuse = |object: &str, why: &str| Err(format!("process.{object}: {why}"));
    let is_given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    if is_given(process.apparmor_profile()) && process.apparmor_profile().as_deref() != Some("unconfined") {
        return refuse("apparmorProfile", "AppArmor profiles cannot be applied without root");
    }
    if is_given(process.selinux_label()) {
        return refuse("selinuxLabel", "SELinux labels are not supported");
    }
    if process.scheduler().is_some() {
        return refuse("scheduler", "not supported");
    }
    if process.io_priority().is_some() {
        return refuse("ioPriority", "not supported");
    }
    if process.exec_cpu_affinity().is_some() {
        return refuse("execCPUAffinity", "not supported");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(process: &str, linux: &str, mounts: &str) -> Result<(), String> {
        let text = format!(
            r#"{{"ociVersion": "1.2.0", "root": {{"path": "r"}}, "mounts": [{mounts}],
                "process": {{"user": {{"uid": 0, "gid": 0}}, "cwd": "/", "args": ["sh"]{process}}},
                "linux": {{"namespaces": [{{"type": "mount"}}]{linux}}}}}"#
        );
        let spec = parse(Path::new("config.json"), text.as_bytes()).unwrap();
        validate_bundle(&spec).unwrap();
        supported(&spec)
    }

    #[test]
    fn what_could_not_be_kept_is_refused_by_name() {
        with("", "", "").unwrap();
        with(r#", "apparmorProfile": "", "selinuxLabel": """#, r#", "mountLabel": """#, "").unwrap();
        for (process, linux, mounts, object) in [
            (r#", "apparmorProfile": "x""#, "", "", "process.apparmorProfile: "),
            (r#", "selinuxLabel": "x""#, "", "", "process.selinuxLabel: "),
            (r#", "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 1}"#, "", "", "process.ioPriority: "),
            ("", r#", "timeOffsets": {"monotonic": {"secs": 1}}"#, "", "linux.timeOffsets: "),
            ("", r#", "personality": {"domain": "LINUX32"}"#, "", "linux.personality: "),
            ("", "", r#"{"destination": "/x", "source": "/y", "options": ["bind", "idmap"]}"#, "mounts: /x: "),
        ] {
            let error = with(process, linux, mounts).unwrap_err();
            assert!(error.starts_with(object), "{error}");
        }
    }
}
