//! Links: what is called `docker` answers like docker, what is called `podman` like podman.

use std::os::unix::fs::symlink;
use std::process::Command;

use crate::support::command::binary;
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(version_says_who_answers).without_image(),
    test!(docker_version_has_a_server).without_image(),
    test!(docker_shapes_of_json),
    test!(docker_names_are_short),
    test!(docker_statuses_are_dockers),
    test!(there_is_one_context).without_image(),
    test!(help_is_a_command_too).without_image(),
    test!(nearly_right_words_are_found),
];

pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs a line through a link of that name.
pub(crate) fn called(home: &Home, name: &str, line: &str) -> Answer {
    let link = home.tmp().join(name);
    if !link.exists() {
        symlink(binary(), &link).unwrap();
    }
    let like = home.coracle(line).to_command();
    let mut command = Command::new(link);
    command.args(like.get_args()).env_clear().current_dir(home.tmp());
    command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    Answer { code: output.status.code().unwrap(), out: text(&output.stdout), err: text(&output.stderr) }
}

fn version_says_who_answers(home: &Home) {
    let own = env!("CARGO_PKG_VERSION");
    for line in ["-v", "--version"] {
        assert_eq!(home.ok(line), format!("coracle version {own}"));
        assert!(called(home, "podman", line).out.starts_with("podman version 5."));
        let docker = called(home, "docker", line).out;
        assert!(docker.starts_with("Docker version 28.") && docker.contains(", build "), "{docker}");
        // devcontainers decides by this word.
        assert!(!docker.contains("podman") && !home.ok(line).contains("podman"));
    }
    assert_eq!(home.ok("version --format {{.Client.Version}}"), own);
    assert!(called(home, "podman", "version -f {{.Client.Version}}").out.starts_with("5."));
    let help = called(home, "docker", "--help").out;
    assert!(help.contains("Usage: docker ") && help.contains("docker run") && !help.contains("coracle run"), "{help}");
}

fn docker_version_has_a_server(home: &Home) {
    let text = called(home, "docker", "version").out;
    for line in [
        "Client: ",
        " Version:           28.",
        " API version:       1.",
        "Server: ",
        " Engine:",
        "  Version:          28.",
    ] {
        assert!(text.lines().any(|one| one.starts_with(line)), "{line}\n{text}");
    }
    let server = called(home, "docker", "version --format {{.Server.Version}}").out;
    assert!(server.starts_with("28."), "{server}");
    let info = called(home, "docker", "info -f {{.Runtimes.nvidia}}");
    assert_eq!((info.code, info.out.as_str()), (0, "<no value>"));
}

fn docker_shapes_of_json(home: &Home) {
    home.ok("create --name one busybox sh");
    home.ok("create --name two busybox sh");
    let rows = called(home, "docker", "ps -a --format json").out;
    assert_eq!(rows.lines().count(), 2);
    for row in rows.lines() {
        let row: serde_json::Value = serde_json::from_str(row).unwrap();
        assert!(row.as_object().unwrap().values().all(serde_json::Value::is_string), "{row}");
        assert!(row["Names"] == "one" || row["Names"] == "two", "{row}");
    }
    let array: serde_json::Value = serde_json::from_str(&called(home, "podman", "ps -a --format json").out).unwrap();
    assert_eq!(array.as_array().unwrap().len(), 2);
    assert!(array[0]["Names"].is_array());
    let images = called(home, "docker", "images --format json").out;
    let image: serde_json::Value = serde_json::from_str(images.lines().next().unwrap()).unwrap();
    assert!(image.as_object().unwrap().values().all(serde_json::Value::is_string), "{image}");
}

