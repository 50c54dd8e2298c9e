//! What arrives, and how often it is asked for.

use std::thread;

use storage::blob::BlobStore;
use storage::digest::Digest;
use storage::image::manifest::media_type;
use storage::state::layout::Ownership;

use crate::fixture::{Compression, Repository, Store, files, layer_tar, noise, small};
use crate::server::Server;

fn serve(repository: Repository) -> Server {
    Server::http(move |request| repository.reply(request))
}

#[test]
fn images_of_both_formats_and_all_compressions_arrive_whole() {
    use Compression::{Gzip, None, Zstd};
    for (is_oci, compression) in [(true, Gzip), (true, Zstd), (true, None), (false, Gzip), (false, None)] {
        let mut repository = Repository::default();
        let layers = [
            (layer_tar(&[("a", b"first"), ("big", &noise(700_000))]), compression),
            (layer_tar(&[("b", b"second")]), compression),
            (layer_tar(&[]), compression),
        ];
        let digest = repository.add_image_as("v1", "amd64", &layers, is_oci);
        let (server, store) = (serve(repository.clone()), Store::new());
        let name = format!("{}/team/app:v1", server.host());
        let image = store.pull(&name).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(image.manifest.digest.to_string(), digest);
        assert_eq!((image.names.len(), image.names[0].to_string()), (1, name.clone()));
        assert_eq!(image.layers.len(), 3);
        assert_eq!(image.size, layers.iter().map(|(tar, _)| tar.len() as u64).sum::<u64>());
        assert_eq!(image.config.config().as_ref().unwrap().cmd().as_deref(), Some(&["sh".to_owned()][..]));
        for (text, bytes) in &repository.blobs {
            let digest = Digest::parse(text).unwrap();
            assert!(store.images.blobs().has(&digest, bytes.len() as u64), "{text}");
            assert!(store.images.blobs().check(&digest).unwrap());
        }
        for layer in &image.layers {
            assert!(store.layout.layer(&layer.diff_id, Ownership::Single).is_dir());
        }
        store.assert_clean();
        let found = store.images.resolve(&name).unwrap().expect("recorded");
        assert_eq!(found.id, image.id);
        assert_eq!(store.images.resolve(&image.id.hex()[..12]).unwrap().expect("by id").id, image.id);
    }
}

#[test]
fn platform_is_chosen_from_an_index_which_is_kept() {
    let mut repository = Repository::default();
    let mut entries = Vec::new();
    for (arch, variant) in [("amd64", ""), ("arm64", r#","variant":"v8""#)] {
        let tar = layer_tar(&[("arch", arch.as_bytes())]);
        let digest = repository.add_image(arch, arch, &[(tar, Compression::Gzip)]);
        let size = repository.manifests[&digest].1.len();
        entries.push(format!(
            r#"{{"mediaType":"{}","digest":"{digest}","size":{size},"platform":{{"os":"linux","architecture":"{arch}"{variant}}}}}"#,
            media_type::OCI_MANIFEST
        ));
    }
    entries.insert(
        0,
        format!(
            r#"{{"mediaType":"{}","digest":"{}","size":5,"platform":{{"os":"unknown","architecture":"unknown"}}}}"#,
            media_type::OCI_MANIFEST,
            Digest::of(b"attestation")
        ),
    );
    let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
    let index = repository.add_manifest("latest", media_type::OCI_INDEX, text);
    let (server, mut store) = (serve(repository.clone()), Store::new());
    let name = format!("{}/multi", server.host());
    let image = store.pull(&name).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(image.platform.to_string(), "linux/amd64");
    assert_eq!(image.manifest.digest.to_string(), Digest::of(&repository.manifests["amd64"].1).to_string());
    assert_eq!(image.index.as_ref().map(ToString::to_string).as_deref(), Some(index.as_str()));
    assert!(store.images.blobs().read(&Digest::parse(&index).unwrap(), 10_000).unwrap().is_some());
    for digest in [index, image.manifest.digest.to_string()] {
        let by_digest = format!("{}/multi@{digest}", server.host());
        assert_eq!(store.images.resolve(&by_digest).unwrap().expect("by digest").id, image.id);
    }

    store.options.platform = Some("linux/arm64".parse().unwrap());
    let other = store.pull(&name).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(other.platform.architecture, "arm64");
    let old = store.images.resolve(image.id.hex()).unwrap().expect("still there");
    assert!(old.names.is_empty(), "the first image lost its name to the second");

    store.options.platform = Some("linux/s390x".parse().unwrap());
    let error = store.pull(&name).expect_err("no such platform").to_string();
    assert!(error.ends_with("no image for platform linux/s390x; there is linux/amd64, linux/arm64/v8"), "{error}");
}

#[test]
fn unchanged_image_costs_one_request_and_a_shared_layer_none() {
    let mut repository = small();
    let shared = layer_tar(&[("shared", &noise(50_000))]);
    repository.add_image("one", "amd64", &[(shared.clone(), Compression::Gzip)]);
    let two = layer_tar(&[("two", b"2")]);
    repository.add_image("two", "amd64", &[(shared, Compression::Gzip), (two, Compression::Gzip)]);
    let (server, store) = (serve(repository), Store::new());
    let name = |tag: &str| format!("{}/x:{tag}", server.host());
    let first = store.pull(&name("one")).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(server.lines().len(), 3, "manifest, configuration, layer: {:?}", server.lines());
    let second = store.pull(&name("one")).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(server.lines()[3..], ["HEAD /v2/x/manifests/one"]);
    assert_eq!(first.id, second.id);
    assert_eq!(first.size, second.size);
    let both = store.pull(&name("two")).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(server.lines().len(), 4 + 3, "the shared layer is not asked for: {:?}", server.lines());
    assert_eq!(both.size, 50_000_u64.next_multiple_of(512) + 512 + 1024 + 512 * 2 + 1024);
    let by_digest = format!("{}/x@{}", server.host(), both.manifest.digest);
    store.pull(&by_digest).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(server.lines().len(), 7, "a digest that is there needs no request");
    assert_eq!(store.images.resolve(&by_digest).unwrap().expect("recorded").names.len(), 2);
}

#[test]
fn sixteen_pulls_at_once_download_each_blob_once() {
    let mut repository = Repository::default();
    let layers: Vec<_> =
        (1..7).map(|n| (layer_tar(&[(format!("f{n}").as_str(), &noise(100_000 * n))]), Compression::Gzip)).collect();
    repository.add_image("latest", "amd64", &layers);
    let (server, store) = (serve(repository), Store::new());
    let name = format!("{}/x", server.host());
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| store.pull(&name).unwrap_or_else(|error| panic!("{error}")));
        }
    });
    assert_eq!(server.count("/blobs/"), 1 + 6, "configuration and layers");
    for layer in &store.images.resolve(&name).unwrap().expect("recorded").layers {
        assert_eq!(server.count(&layer.blob.digest.to_string()), 1);
    }
    store.assert_clean();
}

