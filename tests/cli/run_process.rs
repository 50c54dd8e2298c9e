//! `run`: environment, user, directory, limits and capabilities of the process.

use crate::support::home::wait_until;
use crate::support::image::{Image, Layer};
use crate::support::prelude::*;
use serde_json::json;

pub(crate) const TESTS: &[Test] = &[
    test!(environment_is_built_from_nothing),
    test!(env_values_come_from_flags_files_and_the_caller),
    test!(env_file_that_is_missing_or_bad_is_refused),
    test!(user_by_name_number_and_group),
    test!(unknown_user_is_one_line),
    test!(supplementary_groups_come_from_the_image_and_the_flag),
    test!(working_directory_is_made),
    test!(working_directory_of_the_image_is_used),
    test!(hostname_is_the_short_id_or_the_flag),
    test!(hostname_is_the_hosts_where_the_network_is),
    test!(default_capabilities_are_the_eleven_of_podman),
    test!(capabilities_are_added_and_dropped),
    test!(other_users_have_no_capabilities),
    test!(privileged_has_every_capability_of_the_user_namespace),
    test!(no_new_privileges_is_set_on_demand),
    test!(seccomp_filters_by_default_and_can_be_lifted),
    test!(as_many_files_are_open_as_the_caller_may_have),
    test!(ulimits_are_set_within_the_callers_own),
    test!(sysctls_of_own_namespaces_are_set_and_others_refused),
    test!(signals_are_as_a_shell_expects),
    test!(init_reaps_and_forwards),
    test!(stop_signal_of_image_and_flag),
    test!(no_descriptor_of_the_caller_leaks_in),
    test!(umask_is_the_usual_one),
    test!(read_only_root_refuses_writes),
    test!(platform_of_another_architecture_is_refused),
];

fn environment_is_built_from_nothing(home: &Home) {
    let env = home.coracle("run --rm --hostname h busybox env").env("SECRET_OF_HOST", "x").run().ok();
    assert!(!env.contains("SECRET_OF_HOST"), "{env}");
    assert!(env.lines().any(|line| line == "HOME=/root"), "{env}");
    assert!(env.lines().any(|line| line == "HOSTNAME=h"), "{env}");
    assert!(env.lines().any(|line| line.starts_with("PATH=/usr/local/sbin:")), "{env}");
    assert!(!env.contains("TERM="), "no terminal, no TERM: {env}");
}

fn env_values_come_from_flags_files_and_the_caller(home: &Home) {
    let file = home.write("env", "# a comment\nFROM_FILE=file value\nBOTH=file\n\nFROM_CALLER\nUNSET_IN_CALLER\n");
    let command = home.coracle("run --rm -e FLAG=1=2 -e BOTH=flag -e ALSO_FROM_CALLER -e EMPTY= --env-file").arg(file);
    let command = command.env("FROM_CALLER", "c1").env("ALSO_FROM_CALLER", "c2");
    let env = command.arg("busybox").arg("env").run().ok();
    for line in ["FLAG=1=2", "BOTH=flag", "EMPTY=", "FROM_FILE=file value", "FROM_CALLER=c1", "ALSO_FROM_CALLER=c2"] {
        assert!(env.lines().any(|found| found == line), "{line} is not in\n{env}");
    }
    assert!(!env.contains("UNSET_IN_CALLER"), "{env}");
}

fn env_file_that_is_missing_or_bad_is_refused(home: &Home) {
    let line = home.fails(125, "run --rm --env-file /no/such/file busybox true");
    assert!(line.contains("/no/such/file"), "{line}");
    let file = home.write("bad", "=value\n");
    home.coracle("run --rm --env-file").arg(file).arg("busybox").arg("true").run().fails(125);
    home.fails(125, "run --rm -e =value busybox true");
}

fn user_by_name_number_and_group(home: &Home) {
    for (user, expected) in [
        ("root", "0:0"),
        ("www-data", "33:33"),
        ("33", "33:33"),
        ("www-data:daemon", "33:1"),
        ("1234", "1234:0"),
        ("1234:567", "1234:567"),
    ] {
        assert_eq!(home.ok(&format!("run --rm -u {user} busybox sh -c 'echo $(id -u):$(id -g)'")), expected, "{user}");
    }
    assert_eq!(home.ok("run --rm -u www-data busybox sh -c 'echo $HOME'"), "/var/www");
    assert_eq!(home.ok("run --rm -u 1234 busybox sh -c 'echo $HOME'"), "/");
}

