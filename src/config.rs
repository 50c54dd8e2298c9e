//! What files of the host say: `containers.conf`, as far as anything here asks for it.
//!
//! Read when it is asked for, and not before: the path of a plain `run` opens none of these.
//!
//! # Source
//! `containers.conf(5)`: the files in the order in which a later one overrides an earlier one. A key of our own is
//! `low_ports` below `[network]`; other programs ignore it. `default_rootless_network_cmd` may also be `builtin`.

mod containers;

use std::path::{Path, PathBuf};

use net::driver::WayOut;
use net::subnet::{Pool, Range};
use serde::Deserialize;

pub(crate) use containers::Defaults;

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
    containers: Defaults,
    engine: Engine,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Engine {
    cdi_spec_dirs: Option<Vec<PathBuf>>,
    compose_providers: Option<Vec<PathBuf>>,
    detach_keys: Option<String>,
    pull_policy: Option<String>,
    stop_timeout: Option<u32>,
}

/// podman's.
const PIDS_LIMIT: i64 = 2048;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Network {
    low_ports: Option<LowPorts>,
    default_rootless_network_cmd: Option<WayOut>,
    default_subnet: Option<DefaultSubnet>,
    default_subnet_pools: Option<Vec<SubnetPool>>,
}

/// What a file that says anything else is refused for, by every command that reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct DefaultSubnet(Range);

impl TryFrom<String> for DefaultSubnet {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let range = Range::parse(&text).map_err(|why| format!("default_subnet: {why}"))?;
        match range.first.is_ipv4() && range.prefix <= 30 {
            true => Ok(Self(range)),
            false => {
                Err(format!("default_subnet: {range}: must be an IPv4 range with room for a gateway and a container"))
            }
        }
    }
}

#[derive(Debug, Deserialize)]
struct SubnetPool {
    base: String,
    size: u8,
}

/// `low_ports`, from the last file that has it.
pub(crate) fn low_ports() -> Result<LowPorts, CommandError> {
    Ok(last(|file| file.network.low_ports)?.unwrap_or_default())
}

/// `default_rootless_network_cmd`, from the last file that has it.
pub(crate) fn way_out() -> Result<WayOut, CommandError> {
    Ok(last(|file| file.network.default_rootless_network_cmd)?.unwrap_or_default())
}

/// `default_subnet`: where the addresses of the default network are from.
pub(crate) fn default_subnet() -> Result<Option<Range>, CommandError> {
    Ok(last(|file| file.network.default_subnet)?.map(|DefaultSubnet(range)| range))
}

/// `default_subnet_pools`: what networks without a subnet of their own are taken from.
pub(crate) fn subnet_pools() -> Result<Option<Vec<Pool>>, CommandError> {
    let pools = last(|file| file.network.default_subnet_pools)?;
    pools.map(|pools| pools.iter().map(pool).collect::<Result<_, _>>().map_err(CommandError::user)).transpose()
}

fn pool(text: &SubnetPool) -> Result<Pool, String> {
    let SubnetPool { base, size } = text;
    let range = Range::parse(base).map_err(|why| format!("containers.conf: default_subnet_pools: {why}"))?;
    match range.first.is_ipv4() && (range.prefix..=32).contains(size) {
        true => Ok(Pool { base: range, size: *size }),
        false => Err(format!(
            "containers.conf: default_subnet_pools: base {base}, size {size}: must be an IPv4 range and the length of a \
             prefix in it"
        )),
    }
}

/// `pids_limit`: how many processes a container in a cgroup of its own may have by default; not above 0 is no limit.
pub(crate) fn pids_limit() -> Result<i64, CommandError> {
    Ok(last(|file| file.containers.pids_limit)?.unwrap_or(PIDS_LIMIT))
}

/// `compose_providers`: programs that run compose files, the first that there is.
pub(crate) fn compose_providers() -> Result<Option<Vec<PathBuf>>, CommandError> {
    last(|file| file.engine.compose_providers)
}

/// `storage.conf`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StorageFile {
    storage: Storage,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Storage {
    options: StorageOptions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StorageOptions {
    additionalimagestores: Vec<PathBuf>,
}

/// `additionalimagestores` of `storage.conf`: the file that `CONTAINERS_STORAGE_CONF` names, else the user's, else the
/// machine's. It is looked for by every command, and read by those of machines that have one.
///
/// # Source
/// `containers-storage.conf(5)`.
pub(crate) fn additional_stores() -> Result<Vec<PathBuf>, CommandError> {
    let named = std::env::var_os("CONTAINERS_STORAGE_CONF").map(PathBuf::from);
    let home = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")));
    let own = home.map(|home| home.join("containers/storage.conf"));
    let paths = match named {
        Some(path) => vec![path],
        None => own
            .into_iter()
            .chain(["/etc", "/usr/share"].map(|dir| Path::new(dir).join("containers/storage.conf")))
            .collect(),
    };
    for path in paths {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(CommandError::user(format!("read {}: {}", path.display(), reason(&error)))),
        };
        if !text.contains("additionalimagestores") {
            return Ok(Vec::new());
        }
        let file: StorageFile = toml::from_str(&text)
            .map_err(|error| CommandError::user(format!("{}: {}", path.display(), error.message())))?;
        return Ok(file.storage.options.additionalimagestores);
    }
    Ok(Vec::new())
}

