//! `network`, and containers on networks: who reaches whom, which addresses they have, what comes and goes while they run.

use crate::support::home::wait_until;
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(a_network_is_reached_by_its_containers_alone).needs(&[Need::Tun]),
    test!(networks_without_isolation_reach_each_other).needs(&[Need::Tun]),
    test!(containers_of_a_network_can_be_kept_apart).needs(&[Need::Tun]),
    test!(reserved_addresses_are_given_to_nobody).needs(&[Need::Tun]),
    test!(an_internal_network_leads_nowhere).needs(&[Need::Tun]),
    test!(several_networks_are_several_devices).needs(&[Need::Tun]),
    test!(addresses_of_a_network_that_is_gone_are_free).needs(&[Need::Tun]),
    test!(fixed_addresses_are_had_or_refused).needs(&[Need::Tun]),
    test!(addresses_are_kept_over_restarts).needs(&[Need::Tun]),
    test!(networks_come_and_go_while_it_runs).needs(&[Need::Tun]),
    test!(networks_of_a_stopped_container_are_there_when_it_starts).needs(&[Need::Tun]),
    test!(a_refused_connection_changes_nothing).needs(&[Need::Tun]),
    test!(networks_survive_a_restart_by_policy).needs(&[Need::Tun]),
    test!(inspect_lists_who_is_on_a_network).needs(&[Need::Tun]),
    test!(a_network_in_use_stays_unless_forced).needs(&[Need::Tun]),
    test!(pods_are_on_networks).needs(&[Need::Tun]),
    test!(played_pods_have_the_addresses_they_are_given).needs(&[Need::Tun]),
    test!(free_subnets_are_found),
    test!(subnets_are_taken_from_the_configured_pools),
    test!(the_default_network_is_where_the_configuration_has_it).needs(&[Need::Tun]),
    test!(the_default_network_has_name_servers_of_its_own),
    test!(unused_networks_are_pruned),
    test!(events_tell_of_networks),
    test!(one_id_has_networks_too).needs(&[Need::Tun]),
    test!(shared_user_namespaces_have_no_bridge).needs(&[Need::Tun]),
];

const SERVE: &str = "sh -c 'while :; do echo here | nc -l -p 80; done'";

fn serve(home: &Home, name: &str, options: &str) {
    home.ok(&format!("run -d --name {name} {options} busybox {SERVE}"));
}

/// What a container hears from an address within a while.
fn hears(home: &Home, container: &str, address: &str) -> bool {
    let ask = format!("for n in 1 2 3 4 5 6 7 8 9 10; do nc -w 2 {address} 80 && exit; sleep 0.2; done");
    home.run(&format!("exec {container} sh -c '{ask}'")).stdout().contains("here")
}

/// The same, where silence is expected: once is enough.
fn is_cut_off(home: &Home, container: &str, address: &str) -> bool {
    !home.run(&format!("exec {container} nc -w 2 {address} 80")).stdout().contains("here")
}

fn address(home: &Home, container: &str, network: &str) -> String {
    home.inspect(container, &format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}"))
}

fn devices(home: &Home, container: &str) -> Vec<String> {
    let text = home.ok(&format!("exec {container} ip -o -4 addr"));
    let device = |line: &str| {
        let mut words = line.split_whitespace();
        Some(format!("{} {}", words.nth(1)?, words.nth(1)?))
    };
    text.lines().filter_map(device).filter(|line| !line.starts_with("lo ")).collect()
}

fn a_network_is_reached_by_its_containers_alone(home: &Home) {
    for name in ["front", "back"] {
        home.ok(&format!("network create {name}"));
    }
    serve(home, "server", "--network front");
    home.ok("run -d --name friend --network front busybox sleep 1000");
    home.ok("run -d --name stranger --network back busybox sleep 1000");
    home.ok("run -d --name other busybox sleep 1000");
    let ip = address(home, "server", "front");
    assert!(hears(home, "friend", &ip), "{ip}");
    for stranger in ["stranger", "other"] {
        assert!(is_cut_off(home, stranger, &ip), "{stranger} reaches {ip}");
    }
    home.ok("rm -f -t 0 -a");
}

fn networks_without_isolation_reach_each_other(home: &Home) {
    for name in ["one", "two"] {
        home.ok(&format!("network create -o isolate=false {name}"));
    }
    serve(home, "server", "--network one");
    home.ok("run -d --name client --network two busybox sleep 1000");
    assert!(hears(home, "client", &address(home, "server", "one")));
    home.ok("rm -f -t 0 -a");
}

