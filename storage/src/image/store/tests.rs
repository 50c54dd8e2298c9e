//! The store as its users see it: names, removal, other tools' entries.

use std::collections::HashSet;

use super::*;
use crate::digest::DiffId;
use crate::image::manifest::media_type;

struct Fixture {
    _root: tempfile::TempDir,
    store: ImageStore,
}

fn reference(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

impl Fixture {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path().join("data"), root.path().join("run"));
        Self { store: ImageStore::open(&layout), _root: root }
    }

    /// An image whose only difference to others is `text`; gives its manifest.
    fn image(&self, text: &str, names: &[&str]) -> Descriptor {
        self.store.prepared().unwrap();
        let diff_id = Digest::of(text.as_bytes());
        let config =
            format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#);
        let id = self.store.blobs.put(config.as_bytes()).unwrap();
        let layer = self.store.blobs.put(format!("layer {text}").as_bytes()).unwrap();
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{}","digest":"{id}","size":{}}},
            "layers":[{{"mediaType":"{}","digest":"{layer}","size":{}}}]}}"#,
            media_type::OCI_CONFIG,
            config.len(),
            media_type::OCI_LAYER,
            6 + text.len()
        );
        let digest = self.store.blobs.put(manifest.as_bytes()).unwrap();
        let descriptor = Descriptor::new(media_type::OCI_MANIFEST, digest, manifest.len() as u64);
        let names = names.iter().map(|name| reference(name).with_default_tag()).collect();
        let image = NewImage { manifest: descriptor.clone(), index: None, id, names, layer_sizes: Some(vec![1234]) };
        self.store.record(&image).unwrap();
        fs::create_dir_all(self.store.layout.layers().join(diff_id.hex()).join("diff")).unwrap();
        descriptor
    }

    fn resolve(&self, name: &str) -> Option<Digest> {
        self.store.resolve(name).unwrap().map(|image| image.manifest.digest)
    }
}

#[test]
fn names_are_resolved_exactly_then_local_then_at_the_hub() {
    let fixture = Fixture::new();
    let hub = fixture.image("hub", &["nginx", "docker.io/team/app:1"]).digest;
    let built = fixture.image("built", &["localhost/tool", "localhost/nginx:mine"]).digest;
    let other = fixture.image("other", &["r.io/nginx"]).digest;
    for (name, expected) in [
        ("nginx", Some(&hub)),
        ("nginx:latest", Some(&hub)),
        ("library/nginx", Some(&hub)),
        ("docker.io/library/nginx:latest", Some(&hub)),
        ("team/app:1", Some(&hub)),
        ("team/app", None),
        ("tool", Some(&built)),
        ("localhost/tool", Some(&built)),
        ("docker.io/library/tool", None),
        ("nginx:mine", Some(&built)),
        ("r.io/nginx", Some(&other)),
        ("r.io/nginx:2", None),
        ("NGINX", None),
        ("", None),
        ("../../etc/passwd", None),
    ] {
        assert_eq!(fixture.resolve(name).as_ref(), expected, "{name}");
    }
    let by_digest = |name: &str, digest: &Digest| fixture.resolve(&format!("{name}@{digest}"));
    assert_eq!(by_digest("nginx", &hub).as_ref(), Some(&hub));
    assert_eq!(by_digest("nginx:ignored", &hub).as_ref(), Some(&hub));
    assert_eq!(by_digest("r.io/nginx", &hub), None, "the same bytes under a name that nobody pulled");
}

#[test]
fn ids_are_resolved_by_any_unique_beginning() {
    let fixture = Fixture::new();
    let manifest = fixture.image("one", &[]).digest;
    let id = fixture.store.list().unwrap()[0].id.clone();
    for text in [id.to_string(), id.hex().to_owned(), id.hex()[..5].to_owned(), format!("sha256:{}", &id.hex()[..9])] {
        assert_eq!(fixture.resolve(&text).as_ref(), Some(&manifest), "{text}");
    }
    assert_eq!(fixture.resolve(&manifest.to_string()).as_ref(), Some(&manifest));
    assert_eq!(fixture.resolve("sha256:"), None);
    for n in 0..32 {
        fixture.image(&n.to_string(), &[]);
    }
    let first = |image: &Image| image.id.hex()[..1].to_owned();
    let images = fixture.store.list().unwrap();
    let shared = images.iter().map(first).find(|prefix| images.iter().filter(|i| first(i) == *prefix).count() > 1);
    let error = fixture.store.resolve(&shared.unwrap()).unwrap_err();
    assert!(matches!(error, StoreError::AmbiguousId { .. }), "{error}");
}

