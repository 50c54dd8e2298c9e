//! `run --pull=lazy` and `pull --lazy`: containers that run while their image arrives.

use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::home::{entries, wait_until};
use crate::support::http::{Fault, Gate, Request, Server};
use crate::support::image::{Image, Layer, Packing, pack};
use crate::support::layout::{Blobs, Schema};
use crate::support::prelude::*;
use crate::support::reaper::{command_line, descendants, is_alive};

pub(crate) const TESTS: &[Test] = &[
    test!(container_speaks_while_a_layer_stalls_and_late_bytes_are_waited_for).without_image(),
    test!(failure_is_told_at_once_and_the_pull_goes_on).without_image(),
    test!(process_that_waits_for_bytes_can_be_killed).without_image(),
    test!(corrupt_layer_kills_the_container_and_leaves_no_image).without_image(),
    test!(success_is_not_told_before_everything_is_verified).without_image(),
    test!(archive_that_takes_back_what_it_said_ends_the_container).without_image(),
    test!(two_at_once_cost_one_download).without_image().limit_secs(120),
    test!(image_that_is_here_costs_nothing_extra).without_image(),
    test!(create_pulls_the_image_whole_and_says_so).without_image(),
    test!(pull_lazy_returns_at_once_and_goes_on).without_image(),
    test!(merged_tree_is_that_of_a_whole_pull).without_image(),
    test!(killed_puller_ends_the_container_and_the_next_pull_goes_on).without_image().limit_secs(180),
    test!(killed_supervisor_leaves_a_whole_store).without_image().limit_secs(180),
];

/// How many bytes of the bottom layer come before the gate.
const BEFORE: usize = 64 << 10;

/// Something that does not compress.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

/// A bottom layer whose `late` comes behind [`BEFORE`], busybox and what every container has above it.
fn image() -> Image {
    let bottom = Layer::new().dir("data").file("data/early", "early\n").file("data/long", noise(400 << 10));
    let bottom = bottom.file("data/late", "late\n");
    let top = Layer::new().dir("etc").file("etc/passwd", "root:x:0:0::/:/bin/sh\n").file("etc/group", "root:x:0:\n");
    let busybox = Image::busybox();
    let mut image = Image { layers: Vec::new(), ..busybox.clone() }.layer(bottom);
    image.layers.extend(busybox.layers);
    image.layer(top.dir("run").dir("tmp"))
}

fn blobs_of(image: &Image) -> Blobs {
    let mut blobs = Blobs::default();
    blobs.add("1", image, Packing::Gzip, Schema::Oci);
    blobs
}

/// Whether a request is for the bottom layer.
fn is_bottom(request: &Request, image: &Image) -> bool {
    let digest = crate::support::image::sha256(&pack(&image.layers[0], Packing::Gzip));
    request.path.contains("/blobs/") && request.path.ends_with(&digest)
}

/// A registry that holds back the end of the bottom layer.
fn slow(gate: &Gate) -> Server {
    let (gate, known) = (gate.clone(), image());
    Server::start(blobs_of(&image()), move |request| {
        is_bottom(request, &known).then(|| Fault::Hold(BEFORE, gate.clone()))
    })
}

fn line(server: &Server, options: &str, command: &str) -> String {
    format!("run --pull=lazy -q --network none --tls-verify=false {options} {} {command}", server.reference("1"))
}

/// What a file has, once it has anything.
fn spoken(home: &Home, name: &str) -> String {
    let path = home.tmp().join(name);
    let read = || fs::read_to_string(&path).unwrap_or_default();
    wait_until("the container has spoken", || read().ends_with('\n'));
    read()
}

/// A volume that the container speaks into: what it prints is read at its end only.
fn out(home: &Home) -> String {
    let dir = home.tmp().join("out");
    fs::create_dir_all(&dir).expect("the test's own directory");
    format!("-v {}:/tmp", dir.display())
}

