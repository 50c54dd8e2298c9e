//! `run`: networks and published ports, seen from inside and from the host.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use crate::support::home::wait_until;
use crate::support::prelude::*;
use crate::support::registry::free_port;

pub(crate) const TESTS: &[Test] = &[
    test!(none_has_loopback_only),
    test!(host_is_the_hosts_network),
    test!(default_network_has_an_address_and_inspect_shows_it).needs(&[Need::Tun]),
    test!(slirp4netns_has_an_address_and_reaches_no_host_loopback).needs(&[Need::Slirp4netns]),
    test!(pasta_has_an_address).needs(&[Need::Pasta]),
    test!(ipv6_is_not_held_back).needs(&[Need::Slirp4netns, Need::Pasta]),
    test!(options_of_the_drivers_are_podmans).needs(&[Need::Slirp4netns, Need::Pasta]),
    test!(no_program_is_needed_for_a_network).needs(&[Need::Tun]),
    test!(the_way_out_is_configured).needs(&[Need::Tun]),
    test!(container_network_is_shared),
    test!(hosts_file_is_made),
    test!(resolv_conf_is_made_of_flags),
    test!(published_port_answers).needs(&[Need::Tun]),
    test!(published_port_keeps_the_clients_address).needs(&[Need::Slirp4netns]),
    test!(published_udp_port_answers).needs(&[Need::Tun]),
    test!(published_range_and_random_ports_are_listed).needs(&[Need::Tun]),
    test!(port_in_use_is_refused).needs(&[Need::Tun]),
    test!(malformed_ports_are_one_line),
    test!(port_is_free_after_the_container).needs(&[Need::Tun]),
    test!(privileged_ports_are_free_inside),
    test!(low_ports_are_bound_moved_or_refused).needs(&[Need::Tun]),
    test!(links_and_aliases_are_names_in_hosts).needs(&[Need::Slirp4netns]),
    test!(domain_name_is_the_containers_own),
    test!(unknown_network_is_refused),
];

/// A port below 1024 that nobody has, if this host keeps it for root.
fn low_port() -> Option<u16> {
    let lowest = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").ok()?;
    let lowest: u16 = lowest.trim().parse().ok()?;
    (700..lowest.min(1024)).find(|port| {
        // Root's ports cannot be tried, so those that are moved to are.
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port + 8000)).is_ok()
    })
}

fn low_ports_are_bound_moved_or_refused(home: &Home) {
    let Some(port) = low_port() else {
        home.ok("run --rm -p 127.0.0.1:700:80 busybox true");
        return;
    };
    let refused = home.run(&format!("run --rm -p {port}:80 busybox true"));
    let line = refused.fails(125);
    assert!(line.contains(&format!(":{port}/tcp")) && line.contains("ip_unprivileged_port_start"), "{line}");
    for way in ["sysctl", "low_ports = \"remap\"", "socket unit"] {
        assert!(refused.stderr().lines().any(|line| line.starts_with("Hint: ") && line.contains(way)), "{way}");
    }
    // docker's users publish port 80 without a thought.
    let docker = home.tmp().join("docker");
    std::os::unix::fs::symlink(crate::support::command::binary(), &docker).unwrap();
    let run = home.coracle(&format!("run -d --name c -p 127.0.0.1:{port}:80 busybox sleep 1000"));
    let run = run.program(&docker).run();
    run.exits(0);
    assert_eq!(run.stderr().lines().count(), 1, "{}", run.transcript());
    let moved = port + 8000;
    assert!(run.stderr().contains(&format!("published {port} on {moved}")), "{}", run.transcript());
    assert_eq!(home.ok("port c"), format!("80/tcp -> 127.0.0.1:{moved}"));
    assert!(home.ok("ps --format {{.Ports}}").contains(&format!("127.0.0.1:{moved}->80/tcp")));
    let inspected = home.inspect("c", "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}");
    assert_eq!(inspected, moved.to_string());
    home.ok("rm -f -t 0 c");
    let conf = home.path().join(".config/containers");
    std::fs::create_dir_all(&conf).unwrap();
    std::fs::write(conf.join("containers.conf"), "[network]\nlow_ports = \"remap\"\n").unwrap();
    home.ok(&format!("run --rm -p {port}:80 busybox true"));
    std::fs::write(conf.join("containers.conf"), "[network]\nlow_ports = 7\n").unwrap();
    let line = home.fails(125, &format!("run --rm -p {port}:80 busybox true"));
    assert!(line.contains("containers.conf"), "{line}");
}

