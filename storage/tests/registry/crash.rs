//! Pulls that are killed, and disks that are full.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use storage::image::ImageStore;
use storage::layer::IdPolicy;
use storage::progress::Silent;
use storage::state::layout::Layout;
use storage::state::layout::Ownership;
use storage::transport::{PullOptions, Source, pull};

use crate::fixture::{Compression, Repository, Store, layer_tar, noise};
use crate::server::Server;

const STORE: &str = "CORACLE_TEST_STORE";
const NAME: &str = "CORACLE_TEST_NAME";

/// Not a test of its own: what [`killed_pulls_leave_nothing_that_the_next_does_not_sweep`] starts and kills.
#[test]
fn child_pulls() {
    let (Some(root), Ok(name)) = (std::env::var_os(STORE), std::env::var(NAME)) else { return };
    let root = std::path::PathBuf::from(root);
    let store = ImageStore::open(&Layout::new(root.join("data"), root.join("run")));
    let mut options = PullOptions { ids: IdPolicy::Single, ..PullOptions::default() };
    options.client.authfile = Some(root.join("auth.json"));
    pull(&store, &Source::parse(&name).unwrap(), &options, &Silent).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn killed_pulls_leave_nothing_that_the_next_does_not_sweep() {
    let mut repository = Repository::default();
    let layers: Vec<_> =
        (1..6).map(|n| (layer_tar(&[("dir/file", &noise(600_000 * n)), ("x", b"x")]), Compression::Gzip)).collect();
    repository.add_image("latest", "amd64", &layers);
    // Slow enough to be killed in the middle.
    let server = Server::http(move |request| {
        thread::sleep(Duration::from_millis(3));
        repository.reply(request)
    });
    let store = Store::new();
    let name = format!("{}/x", server.host());
    for round in 0..24 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child_pulls"])
            .env(STORE, store.root.path())
            .env(NAME, &name)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(5 + 11 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        // Whatever is recorded is whole.
        for image in store.images.list().unwrap() {
            for layer in &image.layers {
                assert!(store.images.blobs().check(&layer.blob.digest).unwrap());
                assert!(store.layout.layer(&layer.diff_id, Ownership::Single).join("diff/dir/file").is_file());
            }
        }
    }
    let image = store.pull(&name).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(image.layers.len(), 5);
    store.assert_clean();
    store.images.remove(&image).unwrap();
    assert_eq!(store.images.collect_garbage(&Default::default()).unwrap(), 0, "nothing that only a collection finds");
}
