//! OCI image layouts, as directories and as archives.
//!
//! # Source
//! OCI image specification, "Image Layout".

use super::archive::Files;
use super::policy::Origin;
use super::{BlobReader, ImageSource, RawManifest, TransportError};
use crate::digest::Digest;
use crate::image::MANIFEST_LIMIT_BYTES;
use crate::image::manifest::{Descriptor, Document};
use crate::image::record::ANNOTATION_NAME;
use crate::reference::Reference;

/// The full name that docker's buildkit and containerd write beside a bare tag.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// One image of a layout.
#[derive(Debug)]
pub struct OciLayout {
    described: String,
    files: std::sync::Arc<Files>,
    top: Descriptor,
    names: Vec<Reference>,
}

impl OciLayout {
    /// All images of a layout, in the order of its index. `described` is the transport and the path.
    pub(super) fn all(files: Files, described: &str) -> Result<Vec<Self>, TransportError> {
        let what = format!("{described}: index.json");
        let not_found =
            || TransportError::NotFound { what: what.clone(), hint: ": not an OCI image layout".to_owned() };
        let bytes = files.read("index.json", MANIFEST_LIMIT_BYTES)?.ok_or_else(not_found)?;
        let Document::Index(index) = Document::parse(&what, None, &bytes)? else {
            return Err(TransportError::Invalid { what, reason: "it is not an index".to_owned() });
        };
        let files = std::sync::Arc::new(files);
        // An image of several names stands there once for each.
        let mut images: Vec<Self> = Vec::new();
        for top in index.manifests {
            let name = name_of(&top);
            match images.iter_mut().find(|image| image.top.digest == top.digest) {
                Some(image) => image.names.extend(name),
                None => images.push(Self {
                    described: described.to_owned(),
                    files: files.clone(),
                    names: name.into_iter().collect(),
                    top,
                }),
            }
        }
        Ok(images)
    }

    /// The image of a layout that `reference` names, or its only one.
    pub(super) fn one(files: Files, described: &str, reference: Option<&str>) -> Result<Self, TransportError> {
        let mut images = Self::all(files, described)?;
        let wanted = reference.and_then(|text| Reference::parse(text).ok()).map(Reference::with_default_tag);
        let answers = |image: &Self| match reference {
            None => true,
            Some(text) => {
                image.top.annotation(ANNOTATION_NAME) == Some(text)
                    || image.top.digest.to_string() == text
                    || wanted.as_ref().is_some_and(|wanted| image.names.contains(wanted))
            }
        };
        let found: Vec<usize> = (0..images.len()).filter(|at| answers(&images[*at])).collect();
        match found.as_slice() {
            [one] => Ok(images.swap_remove(*one)),
            _ => {
                let what = match reference {
                    Some(text) => format!("{described}: {}", text.escape_debug()),
                    None => described.to_owned(),
                };
                let names: Vec<_> =
                    images.iter().filter_map(|image| image.top.annotation(ANNOTATION_NAME)).take(10).collect();
                let names = names.join(", ").escape_debug().to_string();
                let hint = match images.len() {
                    0 => ": it has no images".to_owned(),
                    count => format!(": it has {count} images, choose one: {names}"),
                };
                Err(TransportError::NotFound { what, hint })
            }
        }
    }

    fn blob_name(digest: &Digest) -> String {
        format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
    }
}

/// The name an image shall have in the store. A bare tag names nothing but the place it was in; podman makes a local
/// name of it, so do we.
fn name_of(top: &Descriptor) -> Option<Reference> {
    if let Some(Ok(name)) = top.annotation(CONTAINERD_NAME).map(Reference::parse) {
        return Some(name.with_default_tag());
    }
    let text = top.annotation(ANNOTATION_NAME)?;
    let is_full = text.contains(['/', ':', '@']);
    let text = if is_full { text.to_owned() } else { format!("localhost/{text}") };
    Reference::parse(&text).ok().map(Reference::with_default_tag)
}

impl ImageSource for OciLayout {
    fn describe(&self) -> String {
        self.described.clone()
    }

    fn origin(&self) -> Option<Origin> {
        Some(Origin::of_file("oci", &self.described))
    }

    fn names(&self) -> Vec<Reference> {
        self.names.clone()
    }

    fn top_digest(&self) -> Result<Option<Digest>, TransportError> {
        Ok(Some(self.top.digest.clone()))
    }

    fn manifest(&self, which: Option<&Descriptor>) -> Result<RawManifest, TransportError> {
        let descriptor = which.unwrap_or(&self.top);
        let name = Self::blob_name(&descriptor.digest);
        let not_found = || TransportError::NotFound { what: name.clone(), hint: String::new() };
        let bytes = self.files.read(&name, MANIFEST_LIMIT_BYTES)?.ok_or_else(not_found)?;
        let mut hasher = descriptor.digest.hasher();
        hasher.update(&bytes);
        let got = hasher.finish();
        if got != descriptor.digest {
            return Err(TransportError::ManifestDigest { expected: descriptor.digest.clone(), got });
        }
        let media_type = Some(descriptor.media_type.clone()).filter(|text| !text.is_empty());
        Ok(RawManifest { media_type, bytes })
    }

    fn blob(&self, blob: &Descriptor, offset: u64) -> Result<BlobReader<'_>, TransportError> {
        self.files.blob(&Self::blob_name(&blob.digest), offset)
    }
}
