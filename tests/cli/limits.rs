//! Machines that lack something, and users who press keys at the wrong moment.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::home::{set_mode, wait_for_process};
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(few_descriptors_suffice),
    test!(missing_id_helpers_leave_the_single_id_mode_or_say_so),
    test!(missing_network_helper_is_named),
    test!(unwritable_home_is_one_line).without_image(),
    test!(closed_standard_streams_are_no_obstacle),
    test!(interrupt_at_any_moment_leaves_nothing).limit_secs(120),
    test!(interrupt_of_a_start_that_hangs_takes_all_of_it_back),
    test!(failed_start_leaves_no_volume_and_no_cidfile),
    test!(closed_pipe_is_success),
    test!(full_output_is_an_error),
    test!(hundred_arguments_and_a_large_environment),
    test!(thirty_runs_at_once_have_their_own_ids),
];

fn few_descriptors_suffice(home: &Home) {
    for line in ["run --rm busybox echo yes", "run --rm --network none -i busybox echo yes"] {
        assert_eq!(home.coracle(line).under("prlimit --nofile=64:64").run().ok(), "yes");
    }
}

/// A PATH that has everything but these programs.
pub(super) fn path_without(home: &Home, programs: &[&str]) -> String {
    let dir = home.tmp().join("path");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir(&dir).unwrap();
    for system in ["/usr/sbin", "/usr/bin"] {
        for entry in fs::read_dir(system).unwrap().flatten() {
            let name = entry.file_name();
            if !programs.iter().any(|program| name.to_string_lossy().starts_with(program)) {
                let _ = std::os::unix::fs::symlink(entry.path(), dir.join(name));
            }
        }
    }
    dir.display().to_string()
}

fn missing_id_helpers_leave_the_single_id_mode_or_say_so(home: &Home) {
    let path = path_without(home, &["newuidmap", "newgidmap"]);
    let finished = home.coracle("run --rm --network none busybox id -u").env("PATH", path).run();
    if finished.code() == 0 {
        assert_eq!(finished.ok(), "0");
    } else {
        let line = finished.fails(125);
        assert!(line.contains("newuidmap") || finished.stderr().contains("uidmap"), "{line}");
    }
}

fn missing_network_helper_is_named(home: &Home) {
    let path = path_without(home, &["slirp4netns", "pasta"]);
    for driver in ["slirp4netns", "pasta"] {
        let finished = home.coracle(&format!("run --rm --network {driver} busybox true")).env("PATH", &path).run();
        let line = finished.fails(if finished.code() == 127 { 127 } else { 125 });
        assert!(line.contains(driver), "{line}");
    }
}

fn unwritable_home_is_one_line(home: &Home) {
    let closed = home.tmp().join("closed");
    fs::create_dir(&closed).unwrap();
    set_mode(&closed, 0o500);
    let finished = home.coracle("run --rm --pull=never busybox true").env("HOME", &closed).run();
    let line = finished.fails(125);
    assert!(!line.is_empty());
    set_mode(&closed, 0o700);
    home.coracle("ps").env("HOME", "/no/such/home").run();
}

fn closed_standard_streams_are_no_obstacle(home: &Home) {
    let command = home.coracle("run --rm busybox true").under("bash -c 'exec \"$@\" <&- >&- 2>&-' bash");
    command.run().exits(0);
    let id = home.coracle("run -d busybox sleep 1000").under("bash -c 'exec \"$@\" <&- 2>&-' bash").run().ok();
    home.ok(&format!("exec {id} true"));
}

fn interrupt_at_any_moment_leaves_nothing(home: &Home) {
    for (number, signal) in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().cycle().take(60).enumerate() {
        let running = home.coracle("run --rm --init busybox sleep 1000").spawn();
        std::thread::sleep(Duration::from_micros(500 * number as u64));
        running.signal(signal);
        // It would go on for longer than a command may.
        let finished = running.wait();
        assert_ne!(finished.code(), 0, "after {number} × 0.5 ms");
    }
    crate::support::home::wait_until("nothing is left", || home.ok("ps -aq").is_empty());
}

