//! Where images come from and go to.
//!
//! ```text
//! Source (what was typed) → ImageSource (opened) → pull: manifest → configuration ‖ layers → store
//! store → push: layers ‖ configuration → manifest → registry
//! ```
//! A transport only hands out bytes; that they are the right ones, and what they become, is decided once, in [`pull`].

pub mod error;

pub mod policy;

pub mod pull;

mod retry;

mod stop;

mod stream;

mod publish;

mod unpack;

pub mod registry;

pub mod push;

pub mod oci_layout;

pub mod docker_archive;

pub mod dir;

mod archive;

pub mod load;

pub mod save;

pub mod import;

pub mod commit;

pub mod download;

use std::io::Read;
use std::ops::Range;
use std::path::PathBuf;

use policy::{Attached, Origin};

pub use error::{PullError, PushError, TransportError};
pub use pull::{Known, PullOptions, pull, pull_from, pull_lazily};
pub use push::{PushOptions, push};

use crate::digest::Digest;
use crate::image::manifest::Descriptor;
use crate::reference::Reference;

/// An image as the command line names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// `docker://REF` or a plain reference: a registry.
    Registry(Reference),
    /// `oci:PATH[:REF]`: an OCI image layout.
    OciLayout {
        /// The layout's directory.
        path: PathBuf,
        /// The `org.opencontainers.image.ref.name` to take; not needed if there is only one image.
        reference: Option<String>,
    },
    /// `oci-archive:PATH[:REF]`: a tar of an OCI image layout.
    OciArchive {
        /// The tar.
        path: PathBuf,
        /// As for a layout.
        reference: Option<String>,
    },
    /// `docker-archive:PATH[:REF|:@INDEX]`: what `docker save` writes.
    DockerArchive {
        /// The tar.
        path: PathBuf,
        /// The tag to take, or `@` and a number; not needed if there is only one image.
        reference: Option<String>,
    },
    /// `dir:PATH`: skopeo's directory of manifest and blobs.
    Dir {
        /// The directory.
        path: PathBuf,
    },
}

impl Source {
    /// Parses a transport name and what follows it, or a plain reference.
    ///
    /// # Errors
    /// A transport that coracle does not have, a missing path, an invalid reference.
    ///
    /// # Source
    /// `containers-transports(5)`.
    pub fn parse(input: &str) -> Result<Self, TransportError> {
        let invalid = |reason: &str| TransportError::Invalid {
            what: input.escape_debug().take(300).collect(),
            reason: reason.to_owned(),
        };
        let Some((transport, rest)) = input.split_once(':') else {
            return Ok(Self::Registry(Reference::parse(input)?));
        };
        let path_and_reference = || {
            let (path, reference) = match rest.split_once(':') {
                Some((path, reference)) => (path, Some(reference.to_owned()).filter(|text| !text.is_empty())),
                None => (rest, None),
            };
            match path.is_empty() {
                true => Err(invalid("a path is missing")),
                false => Ok((PathBuf::from(path), reference)),
            }
        };
        Ok(match transport {
            "docker" => {
                let text = rest.strip_prefix("//").ok_or_else(|| invalid("expected docker://REFERENCE"))?;
                Self::Registry(Reference::parse(text)?)
            }
            "oci" => path_and_reference().map(|(path, reference)| Self::OciLayout { path, reference })?,
            "oci-archive" => path_and_reference().map(|(path, reference)| Self::OciArchive { path, reference })?,
            "docker-archive" => {
                path_and_reference().map(|(path, reference)| Self::DockerArchive { path, reference })?
            }
            "dir" if rest.is_empty() => return Err(invalid("a path is missing")),
            "dir" => Self::Dir { path: PathBuf::from(rest) },
            "containers-storage" | "docker-daemon" | "ostree" | "sif" | "tarball" | "atomic" | "http" | "https" => {
                return Err(invalid(
                    "unsupported transport: use docker://, oci:, oci-archive:, docker-archive: or dir:",
                ));
            }
            _ => Self::Registry(Reference::parse(input)?),
        })
    }
}

