//! `images`, `tag`, `rmi`, `history`, `prune`

use std::fs;

use crate::support::home::entries;
use crate::support::image::{Image, Layer};
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(images_columns_are_dockers),
    test!(images_formats_and_filters),
    test!(tag_adds_a_name_and_rmi_takes_it),
    test!(rmi_of_the_last_name_frees_the_disk),
    test!(rmi_is_refused_while_a_container_uses_it),
    test!(rmi_force_takes_containers_along),
    test!(layers_are_shared_and_kept_while_used),
    test!(image_that_comes_back_has_its_size),
    test!(untagged_images_are_dangling_and_pruned),
    test!(history_lists_the_steps),
    test!(image_names_resolve_as_in_docker),
    test!(unknown_images_are_one_line),
    test!(system_prune_takes_what_is_unused),
];

fn images_columns_are_dockers(home: &Home) {
    let table = home.ok("images");
    let mut lines = table.lines();
    let head: Vec<_> = lines.next().unwrap().split("  ").map(str::trim).filter(|word| !word.is_empty()).collect();
    assert_eq!(head, ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]);
    let row: Vec<_> = lines.next().unwrap().split_whitespace().map(str::to_owned).collect();
    assert_eq!(&row[..2], ["localhost/busybox", "latest"]);
    assert_eq!(row[2].len(), 12);
}

/// Its layers lie unpacked and unmeasured then: only its entry in the trash knows how long they are.
fn image_that_comes_back_has_its_size(home: &Home) {
    let load = || Image::busybox().layer(Layer::new().file("x", "x".repeat(100_000))).load(home, "localhost/again:1");
    load();
    let size = home.ok("images --format '{{.Size}}' again:1");
    home.ok("rmi again:1");
    home.ok("rmi busybox");
    load();
    assert_eq!(home.ok("images --format '{{.Size}}' again:1"), size);
}

fn images_formats_and_filters(home: &Home) {
    // podman lists every name of an image that has one which matches; docker lists the name. So: another image.
    Image::busybox().layer(Layer::new().file("x", "x")).load(home, "localhost/other:1");
    let sorted = |line: &str| {
        let mut lines: Vec<_> = home.ok(line).lines().map(str::to_owned).collect();
        lines.sort();
        lines.join(" ")
    };
    assert_eq!(sorted("images --format {{.Repository}}:{{.Tag}}"), "localhost/busybox:latest localhost/other:1");
    assert_eq!(sorted("images --format {{.Tag}} --filter reference=localhost/oth*"), "1");
    assert_eq!(sorted("images --format {{.Tag}} localhost/other"), "1");
    let id = home.ok("image inspect --format {{.Id}} busybox");
    assert!(home.ok("images -q --no-trunc").contains(id.trim_start_matches("sha256:")));
    let json: serde_json::Value = serde_json::from_str(&home.ok("images --format json")).unwrap();
    assert!(!json.is_null());
    home.fails(125, "images --filter nosuch=1");
}

fn tag_adds_a_name_and_rmi_takes_it(home: &Home) {
    home.ok("tag busybox localhost/second:v2");
    assert_eq!(home.ok("run --rm second:v2 echo tagged"), "tagged");
    let finished = home.run("rmi localhost/second:v2");
    finished.exits(0);
    assert!(finished.stdout().contains("localhost/second:v2"), "{}", finished.transcript());
    home.ok("run --rm busybox true");
    home.fails(125, "tag busybox 'BAD NAME'");
    home.fails(125, "tag no-such-image localhost/x");
}

fn rmi_of_the_last_name_frees_the_disk(home: &Home) {
    let blobs = home.data().join("images/blobs/sha256");
    assert!(!entries(&blobs).is_empty());
    home.ok("rmi busybox");
    home.ok("trash empty -f");
    assert!(entries(&blobs).is_empty(), "{:?}", entries(&blobs));
    crate::support::home::wait_until("no layer is left", || entries(&home.data().join("layers")).is_empty());
    assert_eq!(home.ok("images -q"), "");
}

fn rmi_is_refused_while_a_container_uses_it(home: &Home) {
    home.ok("create --name user busybox");
    let finished = home.run("rmi busybox");
    assert_ne!(finished.code(), 0);
    assert!(finished.stderr().lines().next().is_some_and(|line| line.contains("user") || line.contains("container")));
    home.ok("start user");
    home.ok("rm -f -t 0 user");
    home.ok("rmi busybox");
}

