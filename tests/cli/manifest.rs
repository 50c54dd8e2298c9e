//! `manifest`: lists made here, pushed with their images; and tags by the repository

use serde_json::Value;

use crate::support::image::{Image, Layer, Packing, host_architecture};
use crate::support::layout::{Blobs, Schema};
use crate::support::prelude::*;
use crate::support::registry::{Registry, run_program, tool};
use crate::support::sink::Sink;

pub(crate) const TESTS: &[Test] = &[
    test!(manifest_list_from_create_to_push).without_image(),
    test!(manifest_list_keeps_its_images).without_image(),
    test!(manifest_add_all_of_a_list_in_a_registry).needs(&[Need::Registry, Need::Skopeo]).without_image(),
    test!(manifest_of_what_is_not_there).without_image(),
    test!(pull_of_all_tags).needs(&[Need::Registry, Need::Skopeo]).without_image(),
];

/// Images for this machine and for another, as `localhost/own` and `localhost/other`.
fn two_images(home: &Home) {
    let own = host_architecture();
    let other = if own == "s390x" { "amd64" } else { "s390x" };
    for (name, architecture) in [("own", own), ("other", other)] {
        let image = Image {
            architecture: architecture.to_owned(),
            ..Image::scratch().layer(Layer::new().file("platform", architecture))
        };
        let mut blobs = Blobs::default();
        blobs.add("it", &image, Packing::Gzip, Schema::Oci);
        let dir = home.tmp().join(name);
        blobs.write(&dir);
        let id = home.ok(&format!("pull -q --platform linux/{architecture} oci:{}:it", dir.display()));
        home.ok(&format!("tag {id} localhost/{name}"));
    }
}

fn inspected(home: &Home, list: &str) -> Value {
    serde_json::from_str(&home.ok(&format!("manifest inspect {list}"))).unwrap()
}

fn manifest_list_from_create_to_push(home: &Home) {
    two_images(home);
    let id = home.ok("manifest create list");
    assert_eq!(id.len(), 64);
    assert!(home.fails(125, "manifest create list").contains("already associated with image"), "the name is taken");
    assert_eq!(inspected(home, "list")["manifests"].as_array().unwrap().len(), 0);
    assert_eq!(home.ok("manifest add list own"), id, "the ID stays");
    home.ok("manifest add --annotation a=b --variant v9 list other");
    let document = inspected(home, "localhost/list:latest");
    let entries = document["manifests"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0]["platform"]["architecture"], host_architecture());
    assert_eq!((&entries[1]["annotations"]["a"], &entries[1]["platform"]["variant"]), (&"b".into(), &"v9".into()));
    let digest = entries[1]["digest"].as_str().unwrap();
    home.ok(&format!("manifest annotate --os-version 7 --annotation c=d list {digest}"));
    home.ok("manifest annotate --index --annotation of=all list");
    let document = inspected(home, "list");
    assert_eq!(document["annotations"]["of"], "all");
    assert_eq!(document["manifests"][1]["platform"]["os.version"], "7");
    let sink = Sink::honest();
    let to = format!("docker://{}/many:1", sink.host());
    let file = home.tmp().join("digest");
    home.ok(&format!("manifest push -q --digestfile {} list {to}", file.display()));
    let pushed = sink.manifest("many:1");
    assert_eq!(pushed, document, "it is pushed as it is");
    assert_eq!(sink.count("PUT", "/manifests/"), 3, "and its images");
    let written = std::fs::read_to_string(file).unwrap();
    assert!(sink.look(|held| held.manifests.contains_key(&format!("many:{written}"))));
    home.ok(&format!("manifest push -q --format v2s2 list docker://{}/many:docker", sink.host()));
    let docker = sink.manifest("many:docker");
    assert_eq!(docker["mediaType"], "application/vnd.docker.distribution.manifest.list.v2+json");
    assert_eq!(docker["manifests"][0]["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");
    // It is a list for others: this machine's image of it is pulled.
    home.ok(&format!("pull -q {}/many:1", sink.host()));
    assert_eq!(home.ok(&format!("image inspect -f {{{{.Architecture}}}} {}/many:1", sink.host())), host_architecture());
    home.ok(&format!("manifest remove list {digest}"));
    assert_eq!(inspected(home, "list")["manifests"].as_array().unwrap().len(), 1);
    home.fails(125, &format!("manifest remove list {digest}"));
    home.ok("manifest exists list");
    home.ok(&format!("manifest push -q --rm list {to}"));
    home.run("manifest exists list").exits(1);
}

