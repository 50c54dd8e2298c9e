//! Names that are no container's: what the host's servers say, as they are at the time.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::process::Command;

use super::egress::serve_names;
use super::lab::{CLIENT, Lab, cases, ip};
use super::ports::run;
use crate::support::home::{Home, wait_until};

cases! {
    the_hosts_servers_are_those_of_the_moment,
    a_dead_server_takes_nothing_with_it,
}

/// More addresses outside.
const SECOND: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 8);
const SILENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

/// Puts a file of ours in the place of the host's list of servers; returns how to write it.
fn resolv_conf(home: &Home) -> impl Fn(&str) {
    let file = home.write("resolv.conf", "");
    let place = std::fs::canonicalize("/etc/resolv.conf").expect("the host has a file");
    let status = Command::new("mount").arg("--bind").args([&file, &place]).status();
    assert!(status.is_ok_and(|status| status.success()), "mounts of the lab are ours");
    move |text| std::fs::write(&file, text).expect("the file is ours")
}

/// Two servers outside that do not agree, and one that says nothing.
fn servers(lab: &Lab) -> UdpSocket {
    let socket = |ip: IpAddr| UdpSocket::bind((ip, 53)).expect("the namespace is ours");
    let [first, second, silent] = lab.outside(|| {
        ip(&format!("address add {SECOND}/24 dev eth0"));
        ip(&format!("address add {SILENT}/24 dev eth0"));
        [CLIENT, SECOND.into(), SILENT.into()].map(socket)
    });
    serve_names(first, |name| (name == "where.example").then_some(Ipv4Addr::new(198, 51, 100, 7)));
    serve_names(second, |name| (name == "where.example").then_some(Ipv4Addr::new(198, 51, 100, 8)));
    silent
}

fn look_up(home: &Home, container: &str, name: &str) -> String {
    let finished = home.run(&format!("exec {container} nslookup -type=a {name}"));
    format!("{}{}", finished.stdout(), finished.stderr())
}

fn the_hosts_servers_are_those_of_the_moment(lab: &Lab) {
    let home = &lab.home;
    let write = resolv_conf(home);
    let _silent = servers(lab);
    write("nameserver 192.0.2.7\n");
    home.ok("network create other");
    run(home, "c", "");
    run(home, "d", "--network other");
    for (text, found) in [
        ("nameserver 192.0.2.7\n", "198.51.100.7"),
        ("search example\nnameserver 192.0.2.8\noptions edns0 timeout:1\n", "198.51.100.8"),
        ("nameserver 192.0.2.7\nnameserver 192.0.2.8\n", "198.51.100.7"),
        // The first says nothing, and the second is asked.
        ("nameserver 192.0.2.9\nnameserver 192.0.2.8\n", "198.51.100.8"),
    ] {
        write(text);
        for name in ["c", "d"] {
            let said = look_up(home, name, "where.example");
            assert!(said.contains(found), "{name}: {text}: {said}");
        }
    }
}

fn a_dead_server_takes_nothing_with_it(lab: &Lab) {
    let home = &lab.home;
    let write = resolv_conf(home);
    let _silent = servers(lab);
    write("nameserver 192.0.2.9\n");
    run(home, "c", "");
    run(home, "d", "");
    // One that is there and says nothing, and one that is not there.
    for server in ["192.0.2.9", "192.0.2.99"] {
        write(&format!("nameserver {server}\n"));
        let said = look_up(home, "c", "where.example");
        assert!(said.contains("SERVFAIL"), "{server}: {said}");
        let address = home.inspect("d", "{{.NetworkSettings.IPAddress}}");
        assert!(look_up(home, "c", "d.dns.podman").contains(&address), "{server}");
    }
    write("nameserver 192.0.2.7\n");
    wait_until("it is asked again", || look_up(home, "c", "where.example").contains("198.51.100.7"));
}
