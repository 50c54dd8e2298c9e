//! Secrets: `secrets/<name>.json`, for their owner's eyes only.
//!
//! Writer: `secret create`. Readers: the `secret` commands, and who starts a container that asks for one: what a container
//! gets is read at each start and goes into its memory, never into a file of the container's own. Published by rename;
//! a second creator of one name fails. Version: 1. Durability: fdatasync.

use std::collections::BTreeMap;
use std::fs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::state::layout::{Layout, random_hex};
use crate::state::records::{Records, RecordsError};

/// The newest format this coracle reads, and the one it writes.
pub const VERSION: u32 = 1;

/// As podman has it.
const MAX_BYTES: usize = 512_000;

/// What goes wrong with a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// Not a name.
    #[error(
        "secret name {0:?} can not include '=', '/', ',' or control characters, begin with '.' or '-', and must be \
         between 1 and 240 bytes: invalid secret name"
    )]
    InvalidName(String),
    /// There is one of that name.
    #[error("{0}: secret name in use")]
    Exists(String),
    /// There is none.
    #[error("no secret with name or id {0:?}: no such secret")]
    NotFound(String),
    /// Nothing, or too much.
    #[error("secret data must be larger than 0 and less than 512000 bytes")]
    BadSize,
    /// Its file cannot be used.
    #[error(transparent)]
    Records(#[from] RecordsError),
}

/// What is to be kept secret. It has no `Debug` that would show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Data(pub Vec<u8>);

impl std::fmt::Debug for Data {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{} bytes]", self.0.len())
    }
}

impl Serialize for Data {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(|_| serde::de::Error::custom("not base64"))
    }
}

/// A secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    /// The format.
    pub version: u32,
    /// 25 digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was created.
    pub created: Timestamp,
    /// When it was replaced last.
    pub updated: Timestamp,
    /// The driver; there is only `file`.
    pub driver: String,
    /// The driver's options as given.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What is to be kept secret.
    pub data: Data,
}

impl Secret {
    /// A secret of this name.
    pub fn new(name: impl Into<String>, data: Vec<u8>) -> Self {
        let now = Timestamp::now();
        Self {
            version: VERSION,
            id: random_hex(13)[..25].to_owned(),
            name: name.into(),
            created: now,
            updated: now,
            driver: "file".to_owned(),
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
            data: Data(data),
        }
    }
}

/// A secret of Kubernetes: `data` in base64, `stringData` as it is.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Keyed {
    data: BTreeMap<String, Data>,
    string_data: BTreeMap<String, String>,
}

impl Secret {
    /// The values of an object of Kubernetes, kept as JSON; `None` if this is something else.
    pub fn keys(&self) -> Option<BTreeMap<String, Vec<u8>>> {
        let keyed: Keyed = serde_json::from_slice(&self.data.0).ok()?;
        let mut keys: BTreeMap<String, Vec<u8>> = keyed.data.into_iter().map(|(key, data)| (key, data.0)).collect();
        keys.extend(keyed.string_data.into_iter().map(|(key, text)| (key, text.into_bytes())));
        Some(keys)
    }
}

fn records(layout: &Layout) -> Records {
    Records::of(layout, "secrets", VERSION)
}

/// Checks a name: podman's grammar, without what would be hidden or taken for an option.
///
/// # Errors
/// [`SecretError::InvalidName`].
pub fn check_name(name: &str) -> Result<(), SecretError> {
    let fits = !name.starts_with(['.', '-'])
        && (1..=240).contains(&name.len())
        && !name.contains(|c: char| c.is_control() || matches!(c, '=' | '/' | ','));
    if fits { Ok(()) } else { Err(SecretError::InvalidName(name.to_owned())) }
}