fn docker_names_are_short(home: &Home) {
    home.ok("tag busybox docker.io/library/tool:1");
    home.ok("create --name web docker.io/library/tool:1 sh");
    assert_eq!(called(home, "docker", "inspect -f {{.Name}} web").out, "/web");
    assert_eq!(called(home, "docker", "inspect -f {{.Name}} /web").out, "/web");
    assert_eq!(home.ok("inspect -f {{.Name}} web"), "web");
    let names = called(home, "docker", "images --format {{.Repository}}:{{.Tag}}").out;
    assert!(names.lines().any(|line| line == "tool:1"), "{names}");
    let names = home.ok("images --format {{.Repository}}:{{.Tag}}");
    assert!(names.lines().any(|line| line == "docker.io/library/tool:1"), "{names}");
    assert_eq!(called(home, "docker", "ps -a --format {{.Image}}").out, "tool:1");
    let id = called(home, "docker", "inspect -f {{.Id}} tool:1").out;
    assert!(id.starts_with("sha256:"), "{id}");
}

fn docker_statuses_are_dockers(home: &Home) {
    home.ok("create --name c busybox sh");
    for (code, line) in [
        (1, "nosuch"),
        (1, "run"),
        (1, "rm"),
        (1, "ps extra"),
        (125, "ps --bogus"),
        (125, "run --bogus busybox"),
        (125, "images -f"),
        (125, "run --name c busybox true"),
        (1, "inspect nosuch"),
        (1, "logs nosuch"),
        (1, "exec nosuch true"),
        (1, "kill c"),
        (1, "rm nosuch"),
        (1, "rmi nosuch"),
        (1, "rmi busybox"),
        (1, "ps --filter nosuch=1"),
        (1, "ps -a --format {{.Nope}}"),
        (127, "run --rm busybox nosuchcommand"),
        (126, "run --rm busybox /etc"),
    ] {
        let answer = called(home, "docker", line);
        assert_eq!(answer.code, code, "docker {line}: {}", answer.err);
    }
    assert_eq!(called(home, "docker", "inspect nosuch").out, "[]");
    // What podman calls --names, docker calls --tail.
    home.ok("run --name said busybox sh -c 'echo 1; echo 2; echo 3'");
    assert_eq!(called(home, "docker", "logs -n 1 said").out, "3");
    assert_eq!(called(home, "docker", "logs -n2 said").out, "2\n3");
}

fn there_is_one_context(home: &Home) {
    assert_eq!(called(home, "docker", "context show").out, "default");
    assert_eq!(called(home, "docker", "context ls -q").out, "default");
    let table = called(home, "docker", "context ls").out;
    assert!(table.starts_with("NAME") && table.contains("DOCKER ENDPOINT") && table.contains("default *"), "{table}");
    let host = called(home, "docker", "context inspect -f {{.Endpoints.docker.Host}}").out;
    assert!(host.starts_with("unix:///"), "{host}");
    assert_eq!(called(home, "docker", "context use default").code, 0);
    assert_eq!(called(home, "docker", "context use elsewhere").code, 1);
    assert_eq!(called(home, "docker", "--context default ps -q").code, 0);
    assert_eq!(called(home, "docker", "--context elsewhere ps -q").code, 1);
}

fn help_is_a_command_too(home: &Home) {
    assert_eq!(home.ok("help run"), home.ok("run --help"));
    assert_eq!(home.ok("help"), home.ok("--help"));
    assert_eq!(home.ok("help image ls"), home.ok("image ls --help"));
    let help = home.ok("run --help");
    assert!(help.starts_with("Run a command in a new container"), "{help}");
    assert!(help.contains("Examples:"), "{help}");
}

fn nearly_right_words_are_found(home: &Home) {
    home.ok("create --name website busybox sh");
    home.ok("volume create precious");
    for (line, hint) in [
        ("imgaes", "did you mean: coracle images"),
        ("image prnue", "did you mean: coracle image prune"),
        ("ps --fromat json", "--format"),
        ("start websiet", "did you mean: website"),
        ("run --rm --pull never busyboz true", "did you mean: busybox"),
        ("volume rm precius", "did you mean: precious"),
        ("inspect webiste", "did you mean: website"),
    ] {
        let run = home.run(line);
        assert_ne!(run.code(), 0);
        let hints: Vec<String> =
            run.stderr().lines().filter(|line| line.starts_with("Hint: ")).map(str::to_owned).collect();
        assert!(hints.iter().any(|line| line.contains(hint)), "{}", run.transcript());
    }
    assert!(!home.run("start altogether-different").stderr().contains("did you mean"));
}
