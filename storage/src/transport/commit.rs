//! Makes an image from an image and a layer of changes: a container's upper directory, as `commit` does.
//!
//! ```text
//! upper directory → tar ─┬→ SHA-256 → diffID
//!                        └→ gzip (all cores) → unlinked file ‖ SHA-256 → blob
//! ```
//! The rest is a pull from a source that has this blob beside those of the image below.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use serde_json::{Map, Value, json};

use super::archive::unlinked_file;
use super::import::{At, Both};
use super::pull::pull_from;
use super::{BlobReader, ImageSource, PullOptions, RawManifest, TransportError};
use crate::digest::{Algorithm, DiffId, Digest, Hasher};
use crate::image::manifest::{Descriptor, media_type};
use crate::image::{Image, ImageStore};
use crate::layer::IdPolicy;
use crate::layer::compress::{self, compress};
use crate::layer::diff::TreeForm;
use crate::layer::pack::write_blob;
use crate::progress::Progress;
use crate::reference::Reference;

/// Which documents are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// OCI's.
    #[default]
    Oci,
    /// docker's, schema 2.
    Docker,
}

/// What the image is to be, beside its files.
#[derive(Clone, Debug, Default)]
pub struct CommitOptions {
    /// The kind of its documents.
    pub format: Format,
    /// `config` of its configuration, whole.
    pub config: Map<String, Value>,
    /// Who made it.
    pub author: Option<String>,
    /// The configuration's `comment`, which only docker's has.
    pub message: Option<String>,
    /// `created_by` of its last step.
    pub created_by: String,
    /// `comment` of its last step.
    pub comment: String,
    /// The names it shall have.
    pub names: Vec<Reference>,
}

/// Stores `base` with one more layer, whose tree is `upper`, in overlay's form and with owners as `upper_ids` says.
///
/// A tree that is not there is empty.
///
/// # Errors
/// [`TransportError`].
pub fn commit(
    store: &ImageStore,
    base: &Image,
    (upper, upper_ids): (&Path, &IdPolicy),
    commit: &CommitOptions,
    options: &PullOptions,
    progress: &dyn Progress,
) -> Result<Image, TransportError> {
    // The blobs of the image below stay until the new one is recorded.
    let _pin = store.pin()?;
    let (file, layer, diff_id) = archive(store, upper, upper_ids)?;
    let source = Committed::new(store, base, (file, layer), &diff_id, commit)?;
    let mut options = options.clone();
    options.platform = Some(base.platform.clone());
    pull_from(store, &source, &options, progress)
}

/// Writes the layer's blob.
fn archive(store: &ImageStore, upper: &Path, ids: &IdPolicy) -> Result<(File, Descriptor, DiffId), TransportError> {
    let failed = |what: &Path| {
        let what = what.display().to_string();
        move |source: io::Error| TransportError::Io { what, source }
    };
    let images = store.layout().images();
    let mut file = unlinked_file(&images).map_err(failed(&images))?;
    let mut both = Both { file: &mut file, hasher: Hasher::new(Algorithm::Sha256), len_bytes: 0 };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let diff_id = match nix::fcntl::open(upper, flags, Mode::empty()) {
        Ok(root) => write_blob(root.as_fd(), TreeForm::Overlay, ids, Some(compress::Format::Gzip), &mut both)?,
        Err(Errno::ENOENT) => {
            let empty = &[0; 1024];
            let mut layer = compress(&empty[..], compress::Format::Gzip, compress::Format::Gzip.default_level())
                .map_err(failed(&images))?;
            io::copy(&mut layer, &mut both).map_err(failed(&images))?;
            DiffId::new(Digest::of(empty))
        }
        Err(errno) => return Err(failed(upper)(errno.into())),
    };
    let Both { hasher, len_bytes, .. } = both;
    let layer = Descriptor::new(media_type::OCI_LAYER_GZIP, hasher.finish(), len_bytes);
    Ok((file, layer, diff_id))
}

/// The image as a source.
struct Committed<'a> {
    store: &'a ImageStore,
    file: File,
    layer: Digest,
    config: Vec<u8>,
    config_digest: Digest,
    manifest: Vec<u8>,
    media_type: &'static str,
    names: Vec<Reference>,
}