/// Keeps a secret. With `replace` one of that name gives way.
///
/// # Errors
/// [`SecretError`].
pub fn create(layout: &Layout, secret: &Secret, replace: bool) -> Result<(), SecretError> {
    check_name(&secret.name)?;
    if secret.data.0.is_empty() || secret.data.0.len() >= MAX_BYTES {
        return Err(SecretError::BadSize);
    }
    let records = records(layout);
    let _lock = records.lock()?;
    if !replace && fs::symlink_metadata(records.file(&secret.name)).is_ok() {
        return Err(SecretError::Exists(secret.name.clone()));
    }
    Ok(records.write(&secret.name, secret)?)
}

/// Every secret by name.
///
/// # Errors
/// [`SecretError`]: one that cannot be read is an error for all, since nothing may be overlooked.
pub fn list(layout: &Layout) -> Result<Vec<Secret>, SecretError> {
    let mut secrets: Vec<Secret> = records(layout).list(|_| true)?;
    secrets.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(secrets)
}

/// Finds a secret by its name, its id, or the beginning of an id that fits no other.
///
/// # Errors
/// [`SecretError::NotFound`].
pub fn find(layout: &Layout, text: &str) -> Result<Secret, SecretError> {
    if check_name(text).is_ok()
        && let Some(secret) = records(layout).read(text)?
    {
        return Ok(secret);
    }
    let mut fitting = list(layout)?.into_iter().filter(|secret| !text.is_empty() && secret.id.starts_with(text));
    match (fitting.next(), fitting.next()) {
        (Some(secret), None) => Ok(secret),
        _ => Err(SecretError::NotFound(text.to_owned())),
    }
}

/// Forgets a secret.
///
/// # Errors
/// [`SecretError::NotFound`].
pub fn remove(layout: &Layout, text: &str) -> Result<Secret, SecretError> {
    let records = records(layout);
    let _lock = records.lock()?;
    let secret = find(layout, text)?;
    // Not by way of the trash: it shall be gone.
    records.remove(&secret.name)?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_secret_is_kept_for_its_owner_found_replaced_and_forgotten() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path().join("data"), root.path().join("run"));
        assert!(matches!(find(&layout, "s"), Err(SecretError::NotFound(_))));
        let secret = Secret::new("s", b"hush\0".to_vec());
        create(&layout, &secret, false).unwrap();
        assert!(matches!(create(&layout, &secret, false), Err(SecretError::Exists(_))));
        let path = records(&layout).file("s");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!String::from_utf8(fs::read(&path).unwrap()).unwrap().contains("hush"));
        assert_eq!(find(&layout, &secret.id[..6]).unwrap(), secret);
        assert!(!format!("{secret:?}").contains("hush"));
        create(&layout, &Secret::new("s", b"other".to_vec()), true).unwrap();
        assert_eq!(list(&layout).unwrap()[0].data.0, b"other");
        remove(&layout, "s").unwrap();
        assert!(matches!(remove(&layout, "s"), Err(SecretError::NotFound(_))));
    }

    #[test]
    fn a_secret_of_kubernetes_has_keys_and_another_has_none() {
        let text = r#"{"kind":"Secret","data":{"a":"aHVzaA=="},"stringData":{"b":"text"}}"#;
        let keys = Secret::new("s", text.into()).keys().unwrap();
        assert_eq!((keys["a"].as_slice(), keys["b"].as_slice()), (&b"hush"[..], &b"text"[..]));
        assert_eq!(Secret::new("s", b"hush".to_vec()).keys(), None);
    }

    #[test]
    fn names_and_sizes_have_limits() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path().join("data"), root.path().join("run"));
        for name in ["a b", "a@b:c", "A_1"] {
            assert!(check_name(name).is_ok(), "{name:?}");
        }
        for name in ["", "a/b", "..", ".a", "a=b", "a,b", "-a", "a\nb"] {
            let made = create(&layout, &Secret::new(name, b"x".to_vec()), false);
            assert!(matches!(made, Err(SecretError::InvalidName(_))), "{name:?}");
        }
        for data in [Vec::new(), vec![0; MAX_BYTES]] {
            assert!(matches!(create(&layout, &Secret::new("s", data), false), Err(SecretError::BadSize)));
        }
    }
}
