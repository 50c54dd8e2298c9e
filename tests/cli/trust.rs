//! `policy.json`: who may come in, whose signature they need; `image trust`

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::image::{Image, Layer, Packing};
use crate::support::layout::{Blobs, Schema};
use crate::support::prelude::*;
use crate::support::registry::{Registry, run_program, tool};

pub(crate) const TESTS: &[Test] = &[
    test!(images_are_accepted_by_scope).needs(&[Need::Registry, Need::Skopeo]).without_image(),
    test!(policies_that_are_not_understood_refuse).without_image(),
    test!(sigstore_signatures_are_verified).needs(&[Need::Registry, Need::Skopeo, Need::Openssl]).without_image(),
    test!(gnupg_signatures_are_verified).needs(&[Need::Registry, Need::Skopeo, Need::Gnupg]).without_image(),
    test!(trust_is_set_and_shown).without_image(),
];

fn policy_path(home: &Home) -> PathBuf {
    home.path().join(".config/containers/policy.json")
}

fn set_policy(home: &Home, policy: &Value) {
    let path = policy_path(home);
    fs::create_dir_all(path.parent().expect("in a directory")).expect("the home is ours");
    fs::write(path, policy.to_string()).expect("the home is ours");
}

fn layout(home: &Home) -> (PathBuf, String) {
    let mut blobs = Blobs::default();
    let descriptor =
        blobs.add("it", &Image::busybox().layer(Layer::new().file("who", "me")), Packing::Gzip, Schema::Oci);
    let dir = home.tmp().join("layout");
    blobs.write(&dir);
    (dir, descriptor["digest"].as_str().expect("a digest").to_owned())
}

fn images_are_accepted_by_scope(home: &Home) {
    let registry = Registry::start(home);
    let (dir, digest) = layout(home);
    let host = registry.host();
    for name in ["team/app:1", "other/app:1"] {
        registry.push(&format!("oci:{}:it", dir.display()), name);
    }
    set_policy(
        home,
        &json!({"default": [{"type": "reject"}], "transports": {
            "docker": {format!("{host}/team"): [{"type": "insecureAcceptAnything"}]},
            "oci": {dir.display().to_string(): [{"type": "insecureAcceptAnything"}]}}}),
    );
    home.ok(&format!("pull -q {host}/team/app:1"));
    home.ok(&format!("pull -q oci:{}:it", dir.display()));
    home.ok("rmi -af");
    for line in [
        format!("pull -q {host}/other/app:1"),
        format!("run --rm {host}/other/app@{digest} true"),
        format!("pull -q dir:{}", dir.join("blobs").display()),
    ] {
        let error = home.fails(125, &line);
        assert!(error.contains("policy.json") || line.contains("dir:"), "{line}: {error}");
    }
    let archive = home.tmp().join("it.tar");
    home.ok(&format!("pull -q {host}/team/app:1"));
    home.ok(&format!("save -o {} {host}/team/app:1", archive.display()));
    home.ok("rmi -af");
    let error = home.fails(125, &format!("load -i {}", archive.display()));
    assert!(error.contains("policy.json") && error.contains("rejected"), "{error}");
    assert_eq!(home.ok("images -q"), "");
}

fn policies_that_are_not_understood_refuse(home: &Home) {
    let (dir, _) = layout(home);
    for text in [
        "",
        "{}",
        r#"{"default": [{"type": "perhaps"}]}"#,
        r#"{"default": [{"type": "insecureAcceptAnything"}], "oops": 1}"#,
        r#"{"default": [{"type": "insecureAcceptAnything"}, {"type": "signedBy", "keyType": "other"}]}"#,
    ] {
        set_policy(home, &json!(null));
        fs::write(policy_path(home), text).unwrap();
        let error = home.fails(125, &format!("pull -q oci:{}:it", dir.display()));
        assert!(error.contains("refused by") && error.contains("policy.json"), "{text}: {error}");
    }
    assert_eq!(home.ok("images -q"), "");
}