fn containers_of_a_network_can_be_kept_apart(home: &Home) {
    home.ok("network create -o com.docker.network.bridge.enable_icc=false --ipv6 net");
    serve(home, "server", "--network net");
    home.ok("run -d --name client --network net --cap-add NET_ADMIN busybox sleep 1000");
    home.ok("run -d --name late busybox sleep 1000");
    home.ok("network connect net late");
    let ip = address(home, "server", "net");
    assert!(hears(home, "server", &ip), "{ip}");
    for name in ["client", "late"] {
        assert!(is_cut_off(home, name, &ip), "{name} reaches {ip}");
    }
    let v6 = home.inspect("server", "{{.NetworkSettings.Networks.net.GlobalIPv6Address}}");
    assert!(hears(home, "server", &v6) && is_cut_off(home, "client", &v6), "{v6}");
    // The gateway sends nothing back, either; it answers names as ever.
    let gateway = home.inspect("client", "{{.NetworkSettings.Networks.net.Gateway}}");
    home.ok(&format!("exec client ip route add {ip}/32 via {gateway}"));
    assert!(is_cut_off(home, "client", &ip), "by way of {gateway}");
    let answer = home.ok("exec client nslookup server");
    assert!(answer.contains(&ip), "{answer}");
    assert_eq!(
        home.ok("network inspect net --format '{{json .Options}}'"),
        r#"{"com.docker.network.bridge.enable_icc":"false"}"#
    );
    home.ok("rm -f -t 0 -a");
}

fn reserved_addresses_are_given_to_nobody(home: &Home) {
    home.ok("network create --subnet 10.210.1.0/29 --aux-address printer=10.210.1.2 --aux-address nas=10.210.1.4 net");
    for (name, ip) in [("a", "10.210.1.3"), ("b", "10.210.1.5")] {
        home.ok(&format!("run -d --name {name} --network net busybox sleep 1000"));
        assert_eq!(address(home, name, "net"), ip);
    }
    let line = home.fails(125, "run --rm --network net --ip 10.210.1.2 busybox true");
    assert!(line.contains("IP address 10.210.1.2 is in use"), "{line}");
    let shown = home.coracle("network inspect net --format '{{(index .IPAM.Config 0).AuxiliaryAddresses}}'");
    assert_eq!(shown.called(home, "docker").run().ok(), "map[nas:10.210.1.4 printer:10.210.1.2]");
    home.ok("rm -f -t 0 -a");
}

fn an_internal_network_leads_nowhere(home: &Home) {
    home.ok("network create --internal inner");
    serve(home, "server", "--network inner");
    home.ok("run -d --name client --network inner busybox sleep 1000");
    assert!(hears(home, "client", &address(home, "server", "inner")));
    let routes = home.ok("exec client ip route");
    assert!(!routes.contains("default"), "{routes}");
    // Not even with a route of its own making.
    home.ok("run -d --name maker --network inner --cap-add NET_ADMIN busybox sleep 1000");
    let gateway = home.inspect("maker", "{{.NetworkSettings.Networks.inner.Gateway}}");
    home.ok(&format!("exec maker ip route add default via {gateway}"));
    let host = "10.0.2.2";
    assert!(is_cut_off(home, "maker", host));
    home.ok("rm -f -t 0 -a");
}

