//! Where the images of a name come from: `registries.conf` and docker's `daemon.json`.
//!
//! ```text
//! file     one registries.conf as it is written     docker   daemon.json, as rules of the same kind
//! mod      all files in their order → Registries → the endpoints of a reference, mirrors first
//! short    a name without a registry → the references it may mean
//! ```
//! Read when a registry is asked, and not before.
//!
//! # Source
//! `containers-registries.conf(5)`, `dockerd(8)`.

mod docker;

mod file;

mod short;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use file::{Mirror, PullFromMirror, Rule, ShortNameMode};

use super::{ClientOptions, RegistryError};
use crate::reference::{DOCKER_HUB, Reference};

/// What all files say together.
#[derive(Clone, Debug, Default)]
pub struct Registries {
    /// Where a name without a registry is looked for, in this order; nothing if no file says so.
    pub unqualified: Option<Vec<String>>,
    /// What a short name stands for.
    pub aliases: BTreeMap<String, String>,
    /// Whether a short name may have several meanings.
    pub short_name_mode: Option<ShortNameMode>,
    /// What holds for the names below a prefix.
    pub rules: Vec<Rule>,
    /// The files that say all this but for aliases, in the order in which they were read.
    pub files: Vec<PathBuf>,
    /// Where `daemon.json` allows plain HTTP and certificates that nobody vouches for.
    insecure: docker::Insecure,
}

/// A registry and a repository to be asked for a reference.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// The domain, with its port.
    pub registry: String,
    /// The repository there.
    pub repository: String,
    /// Whether plain HTTP and unknown certificates are allowed.
    pub is_insecure: bool,
    /// Whether this is a mirror of where the name leads.
    pub is_mirror: bool,
}

impl Endpoint {
    /// `options`, as far as they are for this endpoint: what the user says of TLS counts before any file, and a login
    /// that was typed is for the registry itself, not for its mirrors.
    pub(super) fn client_options(&self, options: &ClientOptions) -> ClientOptions {
        let mut own = options.clone();
        own.tls_verify = own.tls_verify.or(self.is_insecure.then_some(false));
        if self.is_mirror {
            own.credentials = None;
        }
        own
    }
}

