//! `run` and `create`: options that other files do not cover, and those that have no effect.

use std::fs;

use crate::support::image::{Image, Layer};
use crate::support::prelude::*;
use serde_json::json;

pub(crate) const TESTS: &[Test] = &[
    test!(unknown_users_get_a_line_in_passwd),
    test!(the_kept_id_has_a_name),
    test!(a_bound_passwd_file_is_not_written_to),
    test!(required_containers_are_started_first),
    test!(rmi_takes_the_image_away),
    test!(variables_can_be_made_of_those_of_the_image),
    test!(volumes_of_the_image_can_be_something_else),
    test!(ids_are_mapped_as_given),
    test!(host_files_are_chosen),
    test!(pids_are_written_to_files),
    test!(options_without_effect_say_so_once),
    test!(options_that_a_user_cannot_have_are_refused),
    test!(managed_files_are_in_the_roots_of_programs_too),
    test!(lists_are_split_at_commas),
    test!(booleans_and_short_options_combine),
    test!(stop_sends_another_signal),
    test!(latest_container_needs_no_name),
    test!(older_names_of_options_are_understood),
];

fn unknown_users_get_a_line_in_passwd(home: &Home) {
    let last = |options: &str| home.ok(&format!("run --rm {options} busybox sh -c 'tail -n 1 /etc/passwd; id -un'"));
    assert_eq!(last("-u 4321"), "4321:*:4321:0:container user:/:/bin/sh\n4321");
    assert_eq!(last("-u 4321 -w /tmp"), "4321:*:4321:0:container user:/tmp:/bin/sh\n4321");
    assert_eq!(
        last("-u 4321 --passwd-entry 'me:x:$UID:$GID:$NAME:$HOME:/bin/ash'"),
        "me:x:4321:0:container user:/:/bin/ash\nme"
    );
    let group = "run --rm -u 4321:77 --group-entry 'mine:x:$GID:$USERLIST' busybox tail -n 1 /etc/group";
    assert_eq!(home.ok(group), "mine:x:77:4321");
    let untouched = home.run("run --rm --passwd=false -u 4321 busybox grep -c 4321 /etc/passwd");
    assert_eq!(untouched.stdout(), "0\n");
    // Also where the root cannot be written, and at the second start the line is there once.
    assert!(home.ok("run --rm --read-only -u 4321 busybox tail -n 1 /etc/passwd").starts_with("4321:"));
    home.ok("create --name twice -u 4321 busybox grep -c 4321 /etc/passwd");
    for _ in 0..2 {
        assert_eq!(home.ok("start -a twice"), "1");
    }
    home.fails(125, "run --rm --passwd-entry nonsense busybox true");
    home.fails(125, "run --rm --hostuser no-such-user-here busybox true");
}

