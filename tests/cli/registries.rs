//! `registries.conf` and `daemon.json`: mirrors, other places, blocked ones, short names

use std::fs;

use crate::support::image::{Image, Layer, Packing};
use crate::support::layout::{Blobs, Schema};
use crate::support::prelude::*;
use crate::support::registry::{Registry, Setup, free_port};

pub(crate) const TESTS: &[Test] = &[
    test!(mirrors_are_asked_first).needs(&[Need::Registry, Need::Skopeo]).without_image(),
    test!(mirrors_that_fail_are_passed_over).needs(&[Need::Registry, Need::Skopeo]).without_image(),
    test!(login_is_not_for_mirrors).needs(&[Need::Registry, Need::Skopeo, Need::Htpasswd]).without_image(),
    test!(places_are_rewritten_for_pull_and_push).needs(&[Need::Registry, Need::Skopeo]).without_image(),
    test!(blocked_registries_give_nothing).without_image(),
    test!(insecure_registries_may_be_unknown).needs(&[Need::Registry, Need::Skopeo, Need::Openssl]).without_image(),
    test!(docker_s_mirrors_are_docker_hub_s).needs(&[Need::Registry, Need::Skopeo]).without_image(),
    test!(short_names_mean_what_the_files_say).needs(&[Need::Registry, Need::Skopeo]).without_image(),
    test!(malformed_files_are_named).without_image(),
];

/// Puts an image with its own text under `name` there.
fn publish(home: &Home, registry: &Registry, name: &str, text: &str) {
    let mut blobs = Blobs::default();
    let image = Image::busybox().layer(Layer::new().file("who", text));
    blobs.add("it", &image, Packing::Gzip, Schema::Oci);
    let dir = home.tmp().join(format!("layout-{}", text.replace(' ', "-")));
    blobs.write(&dir);
    registry.push(&format!("oci:{}:it", dir.display()), name);
}

/// What the user's configuration directory has.
fn configure(home: &Home, file: &str, text: &str) {
    let path = home.path().join(".config").join(file);
    fs::create_dir_all(path.parent().expect("a file in a directory")).expect("the home is ours");
    fs::write(path, text).expect("the home is ours");
}

fn who(home: &Home, name: &str) -> String {
    home.ok(&format!("run --rm {name} cat /who"))
}

fn mirrors_are_asked_first(home: &Home) {
    let (near, far) = (Registry::start(home), Registry::start(home));
    publish(home, &near, "copy/team/app:1", "near");
    publish(home, &far, "team/app:1", "far");
    publish(home, &far, "team/app:2", "far 2");
    let conf = format!(
        "[[registry]]\nlocation = \"{0}\"\n[[registry.mirror]]\nlocation = \"{1}/copy\"\npull-from-mirror = \"tag-only\"\n",
        far.host(),
        near.host()
    );
    configure(home, "containers/registries.conf", &conf);
    let name = format!("{}/team/app", far.host());
    home.ok(&format!("pull -q {name}:1"));
    // By the name that was asked for, with what the mirror had.
    assert_eq!(who(home, &format!("{name}:1")), "near");
    assert_eq!(home.ok("images --format {{.Repository}}:{{.Tag}}"), format!("{name}:1"));
    // What a mirror does not have comes from its origin.
    home.ok(&format!("pull -q {name}:2"));
    assert_eq!(who(home, &format!("{name}:2")), "far 2");
    // This one is not for digests.
    let digest = home.ok(&format!("image inspect --format {{{{.Digest}}}} {name}:2"));
    home.ok("rmi -af");
    home.ok(&format!("pull -q {name}@{digest}"));
    let shown = home.ok("info --format json");
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let rule = &shown["registries"][far.host()];
    assert_eq!(rule["Mirrors"][0]["Location"], format!("{}/copy", near.host()), "{shown}");
    assert!(rule["File"].as_str().unwrap().ends_with("containers/registries.conf"), "{rule}");
}

fn mirrors_that_fail_are_passed_over(home: &Home) {
    let far = Registry::start(home);
    publish(home, &far, "app:1", "far");
    let dead = format!("localhost:{}", free_port());
    let conf = format!("[[registry]]\nlocation = \"{}\"\n[[registry.mirror]]\nlocation = \"{dead}\"\n", far.host());
    configure(home, "containers/registries.conf", &conf);
    home.ok(&format!("pull -q {}/app:1", far.host()));
    // Both are named when none has it.
    let error = home.fails(125, &format!("pull -q --retry 0 {}/nothing:1", far.host()));
    assert!(error.contains(&dead) && error.contains("manifest unknown"), "{error}");
}

fn login_is_not_for_mirrors(home: &Home) {
    let guarded = Registry::start_with(home, Setup { password: true, ..Setup::default() });
    let far = Registry::start(home);
    publish(home, &guarded, "app:1", "guarded");
    publish(home, &far, "app:1", "far");
    let conf = format!(
        "[[registry]]\nlocation = \"{}\"\n[[registry.mirror]]\nlocation = \"{}\"\n",
        far.host(),
        guarded.host()
    );
    configure(home, "containers/registries.conf", &conf);
    let name = format!("{}/app:1", far.host());
    home.ok(&format!("pull -q --creds me:secret {name}"));
    assert_eq!(who(home, &name), "far");
    home.ok(&format!("login -u me -p secret {}", guarded.host()));
    home.ok(&format!("pull -q {name}"));
    assert_eq!(who(home, &name), "guarded");
}