/// A key of openssl's and its public half.
fn key_pair(home: &Home, name: &str) -> (PathBuf, PathBuf) {
    let (private, public) = (home.tmp().join(format!("{name}.key")), home.tmp().join(format!("{name}.pub")));
    let openssl = |arguments: &[&str], path: &Path| {
        run_program(Command::new(tool("openssl")).args(arguments).arg("-out").arg(path));
    };
    openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"], &private);
    openssl(&["pkey", "-in", private.to_str().unwrap(), "-pubout"], &public);
    (private, public)
}

/// Puts a signature beside an image, as cosign does.
fn sign(home: &Home, registry: &Registry, key: &Path, repository: &str, digest: &str, reference: &str) {
    let payload = json!({"critical": {
        "identity": {"docker-reference": reference},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature"}, "optional": null});
    let file = home.write("payload", payload.to_string());
    let mut command = Command::new(tool("openssl"));
    command.args(["dgst", "-sha256", "-sign"]).arg(key).arg(&file);
    let signature = run_program(&mut command);
    let encoded = String::from_utf8(run_program(
        Command::new(tool("openssl")).args(["base64", "-A", "-in"]).arg(home.write("signature", signature)),
    ))
    .unwrap();
    let mut blobs = Blobs::default();
    let mut layer = blobs.put("application/vnd.dev.cosign.simplesigning.v1+json", payload.to_string().into_bytes());
    layer["annotations"] = json!({"dev.cosignproject.cosign/signature": encoded.trim()});
    let rootfs = json!({"type": "layers", "diff_ids": [layer["digest"]]});
    let config = json!({"architecture": "", "os": "", "config": {}, "rootfs": rootfs}).to_string();
    let config = blobs.put("application/vnd.oci.image.config.v1+json", config.into_bytes());
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer]});
    let descriptor = blobs.put(kind, manifest.to_string().into_bytes());
    blobs.tags.insert("it".to_owned(), descriptor);
    let dir = home.tmp().join("signature-layout");
    let _ = fs::remove_dir_all(&dir);
    blobs.write(&dir);
    registry.push(&format!("oci:{}:it", dir.display()), &format!("{repository}:{}.sig", digest.replace(':', "-")));
}

