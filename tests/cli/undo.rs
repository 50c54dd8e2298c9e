//! `undo` and `trash`: what rm, rmi, volume rm and prune removed comes back.

use crate::support::home::{Home as TestHome, entries};
use crate::support::image::{Image, Layer};
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(removed_container_comes_back_with_files_log_and_exit_status),
    test!(container_that_was_to_vanish_does_not_come_back),
    test!(name_that_is_taken_is_kept_by_its_new_holder),
    test!(anonymous_volumes_come_back_with_their_container),
    test!(volume_comes_back_with_its_files),
    test!(image_comes_back_with_its_names_and_starts),
    test!(shared_layers_stay_for_whoever_needs_them),
    test!(last_command_is_undone_as_a_whole),
    test!(trash_is_listed_and_emptied),
    test!(old_things_go_when_something_is_removed),
    test!(window_of_nothing_removes_for_good),
    test!(undo_beats_the_sweep),
    test!(what_is_not_there_is_one_line),
];

/// Names and kinds of what is in the trash, the latest first.
fn trash(home: &Home) -> Vec<String> {
    home.ok("trash ls --format '{{.Type}} {{.Name}}'").lines().map(str::to_owned).collect()
}

/// Moves everything in the trash into the past.
fn age(home: &TestHome, hours: u64) {
    for path in entries(&home.data().join("undo")) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let Some((milliseconds, rest)) = name.split_once('-') else { continue };
        let then = u64::from_str_radix(milliseconds, 16).unwrap() - hours * 3_600_000;
        std::fs::rename(&path, path.with_file_name(format!("{then:012x}-{rest}"))).unwrap();
    }
}

fn removed_container_comes_back_with_files_log_and_exit_status(home: &Home) {
    home.run("run --name c -u 0 --network none busybox sh -c 'echo said; echo kept > /f; chown 5:5 /f; exit 3'")
        .exits(3);
    let id = home.inspect("c", "{{.Id}}");
    home.ok("rm c");
    assert!(home.run("container exists c").code() == 1 && trash(home) == ["container c"]);
    assert_eq!(home.ok("undo"), "c");
    assert!(trash(home).is_empty());
    assert_eq!(home.inspect("c", "{{.Id}} {{.State.Status}} {{.State.ExitCode}}"), format!("{id} exited 3"));
    assert_eq!(home.ok("logs c"), "said");
    assert!(home.ok("diff c").ends_with("A /f"));
    home.run("start -a c").exits(3);
    home.ok("rm c");
    // By id as well, and a running one that was forced away.
    home.ok(&format!("undo {}", &id[..12]));
    home.ok("rm c");
    home.ok("run -d --name r --network none busybox sleep 1000");
    home.ok("rm -f -t 0 r");
    home.ok("undo r");
    assert_eq!(home.inspect("r", "{{.State.Status}} {{.State.ExitCode}}"), "exited 137");
    home.ok("start r");
    assert!(home.ok("events --stream=false -f event=undo --format {{.Name}}").lines().any(|name| name == "r"));
}

fn container_that_was_to_vanish_does_not_come_back(home: &Home) {
    home.ok("run --rm --network none -v /anonymous busybox true");
    home.ok("run -d --rm --name c --network none busybox sleep 1000");
    home.ok("rm -f -t 0 c");
    home.ok("create --rm --name d --network none busybox true");
    home.ok("rm d");
    assert!(trash(home).is_empty());
    assert!(home.refuses("undo").contains("the trash is empty"));
}

fn name_that_is_taken_is_kept_by_its_new_holder(home: &Home) {
    home.ok("create --name c --label n=1 busybox true");
    home.ok("rm c");
    home.ok("create --name c --label n=2 busybox true");
    let refused = home.run("undo c");
    assert!(refused.fails(125).contains("the container name \"c\" is already in use"), "{}", refused.transcript());
    assert!(refused.stderr().contains("coracle undo --name c-old "), "{}", refused.transcript());
    assert_eq!(home.inspect("c", "{{index .Config.Labels \"n\"}}"), "2");
    assert_eq!(home.ok("undo --name other c"), "other");
    assert_eq!(home.inspect("other", "{{.Name}} {{index .Config.Labels \"n\"}}"), "other 1");
    assert!(home.refuses("undo --name x").contains("--name needs exactly one"));
    // One that was replaced comes back, too.
    home.ok("create --name c --replace --label n=3 busybox true");
    home.ok("undo --name replaced c");
    assert_eq!(home.inspect("replaced", "{{index .Config.Labels \"n\"}}"), "2");
}

