//! `init`, and what only the noun `container` has: `clone`, `cleanup`, `runlabel`. And `system reset`.

use crate::support::home::{entries, wait_until};
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(an_initialized_container_waits_for_its_start),
    test!(start_attaches_to_an_initialized_container_before_it_begins),
    test!(an_initialized_container_can_be_stopped_and_removed),
    test!(an_initialized_container_without_its_program_fails_at_its_start),
    test!(containers_started_at_once_by_several_run_once),
    test!(a_clone_has_the_options_of_its_original),
    test!(a_clone_takes_the_place_of_its_original),
    test!(cleanup_refuses_what_runs_and_removes_what_it_may),
    test!(a_label_is_run_as_a_command_line),
    test!(reset_leaves_nothing_and_touches_nothing_else),
    test!(reset_shows_what_goes_and_asks),
    test!(there_is_no_api_and_a_line_says_so).without_image(),
];

fn an_initialized_container_waits_for_its_start(home: &Home) {
    home.ok("create --name a -v data:/data busybox sh -c 'echo begun > /data/x; sleep 1000'");
    assert_eq!(home.ok("init a"), "a");
    assert_eq!(home.ok("ps -a --format {{.Status}}"), "Initialized");
    assert_eq!(home.inspect("a", "{{.State.Status}} {{.State.Running}}"), "initialized false");
    assert_ne!(home.inspect("a", "{{.State.Pid}}"), "0");
    assert_ne!(home.inspect("a", "{{.NetworkSettings.IPAddress}}"), "");
    let data = home.ok("volume inspect data --format {{.Mountpoint}}");
    assert_eq!(entries(data.as_ref()).len(), 0, "nothing of its program has run");
    for (line, why) in [
        ("exec a true", "can only create exec sessions on running containers"),
        ("pause a", "\"initialized\" is not running, can't pause"),
        ("kill a", "can only kill running containers"),
        ("init a", "has already been created in runtime"),
    ] {
        let finished = home.run(line);
        assert!(finished.stderr().contains(why), "{line}: {}", finished.stderr());
    }
    assert_eq!(home.ok("start a"), "a");
    wait_until("it has begun", || entries(data.as_ref()).len() == 1);
    assert_eq!(home.ok("ps --format {{.State}}"), "running");
    home.refuses("init a");
    home.ok("kill a");
    home.ok("wait a");
    home.ok("container init --all");
    assert_eq!(home.inspect("a", "{{.State.Status}}"), "initialized");
    home.ok("rm -f a");
    home.assert_nothing_left();
}

fn start_attaches_to_an_initialized_container_before_it_begins(home: &Home) {
    home.ok("create --name a busybox sh -c 'echo said; exit 3'");
    home.ok("init a");
    let finished = home.run("start -a a");
    finished.exits(3);
    assert_eq!(finished.stdout(), "said\n");
    assert_eq!(home.ok("logs a"), "said");
}

fn an_initialized_container_can_be_stopped_and_removed(home: &Home) {
    home.ok("create --name a busybox sleep 1000");
    home.ok("init a");
    home.ok("stop a");
    assert_eq!(home.inspect("a", "{{.State.Status}} {{.State.ExitCode}}"), "exited 137");
    home.ok("init a");
    home.ok("container cleanup a");
    assert_eq!(home.inspect("a", "{{.State.Pid}}"), "0");
    home.ok("init a");
    home.ok("rm a");
    home.assert_nothing_left();
}

fn an_initialized_container_without_its_program_fails_at_its_start(home: &Home) {
    home.ok("create --name a busybox nosuch");
    home.ok("init a");
    let line = home.fails(127, "start a");
    assert!(line.contains("nosuch"), "{line}");
    assert_eq!(home.inspect("a", "{{.State.Status}} {{.State.ExitCode}}"), "exited 127");
}

/// As podman-compose does it: each service by itself, and one of them because another requires it.
fn containers_started_at_once_by_several_run_once(home: &Home) {
    home.ok("create --name a -p 127.0.0.1::80 busybox sleep 1000");
    home.ok("create --name b --requires a busybox sleep 1000");
    home.ok("start a");
    let port = home.ok("port a 80");
    home.ok("rm -f -t 0 --depend a");
    home.ok(&format!("create --name a -p {port}:80 busybox sleep 1000"));
    home.ok("create --name b --requires a busybox sleep 1000");
    home.ok("create --name c --requires a busybox sleep 1000");
    for _ in 0..5 {
        let started: Vec<_> = ["a", "b", "c"].map(|name| home.coracle(&format!("start {name}")).spawn()).into();
        for one in started {
            one.wait().ok();
        }
        assert_eq!(home.ok("ps -q").lines().count(), 3);
        home.ok("stop -t 0 --all");
    }
}