fn links_and_aliases_are_names_in_hosts(home: &Home) {
    let port = free_port();
    let serve = "while :; do echo linked | nc -l -p 80; done";
    home.ok(&format!("run -d --name server -p {port}:80 busybox sh -c '{serve}'"));
    let ask = format!("until nc -w 5 db {port} | grep linked; do sleep 0.1; done; grep -c other /etc/hosts");
    let options = "--network slirp4netns --link server:db --network-alias other";
    let run = home.run(&format!("run --rm {options} busybox sh -c '{ask}'"));
    run.exits(0);
    assert!(run.stdout().starts_with("linked\n") && !run.stdout().ends_with("\n0\n"), "{}", run.transcript());
    for what in ["Warning: --link: ", "Warning: --network-alias: "] {
        assert!(run.stderr().contains(what), "{}", run.transcript());
    }
    // With a network in common there is nothing to warn of.
    let ask = "until nc -w 5 db 80 | grep linked; do sleep 0.1; done";
    let run = home.run(&format!("run --rm --network container:server --link server:db busybox sh -c '{ask}'"));
    assert_eq!((run.stdout().as_str(), run.stderr().as_str()), ("linked\n", ""), "{}", run.transcript());
    home.fails(125, "run --rm --link nosuch busybox true");
    home.fails(125, "run --rm --link server --network none busybox true");
    home.fails(125, "run --rm --network-alias a --network host busybox true");
    home.fails(125, "run --rm --network-alias 'a b' busybox true");
    home.ok("rm -f -t 0 server");
}

fn domain_name_is_the_containers_own(home: &Home) {
    assert_eq!(
        home.ok("run --rm --network none --domainname a.example busybox cat /proc/sys/kernel/domainname"),
        "a.example"
    );
    home.fails(125, "run --rm --network none --uts host --domainname a.example busybox true");
}

fn none_has_loopback_only(home: &Home) {
    assert_eq!(home.ok("run --rm --network none busybox ls /sys/class/net"), "lo");
    // busybox pings through raw sockets only.
    home.ok("run --rm --network none --cap-add NET_RAW busybox sh -c 'ping -c 1 -w 5 127.0.0.1 > /dev/null'");
    home.run("run --rm --network none busybox nc -w 2 10.0.2.2 80").exits(1);
}

fn host_is_the_hosts_network(home: &Home) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"from the host").unwrap();
    });
    assert_eq!(home.ok(&format!("run --rm --network host busybox nc 127.0.0.1 {port}")), "from the host");
    server.join().unwrap();
}

fn default_network_has_an_address_and_inspect_shows_it(home: &Home) {
    home.ok("run -d --name n busybox sleep 1000");
    let address = home.inspect("n", "{{.NetworkSettings.IPAddress}}");
    address.parse::<std::net::IpAddr>().unwrap_or_else(|_| panic!("{address:?} is no address"));
    assert!(home.ok("exec n ip addr").contains(&address));
    assert!(home.ok("exec n ip route").contains("default"));
}

fn slirp4netns_has_an_address_and_reaches_no_host_loopback(home: &Home) {
    assert!(home.ok("run --rm --network slirp4netns busybox ip addr").contains("10.0.2.100/24"));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let line = |option: &str| {
        format!("run --rm --network slirp4netns{option} busybox sh -c 'timeout 2 nc 10.0.2.2 {port}; true'")
    };
    home.run(&line(""));
    assert!(listener.accept().is_err(), "host loopback is open");
    home.run(&line(":allow_host_loopback=true"));
    assert!(listener.accept().is_ok(), "allow_host_loopback does not open it");
}

fn pasta_has_an_address(home: &Home) {
    let listed = home.ok("run --rm --network pasta busybox sh -c 'ls /sys/class/net | wc -l'");
    assert_eq!(listed, "2");
}

fn ipv6_is_not_held_back(home: &Home) {
    const IFA_F_TENTATIVE: u8 = 0x40;
    if !std::path::Path::new("/proc/net/if_inet6").exists() {
        return;
    }
    for network in ["builtin", "slirp4netns", "pasta"] {
        // The kernel marks an address and takes the mark off in a work queue; detection would keep it for a second at least.
        let script = "for i in 1 2 3 4 5 6 7 8 9; do grep -q ' [4-7c-f][0-9a-f]  ' /proc/net/if_inet6 || break; \
                      sleep 0.05; done; cat /proc/net/if_inet6";
        let addresses = home.coracle(&format!("run --rm --network {network} busybox sh -c")).arg(script).run().ok();
        for line in addresses.lines() {
            let flags = u8::from_str_radix(line.split_ascii_whitespace().nth(4).expect("six columns"), 16);
            assert_eq!(flags.expect("a number") & IFA_F_TENTATIVE, 0, "{network}: {addresses}");
        }
        assert!(addresses.lines().any(|line| !line.ends_with("lo")), "{network}: {addresses}");
    }
}

