//! `image inspect --referrers`: by the registry's list of them, and by the tag that stands for it.

use serde_json::{Value, json};

use crate::support::http::{Fault, Server};
use crate::support::image::{Image, Layer, Packing};
use crate::support::layout::{Blobs, Schema};
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(referrers_are_listed_page_by_page).without_image(),
    test!(registry_without_the_list_is_asked_by_tag).without_image(),
];

fn blobs() -> (Blobs, String) {
    let mut blobs = Blobs::default();
    let manifest = blobs.add("1", &Image::scratch().layer(Layer::new().file("a", "a")), Packing::Gzip, Schema::Oci);
    (blobs, manifest["digest"].as_str().unwrap().to_owned())
}

fn descriptor(kind: &str) -> Value {
    let digest = crate::support::image::sha256(kind.as_bytes());
    json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 7, "artifactType": kind})
}

fn index(kinds: &[&str]) -> String {
    let manifests: Vec<Value> = kinds.iter().map(|kind| descriptor(kind)).collect();
    json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests})
        .to_string()
}

fn kinds(home: &Home, name: &str) -> Vec<String> {
    let found: Vec<Value> = serde_json::from_str(&home.ok(&format!("image inspect --referrers {name}"))).unwrap();
    found.iter().map(|found| found["artifactType"].as_str().unwrap().to_owned()).collect()
}

fn referrers_are_listed_page_by_page(home: &Home) {
    let (blobs, digest) = blobs();
    let subject = digest.clone();
    let server = Server::start(blobs, move |request| {
        let path = format!("/v2/test/image/referrers/{subject}");
        let answer = |headers, kinds: &[&str]| Some(Fault::Status(200, headers, index(kinds)));
        let next = vec![("Link".to_owned(), format!("<{path}?last=1&n=1>; rel=\"next\""))];
        match request.path.strip_prefix(&path)? {
            "" => answer(next, &["application/spdx+json"]),
            "?last=1&n=1" => answer(Vec::new(), &["application/vnd.example.signature"]),
            _ => None,
        }
    });
    let name = server.reference("1");
    let both = ["application/spdx+json", "application/vnd.example.signature"];
    // Of an image that is only there, and of one that is here, by its ID as well.
    assert_eq!(kinds(home, &name), both);
    home.ok(&format!("pull -q --tls-verify=false {name}"));
    assert_eq!(kinds(home, &name), both);
    assert_eq!(kinds(home, &home.ok("images -q")), both);
    let shown = home.coracle("image inspect --referrers --format {{.artifactType}}").arg(&name).run().ok();
    assert_eq!(shown.lines().next(), Some(both[0]));
}

fn registry_without_the_list_is_asked_by_tag(home: &Home) {
    let (mut blobs, digest) = blobs();
    let none = Server::honest(blobs.clone());
    assert_eq!(home.ok(&format!("image inspect --referrers {}", none.reference("1"))), "[]");
    let listed = blobs.put("application/vnd.oci.image.index.v1+json", index(&["application/spdx+json"]).into_bytes());
    blobs.tags.insert(digest.replace(':', "-"), listed);
    let server = Server::honest(blobs);
    assert_eq!(kinds(home, &server.reference("1")), ["application/spdx+json"]);
    home.fails(125, &format!("image inspect --referrers {}", server.reference("nosuch")));
    home.fails(125, "image inspect --referrers");
}
