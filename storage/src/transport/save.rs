//! Writes images of the store to archives and directories that docker, podman and skopeo read.
//!
//! | format | what | layers | digests |
//! | --- | --- | --- | --- |
//! | docker-archive | tar: `manifest.json`, `repositories`, `<id>.json`, `<diffID>.tar` | uncompressed | only the ID stays |
//! | oci-archive, oci-dir | OCI image layout | as they were pulled | all stay |
//! | docker-dir | skopeo's `dir:` | as they were pulled | all stay |
//!
//! The same images give the same bytes: no times, no owners, fixed order.

use super::TransportError;
use super::dir::blob_name;
use super::docker_archive::Item;
use crate::blob::BlobStore;
use crate::digest::{DiffId, Digest};
use crate::image::manifest::{Descriptor, media_type};
use crate::image::record::ANNOTATION_NAME;
use crate::image::{Image, ImageStore, Layer};
use crate::layer::compression::Decompressor;
use crate::layer::tar::{Entry, EntryKind, Timestamp, Writer};
use crate::reference::Reference;
use serde_json::json;
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const OCI_LAYOUT: &[u8] = b"{\"imageLayoutVersion\":\"1.0.0\"}";

/// An image and the names it shall have where it goes.
#[derive(Clone, Debug)]
pub struct Saved<'a> {
    /// The image.
    pub image: &'a Image,
    /// Its names there; none is allowed.
    pub names: Vec<Reference>,
}

