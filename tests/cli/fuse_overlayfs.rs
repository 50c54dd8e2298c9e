//! The union as a program of its own: its life as a process, and podman on top of it.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::support::command::binary;
use crate::support::peer::Podman;
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(mount_answers_when_the_program_returns_and_ends_with_it).needs(&[Need::Fuse]).without_image(),
    test!(signal_unmounts).needs(&[Need::Fuse]).without_image(),
    test!(idle_mount_wakes_nobody).needs(&[Need::Fuse]).without_image(),
    test!(program_is_known_by_its_name).without_image(),
    test!(options_that_are_not_understood_are_named).without_image(),
    test!(podman_runs_builds_and_commits).needs(&[Need::Podman, Need::Fuse]).limit_secs(300),
    test!(podman_shifts_ids).needs(&[Need::Podman, Need::Fuse]).limit_secs(300),
];

/// Layers, and directories for a mount, in the test's temporary directory.
const STAGE: &str =
    "mkdir -p top bottom upper work merged; echo top >top/over; echo bottom >bottom/over; echo b >bottom/b";

const MOUNT: &str = "lowerdir=top:bottom,upperdir=upper,workdir=work";

/// The program under the name that others execute it by. A copy: a link could lead out of what a peer sees.
fn program(home: &Home) -> PathBuf {
    let path = home.tmp().join("test-fuse-overlayfs");
    fs::copy(binary(), &path).expect("tmp is ours");
    path
}

/// Runs a script as root of a user and mount namespace, in the test's temporary directory; `$0` is the program.
fn in_namespace(home: &Home, script: &str) -> (i32, String) {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &format!("set -e; {STAGE}; {script}")]);
    command.arg(program(home)).current_dir(home.tmp()).stdin(Stdio::null());
    let output = command.output().expect("unshare(1) is part of every system");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap_or(255), text)
}

fn mount_answers_when_the_program_returns_and_ends_with_it(home: &Home) {
    let script = format!(
        "$0 -o {MOUNT},fsname=some merged; cat merged/over merged/b; echo x >merged/new; rm merged/b; \
         grep ' - fuse.fuse-overlayfs some ' /proc/self/mountinfo >/dev/null; cat upper/new; ls -A work >/dev/null; \
         umount merged; ls merged; \
         for n in $(seq 100); do pidof -q $0 || exit 0; sleep 0.05; done; exit 9"
    );
    assert_eq!(in_namespace(home, &script), (0, "top\nb\nx\n".to_owned()));
}

fn signal_unmounts(home: &Home) {
    let script = format!(
        "$0 -f -o {MOUNT} merged & until mountpoint -q merged; do sleep 0.05; done; cat merged/over; \
         kill -TERM $!; wait $!; ! mountpoint -q merged"
    );
    assert_eq!(in_namespace(home, &script), (0, "top\n".to_owned()));
}

fn idle_mount_wakes_nobody(home: &Home) {
    let script = format!(
        "$0 -o {MOUNT} merged; for n in $(seq 2000); do stat -f merged; done >/dev/null; sleep 0.2; \
         switches() {{ cat /proc/$(pidof $0)/task/*/status | grep ctxt_switches; }}; \
         before=$(switches); sleep 1; test \"$before\" = \"$(switches)\" || {{ echo \"$before\"; switches; exit 9; }}; umount merged"
    );
    assert_eq!(in_namespace(home, &script), (0, String::new()));
}

