//! Archives in and out: what we write skopeo reads, what skopeo writes we read, and hostile ones lead nowhere.

use crate::support::{Archive, entry};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use storage::digest::Digest;
use storage::image::{Image, ImageStore};
use storage::layer::IdPolicy;
use storage::layer::tar::EntryKind;
use storage::progress::Silent;
use storage::reference::Reference;
use storage::state::layout::Layout;
use storage::state::layout::Ownership;
use storage::transport::import::{ImportOptions, import};
use storage::transport::save::{self, Saved};
use storage::transport::{ImageSource, PullOptions, Source, TransportError, load, pull, pull_from};

struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("temporary directory") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A store of its own.
    fn store(&self, name: &str) -> ImageStore {
        ImageStore::open(&Layout::new(self.path(name), self.path("run")))
    }
}

fn options() -> PullOptions {
    PullOptions { ids: IdPolicy::Single, is_durable: false, ..PullOptions::default() }
}

fn rootfs() -> Vec<u8> {
    Archive::new()
        .dir("etc")
        .file("etc/os-release", b"ID=test\n")
        .symlink("bin", "usr/bin")
        .file("big", &[9; 70_000])
        .bytes()
}

fn imported(store: &ImageStore, name: &str, tar: &[u8]) -> Image {
    let config = oci_spec::image::ConfigBuilder::default().cmd(vec!["/bin/sh".to_owned()]).build().expect("config");
    let names = vec![Reference::parse(name).expect("name")];
    let what = ImportOptions { config, names, ..ImportOptions::default() };
    import(store, tar, &what, &options(), &Silent).expect("import")
}

/// Loads every image of a source and returns the images.
fn loaded(store: &ImageStore, sources: &[Box<dyn ImageSource>]) -> Vec<Image> {
    sources.iter().map(|source| pull_from(store, source.as_ref(), &options(), &Silent).expect("load")).collect()
}

fn skopeo(args: &[&str]) -> Option<String> {
    match Command::new("skopeo").arg("--insecure-policy").args(args).output() {
        Err(error) => {
            eprintln!("skipped: needs skopeo: {error}");
            None
        }
        Ok(output) => {
            assert!(output.status.success(), "skopeo {args:?}: {}", String::from_utf8_lossy(&output.stderr));
            Some(String::from_utf8(output.stdout).expect("UTF-8"))
        }
    }
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, data).expect("write to memory");
    encoder.finish().expect("write to memory")
}

fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn import_of_plain_gzip_and_zstd_gives_one_tree() {
    let home = Home::new();
    let store = home.store("store");
    let tar = rootfs();
    let inputs = [tar.clone(), gzip(&tar), zstd::encode_all(tar.as_slice(), 1).unwrap()];
    for (at, input) in inputs.iter().enumerate() {
        let image = imported(&store, &format!("localhost/imported:{at}"), input);
        assert_eq!(image.layers[0].diff_id.as_digest(), &Digest::of(&tar));
        assert_eq!(image.config.config().as_ref().unwrap().cmd().as_ref().unwrap(), &["/bin/sh"]);
        let diff = store.layout().layer(&image.layers[0].diff_id, Ownership::Single).join("diff");
        assert_eq!(fs::read(diff.join("etc/os-release")).unwrap(), b"ID=test\n");
    }
    assert_eq!(fs::read_dir(store.layout().layers()).unwrap().count(), 1);
    assert!(store.resolve("imported:1").unwrap().is_some());
}