/// Writes what `docker save` writes: one archive of all images, each layer once.
///
/// # Errors
/// A blob that is missing or damaged; what the stream reports.
pub fn docker_archive(store: &ImageStore, images: &[Saved<'_>], out: impl Write) -> Result<(), TransportError> {
    let mut archive = Archive::new(out);
    let mut items = Vec::new();
    let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for Saved { image, names } in images {
        let sizes = image.layer_sizes.clone().unwrap_or_default();
        let mut layers = Vec::with_capacity(image.layers.len());
        for (at, layer) in image.layers.iter().enumerate() {
            let name = format!("{}.tar", layer.diff_id.hex());
            if archive.is_new(&name) {
                let size = match sizes.get(at) {
                    Some(size) => *size,
                    None => read_layer(store.blobs(), layer, io::sink())?,
                };
                archive.layer(&name, store.blobs(), layer, size)?;
            }
            layers.push(name);
        }
        let config = format!("{}.json", image.id.hex());
        if archive.is_new(&config) {
            archive.file(&config, &image.raw_config)?;
        }
        for name in names {
            let (Some(tag), Some(top)) = (name.tag(), image.layers.last()) else { continue };
            let tags = repositories.entry(name.familiar_name()).or_default();
            tags.insert(tag.to_owned(), top.diff_id.hex().to_owned());
        }
        let tags = names.iter().filter(|name| name.tag().is_some());
        let repo_tags = Some(tags.map(archive_tag).collect());
        items.push(Item { config, repo_tags, layers });
    }
    archive.file("manifest.json", &to_json(&items)?)?;
    if !repositories.is_empty() {
        archive.file("repositories", &to_json(&repositories)?)?;
    }
    archive.finish()
}

/// Writes an archive of an OCI image layout.
///
/// # Errors
/// As [`docker_archive`].
pub fn oci_archive(store: &ImageStore, images: &[Saved<'_>], out: impl Write) -> Result<(), TransportError> {
    let mut archive = Archive::new(out);
    archive.directory("blobs")?;
    archive.directory("blobs/sha256")?;
    oci(store, &with_full_names(images), &mut archive)?;
    archive.finish()
}

/// As [`oci_archive`], one image under a name that need be no reference.
///
/// # Errors
/// As [`docker_archive`].
pub fn oci_archive_as(
    store: &ImageStore,
    image: &Image,
    name: Option<&str>,
    out: impl Write,
) -> Result<(), TransportError> {
    let mut archive = Archive::new(out);
    archive.directory("blobs")?;
    archive.directory("blobs/sha256")?;
    oci(store, &[(image, name.map(str::to_owned).into_iter().collect())], &mut archive)?;
    archive.finish()
}

/// Writes an OCI image layout into a directory, which is made if it is missing; images that are there already stay.
///
/// # Errors
/// As [`docker_archive`].
pub fn oci_directory(store: &ImageStore, images: &[Saved<'_>], path: &Path) -> Result<(), TransportError> {
    let mut directory = Directory::new(path)?;
    oci(store, &with_full_names(images), &mut directory)
}

/// As [`oci_directory`], one image under a name that need be no reference.
///
/// # Errors
/// As [`docker_archive`].
pub fn oci_directory_as(
    store: &ImageStore,
    image: &Image,
    name: Option<&str>,
    path: &Path,
) -> Result<(), TransportError> {
    let mut directory = Directory::new(path)?;
    oci(store, &[(image, name.map(str::to_owned).into_iter().collect())], &mut directory)
}

/// An index and the images that it names.
#[derive(Clone, Debug)]
pub struct SavedList<'a> {
    /// The index.
    pub index: &'a Descriptor,
    /// Its images.
    pub images: &'a [Image],
    /// Its names where it goes; none is allowed.
    pub names: Vec<Reference>,
}

/// As [`oci_archive`], of a list.
///
/// # Errors
/// As [`docker_archive`].
pub fn oci_list_archive(store: &ImageStore, list: &SavedList<'_>, out: impl Write) -> Result<(), TransportError> {
    let mut archive = Archive::new(out);
    archive.directory("blobs")?;
    archive.directory("blobs/sha256")?;
    oci_list(store, list, &mut archive)?;
    archive.finish()
}

/// As [`oci_directory`], of a list.
///
/// # Errors
/// As [`docker_archive`].
pub fn oci_list_directory(store: &ImageStore, list: &SavedList<'_>, path: &Path) -> Result<(), TransportError> {
    oci_list(store, list, &mut Directory::new(path)?)
}

fn oci_list(store: &ImageStore, list: &SavedList<'_>, out: &mut impl Target) -> Result<(), TransportError> {
    let mut written = HashSet::new();
    let manifests = list.images.iter().map(|image| image.manifest.clone());
    let blobs = list.images.iter().flat_map(blobs_of).chain(manifests).chain([list.index.clone()]);
    for descriptor in blobs.filter(|descriptor| written.insert(descriptor.digest.clone())) {
        let name = format!("blobs/{}/{}", descriptor.digest.algorithm().as_str(), descriptor.digest.hex());
        out.blob(&name, store.blobs(), &descriptor)?;
    }
    let entry = Descriptor::new(&list.index.media_type, list.index.digest.clone(), list.index.size);
    let mut entries: Vec<Descriptor> = list
        .names
        .iter()
        .map(|name| {
            let mut named = entry.clone();
            named.annotations.get_or_insert_default().insert(ANNOTATION_NAME.to_owned(), name.to_string());
            named
        })
        .collect();
    if entries.is_empty() {
        entries.push(entry);
    }
    out.add_to_index(entries)?;
    out.file("oci-layout", OCI_LAYOUT)
}

fn with_full_names<'a>(images: &[Saved<'a>]) -> Vec<(&'a Image, Vec<String>)> {
    images.iter().map(|saved| (saved.image, saved.names.iter().map(ToString::to_string).collect())).collect()
}

/// Writes skopeo's `dir:` format; it holds one image.
///
/// # Errors
/// As [`docker_archive`].
pub fn docker_directory(store: &ImageStore, image: &Image, path: &Path) -> Result<(), TransportError> {
    let mut directory = Directory::new(path)?;
    directory.file("version", b"Directory Transport Version: 1.1\n")?;
    for descriptor in blobs_of(image) {
        directory.blob(&blob_name(&descriptor.digest), store.blobs(), &descriptor)?;
    }
    let manifest = manifest_bytes(store, image)?;
    directory.file("manifest.json", &manifest)
}

