//! `pod`, and `--pod` of `run` and `create`.

use crate::support::home::wait_until;
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(containers_of_a_pod_share_its_namespaces),
    test!(pod_is_created_started_stopped_and_removed),
    test!(pod_ps_and_inspect_show_what_podman_shows),
    test!(run_makes_a_pod_of_its_own),
    test!(created_member_starts_its_pod),
    test!(pod_without_namespaces_is_a_name),
    test!(pod_stops_with_its_last_container_if_it_is_to),
    test!(volumes_of_a_pod_are_everybodys),
    test!(pod_works_in_every_id_mode),
    test!(bad_pods_are_refused_as_podman_does),
    test!(pods_are_pruned_and_killed),
    test!(pods_are_paused_and_go_on),
    test!(a_pod_is_cloned_with_its_containers),
    test!(what_pods_use_is_shown),
    test!(a_container_without_its_pod_comes_back_alone),
    test!(options_of_a_pod_reach_its_containers),
    test!(init_containers_run_at_each_start_or_once),
    test!(what_a_pod_has_its_containers_have),
    test!(a_pod_with_the_namespaces_of_the_host),
    test!(limits_of_a_pod_are_its_containers_together),
    test!(what_a_pod_cannot_have_is_refused),
    test!(a_clone_of_a_pod_has_options_of_its_own),
];

fn containers_of_a_pod_share_its_namespaces(home: &Home) {
    home.ok("pod create --network none p");
    home.ok("run -d --name a --pod p busybox sh -c 'echo seen > /dev/shm/x; sleep 1000'");
    let namespaces = "sh -c 'for name in net ipc uts; do readlink /proc/self/ns/$name; done'";
    let of_a = home.ok(&format!("exec a {namespaces}"));
    assert_eq!(home.ok(&format!("run --rm --pod p busybox {namespaces}")), of_a);
    assert_ne!(home.ok(&format!("run --rm --network none busybox {namespaces}")), of_a);
    assert_eq!(home.ok("run --rm --pod p busybox hostname"), "p");
    wait_until("it is written", || home.run("exec a cat /dev/shm/x").code() == 0);
    assert_eq!(home.ok("run --rm --pod p busybox cat /dev/shm/x"), "seen");
    // Processes are their own.
    assert_ne!(
        home.ok("run --rm --pod p busybox readlink /proc/self/ns/pid"),
        home.ok("exec a readlink /proc/self/ns/pid")
    );
    home.ok("pod create --network none --share net,pid q");
    home.ok("run -d --name b --pod q busybox sleep 1000");
    assert!(home.ok("run --rm --pod q busybox ps").contains("sleep 1000"));
    home.ok("pod rm -f -t 0 p q");
}

fn pod_is_created_started_stopped_and_removed(home: &Home) {
    let id = home.ok("pod create --name p --network none");
    assert_eq!(id.len(), 64);
    home.run("pod exists p").exits(0);
    home.ok("create --init --name a --pod p busybox sleep 1000");
    let status = || home.ok("pod ps --format {{.Status}}");
    assert_eq!(status(), "Created");
    assert_eq!(home.ok("pod start p"), "p");
    assert_eq!(status(), "Running");
    home.ok("stop -t 0 a");
    assert_eq!(status(), "Degraded");
    home.ok("start a");
    assert_eq!(home.ok("pod restart p"), id);
    assert_eq!(status(), "Running");
    assert_eq!(home.ok("pod stop -t 0 p"), "p");
    assert_eq!(status(), "Exited");
    home.ok("pod start p");
    let line = home.fails(125, "pod rm p");
    assert!(line.contains("cannot be removed without force"), "{line}");
    assert_eq!(home.ok("pod rm -f -t 0 p"), id);
    home.run("pod exists p").exits(1);
    assert_eq!(home.ok("ps -aq"), "");
}

