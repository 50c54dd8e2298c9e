//! `pull` from the distribution registry and from other transports

use std::fs;
use std::process::Command;

use crate::support::image::{Image, Layer, Packing, host_architecture};
use crate::support::layout::{Blobs, Schema};
use crate::support::prelude::*;
use crate::support::pty::Terminal;
use crate::support::registry::{Registry, Setup, run_program, tool};
use serde_json::json;

pub(crate) const TESTS: &[Test] = &[
    test!(pull_and_run_from_a_registry).needs(&[Need::Registry, Need::Skopeo]).without_image(),
    test!(pull_keeps_the_bytes_of_the_manifest).needs(&[Need::Registry, Need::Skopeo]).without_image(),
    test!(pull_of_every_packing_and_schema).needs(&[Need::Registry, Need::Skopeo]).without_image(),
    test!(pull_chooses_the_platform).needs(&[Need::Registry, Need::Skopeo]).without_image(),
    test!(pull_over_tls_needs_the_authority).needs(&[Need::Registry, Need::Skopeo, Need::Openssl]).without_image(),
    test!(pull_with_a_password).needs(&[Need::Registry, Need::Skopeo, Need::Openssl, Need::Htpasswd]).without_image(),
    test!(pull_by_digest).needs(&[Need::Registry, Need::Skopeo]).without_image(),
    test!(pull_again_downloads_nothing).without_image(),
    test!(pull_of_shared_layers_downloads_them_once).without_image(),
    test!(run_pulls_what_is_not_there).needs(&[Need::Registry, Need::Skopeo]).without_image(),
    test!(pull_policies).without_image(),
    test!(pull_quiet_prints_the_id_only).without_image(),
    test!(pull_shows_progress_on_a_terminal_only).without_image(),
    test!(pull_of_many_layers).without_image(),
    test!(pull_from_a_layout_directory).without_image(),
    test!(pull_from_an_archive).without_image(),
    test!(pull_from_a_dir).needs(&[Need::Skopeo]).without_image(),
    test!(pull_with_a_bearer_token).without_image(),
    test!(pull_of_malformed_names_is_one_line).without_image(),
];

fn sample() -> Image {
    Image::busybox()
        .layer(Layer::new().dir("d").file("d/sample", "sample").file("old", "x"))
        .layer(Layer::new().whiteout("old"))
}

fn layout(home: &Home, packing: Packing, schema: Schema) -> String {
    let mut blobs = Blobs::default();
    blobs.add("it", &sample(), packing, schema);
    let dir = home.tmp().join(format!("layout-{packing:?}-{schema:?}"));
    blobs.write(&dir);
    format!("oci:{}:it", dir.display())
}

fn pull_and_run_from_a_registry(home: &Home) {
    let registry = Registry::start(home);
    registry.push(&layout(home, Packing::Gzip, Schema::Oci), "team/sample:1");
    let name = format!("{}/team/sample:1", registry.host());
    let finished = home.run(&format!("pull --tls-verify=false {name}"));
    let id = finished.ok();
    assert_eq!(id.lines().last().unwrap().trim_start_matches("sha256:"), sample().id());
    assert_eq!(home.ok(&format!("run --rm {name} sh -c 'cat /d/sample; test ! -e /old'")), "sample");
    assert_eq!(home.ok("images --format {{.Repository}}:{{.Tag}}"), name);
    home.ok(&format!("rmi {name}"));
    home.fails(125, &format!("pull -q --tls-verify=false {}/team/sample:2", registry.host()));
    home.fails(125, &format!("pull -q --tls-verify=false {}/team/nosuch", registry.host()));
}

fn pull_keeps_the_bytes_of_the_manifest(home: &Home) {
    let registry = Registry::start(home);
    registry.push(&layout(home, Packing::Gzip, Schema::Oci), "sample:1");
    let name = format!("{}/sample:1", registry.host());
    home.ok(&format!("pull -q --tls-verify=false {name}"));
    let source = format!("docker://{name}");
    let raw = run_program(Command::new(tool("skopeo")).args(["inspect", "--raw", "--tls-verify=false", &source]));
    let digest = crate::support::image::sha256(&raw);
    let blob = home.data().join("images/blobs/sha256").join(digest.trim_start_matches("sha256:"));
    assert_eq!(fs::read(blob).unwrap(), raw);
    assert_eq!(home.ok(&format!("image inspect --format {{{{.Digest}}}} {name}")), digest);
}

