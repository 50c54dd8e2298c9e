//! What `containers.conf`, docker's `daemon.json` and variables of the environment say of new containers.

use std::fs;

use crate::cli::persona::called;
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(containers_conf_says_what_containers_get),
    test!(options_count_more_than_containers_conf),
    test!(devices_are_described_where_containers_conf_says),
    test!(daemon_json_is_dockers_configuration),
    test!(a_variable_chooses_the_user_namespace),
];

fn containers_conf_says_what_containers_get(home: &Home) {
    let shared = home.write("shared", "of the host");
    let conf = home.write(
        "containers.conf",
        format!(
            "[containers]\nenv = [\"A=conf\", \"B=conf\"]\nvolumes = [\"{}:/shared:ro\"]\ntz = \"local\"\numask = \"0077\"\n\
             default_ulimits = [\"nofile=123:456\"]\ndefault_capabilities = [\"KILL\"]\nlog_driver = \"json-file\"\n\
             log_size_max = 65536\nshm_size = \"2m\"\ndns_servers = [\"10.9.8.7\"]\ninit = true\nutsns = \"host\"\n\
             annotations = [\"of=conf\"]\ndefault_sysctls = [\"net.ipv4.ping_group_range=0 0\"]\n[engine]\nstop_timeout = 3\n",
            shared.display()
        ),
    );
    let run = |line: &str| home.coracle(line).env("CONTAINERS_CONF", &conf).run().ok();
    assert_eq!(run("run --rm busybox cat /shared"), "of the host");
    let told = run(
        "run --name c -e B=own busybox sh -c 'echo $A $B; umask; ulimit -Sn; ulimit -Hn; grep CapEff /proc/self/status; \
                    cat /proc/1/comm /proc/sys/net/ipv4/ping_group_range; df -k /dev/shm | tail -1'",
    );
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines[..4], ["conf own", "0077", "123", "456"], "{told}");
    assert!(lines[4].ends_with("0000000000000020"), "{told}");
    assert_ne!(lines[5], "sh", "{told}");
    assert_eq!(lines[6].split_whitespace().collect::<Vec<_>>(), ["0", "0"], "{told}");
    assert_eq!(lines[7].split_whitespace().nth(1), Some("2048"), "{told}");
    let shown = home.inspect(
        "c",
        "{{.HostConfig.LogConfig.Type}} {{.HostConfig.UTSMode}} {{.Config.StopTimeout}} {{index .Config.Annotations \"of\"}} \
         {{.HostConfig.Dns}}",
    );
    assert_eq!(shown, "json-file host 3 conf [10.9.8.7]");
}

fn options_count_more_than_containers_conf(home: &Home) {
    let other = home.write("other", "asked for");
    let conf = home.write(
        "containers.conf",
        "[containers]\nvolumes = [\"/nosuch:/shared\"]\ninit = true\nread_only = true\nnetns = \"host\"\nlog_driver = \"none\"\n\
         default_capabilities = [\"CHOWN\"]\ndns_servers = [\"10.9.8.7\"]\n[engine]\npull_policy = \"never\"\n",
    );
    let options = format!(
        "--network none --init=false --read-only=false --log-driver k8s-file --cap-add KILL --dns none -v {}:/shared:ro",
        other.display()
    );
    let line = format!(
        "run --name c {options} busybox sh -c 'echo x >/file; cat /shared /proc/1/comm; grep CapEff /proc/self/status'"
    );
    let told = home.coracle(&line).env("CONTAINERS_CONF", &conf).run().ok();
    assert!(told.starts_with("asked forsh\n") && told.ends_with("0000000000000021"), "{told}");
    assert_eq!(home.inspect("c", "{{.HostConfig.NetworkMode}} {{.HostConfig.LogConfig.Type}}"), "none k8s-file");
    // Words of the container's own are no options.
    let finished = home.coracle("run --rm busybox cat /proc/1/comm --init=false").env("CONTAINERS_CONF", &conf).run();
    assert!(!finished.stdout().starts_with("cat"), "{}", finished.transcript());
    let missing = home.coracle("run --rm localhost/nosuch true").env("CONTAINERS_CONF", &conf).run().fails(125);
    assert!(missing.contains("localhost/nosuch"), "{missing}");
    let wrong = home.write("wrong.conf", "[containers]\nenv = 7\n");
    let line = home.coracle("run --rm busybox true").env("CONTAINERS_CONF", &wrong).run().fails(125);
    assert!(line.contains("wrong.conf"), "{line}");
}

fn devices_are_described_where_containers_conf_says(home: &Home) {
    let of = |directory: &str| {
        let text = format!(
            "cdiVersion: 0.6.0\nkind: example.com/thing\ndevices:\n- name: a\n  containerEdits:\n    env: [FROM={directory}]\n"
        );
        home.write(&format!("{directory}/thing.yaml"), text).parent().unwrap().display().to_string()
    };
    let (conf, asked) = (of("conf"), of("asked"));
    let conf = home.write("containers.conf", format!("[engine]\ncdi_spec_dirs = [{conf:?}]\n"));
    let line = "run --rm --device example.com/thing=a busybox sh -c 'echo $FROM'";
    assert_eq!(home.coracle(line).env("CONTAINERS_CONF", &conf).run().ok(), "conf");
    let line = format!("--cdi-spec-dir {asked} {line}");
    assert_eq!(home.coracle(&line).env("CONTAINERS_CONF", &conf).run().ok(), "asked");
}

fn daemon_json_is_dockers_configuration(home: &Home) {
    let directory = home.path().join(".config/docker");
    fs::create_dir_all(&directory).unwrap();
    let json = r#"{"log-driver": "json-file", "log-opts": {"max-size": "1m"}, "default-shm-size": "3m", "features": {},
        "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 321, "Hard": 654}}, "dns": ["10.9.8.7"]}"#;
    fs::write(directory.join("daemon.json"), json).unwrap();
    let words = "busybox sh -c 'ulimit -Sn; ulimit -Hn; df -k /dev/shm | tail -1'";
    let docker = called(home, "docker", &format!("run --name d {words}"));
    assert_eq!(docker.code, 0, "{}", docker.err);
    let lines: Vec<&str> = docker.out.lines().collect();
    assert_eq!(lines[..2], ["321", "654"], "{}", docker.out);
    assert_eq!(lines[2].split_whitespace().nth(1), Some("3072"), "{}", docker.out);
    assert_eq!(home.inspect("d", "{{.HostConfig.LogConfig.Type}} {{.HostConfig.Dns}}"), "json-file [10.9.8.7]");
    // It is docker's alone.
    home.ok(&format!("run --name p {words}"));
    assert_eq!(home.inspect("p", "{{.HostConfig.LogConfig.Type}}"), "k8s-file");
}

fn a_variable_chooses_the_user_namespace(home: &Home) {
    let uid = nix::unistd::getuid().to_string();
    let id = |line: &str| home.coracle(line).env("PODMAN_USERNS", "keep-id").run().ok();
    assert_eq!(id("run --rm busybox id -u"), uid);
    assert_eq!(id("run --rm --userns host busybox id -u"), "0");
}