fn pod_ps_and_inspect_show_what_podman_shows(home: &Home) {
    let id = home.ok("pod create --name p --network none -l a=b");
    home.ok("run -d --name a --pod p busybox sleep 1000");
    let table = home.ok("pod ps");
    let heading = table.lines().next().unwrap();
    assert_eq!(
        heading.split("  ").filter(|part| !part.is_empty()).map(str::trim).collect::<Vec<_>>(),
        ["POD ID", "NAME", "STATUS", "CREATED", "INFRA ID", "# OF CONTAINERS"]
    );
    let row = table.lines().nth(1).unwrap();
    assert!(row.starts_with(&id[..12]) && row.contains("Running") && row.ends_with('2'), "{table}");
    assert_eq!(home.ok("pod ps -q --no-trunc"), id);
    assert_eq!(home.ok("ps --pod --filter name=^a$ --format '{{.Pod}} {{.PodName}}'"), format!("{} p", &id[..12]));
    assert!(home.ok("ps --pod").lines().next().unwrap().ends_with("POD ID        PODNAME"));
    assert_eq!(home.ok("ps -a --filter pod=p --format {{.Names}}").lines().count(), 2);
    let field = |format: &str| home.coracle("pod inspect --format").arg(format).arg("p").run().ok();
    assert_eq!(field("{{.Name}} {{.State}} {{.NumContainers}}"), "p Running 2");
    assert_eq!(field("{{range .SharedNamespaces}}{{.}} {{end}}"), "ipc net uts ");
    assert_eq!(field("{{.Labels.a}}"), "b");
    assert_eq!(home.inspect("a", "{{.Pod}}"), id);
    assert_eq!(home.ok("inspect --type pod --format {{.Id}} p"), id);
    assert_eq!(home.ok("pod ps --filter status=exited -q"), "");
    assert_eq!(home.ok("pod ps --ctr-names --format {{.ContainerNames}}"), format!("{}-infra,a", &id[..12]));
    home.ok("pod rm -f -t 0 p");
}

fn run_makes_a_pod_of_its_own(home: &Home) {
    home.ok("run -d --name a --network none --pod new:p busybox sleep 1000");
    assert_eq!(home.ok("pod ps --format '{{.Name}} {{.NumberOfContainers}}'"), "p 2");
    home.ok("run --rm --pod p busybox true");
    home.ok("pod rm -f -t 0 p");
}

fn created_member_starts_its_pod(home: &Home) {
    home.ok("pod create --network none --pod-id-file id p");
    home.ok("create --name a --pod-id-file id busybox hostname");
    assert_eq!(home.ok("pod ps --format {{.Status}}"), "Created");
    assert_eq!(home.ok("start -a a"), "p");
    assert_eq!(home.ok("start -a a"), "p");
    home.ok("pod rm -f -t 0 p");
}

fn pod_without_namespaces_is_a_name(home: &Home) {
    home.ok("pod create --infra=false p");
    home.ok("run -d --name a --network none --pod p busybox sleep 1000");
    assert_eq!(home.ok("pod ps --format '{{.InfraId}}|{{.NumberOfContainers}}|{{.Status}}'"), "|1|Running");
    home.ok("pod stop -t 0 p");
    home.ok("pod rm p");
    assert_eq!(home.ok("ps -aq"), "");
}

fn pod_stops_with_its_last_container_if_it_is_to(home: &Home) {
    home.ok("pod create --network none --exit-policy stop p");
    home.ok("run --name a --pod p busybox true");
    wait_until("the pod has stopped", || home.ok("pod ps --format {{.Status}}") == "Exited");
    home.ok("pod create --network none q");
    home.ok("run --name b --pod q busybox true");
    assert_eq!(home.ok("pod ps --filter name=q --format {{.Status}}"), "Degraded");
    home.ok("pod rm -f -t 0 --all");
}

fn volumes_of_a_pod_are_everybodys(home: &Home) {
    home.write("src/file", "shared");
    home.ok("pod create --network none -v ./src:/d:ro p");
    assert_eq!(home.ok("run --rm --pod p busybox cat /d/file"), "shared");
    home.ok("pod rm -f -t 0 p");
}

fn pod_works_in_every_id_mode(home: &Home) {
    home.ok("pod create --network none p");
    for userns in ["", "--userns=keep-id", "--userns=single"] {
        let finished = home.run(&format!("run --rm --pod p {userns} busybox hostname"));
        // A namespace inside of the pod's is made, or said to be impossible in one line.
        if finished.code() == 0 {
            assert_eq!(finished.ok(), "p");
        } else {
            finished.fails(finished.code());
        }
    }
    home.ok("pod rm -f -t 0 p");
}