fn pull_of_every_packing_and_schema(home: &Home) {
    // As they are: skopeo would recompress plain and zstd layers on the way to a registry.
    for packing in [Packing::Gzip, Packing::Zstd, Packing::Plain] {
        for schema in [Schema::Oci, Schema::Docker2] {
            if (packing, schema) == (Packing::Zstd, Schema::Docker2) {
                // There is no such media type.
                continue;
            }
            let mut blobs = Blobs::default();
            blobs.add("it", &sample(), packing, schema);
            let server = crate::support::http::Server::honest(blobs);
            let name = server.reference("it");
            home.ok(&format!("pull -q --tls-verify=false {name}"));
            assert_eq!(home.ok(&format!("run --rm {name} cat /d/sample")), "sample", "{packing:?} {schema:?}");
            home.ok("rmi -a -f");
        }
    }
    // As a real registry has them.
    let registry = Registry::start(home);
    for format in ["oci", "v2s2"] {
        registry.push_with(
            &layout(home, Packing::Gzip, Schema::Oci),
            &format!("kinds:{format}"),
            &["--format", format],
        );
        let name = format!("{}/kinds:{format}", registry.host());
        home.ok(&format!("pull -q --tls-verify=false {name}"));
        assert_eq!(home.ok(&format!("run --rm {name} cat /d/sample")), "sample", "{format}");
    }
}

fn pull_chooses_the_platform(home: &Home) {
    let own = host_architecture();
    let images = ["amd64", "arm64", "s390x"].map(|architecture| Image {
        architecture: architecture.to_owned(),
        ..Image::busybox().layer(Layer::new().file("platform", architecture))
    });
    let mut blobs = Blobs::default();
    blobs.add_index("multi", &images);
    blobs.write(&home.tmp().join("multi"));
    let registry = Registry::start(home);
    registry.push_with(&format!("oci:{}:multi", home.tmp().join("multi").display()), "multi:1", &["--all"]);
    let name = format!("{}/multi:1", registry.host());
    home.ok(&format!("pull -q --tls-verify=false {name}"));
    assert_eq!(home.ok(&format!("run --rm {name} cat /platform")), own);
    home.ok(&format!("pull -q --tls-verify=false --platform linux/s390x {name}"));
    assert_eq!(home.ok(&format!("image inspect --format {{{{.Architecture}}}} {name}")), "s390x");
    let line = home.fails(125, &format!("pull -q --tls-verify=false --platform linux/riscv64 {name}"));
    assert!(line.contains("riscv64"), "{line}");
}

fn pull_over_tls_needs_the_authority(home: &Home) {
    let registry = Registry::start_with(home, Setup { tls: true, ..Setup::default() });
    registry.push(&layout(home, Packing::Gzip, Schema::Oci), "safe:1");
    let name = format!("{}/safe:1", registry.host());
    let line = home.fails(125, &format!("pull -q --retry 0 {name}"));
    assert!(line.to_lowercase().contains("certificate"), "{line}");
    home.ok(&format!("pull -q --tls-verify=false {name}"));
    home.ok(&format!("rmi {name}"));
    let certificates = home.tmp().join("certs");
    fs::create_dir(&certificates).unwrap();
    fs::copy(registry.ca(), certificates.join("ca.crt")).unwrap();
    home.ok(&format!("pull -q --cert-dir {} {name}", certificates.display()));
    home.ok(&format!("rmi {name}"));
    let known = home.path().join(".config/containers/certs.d").join(registry.host());
    fs::create_dir_all(&known).unwrap();
    fs::copy(registry.ca(), known.join("ca.crt")).unwrap();
    home.ok(&format!("pull -q {name}"));
}

