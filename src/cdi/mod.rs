//! Devices by name: what the specifications of the Container Device Interface (CDI) say a container gets.
//!
//! **Runs in:** the CLI, when a bundle is made: each start asks the files anew, since a driver's update changes them. Reads
//! files and changes none.

mod spec;

use std::path::PathBuf;

use oci_spec::runtime::{Hook, HooksBuilder, Mount as OciMount, Spec as OciSpec};
use runtime::bundle::{DeviceBind, Options, defaults};
use storage::state::request::{Namespace, Request};

use crate::error::{CommandError, reason};
use spec::{Catalogue, Edits};

/// The class that `--gpus` means.
const GPU: &str = "nvidia.com/gpu";

/// The only hooks that are run.
const CREATE_CONTAINER: &str = "createContainer";

/// What becomes of the devices that a container was asked to have.
#[derive(Debug, Default)]
pub(crate) struct Injection {
    env: Vec<String>,
    devices: Vec<DeviceBind>,
    mounts: Vec<OciMount>,
    hooks: Vec<Hook>,
    groups: Vec<u32>,
}

/// Whether this names a device: `vendor.com/class=name`.
///
/// # Source
/// Container Device Interface, `SPEC.md`, "Kind" and "Device".
pub(crate) fn is_qualified(text: &str) -> bool {
    let Some((kind, name)) = text.split_once('=') else { return false };
    let Some((vendor, class)) = kind.split_once('/') else { return false };
    let is_word = |word: &str, more: &[u8], starts: fn(&u8) -> bool| {
        word.as_bytes().first().is_some_and(starts)
            && word.as_bytes().last().is_some_and(u8::is_ascii_alphanumeric)
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
    };
    is_word(vendor, b"_-.", u8::is_ascii_alphabetic)
        && is_word(class, b"_-", u8::is_ascii_alphabetic)
        && is_word(name, b"_-.:", u8::is_ascii_alphanumeric)
}

/// The devices that a value of `--gpus` names: `all`, the number or name of one, or docker's `device=0,1`.
pub(crate) fn gpus(value: &str) -> Result<Vec<String>, String> {
    let value = value.trim_matches('"');
    let names = match value.strip_prefix("device=") {
        Some(names) => names,
        None if matches!(value, "" | "none") => return Ok(Vec::new()),
        None if value.contains([',', '=']) => {
            return Err("must be all, the number or name of a device, or device=NAME[,NAME...]".to_owned());
        }
        None => value,
    };
    let names: Vec<_> = names.split(',').map(|name| format!("{GPU}={name}")).collect();
    match names.iter().find(|name| !is_qualified(name)) {
        Some(name) => Err(format!("{name:?} is no name of a device")),
        None => Ok(names),
    }
}

/// Where specifications are, if nothing else is said.
fn directories() -> Vec<PathBuf> {
    let of = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = of("XDG_CONFIG_HOME").or_else(|| of("HOME").map(|home| home.join(".config")));
    ["/etc/cdi", "/var/run/cdi"].into_iter().map(PathBuf::from).chain(config.map(|config| config.join("cdi"))).collect()
}

/// Finds the devices of a container.
///
/// # Errors
/// Those that no specification has, or what one asks for and cannot have.
pub(crate) fn resolve(request: &Request) -> Result<Injection, CommandError> {
    let names = &request.cdi_devices;
    if names.is_empty() {
        return Ok(Injection::default());
    }
    let directories = if request.cdi_spec_dirs.is_empty() { directories() } else { request.cdi_spec_dirs.clone() };
    let all = Catalogue::read(&directories);
    let unknown: Vec<_> = names.iter().filter(|name| all.find(name).is_none()).map(String::as_str).collect();
    if !unknown.is_empty() {
        let why = format!("setting up CDI devices: unresolvable CDI devices {}", unknown.join(", "));
        let hints = all.failures.iter().map(|failure| format!("not used: {failure}"));
        return Err(hints.fold(CommandError::user(why), CommandError::hinted));
    }
    let mut found = Injection::default();
    let (mut specs, mut devices) = (Vec::new(), Vec::new());
    for name in names {
        let Some((spec, of_all, own)) = all.find(name) else { continue };
        if devices.contains(&name) {
            continue;
        }
        devices.push(name);
        let fail = |why: String| CommandError::user(format!("device {name}: {why}"));
        if !specs.contains(&spec) {
            specs.push(spec);
            found.add(of_all).map_err(fail)?;
        }
        found.add(own).map_err(fail)?;
        if !found.hooks.is_empty() && request.pid != Namespace::Private {
            // They run before the container has its root: who sees them among its processes could follow them to the host.
            return Err(fail("its hooks need a PID namespace of the container's own".to_owned()));
        }
    }
    Ok(found)
}

