//! User-defined networks: `networks/<name>.json`.
//!
//! The default network exists without a file, which only says how it was changed. A network is only described here: its devices are made when the first
//! container needs them, and what has an address on it is the business of whoever runs.
//!
//! Writer: `network create`, `rm` and `update`, under `networks.lock`; readers: everybody, without it. Published by
//! rename. Version: 1. Durability: fdatasync.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::layout::{Layout, is_lower_hex, random_hex};
use super::lock::FileLock;
use super::records::{Records, RecordsError};

/// The newest format this coracle reads, and the one it writes.
pub const VERSION: u32 = 1;

/// The network that exists without a file.
pub const DEFAULT_NAME: &str = "podman";

/// A longer name would not do as that of a file.
const MAX_NAME_BYTES: usize = 240;

/// What goes wrong with a network's description.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// Not a name.
    #[error("network name {0} invalid: names must match [a-zA-Z0-9][a-zA-Z0-9_.-]*: invalid argument")]
    InvalidName(String),
    /// Its name is taken.
    #[error("network name {0} already used: network already exists")]
    Exists(String),
    /// There is none.
    #[error("unable to find network with name or ID {0}: network not found")]
    NotFound(String),
    /// An id prefix fits several.
    #[error("more than one result for network ID {0}: more than one network with that name or ID")]
    Ambiguous(String),
    /// Its file cannot be used.
    #[error(transparent)]
    Records(#[from] RecordsError),
}

/// A range of addresses with one prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The first address, all host bits zero.
    pub first: IpAddr,
    /// The length of the prefix, in bits.
    pub prefix: u8,
    /// The bridge's own address, if it has one.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
    /// The first and last address that containers are given.
    #[serde(default)]
    pub range: Option<(IpAddr, IpAddr)>,
}

/// A route of the network's containers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The first address of the destination.
    pub first: IpAddr,
    /// The length of its prefix, in bits.
    pub prefix: u8,
    /// The router.
    pub gateway: IpAddr,
    /// Its priority, if it is not the default one.
    #[serde(default)]
    pub metric: Option<u32>,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The format.
    pub version: u32,
    /// Its name.
    pub name: String,
    /// 64 hexadecimal digits, new with each network of that name.
    pub id: String,
    /// The name of its bridge.
    pub interface: String,
    /// When it was created.
    pub created: Timestamp,
    /// Its addresses.
    #[serde(default)]
    pub subnets: Vec<Subnet>,
    /// Routes of its containers besides the default one.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// It has IPv6.
    #[serde(default)]
    pub ipv6: bool,
    /// It has no way out.
    #[serde(default)]
    pub internal: bool,
    /// Names are answered on it.
    #[serde(default)]
    pub dns: bool,
    /// DNS servers that are asked instead of the host's.
    #[serde(default)]
    pub servers: Vec<IpAddr>,
    /// Addresses that no container is given, by what they were called.
    #[serde(default)]
    pub reserved: BTreeMap<String, IpAddr>,
    /// What containers may reach by it that have no rules of their own, as they are written at `--egress`.
    #[serde(default)]
    pub egress: Vec<String>,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The driver's options.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

impl Network {
    /// A network without anything, with a fresh id.
    pub fn new(name: &str) -> Self {
        Self {
            version: VERSION,
            name: name.to_owned(),
            id: random_hex(32),
            interface: String::new(),
            created: Timestamp::now(),
            subnets: Vec::new(),
            routes: Vec::new(),
            ipv6: false,
            internal: false,
            dns: true,
            servers: Vec::new(),
            reserved: BTreeMap::new(),
            egress: Vec::new(),
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
        }
    }
}

fn records(layout: &Layout) -> Records {
    Records::of(layout, "networks", VERSION)
}

/// Checks a name: podman's grammar.
///
/// # Errors
/// [`NetworkError::InvalidName`].
pub fn check_name(name: &str) -> Result<(), NetworkError> {
    let fits = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
        && name.len() <= MAX_NAME_BYTES;
    if fits { Ok(()) } else { Err(NetworkError::InvalidName(name.to_owned())) }
}

/// Networks while nobody else makes or removes one.
#[derive(Debug)]
pub struct Locked {
    records: Records,
    _lock: FileLock,
}