fn container_speaks_while_a_layer_stalls_and_late_bytes_are_waited_for(home: &Home) {
    let gate = Gate::default();
    let server = slow(&gate);
    let script = "cat /data/early > /tmp/early; cat /data/late > /tmp/late; ls /data; echo done";
    let options = format!("--rm {}", out(home));
    let running = home.coracle(&line(&server, &options, "/bin/sh -c")).arg(script).spawn();
    assert_eq!(spoken(home, "out/early"), "early\n");
    assert_eq!(home.ok("images -q"), "", "the image is not here yet");
    assert_eq!(fs::read_to_string(home.tmp().join("out/late")).unwrap_or_default(), "");
    // Others are served meanwhile.
    let id = home.ok("ps -q");
    assert_eq!(home.ok(&format!("exec {} /bin/cat /data/early", id.trim())), "early");
    gate.open();
    assert_eq!(running.wait().ok(), "early\nlate\nlong\ndone");
    assert_ne!(home.ok("images -q"), "");
    // The next one is like any other.
    let mounts = home.ok(&line(&server, "--rm", "/bin/grep overlay /proc/self/mountinfo"));
    assert!(!mounts.contains("coracle"), "{mounts}");
    assert_eq!(home.ok(&line(&server, "--rm", "/bin/cat /data/late")), "late");
    home.ok("rmi -f -a");
    home.assert_nothing_left();
}

fn failure_is_told_at_once_and_the_pull_goes_on(home: &Home) {
    let gate = Gate::default();
    let server = slow(&gate);
    home.coracle(&line(&server, "--name one", "/bin/sh -c")).arg("exit 3").run().exits(3);
    assert_eq!(home.ok("images -q"), "");
    gate.open();
    wait_until("the image is here", || !home.ok("images -q").is_empty());
    assert_eq!(home.ok("inspect one --format {{.State.ExitCode}}").trim(), "3");
    // It starts like any other from now on.
    home.run("start -a one").exits(3);
}

fn process_that_waits_for_bytes_can_be_killed(home: &Home) {
    let gate = Gate::default();
    let server = slow(&gate);
    let options = format!("--name waiting {}", out(home));
    let script = "echo begun > /tmp/begun; exec /bin/cat /data/late";
    let running = home.coracle(&line(&server, &options, "/bin/sh -c")).arg(script).spawn();
    spoken(home, "out/begun");
    home.ok("kill waiting");
    running.wait().exits(137);
    gate.open();
    wait_until("the image is here", || !home.ok("images -q").is_empty());
}

fn corrupt_layer_kills_the_container_and_leaves_no_image(home: &Home) {
    let gate = Gate::default();
    let (held, known) = (gate.clone(), image());
    let server = Server::start(blobs_of(&image()), move |request| {
        is_bottom(request, &known).then(|| Fault::HoldAndFlip(BEFORE, held.clone()))
    });
    let options = format!("--retry 0 {}", out(home));
    let script = "cat /data/early > /tmp/early; while :; do sleep 1; done";
    let running = home.coracle(&line(&server, &options, "/bin/sh -c")).arg(script).spawn();
    assert_eq!(spoken(home, "out/early"), "early\n");
    gate.open();
    let told = running.wait().fails(125);
    assert!(told.contains("sha256:") || told.contains("digest") || told.contains("gzip"), "{told}");
    assert_eq!(home.ok("images -aq"), "");
    let state = home.ok("ps -a --format {{.Status}}");
    assert!(state.contains("125"), "{state}");
    home.ok("rm -a");
    home.ok("system prune -f");
    assert!(entries(&home.data().join("layers")).is_empty());
}

fn success_is_not_told_before_everything_is_verified(home: &Home) {
    let gate = Gate::default();
    let (held, known) = (gate.clone(), image());
    let server = Server::start(blobs_of(&image()), move |request| {
        is_bottom(request, &known).then(|| Fault::HoldAndFlip(BEFORE, held.clone()))
    });
    let options = format!("--rm --retry 0 {}", out(home));
    let script = "cat /data/early > /tmp/early; exit 0";
    let running = home.coracle(&line(&server, &options, "/bin/sh -c")).arg(script).spawn();
    assert_eq!(spoken(home, "out/early"), "early\n");
    gate.open();
    running.wait().fails(125);
    assert_eq!(home.ok("images -aq"), "");
}