#[test]
fn docker_archive_of_several_images_is_read_by_skopeo_and_by_us() {
    let home = Home::new();
    let store = home.store("store");
    let one = imported(&store, "docker.io/library/one:1", &rootfs());
    let two = imported(&store, "quay.io/x/two:latest", &Archive::new().file("two", b"2").bytes());
    let names = |image: &Image| image.names.clone();
    let saved = [Saved { image: &one, names: names(&one) }, Saved { image: &two, names: names(&two) }];
    let path = home.path("images.tar");
    save::docker_archive(&store, &saved, fs::File::create(&path).unwrap()).unwrap();
    let again = home.path("again.tar");
    save::docker_archive(&store, &saved, fs::File::create(&again).unwrap()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), fs::read(&again).unwrap());
    for (reference, image) in [("one:1", &one), ("quay.io/x/two:latest", &two)] {
        let source = format!("docker-archive:{}:{reference}", text(&path));
        let Some(config) = skopeo(&["inspect", "--config", "--raw", &source]) else { break };
        assert_eq!(&Digest::of(config.as_bytes()), &image.id);
        let copied = home.path(&format!("oci-{}", image.id.short()));
        skopeo(&["copy", "-q", &source, &format!("oci:{}:x", text(&copied))]);
    }
    let other = home.store("other");
    let images = loaded(&other, &load::open_all(&path, &home.path("spool")).unwrap());
    assert_eq!(images.iter().map(|image| &image.id).collect::<Vec<_>>(), [&one.id, &two.id]);
    assert_eq!(images[1].names, two.names);
    let compressed = zstd::encode_all(fs::File::open(&path).unwrap(), 1).unwrap();
    let third = home.store("third");
    let images = loaded(&third, &load::open_all_from(compressed.as_slice(), &home.path("spool")).unwrap());
    assert_eq!(images.len(), 2);
    assert_eq!(fs::read_dir(home.path("spool")).unwrap().count(), 0);
    let source = Source::parse(&format!("docker-archive:{}:one:1", text(&path))).unwrap();
    assert_eq!(pull(&home.store("fourth"), &source, &options(), &Silent).unwrap().id, one.id);
    let ambiguous = Source::parse(&format!("docker-archive:{}", text(&path))).unwrap();
    let error = pull(&home.store("fifth"), &ambiguous, &options(), &Silent).unwrap_err().to_string();
    assert!(error.contains("one:1") && error.contains("2 images"), "{error}");
}

#[test]
fn oci_archive_layout_and_dir_keep_the_digest_of_the_manifest() {
    let home = Home::new();
    let store = home.store("store");
    let image = imported(&store, "docker.io/library/one:1", &gzip(&rootfs()));
    let saved = [Saved { image: &image, names: image.names.clone() }];
    let archive = home.path("oci.tar");
    save::oci_archive(&store, &saved, fs::File::create(&archive).unwrap()).unwrap();
    let layout = home.path("layout");
    save::oci_directory(&store, &saved, &layout).unwrap();
    save::oci_directory(&store, &saved, &layout).unwrap();
    let dir = home.path("dir");
    save::docker_directory(&store, &image, &dir).unwrap();
    for (at, path) in [&archive, &layout, &dir].into_iter().enumerate() {
        let other = home.store(&format!("other-{at}"));
        let images = loaded(&other, &load::open_all(path, &home.path("spool")).unwrap());
        assert_eq!(images.len(), 1, "{}", path.display());
        assert_eq!((&images[0].id, &images[0].manifest.digest), (&image.id, &image.manifest.digest));
    }
    let sources = [
        format!("oci-archive:{}:docker.io/library/one:1", text(&archive)),
        format!("oci:{}:docker.io/library/one:1", text(&layout)),
        format!("dir:{}", text(&dir)),
    ];
    for (at, source) in sources.iter().enumerate() {
        let Some(manifest) = skopeo(&["inspect", "--raw", source]) else { return };
        assert_eq!(&Digest::of(manifest.as_bytes()), &image.manifest.digest);
        let ours = Source::parse(source).unwrap();
        let pulled = pull(&home.store(&format!("pulled-{at}")), &ours, &options(), &Silent).unwrap();
        assert_eq!(pulled.id, image.id);
        // And back: what skopeo writes from it.
        let theirs = home.path(&format!("skopeo-{at}.tar"));
        skopeo(&["copy", "-q", source, &format!("docker-archive:{}:localhost/back:1", text(&theirs))]);
        let images = loaded(&home.store(&format!("back-{at}")), &load::open_all(&theirs, &home.path("spool")).unwrap());
        assert_eq!(images[0].layers[0].diff_id, image.layers[0].diff_id);
        assert_eq!(images[0].names[0].to_string(), "localhost/back:1");
    }
}