fn pull_with_a_password(home: &Home) {
    let registry = Registry::start_with(home, Setup { tls: true, password: true, ..Setup::default() });
    registry.push(&layout(home, Packing::Gzip, Schema::Oci), "secret:1");
    let name = format!("{}/secret:1", registry.host());
    let line = home.fails(125, &format!("pull -q --tls-verify=false {name}"));
    assert!(
        line.contains("401") || line.to_lowercase().contains("unauthorized") || line.contains("authentication"),
        "{line}"
    );
    let line = home.fails(125, &format!("pull -q --tls-verify=false --creds me:wrong {name}"));
    assert!(!line.contains("wrong"), "the password is in the message: {line}");
    home.ok(&format!("pull -q --tls-verify=false --creds me:secret {name}"));
    home.ok(&format!("rmi {name}"));
    // "me:secret" in base 64
    let file = home.write("auth.json", json!({"auths": {registry.host(): {"auth": "bWU6c2VjcmV0"}}}).to_string());
    home.ok(&format!("pull -q --tls-verify=false --authfile {} {name}", file.display()));
    home.ok(&format!("rmi {name}"));
    home.coracle(&format!("pull -q --tls-verify=false {name}")).env("REGISTRY_AUTH_FILE", &file).run().ok();
    home.ok(&format!("rmi {name}"));
    let docker = home.path().join(".docker");
    fs::create_dir(&docker).unwrap();
    fs::copy(&file, docker.join("config.json")).unwrap();
    home.ok(&format!("pull -q --tls-verify=false {name}"));
}

fn pull_by_digest(home: &Home) {
    let registry = Registry::start(home);
    registry.push(&layout(home, Packing::Gzip, Schema::Oci), "by:1");
    let name = format!("{}/by", registry.host());
    home.ok(&format!("pull -q --tls-verify=false {name}:1"));
    let digest = home.ok(&format!("image inspect --format {{{{.Digest}}}} {name}:1"));
    home.ok(&format!("rmi {name}:1"));
    home.ok(&format!("pull -q --tls-verify=false {name}@{digest}"));
    assert_eq!(home.ok(&format!("run --rm {name}@{digest} cat /d/sample")), "sample");
    let other = format!("sha256:{}", "0".repeat(64));
    home.fails(125, &format!("pull -q --tls-verify=false {name}@{other}"));
}

fn server(tag: &str, image: &Image) -> crate::support::http::Server {
    let mut blobs = Blobs::default();
    blobs.add(tag, image, Packing::Gzip, Schema::Oci);
    crate::support::http::Server::honest(blobs)
}

fn pull_again_downloads_nothing(home: &Home) {
    let server = server("1", &sample());
    home.ok(&format!("pull -q --tls-verify=false {}", server.reference("1")));
    let downloads = server.blob_downloads();
    assert_eq!(downloads, 4, "three layers and a configuration, once each");
    home.ok(&format!("pull -q --tls-verify=false {}", server.reference("1")));
    assert_eq!(server.blob_downloads(), downloads);
}

fn pull_of_shared_layers_downloads_them_once(home: &Home) {
    let mut blobs = Blobs::default();
    blobs.add("1", &sample(), Packing::Gzip, Schema::Oci);
    blobs.add("2", &sample().layer(Layer::new().file("more", "x")), Packing::Gzip, Schema::Oci);
    let server = crate::support::http::Server::honest(blobs);
    home.ok(&format!("pull -q --tls-verify=false {}", server.reference("1")));
    let first = server.blob_downloads();
    home.ok(&format!("pull -q --tls-verify=false {}", server.reference("2")));
    assert_eq!(server.blob_downloads(), first + 2, "one layer and a configuration");
}

fn run_pulls_what_is_not_there(home: &Home) {
    let registry = Registry::start(home);
    registry.push(&layout(home, Packing::Gzip, Schema::Oci), "auto:1");
    let finished = home.run(&format!("run --rm --tls-verify=false {}/auto:1 cat /d/sample", registry.host()));
    finished.exits(0);
    assert_eq!(finished.stdout(), "sample", "progress belongs on stderr");
}

fn pull_policies(home: &Home) {
    let server = server("1", &sample());
    let name = server.reference("1");
    home.fails(125, &format!("run --rm --pull=never {name} true"));
    home.ok(&format!("run --rm --tls-verify=false --pull=missing {name} true"));
    let before = server.requests().len();
    home.ok(&format!("run --rm --tls-verify=false --pull=missing {name} true"));
    assert_eq!(server.requests().len(), before);
    home.ok(&format!("run --rm --tls-verify=false --pull=always {name} true"));
    assert!(server.requests().len() > before);
    home.run(&format!("run --rm --pull=nosuch {name} true")).exits(125);
}