fn a_clone_has_the_options_of_its_original(home: &Home) {
    home.ok("create --name a -e A=b -v data:/data -v /anonymous --memory 64m --cpus 0.5 --hostname h -w /tmp busybox \
             sh -c 'echo $A; hostname; pwd'");
    let id = home.ok("container clone --memory 32m a");
    assert_eq!(id.len(), 64);
    let shown = "{{.Name}} {{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}";
    assert_eq!(home.inspect(&id, shown), "a-clone 33554432 500000000");
    assert_eq!(home.inspect("a", shown), "a 67108864 500000000");
    assert_eq!(home.ok("start -a a-clone"), "b\nh\n/tmp");
    let volumes = |name: &str| home.inspect(name, "{{range .Mounts}}{{.Name}} {{end}}");
    let (of_a, of_clone) = (volumes("a"), volumes("a-clone"));
    assert!(of_a.contains("data") && of_clone.contains("data") && of_a != of_clone, "{of_a} {of_clone}");
    home.ok("container clone a");
    home.ok("container clone a named");
    home.ok("tag busybox other");
    home.ok("container clone --name third a other");
    assert_eq!(home.ok("ps -a --format {{.Names}} --sort names"), "a\na-clone\na-clone1\nnamed\nthird");
    assert_eq!(home.inspect("third", "{{.ImageName}}"), "localhost/other:latest");
    let line = home.refuses("container clone a named");
    assert!(line.contains("already in use"), "{line}");
    home.ok("pod create --network none p");
    home.ok("container clone --pod p --name member --run a");
    assert!(home.ok("pod inspect p --format '{{range .Containers}}{{.Name}} {{end}}'").contains("member"));
    home.ok("wait member");
    // The host name is the pod's.
    assert_eq!(home.ok("logs member"), "b\np\n/tmp");
}

fn a_clone_takes_the_place_of_its_original(home: &Home) {
    home.ok("run -d --name a busybox sleep 1000");
    let line = home.refuses("container clone --destroy a b");
    assert!(line.contains("cannot be removed without force"), "{line}");
    assert_eq!(home.ok("ps -a --format {{.Names}}"), "a");
    home.ok("stop -t 0 a");
    home.ok("container clone --destroy --run a b");
    assert_eq!(home.ok("ps -a --format '{{.Names}} {{.State}}'"), "b running");
    home.ok("kill b");
    home.ok("wait b");
}

fn cleanup_refuses_what_runs_and_removes_what_it_may(home: &Home) {
    home.ok("run -d --name a busybox sleep 1000");
    let line = home.refuses("container cleanup a");
    assert!(line.contains("refusing to clean up"), "{line}");
    home.ok("run --name b busybox true");
    assert_eq!(home.ok("container cleanup b"), "b");
    assert_eq!(home.ok("container cleanup --rm b"), "b");
    home.run("container exists b").exits(1);
    home.ok("container cleanup --all");
    assert_eq!(home.ok("ps --format {{.Names}}"), "a");
    home.refuses("container cleanup --exec 1234 a");
}

fn a_label_is_run_as_a_command_line(home: &Home) {
    home.write(
        "Containerfile",
        "FROM busybox\nLABEL install=\"podman run --rm --name NAME -e IMAGE=IMAGE IMAGE sh -c 'echo $0' \
         \\${OPT1}\"\nLABEL host=\"/bin/echo NAME of \\${OPT2}\"\n",
    );
    home.ok(&format!("build -q -t localhost/own:1 {}", home.tmp().display()));
    let shown = home.ok("container runlabel --display INSTALL localhost/own:1 more");
    assert!(
        shown.starts_with("command: coracle run --rm --name own -e IMAGE=localhost/own:1 localhost/own:1"),
        "{shown}"
    );
    let ran = home.coracle("container runlabel --name other host localhost/own:1 'a  b'").env("OPT2", "x y").run().ok();
    assert_eq!(ran, "other of x y a  b");
    home.ok("container runlabel install localhost/own:1 w");
    let line = home.refuses("container runlabel nosuch localhost/own:1");
    assert!(line.contains("cannot find the value of label: nosuch"), "{line}");
}

fn reset_leaves_nothing_and_touches_nothing_else(home: &Home) {
    home.ok("run -d --name a -v data:/data busybox sh -c 'touch /data/x; chown 5:5 /data/x; sleep 1000'");
    home.ok("create --name ready busybox true");
    home.ok("init ready");
    home.ok("pod create --network none p");
    home.ok("network create n");
    home.ok("run --name gone busybox true");
    home.ok("rm gone");
    let mine = home.data().join("mine");
    std::fs::write(&mine, "").unwrap();
    home.ok("system reset --force");
    assert_eq!(entries(&home.data()), std::slice::from_ref(&mine));
    for list in ["ps -aq", "images -q", "volume ls -q", "pod ps -q"] {
        assert_eq!(home.ok(list), "", "{list}");
    }
    assert_eq!(home.ok("network ls -q").lines().count(), 1);
    home.refuses("undo");
    home.assert_nothing_left();
    std::fs::remove_file(mine).unwrap();
    // It goes on as it began.
    home.import_busybox();
    assert_eq!(home.ok("run --rm busybox echo new"), "new");
}

fn reset_shows_what_goes_and_asks(home: &Home) {
    home.ok("run -d --name a busybox sleep 1000");
    home.ok("volume create data");
    let asked = home.coracle("system reset").stdin("n\n").run();
    asked.exits(0);
    let text = asked.stdout();
    for part in ["- all volumes\n", "containers: a (running)\n", "volumes: data\n", "[y/N]"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(home.ok("ps --format {{.Names}}"), "a");
    home.coracle("system reset").stdin("y\n").run().exits(0);
    assert_eq!(home.ok("ps -aq"), "");
}

fn there_is_no_api_and_a_line_says_so(home: &Home) {
    let line = home.refuses("system service --time 0 unix:///tmp/x.sock");
    assert!(line.contains("there is no API socket"), "{line}");
    let line = home.refuses("system connection add x ssh://host");
    assert!(line.contains("no service to connect to"), "{line}");
    assert_eq!(home.ok("system connection list").lines().count(), 1);
}