fn rmi_force_takes_containers_along(home: &Home) {
    home.ok("run -d --name user busybox sleep 1000");
    home.ok("rmi -f busybox");
    assert_eq!(home.ok("ps -aq"), "");
}

fn layers_are_shared_and_kept_while_used(home: &Home) {
    let base = Image::busybox().layer(Layer::new().file("shared", "x"));
    base.clone().layer(Layer::new().file("one", "1")).load(home, "localhost/one:latest");
    base.layer(Layer::new().file("two", "2")).load(home, "localhost/two:latest");
    let layers = || entries(&home.data().join("layers")).len();
    assert_eq!(layers(), 4, "busybox, shared, one, two");
    home.ok("rmi one");
    home.ok("trash empty -f");
    crate::support::home::wait_until("its own layer is gone", || layers() == 3);
    assert_eq!(home.ok("run --rm two cat /shared /two"), "x2");
}

fn untagged_images_are_dangling_and_pruned(home: &Home) {
    Image::busybox().layer(Layer::new().file("v", "1")).load(home, "localhost/v:latest");
    Image::busybox().layer(Layer::new().file("v", "2")).load(home, "localhost/v:latest");
    assert_eq!(home.ok("images -q --filter dangling=true").lines().count(), 1);
    home.ok("image prune -f");
    assert_eq!(home.ok("images -q --filter dangling=true"), "");
    assert_eq!(home.ok("run --rm v cat /v"), "2");
}

fn history_lists_the_steps(home: &Home) {
    Image::busybox().layer(Layer::new().file("x", "1")).load(home, "localhost/h:latest");
    let table = home.ok("history h");
    assert!(table.starts_with("ID") || table.starts_with("IMAGE"), "{table}");
    assert_eq!(table.lines().count(), 3, "{table}");
    home.fails(125, "history no-such-image");
}

fn image_names_resolve_as_in_docker(home: &Home) {
    let id = home.ok("image inspect --format {{.Id}} busybox").trim_start_matches("sha256:").to_owned();
    let short = &id[..12];
    for name in [
        "busybox",
        "busybox:latest",
        "localhost/busybox",
        "localhost/busybox:latest",
        &id,
        short,
        &format!("sha256:{id}"),
    ] {
        assert_eq!(home.ok(&format!("run --rm --pull=never {name} echo yes")), "yes", "{name}");
    }
    let digest = home.ok("image inspect --format {{.Digest}} busybox");
    assert_eq!(home.ok(&format!("run --rm --pull=never localhost/busybox@{digest} echo yes")), "yes");
}

fn unknown_images_are_one_line(home: &Home) {
    for line in ["rmi nosuch", "history nosuch", "image inspect nosuch", "save nosuch", "tag nosuch x"] {
        let finished = home.run(line);
        assert_ne!(finished.code(), 0, "{line}");
        assert!(finished.stderr().contains("nosuch"), "{}", finished.transcript());
    }
}

fn system_prune_takes_what_is_unused(home: &Home) {
    home.ok("tag busybox localhost/unused");
    home.ok("run --name done busybox sh -c 'umask 077 && mkdir /a && dd if=/dev/zero of=/a/big bs=1k count=1500 2>/dev/null'");
    home.ok("run -d --name on busybox sleep 1000");
    home.ok("volume create unused");
    // What a killed pull leaves is reclaimed as well.
    let half = home.data().join("layers/.tmp-0123456789abcdef/diff");
    fs::create_dir_all(&half).unwrap();
    fs::write(half.join("file"), vec![0; 500_000]).unwrap();
    let said = home.ok("system prune -f");
    assert!(said.ends_with("Total reclaimed space: 2.036MB"), "{said}");
    assert!(home.ok("system prune -f").ends_with("Total reclaimed space: 0B"));
    assert_eq!(home.ok("ps -a --format {{.Names}}"), "on");
    assert_eq!(home.ok("volume ls -q"), "unused", "volumes only when asked");
    home.ok("system prune -f --volumes");
    assert_eq!(home.ok("volume ls -q"), "");
    home.ok("exec on true");
}