fn sigstore_signatures_are_verified(home: &Home) {
    let registry = Registry::start(home);
    let (dir, digest) = layout(home);
    let name = format!("{}/team/app:1", registry.host());
    registry.push(&format!("oci:{}:it", dir.display()), "team/app:1");
    let (ours, public) = key_pair(home, "ours");
    let (theirs, _) = key_pair(home, "theirs");
    set_policy(home, &json!({"default": [{"type": "sigstoreSigned", "keyPath": public}]}));
    let refused = |why: &str| {
        let error = home.fails(125, &format!("pull -q {name}"));
        assert!(error.contains("policy.json") && error.contains(why), "{why}: {error}");
        assert_eq!(home.ok("images -q"), "");
    };
    refused("there is none");
    sign(home, &registry, &theirs, "team/app", &digest, &name);
    refused("another key");
    sign(home, &registry, &ours, "team/app", &digest, "elsewhere.test/app:1");
    refused("elsewhere.test/app:1");
    // A good signature of another image.
    let other = format!("sha256:{}", "0".repeat(64));
    let tag = format!("team/app:{}.sig", digest.replace(':', "-"));
    sign(home, &registry, &ours, "team/app", &other, &name);
    let (from, to) = (format!("team/app:{}.sig", other.replace(':', "-")), tag);
    let copy = |from: &str, to: &str| {
        let place = |name: &str| format!("docker://{}/{name}", registry.host());
        let mut command = Command::new(tool("skopeo"));
        command.args(["copy", "--quiet", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false"]);
        run_program(command.arg(place(from)).arg(place(to)));
    };
    copy(&from, &to);
    refused("the signature is for sha256:000");
    sign(home, &registry, &ours, "team/app", &digest, &name);
    home.ok(&format!("pull -q {name}"));
    assert_eq!(home.ok(&format!("run --rm {name} cat /who")), "me");
    fs::remove_file(&public).unwrap();
    home.ok("rmi -af");
    refused("there is no key");
}

fn gnupg_signatures_are_verified(home: &Home) {
    let registry = Registry::start(home);
    let (dir, digest) = layout(home);
    let name = format!("{}/team/app:1", registry.host());
    registry.push(&format!("oci:{}:it", dir.display()), "team/app:1");
    // The path of the agent's socket must be short.
    let keys = tempfile::Builder::new().prefix("g").tempdir_in("/tmp").expect("a temporary directory");
    crate::support::home::set_mode(keys.path(), 0o700);
    let gpg = |arguments: &[&str]| {
        let mut command = Command::new(tool("gpg"));
        command.arg("--homedir").arg(keys.path()).args(["--batch", "--quiet", "--yes", "--passphrase", ""]);
        run_program(command.args(["--pinentry-mode", "loopback"]).args(arguments))
    };
    for user in ["ours@example.test", "theirs@example.test"] {
        gpg(&["--quick-generate-key", user, "ed25519", "sign", "never"]);
    }
    let public = home.write("ours.asc", gpg(&["--armor", "--export", "ours@example.test"]));
    let signatures = home.tmp().join("signatures");
    let at = signatures.join(format!("team/app@{}", digest.replace(':', "=")));
    fs::create_dir_all(&at).unwrap();
    let registries = home.path().join(".config/containers/registries.d");
    fs::create_dir_all(&registries).unwrap();
    let text = format!("docker:\n  {}:\n    lookaside: file://{}\n", registry.host(), signatures.display());
    fs::write(registries.join("it.yaml"), text).unwrap();
    set_policy(home, &json!({"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": public}]}));
    let sign = |user: &str, reference: &str| {
        let payload = json!({"critical": {
            "identity": {"docker-reference": reference},
            "image": {"docker-manifest-digest": digest},
            "type": "atomic container signature"}, "optional": {}});
        let file = home.write("payload", payload.to_string());
        fs::write(
            at.join("signature-1"),
            gpg(&["--local-user", user, "--output", "-", "--sign", file.to_str().unwrap()]),
        )
        .unwrap();
    };
    let refused = |why: &str| {
        let error = home.fails(125, &format!("pull -q {name}"));
        assert!(error.contains(why), "{why}: {error}");
    };
    refused("there is none");
    sign("theirs@example.test", &name);
    refused("another key");
    sign("ours@example.test", "elsewhere.test/app:1");
    refused("elsewhere.test/app:1");
    fs::write(at.join("signature-1"), "nonsense").unwrap();
    refused("gpgv does not accept it");
    sign("ours@example.test", &name);
    home.ok(&format!("pull -q {name}"));
}

fn trust_is_set_and_shown(home: &Home) {
    let shown = home.ok("image trust show");
    assert!(shown.lines().nth(1).is_some_and(|line| line.starts_with("all ")), "{shown}");
    let key = home.write("key.pub", "not read before it is needed");
    home.ok("image trust set -t accept registry.test");
    home.ok("image trust set -t reject default");
    home.ok(&format!("image trust set -t sigstoreSigned -f {} registry.test/team", key.display()));
    let shown = home.ok("image trust show -n");
    let rows: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        rows,
        [
            vec!["all", "default", "reject"],
            vec!["repository", "registry.test", "accept"],
            vec!["repository", "registry.test/team", "sigstoreSigned", "N/A"]
        ]
    );
    let raw: Value = serde_json::from_str(&home.ok("image trust show --raw")).unwrap();
    assert_eq!(raw["transports"]["docker"]["registry.test/team"][0]["keyPath"], key.to_str().unwrap());
    let list: Value = serde_json::from_str(&home.ok("image trust show --json")).unwrap();
    assert_eq!(list[0], json!({"transport": "all", "name": "* (default)", "repo_name": "default", "type": "reject"}));
    for (line, part) in [
        ("image trust set -t perhaps registry.test", "perhaps"),
        ("image trust set registry.test", "public key"),
        ("image trust set -f /no/such registry.test", "/no/such"),
    ] {
        let error = home.fails(125, line);
        assert!(error.contains(part), "{line}: {error}");
    }
}
