//! The same against docker's own registry, filled by skopeo. Skipped where either is missing.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use storage::digest::Digest;
use storage::state::layout::Ownership;

use crate::fixture::{Compression, Repository, Store, layer_tar, noise};

/// A registry of its own, stopped when dropped.
struct Registry {
    child: Child,
    host: String,
    root: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program(name: &str) -> Option<PathBuf> {
    ["/usr/bin", "/usr/local/bin"].iter().map(|dir| Path::new(dir).join(name)).find(|path| path.exists())
}

fn start() -> Option<Registry> {
    let (Some(registry), Some(_)) = (program("docker-registry"), program("skopeo")) else {
        eprintln!("skipped: needs docker-registry and skopeo");
        return None;
    };
    let root = tempfile::tempdir().unwrap();
    let host = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let config = root.path().join("config.yml");
    let storage = root.path().join("storage");
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{host}'}}\n",
        storage.display()
    );
    std::fs::write(&config, text).unwrap();
    let child =
        Command::new(registry).arg("serve").arg(config).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let registry = Registry { child, host, root };
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(&registry.host).is_err() {
        assert!(Instant::now() < deadline, "the registry does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(registry)
}

/// Writes an OCI layout with one image, tag `latest`.
fn write_layout(repository: &Repository, dir: &Path) {
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let (media_type, manifest) = &repository.manifests["latest"];
    let digest = Digest::of(manifest);
    for (name, bytes) in repository.blobs.iter().chain([(&digest.to_string(), manifest)]) {
        std::fs::write(blobs.join(name.strip_prefix("sha256:").unwrap()), bytes).unwrap();
    }
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let mut index = std::fs::File::create(dir.join("index.json")).unwrap();
    write!(
        index,
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{media_type}","digest":"{digest}","size":{},
        "annotations":{{"org.opencontainers.image.ref.name":"latest"}}}}]}}"#,
        manifest.len()
    )
    .unwrap();
}

fn skopeo(arguments: &[&str]) -> String {
    let output = Command::new("skopeo").args(arguments).output().unwrap();
    assert!(output.status.success(), "skopeo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn images_pushed_by_skopeo_arrive_and_skopeo_reads_the_store() {
    let Some(registry) = start() else { return };
    let mut repository = Repository::default();
    let layers = [
        (layer_tar(&[("bin/sh", &noise(3_000_000)), ("etc/os-release", b"ID=test\n")]), Compression::Gzip),
        (layer_tar(&[("etc/motd", b"hello\n")]), Compression::Gzip),
    ];
    repository.add_image("latest", "amd64", &layers);
    let layout = registry.root.path().join("layout");
    write_layout(&repository, &layout);
    let from = format!("oci:{}:latest", layout.display());
    for (tag, flags) in [
        ("oci", &[][..]),
        ("docker", &["--format", "v2s2"]),
        ("zstd", &["--dest-compress-format", "zstd", "--dest-compress"]),
    ] {
        let name = format!("{}/team/app:{tag}", registry.host);
        let to = format!("docker://{name}");
        let mut arguments = vec!["copy", "--quiet", "--dest-tls-verify=false"];
        arguments.extend(flags);
        arguments.extend([from.as_str(), to.as_str()]);
        skopeo(&arguments);
        let store = Store::new();
        let image = store.pull(&name).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(image.layers.len(), 2);
        let motd = store.layout.layer(&image.layers[1].diff_id, Ownership::Single).join("diff/etc/motd");
        assert_eq!(std::fs::read(motd).unwrap(), b"hello\n");
        // Skopeo looks for docker's own manifests in an OCI layout no more than it writes them there.
        if image.manifest.media_type.contains("oci") {
            let stored = format!("oci:{}:{name}", store.layout.images().display());
            let inspected = skopeo(&["inspect", &stored]);
            assert!(inspected.contains(&image.manifest.digest.to_string()), "{inspected}");
            skopeo(&["copy", "--quiet", &stored, &format!("dir:{}", store.root.path().join("copy").display())]);
        }
        let error = store.pull(&format!("{}/team/app:missing", registry.host)).expect_err("missing").to_string();
        assert_eq!(error, format!("pull {}/team/app:missing: tag missing: manifest unknown", registry.host));
        let error = store.pull(&format!("{}/nobody/nothing", registry.host)).expect_err("missing").to_string();
        assert!(error.contains("tag latest: manifest unknown"), "{error}");
    }
}
