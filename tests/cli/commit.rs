//! `commit`: an image from what a container changed.

use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(image_has_the_files_of_the_container),
    test!(owners_are_those_that_the_container_saw),
    test!(image_runs_as_the_container_did),
    test!(changes_are_applied),
    test!(documents_are_of_the_format_that_was_asked_for),
    test!(container_that_never_ran_gives_its_image_with_an_empty_layer),
    test!(committed_image_is_readable_by_skopeo).needs(&[Need::Skopeo]),
    test!(what_cannot_be_committed_is_one_line),
];

const SCRIPT: &str = "echo new > /new; rm /bin/vi; mkdir -p /d/e; ln /new /d/hard; ln -s ../new /d/soft; \
                      mkfifo /d/fifo; chmod 4711 /d/e; rm -rf /tmp; mkdir -m 1777 /tmp; touch /tmp/x";

const SHOW: &str =
    "cat /new /d/soft; ls /bin/vi 2>/dev/null; stat -c '%F %a %h %n' /new /d/hard /d/fifo /d/e /tmp; ls /tmp";

fn image_has_the_files_of_the_container(home: &Home) {
    for driver in ["overlay", "fuse"] {
        for state in ["stopped", "running"] {
            home.ok(&format!("--storage-driver {driver} run -d --name c --network none busybox sleep 1000"));
            home.coracle("exec c sh -c").arg(SCRIPT).run().ok();
            let seen = home.coracle("exec c sh -c").arg(SHOW).run().ok();
            if state == "stopped" {
                home.ok("stop -t 0 c");
            }
            let id = home.ok("commit -q c made");
            assert_eq!(home.ok("image inspect --format {{.Id}} made"), id);
            let line = format!("--storage-driver {driver} run --rm --network none made sh -c");
            assert_eq!(home.coracle(&line).arg(SHOW).run().ok(), seen, "{driver} {state}");
            home.ok("rm -f -t 0 c");
            home.ok("rmi made");
        }
    }
}

fn owners_are_those_that_the_container_saw(home: &Home) {
    let list = "stat -c '%u:%g %a %n' /a /b /l /bin/busybox";
    for driver in ["overlay", "fuse"] {
        for userns in ["host", "keep-id", "auto", "single"] {
            let line =
                format!("--storage-driver {driver} run --name c --network none -u 0 --userns {userns} busybox sh -c");
            let script = format!("touch /a /b; ln -s a /l; chown 33:44 /b; chown -h 5:6 /l; chmod 4750 /b; {list}");
            let seen = home.coracle(&line).arg(script).run().ok();
            home.ok("commit -q c owned");
            for again in ["host", "single"] {
                let line = format!("run --rm --network none -u 0 --userns {again} owned sh -c");
                assert_eq!(home.coracle(&line).arg(list).run().ok(), seen, "{driver} {userns} {again}");
            }
            home.ok("rm c");
            home.ok("rmi owned");
        }
    }
}

fn image_runs_as_the_container_did(home: &Home) {
    home.ok(
        "create --name c -e A=1 -l k=v -w /srv -u 7 --expose 99 -v /data --entrypoint '[\"/bin/sh\",\"-c\"]' busybox pwd",
    );
    home.ok("commit -q c made");
    assert_eq!(home.ok("run --rm --network none made"), "/srv");
    let inspect = |format: &str| home.coracle("image inspect --format").arg(format).arg("made").run().ok();
    assert_eq!(inspect("{{.Config.User}} {{.Config.WorkingDir}} {{json .Config.Cmd}}"), "7 /srv [\"pwd\"]");
    assert_eq!(inspect("{{json .Config.Labels}} {{json .Config.ExposedPorts}}"), "{\"k\":\"v\"} {\"99/tcp\":{}}");
    assert_eq!(inspect("{{json .Config.Volumes}}"), "{\"/data\":{}}");
    assert!(inspect("{{json .Config.Env}}").contains("\"A=1\""));
    assert!(home.ok("history made").contains("FROM localhost/busybox:latest"));
}