fn several_networks_are_several_devices(home: &Home) {
    home.ok("network create --subnet 10.210.1.0/24 one");
    home.ok("network create --subnet 10.210.2.0/24 --subnet fd77:210::/64 two");
    home.ok("network create --subnet 10.210.3.0/24 -o mtu=1300 three");
    home.ok(
        "run -d --name c --network one:ip=10.210.1.9,mac=02:00:00:00:00:0a,alias=first --network two:interface_name=net0 \
         --network three busybox sleep 1000",
    );
    assert_eq!(devices(home, "c"), ["eth0 10.210.1.9/24", "net0 10.210.2.2/24", "eth1 10.210.3.2/24"]);
    assert!(home.ok("exec c ip -o link show eth0").contains("02:00:00:00:00:0a"));
    assert!(home.ok("exec c ip -o link show eth1").contains("mtu 1300"));
    assert!(home.ok("exec c ip -o -6 addr show net0").contains("fd77:210::2/64"));
    let routes = home.ok("exec c ip route");
    assert_eq!(routes.lines().next().map(str::trim), Some("default via 10.210.1.1 dev eth0  metric 100"), "{routes}");
    let format = "{{range $name, $one := .NetworkSettings.Networks}}{{$name}} {{$one.IPAddress}}/{{$one.IPPrefixLen}} \
                  {{$one.Gateway}} {{$one.GlobalIPv6Address}} {{index $one.Aliases 0}};{{end}}";
    let short = home.inspect("c", "{{slice .Id 0 12}}");
    assert_eq!(
        home.inspect("c", format),
        format!(
            "one 10.210.1.9/24 10.210.1.1  first;three 10.210.3.2/24 10.210.3.1  {short};\
             two 10.210.2.2/24 10.210.2.1 fd77:210::2 {short};"
        )
    );
    assert_eq!(
        home.inspect("c", "{{.NetworkSettings.Networks.one.MacAddress}} {{.HostConfig.NetworkMode}}"),
        "02:00:00:00:00:0a bridge"
    );
    assert_eq!(home.ok("ps --filter network=two --format '{{.Names}} {{.Networks}}'"), "c one,three,two");
    assert_eq!(home.ok("ps --filter network=podman --format '{{.Names}}'"), "");
    home.ok("rm -f -t 0 -a");
}

/// The bridge of a network that is gone would answer for its heir's addresses.
fn addresses_of_a_network_that_is_gone_are_free(home: &Home) {
    home.ok("run -d --name stays busybox sleep 1000");
    home.ok("network create --subnet 10.210.1.0/24 --interface-name first one");
    home.ok("run --rm --network one busybox true");
    home.ok("network rm one");
    home.ok("network create --subnet 10.210.1.0/24 --interface-name second two");
    serve(home, "server", "--network two");
    home.ok("run -d --name client --network two busybox sleep 1000");
    assert!(hears(home, "client", &address(home, "server", "two")));
    assert!(home.ok("exec client ip route").contains("via 10.210.1.1"));
    home.ok("rm -f -t 0 -a");
}

fn fixed_addresses_are_had_or_refused(home: &Home) {
    home.ok("network create --subnet 10.210.1.0/24 net");
    home.ok("run -d --name c --network net --ip 10.210.1.50 --mac-address 02:00:00:00:00:0b --network-alias x busybox sleep 1000");
    assert_eq!(devices(home, "c"), ["eth0 10.210.1.50/24"]);
    home.ok("run -d --name d --ip 10.88.200.7 busybox sleep 1000");
    assert_eq!(devices(home, "d"), ["eth0 10.88.200.7/16"]);
    let line = home.fails(125, "run --name late --network net --ip 10.210.1.50 busybox true");
    assert!(line.contains("10.210.1.50 is in use"), "{line}");
    for ip in ["10.210.1.1", "10.210.1.0", "10.210.1.255", "10.99.1.1"] {
        let line = home.fails(125, &format!("run --name late --network net --ip {ip} busybox true"));
        assert!(line.contains(&format!("requested static ip {ip} not in any subnet on network net")), "{line}");
    }
    home.run("container exists late").exits(1);
    home.ok("rm -f -t 0 -a");
}

fn addresses_are_kept_over_restarts(home: &Home) {
    home.ok("network create --ipv6 net");
    let of = |name: &str| {
        home.inspect(
            name,
            "{{.NetworkSettings.Networks.net.IPAddress}} {{.NetworkSettings.Networks.net.GlobalIPv6Address}}",
        )
    };
    // Somebody stays, so that the user's namespace does.
    for name in ["stays", "a", "b"] {
        home.ok(&format!("run -d --name {name} --network net busybox sleep 1000"));
    }
    let (a, b) = (of("a"), of("b"));
    assert_ne!(a, b);
    home.ok("stop -t 0 a b");
    assert_eq!(of("a"), " ");
    // In the other order, and with a newcomer before them.
    home.ok("run -d --name c --network net busybox sleep 1000");
    home.ok("start b a");
    assert_eq!((of("a"), of("b")), (a.clone(), b.clone()));
    home.ok("restart -t 0 a");
    assert_eq!(of("a"), a);
    // And when nobody stays.
    home.ok("stop -t 0 -a");
    home.ok("start b");
    assert_eq!(of("b"), b);
    // Who needs it more has it.
    home.ok("stop -t 0 b");
    let ip = b.split(' ').next().unwrap();
    home.ok(&format!("run -d --name thief --network net --ip {ip} busybox sleep 1000"));
    home.ok("start b");
    assert_ne!(of("b"), b);
    home.ok("rm -f -t 0 -a");
}

