//! What files of the host say: `containers.conf`, as far as anything here asks for it.
//!
//! Read when it is asked for, and not before: the path of `run` opens none of these.
//!
//! # Source
//! `containers.conf(5)`: the files in the order in which a later one overrides an earlier one. A key of our own is
//! `low_ports` below `[network]`; other programs ignore it. `default_rootless_network_cmd` may also be `builtin`.

use std::path::{Path, PathBuf};

use net::driver::WayOut;
use serde::Deserialize;

use crate::error::{CommandError, reason};

/// What becomes of a port that this user may not open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LowPorts {
    /// An error says how it can be had.
    #[default]
    Refuse,
    /// It is published 8000 higher.
    Remap,
}

/// `containers.conf`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    network: Network,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Network {
    low_ports: Option<LowPorts>,
    default_rootless_network_cmd: Option<WayOut>,
}

/// `low_ports`, from the last file that has it.
pub(crate) fn low_ports() -> Result<LowPorts, CommandError> {
    last(|network| network.low_ports)
}

/// `default_rootless_network_cmd`, from the last file that has it.
pub(crate) fn way_out() -> Result<WayOut, CommandError> {
    last(|network| network.default_rootless_network_cmd)
}

fn last<T: Default>(key: fn(Network) -> Option<T>) -> Result<T, CommandError> {
    let mut found = T::default();
    for path in files() {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(CommandError::user(format!("read {}: {}", path.display(), reason(&error)))),
        };
        let network = parse(&text).map_err(|why| CommandError::user(format!("{}: {why}", path.display())))?;
        found = key(network).unwrap_or(found);
    }
    Ok(found)
}

/// The file for what this user wants.
pub(crate) fn own_file() -> PathBuf {
    match std::env::var_os("CONTAINERS_CONF") {
        Some(path) => path.into(),
        None => own_directory().unwrap_or_default().join("containers.conf"),
    }
}

fn own_directory() -> Option<PathBuf> {
    let of = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = of("XDG_CONFIG_HOME").or_else(|| of("HOME").map(|home| home.join(".config")));
    config.map(|config| config.join("containers"))
}

fn files() -> Vec<PathBuf> {
    if let Some(path) = std::env::var_os("CONTAINERS_CONF") {
        return vec![path.into()];
    }
    let mut all = vec![PathBuf::from("/usr/share/containers/containers.conf")];
    for directory in [Some(PathBuf::from("/etc/containers")), own_directory()].into_iter().flatten() {
        all.push(directory.join("containers.conf"));
        all.extend(drop_ins(&directory.join("containers.conf.d")));
    }
    all.extend(std::env::var_os("CONTAINERS_CONF_OVERRIDE").map(PathBuf::from));
    all
}

fn drop_ins(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut all: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "conf")).collect();
    all.sort();
    all
}

fn parse(text: &str) -> Result<Network, String> {
    let file: File = toml::from_str(text).map_err(|error| error.message().to_owned())?;
    Ok(file.network)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_keys_that_are_asked_for_are_read() {
        let others = "[containers]\ntz = \"local\"\n[network]\ndefault_subnet = \"10.0.0.0/8\"\n";
        let low_ports = |text: &str| parse(text).map(|network| network.low_ports);
        assert_eq!(low_ports(others), Ok(None));
        assert_eq!(low_ports(&format!("{others}low_ports = \"remap\"\n")), Ok(Some(LowPorts::Remap)));
        assert_eq!(low_ports("[network]\nlow_ports = \"refuse\""), Ok(Some(LowPorts::Refuse)));
        assert!(parse("[network]\nlow_ports = \"perhaps\"").is_err());
        for (word, way_out) in [
            ("", WayOut::Auto),
            ("builtin", WayOut::Builtin),
            ("pasta", WayOut::Pasta),
            ("slirp4netns", WayOut::Slirp4netns),
        ] {
            let network = parse(&format!("[network]\ndefault_rootless_network_cmd = \"{word}\"")).unwrap();
            assert_eq!(network.default_rootless_network_cmd, Some(way_out));
        }
        assert!(parse("[network]\ndefault_rootless_network_cmd = \"vpnkit\"").is_err());
    }
}
