//! Fetches a file or a repository into a directory that a build made for it.
//!
//! **Runs in:** a process with one thread; a download, which has more, in a child.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use storage::build::Key;
use storage::digest::{Algorithm, Digest};
use storage::transport::download::{DownloadLimits, Validators, download_unless};

use super::git::{GitSource, forget_history};
use super::{Remote, file_name};
use crate::build::stage::Build;
use crate::error::{CommandError, reason};

/// What was fetched.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// The directory it is in.
    pub(crate) root: PathBuf,
    /// The file's name in it; empty for a repository, which is the directory.
    pub(crate) name: String,
    /// What it is: the digest of the file, or the commit.
    pub(crate) digest: String,
    /// It is not here yet: fetched if a step needs it.
    pub(crate) missing: Option<Missing>,
}

impl Remote {
    /// Fetches it into `directory`, which is empty.
    pub(crate) fn fetch(
        &self,
        build: &Build<'_>,
        directory: &Path,
        checksum: Option<&str>,
        keep_git_dir: bool,
    ) -> Result<Fetched, CommandError> {
        match self {
            Remote::Git(git) => repository(git, directory, checksum, keep_git_dir),
            Remote::Url(url) => file(build, url, directory, checksum),
        }
    }
}

fn repository(
    git: &GitSource,
    directory: &Path,
    checksum: Option<&str>,
    keep_git_dir: bool,
) -> Result<Fetched, CommandError> {
    let (root, commit) = git.fetch(directory)?;
    if let Some(wanted) = checksum
        && !commit.starts_with(wanted)
    {
        return Err(CommandError::user(format!("--checksum={wanted}: {} is at commit {commit}", git.url)));
    }
    if !keep_git_dir && git.keep_git_dir != Some(true) {
        forget_history(directory)?;
    }
    let digest = format!("{commit} {}", git.subdir.as_deref().unwrap_or_default());
    Ok(Fetched { root, name: String::new(), digest, missing: None })
}

/// What is known of a URL since it was fetched the last time.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    validators: Validators,
    digest: String,
}

/// A file. If a step may have it already, it need not come: then only what it is is told.
fn file(build: &Build<'_>, url: &str, directory: &Path, checksum: Option<&str>) -> Result<Fetched, CommandError> {
    let wanted = checksum.map(Digest::parse).transpose();
    let wanted = wanted.map_err(|error| CommandError::user(format!("--checksum: {error}")))?;
    let asks = !build.options.no_cache && build.options.layers;
    let name = file_name(url);
    let missing = |digest: String| {
        let missing = Missing { url: url.to_owned(), directory: directory.to_owned(), digest: digest.clone() };
        Fetched { root: directory.to_owned(), name: name.clone(), digest, missing: Some(missing) }
    };
    if let (Some(wanted), true) = (&wanted, asks) {
        return Ok(missing(wanted.to_string()));
    }
    let known = build.cache.files(&remembered(url)).filter(|_| asks);
    let known: Option<Remembered> = known.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let validators = known.as_ref().map(|known| known.validators.clone()).unwrap_or_default();
    let algorithm = wanted.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
    match (come(build, url, directory, algorithm, &validators)?, known) {
        (Some(digest), _) => {
            expect(wanted.as_ref(), &name, &digest)?;
            Ok(Fetched { root: directory.to_owned(), name, digest, missing: None })
        }
        (None, Some(known)) => Ok(missing(known.digest)),
        (None, None) => Err(CommandError::host(format!("download {url}: the server answered nothing"))),
    }
}

/// A file that is known, but not here.
#[derive(Debug)]
pub(crate) struct Missing {
    url: String,
    directory: PathBuf,
    digest: String,
}

impl Missing {
    /// Fetches it after all.
    pub(crate) fn fetch(&self, build: &Build<'_>) -> Result<(), CommandError> {
        let wanted = Digest::parse(&self.digest).map_err(CommandError::host)?;
        let came = come(build, &self.url, &self.directory, wanted.algorithm(), &Validators::default())?;
        expect(Some(&wanted), &file_name(&self.url), &came.unwrap_or_default())
    }
}

fn expect(wanted: Option<&Digest>, name: &str, digest: &str) -> Result<(), CommandError> {
    match wanted.filter(|wanted| wanted.to_string() != digest) {
        Some(wanted) => Err(CommandError::user(format!("--checksum={wanted}: {name} is {digest}"))),
        None => Ok(()),
    }
}

/// Where what is known of a URL is kept.
fn remembered(url: &str) -> Key {
    Key::of([b"url".as_slice(), url.as_bytes()])
}

/// Fetches a file unless it is in the state that is known; gives its digest.
fn come(
    build: &Build<'_>,
    url: &str,
    directory: &Path,
    algorithm: Algorithm,
    known: &Validators,
) -> Result<Option<String>, CommandError> {
    let path = directory.join(file_name(url));
    let failed = |error: std::io::Error| CommandError::host(format!("write {}: {}", path.display(), reason(&error)));
    let out = File::create(&path).map_err(failed)?;
    type Came = (String, Option<i64>, Validators);
    let came: Option<Came> = build.space.inside(|| {
        let came = download_unless(url, known, algorithm, &DownloadLimits::default(), &out);
        Ok(came.map_err(CommandError::host)?.map(|came| (came.digest.to_string(), came.last_modified, came.validators)))
    })?;
    let Some((digest, last_modified, validators)) = came else {
        fs::remove_file(&path).map_err(failed)?;
        return Ok(None);
    };
    use std::os::unix::fs::PermissionsExt;
    out.set_permissions(fs::Permissions::from_mode(0o600)).map_err(failed)?;
    let seconds = last_modified.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0);
    out.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).map_err(failed)?;
    if algorithm == Algorithm::Sha256 && !validators.is_empty() {
        let bytes = serde_json::to_vec(&Remembered { validators, digest: digest.clone() }).unwrap_or_default();
        // Without it, the file is fetched again.
        let _ = build.cache.keep_files(&remembered(url), &bytes);
    }
    Ok(Some(digest))
}