fn networks_come_and_go_while_it_runs(home: &Home) {
    home.ok("network create --subnet 10.210.1.0/24 net");
    serve(home, "server", "--network net");
    home.ok("run -d --name c busybox sleep 1000");
    let ip = address(home, "server", "net");
    assert!(is_cut_off(home, "c", &ip));
    home.ok("network connect --ip 10.210.1.40 --mac-address 02:00:00:00:00:0c --alias x net c");
    assert_eq!(devices(home, "c")[1], "eth1 10.210.1.40/24");
    assert!(hears(home, "c", &ip));
    assert_eq!(address(home, "c", "net"), "10.210.1.40");
    assert_eq!(home.inspect("c", "{{index .NetworkSettings.Networks.net.Aliases 0}}"), "x");
    assert!(home.ok("exec c cat /etc/hosts").contains("x"), "its names are rewritten");
    home.ok("network disconnect podman c");
    assert_eq!(devices(home, "c"), ["eth1 10.210.1.40/24"]);
    assert!(hears(home, "c", &ip));
    home.ok("network disconnect net c");
    assert_eq!(devices(home, "c"), Vec::<String>::new());
    assert_eq!(home.inspect("c", "{{len .NetworkSettings.Networks}}"), "0");
    home.ok("network connect net c");
    assert_eq!(devices(home, "c").len(), 1);
    home.ok("rm -f -t 0 -a");
}

fn networks_of_a_stopped_container_are_there_when_it_starts(home: &Home) {
    home.ok("network create --subnet 10.210.1.0/24 net");
    home.ok("create --name c busybox sleep 1000");
    home.ok("network connect --ip 10.210.1.40 net c");
    home.ok("start c");
    assert_eq!(devices(home, "c")[1], "eth1 10.210.1.40/24");
    home.ok("stop -t 0 c");
    home.ok("network disconnect podman c");
    home.ok("start c");
    assert_eq!(devices(home, "c"), ["eth0 10.210.1.40/24"]);
    home.ok("stop -t 0 c");
    home.ok("network disconnect net c");
    home.ok("start c");
    assert_eq!(devices(home, "c"), Vec::<String>::new());
    home.ok("rm -f -t 0 -a");
}

fn a_refused_connection_changes_nothing(home: &Home) {
    home.ok("network create --subnet 10.210.1.0/24 net");
    home.ok("run -d --name holder --network net --ip 10.210.1.40 busybox sleep 1000");
    home.ok("run -d --name c busybox sleep 1000");
    let before = devices(home, "c");
    let line = home.fails(125, "network connect --ip 10.210.1.40 net c");
    assert!(line.contains("10.210.1.40 is in use"), "{line}");
    assert_eq!(devices(home, "c"), before);
    assert_eq!(home.inspect("c", "{{len .NetworkSettings.Networks}}"), "1");
    home.ok("restart -t 0 c");
    assert_eq!(devices(home, "c"), before);
    for mode in ["host", "none"] {
        home.ok(&format!("run -d --name {mode} --network {mode} busybox sleep 1000"));
        let line = home.fails(125, &format!("network connect net {mode}"));
        assert!(line.contains(&format!("\"{mode}\" is not supported: invalid network mode")), "{line}");
    }
    let line = home.fails(125, "network connect podman c");
    assert!(line.contains("network is already connected"), "{line}");
    home.ok("network disconnect -f nosuch c");
    home.ok("network disconnect -f net nosuch");
    home.ok("rm -f -t 0 -a");
}

fn networks_survive_a_restart_by_policy(home: &Home) {
    home.ok("network create --subnet 10.210.1.0/24 net");
    home.ok("run -d --name c --restart always busybox sh -c 'sleep 1000 & wait'");
    home.ok("network connect --ip 10.210.1.40 net c");
    let before = devices(home, "c");
    home.ok("exec c sh -c 'kill $(pidof sleep)'");
    wait_until("the next run has its networks", || {
        home.inspect("c", "{{.RestartCount}} {{.State.Status}}") == "1 running"
    });
    assert_eq!(devices(home, "c"), before);
    home.ok("rm -f -t 0 -a");
}

