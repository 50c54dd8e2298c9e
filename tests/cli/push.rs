//! `push` to the distribution registry, to a registry that misbehaves, and to other transports

use std::fs;
use std::process::Command;

use serde_json::json;

use super::persona::called;
use crate::support::image::{Image, Layer, Packing, host_architecture, sha256};
use crate::support::layout::{Blobs, Schema};
use crate::support::prelude::*;
use crate::support::registry::{Registry, Setup, run_program, tool};
use crate::support::sink::{Sink, Trouble};

pub(crate) const TESTS: &[Test] = &[
    test!(push_to_a_registry_and_back).needs(&[Need::Registry, Need::Skopeo]).without_image(),
    test!(push_of_a_pulled_image_keeps_its_bytes).without_image(),
    test!(push_skips_what_is_there_and_mounts_what_is_next_door).without_image(),
    test!(push_compresses_plain_layers).without_image(),
    test!(push_recompresses_and_converts).without_image(),
    test!(push_over_tls_with_a_password)
        .needs(&[Need::Registry, Need::Skopeo, Need::Openssl, Need::Htpasswd])
        .without_image(),
    test!(push_to_a_registry_with_a_certificate_signed_by_itself)
        .needs(&[Need::Registry, Need::Openssl])
        .without_image(),
    test!(push_with_a_bearer_token).without_image(),
    test!(push_goes_on_where_the_connection_was_cut).without_image(),
    test!(push_survives_a_server_that_fails_now_and_then).without_image(),
    test!(push_never_takes_credentials_to_another_host).without_image(),
    test!(push_of_all_tags).without_image(),
    test!(push_to_other_transports).needs(&[Need::Skopeo]).without_image(),
    test!(push_of_a_damaged_layer_is_noticed).without_image(),
    test!(push_refuses_what_it_cannot_do).without_image(),
    test!(push_prints_what_docker_prints).without_image(),
];