fn pull_quiet_prints_the_id_only(home: &Home) {
    let server = server("1", &sample());
    let finished = home.run(&format!("pull -q --tls-verify=false {}", server.reference("1")));
    assert_eq!(finished.ok().trim_start_matches("sha256:"), sample().id());
    assert_eq!(finished.stderr(), "");
}

fn pull_shows_progress_on_a_terminal_only(home: &Home) {
    let server = server("1", &sample());
    let finished = home.run(&format!("pull --tls-verify=false {}", server.reference("1")));
    finished.exits(0);
    assert!(!finished.stderr().contains('\u{1b}'), "{}", finished.transcript());
    home.ok("rmi -a");
    let mut terminal = Terminal::start(home.coracle(&format!("pull --tls-verify=false {}", server.reference("1"))));
    terminal.expect("\u{1b}[");
    assert_eq!(terminal.wait(), 0);
    assert!(terminal.is_cooked());
}

fn pull_of_many_layers(home: &Home) {
    let mut image = Image::busybox();
    for number in 0..120 {
        image =
            image.layer(Layer::new().file(&format!("n{number}"), number.to_string()).file("last", number.to_string()));
    }
    let server = server("deep", &image);
    home.ok(&format!("pull -q --tls-verify=false {}", server.reference("deep")));
    assert_eq!(
        home.ok(&format!("run --rm {} sh -c 'cat /last; ls -d /n* | wc -l'", server.reference("deep"))),
        "119120"
    );
}

fn pull_from_a_layout_directory(home: &Home) {
    let source = layout(home, Packing::Gzip, Schema::Oci);
    let id = home.ok(&format!("pull -q {source}"));
    assert_eq!(home.ok(&format!("run --rm {id} cat /d/sample")), "sample");
    home.fails(125, "pull -q oci:/no/such/dir:it");
    home.fails(125, &format!("pull -q {source}-not"));
}

fn pull_from_an_archive(home: &Home) {
    let file = home.write("a.tar", sample().docker_archive("localhost/archived:1"));
    let id = home.ok(&format!("pull -q docker-archive:{}", file.display()));
    assert_eq!(home.ok(&format!("run --rm {id} cat /d/sample")), "sample");
}

fn pull_from_a_dir(home: &Home) {
    let target = home.tmp().join("dir");
    let source = layout(home, Packing::Gzip, Schema::Oci);
    let dir = format!("dir:{}", target.display());
    run_program(Command::new(tool("skopeo")).args(["copy", "--quiet", "--insecure-policy", &source, &dir]));
    let id = home.ok(&format!("pull -q {dir}"));
    assert_eq!(home.ok(&format!("run --rm {id} cat /d/sample")), "sample");
}

fn pull_with_a_bearer_token(home: &Home) {
    use crate::support::http::{Fault, Server};
    use std::sync::OnceLock;
    static HOST: OnceLock<String> = OnceLock::new();
    let mut blobs = Blobs::default();
    blobs.add("1", &sample(), Packing::Gzip, Schema::Oci);
    let server = Server::start(blobs, |request| {
        if request.path.starts_with("/token?") {
            let right = request.path.contains("service=tests") && request.path.contains("scope=repository");
            let body = if right { r#"{"token":"the-token","expires_in":300}"# } else { "{}" };
            return Some(Fault::Status(200, Vec::new(), body.to_owned()));
        }
        if request.headers.get("authorization").map(String::as_str) == Some("Bearer the-token") {
            return None;
        }
        let host = HOST.get().map_or("", String::as_str);
        let challenge =
            format!(r#"Bearer realm="http://{host}/token",service="tests",scope="repository:test/image:pull""#);
        Some(Fault::Status(401, vec![("WWW-Authenticate".to_owned(), challenge)], String::new()))
    });
    HOST.set(server.host()).unwrap();
    home.ok(&format!("pull -q --tls-verify=false {}", server.reference("1")));
    let tokens = server.requests().iter().filter(|request| request.path.starts_with("/token")).count();
    assert_eq!(tokens, 1, "one token serves for all requests of a pull");
}

fn pull_of_malformed_names_is_one_line(home: &Home) {
    for name in ["UPPER", "a//b", "x:bad tag", "nosuchtransport:x", "docker://", "oci:", "-"] {
        home.coracle("pull -q").arg(name).run().fails(125);
    }
}
