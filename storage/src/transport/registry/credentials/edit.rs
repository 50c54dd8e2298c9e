//! Writing credentials: into `auth.json` or `config.json`, or to the helper that the file names.
//!
//! | file | writers | readers | lock | durability |
//! |---|---|---|---|---|
//! | `auth.json`, `config.json` | `login`, `logout`, and other tools | everything that talks to a registry, other tools | `flock` of the directory, among ourselves | fdatasync, rename |
//!
//! Mode 0600. What is in the file beside the entry is kept as it is. A link is followed: dotfiles are often kept elsewhere.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::fcntl::{Flock, FlockArg};
use serde_json::{Map, Value, json};

use super::super::RegistryError;
use super::helper::{self, HUB_SERVER};
use super::{Credentials, normalised};
use crate::reference::DOCKER_HUB;
use crate::state::atomic::{Durability, write_atomic};

/// Whose file it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// `auth.json`: keys are registries and namespaces.
    Containers,
    /// `config.json`: keys are registries, Docker Hub under its address of old.
    Docker,
}

/// Keeps the credentials of a registry (or of a namespace, `host/namespace`).
///
/// # Errors
/// The file is malformed or cannot be written; its helper fails.
pub fn store(path: &Path, style: Style, key: &str, credentials: &Credentials) -> Result<(), RegistryError> {
    change(path, |file| {
        let helper = helper_of(file, key);
        let entry = match &helper {
            Some(helper) => {
                helper::store(helper, key, credentials)?;
                json!({})
            }
            None => match credentials {
                Credentials::Password { user, password } => {
                    json!({"auth": STANDARD.encode(format!("{user}:{password}"))})
                }
                Credentials::IdentityToken(token) => {
                    json!({"auth": STANDARD.encode("00000000-0000-0000-0000-000000000000:"), "identitytoken": token})
                }
            },
        };
        let auths = object(file, "auths");
        auths.retain(|known, _| normalised(known) != key);
        if helper.is_none() || style == Style::Docker {
            let name = if style == Style::Docker && key == DOCKER_HUB { HUB_SERVER } else { key };
            auths.insert(name.to_owned(), entry);
        }
        Ok(true)
    })
    .map(drop)
}

/// Forgets a registry; says whether it was known.
///
/// # Errors
/// As [`store`]; a file that is not there knows nothing.
pub fn erase(path: &Path, key: &str) -> Result<bool, RegistryError> {
    if !path.exists() {
        return Ok(false);
    }
    change(path, |file| {
        let mut had = match helper_of(file, key) {
            Some(helper) => helper::erase(&helper, key)?,
            None => false,
        };
        let auths = object(file, "auths");
        let before = auths.len();
        auths.retain(|known, _| normalised(known) != key);
        had |= auths.len() < before;
        Ok(had)
    })
}

/// Forgets every registry, those of helpers too.
///
/// # Errors
/// As [`erase`].
pub fn erase_all(path: &Path) -> Result<(), RegistryError> {
    if !path.exists() {
        return Ok(());
    }
    change(path, |file| {
        for (key, helper) in object(file, "credHelpers").clone() {
            if let Some(helper) = helper.as_str() {
                helper::erase(helper, normalised(&key))?;
            }
        }
        if let Some(helper) = file.get("credsStore").and_then(Value::as_str).filter(|name| !name.is_empty()) {
            for server in helper::list(helper)? {
                helper::erase(helper, normalised(&server))?;
            }
        }
        object(file, "auths").clear();
        Ok(true)
    })
    .map(drop)
}

fn helper_of(file: &Map<String, Value>, key: &str) -> Option<String> {
    let own = file.get("credHelpers").and_then(|helpers| helpers.get(key));
    let name = own.or_else(|| file.get("credsStore")).and_then(Value::as_str)?;
    Some(name.to_owned()).filter(|name| !name.is_empty())
}

/// The object of this name in the file, made if there is none.
fn object<'f>(file: &'f mut Map<String, Value>, name: &str) -> &'f mut Map<String, Value> {
    let value = file.entry(name).or_insert_with(|| json!({}));
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("it is an object by now")
}

/// Reads the file, changes it, and writes it if `change` says so.
fn change(
    path: &Path,
    change: impl FnOnce(&mut Map<String, Value>) -> Result<bool, RegistryError>,
) -> Result<bool, RegistryError> {
    let failed = |reason: String| RegistryError::Setup { what: path.display().to_string(), reason };
    let io = |error: io::Error| failed(crate::sys::reason(&error));
    let path: PathBuf = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(io)?;
    let dir = File::open(parent).map_err(io)?;
    let _lock = Flock::lock(dir, FlockArg::LockExclusive).map_err(|(_, errno)| io(errno.into()))?;
    let mut file = match fs::read(&path) {
        Ok(bytes) if bytes.iter().all(u8::is_ascii_whitespace) => Map::new(),
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| failed(format!("invalid JSON: {error}")))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Map::new(),
        Err(error) => return Err(io(error)),
    };
    let is_changed = change(&mut file)?;
    if is_changed {
        let mut text = Vec::new();
        let style = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let mut writer = serde_json::Serializer::with_formatter(&mut text, style);
        serde::Serialize::serialize(&file, &mut writer).map_err(|error| failed(error.to_string()))?;
        text.push(b'\n');
        write_atomic(&path, &text, Durability::Data).map_err(|error| io(clone(error.source_error())))?;
    }
    Ok(is_changed)
}

fn clone(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| io::Error::new(error.kind(), error.to_string()), io::Error::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn password(user: &str) -> Credentials {
        Credentials::Password { user: user.to_owned(), password: "p".to_owned() }
    }

    #[test]
    fn entries_come_and_go_and_all_else_stays() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("new/config.json");
        store(&path, Style::Docker, "docker.io", &password("hub")).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        let mut known: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert!(known["auths"]["https://index.docker.io/v1/"]["auth"].is_string(), "{known}");
        known["detachKeys"] = json!("ctrl-z");
        known["auths"]["https://r.io"] = json!({"auth": "eA=="});
        fs::write(&path, known.to_string()).unwrap();
        store(&path, Style::Docker, "r.io", &Credentials::IdentityToken("t".to_owned())).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("ctrl-z") && text.contains("\"r.io\"") && !text.contains("https://r.io"), "{text}");
        let found = super::super::find("r.io", "x", Some(&path), &|_| None).unwrap();
        assert_eq!(found, Some(Credentials::IdentityToken("t".to_owned())));
        assert!(erase(&path, "docker.io").unwrap() && !erase(&path, "docker.io").unwrap());
        assert!(!erase(&root.path().join("missing"), "r.io").unwrap());
        store(&path, Style::Containers, "r.io/team", &password("team")).unwrap();
        let team = super::super::find("r.io", "team/app", Some(&path), &|_| None).unwrap();
        assert_eq!(team, Some(password("team")));
        erase_all(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("ctrl-z") && !text.contains("r.io"), "{text}");
        fs::write(&path, "[").unwrap();
        assert!(store(&path, Style::Docker, "r.io", &password("x")).unwrap_err().to_string().contains("invalid JSON"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "[", "what is not understood is not overwritten");
    }

    #[test]
    fn a_file_that_is_a_link_stays_one() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("real.json"), "").unwrap();
        let link = root.path().join("config.json");
        std::os::unix::fs::symlink("real.json", &link).unwrap();
        store(&link, Style::Containers, "r.io", &password("u")).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(fs::read_to_string(root.path().join("real.json")).unwrap().contains("r.io"));
    }
}