fn sample() -> Image {
    // More than is sent with one request.
    let noise: Vec<u8> = (0..400_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    Image::scratch().layer(Layer::new().file("noise", noise)).layer(Layer::new().file("small", "x"))
}

/// Stores the sample as if it had been pulled under this name, packed in this way.
fn pulled(home: &Home, name: &str, packing: Packing, schema: Schema) -> Blobs {
    let mut blobs = Blobs::default();
    blobs.add("it", &sample(), packing, schema);
    let dir = home.tmp().join(format!("layout-{packing:?}-{schema:?}"));
    blobs.write(&dir);
    let id = home.ok(&format!("pull -q oci:{}:it", dir.display()));
    home.ok(&format!("tag {id} {name}"));
    blobs
}

fn push_to_a_registry_and_back(home: &Home) {
    let registry = Registry::start(home);
    let name = format!("{}/team/sample:1", registry.host());
    pulled(home, &name, Packing::Gzip, Schema::Oci);
    let digestfile = home.tmp().join("digest");
    let finished = home.run(&format!("push --digestfile {} {name}", digestfile.display()));
    assert_eq!(finished.ok(), "", "stdout is for data");
    let said = finished.stderr();
    for part in
        ["Getting image source signatures", "Copying blob sha256:", "Copying config sha256:", "Writing manifest"]
    {
        assert!(said.contains(part), "{said}");
    }
    let source = format!("docker://{name}");
    let raw = run_program(Command::new(tool("skopeo")).args(["inspect", "--raw", "--tls-verify=false", &source]));
    assert_eq!(fs::read_to_string(digestfile).unwrap(), sha256(&raw));
    let id = home.ok(&format!("images -q --no-trunc {name}"));
    home.ok("rmi -a -f");
    assert_eq!(format!("sha256:{}", home.ok(&format!("pull -q {name}"))), id);
    // A short name goes to a destination.
    home.ok(&format!("push -q {name} docker://{}/other", registry.host()));
    home.ok(&format!("pull -q {}/other", registry.host()));
    home.fails(125, "push nosuch");
    home.fails(125, &format!("push {}", id.trim_start_matches("sha256:")));
}

fn push_of_a_pulled_image_keeps_its_bytes(home: &Home) {
    for (packing, schema) in
        [(Packing::Gzip, Schema::Oci), (Packing::Zstd, Schema::Oci), (Packing::Gzip, Schema::Docker2)]
    {
        let sink = Sink::honest();
        let name = format!("{}/a/b:1", sink.host());
        let blobs = pulled(home, &name, packing, schema);
        home.ok(&format!("push -q {name}"));
        let digest = blobs.tags["it"]["digest"].as_str().unwrap().to_owned();
        sink.look(|held| {
            assert_eq!(held.manifests["a/b:1"].1, blobs.blobs[&digest], "{packing:?} {schema:?}");
            assert_eq!(held.blobs.len(), 3);
        });
        home.ok("rmi -a -f");
    }
}

fn push_skips_what_is_there_and_mounts_what_is_next_door(home: &Home) {
    let sink = Sink::honest();
    let name = format!("{}/a/b:1", sink.host());
    pulled(home, &name, Packing::Gzip, Schema::Oci);
    home.ok(&format!("push -q {name}"));
    let uploads = sink.count("PUT", "/blobs/uploads/");
    assert_eq!(uploads, 3);
    home.ok(&format!("push -q {name}"));
    home.ok(&format!("push -q {name} {}/a/b:2", sink.host()));
    assert_eq!(sink.count("PUT", "/blobs/uploads/"), uploads, "all of it is there");
    home.ok(&format!("push -q {name} {}/other:1", sink.host()));
    assert_eq!(sink.count("PUT", "/blobs/uploads/"), uploads, "all of it is mounted");
    assert_eq!(sink.count("POST", "from=a/b"), 3);
    assert!(sink.look(|held| held.manifests.contains_key("other:1")));
}

fn push_compresses_plain_layers(home: &Home) {
    let sink = Sink::honest();
    let name = format!("{}/plain:1", sink.host());
    pulled(home, &name, Packing::Plain, Schema::Oci);
    home.ok(&format!("push -q {name}"));
    let manifest = sink.manifest("plain:1");
    for (layer, tar) in manifest["layers"].as_array().unwrap().iter().zip(&sample().layers) {
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
        let digest = layer["digest"].as_str().unwrap();
        let bytes = sink.look(|held| held.blobs[&format!("plain@{digest}")].clone());
        assert_eq!(json!(bytes.len()), layer["size"]);
        let mut back = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(bytes.as_slice()), &mut back).unwrap();
        assert!(back == *tar, "the same tar");
    }
    let id = home.ok(&format!("images -q --no-trunc {name}"));
    home.ok("rmi -a -f");
    home.ok(&format!("pull -q {name}"));
    assert_eq!(home.ok(&format!("images -q --no-trunc {name}")), id, "the same image");
}