fn unknown_user_is_one_line(home: &Home) {
    for user in ["nosuchuser", "root:nosuchgroup", "-5", "99999999999", "4000000000"] {
        let line = home.refuses(&format!("run --rm --user={user} busybox true"));
        assert!(!line.is_empty());
    }
}

fn supplementary_groups_come_from_the_image_and_the_flag(home: &Home) {
    let groups = "root:x:0:\nextra:x:500:www-data,other\nmore:x:501:www-data\n";
    Image::busybox().layer(Layer::new().file("etc/group", groups)).load(home, "localhost/groups:latest");
    assert_eq!(home.ok("run --rm -u www-data groups id -G"), "33 500 501");
    assert_eq!(home.ok("run --rm -u www-data --group-add 77 --group-add more groups id -G"), "33 77 500 501");
    assert_eq!(home.ok("run --rm -u 33:33 groups id -G"), "33", "numbers bring no groups of the image");
}

fn working_directory_is_made(home: &Home) {
    assert_eq!(home.ok("run --rm -w /made/for/this busybox pwd"), "/made/for/this");
    let line = home.fails(125, "run --rm -w relative busybox pwd");
    assert!(line.contains("relative"), "{line}");
    let failed = home.run("run --rm -w /etc/passwd busybox pwd");
    assert!([125, 126, 127].contains(&failed.code()), "{}", failed.transcript());
}

fn working_directory_of_the_image_is_used(home: &Home) {
    let layer = Layer::new().dir("srv").dir("srv/app").symlink("srv/link", "app");
    Image::busybox().layer(layer).set("WorkingDir", json!("/srv/link")).load(home, "localhost/dir:latest");
    assert_eq!(home.ok("run --rm dir sh -c 'pwd -P'"), "/srv/app");
}

fn hostname_is_the_short_id_or_the_flag(home: &Home) {
    let id = home.ok("run -d busybox sleep 1000");
    assert_eq!(home.ok(&format!("exec {id} hostname")), id[..12]);
    assert_eq!(home.ok("run --rm -h my.host busybox sh -c 'hostname; cat /etc/hostname'"), "my.host\nmy.host");
    assert!(home.ok("run --rm -h myhost busybox cat /etc/hosts").contains("myhost"));
}

fn hostname_is_the_hosts_where_the_network_is(home: &Home) {
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    assert_eq!(
        home.ok("run --rm --network host busybox sh -c 'hostname; cat /etc/hostname'"),
        format!("{host}\n{host}")
    );
    assert_eq!(home.ok("run --rm --network host --hostname other busybox hostname"), "other");
}

fn status_field(home: &Home, options: &str, field: &str) -> String {
    let line = format!("run --rm {options} busybox sed -n 's/^{field}:[[:space:]]*//p' /proc/self/status");
    home.ok(&line)
}

fn default_capabilities_are_the_eleven_of_podman(home: &Home) {
    for field in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(status_field(home, "", field), "00000000800405fb", "{field}");
    }
    assert_eq!(status_field(home, "", "CapInh"), "0000000000000000");
    assert_eq!(status_field(home, "", "CapAmb"), "0000000000000000");
}

fn capabilities_are_added_and_dropped(home: &Home) {
    assert_eq!(status_field(home, "--cap-drop all", "CapBnd"), "0000000000000000");
    assert_eq!(status_field(home, "--cap-drop all --cap-add CHOWN", "CapEff"), "0000000000000001");
    assert_eq!(status_field(home, "--cap-drop CAP_KILL --cap-drop chown", "CapEff"), "00000000800405da");
    assert_eq!(status_field(home, "--cap-add net_raw", "CapEff"), "00000000800425fb");
    let line = home.fails(125, "run --rm --cap-add NO_SUCH_CAP busybox true");
    assert!(line.to_uppercase().contains("NO_SUCH_CAP"), "{line}");
}

