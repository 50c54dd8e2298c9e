//! What a container can learn of its host, and do to it: nothing that it was not given.

use crate::support::home::set_mode;
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(init_does_not_show_what_the_user_typed),
    test!(joiner_of_exec_does_not_show_what_the_user_typed),
    test!(nothing_of_the_host_is_inherited),
    test!(mounts_do_not_name_the_store),
    test!(kernel_is_out_of_reach),
    test!(privileged_is_no_root_of_the_host),
    test!(devices_are_device_nodes),
];

fn init_does_not_show_what_the_user_typed(home: &Home) {
    let script = "cat /proc/1/cmdline /proc/1/comm; cat /proc/1/environ 2>&1";
    for flags in ["", "--privileged"] {
        let line = format!("run --rm --init {flags} --label key=hidden-word busybox sh -c '{script}'");
        let finished = home.coracle(&line).env("SECRET", "hidden-word").run();
        assert!(!finished.stdout().contains("hidden-word"), "{}", finished.transcript());
        assert!(finished.stdout().contains("coracle-init"), "{}", finished.transcript());
    }
}

fn joiner_of_exec_does_not_show_what_the_user_typed(home: &Home) {
    let watch = "while :; do cat /proc/[0-9]*/cmdline; done 2>/dev/null | tr '\\0' '\\n' | grep -m1 hidden && exit 9";
    home.coracle("run -d --name c busybox sh -c").arg(watch).run().ok();
    for _ in 0..30 {
        home.ok("exec --env-file /dev/null -e A=hidden-word c true");
    }
    assert_eq!(home.inspect("c", "{{.State.Running}}"), "true", "the container saw the user's words");
    home.ok("rm -f -t 0 c");
}

fn nothing_of_the_host_is_inherited(home: &Home) {
    let finished = home.coracle("run --rm busybox env").env("SECRET", "x").run();
    assert!(!finished.ok().contains("SECRET"));
    // 3 is the directory that ls itself reads.
    for line in ["run --rm busybox ls /proc/self/fd", "run --rm --init busybox ls /proc/self/fd"] {
        assert_eq!(home.ok(line), "0\n1\n2\n3");
    }
    assert_eq!(home.ok("run --rm busybox sh -c 'echo /proc/[0-9]*'"), "/proc/1");
    assert_eq!(home.ok("run --rm busybox sh -c 'wc -l </proc/net/unix'"), "1", "abstract sockets of the host");
}

fn mounts_do_not_name_the_store(home: &Home) {
    let mounts = home.ok("run --rm busybox cat /proc/self/mountinfo");
    let data = home.data();
    assert!(!mounts.contains(data.to_str().unwrap()), "{mounts}");
}

fn kernel_is_out_of_reach(home: &Home) {
    for attempt in [
        "mount -t tmpfs x /tmp",
        "unshare -m true",
        "unshare -U true",
        "nsenter -t 1 -m true",
        "echo 1 > /proc/sysrq-trigger",
        "echo 1 > /proc/sys/kernel/panic",
        "echo 0 > /sys/kernel/mm/transparent_hugepage/enabled",
        "mkdir /sys/fs/cgroup/x",
        "echo 1 > /sys/fs/cgroup/cgroup.procs",
        "mknod /x b 8 0",
        "hostname x",
        "dmesg",
    ] {
        let finished = home.coracle("run --rm busybox sh -c").arg(attempt).run();
        assert_ne!(finished.code(), 0, "{}", finished.transcript());
    }
}

fn privileged_is_no_root_of_the_host(home: &Home) {
    for attempt in [
        "echo x > /proc/sys/kernel/core_pattern",
        "echo 1 > /proc/sys/vm/drop_caches",
        "echo 1 > /proc/sysrq-trigger",
        "mknod /x b 8 0 && cat /x",
        "test -e /dev/mem && cat /dev/mem",
    ] {
        let finished = home.coracle("run --rm --privileged busybox sh -c").arg(attempt).run();
        assert_ne!(finished.code(), 0, "{}", finished.transcript());
    }
}

fn devices_are_device_nodes(home: &Home) {
    let file = home.write("file", "no device");
    set_mode(&file, 0o666);
    for device in [file.to_str().unwrap(), "/dev/no-such-device"] {
        let line = home.fails(125, &format!("run --rm --device {device} busybox true"));
        assert!(line.contains(device), "{line}");
    }
}