fn inspect_lists_who_is_on_a_network(home: &Home) {
    home.ok("network create --subnet 10.210.1.0/24 net");
    let id = home.ok("run -d --name c --network net busybox sleep 1000");
    home.ok("create --name stopped --network net busybox true");
    let format = "{{range $id, $one := .Containers}}{{$id}} {{$one.Name}}{{range $name, $device := $one.Interfaces}} {{$name}} \
                  {{(index $device.Subnets 0).IPNet}}{{end}};{{end}}";
    assert_eq!(
        home.coracle("network inspect net --format").arg(format).run().ok(),
        format!("{id} c eth0 10.210.1.2/24;")
    );
    let text = home.ok("network inspect net");
    for part in
        ["\"ipnet\": \"10.210.1.2/24\"", "\"gateway\": \"10.210.1.1\"", "\"mac_address\": \"02:42:0a:d2:01:02\""]
    {
        assert!(text.contains(part), "{text}");
    }
    let docker = |line: &str| home.coracle(line).called(home, "docker");
    let format = "{{range $id, $one := .Containers}}{{$id}} {{$one.Name}} {{$one.IPv4Address}}{{end}}";
    assert_eq!(docker("network inspect net --format").arg(format).run().ok(), format!("{id} c 10.210.1.2/24"));
    let format = "{{.HostConfig.NetworkMode}} {{range $name, $one := .NetworkSettings.Networks}}{{$name}}{{end}}";
    assert_eq!(docker("inspect c --format").arg(format).run().ok(), "net net");
    home.ok("run -d --name plain busybox sleep 1000");
    assert_eq!(docker("inspect plain --format").arg(format).run().ok(), "bridge bridge");
    home.ok("rm -f -t 0 -a");
}

fn a_network_in_use_stays_unless_forced(home: &Home) {
    home.ok("network create net");
    home.ok("create --name stopped --network net busybox true");
    home.ok("run -d --name runs --network net busybox sleep 1000");
    home.ok("pod create --name pod --network net");
    home.ok("create --name member --pod pod busybox true");
    let refused = home.run("network rm net");
    let line = refused.fails(2);
    assert!(line.contains("network is being used"), "{line}");
    for name in ["stopped", "runs"] {
        assert!(refused.stderr().contains(name), "{}", refused.transcript());
    }
    home.ok("network exists net");
    assert_eq!(home.ok("network rm -f -t 0 net"), "net");
    home.run("network exists net").exits(1);
    assert_eq!(home.ok("ps -aq"), "");
    home.run("pod exists pod").exits(1);
}

fn pods_are_on_networks(home: &Home) {
    home.ok("network create --subnet 10.210.1.0/24 net");
    home.ok("pod create --name p --network net:ip=10.210.1.30");
    home.ok(&format!("run -d --name server --pod p busybox {SERVE}"));
    assert_eq!(devices(home, "server"), ["eth0 10.210.1.30/24"]);
    home.ok("run -d --name client --network net busybox sleep 1000");
    assert!(hears(home, "client", "10.210.1.30"));
    let line = home.fails(125, "create --pod p --ip 10.210.1.31 busybox true");
    assert!(line.contains("when the pod is created"), "{line}");
    home.ok("pod rm -f -t 0 p");
    home.ok("rm -f -t 0 -a");
}

fn played_pods_have_the_addresses_they_are_given(home: &Home) {
    home.ok("network create --subnet 10.210.1.0/24 net");
    let pod = |name: &str| {
        format!(
            "kind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  - name: c\n    \
             image: localhost/busybox\n    command: [sleep, '1000']\n"
        )
    };
    home.write("pods.yaml", format!("{}---\n{}", pod("a"), pod("b")));
    home.ok("kube play --network net --ip 10.210.1.30 --ip 10.210.1.31 --mac-address 02:00:00:00:00:0d pods.yaml");
    assert_eq!(devices(home, "a-c"), ["eth0 10.210.1.30/24"]);
    assert_eq!(devices(home, "b-c"), ["eth0 10.210.1.31/24"]);
    assert!(home.ok("exec a-c ip -o link show eth0").contains("02:00:00:00:00:0d"));
    home.ok("kube down pods.yaml");
    // Those that ask for none have one of their own, by which they know each other.
    home.ok("kube play pods.yaml");
    assert_eq!(home.ok("network ls -q --filter name=kube"), "podman-default-kube-network");
    let [device] = &devices(home, "b-c")[..] else { panic!("it has one network") };
    let own = device.trim_start_matches("eth0 ").trim_end_matches("/24");
    assert!(own.starts_with("10.89."), "{device}");
    assert!(home.ok("exec a-c nslookup -type=a b.dns.podman").contains(own));
    home.ok("kube down pods.yaml");
}