/// `cdi_spec_dirs`: where devices are described, besides what the command line names.
pub(crate) fn cdi_spec_dirs() -> Result<Option<Vec<PathBuf>>, CommandError> {
    last(|file| file.engine.cdi_spec_dirs)
}

/// `detach_keys`.
pub(crate) fn detach_keys() -> Result<Option<String>, CommandError> {
    last(|file| file.engine.detach_keys)
}

/// What containers get where the command line says nothing; then `pull_policy` and `stop_timeout`.
pub(crate) fn containers() -> Result<(Defaults, Option<String>, Option<u32>), CommandError> {
    let (mut defaults, mut pull_policy, mut stop_timeout) = (Defaults::default(), None, None);
    each_file(|file| {
        defaults.overlay(file.containers);
        pull_policy = file.engine.pull_policy.or(pull_policy.take());
        stop_timeout = file.engine.stop_timeout.or(stop_timeout);
    })?;
    Ok((defaults, pull_policy, stop_timeout))
}

/// A value from the last file that has it.
fn last<T>(value: impl Fn(File) -> Option<T>) -> Result<Option<T>, CommandError> {
    let mut found = None;
    each_file(|file| found = value(file).or(found.take()))?;
    Ok(found)
}

fn each_file(mut look: impl FnMut(File)) -> Result<(), CommandError> {
    for path in files() {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(CommandError::user(format!("read {}: {}", path.display(), reason(&error)))),
        };
        let file = parse(&text).map_err(|why| CommandError::user(format!("{}: {why}", path.display())))?;
        look(file);
    }
    Ok(())
}

/// The file for what this user wants.
pub(crate) fn own_file() -> PathBuf {
    match std::env::var_os("CONTAINERS_CONF") {
        Some(path) => path.into(),
        None => own_directory().unwrap_or_default().join("containers.conf"),
    }
}

fn own_directory() -> Option<PathBuf> {
    own_config().map(|config| config.join("containers"))
}

/// `$XDG_CONFIG_HOME`, or what stands for it.
fn own_config() -> Option<PathBuf> {
    let of = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    of("XDG_CONFIG_HOME").or_else(|| of("HOME").map(|home| home.join(".config")))
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

fn parse(text: &str) -> Result<File, String> {
    toml::from_str(text).map_err(|error| error.message().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_that_are_asked_for_are_read() {
        let others = "[containers]\ntz = \"local\"\npids_limit = 7\n[network]\ndatabase_backend = \"sqlite\"\n";
        let low_ports = |text: &str| parse(text).map(|file| file.network.low_ports);
        assert_eq!(low_ports(others), Ok(None));
        assert_eq!(parse(others).map(|file| file.containers.pids_limit), Ok(Some(7)));
        assert_eq!(low_ports(&format!("{others}low_ports = \"remap\"\n")), Ok(Some(LowPorts::Remap)));
        assert_eq!(low_ports("[network]\nlow_ports = \"refuse\""), Ok(Some(LowPorts::Refuse)));
        assert!(parse("[network]\nlow_ports = \"perhaps\"").is_err());
        for (word, way_out) in [
            ("", WayOut::Auto),
            ("builtin", WayOut::Builtin),
            ("pasta", WayOut::Pasta),
            ("slirp4netns", WayOut::Slirp4netns),
        ] {
            let file = parse(&format!("[network]\ndefault_rootless_network_cmd = \"{word}\"")).unwrap();
            assert_eq!(file.network.default_rootless_network_cmd, Some(way_out));
        }
        assert!(parse("[network]\ndefault_rootless_network_cmd = \"vpnkit\"").is_err());
    }

    #[test]
    fn subnet_pools_are_ranges_of_ipv4() {
        let pools = |text: &str| {
            let file = parse(&format!("[network]\ndefault_subnet_pools = [{text}]")).unwrap();
            file.network.default_subnet_pools.unwrap().iter().map(pool).collect::<Result<Vec<_>, _>>()
        };
        let two = pools(r#"{"base" = "10.89.0.0/16", "size" = 24}, {base = "10.7.0.9/30", size = 32}"#).unwrap();
        let shown: Vec<String> = two.iter().map(|pool| format!("{} {}", pool.base, pool.size)).collect();
        assert_eq!(shown, ["10.89.0.0/16 24", "10.7.0.8/30 32"]);
        for bad in [("10.89.0.0/16", 15), ("10.89.0.0/16", 33), ("fd00::/48", 64), ("x", 24)] {
            assert!(pools(&format!("{{base = {:?}, size = {}}}", bad.0, bad.1)).is_err(), "{bad:?}");
        }
    }
}
