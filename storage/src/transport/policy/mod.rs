//! `policy.json`: which images may come in, and whose signature they need.
//!
//! ```text
//! file       policy.json as it is written: scopes and their requirements
//! identity   whether the name in a signature is the one that was asked for
//! sigstore   signatures beside the image in its registry; public keys        → payload
//! simple     signatures in a directory or web server (registries.d); GnuPG   → payload
//! mod        source + manifest → allowed, or why not
//! ```
//! Everything that is not understood refuses: an unreadable file, an unknown requirement, a key that is missing. Without
//! any `policy.json` everything is accepted, as where no such file was ever written.
//!
//! # Source
//! `containers-policy.json(5)`, `containers-signature(5)`, `containers-registries.d(5)`.

mod file;

mod identity;

mod sigstore;

mod simple;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use file::{Identity, Keys, Policy, Requirement};

use super::{ImageSource, TransportError};
use crate::digest::Digest;
use crate::reference::Reference;

/// Where an image comes from, as policies name it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A registry.
    Registry(Reference),
    /// A file or directory: the transport's name and the path.
    Path(&'static str, PathBuf),
}

impl Origin {
    /// A file or directory, described as `PATH` or `TRANSPORT:PATH`.
    pub(super) fn of_file(transport: &'static str, described: &str) -> Self {
        let (transport, path) = match described.split_once(':') {
            Some(("oci-archive", path)) => ("oci-archive", path),
            Some((named, path)) if named == transport => (transport, path),
            _ if transport == "oci" && !Path::new(described).is_dir() => ("oci-archive", described),
            _ => (transport, described),
        };
        let path = std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
        Self::Path(transport, path)
    }
}

/// A signature and what it signs, as they were found: neither is verified.
#[derive(Clone, Debug)]
pub struct Attached {
    /// The signed bytes.
    pub payload: Vec<u8>,
    /// The signature itself.
    pub signature: Vec<u8>,
}

/// What a signature vouches for, once it is verified.
struct Signed {
    reference: String,
    digest: String,
}

/// Says no, and why, if `policy.json` does not allow the image whose manifest has one of `digests`.
///
/// # Errors
/// [`TransportError::Policy`].
pub fn check(source: &dyn ImageSource, digests: &[Digest]) -> Result<(), TransportError> {
    let Some(origin) = source.origin() else { return Ok(()) };
    let Some(path) = find(&|name| std::env::var_os(name)) else { return Ok(()) };
    let refused = |reason: String| TransportError::Policy { file: path.display().to_string(), reason };
    let policy = read(&path).map_err(refused)?;
    let requirements = policy.requirements(&origin);
    if requirements.is_empty() {
        return Err(refused("it has no requirement for this image, not even an accepting one".to_owned()));
    }
    requirements.iter().try_for_each(|requirement| meet(requirement, source, &origin, digests).map_err(refused))
}

/// The policy that is in force: the user's before the system's.
pub fn find(env: &dyn Fn(&str) -> Option<std::ffi::OsString>) -> Option<PathBuf> {
    own(env).into_iter().chain([PathBuf::from("/etc/containers/policy.json")]).find(|path| path.exists())
}

/// The user's own policy, whether or not there is one.
pub fn own(env: &dyn Fn(&str) -> Option<std::ffi::OsString>) -> Option<PathBuf> {
    let variable = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
    home.map(|home| home.join("containers/policy.json"))
}

/// Reads a policy.
///
/// # Errors
/// Why it cannot be read or understood.
pub fn read(path: &Path) -> Result<Policy, String> {
    let text = fs::read_to_string(path).map_err(|error| crate::sys::reason(&error))?;
    Policy::parse(&text)
}

fn meet(
    requirement: &Requirement,
    source: &dyn ImageSource,
    origin: &Origin,
    digests: &[Digest],
) -> Result<(), String> {
    let identity = match requirement {
        Requirement::InsecureAcceptAnything => return Ok(()),
        Requirement::Reject => return Err("images from there are rejected".to_owned()),
        Requirement::SignedBy(_, identity) | Requirement::SigstoreSigned(_, identity) => identity,
    };
    let Origin::Registry(reference) = origin else {
        return Err("it wants a signature, and only images of registries have one".to_owned());
    };
    let mut failures = Vec::new();
    let mut is_any = false;
    for digest in digests {
        let found = match requirement {
            Requirement::SignedBy(keys, _) => simple::find(reference, digest, keys)?,
            Requirement::SigstoreSigned(keys, _) => sigstore::find(source, digest, keys)?,
            _ => Vec::new(),
        };
        for one in found {
            is_any = true;
            let verdict = one.and_then(|signed| match signed.digest == digest.to_string() {
                true => identity::check(identity.as_ref(), reference, &signed.reference),
                false => Err(format!("the signature is for {}", signed.digest.escape_debug())),
            });
            match verdict {
                Ok(()) => return Ok(()),
                Err(failure) => failures.push(failure),
            }
        }
    }
    match is_any {
        false => Err("a signature was required, but there is none".to_owned()),
        true => Err(format!("no signature is good: {}", failures.join("; "))),
    }
}

/// Reads the JSON that both kinds of signature sign.
fn parse_payload(payload: &[u8], kind: &str) -> Result<Signed, String> {
    let malformed = |what: &str| format!("the signed text has no {what}");
    let json: serde_json::Value = serde_json::from_slice(payload).map_err(|error| format!("signed text: {error}"))?;
    let critical = json.get("critical").ok_or_else(|| malformed("critical part"))?;
    let text = |pointer: &str, what: &str| {
        critical.pointer(pointer).and_then(serde_json::Value::as_str).map(str::to_owned).ok_or_else(|| malformed(what))
    };
    let found = text("/type", "type")?;
    if found != kind {
        return Err(format!("the signed text is a {:?}, not a {kind:?}", found));
    }
    Ok(Signed {
        reference: text("/identity/docker-reference", "reference")?,
        digest: text("/image/docker-manifest-digest", "digest")?,
    })
}

/// Reads a file that holds a key.
fn read_key(path: &Path) -> Result<Vec<u8>, String> {
    match fs::read(path) {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(format!("there is no key {}", path.display())),
        Err(error) => Err(format!("read key {}: {}", path.display(), crate::sys::reason(&error))),
    }
}
