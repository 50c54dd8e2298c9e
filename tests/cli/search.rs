//! `search` in registries with and without Docker Hub's API

use std::fs;
use std::process::Command;

use super::persona::called;
use crate::support::image::{Image, Layer, Packing};
use crate::support::layout::{Blobs, Schema};
use crate::support::prelude::*;
use crate::support::registry::{Registry, run_program, tool};
use crate::support::sink::{Sink, Trouble};

pub(crate) const TESTS: &[Test] = &[
    test!(search_of_a_catalog).needs(&[Need::Registry, Need::Skopeo]).without_image(),
    test!(search_by_hub_api).without_image(),
    test!(search_where_registries_conf_says).without_image(),
    test!(search_follows_pages).without_image(),
    test!(search_that_cannot_be).without_image(),
];

const HUB: &str = r#"{"num_results":3,"results":[
    {"name":"alpine","description":"A minimal Docker image based on Alpine Linux with a\ncomplete package index","star_count":9000,"is_official":true,"is_automated":false},
    {"name":"team/alpine","description":"","star_count":7,"is_official":false,"is_automated":true},
    {"name":"x/alpine","star_count":0}]}"#;

fn hub() -> Sink {
    Sink::start(|request| {
        request.path.starts_with("/v1/search?q=").then(|| Trouble::Status(200, Vec::new(), HUB.to_owned()))
    })
}

fn search_of_a_catalog(home: &Home) {
    let registry = Registry::start(home);
    let host = registry.host();
    let mut blobs = Blobs::default();
    blobs.add("it", &Image::scratch().layer(Layer::new().file("f", "x")), Packing::Gzip, Schema::Oci);
    blobs.write(&home.tmp().join("layout"));
    for name in ["abc:1", "abc:2", "team/ab:1", "z:1"] {
        let layout = format!("oci:{}:it", home.tmp().join("layout").display());
        run_program(Command::new(tool("skopeo")).args([
            "copy",
            "--quiet",
            "--insecure-policy",
            "--dest-tls-verify=false",
            &layout,
            &format!("docker://{host}/{name}"),
        ]));
    }
    let names = |line: &str| {
        let text = home.ok(&format!("search --format {{{{.Name}}}} {line}"));
        text.replace(&format!("{host}/"), "").lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(names(&format!("{host}/ab")), ["abc", "team/ab"]);
    assert_eq!(names(&format!("{host}/team/ab")), ["team/ab"]);
    assert_eq!(names(&format!("{host}/")), ["abc", "team/ab", "z"]);
    assert_eq!(names(&format!("--limit 1 {host}/")), ["abc"]);
    let table = home.ok(&format!("search {host}/ab"));
    assert!(table.starts_with("NAME") && table.lines().next().unwrap().ends_with("DESCRIPTION"), "{table}");
    assert_eq!(home.ok(&format!("search {host}/nosuch")), "");
    let tags = home.ok(&format!("search --list-tags --format {{{{.Tag}}}} {host}/abc"));
    // In the order of the server.
    assert_eq!(tags.lines().collect::<std::collections::BTreeSet<_>>(), ["1", "2"].into());
    let json = home.ok(&format!("search --list-tags --format json {host}/abc"));
    assert!(json.contains("\"Tags\": ["), "{json}");
    let line = home.fails(125, &format!("search --list-tags {host}/nosuch"));
    assert!(line.contains("repository name not known"), "{line}");
    home.fails(125, &format!("search --list-tags {host}/abc:1"));
}

fn search_by_hub_api(home: &Home) {
    let hub = hub();
    let host = hub.host();
    let names = |options: &str| home.ok(&format!("search {options} --format {{{{.Name}}}} {host}/alpine"));
    assert_eq!(names("").lines().count(), 3);
    for (options, expected) in [
        ("--filter is-official", format!("{host}/alpine")),
        ("--filter stars=5 --filter is-official=false", format!("{host}/team/alpine")),
        ("--automated", format!("{host}/team/alpine")),
        ("-s 8000", format!("{host}/alpine")),
        ("--limit 1", format!("{host}/alpine")),
    ] {
        assert_eq!(names(options), expected, "{options}");
    }
    assert!(hub.requests().last().unwrap().path.ends_with("n=1"));
    let short = home.ok(&format!("search --format {{{{.Description}}}} --limit 1 {host}/alpine"));
    assert_eq!(short, "A minimal Docker image based on Alpine Linux...");
    let whole = home.ok(&format!("search --no-trunc --format {{{{.Description}}}} --limit 1 {host}/alpine"));
    assert!(whole.ends_with("with a complete package index"), "{whole}");
    let table = home.ok(&format!("search --compatible {host}/alpine"));
    assert!(table.contains("[OK]") && table.lines().next().unwrap().contains("AUTOMATED"), "{table}");
    let docker = called(home, "docker", &format!("search {host}/alpine")).out;
    let heading: Vec<_> = docker.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(heading, ["NAME", "DESCRIPTION", "STARS", "OFFICIAL"]);
}

fn search_where_registries_conf_says(home: &Home) {
    let (one, other) = (hub(), hub());
    let conf = home.path().join(".config/containers");
    fs::create_dir_all(&conf).unwrap();
    let text = format!("unqualified-search-registries = [\"{}\", \"{}\"]\n", one.host(), other.host());
    fs::write(conf.join("registries.conf"), text).unwrap();
    assert_eq!(home.ok("search --format {{.Index}} alpine").lines().count(), 6);
    // One that is away hides no other.
    let text = format!("unqualified-search-registries = [\"127.0.0.1:1\", \"{}\"]\n", other.host());
    fs::write(conf.join("registries.conf"), text).unwrap();
    let finished = home.run("search --format {{.Index}} alpine");
    assert_eq!(finished.ok().lines().count(), 3);
    assert!(finished.stderr().contains("couldn't search registry \"127.0.0.1:1\""), "{}", finished.stderr());
}

fn search_follows_pages(home: &Home) {
    let sink = Sink::start(|request| {
        let (names, next) = match request.path.as_str() {
            "/v2/_catalog" => (r#"["a1","b"]"#, Some("/v2/_catalog?last=b")),
            "/v2/_catalog?last=b" => (r#"["a2"]"#, None),
            _ => return None,
        };
        let link = next.map(|next| ("Link".to_owned(), format!("<{next}>; rel=\"next\"")));
        Some(Trouble::Status(200, link.into_iter().collect(), format!("{{\"repositories\":{names}}}")))
    });
    let names = home.ok(&format!("search --format {{{{.Name}}}} {}/a", sink.host()));
    assert_eq!(names.lines().collect::<Vec<_>>(), [format!("{}/a1", sink.host()), format!("{}/a2", sink.host())]);
}

fn search_that_cannot_be(home: &Home) {
    for (line, part) in [
        ("search --filter foo=1 127.0.0.1:1/x", "invalid filter type \"foo=1\""),
        ("search --filter stars=x 127.0.0.1:1/x", "incorrect value type for stars filter"),
        ("search 127.0.0.1:1/x", "couldn't search registry \"127.0.0.1:1\""),
        ("search --list-tags --filter stars=1 127.0.0.1:1/x", "not applicable"),
    ] {
        let said = home.fails(125, line);
        assert!(said.contains(part), "{line}: {said}");
    }
}
