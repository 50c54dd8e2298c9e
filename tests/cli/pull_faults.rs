//! `pull` from a registry that lies, breaks or refuses: one clear line, nothing stored, no hang.

use crate::support::home::{entries, wait_until};
use crate::support::http::{Fault, Request, Server};
use crate::support::image::{Image, Layer, Packing};
use crate::support::layout::{Blobs, Schema};
use crate::support::prelude::*;
use serde_json::json;

pub(crate) const TESTS: &[Test] = &[
    test!(every_refusal_is_one_line).without_image().limit_secs(180),
    test!(flipped_bit_in_a_layer_is_found).without_image(),
    test!(flipped_bit_in_manifest_or_config_is_found).without_image(),
    test!(short_and_long_blobs_are_found).without_image(),
    test!(broken_connection_is_resumed).without_image().limit_secs(120),
    test!(server_errors_are_tried_again).without_image().limit_secs(120),
    test!(too_many_requests_waits_as_told).without_image().limit_secs(120),
    test!(registry_that_dies_in_a_blob).without_image().limit_secs(120),
    test!(diff_id_that_is_a_lie_is_found).without_image(),
    test!(wrong_number_of_diff_ids_is_found).without_image(),
    test!(unknown_media_types_are_refused).without_image(),
    test!(oversized_documents_are_refused).without_image(),
    test!(interrupt_ends_a_pull_at_once).without_image(),
    test!(full_disk_is_one_line).without_image(),
    test!(parallel_pulls_of_one_image).without_image().limit_secs(120),
    test!(credentials_do_not_follow_a_redirect).without_image(),
];

fn sample() -> Image {
    Image::busybox().layer(Layer::new().file("sample", "sample"))
}

fn blobs() -> Blobs {
    let mut blobs = Blobs::default();
    blobs.add("1", &sample(), Packing::Gzip, Schema::Oci);
    blobs
}

fn is_layer(request: &Request, blobs: &Blobs) -> bool {
    let digest = request.path.rsplit('/').next().unwrap_or_default();
    request.path.contains("/blobs/") && blobs.blobs.get(digest).is_some_and(|bytes| bytes.len() > 10_000)
}

/// Pulls, expecting failure: no image and no half of one may be left.
#[track_caller]
fn refused(home: &Home, server: &Server) -> String {
    let command =
        home.coracle(&format!("pull -q --tls-verify=false --retry 0 {}", server.reference("1"))).limit_secs(60);
    let line = command.run().fails(125);
    nothing_stored(home);
    line
}

#[track_caller]
fn nothing_stored(home: &Home) {
    assert_eq!(home.ok("images -aq"), "");
    home.ok("system prune -f");
    let left = [entries(&home.data().join("images/blobs/sha256")), entries(&home.data().join("layers"))].concat();
    assert!(left.is_empty(), "{left:?}");
}

fn every_refusal_is_one_line(home: &Home) {
    for (status, code) in [
        (400, "MANIFEST_INVALID"),
        (401, "UNAUTHORIZED"),
        (403, "DENIED"),
        (404, "MANIFEST_UNKNOWN"),
        (418, "TEAPOT"),
        (429, "TOOMANYREQUESTS"),
        (500, "UNKNOWN"),
        (503, "UNAVAILABLE"),
    ] {
        let server = Server::start(blobs(), move |request| {
            if request.path.contains("/manifests/") { Fault::status(status, code) } else { None }
        });
        let line = refused(home, &server);
        assert!(line.contains(&status.to_string()) || line.contains(code) || status == 404, "{status}: {line}");
        let other = blobs();
        let server = Server::start(
            blobs(),
            move |request| {
                if is_layer(request, &other) { Fault::status(status, code) } else { None }
            },
        );
        refused(home, &server);
    }
}

fn flipped_bit_in_a_layer_is_found(home: &Home) {
    let known = blobs();
    let server = Server::start(blobs(), move |request| is_layer(request, &known).then_some(Fault::Flip(5000)));
    let line = refused(home, &server);
    assert!(line.contains("digest") || line.contains("sha256"), "{line}");
}