fn manifest_list_keeps_its_images(home: &Home) {
    two_images(home);
    home.ok("manifest create list own other");
    home.ok("rmi own other");
    home.ok("image prune -a -f");
    let sink = Sink::honest();
    home.ok(&format!("manifest push -q list {}/kept:1", sink.host()));
    assert_eq!(sink.manifest("kept:1")["manifests"].as_array().unwrap().len(), 2);
    let said = home.ok("manifest rm list");
    assert!(said.starts_with("Untagged: localhost/list:latest\nDeleted: "), "{said}");
    assert!(home.fails(1, "manifest rm list").contains("image not known"));
    home.ok("manifest rm --ignore list");
    home.ok("manifest create list");
    assert!(home.ok("rmi list").starts_with("Untagged: localhost/list:latest"));
}

fn manifest_add_all_of_a_list_in_a_registry(home: &Home) {
    let images = ["amd64", "arm64", "s390x"].map(|architecture| Image {
        architecture: architecture.to_owned(),
        ..Image::scratch().layer(Layer::new().file("platform", architecture))
    });
    let mut blobs = Blobs::default();
    blobs.add_index("multi", &images);
    blobs.write(&home.tmp().join("multi"));
    let registry = Registry::start(home);
    registry.push_with(&format!("oci:{}:multi", home.tmp().join("multi").display()), "multi:1", &["--all"]);
    home.ok("manifest create list");
    home.ok(&format!("manifest add --all list docker://{}/multi:1", registry.host()));
    assert_eq!(inspected(home, "list")["manifests"].as_array().unwrap().len(), 3);
    home.ok(&format!("manifest push -q list docker://{}/copy:1", registry.host()));
    let source = format!("docker://{}/copy:1", registry.host());
    for architecture in ["amd64", "arm64", "s390x"] {
        let mut skopeo = std::process::Command::new(tool("skopeo"));
        skopeo.args(["inspect", "--tls-verify=false", "--override-arch", architecture, &source]);
        let text = run_program(&mut skopeo);
        assert!(String::from_utf8_lossy(&text).contains(architecture));
    }
    // What is only there is shown as it is there.
    let there = inspected(home, &format!("{}/multi:1", registry.host()));
    assert_eq!(there["manifests"].as_array().unwrap().len(), 3);
}

fn manifest_of_what_is_not_there(home: &Home) {
    home.fails(125, "manifest add nolist busybox");
    home.fails(125, "manifest push nolist docker://127.0.0.1:1/x");
    home.ok("manifest create list");
    home.fails(125, "manifest add list 127.0.0.1:1/nosuch");
    home.fails(125, "manifest remove list nodigest");
    let line = home.fails(125, "manifest push --all=false list 127.0.0.1:1/x");
    assert!(line.contains("--all=false"), "{line}");
    home.fails(125, "manifest inspect 127.0.0.1:1/nosuch");
}

fn pull_of_all_tags(home: &Home) {
    let registry = Registry::start(home);
    let mut blobs = Blobs::default();
    blobs.add("it", &Image::scratch().layer(Layer::new().file("f", "x")), Packing::Gzip, Schema::Oci);
    blobs.write(&home.tmp().join("layout"));
    let layout = format!("oci:{}:it", home.tmp().join("layout").display());
    for tag in ["1", "2", "latest"] {
        registry.push(&layout, &format!("many:{tag}"));
    }
    home.ok(&format!("pull -q -a {}/many", registry.host()));
    let tags = home.ok("images --format {{.Tag}}");
    assert_eq!(tags.lines().collect::<std::collections::BTreeSet<_>>(), ["1", "2", "latest"].into());
    home.fails(125, &format!("pull -a {}/many:1", registry.host()));
    home.fails(125, "pull -a oci:somewhere");
}