fn free_subnets_are_found(home: &Home) {
    home.ok("network create one");
    home.ok("network create two");
    let subnets = home.ok("network inspect one two --format '{{(index .Subnets 0).Subnet}}'");
    let (one, two) = subnets.split_once('\n').unwrap();
    assert!(one.starts_with("10.") && one.ends_with(".0/24") && one != two, "{subnets}");
    assert_eq!(home.ok("network inspect one two --format '{{.NetworkInterface}}'"), "podman1\npodman2");
    // The first that is free is taken again.
    home.ok("network rm one");
    home.ok("network create three");
    assert_eq!(
        home.ok("network inspect three --format '{{(index .Subnets 0).Subnet}} {{.NetworkInterface}}'"),
        format!("{one} podman1")
    );
    // Without a name it is called as its bridge.
    assert_eq!(home.ok("network create"), "podman3");
    home.ok("network create --ipv6 six");
    let v6 = home.ok("network inspect six --format '{{(index .Subnets 1).Subnet}} {{.IPv6Enabled}}'");
    assert!(v6.starts_with("fd") && v6.ends_with("::/64 true"), "{v6}");
    assert_eq!(home.ok("inspect six --format '{{.Name}}'"), "six");
    for driver in ["macvlan", "ipvlan", "overlay"] {
        let refused = home.run(&format!("network create -d {driver} x"));
        let line = refused.fails(125);
        assert!(line.contains(&format!("network driver {driver} is not available without root: ")), "{line}");
        assert!(refused.stderr().contains("Hint: the bridge driver"), "{}", refused.transcript());
    }
}

