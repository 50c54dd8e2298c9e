//! Makes an image of one layer from the tar of a root file system, as `docker import` does.

use super::archive::unlinked_file;
use super::docker_archive::make_manifest;
use super::pull::pull_from;
use super::{BlobReader, ImageSource, PullOptions, RawManifest, TransportError};
use crate::digest::{Algorithm, DiffId, Digest, Hasher};
use crate::image::index::Platform;
use crate::image::manifest::{Descriptor, media_type};
use crate::image::{Image, ImageStore};
use crate::layer::compression::{Compression, Decompressor};
use crate::progress::Progress;
use crate::reference::Reference;
use oci_spec::image::Config;
use serde_json::json;
use std::fs::File;
use std::io::{self, Cursor, Read, Write};
use std::os::unix::fs::FileExt;

/// What the image is to be, beside its files.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// `config` of the image configuration: what `--change` says.
    pub config: Config,
    /// Members of `config` besides, which OCI does not specify: `Healthcheck`.
    pub beyond_oci: serde_json::Map<String, serde_json::Value>,
    /// What its history says.
    pub message: Option<String>,
    /// The names it shall have.
    pub names: Vec<Reference>,
    /// The machine its programs are for; this one if not given.
    pub platform: Option<Platform>,
}

/// Reads a tar of any supported compression and stores it as an image.
///
/// The stream is copied to an unlinked file of the store first: nothing has a name before its digest is known.
///
/// # Errors
/// [`TransportError`].
pub fn import(
    store: &ImageStore,
    stream: impl Read,
    import: &ImportOptions,
    options: &PullOptions,
    progress: &dyn Progress,
) -> Result<Image, TransportError> {
    let failed = |source| TransportError::Io { what: "import".to_owned(), source };
    let mut file = unlinked_file(&store.layout().images()).map_err(failed)?;
    let mut both = Both { file: &mut file, hasher: Hasher::new(Algorithm::Sha256), len_bytes: 0 };
    let mut stream = Tee { inner: stream, copy: &mut both };
    let mut tar = Decompressor::new(&mut stream).map_err(failed)?;
    let compression = tar.compression();
    let (diff_id, _) = Hasher::of_reader(Algorithm::Sha256, &mut tar).map_err(failed)?;
    drop(tar);
    io::copy(&mut stream, &mut io::sink()).map_err(failed)?;
    let (digest, len_bytes) = (both.hasher.finish(), both.len_bytes);
    let media_type = match compression {
        Compression::None => media_type::OCI_LAYER,
        Compression::Gzip => media_type::OCI_LAYER_GZIP,
        Compression::Zstd => media_type::OCI_LAYER_ZSTD,
    };
    let layer = Descriptor::new(media_type, digest, len_bytes);
    let source = Imported::new(file, layer, &DiffId::new(diff_id), import)?;
    let mut options = options.clone();
    options.platform = Some(import.platform.clone().unwrap_or_else(Platform::host));
    pull_from(store, &source, &options, progress)
}

/// The image as a source: a configuration, a manifest and the spooled layer.
struct Imported {
    file: File,
    layer: Descriptor,
    config: Vec<u8>,
    manifest: Vec<u8>,
    names: Vec<Reference>,
}

impl Imported {
    fn new(file: File, layer: Descriptor, diff_id: &DiffId, import: &ImportOptions) -> Result<Self, TransportError> {
        let platform = import.platform.clone().unwrap_or_else(Platform::host);
        let created = jiff::Timestamp::now().to_string();
        let comment = import.message.as_deref().unwrap_or("imported from tarball");
        // docker's words, and podman's.
        let created_by = format!("/bin/sh -c #(nop) ADD file:{} in /", diff_id.hex());
        let mut config = json!({
            "created": created,
            "architecture": platform.architecture,
            "os": platform.os,
            "config": import.config,
            "rootfs": {"type": "layers", "diff_ids": [diff_id.to_string()]},
            "history": [{"created": created, "created_by": created_by, "comment": comment}],
        });
        for (name, value) in &import.beyond_oci {
            config["config"][name] = value.clone();
        }
        if let Some(variant) = platform.variant {
            config["variant"] = json!(variant);
        }
        let invalid =
            |error: serde_json::Error| TransportError::Invalid { what: "import".to_owned(), reason: error.to_string() };
        let config = serde_json::to_vec(&config).map_err(invalid)?;
        let descriptor = Descriptor::new(media_type::OCI_CONFIG, Digest::of(&config), config.len() as u64);
        let manifest = make_manifest(&descriptor, std::slice::from_ref(&layer))?;
        Ok(Self { file, layer, config, manifest, names: import.names.clone() })
    }
}

impl ImageSource for Imported {
    fn describe(&self) -> String {
        "import".to_owned()
    }

    fn names(&self) -> Vec<Reference> {
        self.names.clone()
    }

    fn manifest(&self, which: Option<&Descriptor>) -> Result<RawManifest, TransportError> {
        match which {
            None => {
                let media_type = Some(media_type::OCI_MANIFEST.to_owned());
                Ok(RawManifest { media_type, bytes: self.manifest.clone() })
            }
            Some(other) => Err(TransportError::NotFound { what: other.digest.to_string(), hint: String::new() }),
        }
    }

    fn blob(&self, blob: &Descriptor, offset: u64) -> Result<BlobReader<'_>, TransportError> {
        let reader: Box<dyn Read + Send> = if blob.digest == self.layer.digest {
            Box::new(At { file: &self.file, offset })
        } else {
            let mut bytes = Cursor::new(self.config.as_slice());
            bytes.set_position(offset);
            Box::new(bytes)
        };
        Ok(BlobReader { offset, reader })
    }
}

/// Reads a file from an offset on without moving the file's own.
pub(super) struct At<'a> {
    pub(super) file: &'a File,
    pub(super) offset: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.file.read_at(buffer, self.offset)?;
        self.offset += len as u64;
        Ok(len)
    }
}

/// Copies what is read.
struct Tee<'a, R, W> {
    inner: R,
    copy: &'a mut W,
}

impl<R: Read, W: Write> Read for Tee<'_, R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.copy.write_all(&buffer[..len])?;
        Ok(len)
    }
}

/// Writes to a file, hashes and counts.
pub(super) struct Both<'a> {
    pub(super) file: &'a mut File,
    pub(super) hasher: Hasher,
    pub(super) len_bytes: u64,
}

impl Write for Both<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.len_bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
