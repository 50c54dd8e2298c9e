//! The `dir:` transport of skopeo: `manifest.json` and one file per blob, named by its digits.

use super::archive::Files;
use super::policy::Origin;
use super::{BlobReader, ImageSource, RawManifest, TransportError};
use crate::digest::Digest;
use crate::image::MANIFEST_LIMIT_BYTES;
use crate::image::manifest::Descriptor;
use crate::reference::Reference;

/// A directory with one image.
#[derive(Debug)]
pub struct DirSource {
    described: String,
    files: Files,
}

impl DirSource {
    pub(super) fn new(files: Files, described: &str) -> Self {
        Self { described: described.to_owned(), files }
    }
}

/// Algorithms other than the usual one stand in the name, as skopeo has it.
pub(super) fn blob_name(digest: &Digest) -> String {
    match digest.algorithm() {
        crate::digest::Algorithm::Sha256 => digest.hex().to_owned(),
        algorithm => format!("{}-{}", algorithm.as_str(), digest.hex()),
    }
}

impl ImageSource for DirSource {
    fn describe(&self) -> String {
        self.described.clone()
    }

    fn origin(&self) -> Option<Origin> {
        Some(Origin::of_file("dir", &self.described))
    }

    fn names(&self) -> Vec<Reference> {
        Vec::new()
    }

    fn manifest(&self, which: Option<&Descriptor>) -> Result<RawManifest, TransportError> {
        let name = match which {
            None => "manifest.json".to_owned(),
            Some(descriptor) => format!("{}.manifest.json", blob_name(&descriptor.digest)),
        };
        let not_found =
            || TransportError::NotFound { what: format!("{}: {name}", self.described), hint: String::new() };
        let bytes = self.files.read(&name, MANIFEST_LIMIT_BYTES)?.ok_or_else(not_found)?;
        Ok(RawManifest { media_type: which.map(|descriptor| descriptor.media_type.clone()), bytes })
    }

    fn blob(&self, blob: &Descriptor, offset: u64) -> Result<BlobReader<'_>, TransportError> {
        self.files.blob(&blob_name(&blob.digest), offset)
    }
}