fn other_users_have_no_capabilities(home: &Home) {
    assert_eq!(status_field(home, "-u 1000", "CapEff"), "0000000000000000");
    assert_eq!(status_field(home, "-u 1000", "CapBnd"), "00000000800405fb");
    assert_eq!(status_field(home, "-u 1000 --cap-add net_bind_service --cap-drop all", "CapEff"), "0000000000000400");
}

fn privileged_has_every_capability_of_the_user_namespace(home: &Home) {
    let bits = u64::from_str_radix(&status_field(home, "--privileged", "CapEff"), 16).unwrap();
    assert!(bits.trailing_ones() >= 38 && bits.count_ones() == bits.trailing_ones(), "{bits:x}");
    assert_eq!(status_field(home, "--privileged", "Seccomp"), "0");
    home.ok("run --rm --privileged busybox sh -c 'mkdir /m && mount -t tmpfs none /m'");
}

fn no_new_privileges_is_set_on_demand(home: &Home) {
    assert_eq!(status_field(home, "", "NoNewPrivs"), "0");
    assert_eq!(status_field(home, "--security-opt no-new-privileges", "NoNewPrivs"), "1");
    assert_eq!(status_field(home, "--security-opt no-new-privileges:true", "NoNewPrivs"), "1");
    home.fails(125, "run --rm --security-opt no-such-option=1 busybox true");
}