fn the_kept_id_has_a_name(home: &Home) {
    let name = String::from_utf8(std::process::Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
    let shown = home.ok("run --rm --userns keep-id busybox sh -c 'id -un; id -u'");
    assert_eq!(shown, format!("{}\n{}", name.trim(), nix::unistd::getuid()));
}

fn a_bound_passwd_file_is_not_written_to(home: &Home) {
    let file = home.write("passwd", "root:x:0:0:root:/root:/bin/sh\n");
    let line = format!("run --rm -u 4321 -v {}:/etc/passwd busybox cat /etc/passwd", file.display());
    assert_eq!(home.ok(&line), "root:x:0:0:root:/root:/bin/sh");
    assert_eq!(fs::read_to_string(&file).unwrap(), "root:x:0:0:root:/root:/bin/sh\n");
}

fn required_containers_are_started_first(home: &Home) {
    home.ok("create --name base busybox sleep 1000");
    home.ok("create --name middle --requires base busybox sleep 1000");
    home.ok("run -d --name top --requires middle busybox sleep 1000");
    for name in ["base", "middle", "top"] {
        home.wait_for_status(name, "running");
    }
    home.fails(125, "create --requires no-such-container busybox");
}

fn rmi_takes_the_image_away(home: &Home) {
    home.ok("tag busybox localhost/other");
    home.ok("run --rmi localhost/other true");
    assert_eq!(home.run("image exists busybox").code(), 1);
    assert_eq!(home.ok("ps -aq"), "");
}

fn variables_can_be_made_of_those_of_the_image(home: &Home) {
    Image::busybox().set("Env", json!(["A=of-image", "PATH=/bin"])).load(home, "localhost/merge");
    let line = "run --rm --env-merge PATH=$PATH:/opt/bin --env-merge B=${A}+${NONE:-none} localhost/merge sh -c 'echo $PATH $B'";
    assert_eq!(home.ok(line), "/bin:/opt/bin of-image+none");
}

fn volumes_of_the_image_can_be_something_else(home: &Home) {
    Image::busybox()
        .layer(Layer::new().dir("data").file("data/f", "x"))
        .set("Volumes", json!({"/data": {}}))
        .load(home, "localhost/vol");
    let kinds = |mode: &str| {
        home.ok(&format!("create --name c --image-volume {mode} localhost/vol true"));
        let kinds = home.ok("inspect --format '{{len .Mounts}} {{len .HostConfig.Tmpfs}}' c");
        home.ok("rm -v c");
        kinds
    };
    assert_eq!(kinds("anonymous"), "1 0");
    assert_eq!(kinds("bind"), "1 0");
    assert_eq!(kinds("tmpfs"), "0 1");
    assert_eq!(kinds("ignore"), "0 0");
    home.fails(125, "create --image-volume nonsense localhost/vol");
}

fn ids_are_mapped_as_given(home: &Home) {
    let map = home.ok("run --rm --uidmap 0:1:10 --uidmap 10:0:1 --gidmap 0:0:5 busybox sh -c 'cat /proc/self/uid_map'");
    let map: Vec<Vec<&str>> = map.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(map.len(), 2, "{map:?}");
    assert_eq!((map[0][0], map[0][2], map[1][0], map[1][2]), ("0", "10", "10", "1"));
    for bad in [
        "--uidmap 5:0:1",
        "--uidmap 0:0:1 --uidmap 0:5:1",
        "--uidmap 0:0:999999999",
        "--uidmap x",
        "--uidmap 0:0:1 --userns keep-id",
    ] {
        home.fails(125, &format!("run --rm {bad} busybox true"));
    }
}

fn host_files_are_chosen(home: &Home) {
    let base = home.write("hosts", "192.0.2.1 of.base\n");
    let hosts = |options: &str| home.ok(&format!("run --rm --network none {options} busybox cat /etc/hosts"));
    assert!(hosts(&format!("--hosts-file {}", base.display())).contains("192.0.2.1"));
    assert!(!hosts("--hosts-file none").contains("of.base"));
    Image::busybox()
        .layer(Layer::new().dir("etc").file("etc/hostname", "of-image\n").file("etc/hosts", "192.0.2.9 image\n"))
        .load(home, "localhost/named");
    assert_eq!(home.ok("run --rm --no-hostname localhost/named cat /etc/hostname"), "of-image");
    assert_eq!(home.ok("run --rm --hosts-file image localhost/named cat /etc/hosts"), "192.0.2.9 image");
    home.fails(125, "run --rm --hosts-file /no/such/file busybox true");
}

fn pids_are_written_to_files(home: &Home) {
    home.ok("run -d --name p --pidfile pid --conmon-pidfile supervisor busybox sleep 1000");
    let read = |name: &str| fs::read_to_string(home.tmp().join(name)).unwrap();
    assert_eq!(
        home.ok("inspect --format '{{.State.Pid}} {{.State.ConmonPid}}' p"),
        read("pid") + " " + &read("supervisor")
    );
}

fn options_without_effect_say_so_once(home: &Home) {
    for (option, why) in [
        ("--cpu-rt-period 1000 --cpu-rt-period 2000", "--cpu-rt-period is ignored"),
        ("--memory-swappiness 10", "--memory-swappiness is ignored"),
        ("--oom-kill-disable", "--oom-kill-disable is ignored"),
        ("--isolation hyperv", "--isolation is ignored"),
    ] {
        let run = home.run(&format!("run --rm {option} busybox true"));
        run.exits(0);
        let lines: Vec<String> = run.stderr().lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 1, "{}", run.transcript());
        assert!(lines[0].starts_with("Warning: ") && lines[0].contains(why), "{}", run.transcript());
    }
    for option in ["--memory-swappiness=-1", "--oom-kill-disable=false", "--systemd false", "--isolation=default"] {
        let run = home.run(&format!("run --rm {option} busybox true"));
        assert_eq!((run.code(), run.stderr().as_str()), (0, ""), "{}", run.transcript());
    }
    for (option, why) in [("--cgroup-manager none", "--cgroup-manager is ignored"), ("--log-level debug", "is ignored")]
    {
        let run = home.run(&format!("{option} ps"));
        run.exits(0);
        assert!(run.stderr().contains(why) && run.stderr().lines().count() == 1, "{}", run.transcript());
    }
    let quiet = home.run("--log-level error --cgroup-manager cgroupfs ps");
    assert_eq!((quiet.code(), quiet.stderr().as_str()), (0, ""));
    home.fails(1, "--log-level loud ps");
    home.fails(125, "-H ssh://nobody@nowhere ps");
    home.fails(125, "run --rm --ip 10.88.0.9 --network none busybox true");
    home.fails(125, "run --rm --gpus all busybox true");
}