fn oci(store: &ImageStore, images: &[(&Image, Vec<String>)], out: &mut impl Target) -> Result<(), TransportError> {
    let mut written = HashSet::new();
    let mut entries: Vec<Descriptor> = Vec::new();
    for (image, names) in images {
        for descriptor in blobs_of(image).into_iter().chain([image.manifest.clone()]) {
            if written.insert(descriptor.digest.clone()) {
                let name = format!("blobs/{}/{}", descriptor.digest.algorithm().as_str(), descriptor.digest.hex());
                out.blob(&name, store.blobs(), &descriptor)?;
            }
        }
        let mut entry = Descriptor::new(&image.manifest.media_type, image.manifest.digest.clone(), image.manifest.size);
        entry.platform = Some(image.platform.clone());
        if names.is_empty() {
            entries.push(entry.clone());
        }
        for name in names {
            let mut entry = entry.clone();
            entry.annotations = Some(BTreeMap::from([(ANNOTATION_NAME.to_owned(), name.clone())]));
            entries.push(entry);
        }
    }
    out.add_to_index(entries)?;
    out.file("oci-layout", OCI_LAYOUT)
}

/// Where files go.
trait Target {
    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), TransportError>;

    fn blob(&mut self, name: &str, blobs: &BlobStore, descriptor: &Descriptor) -> Result<(), TransportError>;

    fn add_to_index(&mut self, entries: Vec<Descriptor>) -> Result<(), TransportError> {
        let index = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries});
        self.file("index.json", &to_json(&index)?)
    }
}

struct Archive<W: Write> {
    writer: Writer<W>,
    names: HashSet<String>,
}

impl<W: Write> Archive<W> {
    fn new(out: W) -> Self {
        Self { writer: Writer::new(out), names: HashSet::new() }
    }

    fn is_new(&mut self, name: &str) -> bool {
        self.names.insert(name.to_owned())
    }

    fn directory(&mut self, name: &str) -> Result<(), TransportError> {
        self.writer
            .append_empty(&entry(name, EntryKind::Directory, 0))
            .map_err(|source| failed("write archive", source))
    }

    /// A layer's uncompressed tar, checked while it goes out.
    fn layer(&mut self, name: &str, blobs: &BlobStore, layer: &Layer, size: u64) -> Result<(), TransportError> {
        let mut tar = Checked::new(Decompressor::new(blobs.open(&layer.blob.digest)?), &layer.diff_id)?;
        let written = self.writer.append(&entry(name, EntryKind::File, size), &mut tar);
        written.map_err(|source| failed(&format!("write layer {}", layer.diff_id), source))?;
        tar.finish(layer)
    }

    fn finish(self) -> Result<(), TransportError> {
        self.writer.finish().map(drop).map_err(|source| failed("write archive", source))
    }
}

impl<W: Write> Target for Archive<W> {
    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), TransportError> {
        let written = self.writer.append(&entry(name, EntryKind::File, bytes.len() as u64), bytes);
        written.map_err(|source| failed("write archive", source))
    }

    fn blob(&mut self, name: &str, blobs: &BlobStore, descriptor: &Descriptor) -> Result<(), TransportError> {
        let file = blobs.open(&descriptor.digest)?;
        let written = self.writer.append(&entry(name, EntryKind::File, descriptor.size), file);
        written.map_err(|source| failed(&format!("write blob {}", descriptor.digest), source))
    }
}

struct Directory<'a> {
    path: &'a Path,
}

impl<'a> Directory<'a> {
    fn new(path: &'a Path) -> Result<Self, TransportError> {
        fs::create_dir_all(path).map_err(|source| failed(&format!("mkdir {}", path.display()), source))?;
        Ok(Self { path })
    }

    fn write(&self, name: &str, mut contents: impl Read) -> Result<(), TransportError> {
        let path = self.path.join(name);
        let mut write = || -> io::Result<()> {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            let mut options = fs::OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o644).open(&path)?;
            io::copy(&mut contents, &mut file).map(drop)
        };
        write().map_err(|source| failed(&format!("write {}", path.display()), source))
    }
}

