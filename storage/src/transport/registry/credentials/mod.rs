//! Who we are to a registry: `auth.json`, `config.json`, credential helpers.
//!
//! # Source
//! `containers-auth.json(5)`; docker's `config.json`; `github.com/docker/docker-credential-helpers`.

mod edit;

mod helper;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde::Deserialize;

pub use edit::{Style, erase, erase_all, store};

use super::RegistryError;
use crate::reference::DOCKER_HUB;

/// What to prove oneself with. Its `Debug` keeps the secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A user and a password (or an access token in its place).
    Password {
        /// The user's name.
        user: String,
        /// The secret.
        password: String,
    },
    /// A token to get tokens with.
    IdentityToken(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Password { user, .. } => f.debug_struct("Password").field("user", user).finish_non_exhaustive(),
            Self::IdentityToken(_) => f.write_str("IdentityToken(..)"),
        }
    }
}

impl Credentials {
    /// Parses `USER:PASSWORD`, the value of `--creds`.
    ///
    /// # Errors
    /// There is no colon, or no user.
    pub fn parse(text: &str) -> Result<Self, RegistryError> {
        match text.split_once(':') {
            Some((user, password)) if !user.is_empty() => {
                Ok(Self::Password { user: user.to_owned(), password: password.to_owned() })
            }
            _ => Err(RegistryError::Setup { what: "--creds".to_owned(), reason: "expected USER:PASSWORD".to_owned() }),
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct AuthFile {
    auths: HashMap<String, AuthEntry>,
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase", default)]
struct AuthEntry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// The files that are searched when none is named, the first before the others.
#[derive(Clone, Debug)]
pub struct Files {
    /// `$XDG_RUNTIME_DIR/containers/auth.json`, which is gone when the user logs out of the machine.
    pub runtime: Option<PathBuf>,
    /// `~/.config/containers/auth.json`.
    pub config: Option<PathBuf>,
    /// `~/.docker/config.json`.
    pub docker: Option<PathBuf>,
}

impl Files {
    /// Where they are; `env` looks up environment variables.
    pub fn of(env: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let variable = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = variable("HOME");
        let config_home = variable("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
        let docker = variable("DOCKER_CONFIG").or_else(|| Some(home.as_ref()?.join(".docker")));
        Self {
            runtime: variable("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
            config: config_home.map(|dir| dir.join("containers/auth.json")),
            docker: docker.map(|dir| dir.join("config.json")),
        }
    }

    /// All of them, in the order of the search.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        [&self.runtime, &self.config, &self.docker].into_iter().flatten().map(PathBuf::as_path)
    }
}

/// Whether a file has something to say about exactly this registry or namespace.
///
/// # Errors
/// The file is malformed.
pub fn names(path: &Path, key: &str) -> Result<bool, RegistryError> {
    let Some(file) = read(path)? else { return Ok(false) };
    Ok(file.cred_helpers.contains_key(key) || file.entry(key).is_some())
}

/// A registry as it was typed, without a scheme and a slash at the end, Docker Hub by its one name.
pub fn key_of(typed: &str) -> &str {
    normalised(typed)
}

/// Whether a helper is to be asked about a repository. Helpers talk to the user's session, which knows the user as the one
/// who logged in: not as root of a user namespace, where the rest of a transfer runs.
///
/// # Errors
/// As [`find`].
pub fn has_helper(
    registry: &str,
    repository: &str,
    authfile: Option<&Path>,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<bool, RegistryError> {
    let named = authfile.map(Path::to_owned).or_else(|| env("REGISTRY_AUTH_FILE").map(PathBuf::from));
    let paths: Vec<PathBuf> = match named {
        Some(path) => vec![path],
        None => Files::of(env).paths().map(Path::to_owned).collect(),
    };
    let full = format!("{registry}/{repository}");
    for path in paths {
        let Some(file) = read(&path)? else { continue };
        let is_of =
            |key: &String| full.strip_prefix(key.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if file.creds_store.as_ref().is_some_and(|name| !name.is_empty()) || file.cred_helpers.keys().any(is_of) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Finds the credentials for a repository; nothing means to ask anonymously.
///
/// `authfile` is the value of `--authfile`; `env` looks up environment variables.
///
/// # Errors
/// A file that was named and is missing, one that is malformed, a helper that fails.
pub fn find(
    registry: &str,
    repository: &str,
    authfile: Option<&Path>,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Option<Credentials>, RegistryError> {
    let variable = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = authfile.map(Path::to_owned).or_else(|| variable("REGISTRY_AUTH_FILE")) {
        let Some(file) = read(&path)? else {
            let what = path.display().to_string();
            return Err(RegistryError::Setup { what, reason: "there is no such authentication file".to_owned() });
        };
        return file.credentials(registry, repository);
    }
    for path in Files::of(env).paths() {
        if let Some(file) = read(path)?
            && let Some(credentials) = file.credentials(registry, repository)?
        {
            return Ok(Some(credentials));
        }
    }
    Ok(None)
}

fn read(path: &Path) -> Result<Option<AuthFile>, RegistryError> {
    let failed = |reason: String| RegistryError::Setup { what: path.display().to_string(), reason };
    match fs::read(path) {
        // An empty file is what `touch` and some tools leave.
        Ok(bytes) if bytes.is_empty() => Ok(Some(AuthFile::default())),
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| failed(format!("invalid JSON: {error}"))),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(failed(crate::sys::reason(&error))),
    }
}

impl AuthFile {
    fn credentials(&self, registry: &str, repository: &str) -> Result<Option<Credentials>, RegistryError> {
        // `host/namespace/repository`, `host/namespace`, `host`: the longest that is there.
        let full = format!("{registry}/{repository}");
        let mut key = full.as_str();
        loop {
            if let Some(helper) = self.cred_helpers.get(key) {
                return helper::get(helper, registry);
            }
            if let Some(credentials) = self.entry(key).map(|entry| entry.credentials(key)).transpose()?.flatten() {
                return Ok(Some(credentials));
            }
            match key.rfind('/') {
                Some(slash) => key = &key[..slash],
                None => break,
            }
        }
        match &self.creds_store {
            Some(helper) if !helper.is_empty() => helper::get(helper, registry),
            _ => Ok(None),
        }
    }

    fn entry(&self, key: &str) -> Option<&AuthEntry> {
        self.auths
            .get(key)
            .or_else(|| self.auths.iter().find(|(name, _)| normalised(name) == key).map(|(_, entry)| entry))
    }
}

/// A key of docker's `config.json` without scheme and API path, Docker Hub by its one name.
fn normalised(key: &str) -> &str {
    let key = key.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let key = key.trim_end_matches("/v1").trim_end_matches("/v2");
    match key {
        "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB,
        other => other,
    }
}

impl AuthEntry {
    fn credentials(&self, key: &str) -> Result<Option<Credentials>, RegistryError> {
        if let Some(token) = self.identitytoken.as_ref().filter(|token| !token.is_empty()) {
            return Ok(Some(Credentials::IdentityToken(token.clone())));
        }
        if let Some(auth) = self.auth.as_ref().filter(|auth| !auth.is_empty()) {
            let invalid = || RegistryError::Setup {
                what: format!("credentials of {key}"),
                reason: "the auth field is not base64 of USER:PASSWORD".to_owned(),
            };
            let bytes = STANDARD.decode(auth).or_else(|_| STANDARD_NO_PAD.decode(auth)).map_err(|_| invalid())?;
            let text = String::from_utf8(bytes).map_err(|_| invalid())?;
            let (user, password) = text.split_once(':').ok_or_else(invalid)?;
            let password = password.trim_end_matches('\0').to_owned();
            return Ok(Some(Credentials::Password { user: user.to_owned(), password }));
        }
        Ok(match (&self.username, &self.password) {
            (Some(user), Some(password)) if !user.is_empty() => {
                Some(Credentials::Password { user: user.clone(), password: password.clone() })
            }
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(user: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Password { user: user.to_owned(), password: password.to_owned() })
    }

    fn auth(text: &str) -> String {
        STANDARD.encode(text)
    }

    #[test]
    fn longest_key_wins_and_docker_spellings_are_understood() {
        let file: AuthFile = serde_json::from_str(&format!(
            r#"{{"auths":{{"r.io":{{"auth":"{}"}},"r.io/team":{{"auth":"{}"}},"r.io/team/app":{{"auth":"{}"}},
            "https://index.docker.io/v1/":{{"auth":"{}"}},"http://plain:5000":{{"username":"u","password":"p"}},
            "token.io":{{"auth":"{}","identitytoken":"abc"}},"empty.io":{{}},"bad.io":{{"auth":"!"}}}}}}"#,
            auth("a:1"),
            auth("b:2:x"),
            auth("c:3"),
            auth("hub:4"),
            auth("x:")
        ))
        .unwrap();
        let find = |registry: &str, repository: &str| file.credentials(registry, repository).unwrap();
        assert_eq!(find("r.io", "x"), password("a", "1"));
        assert_eq!(find("r.io", "team/x"), password("b", "2:x"));
        assert_eq!(find("r.io", "team/app"), password("c", "3"));
        assert_eq!(find("r.io", "teams/app"), password("a", "1"));
        assert_eq!(find("docker.io", "library/nginx"), password("hub", "4"));
        assert_eq!(find("plain:5000", "x"), password("u", "p"));
        assert_eq!(find("plain", "x"), None);
        assert_eq!(find("token.io", "x"), Some(Credentials::IdentityToken("abc".to_owned())));
        assert_eq!(find("empty.io", "x"), None);
        let error = file.credentials("bad.io", "x").unwrap_err().to_string();
        assert_eq!(error, "credentials of bad.io: the auth field is not base64 of USER:PASSWORD");
    }

    #[test]
    fn files_are_asked_in_order_and_a_named_one_alone() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, user: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, format!(r#"{{"auths":{{"r.io":{{"auth":"{}"}}}}}}"#, auth(&format!("{user}:p")))).unwrap();
            path
        };
        let env = |name: &str| match name {
            "HOME" => Some(root.path().as_os_str().to_owned()),
            "XDG_RUNTIME_DIR" => Some(root.path().join("run").into_os_string()),
            _ => None,
        };
        let find = |authfile: Option<&Path>| find("r.io", "x", authfile, &env).unwrap();
        assert_eq!(find(None), None);
        write(".docker/config.json", "docker");
        assert_eq!(find(None), password("docker", "p"));
        write(".config/containers/auth.json", "config");
        assert_eq!(find(None), password("config", "p"));
        let run = write("run/containers/auth.json", "run");
        assert_eq!(find(None), password("run", "p"));
        fs::write(&run, "").unwrap();
        assert_eq!(find(None), password("config", "p"));
        let named = write("named", "named");
        assert_eq!(find(Some(&named)), password("named", "p"));
        assert!(super::find("r.io", "x", Some(&root.path().join("missing")), &env).is_err());
        fs::write(&run, "{").unwrap();
        assert!(super::find("r.io", "x", None, &env).unwrap_err().to_string().contains("invalid JSON"));
    }

    #[test]
    fn helpers_are_known_by_the_files_that_name_them() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("auth.json");
        let asks = |text: &str| {
            fs::write(&path, text).unwrap();
            has_helper("r.io", "team/app", Some(&path), &|_| None).unwrap()
        };
        assert!(asks(r#"{"credHelpers":{"r.io":"x"}}"#) && asks(r#"{"credHelpers":{"r.io/team":"x"}}"#));
        assert!(asks(r#"{"credsStore":"x"}"#));
        assert!(!asks(r#"{"credHelpers":{"r.io/te":"x","other.io":"x"},"credsStore":"","auths":{"r.io":{}}}"#));
    }

    #[test]
    fn debug_output_keeps_secrets() {
        let text = format!("{:?} {:?}", password("u", "hunter2"), Credentials::IdentityToken("hunter2".to_owned()));
        assert!(!text.contains("hunter2"), "{text}");
        assert!(Credentials::parse("nocolon").is_err() && Credentials::parse(":p").is_err());
        assert_eq!(Credentials::parse("u:p:q").ok(), password("u", "p:q"));
    }
}
