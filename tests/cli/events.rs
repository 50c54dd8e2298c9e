//! `events`: the journal of what happened, and what happens while one looks.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::Value;

use crate::support::command::Coracle;
use crate::support::home::wait_until;
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(life_of_a_container_is_told_in_podmans_words),
    test!(images_and_volumes_are_told_of),
    test!(events_arrive_while_the_container_runs),
    test!(span_of_time_ends_the_stream),
    test!(format_and_filters_are_podmans),
    test!(torn_line_spoils_no_other),
    test!(reader_that_goes_away_ends_the_stream),
];

/// What happened to whom, oldest first.
fn told(home: &Home, filter: &str) -> Vec<String> {
    let line = format!("events --stream=false {filter} --format '{{{{.Type}}}} {{{{.Status}}}} {{{{.Name}}}}'");
    home.ok(&line).lines().map(|line| line.trim_end().to_owned()).collect()
}

fn life_of_a_container_is_told_in_podmans_words(home: &Home) {
    home.ok("run --rm --name short --label a=b --network none busybox true");
    assert_eq!(
        told(home, "-f container=short"),
        ["create", "init", "start", "attach", "died", "remove"].map(|event| format!("container {event} short"))
    );
    home.ok("create --name one --network none busybox sleep 1000");
    home.ok("start one");
    home.ok("exec one true");
    home.ok("rename one two");
    home.ok("kill two");
    home.ok("wait two");
    home.ok("commit -q two localhost/made");
    home.ok("restart -t 0 two");
    home.ok("stop -t 0 two");
    home.ok("rm two");
    let id = home.ok("events --stream=false -f container=one -f event=create --format {{.ID}}");
    let all = told(home, &format!("-f container={id}"));
    let mut actions: Vec<&str> = all.iter().map(|line| line.split(' ').nth(1).unwrap()).collect();
    // Told by the command, while the supervisor tells of the end.
    actions.retain(|action| !matches!(*action, "stop" | "kill"));
    assert_eq!(
        actions,
        [
            "create",
            "init",
            "start",
            "exec",
            "exec_died",
            "rename",
            "died",
            "cleanup",
            "commit",
            "restart",
            "init",
            "start",
            "died",
            "cleanup",
            "remove"
        ]
    );
    assert!(all.contains(&"container stop two".to_owned()) && all.contains(&"container kill two".to_owned()));
    let line = home.ok("events --stream=false --no-trunc=false -f container=short -f event=died");
    let (time, rest) = line.split_once(" container ").unwrap();
    assert!(time.ends_with(" +0000 UTC") || time.contains(" +") || time.contains(" -"), "{line}");
    let short = home.ok("events --stream=false -f container=short -f event=died --format {{.ID}}")[..12].to_owned();
    assert_eq!(rest, format!("died {short} (image=localhost/busybox:latest, name=short, a=b)"));
}

fn images_and_volumes_are_told_of(home: &Home) {
    home.ok("tag busybox localhost/two:2");
    home.ok("untag busybox localhost/two:2");
    home.ok("volume create v");
    home.ok("run --rm --network none -v v:/v -v made:/m -v /anonymous busybox true");
    home.ok("volume rm v made");
    home.ok("rmi busybox");
    let images = told(home, "-f type=image");
    assert!(
        images.ends_with(
            &[
                "image tag localhost/two:2",
                "image untag localhost/two:2",
                "image untag localhost/busybox:latest",
                "image remove"
            ]
            .map(str::to_owned)
        ),
        "{images:?}"
    );
    let volumes = told(home, "-f type=volume");
    assert_eq!(volumes.len(), 6, "{volumes:?}");
    assert_eq!(told(home, "-f volume=v"), ["volume create v", "volume remove v"]);
    assert_eq!(told(home, "-f volume=made"), ["volume create made", "volume remove made"]);
}

/// A stream that has begun: lines of JSON.
fn stream(home: &Home, line: &str) -> (std::process::Child, impl Iterator<Item = Value> + use<>) {
    let mut command = Coracle::new(home, line).to_command();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    // It hears of what comes after it has opened its watch.
    let fds = format!("/proc/{}/fd", child.id());
    wait_until("the stream has begun", || {
        let links = std::fs::read_dir(&fds).into_iter().flatten().flatten();
        links.filter_map(|link| std::fs::read_link(link.path()).ok()).any(|to| to.to_string_lossy().contains("inotify"))
    });
    (child, stdout.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()))
}

