//! Images made by hand, byte for byte: layers with whatever a test wants in them, a configuration, and the three forms
//! they travel in (docker-archive here; OCI layout and a registry's answers in `layout.rs`).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{fs, io};

use serde_json::{Value, json};

use super::home::Home;

static BUSYBOX: OnceLock<PathBuf> = OnceLock::new();

/// Makes the archive of the busybox image, once for a run, with the script that setup uses.
pub(crate) fn make_busybox_archive(dir: &Path) {
    if busybox_archive().is_some() {
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/make-busybox-image.sh");
    let archive = dir.join("busybox.tar");
    if Command::new(script).arg(&archive).status().is_ok_and(|status| status.success()) {
        let _ = BUSYBOX.set(archive);
    }
}

/// The archive, in the runner and in the processes of its tests.
pub(crate) fn busybox_archive() -> Option<PathBuf> {
    BUSYBOX.get().cloned().or_else(|| std::env::var_os("CORACLE_TEST_BUSYBOX").map(PathBuf::from))
}

/// The first Debian mirror that this machine's own apt uses.
pub(crate) fn debian_mirror() -> Option<String> {
    let mut files = super::home::entries(Path::new("/etc/apt/sources.list.d"));
    files.push("/etc/apt/sources.list".into());
    let lines = files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect::<Vec<_>>().join("\n");
    let words = lines.lines().filter(|line| line.starts_with("URIs:") || line.starts_with("deb "));
    let mut urls = words.flat_map(str::split_whitespace).filter(|word| word.starts_with("http"));
    urls.find(|url| url.trim_end_matches('/').ends_with("/debian")).map(str::to_owned)
}

/// How a layer is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// A layer: a tar archive that is being written.
pub(crate) struct Layer {
    tar: tar::Builder<Vec<u8>>,
}

impl Layer {
    pub(crate) fn new() -> Self {
        Self { tar: tar::Builder::new(Vec::new()) }
    }

    /// Any entry with any name: the name is written as it is, `..` and a leading slash included.
    pub(crate) fn entry(mut self, kind: tar::EntryType, name: &[u8], link: &[u8], mode: u32, body: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        assert!(name.len() < 100 && link.len() < 100, "longer names need a long-name entry");
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name);
        old.linkname[..link.len()].copy_from_slice(link);
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(body.len() as u64);
        header.set_cksum();
        self.tar.append(&header, body).expect("memory does not fail");
        self
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.entry(tar::EntryType::Directory, name.as_bytes(), b"", 0o755, b"")
    }

    pub(crate) fn file(self, name: &str, body: impl AsRef<[u8]>) -> Self {
        self.entry(tar::EntryType::Regular, name.as_bytes(), b"", 0o644, body.as_ref())
    }

    pub(crate) fn executable(self, name: &str, body: impl AsRef<[u8]>) -> Self {
        self.entry(tar::EntryType::Regular, name.as_bytes(), b"", 0o755, body.as_ref())
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(tar::EntryType::Symlink, name.as_bytes(), target.as_bytes(), 0o777, b"")
    }

    pub(crate) fn hardlink(self, name: &str, target: &str) -> Self {
        self.entry(tar::EntryType::Link, name.as_bytes(), target.as_bytes(), 0o644, b"")
    }

    pub(crate) fn fifo(self, name: &str) -> Self {
        self.entry(tar::EntryType::Fifo, name.as_bytes(), b"", 0o644, b"")
    }

    /// Deletes `name` of the layers below.
    pub(crate) fn whiteout(self, name: &str) -> Self {
        let (dir, file) = name.rsplit_once('/').map_or((String::new(), name), |(dir, file)| (format!("{dir}/"), file));
        self.file(&format!("{dir}.wh.{file}"), "")
    }

    /// Hides everything that the layers below have in `dir`.
    pub(crate) fn opaque(self, dir: &str) -> Self {
        self.file(&format!("{dir}/.wh..wh..opq"), "")
    }

    /// The tar archive.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.tar.into_inner().expect("memory does not fail")
    }
}

/// An image of layers, top one last.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) layers: Vec<Vec<u8>>,
    /// The `config` object: Cmd, Env, WorkingDir, …
    pub(crate) config: Value,
    pub(crate) architecture: String,
}

impl Image {
    pub(crate) fn scratch() -> Self {
        let config =
            json!({"Cmd": ["/bin/sh"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]});
        Self { layers: Vec::new(), config, architecture: host_architecture().to_owned() }
    }

    /// busybox as the first layer.
    pub(crate) fn busybox() -> Self {
        let archive = busybox_archive().expect("the runner made it");
        Self { layers: vec![fs::read(archive).expect("the runner made it")], ..Self::scratch() }
    }

    pub(crate) fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer.finish());
        self
    }

    /// Sets a field of `config`.
    pub(crate) fn set(mut self, field: &str, value: Value) -> Self {
        self.config[field] = value;
        self
    }

    /// The configuration blob.
    pub(crate) fn config_blob(&self) -> Vec<u8> {
        let diff_ids: Vec<_> = self.layers.iter().map(|layer| sha256(layer)).collect();
        let history: Vec<_> = diff_ids.iter().map(|_| json!({"created_by": "test"})).collect();
        let config = json!({
            "architecture": self.architecture, "os": "linux", "created": "2024-01-01T00:00:00Z",
            "config": self.config, "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": history,
        });
        config.to_string().into_bytes()
    }

    /// The image id: the digest of its configuration.
    pub(crate) fn id(&self) -> String {
        sha256(&self.config_blob()).trim_start_matches("sha256:").to_owned()
    }

    /// What `docker save` writes.
    pub(crate) fn docker_archive(&self, name: &str) -> Vec<u8> {
        let config = self.config_blob();
        let config_name = format!("{}.json", self.id());
        let layer_names: Vec<_> = (0..self.layers.len()).map(|number| format!("{number}/layer.tar")).collect();
        let manifest = json!([{"Config": config_name, "RepoTags": [name], "Layers": layer_names}]).to_string();
        let files = layer_names.iter().map(String::as_str).zip(self.layers.iter().map(Vec::as_slice));
        let meta = [(config_name.as_str(), config.as_slice()), ("manifest.json", manifest.as_bytes())];
        plain_tar(files.chain(meta))
    }

    /// Loads it under this name.
    #[track_caller]
    pub(crate) fn load(&self, home: &Home, name: &str) {
        let file = home.write("image.tar", self.docker_archive(name));
        home.coracle("load -q -i").arg(&file).run().ok();
        fs::remove_file(file).expect("the test's own file");
    }
}

/// A tar archive of regular files.
pub(crate) fn plain_tar<'a>(files: impl Iterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, body) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(body.len() as u64);
        tar.append_data(&mut header, name, body).expect("memory does not fail");
    }
    tar.into_inner().expect("memory does not fail")
}

/// `sha256:…` of some bytes.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// Packs a layer.
pub(crate) fn pack(layer: &[u8], packing: Packing) -> Vec<u8> {
    let packed = || -> io::Result<Vec<u8>> {
        match packing {
            Packing::Plain => Ok(layer.to_vec()),
            Packing::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(layer)?;
                encoder.finish()
            }
            Packing::Zstd => zstd::encode_all(layer, 1),
        }
    };
    packed().expect("memory does not fail")
}

/// This machine's architecture in the words of images.
pub(crate) fn host_architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}
