//! Fetches a file or a repository into a directory that a build made for it.
//!
//! **Runs in:** a process with one thread; a download, which has more, in a child.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use storage::digest::{Algorithm, Digest};
use storage::transport::download::{DownloadLimits, download};

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
    Ok(Fetched { root, name: String::new(), digest })
}

fn file(build: &Build<'_>, url: &str, directory: &Path, checksum: Option<&str>) -> Result<Fetched, CommandError> {
    let wanted = checksum.map(Digest::parse).transpose();
    let wanted = wanted.map_err(|error| CommandError::user(format!("--checksum: {error}")))?;
    let name = file_name(url);
    let path = directory.join(&name);
    let failed = |error: std::io::Error| CommandError::host(format!("write {}: {}", path.display(), reason(&error)));
    let out = File::create_new(&path).map_err(failed)?;
    let algorithm = wanted.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
    let (digest, last_modified): (String, Option<i64>) = build.space.inside(|| {
        let came = download(url, algorithm, &DownloadLimits::default(), &out).map_err(CommandError::host)?;
        Ok((came.digest.to_string(), came.last_modified))
    })?;
    if let Some(wanted) = wanted.filter(|wanted| wanted.to_string() != digest) {
        return Err(CommandError::user(format!("--checksum={wanted}: {name} is {digest}")));
    }
    use std::os::unix::fs::PermissionsExt;
    out.set_permissions(fs::Permissions::from_mode(0o600)).map_err(failed)?;
    let seconds = last_modified.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0);
    out.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).map_err(failed)?;
    Ok(Fetched { root: directory.to_owned(), name, digest })
}