fn changes_are_applied(home: &Home) {
    home.ok("create --name c -v named:/vol busybox");
    let iidfile = home.tmp().join("iid");
    let mut commit = home.coracle("container commit -q -a me --include-volumes --iidfile").arg(&iidfile);
    for change in [
        "CMD [\"a\"]",
        "ENTRYPOINT [\"echo\",\"b\"]",
        "ENV A=\"b c\" E=f",
        "EXPOSE 80 81/udp",
        "LABEL \"c d\"='e f'",
        "STOPSIGNAL=9",
        "USER 5",
        "VOLUME /x /y",
        "WORKDIR w",
        "ONBUILD RUN true",
    ] {
        commit = commit.arg("-c").arg(change);
    }
    let id = commit.arg("c").arg("made:1").run().ok();
    assert_eq!(std::fs::read_to_string(iidfile).unwrap(), id);
    assert_eq!(home.ok("run --rm --network none made:1"), "b a");
    let inspect = |format: &str| home.coracle("image inspect --format").arg(format).arg("made:1").run().ok();
    assert_eq!(inspect("{{.Config.User}} {{.Config.WorkingDir}} {{.Config.StopSignal}} {{.Author}}"), "5 /w 9 me");
    assert_eq!(inspect("{{json .Config.ExposedPorts}}"), "{\"80/tcp\":{},\"81/udp\":{}}");
    assert_eq!(inspect("{{json .Config.Volumes}}"), "{\"/vol\":{},\"/x\":{},\"/y\":{}}");
    assert_eq!(inspect("{{json .Config.Labels}}"), "{\"c d\":\"e f\"}");
    assert!(inspect("{{json .Config.Env}}").contains("\"A=b c\",\"E=f\""));
}

fn documents_are_of_the_format_that_was_asked_for(home: &Home) {
    home.ok("create --name c busybox");
    home.ok("commit -q c oci");
    home.ok("commit -q -f docker -m said c docker");
    let inspect = |name: &str, format: &str| home.coracle("image inspect --format").arg(format).arg(name).run().ok();
    assert_eq!(inspect("oci", "{{.ManifestType}}"), "application/vnd.oci.image.manifest.v1+json");
    let docker = "application/vnd.docker.distribution.manifest.v2+json said";
    assert_eq!(inspect("docker", "{{.ManifestType}} {{.Comment}}"), docker);
    for name in ["oci", "docker"] {
        home.ok(&format!("run --rm --network none {name} true"));
    }
    let message = home.fails(125, "commit -m said c x");
    assert!(message.contains("messages are only compatible with the docker image format (-f docker)"), "{message}");
}

fn container_that_never_ran_gives_its_image_with_an_empty_layer(home: &Home) {
    home.ok("create --name c busybox echo made");
    let id = home.ok("commit -q c");
    assert_eq!(home.ok(&format!("run --rm --network none {id}")), "made");
    assert_eq!(home.ok(&format!("diff {id}")), "");
    // Its layers are those of the store: what is unpacked is a cache.
    home.ok(&format!("rmi {id}"));
    assert_eq!(home.ok("run --rm --network none busybox echo left"), "left");
}

fn committed_image_is_readable_by_skopeo(home: &Home) {
    home.coracle("run --name c --network none busybox sh -c").arg(SCRIPT).run().ok();
    home.ok("commit -q c localhost/made");
    let source = format!("oci:{}:localhost/made:latest", home.data().join("images").display());
    let copy = format!("dir:{}", home.tmp().join("copy").display());
    crate::support::registry::run_program(std::process::Command::new("skopeo").args(["copy", "-q", &source, &copy]));
}

fn what_cannot_be_committed_is_one_line(home: &Home) {
    home.ok("create --name c busybox");
    for (line, why) in [
        ("commit nosuch x", "no container with name or ID \"nosuch\" found: no such container"),
        ("commit -f x c", "unrecognized image format \"x\""),
        ("commit -c 'RUN x' c", "did not understand change instruction \"RUN x\""),
        ("commit -c 'STOPSIGNAL ZZZ' c", "Invalid signal: ZZZ"),
        ("commit c UPPER", "parsing reference \"UPPER\""),
    ] {
        let message = home.fails(125, line);
        assert!(message.contains(why), "{line}: {message}");
    }
}