impl Injection {
    fn add(&mut self, edits: &Edits) -> Result<(), String> {
        if !edits.net_devices.is_empty() {
            return Err("network devices of the host cannot be moved without root".to_owned());
        }
        if edits.intel_rdt.is_some() {
            return Err("classes of cache and memory bandwidth (RDT) cannot be set without root".to_owned());
        }
        for pair in &edits.env {
            if pair.find('=').is_none_or(|at| at == 0) || pair.contains('\0') {
                return Err(format!("invalid environment variable {pair:?}"));
            }
            self.env.push(pair.clone());
        }
        for node in &edits.device_nodes {
            let source = node.host_path.clone().filter(|path| !path.as_os_str().is_empty());
            let source = source.unwrap_or_else(|| node.path.clone());
            if !node.path.is_absolute() || !source.is_absolute() {
                return Err(format!("{}: not an absolute path", node.path.display()));
            }
            check_node(&source).map_err(|why| format!("{}: {why}", source.display()))?;
            self.devices.retain(|other| other.target != node.path);
            self.devices.push(DeviceBind {
                source,
                target: node.path.clone(),
                read_only: !node.permissions.is_empty() && !node.permissions.contains('w'),
            });
        }
        for mount in &edits.mounts {
            self.mounts.push(to_oci(mount)?);
        }
        for hook in &edits.hooks {
            if hook.hook_name != CREATE_CONTAINER {
                return Err(format!("it needs a {} hook: {CREATE_CONTAINER} hooks alone are run", hook.hook_name));
            }
            if !hook.path.is_absolute() {
                return Err(format!("hook {}: not an absolute path", hook.path.display()));
            }
            let mut made = Hook::default();
            made.set_path(hook.path.clone()).set_timeout(hook.timeout);
            made.set_args((!hook.args.is_empty()).then(|| hook.args.clone()));
            made.set_env((!hook.env.is_empty()).then(|| hook.env.clone()));
            self.hooks.push(made);
        }
        // Group 0 is what a specification has that means none.
        self.groups.extend(edits.additional_gids.iter().filter(|gid| **gid != 0));
        Ok(())
    }

    /// Whether something runs before the container has its root.
    pub(crate) fn has_hooks(&self) -> bool {
        !self.hooks.is_empty()
    }

    /// Adds what is decided before the container's mounts are.
    pub(crate) fn add_to(&mut self, options: &mut Options) {
        for pair in std::mem::take(&mut self.env) {
            let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
            options.env.retain(|other| name(other) != name(&pair));
            options.env.push(pair);
        }
        for device in std::mem::take(&mut self.devices) {
            options.devices.retain(|other| other.target != device.target);
            options.devices.push(device);
        }
        let mut groups = options.user.additional_gids().clone().unwrap_or_default();
        for gid in std::mem::take(&mut self.groups) {
            if !groups.contains(&gid) {
                groups.push(gid);
            }
        }
        options.user.set_additional_gids((!groups.is_empty()).then_some(groups));
    }

    /// Its mounts: over those that were asked for at the same place.
    pub(crate) fn take_mounts(&mut self) -> Vec<OciMount> {
        std::mem::take(&mut self.mounts)
    }

    /// Adds its hooks to the bundle.
    pub(crate) fn add_hooks(self, spec: &mut OciSpec) -> Result<(), CommandError> {
        if self.hooks.is_empty() {
            return Ok(());
        }
        let hooks = HooksBuilder::default().create_container(self.hooks).build().map_err(CommandError::user)?;
        spec.set_hooks(Some(hooks));
        Ok(())
    }
}

fn check_node(path: &std::path::Path) -> Result<(), String> {
    use std::os::unix::fs::FileTypeExt;
    let kind = std::fs::metadata(path).map_err(|error| reason(&error))?.file_type();
    if kind.is_char_device() || kind.is_block_device() { Ok(()) } else { Err("not a device node".to_owned()) }
}