fn events_arrive_while_the_container_runs(home: &Home) {
    home.ok("run --rm --network none busybox true");
    let (mut child, mut events) = stream(home, "events --format json --filter event=start --filter event=died");
    let id = home.ok("run -d --name c --network none busybox sleep 1000");
    // It runs: whoever waits for this line waits for nothing else.
    let start = events.next().unwrap();
    assert_eq!((&start["Status"], &start["ID"], &start["Name"]), (&"start".into(), &id.as_str().into(), &"c".into()));
    assert!(start.get("ContainerExitCode").is_none() && start["timeNano"].as_i64().unwrap() > 0);
    assert_eq!(start["Attributes"], serde_json::json!({}));
    home.ok("kill c");
    let died = events.next().unwrap();
    assert_eq!((&died["Status"], &died["ContainerExitCode"]), (&"died".into(), &137.into()));
    child.kill().unwrap();
    child.wait().unwrap();
    home.ok("rm c");
}

fn span_of_time_ends_the_stream(home: &Home) {
    home.ok("create --name before busybox true");
    let middle = home.ok("events --stream=false -f container=before --format {{.TimeNano}}").parse::<u128>().unwrap();
    let middle = format!("{}.{:09}", middle / 1_000_000_000, middle % 1_000_000_000);
    home.ok("create --name after busybox true");
    // In podman's way an end may lie ahead: this returns when it has come.
    let after = home.ok(&format!("events --since {middle} --until 1s -f event=create --format {{{{.Name}}}}"));
    assert_eq!(after, "after");
    let until = home.ok("events --until 0s -f event=create --format {{.Name}}");
    assert!(until.contains("before") && until.contains("after"), "{until}");
    for line in ["events --since yesterday", "events --until later"] {
        assert!(home.refuses(line).contains("unable to convert"), "{line}");
    }
    home.ok("rm before after");
}

fn format_and_filters_are_podmans(home: &Home) {
    home.run("run --rm --name c --label a=b --network none busybox sh -c 'exit 3'").exits(3);
    let died = |format: &str| home.ok(&format!("system events --stream=false -f event=died --format '{format}'"));
    assert_eq!(died("{{.Type}} {{.Status}} {{.Name}} {{.Image}} {{.Attributes}} {{.ContainerExitCode}}"), {
        "container died c localhost/busybox:latest map[a:b] 3"
    });
    let json: Value = serde_json::from_str(&died("json")).unwrap();
    let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
    let podmans = ["ContainerExitCode", "ID", "Image", "Name", "Status", "time", "timeNano", "Type", "Attributes"];
    assert_eq!(keys, podmans);
    for (filter, count) in [
        ("-f label=a", 6),
        ("-f label=a=b -f event=start -f event=died", 2),
        ("-f label=a=c", 0),
        ("-f type=container -f container=c", 6),
        ("-f type=volume", 0),
    ] {
        assert_eq!(told(home, filter).len(), count, "{filter}");
    }
    assert!(home.refuses("events -f colour=red").contains("colour is an invalid filter"));
    assert!(home.refuses("events -f died").contains("died is an invalid filter"));
    assert!(home.refuses("events --stream=false --format {{.Nope}}").contains("can't evaluate field Nope"));
}

fn torn_line_spoils_no_other(home: &Home) {
    home.ok("create --name one busybox true");
    let path = home.data().join("events");
    let mut text = std::fs::read(&path).unwrap();
    text.extend_from_slice(b"\n{\"time\":\"2026");
    std::fs::write(&path, text).unwrap();
    home.ok("create --name two busybox true");
    assert_eq!(told(home, "-f event=create"), ["container create one", "container create two"]);
    home.ok("rm one two");
}

fn reader_that_goes_away_ends_the_stream(home: &Home) {
    let (mut child, events) = stream(home, "events --format json");
    drop(events);
    assert!(child.wait().unwrap().success());
}