impl Target for Directory<'_> {
    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), TransportError> {
        self.write(name, bytes)
    }

    fn blob(&mut self, name: &str, blobs: &BlobStore, descriptor: &Descriptor) -> Result<(), TransportError> {
        self.write(name, blobs.open(&descriptor.digest)?)
    }

    fn add_to_index(&mut self, entries: Vec<Descriptor>) -> Result<(), TransportError> {
        let path = self.path.join("index.json");
        let mut index = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            Err(_) => serde_json::Value::Null,
        };
        let known = index.get_mut("manifests").and_then(serde_json::Value::as_array_mut).map(std::mem::take);
        let name = |entry: &serde_json::Value| entry["annotations"][ANNOTATION_NAME].as_str().map(str::to_owned);
        let new: Vec<serde_json::Value> = entries.iter().map(|entry| json!(entry)).collect();
        let taken: HashSet<Option<String>> = new.iter().map(name).filter(Option::is_some).collect();
        let digests: HashSet<String> = new.iter().map(|entry| entry["digest"].to_string()).collect();
        // A name moves to the image saved now; an image without a name does not stand there twice.
        let stays = |entry: &serde_json::Value| match name(entry) {
            Some(name) => !taken.contains(&Some(name)),
            None => !digests.contains(&entry["digest"].to_string()),
        };
        let all: Vec<_> = known.unwrap_or_default().into_iter().filter(stays).chain(new).collect();
        let index = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": all});
        self.file("index.json", &to_json(&index)?)
    }
}

/// Uncompressed bytes of a layer that are counted and hashed on their way.
struct Checked<R> {
    inner: R,
    hasher: crate::digest::Hasher,
    expected: DiffId,
}

impl<R: Read> Checked<R> {
    fn new(inner: io::Result<R>, expected: &DiffId) -> Result<Self, TransportError> {
        let inner = inner.map_err(|source| failed(&format!("read layer {expected}"), source))?;
        Ok(Self { inner, hasher: expected.as_digest().hasher(), expected: expected.clone() })
    }

    /// Reads what is left, and compares.
    fn finish(mut self, layer: &Layer) -> Result<(), TransportError> {
        let mut extra = [0; 1];
        let is_longer = self.inner.read(&mut extra).map_err(|source| failed("read layer", source))? != 0;
        let got = DiffId::new(self.hasher.finish());
        if is_longer || got != self.expected {
            return Err(TransportError::DiffId { blob: layer.blob.digest.clone(), expected: self.expected, got });
        }
        Ok(())
    }
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..len]);
        Ok(len)
    }
}

/// Reads a layer through, uncompressed, and returns its length.
fn read_layer(blobs: &BlobStore, layer: &Layer, mut out: impl Write) -> Result<u64, TransportError> {
    let read = Decompressor::new(blobs.open(&layer.blob.digest)?).and_then(|mut tar| io::copy(&mut tar, &mut out));
    read.map_err(|source| failed(&format!("read layer {}", layer.diff_id), source))
}

fn blobs_of(image: &Image) -> Vec<Descriptor> {
    let config = Descriptor::new("", image.id.clone(), image.raw_config.len() as u64);
    image.layers.iter().map(|layer| layer.blob.clone()).chain([config]).collect()
}

fn manifest_bytes(store: &ImageStore, image: &Image) -> Result<Vec<u8>, TransportError> {
    let digest: &Digest = &image.manifest.digest;
    let bytes = store.blobs().read(digest, crate::image::MANIFEST_LIMIT_BYTES)?;
    bytes.ok_or_else(|| TransportError::NotFound { what: format!("manifest {digest}"), hint: String::new() })
}

/// `docker load` wants names as docker shows them.
fn archive_tag(name: &Reference) -> String {
    match name.tag() {
        Some(tag) => format!("{}:{tag}", name.familiar_name()),
        None => name.familiar(),
    }
}

fn entry(name: &str, kind: EntryKind, size: u64) -> Entry {
    Entry {
        path: name.as_bytes().to_vec(),
        link: Vec::new(),
        kind,
        mode: if kind == EntryKind::Directory { 0o755 } else { 0o644 },
        uid: 0,
        gid: 0,
        size,
        mtime: Timestamp::default(),
        device: (0, 0),
        xattrs: Vec::new(),
        data_offset: 0,
        stored_bytes: size,
        sparse: false,
    }
}

fn to_json(value: &impl serde::Serialize) -> Result<Vec<u8>, TransportError> {
    serde_json::to_vec(value)
        .map_err(|error| TransportError::Invalid { what: "archive".to_owned(), reason: error.to_string() })
}

fn failed(what: &str, source: io::Error) -> TransportError {
    TransportError::Io { what: what.to_owned(), source }
}
