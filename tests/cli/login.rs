//! `login`, `logout`, and who is asked with what

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::persona::called;
use crate::support::image::{Image, Layer, Packing};
use crate::support::layout::{Blobs, Schema};
use crate::support::prelude::*;
use crate::support::pty::Terminal;
use crate::support::registry::{Registry, Setup};
use crate::support::sink::{Sink, Trouble};

pub(crate) const TESTS: &[Test] = &[
    test!(login_is_used_by_pull_and_push)
        .needs(&[Need::Registry, Need::Skopeo, Need::Openssl, Need::Htpasswd])
        .without_image(),
    test!(login_from_stdin_secret_and_terminal).without_image(),
    test!(login_where_docker_and_podman_look).without_image(),
    test!(login_by_a_helper).without_image(),
    test!(login_keeps_an_identity_token_for_docker).without_image(),
    test!(logout_forgets_everywhere).without_image(),
    test!(login_command_lines_that_contradict_themselves).without_image(),
];

const AUTH: &str = ".config/containers/auth.json";
const DOCKER: &str = ".docker/config.json";

/// A registry that wants `me:secret`, in the way of Basic.
fn guarded() -> Sink {
    Sink::start(|request| {
        // me:secret
        if request.headers.get("authorization").map(String::as_str) == Some("Basic bWU6c2VjcmV0") {
            return None;
        }
        let challenge = r#"Basic realm="x""#.to_owned();
        Some(Trouble::Status(401, vec![("WWW-Authenticate".to_owned(), challenge)], String::new()))
    })
}

fn text(home: &Home, name: &str) -> String {
    fs::read_to_string(home.path().join(name)).unwrap_or_default()
}