impl Registries {
    /// Reads all files that `env`, the environment, leads to.
    ///
    /// # Errors
    /// A file that cannot be read or is malformed.
    pub fn load(env: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, RegistryError> {
        let variable = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
        let mut all = Self::default();
        for path in paths(&variable, home.as_deref()) {
            if let Some(text) = read(&path)? {
                let file = file::parse(&text, &path).map_err(|reason| malformed(&path, reason))?;
                // Names alone are in force nowhere until they are used; distributions bring long lists of them.
                let says = file.unqualified.is_some() || file.short_name_mode.is_some() || !file.rules.is_empty();
                all.add(file);
                all.files.extend(says.then_some(path));
            }
        }
        // A user's first, since the first that has mirrors decides.
        let user = home.map(|home| home.join("docker/daemon.json"));
        for path in user.into_iter().chain([PathBuf::from("/etc/docker/daemon.json")]) {
            if let Some(text) = read(&path)? {
                let daemon = docker::parse(&text, &path).map_err(|reason| malformed(&path, reason))?;
                all.insecure.extend(daemon.insecure);
                if let Some(rule) = daemon.rule
                    && !all.rules.iter().any(|rule| rule.prefix == DOCKER_HUB)
                {
                    all.rules.push(rule);
                }
                all.files.push(path);
            }
        }
        Ok(all)
    }

    /// What is read later counts.
    fn add(&mut self, file: file::File) {
        self.unqualified = file.unqualified.or(self.unqualified.take());
        self.short_name_mode = file.short_name_mode.or(self.short_name_mode);
        self.aliases.extend(file.aliases);
        self.aliases.retain(|_, name| !name.is_empty());
        for rule in file.rules {
            self.rules.retain(|known| known.prefix != rule.prefix);
            self.rules.push(rule);
        }
    }

    /// The rule with the longest prefix of a reference.
    fn rule_for(&self, reference: &Reference) -> Option<(&Rule, usize)> {
        let text = reference.to_string();
        let found = self.rules.iter().filter_map(|rule| Some((rule, rule.matches(&text)?)));
        found.max_by_key(|(rule, _)| rule.prefix.len())
    }

    /// Where a push of `reference` goes.
    ///
    /// # Errors
    /// [`RegistryError::Blocked`]; a location that makes no name.
    pub fn primary(&self, reference: &Reference) -> Result<Endpoint, RegistryError> {
        let Some((rule, len)) = self.rule_for(reference) else {
            return Ok(self.at(reference.registry(), reference.repository(), false));
        };
        if rule.is_blocked {
            let (registry, file) = (rule.prefix.clone(), rule.file.display().to_string());
            return Err(RegistryError::Blocked { what: reference.name(), registry, file });
        }
        self.rewritten(reference, len, &rule.location, rule.is_insecure, rule)
    }

    /// Where `reference` may be pulled from: mirrors in their order, then the place itself.
    ///
    /// # Errors
    /// As [`Registries::primary`].
    pub fn endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>, RegistryError> {
        let primary = self.primary(reference)?;
        let mut all = Vec::new();
        if let Some((rule, len)) = self.rule_for(reference) {
            for mirror in &rule.mirrors {
                let is_for_this = match mirror.pull_from {
                    PullFromMirror::All => true,
                    PullFromMirror::DigestOnly => reference.digest().is_some(),
                    PullFromMirror::TagOnly => reference.digest().is_none(),
                };
                if is_for_this {
                    let endpoint = self.rewritten(reference, len, &mirror.location, mirror.is_insecure, rule)?;
                    all.push(Endpoint { is_mirror: true, ..endpoint });
                }
            }
        }
        all.push(primary);
        Ok(all)
    }

    /// `reference` with its first `len` bytes replaced by `location`.
    fn rewritten(
        &self,
        reference: &Reference,
        len: usize,
        location: &str,
        is_insecure: bool,
        rule: &Rule,
    ) -> Result<Endpoint, RegistryError> {
        let name = reference.name();
        if location.is_empty() {
            return Ok(self.at(reference.registry(), reference.repository(), is_insecure));
        }
        // A prefix may go as far as the tag; what it stands for has the tag of its own.
        let rest = name.get(len.min(name.len())..).unwrap_or_default();
        let text = format!("{location}{rest}");
        // Names of mirrors may lack the dot or port by which a registry is told from a repository.
        let Some((registry, repository)) = text.split_once('/').filter(|(_, repository)| !repository.is_empty()) else {
            return Err(malformed(&rule.file, format!("{location}: not a place for {name}")));
        };
        if Reference::parse(&format!("registry.invalid/{repository}")).is_err() {
            return Err(malformed(&rule.file, format!("{location}: not a place for {name}")));
        }
        Ok(self.at(registry, repository, is_insecure))
    }

    fn at(&self, registry: &str, repository: &str, is_insecure: bool) -> Endpoint {
        let is_insecure = is_insecure || self.insecure.has(registry);
        Endpoint { registry: registry.to_owned(), repository: repository.to_owned(), is_insecure, is_mirror: false }
    }

    /// The registries and networks that `daemon.json` calls insecure.
    pub fn insecure(&self) -> Vec<String> {
        self.insecure.list()
    }

    /// `options` for a registry that is asked for no image in particular.
    pub(super) fn client_options(&self, registry: &str, options: &ClientOptions) -> ClientOptions {
        let rule = self.rules.iter().find(|rule| rule.location == registry || rule.prefix == registry);
        let is_insecure = rule.is_some_and(|rule| rule.is_insecure);
        self.at(registry, "", is_insecure).client_options(options)
    }
}

/// `registries.conf` and its drop-ins, in the order in which they are read.
fn paths(variable: &dyn Fn(&str) -> Option<PathBuf>, home: Option<&Path>) -> Vec<PathBuf> {
    if let Some(path) = variable("CONTAINERS_REGISTRIES_CONF").or_else(|| variable("REGISTRIES_CONFIG_PATH")) {
        return vec![path];
    }
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
    paths
}

fn read(path: &Path) -> Result<Option<String>, RegistryError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(malformed(path, crate::sys::reason(&error))),
    }
}