fn options_of_the_drivers_are_podmans(home: &Home) {
    let line =
        "run --rm --network slirp4netns:cidr=10.9.8.0/24,mtu=1400 busybox sh -c 'ip addr; cat /sys/class/net/tap0/mtu'";
    let seen = home.ok(line);
    assert!(seen.contains("10.9.8.100/24") && seen.ends_with("1400"), "{seen}");
    home.refuses("run --rm --network slirp4netns:nosuch=1 busybox true");
    home.ok("run --rm --network pasta:-4 busybox true");
    home.ok("run --rm --network pasta:--mtu,1400 busybox sh -c 'grep -qx 1400 /sys/class/net/*/mtu'");
}

fn no_program_is_needed_for_a_network(home: &Home) {
    let path = super::limits::path_without(home, &["slirp4netns", "pasta"]);
    let Some(address) = greeter() else { return };
    for network in ["builtin", "bridge"] {
        let line = format!("run --rm --network {network} busybox sh -c 'nc -w 9 {address} </dev/null'");
        assert_eq!(home.coracle(&line).env("PATH", &path).run().ok(), "hello", "{network}");
    }
    let seen = home.ok(
        "run --rm --network builtin:cidr=10.9.8.0/24,mtu=1400 busybox sh -c 'ip addr; cat /sys/class/net/tap0/mtu'",
    );
    assert!(seen.contains("10.9.8.100/24") && seen.ends_with("1400"), "{seen}");
    home.refuses("run --rm --network builtin:nosuch=1 busybox true");
}

fn the_way_out_is_configured(home: &Home) {
    let conf =
        |word: &str| home.write("containers.conf", format!("[network]\ndefault_rootless_network_cmd = \"{word}\"\n"));
    let run = |command: &str| {
        home.coracle(&format!("run --rm busybox {command}"))
            .env("CONTAINERS_CONF", home.tmp().join("containers.conf"))
            .run()
    };
    conf("vpnkit");
    let line = run("true").fails(125);
    assert!(line.contains("containers.conf") && line.contains("vpnkit"), "{line}");
    conf("builtin");
    let Some(address) = greeter() else { return };
    assert_eq!(run(&format!("sh -c 'nc -w 9 {address} </dev/null'")).ok(), "hello");
}

/// Where somebody on this host greets whoever comes, as words of `nc`; `None` without an address.
fn greeter() -> Option<String> {
    let listener = TcpListener::bind((own_address()?, 0)).ok()?;
    let address = listener.local_addr().ok()?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"hello");
        }
    });
    Some(format!("{} {}", address.ip(), address.port()))
}

fn container_network_is_shared(home: &Home) {
    home.ok("run -d --name server --network none busybox sh -c 'echo served > /index.html; httpd -f -p 8000 -h /'");
    wait_until("it serves", || home.run("exec server wget -qO- http://127.0.0.1:8000/").code() == 0);
    assert_eq!(home.ok("run --rm --network container:server busybox wget -qO- http://127.0.0.1:8000/"), "served");
}

fn hosts_file_is_made(home: &Home) {
    let hosts =
        home.ok("run --rm --hostname me --add-host db:10.1.2.3 --add-host gw:host-gateway busybox cat /etc/hosts");
    let has = |name: &str, address: &str| {
        hosts.lines().any(|line| line.starts_with(address) && line.split_whitespace().any(|word| word == name))
    };
    assert!(has("localhost", "127.0.0.1") && has("db", "10.1.2.3") && hosts.contains("me"), "{hosts}");
    home.fails(125, "run --rm --add-host nocolon busybox true");
    home.fails(125, "run --rm --add-host a:not-an-address busybox true");
    home.write("hosts", "1.2.3.4 mine\n");
    assert_eq!(home.ok("run --rm -v ./hosts:/etc/hosts busybox cat /etc/hosts"), "1.2.3.4 mine");
}

fn resolv_conf_is_made_of_flags(home: &Home) {
    let text =
        home.ok("run --rm --network none --dns 192.0.2.1 --dns-search example.test --dns-option ndots:3 busybox cat /etc/resolv.conf");
    for line in ["nameserver 192.0.2.1", "search example.test", "options ndots:3"] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    home.fails(125, "run --rm --dns not-an-address busybox true");
}

/// Every driver that this machine has.
fn drivers() -> Vec<&'static str> {
    let have = |name: &&str| *name == "builtin" || crate::support::needs::find_program(name).is_some();
    ["builtin", "slirp4netns", "pasta"].into_iter().filter(have).collect()
}

fn fetch(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.contains("200 OK").then_some(answer)
}

fn published_port_answers(home: &Home) {
    for driver in drivers() {
        let port = free_port();
        let script = "echo served > /index.html; httpd -f -p 80 -h /";
        home.ok(&format!("run -d --name {driver} --network {driver} -p 127.0.0.1:{port}:80 busybox sh -c '{script}'"));
        wait_until("the port answers", || fetch(port).is_some_and(|answer| answer.ends_with("served\n")));
        assert_eq!(home.ok(&format!("port {driver}")), format!("80/tcp -> 127.0.0.1:{port}"));
        home.ok(&format!("rm -f -t 0 {driver}"));
    }
}