fn places_are_rewritten_for_pull_and_push(home: &Home) {
    let registry = Registry::start(home);
    publish(home, &registry, "moved/app:1", "moved");
    let conf = format!("[[registry]]\nprefix = \"registry.test/old\"\nlocation = \"{}/moved\"\n", registry.host());
    configure(home, "containers/registries.conf", &conf);
    home.ok("pull -q registry.test/old/app:1");
    assert_eq!(who(home, "registry.test/old/app:1"), "moved");
    home.ok("tag registry.test/old/app:1 registry.test/old/again:2");
    home.ok("push -q registry.test/old/again:2");
    home.ok(&format!("pull -q {}/moved/again:2", registry.host()));
    assert_eq!(home.ok("search --list-tags registry.test/old/again --format {{.Tag}}"), "2");
}

fn blocked_registries_give_nothing(home: &Home) {
    configure(home, "containers/registries.conf.d/9.conf", "[[registry]]\nprefix = \"*.bad.test\"\nblocked = true\n");
    for line in ["pull x.bad.test/app", "run --rm x.bad.test/app true", "create x.bad.test/app"] {
        let error = home.fails(125, line);
        assert!(error.contains("*.bad.test is blocked") && error.contains("9.conf"), "{line}: {error}");
    }
    home.assert_nothing_left();
}

fn insecure_registries_may_be_unknown(home: &Home) {
    let registry = Registry::start_with(home, Setup { tls: true, ..Setup::default() });
    publish(home, &registry, "app:1", "tls");
    let name = format!("{}/app:1", registry.host());
    home.fails(125, &format!("pull -q {name}"));
    configure(home, "docker/daemon.json", &format!(r#"{{"insecure-registries": ["{}"]}}"#, registry.host()));
    home.ok(&format!("pull -q {name}"));
    home.fails(125, &format!("pull -q --tls-verify {name}"));
    fs::remove_file(home.path().join(".config/docker/daemon.json")).unwrap();
    let conf = format!("[[registry]]\nlocation = \"{}\"\ninsecure = true\n", registry.host());
    configure(home, "containers/registries.conf", &conf);
    home.ok(&format!("pull -q {name}"));
}

fn docker_s_mirrors_are_docker_hub_s(home: &Home) {
    let mirror = Registry::start(home);
    publish(home, &mirror, "library/app:1", "mirror");
    configure(home, "docker/daemon.json", &format!(r#"{{"registry-mirrors": ["http://{}"]}}"#, mirror.host()));
    assert_eq!(who(home, "app:1"), "mirror");
    assert_eq!(home.ok("images --format {{.Repository}}"), "docker.io/library/app");
    let shown = home.coracle("info").called(home, "docker").run().ok();
    assert!(shown.contains(&format!("Registry Mirrors:\n  http://{}/", mirror.host())), "{shown}");
}

fn short_names_mean_what_the_files_say(home: &Home) {
    let (one, two) = (Registry::start(home), Registry::start(home));
    publish(home, &two, "app:1", "two");
    publish(home, &one, "tools/deep:1", "deep");
    let conf = format!(
        "unqualified-search-registries = [\"{}\", \"{}\"]\n[aliases]\n\"deep\" = \"{}/tools/deep\"\n",
        one.host(),
        two.host(),
        one.host()
    );
    configure(home, "containers/registries.conf", &conf);
    assert_eq!(who(home, "app:1"), "two");
    assert_eq!(who(home, "deep:1"), "deep");
    // Here now, so that nobody is asked.
    assert_eq!(home.ok("run --rm --pull=never app:1 cat /who"), "two");
    assert_eq!(home.ok("image inspect --format {{.RepoTags}} deep:1"), format!("[{}/tools/deep:1]", one.host()));
    let error = home.fails(125, "pull -q --retry 0 nowhere:1");
    assert!(error.contains(&one.host()) && error.contains(&two.host()), "{error}");
    configure(home, "containers/registries.conf", &format!("short-name-mode = \"enforcing\"\n{conf}"));
    let error = home.fails(125, "pull -q app:1");
    assert!(error.contains("enforcing"), "{error}");
}

fn malformed_files_are_named(home: &Home) {
    configure(home, "containers/registries.conf", "[[registry]]\ninsecure = true\n");
    let error = home.fails(125, "pull -q registry.test/app");
    assert!(error.contains("registries.conf") && error.contains("prefix"), "{error}");
    fs::remove_file(home.path().join(".config/containers/registries.conf")).unwrap();
    configure(home, "docker/daemon.json", "{\"registry-mirrors\": [\"m.test\"]}");
    let error = home.fails(125, "pull -q registry.test/app");
    assert!(error.contains("daemon.json") && error.contains("m.test"), "{error}");
}
