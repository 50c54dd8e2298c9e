//! One `registries.conf`, as it is written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// What one file says.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) unqualified: Option<Vec<String>>,
    pub(super) short_name_mode: Option<ShortNameMode>,
    pub(super) aliases: BTreeMap<String, String>,
    pub(super) rules: Vec<Rule>,
}

/// `short-name-mode`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShortNameMode {
    /// Ask where there is a terminal, else refuse a name with several meanings.
    Enforcing,
    /// As enforcing on a terminal, else as disabled.
    Permissive,
    /// Try one after the other.
    Disabled,
}

/// When a mirror is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PullFromMirror {
    /// For tags and digests.
    #[default]
    All,
    /// For digests only.
    DigestOnly,
    /// For tags only.
    TagOnly,
}

/// A `[[registry]]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Which names it is for: a domain, perhaps with a path, or `*.domain`.
    pub prefix: String,
    /// What takes the prefix's place; empty for no change.
    pub location: String,
    /// Whether plain HTTP and unknown certificates are allowed.
    pub is_insecure: bool,
    /// Whether nothing may come from there.
    pub is_blocked: bool,
    /// Where to look first.
    pub mirrors: Vec<Mirror>,
    /// The file that says so.
    pub file: PathBuf,
}

/// A `[[registry.mirror]]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mirror {
    /// What takes the prefix's place.
    pub location: String,
    /// Whether plain HTTP and unknown certificates are allowed.
    pub is_insecure: bool,
    /// What it is asked for.
    pub pull_from: PullFromMirror,
}

impl Rule {
    /// How many bytes of a whole reference the prefix stands for, if it does.
    pub(super) fn matches(&self, reference: &str) -> Option<usize> {
        if let Some(domain) = self.prefix.strip_prefix('*') {
            let host = reference.split('/').next().unwrap_or_default();
            let is_below = host.len() > domain.len() && host.ends_with(domain);
            return is_below.then_some(host.len());
        }
        let rest = reference.strip_prefix(self.prefix.as_str())?;
        (rest.is_empty() || rest.starts_with(['/', ':', '@'])).then_some(self.prefix.len())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Raw {
    unqualified_search_registries: Option<Vec<String>>,
    short_name_mode: Option<String>,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
    #[serde(default)]
    registry: Vec<RawRule>,
    registries: Option<toml::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawRule {
    prefix: Option<String>,
    location: Option<String>,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<RawMirror>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawMirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    pull_from_mirror: Option<PullFromMirror>,
}

/// Reads a file's text; `path` is remembered for messages.
///
/// # Errors
/// Why it is malformed.
pub(super) fn parse(text: &str, path: &Path) -> Result<File, String> {
    let raw: Raw = toml::from_str(text).map_err(|error| error.message().to_owned())?;
    if raw.registries.is_some() {
        return Err("version 1 of registries.conf: use unqualified-search-registries and [[registry]]".to_owned());
    }
    let short_name_mode = match raw.short_name_mode.as_deref() {
        None | Some("") => None,
        Some("enforcing") => Some(ShortNameMode::Enforcing),
        Some("permissive") => Some(ShortNameMode::Permissive),
        Some("disabled") => Some(ShortNameMode::Disabled),
        Some(other) => return Err(format!("invalid short-name mode: {other}")),
    };
    for name in raw.aliases.values().filter(|name| !name.is_empty()) {
        let reference = crate::reference::Reference::parse(name).map_err(|error| error.to_string())?;
        if reference.tag().is_some() || reference.digest().is_some() {
            return Err(format!("alias {name}: must be a repository, without a tag or digest"));
        }
    }
    let rules = raw.registry.into_iter().map(|rule| to_rule(rule, path)).collect::<Result<Vec<_>, _>>()?;
    let unqualified = raw.unqualified_search_registries;
    let unqualified = unqualified.map(|names| names.iter().map(|name| place(name)).collect()).transpose()?;
    Ok(File { unqualified, short_name_mode, aliases: raw.aliases, rules })
}

fn to_rule(raw: RawRule, path: &Path) -> Result<Rule, String> {
    let location = raw.location.as_deref().map(place).transpose()?.unwrap_or_default();
    let prefix = match raw.prefix.as_deref().filter(|prefix| !prefix.is_empty()) {
        Some(wildcard) if wildcard.starts_with("*.") => {
            let is_name = wildcard.len() > 2 && !wildcard[1..].contains(['*', '/', '@']);
            is_name.then(|| wildcard.to_owned()).ok_or_else(|| format!("invalid prefix {wildcard}: only *.DOMAIN"))?
        }
        Some(prefix) => place(prefix)?,
        None if location.is_empty() => return Err("a [[registry]] needs a prefix or a location".to_owned()),
        None => location.clone(),
    };
    if raw.mirror_by_digest_only && raw.mirror.iter().any(|mirror| mirror.pull_from_mirror.is_some()) {
        return Err(format!("{prefix}: mirror-by-digest-only and pull-from-mirror exclude each other"));
    }
    let mirrors = raw.mirror.into_iter().map(|mirror| {
        let pull_from = match raw.mirror_by_digest_only {
            true => PullFromMirror::DigestOnly,
            false => mirror.pull_from_mirror.unwrap_or_default(),
        };
        Ok(Mirror { location: place(&mirror.location)?, is_insecure: mirror.insecure, pull_from })
    });
    let mirrors = mirrors.collect::<Result<_, String>>()?;
    let (is_insecure, is_blocked, file) = (raw.insecure, raw.blocked, path.to_owned());
    Ok(Rule { prefix, location, is_insecure, is_blocked, mirrors, file })
}

/// A domain, perhaps with a path: no scheme, no slash at its end.
fn place(text: &str) -> Result<String, String> {
    let trimmed = text.trim_end_matches('/');
    if trimmed.contains("://") || trimmed.starts_with('/') {
        return Err(format!("invalid location {text:?}: expected HOST[:PORT][/PATH] without a scheme"));
    }
    if trimmed.is_empty() || trimmed.contains(char::is_whitespace) {
        return Err(format!("invalid location {text:?}: expected HOST[:PORT][/PATH]"));
    }
    Ok(trimmed.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, part) in [
            ("[[registry]]\ninsecure = true", "needs a prefix"),
            ("[[registry]]\nlocation = 'https://a.io'", "scheme"),
            ("[[registry]]\nprefix = '*.a.io/x'", "*.DOMAIN"),
            ("[[registry]]\nprefix = 'a.io'\n[[registry.mirror]]\nlocation = ''", "invalid location"),
            ("[registries.search]\nregistries = ['a.io']", "version 1"),
            ("short-name-mode = 'perhaps'", "perhaps"),
            ("[aliases]\nx = 'a.io/x:1'", "without a tag"),
            (
                "[[registry]]\nlocation = 'a.io'\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = 'b.io'\npull-from-mirror = 'all'",
                "exclude",
            ),
            (
                "[[registry]]\nlocation = 'a.io'\n[[registry.mirror]]\nlocation = 'b.io'\npull-from-mirror = 'never'",
                "never",
            ),
        ] {
            let error = parse(text, Path::new("x")).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
