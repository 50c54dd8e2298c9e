//! Fetching: what ADD or a context names comes into a directory that the build made for it.
//!
//! Files are fetched in a child, because the HTTP client starts threads and the build forks later. git is a program of
//! its own.

use std::fs::{File, FileTimes};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use runtime::userns::Mapping;
use storage::build::BuildCache;
use storage::digest::{Algorithm, Digest};
use storage::layer::Staging;
use storage::transport::download::{DownloadLimits, download};

use super::git::{GitSource, forget_history};
use super::{Remote, file_name};
use crate::build::{in_userns, tidy};
use crate::error::{CommandError, reason};

/// The longest archive or Dockerfile that is a context, in bytes.
const CONTEXT_LIMIT_BYTES: u64 = 4 << 30;

/// Something fetched; it is gone when this is.
pub(crate) struct Fetched {
    /// Where it is.
    pub(crate) directory: PathBuf,
    /// The directory's owner.
    _staging: Staging,
}

/// Fetches a repository without its history, unless that is to stay.
///
/// # Errors
/// What git says.
pub(crate) fn repository(git: &GitSource, keep_git_dir: bool, cache: &BuildCache) -> Result<Fetched, CommandError> {
    let staging = cache.stage().map_err(CommandError::host)?;
    let (directory, _) = git.fetch(&staging.diff())?;
    if !keep_git_dir {
        forget_history(&staging.diff())?;
    }
    Ok(Fetched { directory, _staging: staging })
}

/// Fetches files, of mode 0600 and with the time that the server tells, or none; and gives their names.
///
/// # Errors
/// What the servers say; another digest than was expected.
pub(crate) fn files(
    urls: &[String],
    checksum: Option<&Digest>,
    cache: &BuildCache,
) -> Result<(Fetched, Vec<String>), CommandError> {
    let staging = cache.stage().map_err(CommandError::host)?;
    let directory = staging.diff();
    let names: Vec<String> = urls.iter().map(|url| file_name(url)).collect();
    if let Some(name) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)).map(|(_, name)| name) {
        return Err(CommandError::user(format!("ADD: two of the files would be called {name:?}"))
            .hinted("give each an ADD of its own"));
    }
    in_userns(&Mapping::of_user(), || {
        urls.iter().zip(&names).try_for_each(|(url, name)| file(url, &directory.join(name), checksum))
    })?;
    Ok((Fetched { directory, _staging: staging }, names))
}

fn file(url: &str, path: &Path, checksum: Option<&Digest>) -> Result<(), CommandError> {
    let failed = |error: std::io::Error| CommandError::host(format!("write {}: {}", path.display(), reason(&error)));
    let out = File::options().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let algorithm = checksum.map_or(Algorithm::Sha256, Digest::algorithm);
    let got = download(url, algorithm, &DownloadLimits::default(), &out).map_err(CommandError::user)?;
    if let Some(expected) = checksum.filter(|expected| **expected != got.digest) {
        return Err(CommandError::user(format!(
            "digest mismatch of {}: expected {expected}, got {}",
            without_query(url),
            got.digest
        )));
    }
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(got.last_modified.unwrap_or(0).max(0).unsigned_abs());
    out.set_times(FileTimes::new().set_accessed(time).set_modified(time)).map_err(failed)
}

/// A context: a directory with its files, or the Dockerfile that stands alone at a URL.
pub(crate) enum RemoteContext {
    /// Files.
    Directory(Fetched),
    /// A Dockerfile, and an empty directory.
    Dockerfile(Vec<u8>, Fetched),
}

/// Fetches a context.
///
/// # Errors
/// As [`repository`] and [`files`]; an archive that cannot be unpacked.
pub(crate) fn context(remote: &Remote, cache: &BuildCache) -> Result<RemoteContext, CommandError> {
    let url = match remote {
        Remote::Git(git) => {
            return Ok(RemoteContext::Directory(repository(git, git.keep_git_dir == Some(true), cache)?));
        }
        Remote::Url(url) => url,
    };
    let (fetched, names) = files(std::slice::from_ref(url), None, cache)?;
    let path = fetched.directory.join(names.first().map_or("", String::as_str));
    let failed = |error: std::io::Error| CommandError::host(format!("read {}: {}", path.display(), reason(&error)));
    let mut bytes = Vec::new();
    File::open(&path).and_then(|file| file.take(CONTEXT_LIMIT_BYTES).read_to_end(&mut bytes)).map_err(failed)?;
    let staging = cache.stage().map_err(CommandError::host)?;
    let is_archive = tidy::unpack_context(&bytes, &staging)?;
    let unpacked = Fetched { directory: staging.diff(), _staging: staging };
    Ok(if is_archive { RemoteContext::Directory(unpacked) } else { RemoteContext::Dockerfile(bytes, unpacked) })
}

/// A URL as messages may show it.
fn without_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or(url)
}
