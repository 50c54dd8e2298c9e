//! The `version` field of every state file.
//!
//! Policy: a file carries the version of its format as the integer field `version`. A reader takes every version up to
//! its own, filling what is missing with defaults; fields it does not know it ignores. A file of a newer version is
//! refused as a whole with one error that says so, since its meaning may have changed. A version is raised only when
//! an older coracle would misread the file, not when a field is added.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A state file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The file cannot be read.
    #[error("cannot read {}: {}", path.display(), crate::sys::reason(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Written by a coracle newer than this one.
    #[error("{} has format version {found}, this coracle knows versions up to {known}: use a newer coracle", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// Not what coracle writes.
    #[error("cannot understand {}: {source}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
}

#[derive(Deserialize)]
struct Header {
    version: u32,
}

/// Reads the state file at `path`; a missing file is `None`.
///
/// # Errors
/// [`ReadError`].
pub fn read<T: DeserializeOwned>(path: &Path, known: u32) -> Result<Option<T>, ReadError> {
    match std::fs::read(path) {
        Ok(bytes) => parse(path, &bytes, known).map(Some),
        // ENOTDIR: what should be the container's directory is something else.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(source) => Err(ReadError::Io { path: path.to_owned(), source }),
    }
}

/// Parses the bytes of a state file; `path` is for the error.
///
/// # Errors
/// [`ReadError::Newer`] and [`ReadError::Corrupt`].
pub fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8], known: u32) -> Result<T, ReadError> {
    // The version is looked at first: a newer file must not be called corrupt, nor half understood.
    let corrupt = |source| ReadError::Corrupt { path: path.to_owned(), source };
    let Header { version } = serde_json::from_slice(bytes).map_err(corrupt)?;
    if version > known {
        return Err(ReadError::Newer { path: path.to_owned(), found: version, known });
    }
    serde_json::from_slice(bytes).map_err(corrupt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize, Debug, PartialEq)]
    struct File {
        #[serde(default)]
        added_in_2: bool,
    }

    #[test]
    fn older_is_filled_with_defaults_newer_is_refused_with_one_clear_line() {
        let path = Path::new("/x/state.json");
        assert_eq!(parse::<File>(path, br#"{"version":1}"#, 2).unwrap(), File { added_in_2: false });
        assert_eq!(
            parse::<File>(path, br#"{"version":2,"added_in_2":true,"x":1}"#, 2).unwrap(),
            File { added_in_2: true }
        );
        let error = parse::<File>(path, br#"{"version":3,"added_in_2":"elsewise"}"#, 2).unwrap_err();
        assert_eq!(
            error.to_string(),
            "/x/state.json has format version 3, this coracle knows versions up to 2: use a newer coracle"
        );
        for torn in [&b""[..], b"{", b"[]", br#"{"added_in_2":true}"#] {
            assert!(matches!(parse::<File>(path, torn, 2), Err(ReadError::Corrupt { .. })), "{torn:?}");
        }
        assert!(read::<File>(Path::new("/nonexistent/state.json"), 2).unwrap().is_none());
    }
}
