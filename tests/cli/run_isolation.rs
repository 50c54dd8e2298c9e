//! `run`: what a container must not see or reach, and what it shares when it is told to.

use std::fs;

use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(every_namespace_is_its_own),
    test!(namespaces_are_shared_on_demand),
    test!(process_one_is_the_payload_and_sees_only_its_own),
    test!(namespaces_of_another_container_are_joined),
    test!(masked_and_read_only_paths),
    test!(proc_and_sys_are_not_writable),
    test!(host_paths_do_not_show_in_mountinfo),
    test!(host_processes_cannot_be_signalled),
    test!(keep_id_keeps_the_number_of_the_user),
    test!(userns_auto_gives_a_range_of_its_own),
    test!(userns_host_is_root_of_the_users_namespace),
    test!(unknown_namespace_modes_are_refused),
    test!(session_keyring_is_its_own),
    test!(binary_of_coracle_is_out_of_reach),
    test!(terminal_of_the_caller_is_not_handed_over),
    test!(setuid_in_the_container_does_not_reach_the_host),
];

fn host_namespace(kind: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().to_string_lossy().into_owned()
}

fn every_namespace_is_its_own(home: &Home) {
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
        let inside = home.ok(&format!("run --rm --network none busybox readlink /proc/self/ns/{kind}"));
        assert_ne!(inside, host_namespace(kind), "{kind}");
    }
}

fn namespaces_are_shared_on_demand(home: &Home) {
    for (kind, option) in
        [("net", "--network host"), ("pid", "--pid host"), ("ipc", "--ipc host"), ("uts", "--uts host")]
    {
        let inside = home.ok(&format!("run --rm {option} busybox readlink /proc/self/ns/{kind}"));
        assert_eq!(inside, host_namespace(kind), "{option}");
    }
    let name = home.ok("run --rm --uts host busybox hostname");
    assert_eq!(name, fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim());
}

fn process_one_is_the_payload_and_sees_only_its_own(home: &Home) {
    assert_eq!(home.ok("run --rm busybox sh -c 'echo $$; ls -d /proc/[0-9]* | wc -l'").lines().next(), Some("1"));
    let listed = home.ok("run --rm busybox ps -o pid,args");
    assert_eq!(listed.lines().count(), 2, "{listed}");
}

fn namespaces_of_another_container_are_joined(home: &Home) {
    home.ok("run -d --name first --ipc shareable --network none busybox sleep 1000");
    for (kind, option) in [("pid", "--pid"), ("ipc", "--ipc"), ("net", "--network")] {
        let own = home.ok(&format!("exec first readlink /proc/1/ns/{kind}"));
        let joined = home.ok(&format!("run --rm {option} container:first busybox readlink /proc/self/ns/{kind}"));
        assert_eq!(own, joined, "{option}");
    }
    assert!(home.ok("run --rm --pid container:first busybox ps -o args").contains("sleep 1000"));
    // Its shared memory, and none of our helpers among its processes.
    home.ok("exec first sh -c 'echo shared > /dev/shm/f'");
    assert_eq!(home.ok("run --rm --ipc container:first busybox cat /dev/shm/f"), "shared");
    assert!(!home.ok("run --rm --pid container:first busybox ps -o args").contains("slirp"));
    home.ok("run --rm --pid host busybox cat /proc/sys/net/ipv4/ping_group_range");
    home.fails(125, "run --rm --pid container:nosuch busybox true");
    home.ok("create --name stopped busybox");
    home.refuses("run --rm --network container:stopped busybox true");
}

fn masked_and_read_only_paths(home: &Home) {
    for path in ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/interrupts"] {
        if fs::exists(path).unwrap_or(false) {
            let seen = home.ok(&format!("run --rm busybox sh -c 'cat {path} | wc -c'"));
            assert_eq!(seen, "0", "{path}");
        }
    }
    for path in ["/proc/acpi", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"] {
        if fs::exists(path).unwrap_or(false) {
            assert_eq!(home.ok(&format!("run --rm busybox sh -c 'ls {path} | wc -l'")), "0", "{path}");
        }
    }
    let unmasked =
        home.run("run --rm --security-opt unmask=/proc/keys busybox sh -c 'grep -c /proc/keys /proc/self/mountinfo'");
    assert_eq!(unmasked.stdout().trim(), "0");
}

fn proc_and_sys_are_not_writable(home: &Home) {
    for path in
        ["/proc/sys/kernel/hostname", "/proc/sys/net/ipv4/ip_forward", "/proc/sysrq-trigger", "/sys/kernel/mm/ksm/run"]
    {
        let finished = home.run(&format!("run --rm --network none busybox sh -c 'echo 1 > {path}'"));
        assert_ne!(finished.code(), 0, "{path} is writable");
    }
    assert!(home.ok("run --rm busybox grep ' /sys ' /proc/self/mountinfo").contains("ro,"));
}

fn host_paths_do_not_show_in_mountinfo(home: &Home) {
    let mounts = home.ok("run --rm busybox cat /proc/self/mountinfo");
    let place = home.path().display().to_string();
    assert!(!mounts.contains(&place), "{mounts}");
}

fn host_processes_cannot_be_signalled(home: &Home) {
    let own = std::process::id();
    assert_ne!(home.run(&format!("run --rm busybox kill -0 {own}")).code(), 0);
}

