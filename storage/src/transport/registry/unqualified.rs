//! Which registries a name without one is looked for in: `unqualified-search-registries` of `registries.conf`.
//!
//! # Source
//! `containers-registries.conf(5)`: the user's file in place of the system's, then the drop-ins of both, in the order of
//! their names; what is read last counts.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::RegistryError;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    unqualified_search_registries: Option<Vec<String>>,
}

/// The registries in their order; nothing if no file names any.
///
/// # Errors
/// A file that is malformed.
pub fn unqualified(env: &dyn Fn(&str) -> Option<OsString>) -> Result<Option<Vec<String>>, RegistryError> {
    let variable = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = variable("CONTAINERS_REGISTRIES_CONF").or_else(|| variable("REGISTRIES_CONFIG_PATH")) {
        return Ok(read(&path)?.and_then(|file| file.unqualified_search_registries));
    }
    let home = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
    let user = home.map(|home| home.join("containers"));
    let system = Path::new("/etc/containers");
    let main = user.iter().map(|dir| dir.join("registries.conf")).find(|path| path.exists());
    let mut paths = vec![main.unwrap_or_else(|| system.join("registries.conf"))];
    for dir in [Some(system), user.as_deref()].into_iter().flatten() {
        let entries = fs::read_dir(dir.join("registries.conf.d")).into_iter().flatten().flatten();
        let mut found: Vec<_> = entries.map(|entry| entry.path()).collect();
        found.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
        found.sort();
        paths.extend(found);
    }
    let mut registries = None;
    for path in paths {
        registries = read(&path)?.and_then(|file| file.unqualified_search_registries).or(registries);
    }
    Ok(registries)
}

fn read(path: &Path) -> Result<Option<File>, RegistryError> {
    let failed = |reason: String| RegistryError::Setup { what: path.display().to_string(), reason };
    match fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).map(Some).map_err(|error| failed(error.message().to_owned())),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(failed(crate::sys::reason(&error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_file_that_names_registries_counts() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("containers");
        fs::create_dir_all(dir.join("registries.conf.d")).unwrap();
        let env = |name: &str| (name == "XDG_CONFIG_HOME").then(|| root.path().as_os_str().to_owned());
        fs::write(
            dir.join("registries.conf"),
            "unqualified-search-registries = [\"a.io\"]\n[[registry]]\nprefix='x'\n",
        )
        .unwrap();
        assert_eq!(unqualified(&env).unwrap(), Some(vec!["a.io".to_owned()]));
        fs::write(dir.join("registries.conf.d/1.conf"), "unqualified-search-registries = [\"b.io\", \"c.io\"]")
            .unwrap();
        fs::write(dir.join("registries.conf.d/2.conf"), "short-name-mode = \"disabled\"").unwrap();
        assert_eq!(unqualified(&env).unwrap(), Some(vec!["b.io".to_owned(), "c.io".to_owned()]));
        fs::write(dir.join("registries.conf"), "unqualified-search-registries = 5").unwrap();
        assert!(unqualified(&env).unwrap_err().to_string().contains("registries.conf"));
    }
}
