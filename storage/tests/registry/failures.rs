//! Registries that refuse, fail, lie, or die.

use std::time::{Duration, Instant};

use storage::digest::{DiffId, Digest};
use storage::image::manifest::media_type;
use storage::state::layout::Ownership;
use storage::transport::TransportError;
use storage::transport::registry::RegistryError;

use crate::fixture::{Compression, Repository, Store, compress, layer_tar, noise, small};
use crate::server::{Reply, Request, Server};

fn is_layer(repository: &Repository, request: &Request) -> bool {
    let digest = request.target.rsplit('/').next().unwrap();
    repository.blobs.get(digest).is_some_and(|bytes| bytes.len() > 10_000)
}

#[test]
fn refusals_are_told_apart_and_only_the_server_s_own_failures_are_repeated() {
    for (status, code, message, expected, requests) in [
        (
            401,
            "UNAUTHORIZED",
            "authentication required",
            "tag latest: authentication required: the repository does not exist or needs a login",
            1,
        ),
        (
            403,
            "DENIED",
            "requested access to the resource is denied",
            "tag latest: access denied: requested access to the resource is denied",
            1,
        ),
        (404, "MANIFEST_UNKNOWN", "manifest unknown", "tag latest: manifest unknown", 1),
        (
            404,
            "NAME_UNKNOWN",
            "repository name not known to registry",
            "tag latest: manifest unknown: repository name not known to registry",
            1,
        ),
        (
            429,
            "TOOMANYREQUESTS",
            "You have reached your pull rate limit.",
            "tag latest: too many requests: You have reached your pull rate limit",
            4,
        ),
        (
            500,
            "UNKNOWN",
            "disk on fire",
            "tag latest: the server failed with 500 Internal Server Error: disk on fire",
            4,
        ),
        (
            418,
            "TEAPOT",
            "short and\\u001b[31m stout",
            "tag latest: unexpected answer 418 I'm a teapot: short and\\u{1b}[31m stout",
            1,
        ),
    ] {
        let server = Server::http(move |_| Reply::error(status, code, message));
        let store = Store::new();
        let error = store.pull(&format!("{}/a/b", server.host())).expect_err("refused");
        let full = format!("pull {}/a/b:latest: {expected}", server.host());
        assert_eq!(error.to_string(), full);
        assert_eq!(server.lines().len(), requests, "{status}");
        assert_eq!(store.messages().len(), requests - 1);
        store.assert_clean();
    }
}

#[test]
fn a_failure_that_passes_is_survived_and_retry_after_is_obeyed() {
    let repository = small();
    let server = Server::http(move |request| match (request.repeat, request.target.contains("/manifests/")) {
        (0, true) => Reply::error(429, "TOOMANYREQUESTS", "slow down").header("Retry-After", "1"),
        (0, false) => Reply::new(503),
        (1, false) => Reply { hang_up: true, ..Reply::default() },
        _ => repository.reply(request),
    });
    let store = Store::new();
    let start = Instant::now();
    store.pull(&format!("{}/x", server.host())).unwrap_or_else(|error| panic!("{error}"));
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert!(store.messages()[0].contains("too many requests: slow down: trying again in 1.0 s (1/3)"));
    assert_eq!(store.messages().len(), 1 + 2 * 2, "{:?}", store.messages());
}

#[test]
fn download_goes_on_where_it_was_cut() {
    let mut repository = Repository::default();
    let tar = layer_tar(&[("noise", &noise(5_000_000))]);
    repository.add_image("latest", "amd64", &[(tar, Compression::None)]);
    // By turns with a server that can resume, and one that sends everything again.
    for can_resume in [true, false] {
        let repository = repository.clone();
        let server = Server::http(move |request| {
            let mut request = request.clone();
            let is_layer = is_layer(&repository, &request);
            if !can_resume {
                request.headers.remove("range");
            }
            let mut reply = repository.reply(&request);
            if is_layer && request.repeat < 2 {
                reply.cut_after = Some(1_500_000 * (if can_resume { 1 } else { request.repeat + 1 }));
            }
            reply
        });
        let store = Store::new();
        store.pull(&format!("{}/x", server.host())).unwrap_or_else(|error| panic!("{error}"));
        let log = server.log.lock().unwrap().clone();
        let ranges: Vec<_> =
            log.iter().filter(|request| request.target.contains("/blobs/")).filter_map(|r| r.header("range")).collect();
        assert_eq!(ranges, ["bytes=1500000-", "bytes=3000000-"]);
        assert_eq!(store.messages().len(), 2);
        assert!(store.messages()[0].contains("connection lost after 1500000 bytes"), "{:?}", store.messages());
    }
}