#[test]
fn docker_schema_2_keeps_its_manifest_in_every_format() {
    let home = Home::new();
    let store = home.store("store");
    let image = imported(&store, "localhost/one:1", &rootfs());
    let archive = home.path("oci.tar");
    let saved = [Saved { image: &image, names: image.names.clone() }];
    save::oci_archive(&store, &saved, fs::File::create(&archive).unwrap()).unwrap();
    let schema2 = home.path("schema2");
    let source = format!("oci-archive:{}", text(&archive));
    if skopeo(&["copy", "-q", "--format", "v2s2", &source, &format!("dir:{}", text(&schema2))]).is_none() {
        return;
    }
    let docker = home.store("docker");
    let image = loaded(&docker, &load::open_all(&schema2, &home.path("spool")).unwrap()).remove(0);
    assert!(image.manifest.media_type.contains("docker"), "{}", image.manifest.media_type);
    let name = Reference::parse("localhost/two:2").unwrap();
    let saved = [Saved { image: &image, names: vec![name] }];
    let again = home.path("again.tar");
    save::oci_archive(&docker, &saved, fs::File::create(&again).unwrap()).unwrap();
    let raw = skopeo(&["inspect", "--raw", &format!("oci-archive:{}", text(&again))]).unwrap();
    assert_eq!(&Digest::of(raw.as_bytes()), &image.manifest.digest);
    let path = home.path("docker.tar");
    save::docker_archive(&docker, &saved, fs::File::create(&path).unwrap()).unwrap();
    let config = skopeo(&["inspect", "--config", "--raw", &format!("docker-archive:{}", text(&path))]).unwrap();
    assert_eq!(&Digest::of(config.as_bytes()), &image.id);
}

fn config_of(tar: &[u8]) -> String {
    let diff_id = Digest::of(tar);
    format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#)
}

fn try_load(home: &Home, archive: &[u8]) -> Result<Image, TransportError> {
    let store = home.store("store");
    let sources = load::open_all_from(archive, &home.path("spool"))?;
    pull_from(&store, sources[0].as_ref(), &options(), &Silent)
}

#[test]
fn legacy_links_between_members_work_and_links_out_of_the_archive_do_not() {
    let layer = rootfs();
    let config = config_of(&layer);
    let manifest = br#"[{"Config":"c.json","RepoTags":["a:1"],"Layers":["b/layer.tar"]}]"#;
    let archive = |target: &str| {
        Archive::new()
            .file("c.json", config.as_bytes())
            .file("a/layer.tar", &layer)
            .symlink("b/layer.tar", target)
            .file("manifest.json", manifest)
            .bytes()
    };
    let home = Home::new();
    fs::write(home.path("layer.tar"), &layer).unwrap();
    assert!(try_load(&home, &archive("../a/layer.tar")).is_ok());
    let host = text(&home.path("layer.tar"));
    for target in ["../../layer.tar", host.as_str(), "layer.tar", "../a", "/etc/passwd"] {
        let error = try_load(&home, &archive(target)).unwrap_err();
        assert!(matches!(error, TransportError::NotFound { .. }), "{target}: {error}");
    }
}

