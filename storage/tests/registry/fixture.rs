//! Small images, and a store to pull them into.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use storage::digest::Digest;
use storage::image::manifest::media_type;
use storage::image::{Image, ImageStore};
use storage::layer::IdPolicy;
use storage::progress::{Event, Progress};
use storage::state::layout::Layout;
use storage::transport::{PullError, PullOptions, Source, pull};

use crate::server::{Reply, Request};

/// What a registry has of one repository: bytes by digest, manifests by tag.
#[derive(Clone, Default)]
pub(crate) struct Repository {
    pub(crate) blobs: HashMap<String, Vec<u8>>,
    pub(crate) manifests: HashMap<String, (String, Vec<u8>)>,
}

/// How a layer is compressed.
#[derive(Clone, Copy)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

pub(crate) fn layer_tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn compress(bytes: &[u8], compression: Compression) -> Vec<u8> {
    match compression {
        Compression::None => bytes.to_vec(),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Zstd => zstd::encode_all(bytes, 1).unwrap(),
    }
}

/// Bytes that do not compress.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

impl Repository {
    pub(crate) fn add_blob(&mut self, bytes: Vec<u8>) -> String {
        let digest = Digest::of(&bytes).to_string();
        self.blobs.insert(digest.clone(), bytes);
        digest
    }

    /// Adds layers, a configuration and a manifest under `tag`; gives the manifest's digest.
    pub(crate) fn add_image(&mut self, tag: &str, arch: &str, layers: &[(Vec<u8>, Compression)]) -> String {
        self.add_image_as(tag, arch, layers, true)
    }

    pub(crate) fn add_image_as(
        &mut self,
        tag: &str,
        arch: &str,
        layers: &[(Vec<u8>, Compression)],
        is_oci: bool,
    ) -> String {
        let mut descriptors = Vec::new();
        let mut diff_ids = Vec::new();
        for (bytes, compression) in layers {
            diff_ids.push(format!("\"{}\"", Digest::of(bytes)));
            let blob = compress(bytes, *compression);
            let size = blob.len();
            let kind = match (is_oci, compression) {
                (true, Compression::None) => media_type::OCI_LAYER,
                (true, Compression::Gzip) => media_type::OCI_LAYER_GZIP,
                (true, Compression::Zstd) => media_type::OCI_LAYER_ZSTD,
                (false, Compression::None) => media_type::DOCKER_LAYER,
                (false, _) => media_type::DOCKER_LAYER_GZIP,
            };
            let digest = self.add_blob(blob);
            descriptors.push(format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":{size}}}"#));
        }
        let config = format!(
            r#"{{"architecture":"{arch}","os":"linux","config":{{"Env":["PATH=/bin"],"Cmd":["sh"]}},
            "rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            diff_ids.join(",")
        );
        let (own, config_type) = match is_oci {
            true => (media_type::OCI_MANIFEST, media_type::OCI_CONFIG),
            false => (media_type::DOCKER_MANIFEST, media_type::DOCKER_CONFIG),
        };
        let size = config.len();
        let config = self.add_blob(config.into_bytes());
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{own}","config":{{"mediaType":"{config_type}","digest":"{config}",
            "size":{size}}},"layers":[{}]}}"#,
            descriptors.join(",")
        );
        self.add_manifest(tag, own, manifest)
    }

    pub(crate) fn add_manifest(&mut self, tag: &str, media_type: &str, text: String) -> String {
        let digest = Digest::of(text.as_bytes()).to_string();
        let entry = (media_type.to_owned(), text.into_bytes());
        self.manifests.insert(digest.clone(), entry.clone());
        self.manifests.insert(tag.to_owned(), entry);
        digest
    }

    /// Answers as a registry does.
    pub(crate) fn reply(&self, request: &Request) -> Reply {
        let path = request.target.split('?').next().unwrap();
        let name = path.rsplit('/').next().unwrap();
        if path.contains("/manifests/") {
            return match self.manifests.get(name) {
                Some((media_type, bytes)) => Reply::new(200)
                    .header("Content-Type", media_type.clone())
                    .header("Docker-Content-Digest", Digest::of(bytes).to_string())
                    .body(bytes.clone()),
                None => Reply::error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
            };
        }
        let Some(bytes) = self.blobs.get(name) else { return Reply::error(404, "BLOB_UNKNOWN", "blob unknown") };
        let start =
            request.header("range").and_then(|text| text.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        match start {
            Some(start) if start < bytes.len() => Reply::new(206)
                .header("Content-Range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len()))
                .body(&bytes[start..]),
            Some(_) => Reply::new(416),
            None => Reply::new(200).body(bytes.clone()),
        }
    }
}

/// One small image of one layer, tag `latest`.
pub(crate) fn small() -> Repository {
    let mut repository = Repository::default();
    let tar = layer_tar(&[("etc/hello", b"hello\n"), ("data", &noise(300_000))]);
    repository.add_image("latest", "amd64", &[(tar, Compression::Gzip)]);
    repository
}

/// Remembers messages and finished blobs.
#[derive(Clone, Default)]
pub(crate) struct Recorder(pub(crate) Arc<Mutex<Vec<String>>>);

impl Progress for Recorder {
    fn event(&self, event: Event<'_>) {
        let text = match event {
            Event::Message(text) => format!("message {text}"),
            Event::Exists { .. } => "exists".to_owned(),
            Event::Done { .. } => "done".to_owned(),
            _ => return,
        };
        self.0.lock().unwrap().push(text);
    }
}

/// A store in a directory that goes away.
pub(crate) struct Store {
    pub(crate) root: tempfile::TempDir,
    pub(crate) images: ImageStore,
    pub(crate) layout: Layout,
    pub(crate) options: PullOptions,
    pub(crate) progress: Recorder,
}

impl Store {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path().join("data"), root.path().join("run"));
        let mut options = PullOptions {
            platform: Some("linux/amd64".parse().unwrap()),
            // Works without a user namespace.
            ids: IdPolicy::Single,
            retry_delay: Duration::from_millis(10),
            ..PullOptions::default()
        };
        // Nobody's credentials on the machine that runs the tests.
        let authfile = root.path().join("auth.json");
        std::fs::write(&authfile, "{}").unwrap();
        options.client.authfile = Some(authfile);
        Self { images: ImageStore::open(&layout), layout, root, options, progress: Recorder::default() }
    }

    pub(crate) fn pull(&self, name: &str) -> Result<Image, PullError> {
        pull(&self.images, &Source::parse(name).unwrap(), &self.options, &self.progress)
    }

    /// The text of a pull's error, without the part that names the image; checks that nothing half-done is left.
    pub(crate) fn pull_error(&self, name: &str) -> String {
        let error = self.pull(name).expect_err("the pull fails");
        assert!(self.images.list().unwrap().is_empty(), "no image is recorded");
        self.assert_clean();
        assert!(!error.to_string().contains('\n'), "{error}");
        error.reason.to_string()
    }

    /// No temporary file or directory is left anywhere.
    pub(crate) fn assert_clean(&self) {
        for path in files(self.root.path()) {
            assert!(!path.to_string_lossy().contains(".tmp-"), "{}", path.display());
        }
    }

    pub(crate) fn messages(&self) -> Vec<String> {
        self.progress.0.lock().unwrap().iter().filter(|text| text.starts_with("message")).cloned().collect()
    }
}

pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&path));
        }
        found.push(path);
    }
    found
}