impl<'a> Committed<'a> {
    fn new(
        store: &'a ImageStore,
        base: &Image,
        (file, layer): (File, Descriptor),
        diff_id: &DiffId,
        commit: &CommitOptions,
    ) -> Result<Self, TransportError> {
        let invalid =
            |error: serde_json::Error| TransportError::Invalid { what: "commit".to_owned(), reason: error.to_string() };
        let config = configuration(base, diff_id, commit).map_err(invalid)?;
        let config = serde_json::to_vec(&config).map_err(invalid)?;
        let (manifest_type, config_type) = match commit.format {
            Format::Oci => (media_type::OCI_MANIFEST, media_type::OCI_CONFIG),
            Format::Docker => (media_type::DOCKER_MANIFEST, media_type::DOCKER_CONFIG),
        };
        let descriptor = Descriptor::new(config_type, Digest::of(&config), config.len() as u64);
        let layers: Vec<Descriptor> = base
            .layers
            .iter()
            .map(|layer| &layer.blob)
            .chain([&layer])
            .map(|blob| Descriptor { media_type: layer_type(&blob.media_type, commit.format), ..blob.clone() })
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": descriptor,
            "layers": layers,
        });
        Ok(Self {
            store,
            file,
            layer: layer.digest,
            config,
            config_digest: descriptor.digest,
            manifest: serde_json::to_vec(&manifest).map_err(invalid)?,
            media_type: manifest_type,
            names: commit.names.clone(),
        })
    }
}

impl ImageSource for Committed<'_> {
    fn describe(&self) -> String {
        "commit".to_owned()
    }

    fn names(&self) -> Vec<Reference> {
        self.names.clone()
    }

    fn manifest(&self, which: Option<&Descriptor>) -> Result<RawManifest, TransportError> {
        match which {
            None => Ok(RawManifest { media_type: Some(self.media_type.to_owned()), bytes: self.manifest.clone() }),
            Some(other) => Err(TransportError::NotFound { what: other.digest.to_string(), hint: String::new() }),
        }
    }

    fn blob(&self, blob: &Descriptor, offset: u64) -> Result<BlobReader<'_>, TransportError> {
        let reader: Box<dyn Read + Send> = if blob.digest == self.layer {
            Box::new(At { file: &self.file, offset })
        } else if blob.digest == self.config_digest {
            let mut bytes = Cursor::new(self.config.as_slice());
            bytes.set_position(offset);
            Box::new(bytes)
        } else {
            return Ok(BlobReader { offset: 0, reader: Box::new(self.store.blobs().open(&blob.digest)?) });
        };
        Ok(BlobReader { offset, reader })
    }
}

/// The configuration of the image below, changed. What OCI does not specify is kept.
fn configuration(base: &Image, diff_id: &DiffId, commit: &CommitOptions) -> serde_json::Result<Value> {
    let mut config: Map<String, Value> = serde_json::from_slice(&base.raw_config)?;
    let created = jiff::Timestamp::now().to_string();
    // These speak of the container that the image below was made from.
    for name in ["id", "parent", "container", "container_config", "comment"] {
        config.remove(name);
    }
    config.insert("created".to_owned(), json!(created));
    config.insert("config".to_owned(), Value::Object(commit.config.clone()));
    let mut step = json!({"created": created, "created_by": commit.created_by, "comment": commit.comment});
    if let Some(author) = &commit.author {
        config.insert("author".to_owned(), json!(author));
        step["author"] = json!(author);
    }
    if let Some(message) = &commit.message {
        config.insert("comment".to_owned(), json!(message));
    }
    let diff_ids = base.layers.iter().map(|layer| layer.diff_id.to_string()).chain([diff_id.to_string()]);
    config.insert("rootfs".to_owned(), json!({"type": "layers", "diff_ids": diff_ids.collect::<Vec<_>>()}));
    match config.get_mut("history") {
        Some(Value::Array(steps)) => steps.push(step),
        // Without steps for the layers below this one would stand for the first of them.
        _ if !base.layers.is_empty() => {}
        _ => {
            config.insert("history".to_owned(), json!([step]));
        }
    }
    Ok(Value::Object(config))
}

/// The media type of a layer in a manifest of this format.
pub(crate) fn layer_type(known: &str, format: Format) -> String {
    const PAIRS: [(&str, &str); 3] = [
        (media_type::OCI_LAYER, media_type::DOCKER_LAYER),
        (media_type::OCI_LAYER_GZIP, media_type::DOCKER_LAYER_GZIP),
        (media_type::OCI_LAYER_ZSTD, "application/vnd.docker.image.rootfs.diff.tar.zstd"),
    ];
    let pair = PAIRS.iter().find(|(oci, docker)| [*oci, *docker].contains(&known));
    match (pair, format) {
        (Some((oci, _)), Format::Oci) => (*oci).to_owned(),
        (Some((_, docker)), Format::Docker) => (*docker).to_owned(),
        (None, _) => known.to_owned(),
    }
}
