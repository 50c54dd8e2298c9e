//! podman with coracle as its runtime.

use std::fs;
use std::path::PathBuf;

use crate::support::command::binary;
use crate::support::peer::Podman;
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(podman_runs_executes_and_removes).needs(&[Need::Podman]).limit_secs(300),
    test!(podman_changes_what_a_container_may).needs(&[Need::Podman]).limit_secs(300),
    test!(podman_builds_and_has_pods).needs(&[Need::Podman]).limit_secs(300),
];

/// podman decides by the name which runtimes write their errors as JSON. A copy: a link could lead out of what a peer
/// sees.
fn podman<'h>(home: &'h Home, name: &str) -> Podman<'h> {
    let path: PathBuf = home.tmp().join(name);
    fs::copy(binary(), &path).expect("tmp is ours");
    // Without a delegated cgroup there is nothing to manage, and no systemd to ask.
    Podman::with_options(home, &format!("--runtime {} --cgroup-manager cgroupfs", path.display()))
}

#[track_caller]
fn ok(podman: &Podman<'_>, line: &str) -> String {
    let (code, out, error) = podman.run(line);
    assert_eq!(code, 0, "podman {line}: {error}");
    out
}

fn podman_runs_executes_and_removes(home: &Home) {
    for name in ["crun", "coracle-oci"] {
        let podman = podman(home, name);
        let run = |line: &str| podman.run(&format!("run --rm --network none {line}"));
        assert_eq!(run("busybox echo hi"), (0, "hi\n".to_owned(), String::new()));
        assert_eq!(run("busybox sh -c 'exit 7'").0, 7);
        let (code, _, error) = run("busybox nowhere");
        assert_eq!(code, 127, "{error}");
        assert!(error.contains("executable file `nowhere` not found in $PATH"), "{error}");
        assert_eq!(run("busybox /etc").0, 126);
        ok(&podman, "run -d --network none --name one busybox sleep 1000");
        assert_eq!(ok(&podman, "exec one sh -c 'echo in; id -u'"), "in\n0\n");
        assert_eq!(podman.run("exec one sh -c 'exit 9'").0, 9);
        assert_eq!(podman.run("exec one nowhere").0, 127);
        assert_eq!(ok(&podman, "exec -u 5:6 -w /tmp -e A=b one sh -c 'id -u; id -g; pwd; echo $A'"), "5\n6\n/tmp\nb\n");
        assert_eq!(ok(&podman, "exec -t one tty"), "/dev/pts/0\r\n");
        ok(&podman, "exec -d one sleep 2000");
        assert!(ok(&podman, "top one args").contains("sleep 2000"));
        ok(&podman, "stop -t 0 one");
        assert_eq!(ok(&podman, "inspect --format {{.State.Status}} one"), "exited\n");
        ok(&podman, "start one");
        ok(&podman, "kill one");
        ok(&podman, "wait one");
        ok(&podman, "rm one");
        ok(&podman, "create --network none --name two busybox echo later");
        ok(&podman, "init two");
        assert_eq!(ok(&podman, "start -a two"), "later\n");
        ok(&podman, "rm two");
        assert_eq!(run("-t busybox sh -c 'tty; test -t 1 && echo terminal'").1, "/dev/pts/0\r\nterminal\r\n");
    }
}

fn podman_changes_what_a_container_may(home: &Home) {
    let podman = podman(home, "crun");
    let run = |line: &str| ok(&podman, &format!("run --rm --network none {line}"));
    assert_eq!(run("--user 33:34 --group-add 44 busybox sh -c 'id -u; id -g; id -G'"), "33\n34\n34 44\n");
    assert_eq!(run("--hostname named busybox hostname"), "named\n");
    assert_eq!(run("--read-only busybox sh -c 'touch /x 2>/dev/null || echo no'"), "no\n");
    assert_eq!(run("--tmpfs /t:size=1m,mode=711 busybox stat -c %a /t"), "711\n");
    assert_eq!(run("--ulimit nofile=100:200 busybox sh -c 'ulimit -n; ulimit -Hn'"), "100\n200\n");
    assert_eq!(run("--cap-drop all busybox grep CapEff /proc/self/status"), "CapEff:\t0000000000000000\n");
    assert_eq!(run("--umask 0077 busybox sh -c umask"), "0077\n");
    assert_eq!(run("--security-opt no-new-privileges busybox grep NoNew /proc/self/status"), "NoNewPrivs:\t1\n");
    assert_eq!(run("--sysctl kernel.shm_rmid_forced=1 busybox cat /proc/sys/kernel/shm_rmid_forced"), "1\n");
    let mine = home.write("mine", "mine");
    let id = nix::unistd::getuid();
    let kept =
        format!("--userns keep-id -v {}:/mine:ro busybox sh -c 'id -u; cat /mine; stat -c %u /mine'", mine.display());
    assert_eq!(run(&kept), format!("{id}\nmine{id}\n"));
    assert_eq!(run("--pid host --uts host busybox echo shared"), "shared\n");
}

fn podman_builds_and_has_pods(home: &Home) {
    let podman = podman(home, "crun");
    let file =
        "FROM localhost/busybox\nRUN echo built >/b && id -u >>/b\nUSER 7\nRUN id -u >/tmp/u\nCMD cat /b /tmp/u\n";
    home.write("context/Containerfile", file);
    let context = home.tmp().join("context");
    ok(&podman, &format!("build -q --network none -t built {}", context.display()));
    assert_eq!(ok(&podman, "run --rm --network none built"), "built\n0\n7\n");
    home.write("context/Containerfile", "FROM localhost/busybox\nRUN exit 3\n");
    let (code, _, error) = podman.run(&format!("build --network none {}", context.display()));
    assert_ne!(code, 0);
    assert!(error.contains("exit status 3"), "{error}");
}
