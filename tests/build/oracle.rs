//! The same Dockerfiles to coracle and to a real podman: configuration and flattened file system must be equal.
//!
//! What differs on purpose is in [`DIFFERENT`], with the reason.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use crate::support::peer::Podman;
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[test!(images_are_podmans).needs(&[Need::Podman]).limit_secs(900)];

/// Where docker's rule is another than podman's, or podman's format has no place for it.
const DIFFERENT: &[(&str, &str)] = &[
    ("copy wildcard in directory", "a link that leads nowhere: another message"),
    ("over a link to a file", "docker writes through the link, podman replaces it"),
    ("workdir chain", "docker makes each working directory, podman only those that a step runs in"),
    ("workdir with variable", "as above"),
    ("stage from scratch", "as above"),
    ("run heredoc to command", "HOME of a user that no passwd file names"),
    ("run env", "as above"),
    ("run shell", "podman leaves SHELL out of images of OCI's format"),
    ("healthcheck", "podman leaves it out of images of OCI's format"),
    ("healthcheck exec", "as above"),
    ("healthcheck none", "as above"),
    ("onbuild", "podman leaves it out of images of OCI's format"),
    ("expose", "docker writes each port of a range down, podman the range"),
    ("add tar chown", "docker gives what it unpacks to the user, podman does not"),
    ("run with mount cache", "podman leaves the place of the mount behind"),
    ("run in new directory under mount", "as above"),
    ("run mount bind file", "as above"),
    ("shell in stage", "podman leaves SHELL out of images of OCI's format"),
    ("copy link", "podman has no --link"),
    ("copy context", "docker keeps set-id bits of the context's files, podman takes them away"),
    ("copy executable", "as above"),
    ("heredoc copy", "docker gives an image without PATH one, which heredocs see"),
    ("user", "coracle refuses to create a container for a user that no passwd file names, podman to start it"),
];

fn images_are_podmans(home: &Home) {
    let podman = Podman::new(home);
    let context = home.tmp().join("context");
    std::fs::create_dir(&context).expect("tmp is ours");
    let made = Command::new("sh").arg("-c").arg(include_str!("context.sh")).current_dir(&context).status();
    assert!(made.is_ok_and(|status| status.success()));
    let mut differences = String::new();
    for (name, steps) in cases() {
        if DIFFERENT.iter().any(|(known, _)| *known == name) {
            continue;
        }
        let text = format!("FROM busybox AS stage0\n{}", steps.replace("FROM bb", "FROM busybox"));
        let file = home.write("Dockerfile", text);
        let line = format!("build --network none --no-cache -q -t case -f {} {}", file.display(), context.display());
        let (ours, (code, _, error)) = (home.run(&line), podman.run(&line));
        if ours.code() != code {
            differences += &format!("## {name}\n{}podman: [{code}] {error}\n", ours.transcript());
            continue;
        }
        let mut both = [Vec::new(), Vec::new()];
        for (at, tool) in both.iter_mut().enumerate() {
            let run = |line: &str| if at == 0 { home.run(line).stdout() } else { podman.run(line).1 };
            run("create --name case case x");
            let archive = home.tmp().join("case.tar");
            run(&format!("export -o {} case", archive.display()));
            tool.extend(listing(&archive));
            tool.extend(config(&run("image inspect case")));
            run("rm case");
            run("rmi -f case");
        }
        for (side, one, other) in [("coracle", &both[0], &both[1]), ("podman", &both[1], &both[0])] {
            for line in one.iter().filter(|line| !other.contains(line)) {
                differences += &format!("## {name}: {side} alone: {line}\n");
            }
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

/// Name and steps of each case.
fn cases() -> Vec<(&'static str, String)> {
    let text = include_str!("cases.txt");
    text.split("## ")
        .skip(1)
        .filter_map(|case| case.split_once('\n').map(|(name, steps)| (name, steps.to_owned())))
        .collect()
}

/// Every file: type and mode, owner, size, name and where it links to; digests of regular files.
fn listing(archive: &std::path::Path) -> Vec<String> {
    let tar = |args: &[&str]| {
        let output = Command::new("tar").args(args).arg("-f").arg(archive).output().expect("tar is there");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // Places that every container gets, and what is made for them.
    let is_ours = |name: &str| {
        let name = name.trim_start_matches("./").trim_end_matches('/');
        let own = [
            "",
            "proc",
            "sys",
            "dev",
            "run",
            "etc",
            "etc/hosts",
            "etc/hostname",
            "etc/resolv.conf",
            "run/.containerenv",
            "etc/mtab",
        ];
        own.contains(&name) || ["proc/", "sys/", "dev/"].iter().any(|below| name.starts_with(below))
    };
    let mut lines = Vec::new();
    for line in tar(&["--numeric-owner", "-tv"]).lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [mode, owner, size, _, _, rest @ ..] = words.as_slice() else { continue };
        let name = rest.join(" ");
        if !is_ours(name.split(" -> ").next().unwrap_or_default()) {
            let name = name.trim_start_matches("./").replace(" link to ./", " link to ");
            lines.push(format!("{mode} {owner} {size} {name}"));
        }
    }
    let sums = tar(&["--to-command", "sha256sum | sed \"s|-|$TAR_FILENAME|\"", "-x"]);
    lines.extend(
        sums.lines()
            .filter(|line| !is_ours(line.split_whitespace().nth(1).unwrap_or_default()))
            .map(|line| line.replace("./", "")),
    );
    lines.sort();
    lines
}

fn config(inspected: &str) -> Vec<String> {
    let all: Value = serde_json::from_str(inspected).unwrap_or_default();
    let mut config: BTreeMap<String, Value> =
        all[0]["Config"].as_object().into_iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect();
    if let Some(Value::Object(labels)) = config.get_mut("Labels") {
        labels.remove("io.buildah.version");
    }
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    let kept = config.into_iter().filter(|(_, value)| !is_empty(value));
    // In an order of their own.
    let sorted = |value: Value| match value {
        Value::Object(map) => format!("{:?}", map.into_iter().collect::<BTreeMap<_, _>>()),
        other => other.to_string(),
    };
    kept.map(|(name, value)| format!("config {name} {}", sorted(value))).collect()
}
