//! Opens local sources: what `load` is given, and the transports of `pull` that are not registries.

use super::archive::{Files, OpenError};
use super::dir::DirSource;
use super::docker_archive::DockerArchive;
use super::oci_layout::OciLayout;
use super::{ImageSource, Source, TransportError};
use std::io::Read;
use std::path::Path;

/// Opens the image of a local transport. `spool` is a directory of the store for archives that are compressed or pipes.
///
/// # Errors
/// [`TransportError`]; a registry is none of these transports.
pub fn open(source: &Source, spool: &Path) -> Result<Box<dyn ImageSource>, TransportError> {
    let described = describe(source);
    let files = |path: &Path| Files::open(path, spool).map_err(|error| failed(&described, error));
    Ok(match source {
        Source::Registry(reference) => {
            let reason = "a registry is not a local source".to_owned();
            return Err(TransportError::Invalid { what: reference.to_string(), reason });
        }
        Source::OciLayout { path, reference } | Source::OciArchive { path, reference } => {
            Box::new(OciLayout::one(files(path)?, &described, reference.as_deref())?)
        }
        Source::DockerArchive { path, reference } => {
            Box::new(DockerArchive::one(files(path)?, &described, reference.as_deref())?)
        }
        Source::Dir { path } => Box::new(DirSource::new(files(path)?, &described)),
    })
}

/// Opens all images of a file or directory of any local format: docker-archive, oci-archive (both also compressed), OCI
/// layout, `dir:`.
///
/// # Errors
/// [`TransportError`].
pub fn open_all(path: &Path, spool: &Path) -> Result<Vec<Box<dyn ImageSource>>, TransportError> {
    let described = path.display().to_string().escape_debug().to_string();
    let files = Files::open(path, spool).map_err(|error| failed(&described, error))?;
    sources(files, &described)
}

/// As [`open_all`], from a stream such as standard input.
///
/// # Errors
/// [`TransportError`].
pub fn open_all_from(stream: impl Read, spool: &Path) -> Result<Vec<Box<dyn ImageSource>>, TransportError> {
    let described = "standard input";
    let files = Files::from_stream(stream, spool).map_err(|error| failed(described, error))?;
    sources(files, described)
}

fn sources(files: Files, described: &str) -> Result<Vec<Box<dyn ImageSource>>, TransportError> {
    let has = |name: &str| -> Result<bool, TransportError> {
        let what = format!("{described}: {name}");
        Ok(files.piece(name).map_err(|source| TransportError::Io { what, source })?.is_some())
    };
    fn boxed<T: ImageSource + 'static>(sources: Vec<T>) -> Vec<Box<dyn ImageSource>> {
        sources.into_iter().map(|source| Box::new(source) as Box<dyn ImageSource>).collect()
    }
    // skopeo's directory has a `manifest.json` too, with a `version` beside it.
    let (is_docker, is_oci, is_dir) = (has("manifest.json")?, has("index.json")?, has("version")?);
    match (is_docker, is_oci) {
        (true, false) if is_dir && matches!(files, Files::Directory(_)) => {
            Ok(vec![Box::new(DirSource::new(files, described))])
        }
        // Archives of newer dockers are both; only their `manifest.json` has all names.
        (true, _) => Ok(boxed(DockerArchive::all(files, described)?)),
        (false, true) => Ok(boxed(OciLayout::all(files, described)?)),
        (false, false) => Err(TransportError::Invalid {
            what: described.to_owned(),
            reason: "neither a docker archive nor an OCI layout: it has no manifest.json and no index.json".to_owned(),
        }),
    }
}

fn failed(described: &str, error: OpenError) -> TransportError {
    match error {
        OpenError::Io(source) => TransportError::Io { what: described.to_owned(), source },
        error => TransportError::Invalid { what: described.to_owned(), reason: error.to_string() },
    }
}

/// Transport and path, or the reference, on one line.
pub(super) fn describe(source: &Source) -> String {
    let (transport, path) = match source {
        Source::Registry(reference) => return reference.to_string(),
        Source::OciLayout { path, .. } => ("oci", path),
        Source::OciArchive { path, .. } => ("oci-archive", path),
        Source::DockerArchive { path, .. } => ("docker-archive", path),
        Source::Dir { path } => ("dir", path),
    };
    format!("{transport}:{}", path.display().to_string().escape_debug())
}