fn bad_pods_are_refused_as_podman_does(home: &Home) {
    home.fails(1, "pod rm nosuch");
    home.ok("pod rm -f nosuch");
    home.ok("pod rm -i nosuch");
    home.run("pod exists nosuch").exits(1);
    home.fails(125, "pod inspect nosuch");
    let line = home.fails(125, "run --rm --pod nosuch busybox true");
    assert!(line.contains("no pod with name or ID nosuch found: no such pod"), "{line}");
    home.ok("pod create --network none p");
    home.fails(125, "pod create --network none p");
    home.fails(125, "pod create --share moon q");
    let line = home.fails(125, "run --rm --pod p -p 8080:80 busybox true");
    assert!(line.contains("must be defined when the pod is created"), "{line}");
    let line = home.fails(125, "run --rm --pod p --hostname x busybox true");
    assert!(line.contains("UTS namespace"), "{line}");
    home.ok("container prune -f");
    home.run("pod exists p").exits(0);
    let infra = home.ok("pod inspect --format {{.InfraContainerID}} p");
    let line = home.fails(125, &format!("rm {infra}"));
    assert!(line.contains("without removing the pod"), "{line}");
    home.ok("pod rm p");
}

fn pods_are_pruned_and_killed(home: &Home) {
    for name in ["p", "q"] {
        home.ok(&format!("pod create --network none {name}"));
        home.ok(&format!("run -d --name {name}1 --pod {name} busybox sleep 1000"));
    }
    assert!(home.ok("pod top p").contains("sleep"));
    home.ok("pod kill p");
    wait_until("it is dead", || home.ok("pod ps --filter name=p --format {{.Status}}") == "Exited");
    home.ok("pod prune -f");
    assert_eq!(home.ok("pod ps --format {{.Name}}"), "q");
    home.ok("run --name q2 --pod q busybox echo words");
    // Of several containers each line says whose it is.
    let logs = home.ok("pod logs q");
    assert_eq!(logs.split_once(' ').map(|(id, words)| (id.len(), words)), Some((12, "words")), "{logs}");
    home.ok("pod rm -f -t 0 q");
}

fn pods_are_paused_and_go_on(home: &Home) {
    let id = home.ok("pod create --network none p");
    home.ok("run -d --name a --pod p busybox sleep 1000");
    let status = || home.ok("pod ps --format {{.Status}}");
    assert_eq!(home.ok("pod pause p"), id);
    assert_eq!((status().as_str(), home.inspect("a", "{{.State.Status}}").as_str()), ("Paused", "paused"));
    assert_eq!(home.ok("pod pause p"), id);
    assert_eq!(home.ok("pod unpause --all"), id);
    assert_eq!(status(), "Running");
    assert_eq!(home.ok("pod unpause --all"), "");
    home.fails(125, "pod pause none");
    home.ok("pod rm -f -t 0 p");
}

fn a_pod_is_cloned_with_its_containers(home: &Home) {
    home.ok("pod create --network none -l a=b p");
    home.ok("run -d --name a --pod p -v v:/v busybox sh -c 'hostname > /v/name; sleep 1000'");
    let id = home.ok("pod clone --start p");
    assert_eq!(home.ok("pod inspect --format '{{.Name}} {{.Labels.a}} {{.State}}' p-clone"), "p-clone b Running");
    assert_eq!(home.inspect("a-clone", "{{.Pod}} {{.State.Status}}"), format!("{id} running"));
    wait_until("the clone has written its name", || home.ok("exec a cat /v/name") == "p-clone");
    let namespace = |name: &str| home.ok(&format!("exec {name} readlink /proc/self/ns/net"));
    assert_ne!(namespace("a"), namespace("a-clone"));
    home.ok("pod rm -f -t 0 p-clone");
    home.ok("pod clone p");
    home.ok("pod stop -t 0 p");
    home.ok("pod clone --destroy p q");
    assert_eq!(home.ok("pod ps --sort name --format {{.Name}}"), "p-clone\nq");
    assert_eq!(home.ok("ps -a --filter pod=q --filter name=^a-clone1$ --format {{.Names}}"), "a-clone1");
    home.ok("pod rm -f -t 0 p-clone q");
}