fn seccomp_filters_by_default_and_can_be_lifted(home: &Home) {
    assert_eq!(status_field(home, "", "Seccomp"), "2");
    assert_eq!(status_field(home, "--security-opt seccomp=unconfined", "Seccomp"), "0");
    home.run("run --rm busybox unshare -U true").exits(1);
    let profile = home.write("profile.json", r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":2}]}"#);
    let option = format!("seccomp={}", profile.display());
    let finished = home.coracle("run --rm --security-opt").arg(option).arg("busybox").arg("mkdir").arg("/x").run();
    assert!(finished.code() == 1 && finished.stderr().contains("No such file"), "{}", finished.transcript());
    home.fails(125, "run --rm --security-opt seccomp=/no/such/profile.json busybox true");
    let profile = home.write(
        "misspelt.json",
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdri","mount"],"action":"SCMP_ACT_ERRNO"}]}"#,
    );
    let finished = home.run(&format!("run --rm --security-opt seccomp={} busybox true", profile.display()));
    finished.exits(0);
    let warning = finished.stderr();
    assert!(warning.lines().count() == 1 && warning.ends_with("their rules do nothing: mkdri\n"), "{warning}");
}

fn as_many_files_are_open_as_the_caller_may_have(home: &Home) {
    let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    let most = hard.min(1 << 20).to_string();
    let show = "sh -c 'ulimit -Sn; ulimit -Hn'";
    assert_eq!(home.ok(&format!("run --rm --network none busybox {show}")), format!("{most}\n{most}"));
    home.ok("run -d --name files --network none busybox sleep 1000");
    assert_eq!(home.ok(&format!("exec files {show}")), format!("{most}\n{most}"));
    let asked = home.ok(&format!("run --rm --network none --ulimit nofile=64:65 busybox {show}"));
    assert_eq!(asked, "64\n65");
    let own = home.ok("run --rm --network none --ulimit host busybox sh -c 'ulimit -Hn'");
    assert_eq!(own, hard.to_string());
}

fn ulimits_are_set_within_the_callers_own(home: &Home) {
    assert_eq!(home.ok("run --rm --ulimit nofile=300:400 busybox sh -c 'ulimit -Sn; ulimit -Hn'"), "300\n400");
    assert_eq!(home.ok("run --rm --ulimit core=0 busybox sh -c 'ulimit -c'"), "0");
    home.fails(125, "run --rm --ulimit nosuch=1 busybox true");
    home.fails(125, "run --rm --ulimit nofile=5:4 busybox true");
}

fn sysctls_of_own_namespaces_are_set_and_others_refused(home: &Home) {
    let line =
        "run --rm --network none --sysctl net.ipv4.ip_default_ttl=42 busybox cat /proc/sys/net/ipv4/ip_default_ttl";
    assert_eq!(home.ok(line), "42");
    assert_eq!(home.ok("run --rm --sysctl kernel.shmmni=77 busybox cat /proc/sys/kernel/shmmni"), "77");
    home.fails(125, "run --rm --sysctl kernel.panic=1 busybox true");
    home.fails(125, "run --rm --network host --sysctl net.ipv4.ip_default_ttl=42 busybox true");
}

fn init_reaps_and_forwards(home: &Home) {
    let pids = home.ok("run --rm --init busybox sh -c 'echo $$; cat /proc/1/comm'");
    assert_ne!(pids.lines().next(), Some("1"), "the payload is not process 1");
    home.ok("run -d --init --name i busybox sh -c 'trap \"exit 9\" TERM; while :; do sleep 0.05; done'");
    home.wait_for_status("i", "running");
    home.ok("exec i sh -c '(sleep 0.1 &) ; true'");
    wait_until("the orphan is reaped", || {
        let processes = home.ok("exec i ps -o stat,args");
        !processes.contains("sleep 0.1") && !processes.contains('Z')
    });
    home.ok("stop i");
    assert_eq!(home.inspect("i", "{{.State.ExitCode}}"), "9");
}

fn stop_signal_of_image_and_flag(home: &Home) {
    let script =
        "trap \"exit 10\" TERM; trap \"exit 11\" USR1; trap \"exit 12\" QUIT; echo ready; while :; do sleep 0.05; done";
    Image::busybox().set("StopSignal", json!("SIGQUIT")).load(home, "localhost/quit:latest");
    for (name, options, image, code) in
        [("t", "", "busybox", "10"), ("u", "--stop-signal USR1", "busybox", "11"), ("q", "", "quit", "12")]
    {
        home.ok(&format!("run -d --name {name} {options} {image} sh -c '{script}'"));
        crate::support::home::wait_until("it has its traps", || home.ok(&format!("logs {name}")).contains("ready"));
        home.ok(&format!("stop {name}"));
        assert_eq!(home.inspect(name, "{{.State.ExitCode}}"), code);
    }
    home.fails(125, "run --rm --stop-signal NOSUCH busybox true");
}

fn no_descriptor_of_the_caller_leaks_in(home: &Home) {
    let command = home.coracle("run --rm busybox sh -c 'ls /proc/self/fd | tr \"\\n\" \" \"'");
    let listed = command.under("bash -c 'exec 7</etc/passwd 63</; exec \"$@\"' bash").run().ok();
    assert!(["0 1 2 3", "0 1 2 3 4"].contains(&listed.trim()), "{listed}");
}

fn umask_is_the_usual_one(home: &Home) {
    let command = home.coracle("run --rm busybox sh -c 'umask; stat -c %a /etc/hosts /etc/resolv.conf /etc/hostname'");
    let text = command.under("bash -c 'umask 077; exec \"$@\"' bash").run().ok();
    assert_eq!(text, "0022\n644\n644\n644");
}

fn read_only_root_refuses_writes(home: &Home) {
    let finished = home.run("run --rm --read-only busybox touch /x");
    assert!(finished.code() == 1 && finished.stderr().contains("Read-only"), "{}", finished.transcript());
    home.ok("run --rm --read-only busybox sh -c 'touch /tmp/x /run/x /var/tmp/x /dev/shm/x'");
    home.run("run --rm --read-only --read-only-tmpfs=false busybox touch /tmp/x").exits(1);
    home.ok("run --rm --read-only --tmpfs /work busybox touch /work/x");
}

fn platform_of_another_architecture_is_refused(home: &Home) {
    let other = if crate::support::image::host_architecture() == "amd64" { "arm64" } else { "amd64" };
    home.run(&format!("run --rm --pull=never --platform linux/{other} busybox true")).exits(125);
    home.fails(125, "run --rm --platform nonsense/x/y/z busybox true");
}

fn signals_are_as_a_shell_expects(home: &Home) {
    // Whatever coracle's own processes ignore and block: both would survive execve.
    let seen = home.ok("run --rm --network none busybox grep -E 'Sig(Ign|Blk)' /proc/self/status");
    assert_eq!(seen, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000");
    home.ok("run -d --name c --network none busybox sleep 1000");
    assert_eq!(home.ok("exec c grep -E 'Sig(Ign|Blk)' /proc/self/status"), seen);
    assert_eq!(home.ok("exec c sh -c 'yes | head -n 1'"), "y");
}
