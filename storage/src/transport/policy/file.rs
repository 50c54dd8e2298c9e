//! `policy.json` as it is written.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Origin, read_key};
use crate::reference::Reference;

/// A whole policy.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// What holds where nothing else is said.
    pub default: Vec<Requirement>,
    /// By transport and scope; an empty scope is the transport's default.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub transports: BTreeMap<String, BTreeMap<String, Vec<Requirement>>>,
}

/// What an image has to meet.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(try_from = "Raw", into = "Raw")]
pub enum Requirement {
    /// Nothing.
    InsecureAcceptAnything,
    /// What cannot be met.
    Reject,
    /// A simple signature by one of these GnuPG keys.
    SignedBy(Keys, Option<Identity>),
    /// A sigstore signature by one of these keys.
    SigstoreSigned(Keys, Option<Identity>),
}

/// Public keys: exactly one of the four.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Keys {
    /// A file.
    pub path: Option<PathBuf>,
    /// Several files.
    pub paths: Option<Vec<PathBuf>>,
    /// Base64.
    pub data: Option<String>,
    /// Several of it.
    pub datas: Option<Vec<String>>,
}

/// A requirement as it is written: the fields of all kinds.
#[derive(Clone, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Raw {
    r#type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_path: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_paths: Option<Vec<PathBuf>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_data: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_datas: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signed_identity: Option<Identity>,
}

impl TryFrom<Raw> for Requirement {
    type Error = String;