fn archive_that_takes_back_what_it_said_ends_the_container(home: &Home) {
    let gate = Gate::default();
    let mut twice = image();
    twice.layers[0] = Layer::new()
        .dir("data")
        .file("data/early", "early\n")
        .file("data/long", noise(400 << 10))
        .file("data/early", "other\n")
        .file("data/late", "late\n")
        .finish();
    let (held, known) = (gate.clone(), twice.clone());
    let server = Server::start(blobs_of(&twice), move |request| {
        is_bottom(request, &known).then(|| Fault::Hold(BEFORE, held.clone()))
    });
    let options = format!("--rm {}", out(home));
    // Whether the container makes a failure of its own of files that are gone or not.
    let script = "cat /data/early > /tmp/early; cat /data/late || exit 7; exit 0";
    let running = home.coracle(&line(&server, &options, "/bin/sh -c")).arg(script).spawn();
    assert_eq!(spoken(home, "out/early"), "early\n");
    gate.open();
    let told = running.wait().fails(125);
    assert!(told.contains("'data/early' twice"), "{told}");
}

fn two_at_once_cost_one_download(home: &Home) {
    let gate = Gate::default();
    let server = slow(&gate);
    let script = "cat /data/early > /tmp/$0; cat /data/late";
    let start = |name: &str| {
        let options = format!("--rm {}", out(home));
        home.coracle(&line(&server, &options, "/bin/sh -c")).arg(script).arg(name).limit_secs(60).spawn()
    };
    let both = [start("one"), start("two")];
    spoken(home, "out/one");
    spoken(home, "out/two");
    gate.open();
    for one in both {
        assert_eq!(one.wait().ok(), "late");
    }
    let layers = server.requests().into_iter().filter(|request| is_bottom(request, &image())).count();
    assert_eq!(layers, 1);
}

fn image_that_is_here_costs_nothing_extra(home: &Home) {
    let server = Server::honest(blobs_of(&image()));
    home.ok(&format!("pull -q --tls-verify=false {}", server.reference("1")));
    let before = server.requests().len();
    home.ok(&line(&server, "--rm", "/bin/true"));
    assert_eq!(server.requests().len(), before);
}

fn create_pulls_the_image_whole_and_says_so(home: &Home) {
    let server = Server::honest(blobs_of(&image()));
    let create = format!("create --pull=lazy -q --tls-verify=false {} /bin/true", server.reference("1"));
    let created = home.coracle(&create).run();
    created.exits(0);
    assert!(created.stderr().contains("it is pulled whole"), "{}", created.stderr());
    assert!(!home.ok("images -q").is_empty());
}

fn pull_lazy_returns_at_once_and_goes_on(home: &Home) {
    let gate = Gate::default();
    let server = slow(&gate);
    let pull = format!("pull --lazy -q --tls-verify=false {}", server.reference("1"));
    assert_eq!(home.ok(&pull).trim(), image().id().trim_start_matches("sha256:"));
    assert_eq!(home.ok("images -q"), "");
    let running = home.coracle(&line(&server, "--rm", "/bin/cat /data/early /data/late")).spawn();
    gate.open();
    assert_eq!(running.wait().ok(), "early\nlate");
    wait_until("the image is here", || !home.ok("images -q").is_empty());
    let layers = server.requests().into_iter().filter(|request| is_bottom(request, &image())).count();
    assert_eq!(layers, 1);
}

