//! The files that describe devices: their format, where they are, which of them counts.
//!
//! ```text
//! /etc/cdi  <  /var/run/cdi  <  $XDG_CONFIG_HOME/cdi      *.json, *.yaml; the last directory that has a device counts
//! ```
//! Two files of one directory with the same device cancel each other out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::is_qualified;
use crate::error::reason;

/// One file.
///
/// # Source
/// Container Device Interface, `SPEC.md`, versions 0.2.0 to 1.1.0.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Spec {
    cdi_version: String,
    kind: String,
    pub(super) devices: Vec<Device>,
    pub(super) container_edits: Edits,
}

/// One device of a file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Device {
    name: String,
    pub(super) container_edits: Edits,
}

/// What a container gets.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Edits {
    pub(super) env: Vec<String>,
    pub(super) device_nodes: Vec<DeviceNode>,
    pub(super) mounts: Vec<Mount>,
    pub(super) hooks: Vec<Hook>,
    pub(super) additional_gids: Vec<u32>,
    pub(super) net_devices: Vec<IgnoredAny>,
    pub(super) intel_rdt: Option<IgnoredAny>,
}

/// A device of the host. Numbers, owner and mode are those that it has there.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct DeviceNode {
    pub(super) path: PathBuf,
    pub(super) host_path: Option<PathBuf>,
    pub(super) permissions: String,
}

/// A mount.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Mount {
    pub(super) host_path: PathBuf,
    pub(super) container_path: PathBuf,
    pub(super) options: Vec<String>,
    #[serde(rename = "type")]
    pub(super) kind: String,
}

/// A program to be run.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Hook {
    pub(super) hook_name: String,
    pub(super) path: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) timeout: Option<i64>,
}

/// All devices that there are.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    specs: Vec<Spec>,
    /// By qualified name; `None` where two files have it.
    devices: BTreeMap<String, Option<(usize, usize)>>,
    /// Why files, or devices, are not among them.
    pub(super) failures: Vec<String>,
}

impl Catalogue {
    /// Reads the files of these directories, the first of which counts least.
    pub(super) fn read(directories: &[PathBuf]) -> Self {
        let mut all = Self::default();
        for directory in directories {
            let mut here: BTreeMap<String, Option<(usize, usize)>> = BTreeMap::new();
            for path in files(directory) {
                let spec = match load(&path) {
                    Ok(spec) => spec,
                    Err(why) => {
                        all.failures.push(format!("{}: {why}", path.display()));
                        continue;
                    }
                };
                for (number, device) in spec.devices.iter().enumerate() {
                    let name = format!("{}={}", spec.kind, device.name);
                    let place = Some((all.specs.len(), number));
                    here.entry(name.clone())
                        .and_modify(|known| {
                            all.failures.push(format!("{}: {name} is in another file, too", path.display()));
                            *known = None;
                        })
                        .or_insert(place);
                }
                all.specs.push(spec);
            }
            all.devices.append(&mut here);
        }
        all
    }

    /// The device of this name: the number of its file, what that gives to all its devices, and what the device gives.
    pub(super) fn find(&self, name: &str) -> Option<(usize, &Edits, &Edits)> {
        let (spec, device) = (*self.devices.get(name)?)?;
        let found = self.specs.get(spec)?;
        Some((spec, &found.container_edits, &found.devices.get(device)?.container_edits))
    }
}

/// The files of a directory that describe devices, by name; none if it cannot be read, as if it were not there.
fn files(directory: &Path) -> Vec<PathBuf> {
    let is_spec = |path: &PathBuf| path.extension().is_some_and(|end| end == "json" || end == "yaml") && !path.is_dir();
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries.map(|entry| entry.path()).filter(is_spec).collect();
    found.sort();
    found
}