#[test]
fn names_in_documents_lead_to_members_only() {
    let layer = rootfs();
    let home = Home::new();
    fs::write(home.path("secret"), config_of(&layer)).unwrap();
    let host = text(&home.path("secret"));
    for name in ["/etc/passwd", "../../../../etc/passwd", "/dev/zero", host.as_str(), "", ".", "d"] {
        let items = serde_json::json!([{"Config": name, "RepoTags": [], "Layers": ["layer.tar"]}]).to_string();
        let archive = Archive::new().dir("d").file("layer.tar", &layer).file("manifest.json", items.as_bytes()).bytes();
        let error = try_load(&home, &archive).unwrap_err();
        assert!(matches!(error, TransportError::NotFound { .. }), "{name}: {error}");
    }
}

#[test]
fn cve_2024_3727_and_2021_41190_wrong_contents_are_refused() {
    let home = Home::new();
    let layer = rootfs();
    let wrong = Archive::new().file("evil", b"x").bytes();
    let docker = Archive::new()
        .file("c.json", config_of(&layer).as_bytes())
        .file("layer.tar", &wrong)
        .file("manifest.json", br#"[{"Config":"c.json","RepoTags":["a:1"],"Layers":["layer.tar"]}]"#)
        .bytes();
    assert!(try_load(&home, &docker).is_err());
    // An OCI layout whose manifest is not the one of its digest.
    let digest = Digest::of(b"something else");
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":2}}]}}"#
    );
    let oci = Archive::new()
        .file("oci-layout", b"{}")
        .file(&format!("blobs/sha256/{}", digest.hex()), b"{}")
        .file("index.json", index.as_bytes())
        .bytes();
    assert!(matches!(try_load(&home, &oci), Err(TransportError::ManifestDigest { .. })));
    assert_eq!(fs::read_dir(home.path("store/layers")).map_or(0, |entries| entries.count()), 0);
    assert!(home.store("store").list().unwrap().is_empty());
}

#[test]
fn layouts_on_disk_are_read_without_following_links() {
    let home = Home::new();
    let layout = home.path("layout");
    fs::create_dir_all(layout.join("blobs")).unwrap();
    fs::write(home.path("index.json"), b"{\"schemaVersion\":2,\"manifests\":[]}").unwrap();
    std::os::unix::fs::symlink("../index.json", layout.join("index.json")).unwrap();
    assert!(load::open_all(&layout, &home.path("spool")).is_err());
    fs::remove_file(layout.join("index.json")).unwrap();
    nix::unistd::mkfifo(&layout.join("index.json"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(load::open_all(&layout, &home.path("spool")).is_err());
}

#[test]
fn archives_that_are_none_get_one_line() {
    let home = Home::new();
    let huge = Archive::new().file("manifest.json", &vec![b' '; 5 << 20]).bytes();
    let deep = Archive::new().file("manifest.json", "[".repeat(500_000).as_bytes()).bytes();
    let sparse = Archive::new().add(&entry("x", EntryKind::File), b"x").bytes();
    for bytes in [&b""[..], b"hello", &[0; 4096], &huge, &deep, &sparse, b"\xfd7zXZ\0\0\0"] {
        let error = try_load(&home, bytes).unwrap_err().to_string();
        assert!(!error.contains('\n') && error.len() < 300, "{error}");
    }
}

#[test]
fn deleted_layers_are_made_again_from_the_blobs() {
    let home = Home::new();
    let store = home.store("store");
    let image = imported(&store, "localhost/one:1", &gzip(&rootfs()));
    fs::remove_dir_all(store.layout().layers()).unwrap();
    let ensure = || storage::layer::ensure_unpacked(&store, &image, &IdPolicy::Single, &Silent);
    let dirs = ensure().unwrap();
    assert_eq!(fs::read(dirs[0].join("diff/etc/os-release")).unwrap(), b"ID=test\n");
    assert!(dirs[0].join("index").is_file());
    assert_eq!(ensure().unwrap(), dirs);
    fs::remove_dir_all(store.layout().layers()).unwrap();
    store.blobs().remove(&image.layers[0].blob.digest).unwrap();
    let error = ensure().unwrap_err().to_string();
    assert!(error.contains("pull the image again") && !error.contains('\n'), "{error}");
}
