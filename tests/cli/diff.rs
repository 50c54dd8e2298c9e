//! `diff`: what a container changed, read without its mount.

use crate::support::image::{Image, Layer};
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(changes_of_a_container_are_those_that_podman_tells),
    test!(running_container_is_compared_as_well),
    test!(container_that_never_ran_has_no_changes),
    test!(image_is_compared_with_the_layers_below_its_top),
    test!(two_objects_are_compared_with_each_other),
    test!(what_is_not_there_is_one_line),
];

/// Old files in directories of a known time, and a script that changes them.
fn changed(home: &Home) {
    let layer = Layer::new()
        .dir("etc")
        .file("etc/passwd", "root:x:0:0::/:/bin/sh\n")
        .file("etc/group", "root:x:0:\n")
        .dir("var")
        .dir("var/lib")
        .file("var/lib/old", "old")
        .dir("home")
        .dir("opt")
        .file("opt/same", "same");
    Image::busybox().layer(layer).load(home, "localhost/old");
}

const SCRIPT: &str = "mkdir -p /d/e; touch /d/e/x; rm /etc/passwd; echo x >> /etc/group; chmod 700 /home; \
                      rm -r /var/lib; mkdir /var/lib; touch /var/lib/q; ln -s a /lnk; mkfifo /fifo";

const TOLD: &str = "A /d\nA /d/e\nA /d/e/x\nC /etc\nC /etc/group\nD /etc/passwd\nA /fifo\nC /home\nA /lnk\nC /var\n\
                    D /var/lib\nA /var/lib/q";

fn changes_of_a_container_are_those_that_podman_tells(home: &Home) {
    changed(home);
    for driver in ["overlay", "fuse"] {
        for userns in ["host", "keep-id", "single"] {
            let line =
                format!("--storage-driver {driver} run --name c --network none -u 0 --userns {userns} old sh -c");
            home.coracle(&line).arg(SCRIPT).run().ok();
            assert_eq!(home.ok("diff c"), TOLD, "{driver} {userns}");
            assert_eq!(home.ok("container diff -l"), TOLD);
            home.ok("rm c");
        }
    }
}

fn running_container_is_compared_as_well(home: &Home) {
    changed(home);
    for driver in ["overlay", "fuse"] {
        home.ok(&format!("--storage-driver {driver} run -d --name c --network none old sleep 1000"));
        home.coracle("exec c sh -c").arg(SCRIPT).run().ok();
        assert_eq!(home.ok("diff c"), TOLD, "{driver}");
        home.ok("rm -f -t 0 c");
    }
}

fn container_that_never_ran_has_no_changes(home: &Home) {
    home.ok("create --name c busybox");
    assert_eq!(home.ok("diff c"), "");
    assert_eq!(home.ok("diff --format json c"), "{}");
}

fn image_is_compared_with_the_layers_below_its_top(home: &Home) {
    changed(home);
    let layer = Layer::new().file("etc/new", "new").whiteout("etc/passwd");
    Image::busybox().layer(Layer::new().file("etc/passwd", "old")).layer(layer).load(home, "localhost/two");
    let told = home.ok("image diff two");
    assert!(told.contains("A /etc/new") && told.contains("D /etc/passwd"), "{told}");
    assert!(home.ok("diff busybox").contains("A /bin"));
    let json: serde_json::Value = serde_json::from_str(&home.ok("diff --format json two")).unwrap();
    assert_eq!(json["deleted"], serde_json::json!(["/etc/passwd"]));
    assert_eq!(json["added"], serde_json::json!(["/etc/new"]));
}

fn two_objects_are_compared_with_each_other(home: &Home) {
    changed(home);
    home.coracle("run --name c --network none old sh -c").arg(SCRIPT).run().ok();
    assert_eq!(home.ok("diff c old"), TOLD);
    let back = home.ok("diff old c");
    assert!(back.contains("D /d\n") && back.contains("A /etc/passwd") && back.contains("D /lnk"), "{back}");
    let apart = home.ok("diff old busybox");
    assert!(apart.contains("C /etc/group") && apart.contains("A /opt/same"), "{apart}");
    assert_eq!(home.ok("diff old old"), "");
}

fn what_is_not_there_is_one_line(home: &Home) {
    for (line, why) in [
        ("diff nosuch", "no container or image with name or ID \"nosuch\" found"),
        ("container diff busybox", "no container with name or ID \"busybox\" found: no such container"),
        ("image diff nosuch", "nosuch: image not known"),
        ("diff busybox nosuch", "no container or image with name or ID \"nosuch\" found"),
        ("diff", "requires a name, id, or the \"--latest\" flag"),
        ("diff a b c", "accepts between 1 and 2 arg(s), received 3"),
        ("diff --format x busybox", "only supported value for '--format' is 'json'"),
    ] {
        let message = home.fails(125, line);
        assert!(message.contains(why), "{line}: {message}");
    }
}