#[test]
fn removal_takes_what_no_other_image_needs() {
    let mut repository = Repository::default();
    let shared = (layer_tar(&[("shared", b"s")]), Compression::Gzip);
    repository.add_image("one", "amd64", &[shared.clone(), (layer_tar(&[("one", b"1")]), Compression::Gzip)]);
    repository.add_image("two", "amd64", &[shared, (layer_tar(&[("two", b"2")]), Compression::Gzip)]);
    let (server, store) = (serve(repository), Store::new());
    let pull = |tag: &str| store.pull(&format!("{}/x:{tag}", server.host())).unwrap_or_else(|error| panic!("{error}"));
    let (one, two) = (pull("one"), pull("two"));
    let count = |blobs: &BlobStore| {
        let mut seen = 0;
        blobs.for_each(|_, _| seen += 1).unwrap();
        seen
    };
    assert_eq!(count(store.images.blobs()), 3 + 2 * 2);
    {
        let _pin = store.images.pin().unwrap();
        store.images.remove(&one).unwrap();
        assert_eq!(count(store.images.blobs()), 7, "nothing is deleted while somebody pulls");
    }
    assert!(store.images.collect_garbage(&Default::default()).unwrap() > 0);
    assert_eq!(count(store.images.blobs()), 4);
    assert!(store.images.resolve(one.id.hex()).unwrap().is_none());
    for layer in &two.layers {
        assert!(store.layout.layer(&layer.diff_id, Ownership::Single).is_dir());
    }
    assert!(!store.layout.layer(&one.layers[1].diff_id, Ownership::Single).exists());
    store.images.remove(&two).unwrap();
    assert_eq!(count(store.images.blobs()), 0);
    assert!(files(&store.layout.layers()).is_empty());
}

#[test]
fn missing_tree_is_made_again_from_the_blob_and_a_spoiled_blob_from_the_registry() {
    let (server, store) = (serve(small()), Store::new());
    let name = format!("{}/x", server.host());
    let image = store.pull(&name).unwrap_or_else(|error| panic!("{error}"));
    let tree = store.layout.layer(&image.layers[0].diff_id, Ownership::Single);
    std::fs::remove_dir_all(&tree).unwrap();
    let before = server.count("/blobs/");
    store.pull(&name).unwrap_or_else(|error| panic!("{error}"));
    assert!(tree.is_dir());
    assert_eq!(server.count("/blobs/"), before);
    std::fs::remove_dir_all(&tree).unwrap();
    let blob = store.images.blobs().path(&image.layers[0].blob.digest);
    let mut bytes = std::fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    store.pull(&name).unwrap_or_else(|error| panic!("{error}"));
    assert!(tree.is_dir());
    assert_eq!(server.count("/blobs/"), before + 1);
    assert!(store.images.blobs().check(&image.layers[0].blob.digest).unwrap());
}

#[test]
fn two_hundred_layers_some_of_them_the_same_arrive() {
    let mut repository = Repository::default();
    let layer = |n: usize| (layer_tar(&[("n", (n - n % 3).to_string().as_bytes())]), Compression::Gzip);
    let layers: Vec<_> = (0..200).map(layer).collect();
    repository.add_image("latest", "amd64", &layers);
    let (server, store) = (serve(repository), Store::new());
    let image = store.pull(&format!("{}/x", server.host())).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(image.layers.len(), 200);
    assert_eq!(image.layer_sizes.as_ref().map(Vec::len), Some(200));
    assert_eq!(server.count("/blobs/"), 1 + 67, "each blob once");
    store.assert_clean();
}