fn program_is_known_by_its_name(home: &Home) {
    let version = |name: &str, args: &[&str]| {
        let path = home.tmp().join(name);
        std::os::unix::fs::symlink(binary(), &path).expect("tmp is ours");
        let output = Command::new(path).args(args).stdin(Stdio::null()).output().expect("the binary runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    for name in ["fuse-overlayfs", "coracle-fuse-overlayfs", "mount.fuse.coracle"] {
        let (code, text) = version(name, &["--version"]);
        assert!(code == Some(0) && text.starts_with("fuse-overlayfs: coracle "), "{name}: {text}");
    }
    assert!(home.ok("fuse-overlayfs --help").contains("lowerdir=DIR"));
}

fn options_that_are_not_understood_are_named(home: &Home) {
    for (line, part) in [
        ("fuse-overlayfs -o lowerdir=a,bogus=1 m", "bogus"),
        ("fuse-overlayfs -o lowerdir=a::b m", "data only"),
        ("fuse-overlayfs -o lowerdir=/no/such m", "/no/such"),
        ("fuse-overlayfs -o upperdir=a m", "lowerdir"),
        ("fuse-overlayfs", "mount point"),
    ] {
        let error = home.fails(1, line);
        assert!(error.contains(part), "{line}: {error}");
    }
}

fn podman<'h>(home: &'h Home) -> Podman<'h> {
    let program = program(home);
    let mount_program = format!("overlay.mount_program={}", program.display());
    Podman::with_options(home, &format!("--storage-driver overlay --storage-opt {mount_program}"))
}

#[track_caller]
fn ok(podman: &Podman<'_>, line: &str) -> String {
    let (code, stdout, stderr) = podman.run(line);
    assert_eq!(code, 0, "podman {line}: {stderr}");
    stdout
}

fn podman_runs_builds_and_commits(home: &Home) {
    let podman = podman(home);
    let run = |line: &str| ok(&podman, &format!("run --rm --network none {line}"));
    assert!(run("busybox mount").contains("fuse-overlayfs on / type fuse.fuse-overlayfs"));
    home.write(
        "context/Containerfile",
        "FROM localhost/busybox\n\
         COPY file /opt/file\n\
         RUN ln /opt/file /opt/hard && chmod 4755 /opt/hard && chown 5:6 /opt/file && mv /etc/os-release /etc/old && rm -r /bin/vi\n\
         RUN test ! -e /bin/vi && test -s /etc/old && mkdir /etc/os-release && echo done >/etc/os-release/done\n",
    );
    let context = home.write("context/file", "hello\n");
    let context = context.parent().expect("it has a parent").display();
    ok(&podman, &format!("build --network none -t built {context}"));
    assert_eq!(run("built stat -c '%u %g %a %h' /opt/file /opt/hard"), "5 6 755 2\n5 6 755 2\n");
    assert_eq!(run("built cat /opt/hard /etc/os-release/done"), "hello\ndone\n");
    ok(&podman, "run --network none --name changed built sh -c 'rm -r /opt; echo y >/y; touch /etc/old'");
    let mut changes: Vec<String> = ok(&podman, "diff changed").lines().map(str::to_owned).collect();
    changes.sort();
    assert_eq!(changes, ["A /y", "C /etc", "C /etc/old", "D /opt"]);
    ok(&podman, "commit -q changed committed");
    assert_eq!(run("committed sh -c 'cat /y; ls -d /opt 2>&1 || true'"), "y\nls: /opt: No such file or directory\n");
    ok(&podman, "start -a changed");
    ok(&podman, "rm changed");
}

fn podman_shifts_ids(home: &Home) {
    let podman = podman(home);
    let run = |line: &str| ok(&podman, &format!("run --rm --network none {line}"));
    let script = "stat -c %u:%g /bin/sh; touch /tmp/own; stat -c %u /tmp/own; id -u";
    let shifted =
        run(&format!("-v {}:/tmp --userns keep-id:uid=1000,gid=1000 busybox sh -c '{script}'", home.tmp().display()));
    assert_eq!(shifted, "0:0\n1000\n1000\n");
    let shifted =
        run(&format!("--uidmap 0:1:2000 --gidmap 0:1:2000 busybox sh -c '{}'", script.replace("/tmp/own", "/own")));
    assert_eq!(shifted, "0:0\n0\n0\n");
    // What a shifted container wrote lies on disk unshifted. (To run an image of it without the shift is left to podman: it
    // sometimes shifts that too, whatever the mount program.)
    ok(&podman, "run --network none --name shifted --uidmap 0:1:2000 --gidmap 0:1:2000 busybox chown 7:8 /etc/group");
    let layers = home.tmp().join("podman/root/overlay");
    let owners = ok(&podman, &format!("unshare sh -c 'stat -c %u:%g {}/*/diff/etc/group | sort'", layers.display()));
    assert_eq!(owners, "0:0\n7:8\n");
    ok(&podman, "rm shifted");
}