/// A manifest or an index as its source sent it: not verified, not parsed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RawManifest {
    /// What the sender calls it, if it does.
    pub media_type: Option<String>,
    /// At most [`crate::image::MANIFEST_LIMIT_BYTES`].
    pub bytes: Vec<u8>,
}

/// The bytes of a blob from some offset on: not verified.
pub struct BlobReader<'a> {
    /// Where in the blob the first byte is that `reader` gives: what was asked for, or 0 if the source cannot seek.
    pub offset: u64,
    /// The bytes; may end early or go on for ever, the caller counts.
    pub reader: Box<dyn Read + Send + 'a>,
}

/// One image somewhere else, opened. The registry is one, an archive another.
///
/// Called from several threads at once. Implementations need not verify sizes and digests, but must never read more
/// than they were asked for into memory.
pub trait ImageSource: Sync {
    /// How messages name it: `docker.io/library/nginx:latest`, `oci:/tmp/layout`.
    fn describe(&self) -> String;

    /// The names that the image shall have in the store; none leaves it dangling.
    fn names(&self) -> Vec<Reference>;

    /// Where it comes from, as policies name it; nothing for what was made here.
    fn origin(&self) -> Option<Origin> {
        None
    }

    /// The sigstore signatures that lie beside a manifest, not verified.
    ///
    /// # Errors
    /// The source cannot be reached.
    fn attachments(&self, manifest: &Digest) -> Result<Vec<Attached>, TransportError> {
        let _ = manifest;
        Ok(Vec::new())
    }

    /// The digest of what [`ImageSource::manifest`] without argument would give, if it is cheaper to ask.
    ///
    /// # Errors
    /// The source cannot be reached or has no such image.
    fn top_digest(&self) -> Result<Option<Digest>, TransportError> {
        Ok(None)
    }

    /// The manifest or index that the source was opened for, or another one that its index names.
    ///
    /// # Errors
    /// The source cannot be reached or does not have it, or it is longer than the limit.
    fn manifest(&self, which: Option<&Descriptor>) -> Result<RawManifest, TransportError>;

    /// The bytes of a configuration or a layer, from `offset` (in bytes) if the source can seek.
    ///
    /// # Errors
    /// The source cannot be reached or does not have it.
    fn blob(&self, blob: &Descriptor, offset: u64) -> Result<BlobReader<'_>, TransportError>;

    /// Exactly these bytes of a blob, if the source gives some without those before them.
    ///
    /// # Errors
    /// As [`ImageSource::blob`].
    fn range(
        &self,
        blob: &Descriptor,
        wanted: Range<u64>,
    ) -> Result<Option<Box<dyn Read + Send + '_>>, TransportError> {
        let _ = (blob, wanted);
        Ok(None)
    }

    /// How often a transient failure is worth another try; nothing for local files.
    fn retries(&self) -> u32 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports_are_told_from_references() {
        let registry = |text: &str| Source::Registry(Reference::parse(text).expect("valid"));
        let (path, reference) = (PathBuf::from("/a/b"), Some("docker.io/library/x:1".to_owned()));
        for (input, expected) in [
            ("nginx", registry("nginx")),
            ("nginx:1", registry("nginx:1")),
            ("docker://nginx", registry("nginx")),
            ("localhost:5000/oci:dir", registry("localhost:5000/oci:dir")),
            ("oci:/a/b", Source::OciLayout { path: path.clone(), reference: None }),
            ("oci:/a/b:docker.io/library/x:1", Source::OciLayout { path: path.clone(), reference: reference.clone() }),
            ("oci-archive:/a/b", Source::OciArchive { path: path.clone(), reference: None }),
            ("docker-archive:/a/b:docker.io/library/x:1", Source::DockerArchive { path: path.clone(), reference }),
            ("dir:/a/b:c", Source::Dir { path: PathBuf::from("/a/b:c") }),
        ] {
            assert_eq!(Source::parse(input).unwrap_or_else(|error| panic!("{error}")), expected, "{input}");
        }
        for bad in ["", "docker:nginx", "oci:", "oci::x", "dir:", "docker-daemon:x:1", "https://r.io/x", "docker://A"] {
            let error = Source::parse(bad).expect_err(bad).to_string();
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
