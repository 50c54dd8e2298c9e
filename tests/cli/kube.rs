//! `kube play`, `kube down` and `kube generate`.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;

use crate::support::home::wait_until;
use crate::support::needs::Need;
use crate::support::peer::Podman;
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(a_file_is_played_and_taken_down),
    test!(variables_files_and_secrets_reach_the_container),
    test!(secrets_are_in_memory_only),
    test!(containers_of_a_pod_share_an_empty_dir_that_goes_with_them),
    test!(what_fails_leaves_nothing_of_its_pod),
    test!(init_containers_run_first_and_in_order),
    test!(pods_are_replaced_and_need_not_start),
    test!(play_waits_and_cleans_up),
    test!(files_come_from_pipes_and_addresses),
    test!(names_in_files_do_not_lead_out_of_their_volumes),
    test!(host_paths_are_checked_and_made),
    test!(what_is_generated_is_played_again),
    test!(what_is_generated_is_written_once),
    test!(what_cannot_be_is_refused_in_one_line),
    test!(podman_plays_what_is_generated).needs(&[Need::Podman]),
];

const POD: &str = "apiVersion: v1
kind: Pod
metadata:
  name: p
  labels: {app: x}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: busybox
    command: [sleep]
    args: [\"1000\"]
    env: [{name: A, value: b}]
    securityContext: {runAsUser: 5, runAsGroup: 6, readOnlyRootFilesystem: true}
";

/// Plays a file on a network that every machine has.
fn play(home: &Home, text: &str) -> String {
    let file = home.write("file.yaml", text);
    home.coracle("kube play --network none").arg(&file).run().ok()
}

fn down(home: &Home) -> String {
    home.ok("kube down --force file.yaml")
}

fn a_file_is_played_and_taken_down(home: &Home) {
    let claim = "---\nkind: PersistentVolumeClaim\nmetadata: {name: disk, labels: {a: b}}\n";
    let printed = play(home, &format!("{POD}{claim}"));
    let (pod, container) = (home.ok("pod ps -q --no-trunc"), home.inspect("p-c", "{{.Id}}"));
    assert_eq!(printed, format!("Volumes:\ndisk\nPod:\n{pod}\nContainer:\n{container}\n"));
    assert_eq!(home.inspect("p-c", "{{.Config.Labels.app}} {{.State.Status}} {{.Config.User}}"), "x running 5:6");
    assert_eq!(home.ok("exec p-c sh -c 'echo $A; id -u'"), "b\n5");
    home.run("exec p-c touch /x").exits(1);
    assert_eq!(home.ok("volume inspect --format {{.Labels.a}} disk"), "b");
    let text = home.fails(125, "kube play --network none file.yaml");
    assert!(text.contains("name \"p\" is in use"), "{text}");
    assert_eq!(
        home.ok("kube down file.yaml"),
        format!("Pods stopped:\n{pod}\nPods removed:\n{pod}\nSecrets removed:\nVolumes removed:")
    );
    assert_eq!(home.ok("ps -aq"), "");
    home.run("volume exists disk").exits(0);
    assert_eq!(down(home), "Pods stopped:\nPods removed:\nSecrets removed:\nVolumes removed:\ndisk");
}

fn variables_files_and_secrets_reach_the_container(home: &Home) {
    play(
        home,
        "kind: ConfigMap
metadata: {name: settings}
data: {level: high, text: \"a\\nb\\n\"}
binaryData: {bytes: AAEC}
---
kind: Secret
metadata: {name: keys}
data: {token: aHVzaA==}
stringData: {plain: text}
---
kind: Pod
metadata: {name: p}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: busybox
    command: [sh, -c, 'sleep 1000 # $(LEVEL)']
    env:
    - {name: LEVEL, valueFrom: {configMapKeyRef: {name: settings, key: level}}}
    - {name: TOKEN, valueFrom: {secretKeyRef: {name: keys, key: token}}}
    envFrom: [{secretRef: {name: keys}}]
    volumeMounts:
    - {name: settings, mountPath: /settings}
    - {name: keys, mountPath: /keys}
    - {name: one, mountPath: /one, subPath: deep/level}
  volumes:
  - {name: settings, configMap: {name: settings, defaultMode: 0640}}
  - {name: keys, secret: {secretName: keys, defaultMode: 0400}}
  - {name: one, configMap: {name: settings, items: [{key: level, path: deep/level}]}}
",
    );
    assert_eq!(home.ok("exec p-c sh -c 'echo $LEVEL $TOKEN $plain'"), "high hush text");
    assert_eq!(home.ok("exec p-c cat /settings/text /keys/token /one"), "a\nb\nhushhigh");
    assert_eq!(home.ok("exec p-c stat -c %a /settings/level /keys/token"), "640\n400");
    assert_eq!(home.ok("exec p-c stat -c %s /settings/bytes"), "3");
    assert_eq!(home.inspect("p-c", "{{index .Config.Cmd}}{{index .Config.Entrypoint 2}}"), "[]sleep 1000 # high");
    down(home);
    home.run("secret exists keys").exits(1);
    home.run("volume exists settings").exits(1);
}

fn secrets_are_in_memory_only(home: &Home) {
    play(
        home,
        "kind: Secret\nmetadata: {name: keys}\nstringData: {token: very-much-hush}\n---\nkind: Pod\nmetadata: {name: p}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  - name: c\n    image: busybox\n    command: [sleep, \"1000\"]\n    env: [{name: TOKEN, valueFrom: {secretKeyRef: {name: keys, key: token}}}]\n    volumeMounts: [{name: v, mountPath: /keys}]\n  volumes: [{name: v, secret: {secretName: keys}}]\n",
    );
    assert_eq!(home.ok("exec p-c sh -c 'echo $TOKEN; cat /keys/token'"), "very-much-hush\nvery-much-hush");
    assert!(!home.ok("inspect p-c").contains("very-much-hush"));
    let found = std::process::Command::new("grep")
        .args(["-rl", "very-much-hush"])
        .arg(home.data())
        .output()
        .expect("grep is everywhere");
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    down(home);
}

fn containers_of_a_pod_share_an_empty_dir_that_goes_with_them(home: &Home) {
    let pod = |name: &str| {
        let container = |name: &str| {
            format!(
                "  - {{name: {name}, image: busybox, command: [sleep, \"1000\"], volumeMounts: [{{name: v, mountPath: /v}}]}}\n"
            )
        };
        format!(
            "---\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  volumes: [{{name: v, emptyDir: {{}}}}]\n  containers:\n{}{}",
            container("a"),
            container("b")
        )
    };
    play(home, &format!("{}{}", pod("p"), pod("q")));
    home.ok("exec p-a touch /v/file");
    assert_eq!(home.ok("exec p-b ls /v"), "file");
    assert_eq!(home.ok("exec q-a ls /v"), "");
    home.ok("kube down file.yaml");
    assert_eq!(home.ok("volume ls -q"), "");
}

fn what_fails_leaves_nothing_of_its_pod(home: &Home) {
    let second = "  - {name: d, image: localhost/none, imagePullPolicy: Never}\n";
    let file = home.write("file.yaml", format!("{POD}{second}"));
    let line = home.coracle("kube play --network none").arg(&file).run().fails(125);
    assert!(line.contains("container p-d") && line.contains("localhost/none"), "{line}");
    assert_eq!(home.ok("ps -aq") + &home.ok("pod ps -q"), "");
}

fn init_containers_run_first_and_in_order(home: &Home) {
    let pod = |last: &str| {
        let init = |name: &str, script: &str| {
            format!(
                "  - {{name: {name}, image: busybox, command: [sh, -c, \"{script}\"], volumeMounts: [{{name: v, mountPath: /v}}]}}\n"
            )
        };
        format!(
            "kind: Pod\nmetadata: {{name: p}}\nspec:\n  restartPolicy: Never\n  terminationGracePeriodSeconds: 0\n  volumes: [{{name: v, emptyDir: {{}}}}]\n  initContainers:\n{}{}  containers:\n{}",
            init("one", "echo one >> /v/log"),
            init("two", last),
            init("c", "cat /v/log; sleep 1000")
        )
    };
    play(home, &pod("echo two >> /v/log"));
    wait_until("it has read the log", || home.ok("logs p-c").ends_with("two"));
    assert_eq!(home.ok("logs p-c"), "one\ntwo");
    home.run("container exists p-one").exits(1);
    down(home);
    let file = home.write("file.yaml", pod("echo sorry >&2; exit 3"));
    let line = home.coracle("kube play --network none").arg(&file).run().fails(125);
    assert!(line.contains("init container p-two exited with code 3"), "{line}");
    // What it said is there to be read.
    assert_eq!(home.run("logs p-two").stderr(), "sorry\n");
    down(home);
}

fn pods_are_replaced_and_need_not_start(home: &Home) {
    play(home, POD);
    let file = home.write("file.yaml", POD.replace("{name: A, value: b}", "{name: A, value: new}"));
    let before = home.ok("pod ps -q");
    home.coracle("kube play --network none --replace --start=false").arg(&file).run().ok();
    assert_ne!(home.ok("pod ps -q"), before);
    assert_eq!(home.ok("pod ps --format {{.Status}}"), "Created");
    home.ok("pod start p");
    assert_eq!(home.ok("exec p-c sh -c 'echo $A'"), "new");
    home.coracle("kube play --down").arg(&file).run().ok();
    assert_eq!(home.ok("pod ps -q"), "");
}

fn play_waits_and_cleans_up(home: &Home) {
    let file = home.write("file.yaml", POD.replace("[sleep]", "[sh, -c]").replace("\"1000\"", "\"echo done\""));
    let printed = home.coracle("kube play --network none --wait").arg(&file).run().ok();
    assert!(printed.contains("Pods removed:"), "{printed}");
    assert_eq!(home.ok("ps -aq"), "");
}

/// Answers one request with a body, then ends.
fn serve(body: &'static str) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port on loopback");
    let port = listener.local_addr().expect("it is bound").port();
    std::thread::spawn(move || {
        let Ok((mut stream, _)) = listener.accept() else { return };
        let mut bytes = [0; 4096];
        let _ = stream.read(&mut bytes);
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    });
    port
}

fn files_come_from_pipes_and_addresses(home: &Home) {
    home.coracle("kube play --network none -").stdin(POD).run().ok();
    assert_eq!(home.ok("pod ps --format {{.Name}}"), "p");
    home.ok(&format!("kube down http://127.0.0.1:{}/x.yaml", serve(POD)));
    assert_eq!(home.ok("pod ps -q"), "");
    home.ok(&format!("play kube --network none http://127.0.0.1:{}/x.yaml", serve(POD)));
    home.coracle("kube down -").stdin(POD).run().ok();
    let line = home.fails(125, "kube play http://127.0.0.1:1/x.yaml");
    assert!(line.contains("127.0.0.1:1"), "{line}");
}

fn names_in_files_do_not_lead_out_of_their_volumes(home: &Home) {
    let pod = "---\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers: [{name: c, image: busybox, volumeMounts: [{name: v, mountPath: /v}]}]\n  volumes: [{name: v, configMap: {name: m}}]\n";
    for key in ["../../escape", "/escape", "a/../../escape"] {
        let map = format!("kind: ConfigMap\nmetadata: {{name: m}}\ndata: {{\"{key}\": x}}\n");
        let file = home.write("file.yaml", map + pod);
        let line = home.coracle("kube play --network none").arg(&file).run().fails(125);
        assert!(line.contains("must be a relative path"), "{line}");
    }
    // What a container left in the volume is not followed either.
    let canary = home.write("canary", "alive");
    home.ok("volume create m");
    home.ok(&format!("run --rm -v m:/v busybox ln -s {} /v/key", canary.display()));
    play(home, &format!("kind: ConfigMap\nmetadata: {{name: m}}\ndata: {{key: x}}\n{pod}"));
    assert_eq!(fs::read_to_string(&canary).unwrap(), "alive");
    down(home);
}

fn host_paths_are_checked_and_made(home: &Home) {
    let pod = |path: &std::path::Path, kind: &str| {
        format!(
            "kind: Pod\nmetadata: {{name: p}}\nspec:\n  terminationGracePeriodSeconds: 0\n  volumes: [{{name: v, hostPath: {{path: {}, type: {kind}}}}}]\n  containers: [{{name: c, image: busybox, command: [sleep, \"1000\"], volumeMounts: [{{name: v, mountPath: /v}}]}}]\n",
            path.display()
        )
    };
    let path = home.tmp().join("made/here");
    let file = home.write("file.yaml", pod(&path, "Directory"));
    let line = home.coracle("kube play --network none").arg(&file).run().fails(125);
    assert!(line.contains("hostPath") && line.contains("made/here"), "{line}");
    play(home, &pod(&path, "DirectoryOrCreate"));
    home.ok("exec p-c touch /v/x");
    assert!(path.join("x").exists());
    down(home);
    for (kind, part) in [("File", "not a file"), ("Socket", "not a socket"), ("CharDevice", "not a character device")] {
        let file = home.write("file.yaml", pod(&path, kind));
        let line = home.coracle("kube play --network none").arg(&file).run().fails(125);
        assert!(line.contains(part), "{line}");
    }
}

fn what_is_generated_is_played_again(home: &Home) {
    home.ok("volume create disk");
    home.ok("create --name c --stop-timeout 0 --network none -e 'A=$(B) $$ x: y' -e B=1 -v disk:/disk --tmpfs /t --memory 64m -u 5:6 --cap-drop all busybox sh -c 'echo \"$A\"; sleep 1000'");
    let first = home.ok("kube generate c disk");
    assert!(first.starts_with("# Save the output of this file"), "{first}");
    home.ok("rm c");
    play(home, &first);
    assert_eq!(home.ok("exec c-pod-c sh -c 'echo \"$A\"; id -u; ls -d /disk /t'"), "$(B) $$ x: y\n5\n/disk\n/t");
    // The pod's own description does not change by being played.
    let second = home.ok("kube generate c-pod");
    home.ok("pod rm -f -t 0 c-pod");
    play(home, &second);
    let without_time =
        |text: &str| text.lines().filter(|line| !line.contains("Timestamp")).collect::<Vec<_>>().join("\n");
    assert_eq!(without_time(&home.ok("kube generate c-pod")), without_time(&second));
    down(home);
}

fn what_is_generated_is_written_once(home: &Home) {
    home.ok("create --name c --network none --restart always busybox");
    assert_eq!(home.ok("kube generate -f out.yaml c"), "");
    let line = home.fails(125, "kube generate -f out.yaml c");
    assert!(line.ends_with("cannot write to \"out.yaml\"; file exists"), "{line}");
    let text = home.ok("generate kube --type deployment --replicas 2 --service c");
    for part in ["kind: Service", "kind: Deployment", "replicas: 2", "name: c-pod-deployment", "restartPolicy: Always"]
    {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let line = home.fails(125, "kube generate --type job c");
    assert!(line.contains("Jobs can not have restartPolicy set to Always"), "{line}");
}

fn what_cannot_be_is_refused_in_one_line(home: &Home) {
    home.write("file.yaml", POD);
    home.write("service.yaml", "kind: Service");
    home.write("wrong.yaml", "kind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: 5\n");
    home.ok("pod create --network none p");
    home.ok("create --name c --pod p busybox");
    for (line, part) in [
        ("kube play service.yaml", "does not contain any supported kube kind"),
        ("kube play wrong.yaml", "line 5"),
        ("kube play none.yaml", "none.yaml: no such file"),
        ("kube play --build file.yaml", "there is no build yet"),
        ("kube play --force file.yaml", "only with --down"),
        ("kube play --ip 10.0.0.1 file.yaml", "not in any subnet"),
        ("kube play --network none --ip 10.0.0.1 file.yaml", "single bridge network"),
        ("kube play --userns auto file.yaml", "host, keep-id or single"),
        ("kube play --wait --start=false file.yaml", "cannot be used together"),
        ("kube apply -f file.yaml", "kubectl"),
        ("kube generate none", "name or ID \"none\" not found"),
        ("kube generate c", "use generate on the pod itself"),
        ("kube generate --replicas 2 p", "--replicas can only be set"),
        ("kube generate --type x p", "invalid generation type"),
        ("create --init-ctr once busybox", "must specify pod value with init-ctr"),
        ("create --init-ctr x --pod p busybox", "'always' or 'once'"),
    ] {
        let text = home.fails(125, line);
        assert!(text.contains(part), "{line}: {text}");
    }
    home.ok("pod rm -f -t 0 p");
}

fn podman_plays_what_is_generated(home: &Home) {
    home.ok("create --name c --network none -e A=b -u 5:6 --tmpfs /t --cap-drop chown localhost/busybox sleep 1000");
    let file = home.write("file.yaml", home.ok("kube generate c"));
    let peer = Podman::new(home);
    let (code, _, error) = peer.run(&format!("kube play --network none --start=false {}", file.display()));
    assert_eq!(code, 0, "{error}");
    let (_, theirs, _) = peer.run("kube generate c-pod");
    peer.run(&format!("kube down {}", file.display()));
    home.ok("rm c");
    play(home, &theirs.replace("localhost/busybox:latest", "localhost/busybox"));
    assert_eq!(
        home.inspect("c-pod-c-pod-c", "{{.Config.User}} {{.Config.Entrypoint}} {{.Config.Cmd}}"),
        "5:6 [sleep] [1000]"
    );
    down(home);
}