/// The address this host talks to others with; nothing is sent to find it.
fn own_address() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 123), 9)).ok()?;
    match socket.local_addr().ok()?.ip() {
        std::net::IpAddr::V4(ip) if !ip.is_loopback() => Some(ip),
        _ => None,
    }
}

/// Connects to loopback from another address of this host.
fn connect_from(source: Ipv4Addr, port: u16) -> nix::Result<TcpStream> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
    let client = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(client.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(source, 0)))?;
    connect(client.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)))?;
    Ok(client.into())
}

/// A client on loopback is seen as the gateway, for no packet may come from 127.0.0.1 over a link; so is one that talks
/// to its own address; and with pasta the container has the address of the host. What is left is this.
fn published_port_keeps_the_clients_address(home: &Home) {
    let Some(ip) = own_address() else { return };
    let port = free_port();
    let script = "while :; do nc -l -p 7 -e netstat -tn; done";
    home.coracle(&format!("run -d --network slirp4netns -p {port}:7 busybox sh -c")).arg(script).run().ok();
    let mut answer = String::new();
    wait_until("the container sees the client's address", || {
        answer.clear();
        let Ok(mut stream) = connect_from(ip, port) else { return false };
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.read_to_string(&mut answer).is_ok()
            && answer.lines().any(|line| line.contains("10.0.2.100:7 ") && line.contains(&format!("{ip}:")))
    });
}

fn published_udp_port_answers(home: &Home) {
    for driver in drivers() {
        let port = free_port();
        home.ok(&format!("run -d --name {driver} --network {driver} -p {port}:5/udp busybox sleep 1000"));
        // busybox has no server for UDP: this program is one, in the network namespace of the container.
        let pid = home.inspect(driver, "{{.State.Pid}}");
        let mut command = std::process::Command::new("nsenter");
        command.args(["--preserve-credentials", "-U", "-n", "-t", &pid]).arg(std::env::current_exe().unwrap());
        let mut server = command.args(["--udp-echo", "5"]).spawn().unwrap();
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        wait_until("the port answers", || {
            let mut answer = [0; 16];
            socket.send_to(b"hello", (Ipv4Addr::LOCALHOST, port)).is_ok()
                && socket.recv(&mut answer).is_ok_and(|length| &answer[..length] == b"hello")
        });
        server.kill().unwrap();
        server.wait().unwrap();
        home.ok(&format!("rm -f -t 0 {driver}"));
    }
}

fn published_range_and_random_ports_are_listed(home: &Home) {
    home.ok("run -d --name p -p 80 -p 127.0.0.1::81 busybox sleep 1000");
    let listed = home.ok("port p");
    assert!(listed.lines().any(|line| line.starts_with("80/tcp -> 0.0.0.0:")), "{listed}");
    assert!(listed.lines().any(|line| line.starts_with("81/tcp -> 127.0.0.1:")), "{listed}");
    assert!(home.ok("ps --format {{.Ports}}").contains("->81/tcp"));
}

fn port_in_use_is_refused(home: &Home) {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let line = home.fails(125, &format!("run --rm -p {port}:80 busybox true"));
    assert!(line.contains(&port.to_string()), "{line}");
    assert_eq!(home.ok("ps -aq"), "");
}

fn malformed_ports_are_one_line(home: &Home) {
    for port in ["x", "80:", "70000", "1:2:3:4", "80:80/sctpx", "10-5:10-5", "1-3:1-2", "0"] {
        home.fails(125, &format!("run --rm -p {port} busybox true"));
    }
}

fn port_is_free_after_the_container(home: &Home) {
    let port = free_port();
    for _ in 0..3 {
        home.ok(&format!("run --rm -p 127.0.0.1:{port}:80 busybox true"));
    }
    home.ok(&format!("run -d --name a -p 127.0.0.1:{port}:80 busybox sleep 1000"));
    home.ok("stop -t 0 a");
    home.ok(&format!("run --rm -p 127.0.0.1:{port}:80 busybox true"));
}

fn privileged_ports_are_free_inside(home: &Home) {
    home.ok("run --rm --network none -u 1000 busybox sh -c 'timeout 1 httpd -f -p 80 -h /tmp; test $? = 143'");
    let range = home.ok("run --rm --network none -u 1000 busybox cat /proc/sys/net/ipv4/ping_group_range");
    assert_ne!(range, "1\t0", "nobody may ping");
}

fn unknown_network_is_refused(home: &Home) {
    let line = home.fails(125, "run --rm --network no-such-network busybox true");
    assert!(line.contains("no-such-network"), "{line}");
}
