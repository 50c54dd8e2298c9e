//! `ps`

use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(ps_lists_running_containers_and_all_on_demand),
    test!(ps_columns_are_dockers),
    test!(ps_filters),
    test!(ps_formats),
    test!(ps_last_and_latest),
    test!(ps_of_an_empty_store).without_image(),
    test!(ps_bad_filter_is_refused),
    test!(who_uses_anothers_network_shows_its_ports),
];

fn ps_lists_running_containers_and_all_on_demand(home: &Home) {
    let running = home.ok("run -d --name r busybox sleep 1000");
    let created = home.ok("create --name c busybox");
    home.run("run --name e busybox sh -c 'exit 3'").exits(3);
    assert_eq!(home.ok("ps -q --no-trunc"), running);
    assert_eq!(home.ok("ps -q"), running[..12]);
    let all = home.ok("ps -aq --no-trunc");
    assert_eq!(all.lines().count(), 3);
    assert!(all.contains(&created));
    let statuses = home.ok("ps -a --format '{{.Names}} {{.Status}}'");
    assert!(statuses.lines().any(|line| line.starts_with("r Up ")), "{statuses}");
    assert!(statuses.lines().any(|line| line.trim() == "c Created"), "{statuses}");
    assert!(statuses.lines().any(|line| line.starts_with("e Exited (3) ")), "{statuses}");
}

fn ps_columns_are_dockers(home: &Home) {
    home.ok("run -d --name r busybox sleep 1000");
    let table = home.ok("ps");
    let mut lines = table.lines();
    let head: Vec<_> = lines.next().unwrap().split("  ").map(str::trim).filter(|word| !word.is_empty()).collect();
    assert_eq!(head, ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]);
    let row = lines.next().unwrap();
    assert!(row.contains("localhost/busybox:latest") && row.contains("sleep 1000") && row.ends_with('r'), "{row}");
}

fn ps_filters(home: &Home) {
    home.ok("run -d --name one --label k=v busybox sleep 1000");
    home.ok("create --name two --label k=w busybox");
    let names = |filter: &str| {
        let mut names: Vec<_> =
            home.ok(&format!("ps -a {filter} --format {{{{.Names}}}}")).lines().map(str::to_owned).collect();
        names.sort();
        names.join(" ")
    };
    for (filter, expected) in [
        ("--filter status=running", "one"),
        ("--filter status=created", "two"),
        ("--filter status=running -f status=created", "one two"),
        ("--filter name=tw", "two"),
        ("--filter name=^one$", "one"),
        ("--filter label=k", "one two"),
        ("--filter label=k=w", "two"),
        ("--filter label=k --filter name=one", "one"),
        ("--filter ancestor=busybox", "one two"),
        ("--filter ancestor=nosuch", ""),
        ("--filter before=two", "one"),
        ("--filter since=one", "two"),
        ("--filter exited=0", ""),
    ] {
        assert_eq!(names(filter), expected, "{filter}");
    }
}

fn ps_formats(home: &Home) {
    let id = home.ok("run -d --name r busybox sleep 1000");
    let json: serde_json::Value = serde_json::from_str(&home.ok("ps --format json")).unwrap();
    let first = json.get(0).unwrap_or(&json);
    assert!(first.to_string().contains(&id[..12]), "{json}");
    assert_eq!(
        home.ok("ps --format '{{.ID}} {{.Image}} {{.State}}'"),
        format!("{} localhost/busybox:latest running", &id[..12])
    );
    let table = home.ok("ps --format 'table {{.Names}}\\t{{.State}}'");
    assert!(table.starts_with("NAMES") && table.lines().count() == 2, "{table}");
    home.run("ps --format '{{.NoSuchField}}'").exits(125);
    home.run("ps --format '{{.ID'").exits(125);
}

fn ps_last_and_latest(home: &Home) {
    for name in ["a", "b", "c"] {
        home.ok(&format!("create --name {name} busybox"));
    }
    assert_eq!(home.ok("ps -l --format {{.Names}}"), "c");
    let mut last: Vec<_> = home.ok("ps -n 2 --format {{.Names}}").lines().map(str::to_owned).collect();
    last.sort();
    assert_eq!(last, ["b", "c"]);
}

fn ps_of_an_empty_store(home: &Home) {
    assert_eq!(home.ok("ps -aq"), "");
    assert_eq!(home.ok("ps -a").lines().count(), 1, "the head of the table");
    assert_eq!(home.ok("images -q"), "");
    assert_eq!(home.ok("volume ls -q"), "");
}

fn ps_bad_filter_is_refused(home: &Home) {
    home.fails(125, "ps --filter nosuch=1");
    home.fails(125, "ps --filter status=nosuch");
    home.fails(125, "ps --filter noequals");
}

fn who_uses_anothers_network_shows_its_ports(home: &Home) {
    home.ok("pod create --name p -p 127.0.0.1::80 -p 127.0.0.1::81/udp");
    home.ok("run -d --pod p --name member busybox sleep 1000");
    home.ok("run -d --name lender -p 127.0.0.1::90 busybox sleep 1000");
    home.ok("run -d --name borrower --network container:lender busybox sleep 1000");
    let ports = |filter: &str| home.ok(&format!("ps --format {{{{.Ports}}}} --filter name={filter}"));
    let member = ports("^member$");
    assert!(member.contains("->80/tcp, 127.0.0.1:") && member.ends_with("->81/udp"), "{member}");
    assert_eq!(ports("^borrower$"), ports("^lender$"));
    // As the plain listing has it, and whoever asks for one container.
    let table = home.ok("ps");
    assert_eq!(table.lines().filter(|line| line.contains(&member)).count(), 2, "{table}");
    assert_eq!(home.ok("port borrower"), home.ok("port lender"));
    let inspected = |name: &str| home.inspect(name, "{{json .NetworkSettings.Ports}} {{.NetworkSettings.IPAddress}}");
    assert_eq!(inspected("borrower"), inspected("lender"));
}
