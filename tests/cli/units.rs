//! `generate systemd`, `auto-update`: units round containers.

use std::fs;

use crate::support::command::binary;
use crate::support::needs::Need;
use crate::support::prelude::*;
use crate::support::registry::Registry;

pub(crate) const TESTS: &[Test] = &[
    test!(a_unit_starts_the_container_that_there_is),
    test!(a_unit_makes_the_container_anew),
    test!(units_of_a_pod_are_bound_to_each_other),
    test!(templates_and_files_are_made_on_demand),
    test!(what_cannot_be_a_unit_is_refused),
    test!(auto_update_tells_what_is_outdated).needs(&[Need::Registry]),
    test!(auto_update_wants_a_unit_and_a_name),
];

/// A unit without its header, and with a short name of the binary.
fn unit(text: &str) -> String {
    let binary = binary().display().to_string();
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| format!("{line}\n"))
        .collect::<String>()
        .replace(&binary, "BIN")
}

fn a_unit_starts_the_container_that_there_is(home: &Home) {
    home.ok("create --name c busybox sleep 1000");
    let text = unit(&home.ok("generate systemd --name -t 5 --restart-policy always --restart-sec 3 --start-timeout 7 -e A=b --wants x.service --after y.service c"));
    for line in [
        "Description=coracle container-c.service",
        "Wants=x.service",
        "After=y.service",
        "Environment=PODMAN_SYSTEMD_UNIT=%n",
        "Environment=A=b",
        "Restart=always",
        "RestartSec=3",
        "TimeoutStartSec=7",
        "TimeoutStopSec=65",
        "ExecStart=BIN start \\",
        "\t--sdnotify=conmon c",
        "ExecStop=BIN stop \\",
        "\t-t 5 c",
        "Type=notify",
        "WantedBy=default.target",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    let id = home.inspect("c", "{{.Id}}");
    assert!(home.ok("generate systemd c").contains(&format!("start \\\n\t--sdnotify=conmon {id}\n")));
    home.ok("rm c");
}

fn a_unit_makes_the_container_anew(home: &Home) {
    home.ok("create -it --name c --restart on-failure:3 --stop-timeout 20 -e 'A=50% $x' --label a=b busybox sh -c 'sleep 1000'");
    let text = unit(&home.ok("generate systemd --new --name c"));
    let command = "ExecStart=BIN run \\\n\t--cidfile=%t/%n.ctr-id \\\n\t--cgroups=split \\\n\t--rm \\\n\t--sdnotify=conmon \\\n\t-d \\\n\t--replace \\\n\t-i \\\n\t-t \\\n\t--name c \\\n\t--stop-timeout 20 \\\n\t-e \"A=50%% $$x\" \\\n\t--label a=b busybox sh \\\n\t-c \"sleep 1000\"\n";
    assert!(text.contains(command), "{text}");
    assert!(text.contains("Restart=on-failure\nStartLimitBurst=3\nTimeoutStopSec=80\n"), "{text}");
    assert!(
        text.contains("ExecStopPost=BIN rm \\\n\t-f \\\n\t--ignore \\\n\t-t 20 \\\n\t--cidfile=%t/%n.ctr-id\n"),
        "{text}"
    );
    home.ok("rm c");
}

fn units_of_a_pod_are_bound_to_each_other(home: &Home) {
    home.ok("pod create --name p --share uts --label a=b");
    home.ok("create --pod p --name c busybox sleep 1000");
    let text = unit(&home.ok("generate systemd --new --name --pod-prefix pp --container-prefix '' --separator _ p"));
    for part in [
        "Wants=c.service\nBefore=c.service\n",
        "ExecStartPre=BIN pod create \\\n\t--infra-conmon-pidfile %t/pp_p.pid \\\n\t--pod-id-file %t/pp_p.pod-id \\\n\t--exit-policy=stop \\\n\t--name p \\\n\t--share uts \\\n\t--label a=b \\\n\t--replace\n",
        "PIDFile=%t/pp_p.pid\nType=forking\n",
        "BindsTo=pp_p.service\nAfter=pp_p.service\n",
        "\t--pod-id-file %t/pp_p.pod-id \\\n\t--sdnotify=conmon \\\n\t-d \\\n\t--replace \\\n\t--name c busybox sleep 1000\n",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let old = unit(&home.ok("generate systemd --name p"));
    assert!(old.contains("--sdnotify=conmon c\n") && old.contains("-infra\n"), "{old}");
    home.ok("pod rm -f p");
}

fn templates_and_files_are_made_on_demand(home: &Home) {
    home.ok("create --name c busybox true");
    let text = home.ok("generate systemd --new --template --name --no-header c");
    assert!(
        text.starts_with("# container-c@.service\n\n[Unit]\nDescription=coracle container-c.service for %I\n"),
        "{text}"
    );
    assert!(text.contains("\t--name c-%i busybox true\n"), "{text}");
    let dir = home.tmp();
    let path = home.coracle("generate systemd --files --name c").dir(&dir).run().ok();
    assert_eq!(path, dir.join("container-c.service").display().to_string());
    assert!(fs::read_to_string(path).unwrap().contains("[Install]"));
    let json = home.coracle("generate systemd --files --name --format json c").dir(&dir).run().ok();
    assert_eq!(json, format!("{{\n  \"container-c\": \"{}\"\n}}", dir.join("container-c.service").display()));
    home.ok("rm c");
}

fn what_cannot_be_a_unit_is_refused(home: &Home) {
    home.ok("create --name c busybox true");
    for (options, reason) in [
        ("nope", "nope does not refer to a container or pod"),
        ("--template c", "--template cannot be set without --new"),
        ("--restart-policy perhaps c", "perhaps is not a valid restart policy"),
        ("--format yaml c", "must be json"),
    ] {
        let line = home.fails(125, &format!("generate systemd {options}"));
        assert!(line.contains(reason), "{line}");
    }
    home.ok("rm c");
}

fn auto_update_tells_what_is_outdated(home: &Home) {
    let registry = Registry::start(home);
    let name = format!("{}/app:1", registry.host());
    home.ok(&format!("push --tls-verify=false busybox {name}"));
    home.ok(&format!("pull -q --tls-verify=false {name}"));
    home.ok("tag busybox localhost/own");
    let run = |container: &str, policy: &str, image: &str| {
        let line = format!(
            "run -d --name {container} --network none --label io.containers.autoupdate={policy} {image} sleep 1000"
        );
        home.coracle(&line).env("PODMAN_SYSTEMD_UNIT", format!("{container}.service")).run().ok();
    };
    run("r", "registry", &name);
    run("l", "local", "localhost/own");
    run("off", "disabled", "localhost/own");
    let list = || {
        home.ok(
            "auto-update --dry-run --tls-verify=false --format '{{.Unit}} {{.ContainerName}} {{.Policy}} {{.Updated}}'",
        )
    };
    assert_eq!(list(), "l.service l local false\nr.service r registry false");
    // Newer ones come to be.
    home.ok("create --name new busybox true");
    home.ok("commit -q --change CMD=new new localhost/own");
    home.ok(&format!("push --tls-verify=false localhost/own {name}"));
    let before = home.ok(&format!("image inspect --format {{{{.Id}}}} {name}"));
    assert_eq!(list(), "l.service l local pending\nr.service r registry pending");
    assert_eq!(home.ok(&format!("image inspect --format {{{{.Id}}}} {name}")), before, "a dry run pulls nothing");
    let table = home.ok("auto-update --dry-run --tls-verify=false");
    let head: Vec<_> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["UNIT", "CONTAINER", "IMAGE", "POLICY", "UPDATED"]);
    // Here is no systemd: nothing is restarted, and the image is the old one again.
    let run = home.run("auto-update --tls-verify=false");
    run.exits(125);
    assert!(run.stderr().contains("restart r.service: "), "{}", run.stderr());
    home.ok("rm -f -t 0 r l off new");
}

fn auto_update_wants_a_unit_and_a_name(home: &Home) {
    assert_eq!(home.ok("auto-update"), "", "nobody wants it");
    home.ok("run -d --name c --network none --label io.containers.autoupdate=local busybox sleep 1000");
    assert!(home.fails(125, "auto-update").contains("container c: no PODMAN_SYSTEMD_UNIT label found"));
    home.ok("rm -f -t 0 c");
    let run = "run -d --name c --network none --label io.containers.autoupdate=registry busybox sleep 1000";
    home.coracle(run).env("PODMAN_SYSTEMD_UNIT", "c.service").run().ok();
    assert!(home.fails(125, "auto-update").contains("is a short name"));
    home.ok("rm -f -t 0 c");
    home.ok("run -d --name c --network none --label io.containers.autoupdate=often busybox sleep 1000");
    assert!(home.fails(125, "auto-update").contains("must be registry, local or disabled"));
    home.ok("rm -f -t 0 c");
}
