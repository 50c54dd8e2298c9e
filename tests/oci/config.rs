//! What a bundle asks for is what its process finds: config.md and config-linux.md.

use std::fs;
use std::os::unix::net::UnixListener;

use serde_json::json;

use super::Bundle;
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(process_is_as_the_bundle_has_it).without_image(),
    test!(mounts_and_masks_are_as_the_bundle_has_them).without_image(),
    test!(devices_are_the_hosts).needs(&[Need::Fuse]).without_image(),
    test!(namespaces_are_new_shared_or_joined).without_image(),
    test!(system_calls_are_filtered).without_image(),
    test!(sysctls_and_names_are_set).without_image(),
    test!(terminal_goes_to_the_console_socket).without_image(),
    test!(run_is_the_terminal_of_its_process).without_image(),
    test!(descriptors_are_preserved_when_asked).without_image(),
    test!(root_of_a_user_namespace_may_map_and_nest_ids).without_image(),
    test!(what_cannot_be_kept_is_refused_by_name).without_image(),
];

fn process_is_as_the_bundle_has_it(home: &Home) {
    let bundle = Bundle::new(home)
        .script(
            "pwd; echo $A; umask; ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj; \
             grep -E '^(NoNewPrivs|CapBnd|CapEff|CapAmb)' /proc/self/status; ls /proc/self/fd | wc -l",
        )
        .with(|config| {
            let process = &mut config["process"];
            process["cwd"] = json!("/tmp/made");
            process["env"] = json!(["PATH=/bin", "A=a b"]);
            process["user"]["umask"] = json!(0o27);
            process["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 60, "hard": 70 }]);
            process["oomScoreAdj"] = json!(700);
            process["noNewPrivileges"] = json!(true);
            let two = json!(["CAP_CHOWN", "CAP_KILL"]);
            process["capabilities"] =
                json!({ "bounding": two, "permitted": two, "effective": ["CAP_KILL"], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"] });
        });
    // Root gets what is in its bounding set at execve. Three streams and the directory that is listed.
    let expected = "/tmp/made\na b\n0027\n60\n70\n700\nCapEff:\t0000000000000021\nCapBnd:\t0000000000000021\n\
                    CapAmb:\t0000000000000020\nNoNewPrivs:\t1\n4";
    assert_eq!(bundle.prints(), expected);
}

fn mounts_and_masks_are_as_the_bundle_has_them(home: &Home) {
    let host = home.write("host/file", "of the host\n");
    let bundle = Bundle::new(home)
        .script(
            "cat /bound/file; touch /bound/x /new 2>&1 | sort; stat -fc %T /t; stat -c %a /t; touch /t/y && echo written; \
             cat /masked; ls /hidden | wc -l; touch /kept/z 2>&1; test -c /dev/null && echo device; touch /dev/x && echo dev",
        )
        .with(|config| {
            config["root"]["readonly"] = json!(true);
            let mounts = config["mounts"].as_array_mut().unwrap();
            let source = host.parent().unwrap();
            mounts.push(json!({ "destination": "/bound", "source": source, "type": "bind", "options": ["rbind", "ro"] }));
            mounts.push(json!({ "destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1711"] }));
            // The second covers the first.
            mounts.push(json!({ "destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1700"] }));
            config["linux"]["maskedPaths"] = json!(["/masked", "/hidden", "/nowhere"]);
            config["linux"]["readonlyPaths"] = json!(["/kept"]);
        });
    fs::write(bundle.rootfs().join("masked"), "secret").unwrap();
    fs::create_dir_all(bundle.rootfs().join("hidden/secret")).unwrap();
    fs::create_dir(bundle.rootfs().join("kept")).unwrap();
    let expected = "of the host\ntouch: /bound/x: Read-only file system\ntouch: /new: Read-only file system\n\
                    tmpfs\n1700\nwritten\n0\ntouch: /kept/z: Read-only file system\ndevice\ndev";
    assert_eq!(bundle.prints(), expected);
}

fn devices_are_the_hosts(home: &Home) {
    let bundle = Bundle::new(home)
        .script("stat -c '%n %t:%T' /dev/null /dev/tty /dev/fuse; test -p /pipes/p && echo pipe; readlink /dev/stdin");
    let bundle = bundle.with(|config| {
        // Without a mount on /dev as well.
        config["mounts"]
            .as_array_mut()
            .unwrap()
            .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
        config["linux"]["devices"] = json!([
            { "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229 },
            { "path": "/pipes/p", "type": "p", "fileMode": 0o600 },
        ]);
    });
    assert_eq!(bundle.prints(), "/dev/null 1:3\n/dev/tty 5:0\n/dev/fuse a:e5\npipe\n/proc/self/fd/0");
    let bundle = bundle.with(|config| {
        config["linux"]["devices"] = json!([{ "path": "/dev/fuse", "type": "c", "major": 1, "minor": 1 }])
    });
    assert_eq!(
        bundle.create_fails("one"),
        "Error: mount /dev/fuse on /dev/fuse: mknod(/dev/fuse): operation not permitted"
    );
}

fn namespaces_are_new_shared_or_joined(home: &Home) {
    let kinds = ["pid", "ipc", "uts", "mnt", "cgroup", "user", "net"];
    let script = kinds.map(|kind| format!("readlink /proc/self/ns/{kind}")).join(";");
    let bundle = Bundle::new(home).script(&script);
    let printed = bundle.prints();
    for (kind, theirs) in kinds.iter().zip(printed.lines()) {
        let ours = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        // The bundle for callers without root names no network namespace.
        assert_eq!(ours.to_str().unwrap() == theirs, *kind == "net", "{kind}");
    }
    let bundle = bundle.script("exec sleep 1000");
    bundle.create("first");
    bundle.ok("start first");
    let pid = bundle.state("first")["pid"].as_i64().unwrap();
    let mut namespaces: Vec<_> = ["user", "pid", "ipc", "uts"]
        .map(|kind| json!({ "type": kind, "path": format!("/proc/{pid}/ns/{kind}") }))
        .to_vec();
    namespaces.push(json!({ "type": "mount" }));
    let bundle = bundle.script(&(script + "; echo $$")).with(|config| {
        config["linux"]["namespaces"] = json!(namespaces);
        config["linux"].as_object_mut().unwrap().remove("uidMappings");
        config["linux"].as_object_mut().unwrap().remove("gidMappings");
    });
    let printed = bundle.ok("run second");
    let theirs = |kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    for (kind, found) in kinds.iter().zip(printed.lines()) {
        let is_joined = ["user", "pid", "ipc", "uts"].contains(kind);
        assert_eq!(theirs(kind).to_str().unwrap() == found, is_joined || *kind == "net", "{kind}");
    }
    assert_ne!(printed.lines().last(), Some("1"), "it is not the first of its pid namespace");
    let bundle = bundle.with(|config| config["linux"]["namespaces"][3]["path"] = json!(format!("/proc/{pid}/ns/ipc")));
    assert!(bundle.create_fails("third").contains("setns(/proc/"), "the kind of a namespace is checked");
}

fn system_calls_are_filtered(home: &Home) {
    let bundle = Bundle::new(home).script("mkdir /made; echo $?; grep Seccomp: /proc/self/status").with(|config| {
        config["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95 }] });
    });
    let finished = bundle.oci("run one").run();
    assert!(finished.stderr().contains("supported"), "{}", finished.transcript());
    assert_eq!(finished.ok(), "1\nSeccomp:\t2");
}

fn sysctls_and_names_are_set(home: &Home) {
    let bundle = Bundle::new(home)
        .script(
            "hostname; cat /proc/sys/kernel/domainname /proc/sys/kernel/shm_rmid_forced /proc/sys/fs/mqueue/msg_max",
        )
        .with(|config| {
            config["hostname"] = json!("named");
            config["domainname"] = json!("example.org");
            config["linux"]["sysctl"] = json!({ "kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "17" });
        });
    assert_eq!(bundle.prints(), "named\nexample.org\n1\n17");
    let bundle = bundle.with(|config| config["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1" }));
    assert!(bundle.create_fails("one").contains("linux.sysctl.net.ipv4.ip_forward: needs a private net namespace"));
}

fn terminal_goes_to_the_console_socket(home: &Home) {
    use std::io::Read;
    let bundle = Bundle::new(home).script("tty; stty size; exec sleep 1000").with(|config| {
        config["process"]["terminal"] = json!(true);
        config["process"]["consoleSize"] = json!({ "height": 30, "width": 90 });
    });
    let listener = UnixListener::bind(bundle.dir.join("s")).unwrap();
    bundle.detached("create --console-socket s one").0.ok();
    let (stream, _) = listener.accept().unwrap();
    let mut master = fs::File::from(runtime::process::pty::recv_fd(&stream).unwrap());
    bundle.ok("start one");
    let mut shown = String::new();
    while !shown.contains("30 90") {
        let mut bytes = [0; 100];
        let count = master.read(&mut bytes).unwrap();
        shown.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
    }
    assert_eq!(shown.trim(), "/dev/pts/0\r\n30 90");
    let error = bundle.oci("exec --detach --tty one true").run().fails(1);
    assert!(error.contains("--console-socket is needed"), "{error}");
    bundle.ok("exec --detach --tty --console-socket s one sh -c 'tty; exec sleep 1000'");
    let (stream, _) = listener.accept().unwrap();
    let mut master = fs::File::from(runtime::process::pty::recv_fd(&stream).unwrap());
    let mut bytes = [0; 100];
    let count = master.read(&mut bytes).unwrap();
    assert_eq!(&bytes[..count], b"/dev/pts/1\r\n");
    assert!(bundle.fails("create --console-socket nowhere two").contains("--console-socket nowhere: no such file"));
    let bundle = bundle.with(|config| config["process"]["terminal"] = json!(false));
    assert!(bundle.fails("create --console-socket s two").contains("the process has no terminal"));
}

fn run_is_the_terminal_of_its_process(home: &Home) {
    let bundle = Bundle::new(home)
        .script("tty; stty size; read line; echo \"got $line\"; exit 6")
        .with(|config| config["process"]["terminal"] = json!(true));
    let mut terminal = crate::support::pty::Terminal::start(bundle.oci("run one"));
    terminal.expect("/dev/pts/0");
    terminal.expect("24 80");
    terminal.send("words\n");
    terminal.expect("got words");
    assert_eq!(terminal.wait(), 6);
}

fn descriptors_are_preserved_when_asked(home: &Home) {
    let file = home.write("handed", "handed over");
    let bundle = Bundle::new(home).script("cat <&3; ls /proc/self/fd | wc -l");
    let with_three = |line: &str| {
        let script = format!("sh -c 'exec 3<{} 4</dev/null; exec \"$@\"' sh", file.display());
        bundle.oci(line).under(&script).run()
    };
    // The streams, the one descriptor, and the directory that is listed; 4 is nobody's.
    assert_eq!(with_three("run --preserve-fds 1 one").ok(), "handed over5");
    assert!(with_three("run one").stderr().contains("3"));
    assert!(with_three("run --preserve-fds 9 one").fails(1).contains("descriptor "), "what is not open is named");
}

fn root_of_a_user_namespace_may_map_and_nest_ids(home: &Home) {
    let bundle = Bundle::new(home);
    // As podman calls: with every id of the user, in a namespace that the container shares.
    let shared = bundle.script("id -u; id -g; id -G; cat /proc/self/uid_map").with(|config| {
        let linux = config["linux"].as_object_mut().unwrap();
        linux.remove("uidMappings");
        linux.remove("gidMappings");
        linux["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != "user");
        config["process"]["user"] = json!({ "uid": 7, "gid": 8, "additionalGids": [9, 10] });
    });
    let binary = crate::support::command::binary();
    let run = |script: &str| {
        let script = script.replace("RT", &format!("{} oci", binary.display()));
        home.coracle("unshare sh -c").arg(script).dir(&shared.dir).run()
    };
    let printed = run("cat /proc/self/uid_map >map; RT run one").ok();
    let map = fs::read_to_string(shared.dir.join("map")).unwrap();
    assert_eq!(printed + "\n", format!("7\n8\n8 9 10\n{map}"));
    // Which is left as it was: the caller's own mounts do not show what was made.
    run("RT create one >o 2>&1 </dev/null; RT start one; RT delete -f one; grep -c bundle /proc/self/mountinfo")
        .exits(1);
    let nested = shared.with(|config| {
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
        let map = json!([{ "containerID": 0, "hostID": 100, "size": 50 }]);
        config["linux"]["uidMappings"] = map.clone();
        config["linux"]["gidMappings"] = map;
        // For whoever is nobody in the container: neither the root nor what is bound is open to it.
        config["mounts"].as_array_mut().unwrap().push(
            json!({ "destination": "/bound", "source": home.tmp().join("bundle/config.json"), "type": "bind", "options": ["bind"] }),
        );
        config["process"]["args"] = json!(["sh", "-c", "id -u; cat /proc/self/uid_map; head -c 1 /bound; stat -c %u /"]);
    });
    let script = "chmod 700 ../bundle; mkdir -p rootfs/dev rootfs/proc rootfs/sys; chmod 755 rootfs; touch rootfs/bound; RT run two";
    let run = |script: &str| {
        let script = script.replace("RT", &format!("{} oci", binary.display()));
        home.coracle("unshare sh -c").arg(script).dir(&nested.dir).run()
    };
    assert_eq!(run(script).ok(), "7\n         0        100         50\n{65534");
}

fn what_cannot_be_kept_is_refused_by_name(home: &Home) {
    let bundle = Bundle::new(home);
    let config = bundle.config.clone();
    let mut bundle = bundle;
    for (pointer, value, error) in [
        ("/process", json!({ "apparmorProfile": "x" }), "process.apparmorProfile: "),
        ("/linux", json!({ "timeOffsets": { "monotonic": { "secs": 1 } } }), "linux.timeOffsets: "),
        ("/linux", json!({ "personality": { "domain": "LINUX32" } }), "linux.personality: "),
        ("/linux", json!({ "resources": { "memory": { "swappiness": 10 } } }), "linux.resources.memory.swappiness: "),
        ("/linux", json!({ "cgroupsPath": "/", "resources": { "unified": { "no.such": "1" } } }), "no.such"),
    ] {
        bundle = bundle.with(|changed| {
            *changed = config.clone();
            let object = changed.pointer_mut(pointer).unwrap().as_object_mut().unwrap();
            object.extend(value.as_object().unwrap().clone());
        });
        let said = bundle.create_fails("one");
        assert!(said.contains(error), "{said}");
    }
    assert_eq!(bundle.ok("list -q"), "");
}