fn flipped_bit_in_manifest_or_config_is_found(home: &Home) {
    let known = blobs();
    let server = Server::start(blobs(), move |request| {
        (request.path.contains("/blobs/") && !is_layer(request, &known)).then_some(Fault::Flip(20))
    });
    refused(home, &server);
    let known = blobs();
    let digest = known.tags["1"]["digest"].as_str().unwrap().to_owned();
    let server = Server::start(known, |request| request.path.contains("/manifests/").then_some(Fault::Flip(20)));
    let name = format!("{}/test/image@{digest}", server.host());
    home.fails(125, &format!("pull -q --tls-verify=false --retry 0 {name}"));
    nothing_stored(home);
}

fn short_and_long_blobs_are_found(home: &Home) {
    for change in [-1_isize, 1] {
        let known = blobs();
        let server = Server::start(blobs(), move |request| {
            let digest = request.path.rsplit('/').next().unwrap_or_default();
            let mut bytes = known.blobs.get(digest).filter(|_| is_layer(request, &known))?.clone();
            bytes.resize(bytes.len().saturating_add_signed(change), 0);
            Some(Fault::Replace(bytes))
        });
        refused(home, &server);
    }
}

fn broken_connection_is_resumed(home: &Home) {
    let known = blobs();
    let server = Server::start(blobs(), move |request| {
        (is_layer(request, &known) && request.before == 0).then_some(Fault::Cut(100_000))
    });
    let name = server.reference("1");
    home.coracle(&format!("pull -q --tls-verify=false {name}")).limit_secs(60).run().ok();
    assert_eq!(home.ok(&format!("run --rm {name} cat /sample")), "sample");
}

fn server_errors_are_tried_again(home: &Home) {
    let server =
        Server::start(blobs(), |request| if request.before == 0 { Fault::status(503, "UNAVAILABLE") } else { None });
    let name = server.reference("1");
    home.coracle(&format!("pull -q --tls-verify=false {name}")).limit_secs(90).run().ok();
}

fn too_many_requests_waits_as_told(home: &Home) {
    let server = Server::start(blobs(), |request| {
        let wait = vec![("Retry-After".to_owned(), "1".to_owned())];
        (request.path.contains("/manifests/") && request.before == 0).then_some(Fault::Status(429, wait, String::new()))
    });
    let finished = home.coracle(&format!("pull -q --tls-verify=false {}", server.reference("1"))).limit_secs(60).run();
    finished.ok();
    assert!(finished.took.as_millis() >= 900, "it did not wait: {:?}", finished.took);
}

fn registry_that_dies_in_a_blob(home: &Home) {
    let known = blobs();
    let server = Server::start(blobs(), move |request| is_layer(request, &known).then_some(Fault::Cut(50_000)));
    refused(home, &server);
}

fn diff_id_that_is_a_lie_is_found(home: &Home) {
    // The configuration claims the diffIDs of another image: its layers must not be published under them.
    let honest = sample();
    let liar = Image::busybox().layer(Layer::new().file("sample", "poison"));
    let mut served = Blobs::default();
    let config = served.put("application/vnd.oci.image.config.v1+json", honest.config_blob());
    let layers: Vec<_> = liar
        .layers
        .iter()
        .map(|layer| {
            served.put("application/vnd.oci.image.layer.v1.tar+gzip", crate::support::image::pack(layer, Packing::Gzip))
        })
        .collect();
    tag_manifest(&mut served, &config, &layers);
    refused(home, &Server::honest(served));
    honest.load(home, "localhost/honest:latest");
    assert_eq!(home.ok("run --rm honest cat /sample"), "sample");
}

fn tag_manifest(blobs: &mut Blobs, config: &serde_json::Value, layers: &[serde_json::Value]) {
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers}).to_string();
    let descriptor = blobs.put(kind, manifest.into_bytes());
    blobs.tags.insert("1".to_owned(), descriptor);
}

