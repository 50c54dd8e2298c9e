//! `rm` of containers that others stand on, and of links

use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(rm_refuses_what_others_stand_on),
    test!(rm_takes_dependents_along_when_asked),
    test!(rm_of_all_finds_an_order),
    test!(prune_keeps_what_others_stand_on),
    test!(rm_as_docker_asks_nobody),
    test!(rm_link_removes_the_link_alone),
];

fn one_on_another(home: &Home) {
    home.ok("run -d --name base busybox sleep 1000");
    home.ok("create --name joined --network container:base busybox true");
    home.ok("create --name requiring --requires base busybox true");
}

fn rm_refuses_what_others_stand_on(home: &Home) {
    one_on_another(home);
    let joined = home.inspect("joined", "{{.Id}}");
    for line in ["rm base", "rm -f -t 0 base", "rm -f -t 0 base requiring"] {
        let said = home.fails(125, line);
        assert!(said.contains("has dependent containers which must be removed before it:"), "{said}");
        assert!(said.contains(&joined), "{said}");
        assert_eq!(home.inspect("base", "{{.State.Status}}"), "running", "{line}");
    }
    // One of them went by itself: it was named, and nobody stands on it.
    home.fails(125, "inspect requiring");
    home.ok("rm joined");
    home.ok("rm -f -t 0 base");
}

fn rm_takes_dependents_along_when_asked(home: &Home) {
    one_on_another(home);
    home.ok("create --name last --requires requiring busybox true");
    home.ok("create --name alone busybox true");
    let gone = home.ok("rm --depend -f -t 0 base");
    assert_eq!(gone.lines().count(), 4, "{gone}");
    assert_eq!(home.ok("ps -a --format {{.Names}}"), "alone");
}

fn rm_of_all_finds_an_order(home: &Home) {
    one_on_another(home);
    home.ok("rm -f -t 0 base joined requiring");
    one_on_another(home);
    home.ok("rm -a -f -t 0");
    assert_eq!(home.ok("ps -aq"), "");
}

fn prune_keeps_what_others_stand_on(home: &Home) {
    home.ok("create --name base busybox true");
    home.ok("create --name kept --label keep --requires base busybox true");
    home.ok("container prune -f --filter label!=keep");
    assert_eq!(home.ok("ps -a --format {{.Names}}").lines().count(), 2);
    home.ok("container prune -f");
    assert_eq!(home.ok("ps -aq"), "");
}

fn rm_as_docker_asks_nobody(home: &Home) {
    home.ok("create --name base busybox true");
    home.ok("create --name requiring --requires base busybox true");
    home.coracle("rm base").called(home, "docker").run().ok();
}

fn rm_link_removes_the_link_alone(home: &Home) {
    home.ok("run -d --name db busybox sleep 1000");
    home.ok("create --name web --link db:database busybox true");
    home.fails(125, "rm --link web/other");
    assert_eq!(home.ok("rm --link /web/database"), "/web/database");
    home.fails(125, "rm --link web/database");
    assert_eq!(home.ok("ps -a --format {{.Names}}").lines().count(), 2);
    home.ok("rm -f -t 0 db web");
}