#[test]
fn registry_that_dies_in_the_middle_of_a_blob_is_given_up_with_nothing_left() {
    let repository = small();
    let server = Server::http(move |request| {
        let mut reply = repository.reply(request);
        if is_layer(&repository, request) {
            match request.repeat {
                0 => reply.cut_after = Some(1000),
                _ => reply.hang_up = true,
            }
        }
        reply
    });
    let store = Store::new();
    let error = store.pull_error(&format!("{}/x", server.host()));
    assert!(error.starts_with("blob sha256:") && error.contains(": http://127.0.0.1:"), "{error}");
    assert_eq!(store.messages().len(), 3);
}

#[test]
fn silent_server_is_given_up_after_the_idle_time() {
    let repository = small();
    let server = Server::http(move |request| {
        let mut reply = repository.reply(request);
        if is_layer(&repository, request) {
            (reply.cut_after, reply.stall) = (Some(100), Some(Duration::from_secs(30)));
        }
        reply
    });
    let mut store = Store::new();
    store.options.client.idle_timeout = Duration::from_millis(200);
    let start = Instant::now();
    let error = store.pull_error(&format!("{}/x", server.host()));
    assert!(error.contains("connection lost after"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn blobs_that_are_not_what_the_manifest_says_are_refused() {
    type Spoil = fn(Vec<u8>) -> Vec<u8>;
    let flip: Spoil = |mut bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        bytes
    };
    let shorten: Spoil = |mut bytes| {
        bytes.pop();
        bytes
    };
    let lengthen: Spoil = |mut bytes| {
        bytes.push(0);
        bytes
    };
    for compression in [Compression::None, Compression::Gzip] {
        for (spoil, expected) in [(flip, "blob "), (shorten, "the server has"), (lengthen, "the server has")] {
            let mut repository = Repository::default();
            let tar = layer_tar(&[("noise", &noise(600_000))]);
            repository.add_image("latest", "amd64", &[(tar, compression)]);
            let server = Server::http(move |request| {
                let mut reply = repository.reply(request);
                if is_layer(&repository, request) {
                    reply.body = spoil(reply.body);
                }
                reply
            });
            let store = Store::new();
            let error = store.pull_error(&format!("{}/x", server.host()));
            // A flipped bit in gzip may be noticed by the inflater first.
            assert!(error.contains(expected) || error.starts_with("layer sha256:"), "{error}");
            assert_eq!(server.lines().len(), 3, "lies are not asked for again");
        }
    }
}

#[test]
fn wrong_plain_blob_is_named_with_both_digests() {
    let mut repository = Repository::default();
    let tar = layer_tar(&[("noise", &noise(600_000))]);
    let expected = Digest::of(&tar);
    repository.add_image("latest", "amd64", &[(tar, Compression::None)]);
    let server = Server::http(move |request| {
        let mut reply = repository.reply(request);
        if is_layer(&repository, request) {
            reply.body[10_000] ^= 1;
        }
        reply
    });
    let store = Store::new();
    let error = store.pull_error(&format!("{}/x", server.host()));
    assert!(error.contains(&expected.to_string()), "{error}");
}

#[test]
fn layer_that_unpacks_to_something_else_is_refused() {
    // The blob is what its digest says, but neither what the configuration says nor, in the second case, gzip at all.
    let tar = layer_tar(&[("noise", &noise(20_000))]);
    let (good, mut broken) = (compress(&tar, Compression::Gzip), compress(&tar, Compression::Gzip));
    broken.truncate(broken.len() / 2);
    for (blob, expected) in [(good, "uncompressed it is"), (broken, "layer sha256:")] {
        let mut repository = Repository::default();
        let other = Digest::of(b"some other tar");
        let size = blob.len();
        let layer = repository.add_blob(blob);
        let config =
            format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{other}"]}}}}"#);
        let config_size = config.len();
        let config = repository.add_blob(config.into_bytes());
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{}","digest":"{config}","size":{config_size}}},
            "layers":[{{"mediaType":"{}","digest":"{layer}","size":{size}}}]}}"#,
            media_type::OCI_CONFIG,
            media_type::OCI_LAYER_GZIP
        );
        repository.add_manifest("latest", media_type::OCI_MANIFEST, manifest);
        let server = Server::http(move |request| repository.reply(request));
        let store = Store::new();
        let error = store.pull_error(&format!("{}/x", server.host()));
        assert!(error.contains(expected), "{error}");
        assert!(
            !store.layout.layer(&DiffId::new(other.clone()), Ownership::Single).exists(),
            "nobody else's layer is made"
        );
    }
}