#[test]
fn tags_move_and_the_last_one_taken_leaves_the_image_dangling() {
    let fixture = Fixture::new();
    fixture.image("one", &["a"]);
    fixture.image("two", &["b"]);
    let image = |name: &str| fixture.store.resolve(name).unwrap().unwrap();
    let one = image("a");
    fixture.store.tag(&one, &reference("b")).unwrap();
    assert_eq!(image("b").id, one.id);
    assert_eq!(image("a").names, [reference("a:latest"), reference("b:latest")]);
    assert_eq!(image("b").size, 1234);
    let dangling = |store: &ImageStore| store.list().unwrap().iter().filter(|i| i.names.is_empty()).count();
    assert_eq!(dangling(&fixture.store), 1);
    assert!(fixture.store.untag(&reference("a")).unwrap() && !fixture.store.untag(&reference("a")).unwrap());
    assert!(fixture.store.untag(&reference("b")).unwrap());
    assert_eq!(dangling(&fixture.store), 2);
    fixture.store.remove(&one).unwrap();
    assert_eq!(fixture.store.list().unwrap().len(), 1);
    assert_eq!(fs::read_dir(fixture.store.layout.trash()).unwrap().count(), 1, "the layer is in the trash");
}

#[test]
fn one_broken_image_hides_no_other() {
    let fixture = Fixture::new();
    let broken = fixture.image("broken", &["broken"]);
    fixture.image("whole", &["whole"]);
    fs::write(fixture.store.blobs.path(&broken.digest), b"{").unwrap();
    let mut errors = Vec::new();
    assert_eq!(fixture.store.list_with(&mut errors).unwrap().len(), 1);
    assert_eq!(errors.len(), 1);
    assert!(fixture.resolve("whole").is_some());
    assert!(fixture.store.resolve("broken").unwrap_err().to_string().contains("invalid JSON"));
    fs::remove_file(fixture.store.blobs.path(&broken.digest)).unwrap();
    let error = fixture.store.resolve("broken").unwrap_err().to_string();
    assert!(error.starts_with("image docker.io/library/broken:latest: blob sha256:"), "{error}");
    fixture.store.untag(&reference("broken")).unwrap();
}

#[test]
fn entries_of_other_tools_are_images_too() {
    let fixture = Fixture::new();
    let manifest = fixture.image("foreign", &["x"]);
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","digest":"{}","size":{},"platform":{{"os":"linux",
        "architecture":"{}"}}}}]}}"#,
        media_type::OCI_MANIFEST,
        manifest.digest,
        manifest.size,
        Platform::host().architecture
    );
    let digest = fixture.store.blobs.put(index.as_bytes()).unwrap();
    let text = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","digest":"{digest}","size":{},
        "annotations":{{"org.opencontainers.image.ref.name":"latest"}}}}]}}"#,
        media_type::OCI_INDEX,
        index.len()
    );
    fs::write(fixture.store.index_path(), text).unwrap();
    let image = fixture.store.resolve("latest").unwrap().unwrap();
    assert_eq!((image.manifest.digest, image.index), (manifest.digest, Some(digest)));
    assert_eq!(fixture.store.resolve(image.id.hex()).unwrap().unwrap().id, image.id);
    assert_eq!(fixture.store.collect_garbage(&HashSet::new()).unwrap(), 0, "all of it is needed");
}

#[test]
fn garbage_is_what_nothing_refers_to_and_nobody_keeps() {
    let fixture = Fixture::new();
    fixture.image("one", &["one"]);
    fixture.store.blobs.put(b"garbage").unwrap();
    let layers = fixture.store.layout.layers();
    let (kept, lost) = (DiffId::new(Digest::of(b"kept")), DiffId::new(Digest::of(b"lost")));
    for name in
        [kept.hex(), lost.hex(), &format!("{}-mapping", lost.hex()), &format!("{}-mapping", kept.hex()), "other"]
    {
        fs::create_dir_all(layers.join(name)).unwrap();
    }
    let keep = HashSet::from([kept.clone()]);
    let pin = fixture.store.pin().unwrap();
    assert_eq!(fixture.store.collect_garbage(&keep).unwrap(), 0);
    drop(pin);
    assert_eq!(fixture.store.collect_garbage(&keep).unwrap(), 7);
    let mut left: Vec<_> = fs::read_dir(&layers).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    let mut expected = [Digest::of(b"one").hex().to_owned(), kept.hex().to_owned(), "other".to_owned()];
    expected.sort();
    assert_eq!(left, expected.map(std::ffi::OsString::from));
    assert!(fixture.resolve("one").is_some());
}