fn keep_id_keeps_the_number_of_the_user(home: &Home) {
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    let answer = home.ok(
        "run --rm --userns keep-id busybox sh -c 'echo $(id -u):$(id -g); touch /tmp/x; stat -c %u /tmp/x /etc/passwd'",
    );
    assert_eq!(answer, format!("{uid}:{gid}\n{uid}\n0"));
    assert_eq!(home.ok("run --rm --userns keep-id:uid=7,gid=8 busybox sh -c 'echo $(id -u):$(id -g)'"), "7:8");
    // Directories of the image too, those that no layer describes, and the root.
    assert_eq!(home.ok("run --rm --userns keep-id busybox stat -c %u / /bin /etc /dev"), "0\n0\n0\n0");
    assert_eq!(home.ok("run --rm --userns keep-id -u 0 busybox sh -c 'touch /etc/x /x; stat -c %u /etc/x /x'"), "0\n0");
    let dir = home.tmp().display().to_string();
    home.ok(&format!("run --rm --userns keep-id -v {dir}:/d busybox touch /d/mine"));
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(home.tmp().join("mine")).unwrap().uid(), uid.as_raw());
}

fn userns_auto_gives_a_range_of_its_own(home: &Home) {
    home.ok("run -d --name a --userns auto:size=1024 busybox sleep 1000");
    home.ok("run -d --name b --userns auto:size=1024 busybox sleep 1000");
    let map = |name| home.ok(&format!("exec {name} awk '{{print $2}}' /proc/self/uid_map"));
    assert_ne!(map("a"), map("b"), "the ranges do not overlap");
    assert_eq!(home.ok("exec a awk '{n += $3} END {print n}' /proc/self/uid_map"), "1024");
    assert_eq!(home.ok("exec a stat -c %u / /etc /bin/busybox"), "0\n0\n0");
    let before = map("a");
    home.ok("stop -t 0 a");
    home.ok("run --rm --userns auto busybox true");
    home.ok("start a");
    assert_eq!(map("a"), before, "it keeps its range");
    home.ok("run --rm --userns auto -v data:/data busybox sh -c 'touch /data/x'");
    home.fails(125, "run --rm --userns auto:size=4000000000 busybox true");
}

fn userns_host_is_root_of_the_users_namespace(home: &Home) {
    assert_eq!(home.ok("run --rm --userns host busybox id -u"), "0");
}

fn unknown_namespace_modes_are_refused(home: &Home) {
    for option in [
        "--pid nosuch",
        "--ipc nosuch",
        "--uts nosuch",
        "--userns nosuch",
        "--network nosuch:x",
        "--userns keep-id:x=1",
    ] {
        home.fails(125, &format!("run --rm {option} busybox true"));
    }
}

fn session_keyring_is_its_own(home: &Home) {
    // /proc/keys is masked, so the host's keys show nowhere.
    assert_eq!(home.ok("run --rm busybox sh -c 'cat /proc/keys | wc -l'"), "0");
    // With nothing masked it shows those of all containers. `exec` joins the container's instead of making another.
    let id = home.ok("run -d --name a --privileged busybox sleep 1000");
    for _ in 0..2 {
        let keys = home.ok("exec a cat /proc/keys");
        assert_eq!(keys.matches(&format!("_coracle.{id}")).count(), 1, "{keys}");
    }
}

fn binary_of_coracle_is_out_of_reach(home: &Home) {
    let binary = crate::support::command::binary();
    let before = fs::metadata(&binary).unwrap().modified().unwrap();
    // What a container finds behind /proc/*/exe must be its own program or refuse to be written.
    let script = "for p in /proc/[0-9]*; do : 2>/dev/null >> $p/exe; done; true";
    home.coracle("run --rm --pid host busybox sh -c").arg(script).run();
    home.coracle("run --rm --privileged busybox sh -c").arg(script).run();
    let reopen = "#!/proc/self/exe\n";
    let image = crate::support::image::Image::busybox();
    image.layer(crate::support::image::Layer::new().executable("evil", reopen)).load(home, "localhost/evil:latest");
    home.run("run --rm evil /evil");
    assert_eq!(fs::metadata(&binary).unwrap().modified().unwrap(), before, "the binary was written to");
}

fn terminal_of_the_caller_is_not_handed_over(home: &Home) {
    use crate::support::pty::Terminal;
    let mut terminal =
        Terminal::start(home.coracle("run --rm busybox sh -c 'test -t 0 || test -t 1 || echo no terminal'"));
    terminal.expect("no terminal");
    assert_eq!(terminal.wait(), 0);
    let mut terminal = Terminal::start(home.coracle("run --rm -it busybox sh -c 'tty'"));
    terminal.expect("/dev/");
    assert_eq!(terminal.wait(), 0);
}

fn setuid_in_the_container_does_not_reach_the_host(home: &Home) {
    home.ok("run -d --name s -v vol:/v busybox sh -c 'cp /bin/busybox /v/b && chmod 4755 /v/b && sleep 1000'");
    home.wait_for_status("s", "running");
    // Other users of the host cannot come near: the store is closed to them.
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(home.data()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    home.ok("rm -f -t 0 s");
    home.ok("volume rm vol");
}