#[test]
fn manifests_that_lie_are_refused() {
    let repository = small();
    let digest = Digest::of(&repository.manifests["latest"].1);
    let spoiled = {
        let repository = repository.clone();
        Server::http(move |request| {
            let mut reply = repository.reply(request);
            if request.target.contains("/manifests/") {
                reply.body.push(b' ');
            }
            reply
        })
    };
    let store = Store::new();
    for name in [format!("{}/x", spoiled.host()), format!("{}/x@{digest}", spoiled.host())] {
        let error = store.pull_error(&name);
        assert!(error.starts_with(&format!("manifest {digest}: wrong content")), "{error}");
    }
    // Without the header only a reference by digest can tell.
    let silent = Server::http(move |request| {
        let mut reply = repository.reply(request);
        reply.headers.retain(|(name, _)| name == "Content-Type");
        reply.body.push(b' ');
        reply
    });
    let error = store.pull_error(&format!("{}/x@{digest}", silent.host()));
    assert!(error.starts_with(&format!("manifest {digest}: wrong content")), "{error}");
}

#[test]
fn what_is_no_image_is_refused_by_name() {
    for (media_type, text, expected) in [
        (
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            r#"{"schemaVersion":1,"fsLayers":[]}"#,
            "schema 1",
        ),
        ("text/html", "<html>\n<body>", "invalid JSON"),
        ("application/json", "{}", "unsupported manifest type"),
    ] {
        let mut repository = Repository::default();
        repository.add_manifest("latest", media_type, text.to_owned());
        let server = Server::http(move |request| repository.reply(request));
        let error = Store::new().pull_error(&format!("{}/x", server.host()));
        assert!(error.contains(expected), "{error}");
    }
    let huge = Server::http(|_| Reply::new(200).body(vec![b' '; 5 << 20]));
    let error = Store::new().pull_error(&format!("{}/x", huge.host()));
    assert!(error.contains("more than the 4194304 that coracle reads"), "{error}");
}

#[test]
fn unreachable_registry_and_missing_blob_are_one_line() {
    let store = Store::new();
    let error = store.pull("127.0.0.1:1/x").expect_err("nobody listens").to_string();
    let expected = "pull 127.0.0.1:1/x:latest: tag latest: http://127.0.0.1:1: connection refused";
    assert_eq!(error, expected);
    let repository = small();
    let server = Server::http(move |request| match is_layer(&repository, request) {
        true => Reply::error(404, "BLOB_UNKNOWN", "blob unknown to registry"),
        false => repository.reply(request),
    });
    let error = store.pull_error(&format!("{}/x", server.host()));
    assert!(error.starts_with("blob sha256:") && error.ends_with("blob unknown to the registry"), "{error}");
}

#[test]
fn errors_can_be_told_apart_by_type() {
    let server = Server::http(|_| Reply::error(404, "MANIFEST_UNKNOWN", "manifest unknown"));
    let error = Store::new().pull(&format!("{}/x", server.host())).expect_err("missing");
    assert!(matches!(error.reason, TransportError::Registry(RegistryError::ManifestUnknown { .. })));
}

#[test]
fn another_platform_than_asked_for_is_an_error_only_if_asked_for() {
    let mut repository = Repository::default();
    repository.add_image("latest", "s390x", &[(layer_tar(&[("a", b"a")]), Compression::Gzip)]);
    let server = Server::http(move |request| repository.reply(request));
    let mut store = Store::new();
    let error = store.pull_error(&format!("{}/x", server.host()));
    assert_eq!(error, "the image is for linux/s390x, not for linux/amd64");
    store.options.platform = None;
    store.pull(&format!("{}/x", server.host())).unwrap_or_else(|error| panic!("{error}"));
    assert!(store.messages()[0].contains("the image is for linux/s390x"));
}
