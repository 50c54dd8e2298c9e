//! `kill -9` of every process we have, at moments spread over what it does.

use std::fs;
use std::os::unix::process::parent_id;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::home::{entries, wait_until};
use crate::support::http::Server;
use crate::support::image::{Image, Layer, Packing};
use crate::support::layout::{Blobs, Schema};
use crate::support::prelude::*;
use crate::support::reaper::{command_line, descendants, is_alive};

pub(crate) const TESTS: &[Test] = &[
    test!(killed_command_leaves_no_container_behind).limit_secs(180),
    test!(killed_supervisor_takes_the_payload_along),
    test!(killed_supervisor_is_seen_by_ps_and_the_name_can_be_used),
    test!(killed_helper_does_not_take_the_container_along).needs(&[Need::Tun]),
    test!(killed_pull_leaves_nothing_that_prune_does_not_take).without_image().limit_secs(180),
    test!(killed_load_keeps_the_store_whole).limit_secs(180),
    test!(killed_rm_and_rmi_can_be_repeated).limit_secs(120),
    test!(after_a_reboot_nothing_runs),
    test!(lost_runtime_directory_is_a_reboot),
    test!(files_that_are_not_ours_break_nothing),
];

fn strike(pid: u32) {
    let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
}

/// What this test started, below the process above us.
pub(crate) fn processes() -> Vec<u32> {
    descendants(parent_id()).into_iter().filter(|pid| *pid != std::process::id()).collect()
}

/// Moments spread over the first 40 ms of a command, more of them early.
fn moments(count: u32) -> impl Iterator<Item = Duration> {
    (0..count).map(move |number| {
        Duration::from_micros(u64::from(number) * u64::from(number) * 40_000 / u64::from(count * count))
    })
}

fn killed_command_leaves_no_container_behind(home: &Home) {
    for moment in moments(150) {
        let running = home.coracle("run --rm busybox sleep 1000").spawn();
        thread::sleep(moment);
        strike(running.pid());
        running.wait();
        // An attached run whose command died may go on as a detached one does; it can be seen and removed.
        home.ok("rm -f -t 0 --all");
        assert_eq!(home.ok("ps -aq"), "", "after {moment:?}");
    }
    wait_until("no process is left", || processes().is_empty());
    home.assert_nothing_left();
}

/// The supervisor of a container: the parent of its first process, whose command line begins with `payload`.
fn supervisor(payload: &str) -> u32 {
    let mut found = None;
    wait_until("the payload runs", || {
        let init = processes().into_iter().find(|pid| command_line(*pid).starts_with(payload));
        let status = init.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok()).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok());
        // One that is dying has lost its supervisor.
        found = parent.filter(|pid| processes().contains(pid));
        found.is_some()
    });
    found.expect("waited for")
}

fn killed_supervisor_takes_the_payload_along(home: &Home) {
    home.ok("run -d --name c --network none busybox sh -c 'sleep 1000 & sleep 1000 & wait'");
    wait_until("all of it runs", || processes().len() >= 4);
    let before = processes();
    let start = Instant::now();
    strike(supervisor("sh -c"));
    while before.iter().any(|pid| is_alive(*pid)) {
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "{:?}",
            before.iter().map(|pid| command_line(*pid)).collect::<Vec<_>>()
        );
        thread::sleep(Duration::from_millis(1));
    }
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
}

fn killed_supervisor_is_seen_by_ps_and_the_name_can_be_used(home: &Home) {
    for _ in 0..10 {
        home.ok("run -d --name c busybox sleep 1000");
        home.wait_for_status("c", "running");
        strike(supervisor("sleep"));
        wait_until("ps sees it", || home.ok("ps -q").is_empty());
        assert_eq!(home.inspect("c", "{{.State.Running}}"), "false");
        home.ok("start c");
        home.wait_for_status("c", "running");
        strike(supervisor("sleep"));
        home.ok("rm -f -t 0 c");
    }
    home.ok("run -d --rm --name r busybox sleep 1000");
    strike(supervisor("sleep"));
    wait_until("it has gone, as --rm promises", || home.ok("ps -aq").is_empty());
    home.ok("run --rm --name r busybox true");
}

fn killed_helper_does_not_take_the_container_along(home: &Home) {
    home.ok("run -d --name c busybox sleep 1000");
    home.wait_for_status("c", "running");
    for pid in processes() {
        let line = command_line(pid);
        if line.contains("slirp4netns") || line.contains("pasta") {
            strike(pid);
        }
    }
    thread::sleep(Duration::from_millis(200));
    assert_eq!(home.ok("exec c echo alive"), "alive");
    home.ok("stop -t 0 c");
}

pub(super) fn image() -> Image {
    let mut image = Image::busybox();
    for number in 0..4_u8 {
        let noise: Vec<u8> = (0..400_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8 ^ number).collect();
        image = image.layer(Layer::new().file(&format!("noise{number}"), noise));
    }
    image
}