impl Locked {
    /// Keeps other writers out.
    ///
    /// # Errors
    /// [`RecordsError`].
    pub fn take(layout: &Layout) -> Result<Self, RecordsError> {
        let records = records(layout);
        let lock = records.lock()?;
        Ok(Self { records, _lock: lock })
    }

    /// Every network, by name.
    ///
    /// # Errors
    /// [`RecordsError`].
    pub fn list(&self) -> Result<Vec<Network>, RecordsError> {
        sorted(&self.records)
    }

    /// Publishes a network.
    ///
    /// # Errors
    /// [`NetworkError::Exists`], [`NetworkError::InvalidName`].
    pub fn create(&self, network: &Network) -> Result<(), NetworkError> {
        check_name(&network.name)?;
        if self.records.read::<Network>(&network.name)?.is_some() {
            return Err(NetworkError::Exists(network.name.clone()));
        }
        Ok(self.records.write(&network.name, network)?)
    }

    /// Writes a network's description anew.
    ///
    /// # Errors
    /// [`RecordsError`].
    pub fn write(&self, network: &Network) -> Result<(), RecordsError> {
        self.records.write(&network.name, network)
    }

    /// Forgets a network; one that is not there needs no forgetting.
    ///
    /// # Errors
    /// [`RecordsError`].
    pub fn remove(&self, name: &str) -> Result<(), RecordsError> {
        self.records.remove(name)
    }
}

fn sorted(records: &Records) -> Result<Vec<Network>, RecordsError> {
    let mut networks: Vec<Network> = records.list(|name| check_name(name).is_ok())?;
    networks.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(networks)
}

/// Every network, by name.
///
/// # Errors
/// [`RecordsError`].
pub fn list(layout: &Layout) -> Result<Vec<Network>, RecordsError> {
    sorted(&records(layout))
}

/// Reads one by its whole name.
///
/// # Errors
/// [`RecordsError`].
pub fn load(layout: &Layout, name: &str) -> Result<Option<Network>, RecordsError> {
    if check_name(name).is_err() {
        return Ok(None);
    }
    records(layout).read(name)
}

/// Finds a network by name, id, or the beginning of an id that fits no other.
///
/// # Errors
/// [`NetworkError::NotFound`], [`NetworkError::Ambiguous`].
pub fn find(layout: &Layout, text: &str) -> Result<Network, NetworkError> {
    if let Some(network) = load(layout, text)? {
        return Ok(network);
    }
    let is_prefix = !text.is_empty() && is_lower_hex(text);
    let mut fitting = list(layout)?.into_iter().filter(|network| is_prefix && network.id.starts_with(text));
    match (fitting.next(), fitting.next()) {
        (Some(network), None) => Ok(network),
        (Some(_), Some(_)) => Err(NetworkError::Ambiguous(text.to_owned())),
        (None, _) => Err(NetworkError::NotFound(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_found_by_name_and_id_and_have_one_name_each() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path().join("data"), root.path().join("run"));
        assert!(matches!(find(&layout, "web"), Err(NetworkError::NotFound(_))));
        let (web, db) = (Network::new("web"), Network::new("db"));
        let locked = Locked::take(&layout).unwrap();
        for network in [&web, &db] {
            locked.create(network).unwrap();
        }
        assert!(matches!(locked.create(&Network::new("web")), Err(NetworkError::Exists(_))));
        assert_eq!(find(&layout, "web").unwrap(), web);
        assert_eq!(find(&layout, &db.id[..12]).unwrap(), db);
        assert_eq!(list(&layout).unwrap(), [db, web]);
        locked.remove("web").unwrap();
        assert!(find(&layout, "web").is_err());
        assert!(matches!(find(&layout, ""), Err(NetworkError::NotFound(_))));
    }

    #[test]
    fn a_name_is_never_a_path() {
        for bad in ["", "a/b", "../x", ".x", "-x", "a b", "ü", &"x".repeat(241)] {
            assert!(check_name(bad).is_err(), "{bad}");
            let root = tempfile::tempdir().unwrap();
            let layout = Layout::new(root.path().join("data"), root.path().join("run"));
            assert!(matches!(
                Locked::take(&layout).unwrap().create(&Network::new(bad)),
                Err(NetworkError::InvalidName(_))
            ));
            assert_eq!(load(&layout, bad).unwrap(), None);
        }
        for good in ["a", "web_1.x-y", "0"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
    }
}
