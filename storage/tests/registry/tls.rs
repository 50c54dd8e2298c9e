//! Encrypted registries.

use crate::fixture::{Store, small};
use crate::server::{Reply, Server};

fn https() -> Server {
    let repository = small();
    Server::https(move |request| repository.reply(request))
}

/// A directory with the test authority as `ca.crt`.
fn cert_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ca.crt"), include_bytes!("certs/ca.crt")).unwrap();
    dir
}

#[test]
fn own_authority_is_trusted_and_an_unknown_one_is_not() {
    let (server, mut store, dir) = (https(), Store::new(), cert_dir());
    let name = format!("localhost:{}/x", server.address.port());
    let error = store.pull_error(&name);
    assert!(error.contains("certificate") && error.contains("UnknownIssuer"), "{error}");
    store.options.client.tls_verify = Some(true);
    let error = store.pull_error(&name);
    assert!(error.contains("UnknownIssuer"), "{error}");
    store.options.client.cert_dir = Some(dir.path().to_owned());
    store.pull(&name).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn anybody_is_trusted_without_verification() {
    let (server, mut store) = (https(), Store::new());
    store.options.client.tls_verify = Some(false);
    store.pull(&format!("localhost:{}/x", server.address.port())).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn certificate_for_another_name_is_refused() {
    let (server, mut store, dir) = (https(), Store::new(), cert_dir());
    store.options.client.cert_dir = Some(dir.path().to_owned());
    let error = store.pull_error(&format!("127.0.0.2:{}/x", server.address.port()));
    assert!(error.contains("127.0.0.2"), "{error}");
}

#[test]
fn plain_registry_on_loopback_is_refused_when_verification_is_asked_for() {
    let repository = small();
    let server = Server::http(move |request| repository.reply(request));
    let mut store = Store::new();
    store.options.client.tls_verify = Some(true);
    let error = store.pull_error(&format!("{}/x", server.host()));
    assert!(error.contains("https://"), "{error}");
    assert!(server.lines().is_empty() || server.lines().iter().all(|line| !line.starts_with("GET /v2")));
}

#[test]
fn redirect_out_of_the_encrypted_connection_is_refused() {
    let plain = Server::http(|_| Reply::new(200));
    let target = plain.host();
    let server = Server::https(move |_| Reply::new(307).header("Location", format!("http://{target}/x?secret")));
    let (mut store, dir) = (Store::new(), cert_dir());
    store.options.client.cert_dir = Some(dir.path().to_owned());
    let error = store.pull_error(&format!("localhost:{}/x", server.address.port()));
    let expected =
        format!("tag latest: refusing the redirect to http://{}/x: it leaves the encrypted connection", plain.host());
    assert_eq!(error, expected);
    assert!(plain.lines().is_empty());
}

#[test]
fn certificate_directories_that_cannot_work_say_why() {
    let (server, mut store) = (https(), Store::new());
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("client.cert"), include_bytes!("certs/server.crt")).unwrap();
    store.options.client.cert_dir = Some(dir.path().to_owned());
    let name = format!("localhost:{}/x", server.address.port());
    let error = store.pull_error(&name);
    assert!(error.contains("client.key is missing"), "{error}");
    std::fs::write(dir.path().join("client.key"), include_bytes!("certs/server.key")).unwrap();
    std::fs::write(dir.path().join("ca.crt"), "nothing").unwrap();
    let error = store.pull_error(&name);
    assert!(error.contains("no certificate in it"), "{error}");
    std::fs::write(dir.path().join("ca.crt"), include_bytes!("certs/ca.crt")).unwrap();
    store.pull(&name).unwrap_or_else(|error| panic!("{error}"));
}
