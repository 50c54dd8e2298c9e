//! Simple signatures: OpenPGP messages that lie in a directory or on a web server, verified by GnuPG's `gpgv`.
//!
//! OpenPGP is verified by the program that distributions verify their packages with, and not by a second implementation of
//! it here: where `gpgv` is missing, such images are refused, with its name.
//!
//! # Source
//! `containers-registries.d(5)`: `lookaside` is the base, then `<repository>@<algorithm>=<hex>/signature-<n>`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use base64::Engine as _;
use serde::Deserialize;

use super::{Keys, Signed, parse_payload};
use crate::digest::Digest;
use crate::reference::Reference;
use crate::transport::registry;

const KIND: &str = "atomic container signature";

/// The longest signature that is read: such a message fits into a pipe.
const LIMIT_BYTES: u64 = 60 << 10;

/// How many signatures of an image are looked at.
const COUNT_LIMIT: usize = 64;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    default_docker: Option<Place>,
    #[serde(default)]
    docker: BTreeMap<String, Place>,
}

#[derive(Deserialize)]
struct Place {
    lookaside: Option<String>,
    // The older name.
    sigstore: Option<String>,
}

/// What verified signatures of a manifest say; a signature that is not good says why.
pub(super) fn find(
    reference: &Reference,
    manifest: &Digest,
    keys: &Keys,
) -> Result<Vec<Result<Signed, String>>, String> {
    let keys = keys.read()?;
    let Some(base) = lookaside(reference)? else {
        return Err("a signature was required, but no file of registries.d says where signatures are".to_owned());
    };
    let path = format!("{}@{}={}", reference.repository(), manifest.algorithm().as_str(), manifest.hex());
    let mut found = Vec::new();
    for number in 1..=COUNT_LIMIT {
        let url = format!("{}/{path}/signature-{number}", base.trim_end_matches('/'));
        match fetch(&url)? {
            Some(message) => found.push(verify(&message, &keys).and_then(|text| parse_payload(&text, KIND))),
            None => break,
        }
    }
    Ok(found)
}

/// Where signatures of a repository are, by the most specific entry of all files.
fn lookaside(reference: &Reference) -> Result<Option<String>, String> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
    let user = home.map(|home| home.join("containers/registries.d")).filter(|dir| dir.is_dir());
    let dir = user.unwrap_or_else(|| PathBuf::from("/etc/containers/registries.d"));
    let entries = fs::read_dir(&dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some_and(|name| name == "yaml")).collect();
    paths.sort();
    let (mut places, mut default) = (BTreeMap::new(), None);
    for path in paths {
        let failed = |reason: String| format!("{}: {reason}", path.display());
        let text = fs::read_to_string(&path).map_err(|error| failed(crate::sys::reason(&error)))?;
        let file: File = serde_saphyr::from_str(&text).map_err(|error| failed(error.to_string()))?;
        places.extend(file.docker);
        default = file.default_docker.or(default);
    }
    let mut name = reference.name();
    let place = loop {
        if let Some(place) = places.remove(&name) {
            break Some(place);
        }
        match name.rfind('/') {
            Some(end) => name.truncate(end),
            None => break default,
        }
    };
    Ok(place.and_then(|place| place.lookaside.or(place.sigstore)))
}

fn fetch(url: &str) -> Result<Option<Vec<u8>>, String> {
    if let Some(path) = url.strip_prefix("file://") {
        return match fs::File::open(path) {
            Ok(file) => {
                let mut bytes = Vec::new();
                file.take(LIMIT_BYTES).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
                Ok(Some(bytes))
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(format!("{path}: {}", crate::sys::reason(&error))),
        };
    }
    match registry::fetch(url, LIMIT_BYTES) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(registry::RegistryError::Status { status, .. }) if status.starts_with("404") => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// The text that a message signs, if one of `keys` has signed it.
fn verify(message: &[u8], keys: &[Vec<u8>]) -> Result<Vec<u8>, String> {
    let failed = |error: io::Error| format!("keys for gpgv: {}", crate::sys::reason(&error));
    // Not closed on exec: gpgv opens it by its number.
    let ring = nix::sys::memfd::memfd_create("keys", nix::sys::memfd::MFdFlags::empty());
    let mut ring = fs::File::from(ring.map_err(|errno| failed(errno.into()))?);
    for key in keys {
        ring.write_all(&dearmor(key)?).map_err(failed)?;
    }
    let (verified, text, report) = run_gpgv(ring.as_raw_fd(), message)?;
    let says = |word: &str| {
        let lines = report.lines().filter_map(|line| line.strip_prefix("[GNUPG:] "));
        lines.filter(|line| line.split(' ').next() == Some(word)).count()
    };
    // One signature, good, by a key that is neither expired nor revoked.
    let is_good = verified && says("VALIDSIG") == 1 && says("GOODSIG") == 1 && says("NEWSIG") == 1;
    match is_good {
        true => Ok(text),
        false if says("NO_PUBKEY") > 0 => Err("it is by another key".to_owned()),
        false if says("EXPKEYSIG") > 0 || says("KEYEXPIRED") > 0 => Err("its key has expired".to_owned()),
        false => Err("gpgv does not accept it".to_owned()),
    }
}

/// Whether gpgv succeeded, the signed text, and what it reports.
fn run_gpgv(ring: RawFd, message: &[u8]) -> Result<(bool, Vec<u8>, String), String> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => "a GnuPG signature was required, and gpgv is not installed".to_owned(),
        _ => format!("gpgv: {}", crate::sys::reason(&error)),
    };
    let mut command = Command::new("gpgv");
    command.arg("--keyring").arg(format!("/proc/self/fd/{ring}")).args(["--status-fd", "2", "--output", "-", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    // It says no by its status; a pipe that it closes early is one way.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(message));
    let (mut text, mut report) = (Vec::new(), Vec::new());
    // What is longer than this signs nothing of ours.
    let read = child.stdout.take().map(|stdout| stdout.take(LIMIT_BYTES).read_to_end(&mut text));
    let told = child.stderr.take().map(|stderr| stderr.take(LIMIT_BYTES).read_to_end(&mut report));
    let ended = child.wait().map_err(failed)?;
    let is_whole = matches!((read, told), (Some(Ok(_)), Some(Ok(_))));
    Ok((ended.success() && is_whole, text, String::from_utf8_lossy(&report).into_owned()))
}

/// The bytes of a key in ASCII armour; others as they are.
fn dearmor(key: &[u8]) -> Result<Vec<u8>, String> {
    let Ok(text) = std::str::from_utf8(key) else { return Ok(key.to_vec()) };
    if !text.contains("-----BEGIN PGP") {
        return Ok(key.to_vec());
    }
    let mut all = Vec::new();
    for block in text.split("-----BEGIN PGP").skip(1) {
        // Headers end with an empty line; the checksum begins with an equals sign.
        let mut lines = block.lines().skip_while(|line| !line.trim().is_empty());
        lines.next();
        let body: String =
            lines.map(str::trim).take_while(|line| !line.starts_with('=') && !line.starts_with('-')).collect();
        let bytes = base64::engine::general_purpose::STANDARD.decode(body);
        all.extend(bytes.map_err(|error| format!("a key in ASCII armour: {error}"))?);
    }
    Ok(all)
}
