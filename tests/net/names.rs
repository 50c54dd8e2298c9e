//! Names: those of containers that come and go, and what the host's servers say, as they are at the time.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::egress::serve_names;
use super::lab::{CLIENT, Lab, cases, ip};
use super::ports::run;
use crate::support::home::{Home, wait_until};

cases! {
    the_hosts_servers_are_those_of_the_moment,
    a_dead_server_takes_nothing_with_it,
    no_query_is_lost_while_containers_come_and_go.limit_secs(180),
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

/// This program in a container's network namespace, see [`ask`].
fn asking(home: &Home, container: &str, argument: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--net", "--target", &home.inspect(container, "{{.State.Pid}}")]);
    command.arg(std::env::current_exe().expect("this program has a path")).args(["--ask-names", argument]);
    command
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
        let said = asking(home, "c", "where.example").output().expect("nsenter is there").stdout;
        assert_eq!(
            String::from_utf8_lossy(&said),
            "Some(2)\n",
            "{server}: a failure of the server, while the asker waits"
        );
        let address = home.inspect("d", "{{.NetworkSettings.IPAddress}}");
        assert!(look_up(home, "c", "d.dns.podman").contains(&address), "{server}");
    }
    write("nameserver 192.0.2.7\n");
    wait_until("it is asked again", || look_up(home, "c", "where.example").contains("198.51.100.7"));
}

/// How many queries there are at least.
const QUERIES: u32 = 10_000;

fn no_query_is_lost_while_containers_come_and_go(lab: &Lab) {
    let home = &lab.home;
    run(home, "target", "");
    run(home, "asker", "");
    let address = home.inspect("target", "{{.NetworkSettings.IPAddress}}");
    let mut asker = asking(home, "asker", &format!("target.dns.podman={address}"));
    let mut asker = asker.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("nsenter is there");
    for round in 0..5 {
        let names: Vec<String> = (0..4).map(|number| format!("c{round}{number}")).collect();
        names.iter().for_each(|name| run(home, name, ""));
        home.ok(&format!("rm -f -t 0 {}", names.join(" ")));
    }
    drop(asker.stdin.take());
    let mut said = String::new();
    asker.stdout.take().expect("it is piped").read_to_string(&mut said).expect("it is text");
    assert!(asker.wait().is_ok_and(|status| status.success()));
    assert_eq!(said, "lost 0\n");
}

/// The inner role of this program: asks the default network's server for a name until standard input ends, and as often as
/// it takes; says how many answers did not come, or were others than this address. Without an address it asks once, and
/// says which of RFC 1035's codes came.
pub(super) fn ask(argument: &str) -> ExitCode {
    static IS_OVER: AtomicBool = AtomicBool::new(false);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
    socket.connect(("10.88.0.1", 53)).expect("a route");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    let (name, address) = argument.split_once('=').unwrap_or((argument, ""));
    let question = name.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat());
    let question: Vec<u8> = question.chain([0, 0, 1, 0, 1]).collect();
    let ask = |number: u32| {
        let [high, low] = (number as u16).to_be_bytes();
        let head = [high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        socket.send(&[&head[..], &question].concat()).expect("it is sent");
        let mut answer = vec![0; 512];
        let len = socket.recv(&mut answer).unwrap_or(0);
        answer.truncate(len);
        answer.starts_with(&[high, low]).then_some(answer)
    };
    let Ok(address) = address.parse::<Ipv4Addr>() else {
        println!("{:?}", ask(1).map(|answer| answer[3] & 15));
        return ExitCode::SUCCESS;
    };
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        IS_OVER.store(true, Ordering::SeqCst);
    });
    let (mut asked, mut lost) = (0, 0);
    while asked < QUERIES || !IS_OVER.load(Ordering::SeqCst) {
        asked += 1;
        lost += u32::from(ask(asked).is_none_or(|answer| !answer.ends_with(&address.octets())));
    }
    println!("lost {lost}");
    ExitCode::SUCCESS
}