fn options_that_a_user_cannot_have_are_refused(home: &Home) {
    for (option, why) in [
        ("--device-cgroup-rule 'c 1:3 rw'", "rootless"),
        ("--subuidname nosuchuser", "subordinate ids"),
        ("--subgidname nosuchuser", "subordinate ids"),
        ("--seccomp-policy image", "--security-opt seccomp=FILE"),
        ("--seccomp-policy other", "default or image"),
    ] {
        let line = home.fails(125, &format!("run --rm {option} busybox true"));
        assert!(line.contains(why), "{line}");
    }
    let own = nix::unistd::geteuid();
    home.ok(&format!("run --rm --network none --subuidname {own} --seccomp-policy default busybox true"));
}

fn managed_files_are_in_the_roots_of_programs_too(home: &Home) {
    let show = "sh -c 'cd /jail/etc && cmp hosts /etc/hosts && cmp resolv.conf /etc/resolv.conf && cmp hostname /etc/hostname'";
    home.ok(&format!("run --rm --network none --chrootdirs /jail busybox {show}"));
    home.fails(125, "run --rm --network none --chrootdirs jail busybox true");
}

fn lists_are_split_at_commas(home: &Home) {
    home.ok("create --name c --network none --expose 80,81/udp --dns 192.0.2.1,192.0.2.2 --group-add 5,6 busybox");
    let seen =
        home.ok("inspect --format '{{.HostConfig.Dns}} {{.HostConfig.GroupAdd}} {{len .Config.ExposedPorts}}' c");
    assert_eq!(seen, "[192.0.2.1 192.0.2.2] [5 6] 2");
}

fn booleans_and_short_options_combine(home: &Home) {
    assert_eq!(home.coracle("run --rm=true -i=true -t=false --init=1 busybox cat").stdin("in").run().ok(), "in");
    let id = home.ok("run -di --name=held busybox sh");
    assert_eq!(id.len(), 64);
    home.wait_for_status("held", "running");
    assert_eq!(home.ok("exec held echo -it --rm -d"), "-it --rm -d");
    home.fails(125, "run --rm=perhaps busybox true");
}

fn stop_sends_another_signal(home: &Home) {
    home.ok("run -d --name s busybox sh -c 'trap \"exit 7\" USR1; trap \"exit 9\" TERM; echo up; while :; do sleep 0.1; done'");
    crate::support::home::wait_until("it says so", || !home.ok("logs s").is_empty());
    home.ok("stop -s USR1 s");
    assert_eq!(home.ok("inspect --format {{.State.ExitCode}} s"), "7");
    home.fails(125, "stop --signal NOSUCH s");
}

fn latest_container_needs_no_name(home: &Home) {
    home.fails(125, "attach -l");
    home.ok("run -d --name one busybox sleep 1000");
    home.ok("run -d --name two busybox sleep 1000");
    assert_eq!(home.ok("exec -l hostname"), home.ok("exec two hostname"));
    home.ok("stop -t 0 -l");
    home.wait_for_status("two", "exited");
    home.wait_for_status("one", "running");
}

/// podman's older names, which podman-compose 1.0 and old scripts use.
fn older_names_of_options_are_understood(home: &Home) {
    home.ok(
        "create --name c --healthcheck-command true --healthcheck-interval 7s --healthcheck-retries 2 --healthcheck-timeout 3s \
         --healthcheck-start-period 1s --override-os linux busybox",
    );
    let check = home.inspect("c", "{{json .Config.Healthcheck}}");
    for part in ["\"Interval\":7000000000", "\"Timeout\":3000000000", "\"StartPeriod\":1000000000", "\"Retries\":2"] {
        assert!(check.contains(part), "{check}");
    }
}