fn push_recompresses_and_converts(home: &Home) {
    let sink = Sink::honest();
    let name = format!("{}/x", sink.host());
    pulled(home, &format!("{name}:1"), Packing::Gzip, Schema::Oci);
    home.ok(&format!("push -q --compression-format zstd --compression-level 5 {name}:1 {name}:zstd"));
    let manifest = sink.manifest("x:zstd");
    assert_eq!(manifest["layers"][0]["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd");
    home.ok(&format!("push -q --format v2s2 {name}:1 {name}:docker"));
    let manifest = sink.manifest("x:docker");
    assert_eq!(manifest["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");
    assert_eq!(manifest["layers"][1]["mediaType"], "application/vnd.docker.image.rootfs.diff.tar.gzip");
    // What the registry has in another compression will do, if it need not be this one.
    let uploads = sink.count("PUT", "/blobs/uploads/");
    home.ok(&format!("push -q --compression-format zstd --force-compression=false {name}:1 {name}:any"));
    assert_eq!(sink.count("PUT", "/blobs/uploads/"), uploads);
    home.ok("rmi -a -f");
    for tag in ["zstd", "docker", "any"] {
        home.ok(&format!("pull -q {name}:{tag}"));
    }
    assert_eq!(home.ok("images -q").lines().collect::<std::collections::BTreeSet<_>>().len(), 1, "one image");
}

fn push_over_tls_with_a_password(home: &Home) {
    let registry = Registry::start_with(home, Setup { tls: true, password: true, ..Setup::default() });
    let name = format!("{}/secret:1", registry.host());
    pulled(home, &name, Packing::Gzip, Schema::Oci);
    let line = home.fails(125, &format!("push -q --retry 0 --creds me:secret {name}"));
    assert!(line.to_lowercase().contains("certificate"), "{line}");
    let certificates = home.path().join(".config/containers/certs.d").join(registry.host());
    fs::create_dir_all(&certificates).unwrap();
    fs::copy(registry.ca(), certificates.join("ca.crt")).unwrap();
    let finished = home.run(&format!("push -q {name}"));
    finished.exits(125);
    let said = finished.stderr();
    assert!(said.contains("authentication required") && said.contains("coracle login"), "{said}");
    home.fails(125, &format!("push -q --creds me:wrong {name}"));
    home.ok(&format!("push -q --creds me:secret {name}"));
    home.ok("rmi -a -f");
    home.ok(&format!("pull -q --creds me:secret {name}"));
}

fn push_to_a_registry_with_a_certificate_signed_by_itself(home: &Home) {
    let registry = Registry::start_with(home, Setup { tls: true, self_signed: true, ..Setup::default() });
    let name = format!("{}/own:1", registry.host());
    pulled(home, &name, Packing::Gzip, Schema::Oci);
    let line = home.fails(125, &format!("push -q --retry 0 {name}"));
    assert!(line.contains("UnknownIssuer"), "{line}");
    let trust = |host: &str| {
        let certificates = home.path().join(".config/containers/certs.d").join(host);
        fs::create_dir_all(&certificates).unwrap();
        fs::copy(registry.ca(), certificates.join("ca.crt")).unwrap();
    };
    trust(&registry.host());
    home.ok(&format!("push -q {name}"));
    // It is trusted for the names in it, and for no others.
    let other = registry.host().replace("localhost", "127.0.0.1");
    trust(&other);
    let line = home.fails(125, &format!("push -q --retry 0 {name} {other}/own:1"));
    assert!(line.contains("certificate"), "{line}");
    home.ok("rmi -a -f");
    home.ok(&format!("pull -q {name}"));
}

fn push_with_a_bearer_token(home: &Home) {
    let sink = Sink::start(|request| {
        let host = request.headers.get("host").cloned().unwrap_or_default();
        if request.path.starts_with("/token?") {
            let is_right = request.path.contains("service=tests")
                && request.path.contains("scope=repository%3Asafe%3Apull%2Cpush")
                && request.headers.get("authorization").is_some_and(|value| value.starts_with("Basic "));
            let body = if is_right { r#"{"token":"the-token"}"# } else { "{}" };
            return Some(Trouble::Status(200, Vec::new(), body.to_owned()));
        }
        if request.headers.get("authorization").map(String::as_str) == Some("Bearer the-token") {
            return None;
        }
        let challenge = format!(r#"Bearer realm="http://{host}/token",service="tests",scope="repository:safe:pull""#);
        Some(Trouble::Status(401, vec![("WWW-Authenticate".to_owned(), challenge)], String::new()))
    });
    let name = format!("{}/safe:1", sink.host());
    pulled(home, &name, Packing::Gzip, Schema::Oci);
    home.ok(&format!("push -q --creds me:secret {name}"));
    assert_eq!(sink.count("GET", "/token"), 1, "one token serves for all requests of a push");
    assert!(sink.look(|held| held.manifests.contains_key("safe:1")));
}

fn push_goes_on_where_the_connection_was_cut(home: &Home) {
    let sink = Sink::start(|request| {
        (request.method == "PATCH" && !request.headers.contains_key("content-range")).then_some(Trouble::Cut(500_000))
    });
    let name = format!("{}/cut:1", sink.host());
    pulled(home, &name, Packing::Gzip, Schema::Oci);
    home.ok(&format!("push -q --retry-delay 10ms {name}"));
    let ranges: Vec<String> =
        sink.requests().iter().filter_map(|request| request.headers.get("content-range").cloned()).collect();
    assert_eq!(ranges.len(), 1);
    assert!(ranges[0].starts_with("500000-"), "{ranges:?}");
    assert!(sink.look(|held| held.manifests.contains_key("cut:1")));
    // Compressed on its way, nobody has the bytes any more: once more from the start.
    let sink = Sink::start(|request| {
        (request.method == "PATCH" && request.path.contains("/ux?") && request.before == 0)
            .then_some(Trouble::Cut(100_000))
    });
    let name = format!("{}/cut:2", sink.host());
    home.ok("rmi -a -f");
    pulled(home, &name, Packing::Plain, Schema::Oci);
    home.ok(&format!("push -q --retry-delay 10ms {name}"));
    assert!(sink.look(|held| held.manifests.contains_key("cut:2")));
}

fn push_survives_a_server_that_fails_now_and_then(home: &Home) {
    let sink = Sink::start(|request| {
        let status = |status, headers| Some(Trouble::Status(status, headers, String::new()));
        match (request.method.as_str(), request.before) {
            ("POST", 0) => status(429, vec![("Retry-After".to_owned(), "0".to_owned())]),
            ("PUT" | "HEAD", 0) if request.path.contains("/manifests/") => status(500, Vec::new()),
            ("HEAD", 0) => status(503, Vec::new()),
            _ => None,
        }
    });
    let name = format!("{}/now:1", sink.host());
    pulled(home, &name, Packing::Gzip, Schema::Oci);
    let said = home.run(&format!("push --retry-delay 10ms {name}"));
    said.ok();
    assert!(said.stderr().contains("trying again in"), "{}", said.stderr());
    let sink =
        Sink::start(|request| (request.method == "PUT").then(|| Trouble::Status(500, Vec::new(), String::new())));
    let line = home.fails(125, &format!("push -q --retry 2 --retry-delay 10ms {name} {}/never:1", sink.host()));
    assert!(line.contains("500"), "{line}");
}

fn push_never_takes_credentials_to_another_host(home: &Home) {
    let other = Sink::honest();
    let there = other.host();
    let sink = Sink::start(move |request| {
        if !request.headers.contains_key("authorization") {
            let challenge = r#"Basic realm="x""#.to_owned();
            return Some(Trouble::Status(401, vec![("WWW-Authenticate".to_owned(), challenge)], String::new()));
        }
        // Uploads go on elsewhere, without effect.
        (request.method == "POST").then(|| {
            let location = format!("http://{there}/v2/x/blobs/uploads/u?state=a%2Fb");
            Trouble::Status(202, vec![("Location".to_owned(), location)], String::new())
        })
    });
    let name = format!("{}/x:1", sink.host());
    pulled(home, &name, Packing::Gzip, Schema::Oci);
    home.fails(125, &format!("push -q --retry 0 --creds me:secret {name}"));
    let asked = other.requests();
    assert!(!asked.is_empty(), "it went there");
    assert!(asked.iter().all(|request| !request.headers.contains_key("authorization")), "{asked:?}");
}

fn push_of_all_tags(home: &Home) {
    let sink = Sink::honest();
    let name = format!("{}/many", sink.host());
    pulled(home, &format!("{name}:1"), Packing::Gzip, Schema::Oci);
    home.ok(&format!("tag {name}:1 {name}:2"));
    home.ok(&format!("tag {name}:1 {}/other:3", sink.host()));
    home.ok(&format!("push -q -a {name}"));
    let tags =
        sink.look(|held| held.manifests.keys().filter(|key| !key.contains("sha256")).cloned().collect::<Vec<_>>());
    assert_eq!(tags, ["many:1", "many:2"]);
    let line = home.fails(125, &format!("push -a {name}:1"));
    assert!(line.contains("tag can't be used with --all-tags"), "{line}");
    home.fails(125, "push -a nosuch");
}

fn push_to_other_transports(home: &Home) {
    pulled(home, "localhost/it:1", Packing::Gzip, Schema::Oci);
    let dir = home.tmp();
    for to in ["oci:layout:v1", "oci-archive:a.tar:v1", "docker-archive:d.tar:it:v1", "dir:plain"] {
        let (transport, rest) = to.split_once(':').unwrap();
        let there = format!("{transport}:{}/{rest}", dir.display());
        home.ok(&format!("push -q it:1 {there}"));
        let text = run_program(Command::new(tool("skopeo")).args(["inspect", "--config", &there]));
        assert!(String::from_utf8_lossy(&text).contains(host_architecture()), "{there}");
    }
    let line = home.fails(125, &format!("push -q it:1 docker-archive:{}/d.tar:it:v1", dir.display()));
    assert!(line.contains("docker-archive doesn't support modifying existing images"), "{line}");
}

fn push_of_a_damaged_layer_is_noticed(home: &Home) {
    let sink = Sink::honest();
    let name = format!("{}/bad:1", sink.host());
    let blobs = pulled(home, &name, Packing::Plain, Schema::Oci);
    let (digest, bytes) = blobs.blobs.iter().max_by_key(|(_, bytes)| bytes.len()).unwrap();
    let mut bytes = bytes.clone();
    bytes[2000] ^= 1;
    fs::write(home.data().join("images/blobs/sha256").join(digest.trim_start_matches("sha256:")), bytes).unwrap();
    let line = home.fails(125, &format!("push -q --retry 0 {name}"));
    assert!(line.contains("uncompressed it is"), "{line}");
    assert!(sink.look(|held| held.manifests.is_empty()));
}

fn push_refuses_what_it_cannot_do(home: &Home) {
    pulled(home, "localhost/it:1", Packing::Gzip, Schema::Oci);
    for (options, part) in [
        ("--sign-by me", "signing of images is not supported"),
        ("--encryption-key jwe:x", "encryption of images is not supported"),
        ("--format v2s1", "v2s1"),
        ("--format foo", "unknown format"),
        ("--compression-format foo", "cannot find compressor for \"foo\""),
        ("--compression-level 40", "must be 1 to 12"),
        ("--retry-delay soon", "invalid duration"),
        ("--platform linux/s390x", "the image is for"),
    ] {
        let line = home.fails(125, &format!("push {options} it:1 127.0.0.1:1/x"));
        assert!(line.contains(part), "{options}: {line}");
    }
}

fn push_prints_what_docker_prints(home: &Home) {
    let sink = Sink::honest();
    let name = format!("{}/it:1", sink.host());
    pulled(home, &name, Packing::Gzip, Schema::Oci);
    let out = called(home, "docker", &format!("push {name}")).out;
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], format!("The push refers to repository [{}/it]", sink.host()), "{out}");
    assert_eq!(lines.iter().filter(|line| line.ends_with(": Pushed")).count(), 2, "{out}");
    assert!(lines.last().unwrap().starts_with("1: digest: sha256:") && out.contains(" size: "), "{out}");
    let again = called(home, "docker", &format!("push {name}")).out;
    assert_eq!(again.lines().filter(|line| line.ends_with(": Layer already exists")).count(), 2, "{again}");
}