    fn try_from(raw: Raw) -> Result<Self, String> {
        let keys = Keys { path: raw.key_path, paths: raw.key_paths, data: raw.key_data, datas: raw.key_datas };
        let is_bare = raw.key_type.is_none() && raw.signed_identity.is_none() && keys == Keys::default();
        match (raw.r#type.as_str(), raw.key_type.as_deref()) {
            ("insecureAcceptAnything", _) if is_bare => Ok(Self::InsecureAcceptAnything),
            ("reject", _) if is_bare => Ok(Self::Reject),
            ("insecureAcceptAnything" | "reject", _) => Err(format!("{} takes nothing else", raw.r#type)),
            ("signedBy", Some("GPGKeys")) => Ok(Self::SignedBy(keys, raw.signed_identity)),
            ("signedBy", other) => {
                Err(format!("keyType {:?} is not supported: use GPGKeys", other.unwrap_or_default()))
            }
            ("sigstoreSigned", None) => Ok(Self::SigstoreSigned(keys, raw.signed_identity)),
            (other, _) => Err(format!("unknown requirement {other:?}")),
        }
    }
}

impl From<Requirement> for Raw {
    fn from(requirement: Requirement) -> Self {
        let bare = |name: &str| Self { r#type: name.to_owned(), ..Self::default() };
        let signed = |name: &str, keys: Keys, signed_identity| Self {
            key_path: keys.path,
            key_paths: keys.paths,
            key_data: keys.data,
            key_datas: keys.datas,
            signed_identity,
            ..bare(name)
        };
        match requirement {
            Requirement::InsecureAcceptAnything => bare("insecureAcceptAnything"),
            Requirement::Reject => bare("reject"),
            Requirement::SignedBy(keys, identity) => {
                Self { key_type: Some("GPGKeys".to_owned()), ..signed("signedBy", keys, identity) }
            }
            Requirement::SigstoreSigned(keys, identity) => signed("sigstoreSigned", keys, identity),
        }
    }
}

/// `signedIdentity`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Identity {
    /// The very name.
    MatchExact {},
    /// The very name, or for an image by digest its repository.
    MatchRepoDigestOrExact {},
    /// The repository.
    MatchRepository {},
    /// This name.
    ExactReference {
        /// The name.
        docker_reference: String,
    },
    /// This repository.
    ExactRepository {
        /// The repository.
        docker_repository: String,
    },
    /// The very name, after one prefix took another's place.
    RemapIdentity {
        /// What the name begins with.
        prefix: String,
        /// What the name in the signature begins with.
        signed_prefix: String,
    },
}

impl Keys {
    /// The bytes of all keys.
    pub(super) fn read(&self) -> Result<Vec<Vec<u8>>, String> {
        use base64::Engine as _;
        let decode = |text: &String| {
            base64::engine::general_purpose::STANDARD.decode(text).map_err(|error| format!("keyData: {error}"))
        };
        match (&self.path, &self.paths, &self.data, &self.datas) {
            (Some(path), None, None, None) => Ok(vec![read_key(path)?]),
            (None, Some(paths), None, None) if !paths.is_empty() => paths.iter().map(|path| read_key(path)).collect(),
            (None, None, Some(data), None) => Ok(vec![decode(data)?]),
            (None, None, None, Some(all)) if !all.is_empty() => all.iter().map(decode).collect(),
            _ => Err("a signature needs exactly one of keyPath, keyPaths, keyData and keyDatas".to_owned()),
        }
    }
}

impl Policy {
    /// Reads a file's text.
    ///
    /// # Errors
    /// Why it is not understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        // A requirement nobody here knows must not be passed over.
        let policy: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if policy.default.is_empty() {
            return Err("default has no requirement".to_owned());
        }
        Ok(policy)
    }

    /// What an image from `origin` has to meet: the most specific scope's requirements.
    pub fn requirements(&self, origin: &Origin) -> &[Requirement] {
        let (transport, scopes) = match origin {
            Origin::Registry(reference) => ("docker", registry_scopes(reference)),
            Origin::Path(transport, path) => (*transport, path_scopes(path)),
        };
        let Some(known) = self.transports.get(transport) else { return &self.default };
        let found = scopes.iter().find_map(|scope| known.get(scope)).or_else(|| known.get(""));
        found.unwrap_or(&self.default)
    }
}

/// From the whole reference up to the domain, and then to the domains above it.
fn registry_scopes(reference: &Reference) -> Vec<String> {
    let mut scopes = vec![reference.clone().with_default_tag().to_string()];
    let mut name = reference.name();
    loop {
        scopes.push(name.clone());
        match name.rfind('/') {
            Some(end) => name.truncate(end),
            None => break,
        }
    }
    let host = reference.registry();
    scopes.extend(host.match_indices('.').map(|(dot, _)| format!("*{}", &host[dot..])));
    scopes
}

fn path_scopes(path: &std::path::Path) -> Vec<String> {
    path.ancestors().filter(|path| path.parent().is_some()).map(|path| path.display().to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_scope_counts() {
        let policy = Policy::parse(
            r#"{"default": [{"type": "reject"}], "transports": {
                "docker": {
                    "a.io/team/x:1": [{"type": "insecureAcceptAnything"}, {"type": "reject"}],
                    "a.io/team": [{"type": "insecureAcceptAnything"}],
                    "*.b.io": [{"type": "insecureAcceptAnything"}],
                    "c.io": [{"type": "insecureAcceptAnything"}]},
                "dir": {"": [{"type": "insecureAcceptAnything"}], "/srv": [{"type": "reject"}]}}}"#,
        )
        .unwrap();
        let registry = |name: &str| Origin::Registry(Reference::parse(name).unwrap());
        let accepts = |origin: Origin| policy.requirements(&origin) == [Requirement::InsecureAcceptAnything];
        for (name, expected) in [
            ("a.io/team/x:2", true),
            ("a.io/team/x:1", false),
            ("a.io/teams/x", false),
            ("x.b.io/y", true),
            ("b.io/y", false),
            ("c.io/a/b", true),
            ("c.io:5000/a/b", false),
        ] {
            assert_eq!(accepts(registry(name)), expected, "{name}");
        }
        assert!(accepts(Origin::Path("dir", "/tmp/x".into())));
        assert!(!accepts(Origin::Path("dir", "/srv/a/x".into())));
        assert!(!accepts(Origin::Path("oci", "/tmp/x".into())));
    }

    #[test]
    fn what_is_not_understood_refuses() {
        for (text, part) in [
            (r#"{"transports": {}}"#, "default"),
            (r#"{"default": []}"#, "no requirement"),
            (r#"{"default": [{"type": "perhaps"}]}"#, "perhaps"),
            (r#"{"default": [{"type": "reject", "unless": 1}]}"#, "unless"),
            (r#"{"default": [{"type": "reject"}], "more": 1}"#, "more"),
            (r#"{"default": [{"type": "sigstoreSigned", "fulcio": {}}]}"#, "fulcio"),
            (r#"{"default": [{"type": "signedBy", "keyType": "X509CAs", "keyPath": "/k"}]}"#, "X509CAs"),
        ] {
            let error = Policy::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