fn killed_pull_leaves_nothing_that_prune_does_not_take(home: &Home) {
    let mut blobs = Blobs::default();
    blobs.add("1", &image(), Packing::Gzip, Schema::Oci);
    let server = Server::honest(blobs);
    let line = format!("pull -q --tls-verify=false {}", server.reference("1"));
    for moment in (0..40).map(|number| Duration::from_millis(number * 4)) {
        let running = home.coracle(&line).spawn();
        thread::sleep(moment);
        strike(running.pid());
        running.wait();
        home.run("images").exits(0);
    }
    wait_until("no process goes on alone", || processes().is_empty());
    home.run("rmi -a -f");
    home.ok("system prune -a -f --now");
    let left = [
        entries(&home.data().join("images/blobs/sha256")),
        entries(&home.data().join("layers")),
        entries(&home.data().join("trash")),
    ];
    assert!(left.concat().is_empty(), "{left:?}");
    home.ok(&line);
    home.ok(&format!("run --rm {} true", server.reference("1")));
}

fn killed_load_keeps_the_store_whole(home: &Home) {
    let file = home.write("image.tar", image().docker_archive("localhost/loaded:1"));
    for moment in (0..30).map(|number| Duration::from_millis(number * 5)) {
        let running = home.coracle("load -q -i").arg(&file).spawn();
        thread::sleep(moment);
        strike(running.pid());
        running.wait();
        assert_eq!(home.ok("run --rm busybox echo whole"), "whole", "after {moment:?}");
        if home.run("image inspect loaded:1").code() == 0 {
            home.ok("run --rm loaded:1 true");
            home.ok("rmi loaded:1");
        }
    }
}

fn killed_rm_and_rmi_can_be_repeated(home: &Home) {
    let file = home.write("image.tar", image().docker_archive("localhost/loaded:1"));
    for moment in moments(30) {
        home.coracle("load -q -i").arg(&file).run().ok();
        home.ok("create --name c loaded:1");
        for line in ["rm c", "rmi loaded:1"] {
            let running = home.coracle(line).spawn();
            thread::sleep(moment);
            strike(running.pid());
            running.wait();
            let again = home.run(line);
            // Either it was done before the blow, or it is done now.
            assert!(!again.stderr().contains("panicked"), "{}", again.transcript());
        }
        assert_eq!(home.ok("ps -aq"), "", "after {moment:?}");
        assert_eq!(home.ok("images -q").lines().count(), 1, "after {moment:?}");
    }
}

/// Every regular file below a directory.
fn files(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    entries(dir).into_iter().flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn after_a_reboot_nothing_runs(home: &Home) {
    home.ok("run -d --name on busybox sleep 1000");
    home.run("run --name off busybox sh -c 'exit 3'").exits(3);
    home.wait_for_status("on", "running");
    // A reboot: every process dies at once, and the kernel has another boot id. The runtime directory may be on a disk
    // and still be there.
    for pid in processes() {
        strike(pid);
    }
    wait_until("all are dead", || processes().is_empty());
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    for file in files(&home.runtime_dir()) {
        if let Ok(text) = fs::read_to_string(&file)
            && text.contains(boot.trim())
        {
            fs::write(&file, text.replace(boot.trim(), "00000000-1111-2222-3333-444444444444")).unwrap();
        }
    }
    assert_eq!(home.ok("ps -q"), "");
    let mut all: Vec<_> = home.ok("ps -a --format {{.Names}}").lines().map(str::to_owned).collect();
    all.sort();
    assert_eq!(all, ["off", "on"]);
    assert_eq!(home.inspect("off", "{{.State.ExitCode}}"), "3");
    home.ok("start on");
    assert_eq!(home.ok("exec on echo back"), "back");
}

fn lost_runtime_directory_is_a_reboot(home: &Home) {
    home.ok("run -d --name on busybox sleep 1000");
    home.run("run --name off busybox sh -c 'exit 3'").exits(3);
    for pid in processes() {
        strike(pid);
    }
    wait_until("all are dead", || processes().is_empty());
    fs::remove_dir_all(home.runtime_dir().join("coracle")).unwrap();
    assert_eq!(home.ok("ps -q"), "");
    assert_eq!(home.inspect("off", "{{.State.ExitCode}}"), "3", "an exit code outlives a reboot");
    home.ok("start on");
    home.ok("rm -f -t 0 on off");
}

fn files_that_are_not_ours_break_nothing(home: &Home) {
    home.ok("run -d --name c busybox sleep 1000");
    for dir in ["containers", "layers", "names", "volumes", "trash", "images"] {
        let dir = home.data().join(dir);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("a stranger"), "x").unwrap();
        fs::create_dir_all(dir.join(".hidden directory")).unwrap();
    }
    fs::write(home.runtime_dir().join("coracle/a stranger"), "x").unwrap();
    for line in ["ps -a", "images", "volume ls", "exec c true", "run --rm busybox true", "info"] {
        home.run(line).exits(0);
    }
    for dir in ["containers", "names", "trash"] {
        let _ = fs::remove_file(home.data().join(dir).join("a stranger"));
        let _ = fs::remove_dir(home.data().join(dir).join(".hidden directory"));
    }
}