fn load(path: &Path) -> Result<Spec, String> {
    let text = std::fs::read_to_string(path).map_err(|error| reason(&error))?;
    let spec: Spec = if path.extension().is_some_and(|end| end == "json") {
        serde_json::from_str(&text).map_err(|error| error.to_string())?
    } else {
        serde_saphyr::from_str(&text).map_err(|error| error.without_snippet().to_string())?
    };
    check(&spec)?;
    Ok(spec)
}

fn check(spec: &Spec) -> Result<(), String> {
    if !matches!(spec.cdi_version.split_once('.'), Some(("0" | "1", _))) {
        return Err(format!("cdiVersion {:?} is not known", spec.cdi_version));
    }
    for (number, device) in spec.devices.iter().enumerate() {
        let name = format!("{}={}", spec.kind, device.name);
        if !is_qualified(&name) {
            return Err(format!("{name:?} is no name of a device"));
        }
        if spec.devices.iter().take(number).any(|other| other.name == device.name) {
            return Err(format!("{name} is there twice"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, name: &str, variable: &str, devices: &[&str]) {
        let devices: Vec<_> = devices.iter().map(|name| serde_json::json!({"name": name})).collect();
        let edits = serde_json::json!({"env": [variable]});
        let spec = serde_json::json!(
            {"cdiVersion": "0.6.0", "kind": "v.com/c", "containerEdits": edits, "devices": devices}
        );
        std::fs::create_dir_all(directory).unwrap();
        std::fs::write(directory.join(name), spec.to_string()).unwrap();
    }

    #[test]
    fn the_last_directory_counts_and_two_files_of_one_cancel_each_other_out() {
        let home = tempfile::tempdir().unwrap();
        let directories = ["a", "b", "absent"].map(|name| home.path().join(name));
        write(&directories[0], "one.json", "FROM=a", &["0", "1", "2"]);
        write(&directories[0], "two.json", "FROM=a2", &["1", "2"]);
        write(&directories[1], "one.json", "FROM=b", &["0", "2"]);
        let all = Catalogue::read(&directories);
        let from = |name: &str| all.find(name).map(|(_, all, _)| all.env.concat());
        assert_eq!(from("v.com/c=0").as_deref(), Some("FROM=b"));
        assert_eq!(from("v.com/c=1"), None);
        assert_eq!(from("v.com/c=2").as_deref(), Some("FROM=b"));
        assert_eq!(from("v.com/other=0"), None);
        assert_eq!(all.failures.len(), 2, "{:?}", all.failures);
    }

    #[test]
    fn yaml_as_nvidia_ctk_writes_it_is_read() {
        let home = tempfile::tempdir().unwrap();
        let text = "---\ncdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: \"0\"\n  containerEdits:\n    \
                    deviceNodes:\n    - path: /dev/nvidia0\n      major: 195\n      fileMode: 438\ncontainerEdits:\n  env:\n  \
                    - NVIDIA_VISIBLE_DEVICES=void\n  hooks:\n  - hookName: createContainer\n    path: /usr/bin/nvidia-ctk\n    \
                    args:\n    - nvidia-ctk\n    - hook\n  mounts:\n  - hostPath: /lib/libcuda.so.1\n    \
                    containerPath: /lib/libcuda.so.1\n    options:\n    - ro\n    - nosuid\n";
        std::fs::write(home.path().join("nvidia.yaml"), text).unwrap();
        std::fs::write(home.path().join("broken.yaml"), "kind: [").unwrap();
        std::fs::write(home.path().join("future.json"), "{\"cdiVersion\": \"7.0\"}").unwrap();
        let all = Catalogue::read(&[home.path().to_owned()]);
        let (_, of_all, own) = all.find("nvidia.com/gpu=0").unwrap();
        assert_eq!(own.device_nodes[0].path, Path::new("/dev/nvidia0"));
        assert_eq!((of_all.hooks[0].args.len(), of_all.mounts[0].options.len()), (2, 2));
        assert_eq!(all.failures.len(), 2, "{:?}", all.failures);
    }
}