fn subnets_are_taken_from_the_configured_pools(home: &Home) {
    let conf = |pools: &str| home.write("containers.conf", format!("[network]\ndefault_subnet_pools = [{pools}]\n"));
    let create = |name: &str| {
        let file = home.tmp().join("containers.conf");
        home.coracle(&format!("network create {name}")).env("CONTAINERS_CONF", file).run()
    };
    conf(r#"{"base" = "10.210.8.0/24", "size" = 25}"#);
    for (name, subnet) in [("one", "10.210.8.0/25"), ("two", "10.210.8.128/25")] {
        create(name).ok();
        assert_eq!(home.ok(&format!("network inspect {name} --format '{{{{(index .Subnets 0).Subnet}}}}'")), subnet);
    }
    let line = create("three").fails(125);
    assert!(line.contains("could not find free subnet from subnet pools"), "{line}");
    conf(r#"{"base" = "10.210.8.0/24", "size" = 8}"#);
    let line = create("three").fails(125);
    assert!(line.contains("default_subnet_pools: base 10.210.8.0/24, size 8: "), "{line}");
}

fn the_default_network_is_where_the_configuration_has_it(home: &Home) {
    let conf = |subnet: &str| home.write("containers.conf", format!("[network]\ndefault_subnet = \"{subnet}\"\n"));
    let run = |line: &str| home.coracle(line).env("CONTAINERS_CONF", home.tmp().join("containers.conf")).run();
    conf("10.77.3.0/24");
    let shown = run("network inspect podman --format '{{(index .Subnets 0).Subnet}} {{(index .Subnets 0).Gateway}}'");
    assert_eq!(shown.ok(), "10.77.3.0/24 10.77.3.1");
    assert!(run("network create --subnet 10.77.3.128/25 x").fails(125).contains("already used"));
    let seen = run("run --rm busybox sh -c 'ip -4 -o addr show dev eth0; ip route show default'");
    assert!(seen.ok().contains("10.77.3.2/24") && seen.ok().contains("via 10.77.3.1"), "{}", seen.transcript());
    // What runs has its network until it ends.
    run("run -d --name c busybox sleep 1000").ok();
    conf("10.77.4.0/24");
    let line = run("run --rm busybox true").fails(125);
    assert!(line.contains("network podman: containers are on it"), "{line}");
    home.ok("rm -f -t 0 c");
    for wrong in ["10.77.3.0", "10.77.3.0/31", "fd00::/64"] {
        conf(wrong);
        let line = run("run --rm busybox true").fails(125);
        assert!(line.contains("containers.conf") && line.contains("default_subnet"), "{line}");
    }
}

fn the_default_network_has_name_servers_of_its_own(home: &Home) {
    let servers = || home.ok("network inspect podman --format '{{.NetworkDNSServers}}'");
    assert_eq!(home.ok("network update podman --dns-add 192.0.2.53,192.0.2.54"), "podman");
    assert_eq!(servers(), "[192.0.2.53 192.0.2.54]");
    // It is there once, and stays what it is.
    assert_eq!(home.ok("network ls -q"), "podman");
    assert_eq!(home.ok("network prune -f"), "");
    assert_eq!(home.ok("network ls -q --filter id=2f259bab93aa"), "podman");
    assert!(home.fails(125, "network rm podman").contains("cannot be removed"));
    home.ok("network update podman --dns-drop 192.0.2.53");
    assert_eq!(servers(), "[192.0.2.54]");
    home.ok("network update podman --dns-drop 192.0.2.54");
    assert_eq!(servers(), "[]");
}

fn unused_networks_are_pruned(home: &Home) {
    for name in ["used", "unused", "kept"] {
        home.ok(&format!("network create --label {name} {name}"));
    }
    home.ok("create --name c --network used busybox true");
    assert_eq!(home.ok("network prune -f --filter label=kept --filter label=nosuch"), "");
    assert_eq!(home.ok("network prune -f --filter label!=kept"), "unused");
    assert_eq!(home.coracle("network prune").stdin("n\n").run().ok().lines().count(), 2);
    assert_eq!(home.ok("network ls -q"), "kept\npodman\nused");
    home.ok("rm c");
    let text = home.ok("system prune -f --filter label!=used");
    assert!(text.contains("Deleted Networks\nkept\n"), "{text}");
    let text = home.ok("system prune -f");
    assert!(text.contains("Deleted Networks\nused\n"), "{text}");
    assert_eq!(home.ok("network ls -q"), "podman");
}

fn events_tell_of_networks(home: &Home) {
    home.ok("network create net");
    let container = home.ok("create --name c busybox true");
    home.ok("network connect net c");
    home.ok("network disconnect net c");
    let id = home.ok("network inspect net --format '{{.ID}}'");
    home.ok("network rm net");
    let text = home.ok("events --stream=false --filter type=network");
    let found: Vec<&str> = text.lines().filter_map(|line| line.split_once(" network ")).map(|(_, what)| what).collect();
    assert_eq!(
        found,
        [
            format!("create {id} (name=net, type=bridge)"),
            format!("connect {container} (container={container}, name=net)"),
            format!("disconnect {container} (container={container}, name=net)"),
            format!("remove {id} (name=net, type=bridge)"),
        ]
    );
}

fn one_id_has_networks_too(home: &Home) {
    home.ok("network create --subnet 10.210.1.0/24 net");
    serve(home, "server", "--userns single --network net");
    home.ok("run -d --name client --userns single --network net busybox sleep 1000");
    assert_eq!(devices(home, "client"), ["eth0 10.210.1.3/24"]);
    assert!(hears(home, "client", "10.210.1.2"));
    home.ok("network disconnect net client");
    assert_eq!(devices(home, "client"), Vec::<String>::new());
    home.ok("rm -f -t 0 -a");
}

/// A container with ids of its own is in a user namespace of its own: what joins its namespaces cannot be on a bridge,
/// which belongs to another.
fn shared_user_namespaces_have_no_bridge(home: &Home) {
    home.ok("network create --subnet 10.210.1.0/24 net");
    home.ok("run -d --name own --userns keep-id --network net busybox sleep 1000");
    assert_eq!(devices(home, "own"), ["eth0 10.210.1.2/24"]);
    let line = home.fails(125, "run --rm --ipc container:own --network net busybox true");
    assert!(line.contains("user namespace"), "{line}");
    // One that shares the user's own is on a bridge itself.
    home.ok("run -d --name usual --network net busybox sleep 1000");
    assert!(home.ok("run --rm --ipc container:usual --network net busybox ip -o -4 addr").contains("10.210.1."));
    home.ok("rm -f -t 0 -a");
}