fn closed_pipe_is_success(home: &Home) {
    for number in 0..300 {
        home.ok(&format!("tag busybox localhost/n:{number}"));
    }
    let command = home.coracle("images").under("bash -c 'set -o pipefail; \"$@\" | head -n 1' bash");
    let finished = command.run();
    finished.exits(0);
    assert_eq!(finished.stderr(), "");
}

fn full_output_is_an_error(home: &Home) {
    let mut command = home.coracle("images").to_command();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = command.stdout(full).output().unwrap();
    assert!(!output.status.success());
    assert!(!output.stderr.is_empty());
}

fn hundred_arguments_and_a_large_environment(home: &Home) {
    let mut command = home.coracle("run --rm busybox sh -c 'echo $# ${#BIG}' sh");
    for number in 0..100 {
        command = command.arg(format!("argument {number}"));
    }
    assert_eq!(command.run().ok(), "100 0");
    let big = "x".repeat(100_000);
    let line =
        home.coracle("run --rm -e").arg(format!("BIG={big}")).arg("busybox").arg("sh").arg("-c").arg("echo ${#BIG}");
    assert_eq!(line.run().ok(), "100000");
}

fn thirty_runs_at_once_have_their_own_ids(home: &Home) {
    let running: Vec<_> = (0..30).map(|_| home.coracle("run --rm -d busybox sleep 2").spawn()).collect();
    let mut ids: Vec<_> = running.into_iter().map(|command| command.wait().ok()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 30);
}

fn interrupt_of_a_start_that_hangs_takes_all_of_it_back(home: &Home) {
    let helper = home.write("path/slirp4netns", "#!/bin/sh\nexec sleep 1000\n");
    set_mode(&helper, 0o755);
    let path = format!("{}:/usr/sbin:/usr/bin", helper.parent().unwrap().display());
    for (flags, signal, code) in [
        ("--rm", Signal::SIGINT, 130),
        ("-d --name n", Signal::SIGTERM, 143),
        ("-d -v /data", Signal::SIGINT, 130),
        ("-i", Signal::SIGHUP, 129),
    ] {
        let line = format!("run {flags} --network slirp4netns busybox true");
        let running = home.coracle(&line).env("PATH", &path).spawn();
        wait_for_process("sleep 1000");
        // Or it is killed when the helper's time is up, which is another status.
        running.signal(signal);
        running.wait().exits(code);
        assert_eq!(home.ok("ps -aq"), "");
        assert_eq!(home.ok("volume ls -q"), "");
        home.assert_nothing_left();
    }
    home.ok("create --name n --network slirp4netns busybox true");
    let running = home.coracle("start n").env("PATH", &path).spawn();
    wait_for_process("sleep 1000");
    running.signal(Signal::SIGINT);
    running.wait().exits(130);
    home.ok("start -a n");
    home.ok("rm n");
}

fn failed_start_leaves_no_volume_and_no_cidfile(home: &Home) {
    let cidfile = home.tmp().join("cid");
    let shown = cidfile.display();
    for (code, line) in [
        (127, format!("run --rm -v /data --cidfile {shown} busybox no-such-program")),
        (125, format!("run --rm -v /data --cidfile {shown} --security-opt seccomp=/no/such/file busybox true")),
    ] {
        home.fails(code, &line);
        assert!(!cidfile.exists(), "{line}");
        assert_eq!(home.ok("volume ls -q"), "", "{line}");
    }
    fs::write(&cidfile, "mine").unwrap();
    for command in ["run --rm", "create"] {
        home.fails(125, &format!("{command} -v /data --cidfile {shown} busybox true"));
    }
    assert_eq!(fs::read_to_string(&cidfile).unwrap(), "mine");
    assert_eq!(home.ok("volume ls -q"), "");
    assert_eq!(home.ok("ps -aq"), "");
}