fn merged_tree_is_that_of_a_whole_pull(home: &Home) {
    let bottom = Layer::new()
        .dir("a")
        .file("a/one", "1")
        .file("a/two", "2")
        .dir("a/below")
        .file("a/below/three", "3")
        .dir("b")
        .file("b/four", "4")
        .hardlink("b/five", "b/four")
        .symlink("c", "a")
        .file("d/implicit", "6");
    let middle = Layer::new().dir("a").whiteout("a/one").dir("b").file("b/new", "7").opaque("b").file("c", "8");
    let top = Layer::new().dir("a").dir("a/below").file("a/below/nine", "9").whiteout("a/below/three").dir("d");
    let mut image = image();
    image.layers.insert(0, bottom.finish());
    let image = image.layer(middle).layer(top);
    let server = Server::honest(blobs_of(&image));
    let script = "cd /; find a b c d data -exec stat -c '%n %f %u %g %s %Y' {} +; cat a/two b/new c d/implicit";
    let of_files = |text: String| {
        let lines = text.lines().map(str::to_owned);
        let mut lines: Vec<_> = lines.collect();
        lines.sort();
        lines
    };
    let lazily = home.coracle(&line(&server, "--rm", "/bin/sh -c")).arg(script).run().ok();
    let whole = home.coracle(&line(&server, "--rm", "/bin/sh -c")).arg(script).run().ok();
    assert!(whole.contains("a/below/nine") && !whole.contains("three"), "{whole}");
    assert_eq!(of_files(lazily), of_files(whole));
}

/// The processes that hold a pipe's other end and pull: sessions of their own.
fn pullers() -> Vec<u32> {
    let own = |pid: &u32| *pid != std::process::id();
    let all = descendants(std::os::unix::process::parent_id()).into_iter().filter(own);
    all.filter(|pid| {
        let sid = nix::unistd::getsid(Some(Pid::from_raw(pid.cast_signed())));
        sid.is_ok_and(|sid| sid.as_raw() == pid.cast_signed()) && command_line(*pid).contains("--pull=lazy")
    })
    .collect()
}

fn killed_puller_ends_the_container_and_the_next_pull_goes_on(home: &Home) {
    let gate = Gate::default();
    let server = slow(&gate);
    let options = format!("--rm {}", out(home));
    let script = "cat /data/early > /tmp/early; cat /data/late; exit 0";
    let running = home.coracle(&line(&server, &options, "/bin/sh -c")).arg(script).spawn();
    spoken(home, "out/early");
    // The supervisor is killed as well, if it is one of them; either way nothing half-made may be left.
    let struck = pullers();
    assert!(!struck.is_empty());
    for pid in struck {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
        if threads > 1 {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
    }
    let told = running.wait().fails(125);
    assert!(told.contains("was killed before its end"), "{told}");
    gate.open();
    assert_eq!(home.ok("images -aq"), "");
    home.ok(&format!("pull -q --tls-verify=false {}", server.reference("1")));
    assert_eq!(home.ok(&line(&server, "--rm", "/bin/cat /data/early /data/late")), "early\nlate");
    home.ok("rmi -f -a");
    home.assert_nothing_left();
}

fn killed_supervisor_leaves_a_whole_store(home: &Home) {
    for step in 0..12 {
        let gate = Gate::default();
        let server = slow(&gate);
        let running = home.coracle(&line(&server, "--rm", "/bin/cat /data/late")).spawn();
        let pid = running.pid();
        std::thread::sleep(Duration::from_millis(step * 25));
        // Everything below the command, at once and in whatever state it is.
        for pid in descendants(pid).into_iter().chain([pid]) {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
        running.wait();
        gate.open();
        let own = std::process::id();
        let all = || descendants(std::os::unix::process::parent_id());
        wait_until("its processes are gone", || all().into_iter().all(|pid| pid == own || !is_alive(pid)));
        home.ok(&format!("pull -q --tls-verify=false {}", server.reference("1")));
        assert_eq!(home.ok(&line(&server, "--rm", "/bin/cat /data/early /data/late")), "early\nlate");
        home.ok("rmi -f -a");
        home.ok("trash empty -f");
        home.ok("system prune -f");
        assert_eq!(entries(&home.data().join("layers")), [] as [std::path::PathBuf; 0], "step {step}");
    }
}