fn what_pods_use_is_shown(home: &Home) {
    let id = home.ok("pod create --network none --pod-id-file id p");
    home.ok("run -d --name a --pod p busybox sleep 1000");
    let table = home.ok("pod stats --no-stream");
    let heading: Vec<_> =
        table.lines().next().unwrap().split("  ").map(str::trim).filter(|word| !word.is_empty()).collect();
    assert_eq!(heading, ["POD", "CID", "NAME", "CPU %", "MEM USAGE/ LIMIT", "MEM %", "NET IO", "BLOCK IO", "PIDS"]);
    assert_eq!(table.lines().count(), 3);
    assert_eq!(
        home.ok("pod stats --no-stream --format '{{.Pod}} {{.Name}}' p").lines().last().unwrap(),
        format!("{} a", &id[..12])
    );
    assert!(home.ok("pod stats --no-stream --latest --format json").contains("\"CID\": \""));
    assert!(home.ok("pod top --latest args").contains("sleep 1000"));
    assert!(home.ok("pod top p").contains("sleep 1000"));
    home.ok("pod stop -t 0 --pod-id-file id");
    home.ok("pod start --pod-id-file id");
    assert_eq!(home.ok("pod rm -f -t 0 --pod-id-file id"), id);
    home.fails(125, "pod stats --no-stream");
}

fn a_container_without_its_pod_comes_back_alone(home: &Home) {
    home.ok("pod create --network none p");
    home.ok("create --name a --pod p busybox hostname");
    home.ok("rm a");
    home.ok("undo a");
    assert_eq!(home.inspect("a", "{{.Pod}}"), home.ok("pod ps -q --no-trunc"));
    home.ok("pod rm -f p");
    assert!(home.run("undo a").stderr().contains("container a: its pod p is gone"));
    assert_eq!(home.ok("ps -a --filter name=a --format '{{.Names}}|{{.Pod}}|{{.PodName}}'"), "a||");
    assert_eq!(home.inspect("a", "{{.Pod}}|{{.HostConfig.IpcMode}}"), "|shareable");
    // It has a network of its own now, which not every machine has: a pod without any namespaces shows that it starts.
    home.ok("rm a");
    home.ok("pod create --share ipc,uts q");
    home.ok("create --name b --network none --pod q busybox hostname");
    home.ok("pod rm -f q");
    home.ok("undo b");
    assert_eq!(home.ok("start -a b"), "q");
    home.ok("rm b");
}

fn options_of_a_pod_reach_its_containers(home: &Home) {
    home.write("labels", "x=y\n");
    home.ok("pod create --network none --restart on-failure:2 --label-file labels --sysctl net.ipv4.ip_forward=1 p");
    assert_eq!(home.ok("pod inspect --format {{.Labels.x}} p"), "y");
    home.ok("create --name a --pod p busybox cat /proc/sys/net/ipv4/ip_forward");
    assert_eq!(home.inspect("a", "{{.HostConfig.RestartPolicy.Name}}"), "on-failure");
    assert_eq!(home.ok("start -a a"), "1");
    let line = home.fails(125, "pod create --userns auto q");
    assert!(line.contains("use host, keep-id or single"), "{line}");
    home.fails(125, "pod create --network host --sysctl net.ipv4.ip_forward=1 q");
    home.ok("pod rm -f -t 0 p");
}

fn init_containers_run_at_each_start_or_once(home: &Home) {
    home.ok("pod create --network none p");
    home.ok("create --init-ctr always --name always --pod p -v v:/v busybox sh -c 'echo always >> /v/log'");
    home.ok("create --init-ctr once --name once --pod p -v v:/v busybox sh -c 'echo once >> /v/log'");
    home.ok("create --stop-timeout 0 --name a --pod p -v v:/v busybox sleep 1000");
    home.ok("pod start p");
    assert_eq!(home.ok("exec a cat /v/log"), "always\nonce");
    home.run("container exists once").exits(1);
    assert_eq!(home.ok("pod ps --format {{.Status}}"), "Running");
    home.ok("pod stop p");
    home.ok("pod start p");
    assert_eq!(home.ok("exec a cat /v/log"), "always\nonce\nalways");
    home.ok("pod rm -f -t 0 p");
}