fn to_oci(mount: &spec::Mount) -> Result<OciMount, String> {
    const PROPAGATION: [&str; 8] =
        ["private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable"];
    let (source, target) = (&mount.host_path, &mount.container_path);
    if !target.is_absolute() {
        return Err(format!("mount {:?}: not an absolute path", target.display()));
    }
    match mount.kind.as_str() {
        "tmpfs" => return Ok(defaults::tmpfs(target, &mount.options, false)),
        "" | "bind" | "none" => {}
        other => return Err(format!("mount {}: type {other:?} is not possible", target.display())),
    }
    if !source.is_absolute() {
        return Err(format!("mount {:?}: not an absolute path", source.display()));
    }
    std::fs::metadata(source).map_err(|error| format!("mount {}: {}", source.display(), reason(&error)))?;
    let has = |word: &str| mount.options.iter().any(|option| option == word);
    let is_propagation = |option: &&String| PROPAGATION.contains(&option.as_str());
    let propagation = mount.options.iter().find(is_propagation);
    let rest = mount
        .options
        .iter()
        .filter(|option| !is_propagation(option) && !matches!(option.as_str(), "ro" | "rw" | "bind" | "rbind"));
    let rest: Vec<_> = rest.cloned().collect();
    let is_recursive = has("rbind") || !has("bind");
    Ok(defaults::bind(source, target, has("ro"), is_recursive, propagation.map(String::as_str), &rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edits(text: &str) -> Edits {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn names_of_devices_are_qualified() {
        for text in ["nvidia.com/gpu=all", "nvidia.com/gpu=GPU-1a:0", "v/c=0", "my-vendor.io/my_class=a.b"] {
            assert!(is_qualified(text), "{text}");
        }
        for text in ["", "=", "/=", "v/c", "v/c=", "v/=x", "/c=x", "1v/c=x", "v/c=-x", "v/c=x=y", "v/c/d=x", "/dev/a=b"]
        {
            assert!(!is_qualified(text), "{text}");
        }
    }

    #[test]
    fn gpus_are_devices_of_one_class() {
        for (text, expected) in [
            ("all", &["nvidia.com/gpu=all"][..]),
            ("2", &["nvidia.com/gpu=2"]),
            ("device=0", &["nvidia.com/gpu=0"]),
            ("\"device=0,GPU-x\"", &["nvidia.com/gpu=0", "nvidia.com/gpu=GPU-x"]),
            ("none", &[]),
            ("", &[]),
        ] {
            assert_eq!(gpus(text).unwrap(), expected, "{text}");
        }
        for text in ["count=1", "0,1", "driver=amd,count=1", "device=", "device=0,", "a b"] {
            assert!(gpus(text).is_err(), "{text}");
        }
    }

    #[test]
    fn edits_win_over_what_was_asked_for() {
        let mut found = Injection::default();
        found
            .add(&edits(
                r#"{"env": ["A=cdi", "B=1"], "deviceNodes": [{"path": "/dev/x", "hostPath": "/dev/null", "permissions": "r"}],
                    "additionalGids": [0, 7, 9]}"#,
            ))
            .unwrap();
        let mut options = Options { env: vec!["A=asked".to_owned(), "C=2".to_owned()], ..Options::default() };
        options.user.set_additional_gids(Some(vec![7]));
        options.devices.push(DeviceBind { source: "/dev/zero".into(), target: "/dev/x".into(), read_only: false });
        found.add_to(&mut options);
        assert_eq!(options.env, ["C=2", "A=cdi", "B=1"]);
        assert_eq!(options.devices.len(), 1);
        assert_eq!((options.devices[0].source.to_str(), options.devices[0].read_only), (Some("/dev/null"), true));
        assert_eq!(options.user.additional_gids().as_deref(), Some(&[7, 9][..]));
    }

    #[test]
    fn what_cannot_be_had_is_refused() {
        for (text, why) in [
            (r#"{"hooks": [{"hookName": "poststop", "path": "/bin/true"}]}"#, "poststop hook"),
            (r#"{"hooks": [{"hookName": "createContainer", "path": "true"}]}"#, "not an absolute path"),
            (r#"{"netDevices": [{"hostInterfaceName": "eth0", "name": "e"}]}"#, "without root"),
            (r#"{"intelRdt": {"closID": "x"}}"#, "without root"),
            (r#"{"env": ["=x"]}"#, "invalid environment variable"),
            (r#"{"deviceNodes": [{"path": "/dev/no-such-device"}]}"#, "no such file or directory"),
            (r#"{"deviceNodes": [{"path": "/etc/passwd"}]}"#, "not a device node"),
            (r#"{"mounts": [{"hostPath": "/no/such", "containerPath": "/x"}]}"#, "no such file or directory"),
            (r#"{"mounts": [{"hostPath": "/", "containerPath": "x"}]}"#, "not an absolute path"),
            (r#"{"mounts": [{"hostPath": "/", "containerPath": "/x", "type": "ext4"}]}"#, "not possible"),
        ] {
            let error = Injection::default().add(&edits(text)).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