fn anonymous_volumes_come_back_with_their_container(home: &Home) {
    home.ok("run --name c --network none -v /anonymous busybox sh -c 'echo kept > /anonymous/f'");
    let volume = home.ok("volume ls -q");
    home.ok("rm -v c");
    assert_eq!(home.ok("volume ls -q"), "");
    home.ok("undo c");
    assert_eq!(home.ok("volume ls -q"), volume);
    assert_eq!(home.ok(&format!("run --rm --network none -v {volume}:/v busybox cat /v/f")), "kept");
    home.ok("rm -v c");
}

fn volume_comes_back_with_its_files(home: &Home) {
    home.ok("volume create --label a=b v");
    home.ok("run --rm --network none -v v:/v busybox sh -c 'echo kept > /v/f; mkdir -m 700 /v/d; chown 7:7 /v/d'");
    assert_eq!(home.ok("volume rm v"), "v");
    home.ok("volume create v");
    let refused = home.refuses("undo v");
    assert!(refused.contains("cannot bring back volume v: another volume has that name"), "{refused}");
    home.ok("undo --name w v");
    assert_eq!(home.ok("run --rm --network none -v w:/v busybox cat /v/f"), "kept");
    assert_eq!(home.ok("volume inspect --format '{{.Name}} {{.Labels}}' w"), "w map[a:b]");
    home.ok("volume rm v w");
    // The last command removed both.
    let back = home.ok("undo");
    assert!(back.lines().count() == 2 && back.contains('v') && back.contains('w'), "{back}");
    home.ok("volume rm v w");
}

fn image_comes_back_with_its_names_and_starts(home: &Home) {
    home.ok("tag busybox localhost/two:2");
    let id = home.ok("images -q --no-trunc localhost/two:2");
    // One name of several, then the whole image.
    home.ok("rmi localhost/two:2");
    assert_eq!(trash(home), ["image localhost/two:2"]);
    assert_eq!(home.ok("undo two:2"), "localhost/two:2");
    home.ok(&format!("rmi -f {id}"));
    assert_eq!(home.ok("images -q"), "");
    home.ok("undo");
    assert_eq!(home.ok("run --rm --network none two:2 echo runs"), "runs");
    assert_eq!(home.ok("run --rm --network none busybox echo runs"), "runs");
    // The same image came by another way meanwhile.
    home.ok(&format!("rmi -f {id}"));
    home.import_busybox();
    home.ok("images busybox");
}

fn shared_layers_stay_for_whoever_needs_them(home: &Home) {
    Image::busybox().layer(Layer::new().file("one", "1")).load(home, "localhost/one");
    Image::busybox().layer(Layer::new().file("two", "2")).load(home, "localhost/two");
    home.ok("rmi one two busybox");
    home.ok("undo one");
    // What only the others need goes; the layer below all of them stays.
    home.ok("trash empty -f two busybox");
    assert_eq!(home.ok("run --rm --network none one cat /one"), "1");
    assert_eq!(home.ok("images --format {{.Repository}}"), "localhost/one");
    // Its name is another image's by now.
    home.ok("rmi one");
    Image::busybox().layer(Layer::new().file("one", "another")).load(home, "localhost/one");
    let refused = home.run("undo one");
    let why = "cannot bring back image localhost/one:latest: another image has that name";
    assert!(refused.fails(125).contains(why), "{}", refused.transcript());
    assert!(
        refused.stderr().contains("coracle untag localhost/one:latest && coracle undo "),
        "{}",
        refused.transcript()
    );
    assert_eq!(home.ok("run --rm --network none one cat /one"), "another");
}

fn last_command_is_undone_as_a_whole(home: &Home) {
    home.ok("create --name a busybox true");
    home.ok("run --name b --network none -v v:/v busybox true");
    home.ok("rm a");
    home.coracle("system prune -a -f --volumes").run().ok();
    assert_eq!(home.ok("ps -aq") + &home.ok("images -q") + &home.ok("volume ls -q"), "");
    let mut all = trash(home);
    all.sort();
    assert_eq!(all, ["container a", "container b", "image localhost/busybox:latest", "volume v"]);
    assert_eq!(home.ok("undo"), "localhost/busybox:latest\nv\nb");
    home.ok("start -a b");
    assert_eq!(home.ok("undo"), "a");
}