fn malformed(path: &Path, reason: String) -> RegistryError {
    RegistryError::Setup { what: path.display().to_string(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(text: &str) -> Registries {
        let mut all = Registries::default();
        all.add(file::parse(text, Path::new("registries.conf")).unwrap());
        all
    }

    fn places(all: &Registries, name: &str) -> Vec<String> {
        let endpoints = all.endpoints(&Reference::parse(name).unwrap().with_default_tag()).unwrap();
        let show = |place: Endpoint| {
            let marks = [(place.is_mirror, "mirror "), (place.is_insecure, "insecure ")];
            let marks: String = marks.iter().filter(|(is, _)| *is).map(|(_, mark)| *mark).collect();
            format!("{marks}{}/{}", place.registry, place.repository)
        };
        endpoints.into_iter().map(show).collect()
    }

    #[test]
    fn the_last_file_that_names_registries_counts() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("containers");
        fs::create_dir_all(dir.join("registries.conf.d")).unwrap();
        let env = |name: &str| (name == "XDG_CONFIG_HOME").then(|| root.path().as_os_str().to_owned());
        fs::write(
            dir.join("registries.conf"),
            "unqualified-search-registries = [\"a.io\"]\n[[registry]]\nprefix='x.io'\n",
        )
        .unwrap();
        let unqualified = || Registries::load(&env).map(|all| all.unqualified.unwrap());
        assert_eq!(unqualified().unwrap(), ["a.io"]);
        let drop_ins = [
            (
                "1.conf",
                "unqualified-search-registries = [\"b.io\", \"c.io\"]\n[aliases]\nx = \"a.io/x\"\ny = \"a.io/y\"",
            ),
            (
                "2.conf",
                "short-name-mode = \"disabled\"\n[[registry]]\nprefix = \"x.io\"\nblocked = true\n[aliases]\nx=\"\"",
            ),
        ];
        for (name, text) in drop_ins {
            fs::write(dir.join("registries.conf.d").join(name), text).unwrap();
        }
        assert_eq!(unqualified().unwrap(), ["b.io", "c.io"]);
        let all = Registries::load(&env).unwrap();
        // The system may have aliases of its own.
        assert_eq!((all.aliases.get("x"), all.aliases.get("y").map(String::as_str)), (None, Some("a.io/y")));
        assert_eq!(all.short_name_mode, Some(ShortNameMode::Disabled));
        let error = all.primary(&Reference::parse("x.io/a").unwrap()).unwrap_err().to_string();
        assert!(error.contains("x.io") && error.contains("2.conf") && error.contains("blocked"), "{error}");
        fs::write(dir.join("registries.conf"), "unqualified-search-registries = 5").unwrap();
        assert!(Registries::load(&env).unwrap_err().to_string().contains("registries.conf"));
    }

    #[test]
    fn docker_s_mirrors_are_asked_first_unless_registries_conf_says_where_its_hub_is() {
        let root = tempfile::tempdir().unwrap();
        for dir in ["docker", "containers"] {
            fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        let env = |name: &str| (name == "XDG_CONFIG_HOME").then(|| root.path().as_os_str().to_owned());
        let json =
            r#"{"registry-mirrors": ["https://m.io", "http://n.io:5000/"], "insecure-registries": ["r.io:5000"]}"#;
        fs::write(root.path().join("docker/daemon.json"), json).unwrap();
        let all = Registries::load(&env).unwrap();
        assert_eq!(
            places(&all, "nginx"),
            ["mirror m.io/library/nginx", "mirror insecure n.io:5000/library/nginx", "docker.io/library/nginx"]
        );
        assert_eq!(places(&all, "r.io:5000/x"), ["insecure r.io:5000/x"]);
        let own = "[[registry]]\nlocation = \"docker.io\"\n[[registry.mirror]]\nlocation = \"o.io\"";
        fs::write(root.path().join("containers/registries.conf"), own).unwrap();
        let all = Registries::load(&env).unwrap();
        assert_eq!(places(&all, "nginx"), ["mirror o.io/library/nginx", "docker.io/library/nginx"]);
    }

    #[test]
    fn the_longest_prefix_decides_and_is_replaced() {
        let all = from(
            r#"
            [[registry]]
            prefix = "a.io"
            location = "b.io:5000/copy"
            insecure = true
            [[registry]]
            prefix = "a.io/team"
            location = "c.io"
            [[registry]]
            prefix = "*.d.io"
            [[registry.mirror]]
            location = "m.io/d"
            [[registry]]
            location = "e.io"
            "#,
        );
        assert_eq!(places(&all, "a.io/x/y"), ["insecure b.io:5000/copy/x/y"]);
        assert_eq!(places(&all, "a.io/team/y:1"), ["c.io/y"]);
        assert_eq!(places(&all, "a.io/teams/y"), ["insecure b.io:5000/copy/teams/y"]);
        assert_eq!(places(&all, "x.y.d.io/z"), ["mirror m.io/d/z", "x.y.d.io/z"]);
        assert_eq!(places(&all, "d.io/z"), ["d.io/z"]);
        assert_eq!(places(&all, "e.io/z"), ["e.io/z"]);
    }

    #[test]
    fn mirrors_are_for_what_they_say() {
        let all = from(
            r#"
            [[registry]]
            location = "a.io"
            [[registry.mirror]]
            location = "one.io"
            [[registry.mirror]]
            location = "two"
            pull-from-mirror = "digest-only"
            insecure = true
            [[registry.mirror]]
            location = "three.io"
            pull-from-mirror = "tag-only"
            [[registry]]
            location = "b.io"
            mirror-by-digest-only = true
            [[registry.mirror]]
            location = "one.io"
            "#,
        );
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(places(&all, "a.io/x:1"), ["mirror one.io/x", "mirror three.io/x", "a.io/x"]);
        assert_eq!(places(&all, &format!("a.io/x@{digest}")), ["mirror one.io/x", "mirror insecure two/x", "a.io/x"]);
        assert_eq!(places(&all, "b.io/x"), ["b.io/x"]);
        assert_eq!(places(&all, &format!("b.io/x@{digest}")), ["mirror one.io/x", "b.io/x"]);
        assert_eq!(all.primary(&Reference::parse("a.io/x").unwrap()).unwrap().registry, "a.io");
    }
}