fn login_is_used_by_pull_and_push(home: &Home) {
    let registry = Registry::start_with(home, Setup { tls: true, password: true, ..Setup::default() });
    let certificates = home.path().join(".config/containers/certs.d").join(registry.host());
    fs::create_dir_all(&certificates).unwrap();
    fs::copy(registry.ca(), certificates.join("ca.crt")).unwrap();
    let host = registry.host();
    let mut blobs = Blobs::default();
    blobs.add("it", &Image::scratch().layer(Layer::new().file("f", "x")), Packing::Gzip, Schema::Oci);
    blobs.write(&home.tmp().join("layout"));
    let id = home.ok(&format!("pull -q oci:{}:it", home.tmp().join("layout").display()));
    home.ok(&format!("tag {id} {host}/a/b:1"));
    let line = home.fails(125, &format!("login -u me -p wrong {host}"));
    assert_eq!(line, format!("Error: logging into {host:?}: invalid username/password"));
    assert_eq!(text(home, AUTH), "", "nothing is kept of what was refused");
    home.fails(125, &format!("push -q {host}/a/b:1"));
    assert_eq!(home.ok(&format!("login -u me -p secret {host}")), "Login Succeeded!");
    let mode = fs::metadata(home.path().join(AUTH)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    home.ok(&format!("push -q {host}/a/b:1"));
    home.ok("rmi -a -f");
    home.ok(&format!("pull -q {host}/a/b:1"));
    assert_eq!(home.ok(&format!("login --get-login {host}")), "me");
    let again = home.ok(&format!("login {host}"));
    assert!(again.ends_with(&format!("Already logged in to {host}")), "{again}");
    assert_eq!(home.ok(&format!("logout {host}")), format!("Removed login credentials for {host}"));
    let line = home.fails(125, &format!("logout {host}"));
    assert_eq!(line, format!("Error: not logged into {host}"));
    home.fails(125, &format!("login --get-login {host}"));
    home.fails(125, &format!("pull -q {host}/a/b:1"));
}

fn login_from_stdin_secret_and_terminal(home: &Home) {
    let sink = guarded();
    let host = sink.host();
    home.coracle(&format!("login -u me --password-stdin {host}")).stdin("secret\n").run().ok();
    home.ok(&format!("logout {host}"));
    home.coracle("secret create me -").stdin("secret").run().ok();
    home.ok(&format!("login --secret me {host}"));
    home.ok("logout --all");
    let mut terminal = Terminal::start(home.coracle(&format!("login {host}")));
    terminal.expect("Username: ");
    terminal.send("me\n");
    terminal.expect("Password: ");
    terminal.send("secrex\x7ft\n");
    terminal.expect("Login Succeeded!");
    assert_eq!(terminal.wait(), 0);
    home.ok("logout --all");
    let mut terminal = Terminal::start(home.coracle(&format!("login -u me {host}")));
    terminal.expect("Password: ");
    terminal.send("sec\x03");
    assert_eq!(terminal.wait(), 130, "an interrupt ends it");
    assert!(terminal.is_cooked(), "and leaves the terminal as it was");
    let line = home.coracle(&format!("login -u me {host}")).run().fails(125);
    assert!(line.contains("standard input is not a terminal"), "{line}");
}

fn login_where_docker_and_podman_look(home: &Home) {
    let sink = guarded();
    let host = sink.host();
    home.ok(&format!("login -u me -p secret {host}"));
    assert!(text(home, AUTH).contains(&host) && text(home, DOCKER).is_empty());
    home.ok("logout -a");
    let answer = called(home, "docker", &format!("login -u me -p secret {host}"));
    assert_eq!((answer.code, answer.out.as_str()), (0, "Login Succeeded"), "{}", answer.err);
    assert!(text(home, DOCKER).contains(&host));
    assert_eq!(home.ok(&format!("login --get-login {host}")), "me", "both look everywhere");
    called(home, "docker", &format!("logout {host}"));
    home.fails(125, &format!("login --get-login {host}"));
    // A file that was named, in both forms.
    let named = home.tmp().join("named.json");
    let said = home.ok(&format!("login -v --authfile {} -u me -p secret {host}", named.display()));
    assert!(said.contains(&format!("Used:  {}", named.display())), "{said}");
    home.fails(125, &format!("login --get-login {host}"));
    home.ok(&format!("logout --authfile {} {host}", named.display()));
    home.ok(&format!("login --compat-auth-file {} -u me -p secret {host}", named.display()));
    assert!(fs::read_to_string(&named).unwrap().contains(&host));
    // Where an older entry would hide the new one, the new one goes.
    let runtime = home.runtime_dir().join("containers");
    fs::create_dir_all(&runtime).unwrap();
    fs::write(runtime.join("auth.json"), format!(r#"{{"auths":{{"{host}":{{"auth":"eDp5"}}}}}}"#)).unwrap();
    home.ok(&format!("login -u me -p secret {host}"));
    assert_eq!(home.ok(&format!("login --get-login {host}")), "me");
}

/// A helper that keeps one file for each server.
const HELPER: &str = r#"#!/bin/sh
store=$HOME/kept; mkdir -p "$store"
name() { printf %s "$1" | tr '/:' '__'; }
case $1 in
  get) read -r server; f=$store/$(name "$server"); test -e "$f" || { echo "credentials not found in native keychain"; exit 1; }; cat "$f" ;;
  store) document=$(cat); server=$(printf %s "$document" | sed 's/.*"ServerURL":"\([^"]*\)".*/\1/'); printf %s "$document" >"$store/$(name "$server")" ;;
  erase) read -r server; rm "$store/$(name "$server")" ;;
  list) echo '{}' ;;
esac
"#;

