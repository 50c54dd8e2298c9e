//! `compose`, with podman-compose in earnest.

use crate::support::command::{Coracle, Finished};
use crate::support::home::{set_mode, wait_until};
use crate::support::needs::{Need, find_program};
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(two_services_come_up_find_each_other_and_go_down).needs(&[Need::PodmanCompose]).limit_secs(180),
    test!(a_compose_file_is_built_scaled_and_run).needs(&[Need::PodmanCompose]).limit_secs(180),
    test!(without_a_provider_one_line_says_which).without_image(),
    test!(the_provider_that_is_named_gets_the_command_line).without_image(),
];

const TWO: &str = r#"
services:
  web:
    image: busybox
    command: sh -c 'mkdir -p /www; echo from $$NAME > /www/index.html; exec httpd -f -p 8000 -h /www'
    environment:
      NAME: web
    ports:
      - "127.0.0.1::8000"
    healthcheck:
      test: ["CMD", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8000/"]
      interval: 200ms
    volumes:
      - data:/data
  client:
    image: busybox
    command: sh -c 'until wget -q -O - http://web:8000/; do sleep 0.2; done; exec sleep 1000'
    depends_on:
      web:
        condition: service_healthy
volumes:
  data:
"#;

/// `coracle compose`, with podman-compose in PATH.
fn compose(home: &Home, line: &str) -> Finished {
    let program = find_program("podman-compose").unwrap();
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", program.parent().unwrap().display());
    home.coracle(&format!("compose {line}")).env("PATH", path).dir(&home.tmp()).limit_secs(90).run()
}

/// Whether it has more than what Debian 12's has: that is 1.0.3, which has neither `pause` nor `port`, waits for no health,
/// does not know `scale:`, and leaves networks behind.
fn is_recent(home: &Home) -> bool {
    compose(home, "--help").ok().contains("unpause")
}

/// Whether it has printed this line; older versions print more, what they run themselves.
fn says(finished: &Finished, wanted: &str) -> bool {
    finished.ok().lines().any(|line| line == wanted)
}

fn two_services_come_up_find_each_other_and_go_down(home: &Home) {
    let is_recent = is_recent(home);
    home.write("compose.yaml", TWO);
    compose(home, "-p two up -d").ok();
    let ids = home.ok("ps -q");
    let listed = compose(home, "-p two ps -q").ok();
    assert!(ids.lines().count() == 2 && ids.lines().all(|id| listed.contains(id)), "{ids}\n{listed}");
    let listed = home.ok("ps --format {{.Names}}");
    let mut names: Vec<&str> = listed.lines().collect();
    names.sort_unstable();
    assert_eq!(names, ["two_client_1", "two_web_1"]);
    let is_healthy = || home.inspect("two_web_1", "{{.State.Health.Status}}") == "healthy";
    assert!(is_healthy() || !is_recent);
    wait_until("it is healthy", is_healthy);
    // By the service's name; at once, if the client was not started before the service answered.
    wait_until("it has been asked", || compose(home, "-p two logs client").ok().contains("from web"));
    if is_recent {
        assert_eq!(home.ok("logs two_client_1"), "from web");
    }
    assert!(says(&compose(home, "-p two exec -T client wget -q -O - http://web:8000/"), "from web"));
    if is_recent {
        let port = compose(home, "-p two port web 8000").ok();
        assert!(port.rsplit(':').next().unwrap().parse::<u16>().is_ok(), "{port}");
    }
    compose(home, "-p two stop -t 0").ok();
    assert_eq!(home.ok("ps -q"), "");
    compose(home, "-p two start").ok();
    let running = || home.ok("ps -q").lines().count();
    wait_until("both run", || running() == 2);
    compose(home, "-p two restart -t 0 client").ok();
    assert_eq!(running(), 2);
    if is_recent {
        compose(home, "-p two pause").ok();
        assert_eq!(home.ok("ps --filter status=paused -q").lines().count(), 2);
        compose(home, "-p two unpause").ok();
    }
    compose(home, "-p two down -v -t 0").ok();
    assert_eq!(home.ok("ps -aq") + &home.ok("volume ls -q"), "");
    if is_recent {
        assert_eq!(home.ok("network ls --filter name=two -q"), "");
    }
    assert_eq!(home.ok("pod ps -q"), "");
}

fn a_compose_file_is_built_scaled_and_run(home: &Home) {
    home.write("Containerfile", "FROM busybox\nARG WORD\nRUN echo $WORD > /word\nCMD [\"sleep\", \"1000\"]\n");
    home.write(
        "compose.yaml",
        // Every version understands this; `scale: 2`, which means the same, has come later.
        "services:\n  one:\n    build:\n      context: .\n      args:\n        WORD: built\n    image: localhost/own:1\n    deploy:\n      mode: replicated\n      replicas: 2\n",
    );
    compose(home, "-p one build").ok();
    compose(home, "-p one up -d").ok();
    assert_eq!(home.ok("ps -q --filter label=com.docker.compose.service=one").lines().count(), 2);
    assert!(says(&compose(home, "-p one run --rm -T one cat /word"), "built"));
    compose(home, "-p one down -t 0").ok();
    assert_eq!(home.ok("ps -aq"), "");
}

fn without_a_provider_one_line_says_which(home: &Home) {
    let empty = home.tmp().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let alone = home.coracle("compose up").env("PATH", &empty).run().fails(125);
    assert!(alone.contains("podman-compose is not installed"), "{alone}");
    let other = home.write("empty/docker-compose", "#!/bin/sh\n");
    set_mode(&other, 0o755);
    let line = home.coracle("compose up").env("PATH", &empty).run().fails(125);
    assert!(line.contains("docker-compose is, but needs an API socket"), "{line}");
    let line = home.coracle("compose up").env("PODMAN_COMPOSE_PROVIDER", &other).run().fails(125);
    assert!(line.contains("needs an API socket"), "{line}");
    let line = home.coracle("compose up").env("PODMAN_COMPOSE_PROVIDER", "/nosuch").run().fails(125);
    assert!(line.contains("no such program: /nosuch"), "{line}");
}

fn the_provider_that_is_named_gets_the_command_line(home: &Home) {
    let own = home.write("mine", "#!/bin/sh\necho \"$@\"\npodman --version\nexit 7\n");
    set_mode(&own, 0o755);
    let asked = |coracle: Coracle| {
        let finished = coracle.limit_secs(20).run();
        finished.exits(7);
        finished.stdout()
    };
    let expected = "-f x.yaml up --help\npodman version 5.4.2\n";
    let line = "compose -f x.yaml up --help";
    assert_eq!(asked(home.coracle(line).env("PODMAN_COMPOSE_PROVIDER", &own)), expected);
    let conf = home.write("containers.conf", format!("[engine]\ncompose_providers = [\"/nosuch\", {own:?}]\n"));
    assert_eq!(asked(home.coracle(line).env("CONTAINERS_CONF", conf)), expected);
}