fn wrong_number_of_diff_ids_is_found(home: &Home) {
    let mut served = Blobs::default();
    let config = served.put("application/vnd.oci.image.config.v1+json", sample().config_blob());
    let layer = crate::support::image::pack(&sample().layers[0], Packing::Gzip);
    let layer = served.put("application/vnd.oci.image.layer.v1.tar+gzip", layer);
    tag_manifest(&mut served, &config, &[layer]);
    refused(home, &Server::honest(served));
}

fn unknown_media_types_are_refused(home: &Home) {
    let mut served = Blobs::default();
    let config = served.put(
        "application/vnd.oci.image.config.v1+json",
        Image { layers: vec![vec![0; 1024]], ..Image::scratch() }.config_blob(),
    );
    let layer = served.put("application/vnd.example.unknown", vec![0; 1024]);
    tag_manifest(&mut served, &config, &[layer]);
    refused(home, &Server::honest(served));
    let mut served = Blobs::default();
    let descriptor =
        served.put("application/vnd.docker.distribution.manifest.v1+json", br#"{"schemaVersion":1}"#.to_vec());
    served.tags.insert("1".to_owned(), descriptor);
    refused(home, &Server::honest(served));
}

fn oversized_documents_are_refused(home: &Home) {
    let server = Server::start(blobs(), |request| {
        request.path.contains("/manifests/").then(|| Fault::Replace(vec![b' '; 8 * 1024 * 1024]))
    });
    refused(home, &server);
    let deep = "[".repeat(500_000);
    let server = Server::start(blobs(), move |request| {
        request.path.contains("/manifests/").then(|| Fault::Replace(deep.clone().into_bytes()))
    });
    refused(home, &server);
}

fn interrupt_ends_a_pull_at_once(home: &Home) {
    let known = blobs();
    let server = Server::start(blobs(), move |request| is_layer(request, &known).then_some(Fault::Stall));
    let running = home.coracle(&format!("pull -q --tls-verify=false {}", server.reference("1"))).spawn();
    wait_until("a layer is asked for", || server.requests().iter().any(|request| is_layer(request, &blobs())));
    running.signal(nix::sys::signal::Signal::SIGINT);
    // It would wait for longer than a command may take.
    let finished = running.wait();
    assert_ne!(finished.code(), 0);
    nothing_stored(home);
}

fn full_disk_is_one_line(home: &Home) {
    // A file size limit stands for the disk: every write past it fails.
    let server = Server::honest(blobs());
    let command = home.coracle(&format!("pull -q --tls-verify=false {}", server.reference("1")));
    let finished = command.under("prlimit --fsize=100000").run();
    assert_ne!(finished.code(), 0, "{}", finished.transcript());
    nothing_stored(home);
    home.ok(&format!("pull -q --tls-verify=false {}", server.reference("1")));
}

fn parallel_pulls_of_one_image(home: &Home) {
    let server = Server::honest(blobs());
    let line = format!("pull -q --tls-verify=false {}", server.reference("1"));
    let running: Vec<_> = (0..8).map(|_| home.coracle(&line).limit_secs(60).spawn()).collect();
    for command in running {
        command.wait().ok();
    }
    assert_eq!(home.ok("images -q").lines().count(), 1);
    assert_eq!(server.blob_downloads(), 3, "each blob is downloaded once");
}

fn credentials_do_not_follow_a_redirect(home: &Home) {
    let other = Server::honest(blobs());
    let target = other.host();
    let known = blobs();
    let server = Server::start(blobs(), move |request| {
        if !request.headers.contains_key("authorization") {
            let challenge = vec![("WWW-Authenticate".to_owned(), "Basic realm=\"test\"".to_owned())];
            return Some(Fault::Status(401, challenge, String::new()));
        }
        let moved = vec![("Location".to_owned(), format!("http://{target}{}", request.path))];
        is_layer(request, &known).then_some(Fault::Status(307, moved, String::new()))
    });
    home.ok(&format!("pull -q --tls-verify=false --creds me:secret {}", server.reference("1")));
    assert!(other.blob_downloads() >= 1);
    assert!(other.requests().iter().all(|request| !request.headers.contains_key("authorization")));
}