fn login_by_a_helper(home: &Home) {
    let sink = guarded();
    let host = sink.host();
    let helper = home.write("bin/docker-credential-test", HELPER);
    crate::support::home::set_mode(&helper, 0o755);
    let path = format!("{}:/usr/bin:/bin", helper.parent().unwrap().display());
    let run = |line: &str| home.coracle(line).env("PATH", &path).run();
    fs::create_dir_all(home.path().join(".config/containers")).unwrap();
    fs::write(home.path().join(AUTH), format!(r#"{{"credHelpers":{{"{host}":"test"}}}}"#)).unwrap();
    run(&format!("login -u me -p secret {host}")).ok();
    assert!(!text(home, AUTH).contains("bWU6c2VjcmV0"), "the secret is the helper's: {}", text(home, AUTH));
    assert_eq!(fs::read_dir(home.path().join("kept")).unwrap().count(), 1);
    assert_eq!(run(&format!("login --get-login {host}")).ok(), "me");
    run(&format!("login {host}")).ok();
    run(&format!("logout {host}")).ok();
    assert_eq!(fs::read_dir(home.path().join("kept")).unwrap().count(), 0);
    run(&format!("logout {host}")).fails(125);
}

fn login_keeps_an_identity_token_for_docker(home: &Home) {
    let sink = Sink::start(|request| {
        let host = request.headers.get("host").cloned().unwrap_or_default();
        if request.path.starts_with("/token") {
            let wants = request.path.contains("offline_token=true") && request.path.contains("account=me");
            let refreshes = request.method == "POST";
            let body = match wants || refreshes {
                true => r#"{"token":"the-token","refresh_token":"the-identity"}"#,
                false => r#"{"token":"the-token"}"#,
            };
            return Some(Trouble::Status(200, Vec::new(), body.to_owned()));
        }
        if request.headers.get("authorization").map(String::as_str) == Some("Bearer the-token") {
            return None;
        }
        let challenge = format!(r#"Bearer realm="http://{host}/token",service="tests""#);
        Some(Trouble::Status(401, vec![("WWW-Authenticate".to_owned(), challenge)], String::new()))
    });
    let host = sink.host();
    assert_eq!(called(home, "docker", &format!("login -u me -p secret {host}")).code, 0);
    let kept = text(home, DOCKER);
    assert!(kept.contains(r#""identitytoken": "the-identity""#), "{kept}");
    home.fails(125, &format!("pull -q {host}/nosuch"));
    assert!(sink.count("POST", "/token") > 0, "it is what tokens are got with");
}

fn logout_forgets_everywhere(home: &Home) {
    let entry = r#"{"auths":{"r.io":{"auth":"eDp5"},"other.io":{"auth":"eDp5"}},"detachKeys":"ctrl-x"}"#;
    for name in [AUTH, DOCKER] {
        fs::create_dir_all(home.path().join(name).parent().unwrap()).unwrap();
        fs::write(home.path().join(name), entry).unwrap();
    }
    home.ok("logout https://r.io");
    for name in [AUTH, DOCKER] {
        let left = text(home, name);
        assert!(!left.contains("\"r.io\"") && left.contains("other.io") && left.contains("ctrl-x"), "{left}");
    }
    assert_eq!(home.ok("logout -a"), "Removed login credentials for all registries");
    assert!(!text(home, AUTH).contains("other.io") && text(home, DOCKER).contains("ctrl-x"));
    fs::write(home.path().join(AUTH), "[").unwrap();
    assert!(home.fails(125, "logout r.io").contains("invalid JSON"));
}

fn login_command_lines_that_contradict_themselves(home: &Home) {
    for (line, part) in [
        ("login -u me -p x --password-stdin r.io", "Can't specify both --password-stdin and --password"),
        ("login --password-stdin r.io", "Must provide --username with --password-stdin"),
        ("login --authfile a --compat-auth-file b r.io", "can not be set simultaneously"),
        ("login --get-login nosuch.io", "not logged into nosuch.io"),
        ("login --secret nosuch r.io", "nosuch"),
        ("login -u me -p x 127.0.0.1:1", "connection refused"),
    ] {
        let line_said = home.fails(125, line);
        assert!(line_said.contains(part), "{line}: {line_said}");
    }
    home.coracle("login -u me -p x").arg("bad name").run().fails(125);
}