fn trash_is_listed_and_emptied(home: &Home) {
    home.ok("run --name c --network none busybox sh -c 'head -c 100000 /dev/zero > /f; mkdir -m 700 /d; chown 9:9 /d'");
    home.ok("rm c");
    let list = home.ok("trash ls");
    let mut lines = list.lines();
    let headings: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(headings, ["ID", "TYPE", "NAME", "SIZE", "REMOVED", "EXPIRES"]);
    let line = lines.next().unwrap();
    assert!(line.contains("container") && line.contains("100kB") && line.ends_with("in 24 hours"), "{list}");
    let id = home.ok("trash ls -q");
    assert_eq!((id.len(), line.split_whitespace().next()), (12, Some(id.as_str())));
    let asked = home.coracle("trash empty").stdin("n\n").run().ok();
    assert!(asked.starts_with("WARNING! This will remove for good:\n\t- container c (100kB)\n"), "{asked}");
    assert_eq!(trash(home), ["container c"]);
    home.ok("create --name d busybox true");
    home.ok("rm d");
    assert_eq!(home.ok("trash empty -f c"), "Total reclaimed space: 100kB");
    assert_eq!(trash(home), ["container d"]);
    home.ok("trash empty -f");
    assert!(entries(&home.data().join("undo")).is_empty() && entries(&home.data().join("trash")).is_empty());
    assert_eq!(home.ok("trash empty"), "Total reclaimed space: 0B");
}

fn old_things_go_when_something_is_removed(home: &Home) {
    home.ok("run --name old --network none busybox sh -c 'mkdir -m 700 /d; chown 9:9 /d'");
    home.ok("tag busybox localhost/gone");
    home.ok("rm old");
    Image::busybox().layer(Layer::new().file("x", "x")).load(home, "localhost/x");
    let blobs = entries(&home.data().join("images/blobs/sha256")).len();
    home.ok("rmi x");
    assert_eq!(entries(&home.data().join("images/blobs/sha256")).len(), blobs);
    age(home, 23);
    home.ok("create --name new busybox true");
    home.ok("rm new");
    assert_eq!(trash(home).len(), 3);
    age(home, 2);
    home.ok("create --name newer busybox true");
    home.ok("rm newer");
    assert_eq!(trash(home), ["container newer", "container new"]);
    assert!(entries(&home.data().join("images/blobs/sha256")).len() < blobs);
    assert!(entries(&home.data().join("trash")).is_empty());
}

fn window_of_nothing_removes_for_good(home: &Home) {
    home.ok("create --name c busybox true");
    home.ok("volume create v");
    for line in ["rm c", "volume rm v", "rmi busybox"] {
        home.coracle(line).env("CORACLE_UNDO_WINDOW", "0").run().ok();
    }
    assert!(trash(home).is_empty());
    assert!(
        entries(&home.data().join("images/blobs/sha256")).is_empty() && entries(&home.data().join("layers")).is_empty()
    );
}

/// An undo holds what it brings back: a sweep that comes meanwhile leaves everything for the next one.
fn undo_beats_the_sweep(home: &Home) {
    for number in 0..8 {
        home.ok(&format!("create --name c{number} busybox true"));
    }
    home.ok("rm --all");
    age(home, 25);
    // All are over their time; whatever comes back is whole, and the rest is gone.
    home.ok("create --name other busybox true");
    let sweep = home.coracle("rm other").spawn();
    let undo = home.run("undo c0 c1 c2 c3 c4 c5 c6 c7");
    sweep.wait().ok();
    let back = home.ok("ps -a --format {{.Names}}");
    let told = undo.stdout();
    let mut told: Vec<&str> = told.lines().collect();
    let mut back: Vec<&str> = back.lines().collect();
    told.sort();
    back.sort();
    assert_eq!(told, back, "{}", undo.transcript());
    for name in back {
        assert_eq!(home.ok(&format!("start -a {name}")), "");
    }
}

fn what_is_not_there_is_one_line(home: &Home) {
    let refused = home.run("undo nosuch");
    assert!(refused.fails(125).contains("nothing in the trash with name or ID \"nosuch\""), "{}", refused.transcript());
    assert!(refused.stderr().contains("coracle trash ls"));
    assert!(home.refuses("trash empty nosuch").contains("nothing in the trash"));
    assert_eq!(home.ok("trash ls").lines().count(), 1);
}