fn what_a_pod_has_its_containers_have(home: &Home) {
    home.ok("run --name source -v data:/data busybox sh -c 'echo kept > /data/x'");
    home.ok(
        "pod create --network none --device /dev/null:/dev/nothing --security-opt no-new-privileges --cpuset-cpus 0 \
         --volumes-from source:ro --cgroup-parent nosuch.slice p",
    );
    let seen = "sh -c 'test -c /dev/nothing && grep NoNewPrivs /proc/self/status; cat /data/x; touch /data/y'";
    let finished = home.run(&format!("run --rm --pod p busybox {seen}"));
    let out = finished.stdout();
    assert_eq!(out, "NoNewPrivs:\t1\nkept\n", "{}", finished.stderr());
    assert!(finished.stderr().contains("Read-only"), "{}", finished.stderr());
    home.ok("create --name member --pod p busybox true");
    assert_eq!(home.inspect("member", "{{.HostConfig.CpusetCpus}}"), "0");
    // What a container has itself it keeps.
    home.ok("create --name own --pod p --cpuset-cpus 1 --security-opt seccomp=unconfined busybox true");
    let own = home.inspect("own", "{{.HostConfig.CpusetCpus}} {{.HostConfig.SecurityOpt}}");
    assert!(own.starts_with("1 ") && own.contains("seccomp=unconfined") && own.contains("no-new-privileges"), "{own}");
}

fn a_pod_with_the_namespaces_of_the_host(home: &Home) {
    home.ok("pod create --network none --share pid,uts,net --pid host --uts host p");
    let own = |name: &str| std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap().display().to_string();
    let seen = home.ok("run --rm --pod p busybox sh -c 'readlink /proc/self/ns/pid; readlink /proc/self/ns/uts'");
    assert_eq!(seen, format!("{}\n{}", own("pid"), own("uts")));
    let line = home.refuses("pod create --uts host -h name q");
    assert!(line.contains("cannot set hostname"), "{line}");
    let unshared = home.run("pod create --network none --pid host q");
    unshared.exits(0);
    assert!(unshared.stderr().contains("--pid has no effect"), "{}", unshared.stderr());
}

fn limits_of_a_pod_are_its_containers_together(home: &Home) {
    home.ok("pod create --network none -m 64m --cpus 0.5 -c 512 p");
    let shown = home.ok("pod inspect p");
    for (key, value) in
        [("memory_limit", 64 << 20), ("memory_swap", 128 << 20), ("cpu_quota", 50_000), ("cpu_shares", 512)]
    {
        assert!(shown.contains(&format!("\"{key}\": {value}")), "{key}: {shown}");
    }
    // Of its own a container has none, whether or not this machine can keep the pod's.
    let finished = home.run("run --name c --pod p busybox true");
    finished.exits(0);
    assert_eq!(home.inspect("c", "{{.HostConfig.Memory}}"), "0");
    for (options, why) in [
        ("--memory-swap 1g", "needs --memory"),
        ("-m lots", "lots"),
        ("--blkio-weight 5", "must be between 10 and 1000"),
        ("--device-read-bps /dev/null:1m", "not a block device"),
    ] {
        let line = home.refuses(&format!("pod create --network none {options} q"));
        assert!(line.contains(why), "{options}: {line}");
    }
    home.ok("pod rm -f p");
}

fn what_a_pod_cannot_have_is_refused(home: &Home) {
    home.refuses("pod create --gpus all p");
    home.refuses("pod create --userns auto p");
    for option in ["--userns keep-id", "--uidmap 0:1:1000"] {
        let line = home.refuses(&format!("pod create {option} p"));
        assert!(line.contains("cannot join namespaces that others share"), "{line}");
        home.ok(&format!("pod create --share none {option} apart"));
        let map = home.ok("run --rm --network none --pod apart busybox cat /proc/self/uid_map");
        assert!(map.lines().count() > 1 || map.contains("1000"), "{option}: {map}");
        home.ok("pod rm apart");
    }
    assert_eq!(home.ok("pod ps -q"), "");
}

fn a_clone_of_a_pod_has_options_of_its_own(home: &Home) {
    home.ok("pod create --network none -l a=b --restart always p");
    home.ok("create --name a --pod p busybox sleep 1000");
    home.ok("pod clone --start --hostname other --label c=d --restart no --name q p");
    assert_eq!(home.ok("exec a-clone hostname"), "other");
    assert_eq!(home.ok("pod inspect q --format '{{.Labels.a}} {{.Labels.c}}'"), "b d");
    home.ok("pod rm -f -t 0 p q");
}
