//! Who we are, and who gets to know it.

use std::sync::Arc;

use storage::transport::registry::Credentials;

use crate::fixture::{Store, small};
use crate::server::{Reply, Request, Server};

/// A token server that gives out `TOKEN` for whatever `accept` accepts.
fn token_server(accept: fn(&Request) -> bool) -> Server {
    Server::http(move |request| match accept(request) {
        true => Reply::new(200).body(r#"{"access_token":"TOKEN","expires_in":300}"#),
        false => Reply::new(401).body(r#"{"details":"incorrect username or password"}"#),
    })
}

/// A registry that wants `header`, and challenges everybody else.
fn guarded(header: &'static str, challenge: String) -> Server {
    let repository = small();
    Server::http(move |request| match request.header("authorization") {
        Some(sent) if sent == header => repository.reply(request),
        _ => Reply::error(401, "UNAUTHORIZED", "authentication required").header("WWW-Authenticate", challenge.clone()),
    })
}

fn bearer(tokens: &Server) -> String {
    format!(r#"Bearer realm="http://{}/token",service="registry, the",scope="repository:x:pull""#, tokens.host())
}

#[test]
fn anonymous_token_is_fetched_once_and_used_for_everything() {
    let tokens = token_server(|request| request.header("authorization").is_none());
    let registry = guarded("Bearer TOKEN", bearer(&tokens));
    Store::new().pull(&format!("{}/x", registry.host())).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(tokens.lines(), ["GET /token?service=registry%2C+the&scope=repository%3Ax%3Apull"]);
    assert_eq!(registry.lines().len(), 4, "one challenge, then manifest, configuration, layer");
}

#[test]
fn password_goes_to_the_token_server_and_the_token_to_the_registry() {
    let tokens = token_server(|request| request.header("authorization") == Some("Basic dXNlcjpwYXNz"));
    let registry = guarded("Bearer TOKEN", bearer(&tokens));
    let mut store = Store::new();
    let error = store.pull_error(&format!("{}/x", registry.host()));
    assert_eq!(
        error,
        "tag latest: authentication required: incorrect username or password: the repository does not exist or needs a login"
    );
    store.options.client.credentials = Some(Credentials::parse("user:wrong").unwrap());
    let error = store.pull_error(&format!("{}/x", registry.host()));
    assert!(error.ends_with("incorrect username or password: the credentials were refused"), "{error}");
    store.options.client.credentials = Some(Credentials::parse("user:pass").unwrap());
    store.pull(&format!("{}/x", registry.host())).unwrap_or_else(|error| panic!("{error}"));
    for request in registry.log.lock().unwrap().iter() {
        assert!(request.header("authorization").is_none_or(|value| value == "Bearer TOKEN"));
    }
}

#[test]
fn identity_token_is_exchanged_by_post() {
    let tokens = token_server(|request| {
        request.method == "POST"
            && request.header("authorization").is_none()
            && request.body.contains("grant_type=refresh_token")
            && request.body.contains("refresh_token=se%26cret")
            && request.body.contains("scope=repository%3Ax%3Apull")
    });
    let registry = guarded("Bearer TOKEN", bearer(&tokens));
    let mut store = Store::new();
    store.options.client.credentials = Some(Credentials::IdentityToken("se&cret".to_owned()));
    store.pull(&format!("{}/x", registry.host())).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn basic_registry_gets_the_password_from_the_file_and_only_after_it_asked() {
    let registry = guarded("Basic dXNlcjpwYXNz", r#"Negotiate, Basic realm="a, b""#.to_owned());
    let store = Store::new();
    let error = store.pull_error(&format!("{}/x", registry.host()));
    assert_eq!(error, "tag latest: authentication required: the repository does not exist or needs a login");
    let text = format!(r#"{{"auths":{{"{}/x":{{"auth":"dXNlcjpwYXNz"}}}}}}"#, registry.host());
    std::fs::write(store.options.client.authfile.as_ref().unwrap(), text).unwrap();
    store.pull(&format!("{}/x", registry.host())).unwrap_or_else(|error| panic!("{error}"));
    let log = registry.log.lock().unwrap().clone();
    assert!(log[0].header("authorization").is_none() && log[1].header("authorization").is_none());
}

#[test]
fn expired_token_is_replaced_in_the_middle_of_a_pull() {
    let tokens = Server::http(|request| Reply::new(200).body(format!(r#"{{"token":"T{}"}}"#, request.repeat)));
    let challenge = bearer(&tokens);
    let repository = small();
    let registry = Server::http(move |request| {
        let wanted = if request.target.contains("/blobs/") { "Bearer T1" } else { "Bearer T0" };
        match request.header("authorization") {
            Some(sent) if sent == wanted => repository.reply(request),
            _ => Reply::new(401).header("WWW-Authenticate", challenge.clone()),
        }
    });
    Store::new().pull(&format!("{}/x", registry.host())).unwrap_or_else(|error| panic!("{error}"));
    assert!(tokens.lines().len() >= 2);
}

#[test]
fn credentials_stay_behind_when_a_blob_is_elsewhere() {
    let repository = Arc::new(small());
    let elsewhere = {
        let repository = repository.clone();
        Server::http(move |request| repository.reply(request))
    };
    let elsewhere_host = elsewhere.host();
    let registry = Server::http(move |request| {
        let digest = request.target.rsplit('/').next().unwrap();
        let moved = |location: String| Reply::new(307).header("Location", location);
        match (request.header("authorization"), request.target.as_str()) {
            (None, _) => Reply::new(401).header("WWW-Authenticate", "Basic realm=x"),
            // First within the registry, where the password may follow, then away from it.
            (_, target) if target.contains("/blobs/") => moved(format!("/moved/{digest}")),
            (_, target) if target.starts_with("/moved/") => {
                moved(format!("http://{elsewhere_host}/v2/x/blobs/{digest}?signature=s"))
            }
            _ => repository.reply(request),
        }
    });
    let mut store = Store::new();
    store.options.client.credentials = Some(Credentials::parse("user:pass").unwrap());
    let result = store.pull(&format!("{}/x", registry.host()));
    for request in elsewhere.log.lock().unwrap().iter() {
        assert!(request.header("authorization").is_none(), "{request:?}");
    }
    result.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(elsewhere.count("/blobs/"), 2);
}

#[test]
fn redirects_end() {
    let registry = Server::http(|request| Reply::new(302).header("Location", request.target.clone()));
    let error = Store::new().pull_error(&format!("{}/x", registry.host()));
    assert_eq!(error, "tag latest: refusing the redirect to 127.0.0.1: too many redirects");
    assert!(registry.lines().len() <= 12);
    let registry = Server::http(|_| Reply::new(302).header("Location", "file:///etc/passwd"));
    let error = Store::new().pull_error(&format!("{}/x", registry.host()));
    assert_eq!(error, "tag latest: refusing the redirect to file:///etc/passwd: neither http nor https");
}
