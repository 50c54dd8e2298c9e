//! What happens when a process that a network needs is killed.

use std::io::{IoSlice, IoSliceMut, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, connect, recvmsg, sendmsg, socket,
};
use nix::unistd::Pid;

use super::lab::{CLIENT, HOST, Lab, cases};
use super::ports::{Flow, run};
use super::service::Service;
use crate::support::home::{Home, entries, wait_until};
use crate::support::reaper;

cases! {
    flows_and_addresses_survive_the_leader,
    the_way_out_comes_back,
    every_leader_has_a_successor,
    a_command_waits_for_the_successor,
    a_killed_forwarder_is_replaced,
    a_killed_supervisor_leaves_no_address_and_no_leader,
}

/// The pid of the leader of this home's network namespace, which says so itself.
pub(super) fn leader(home: &Home) -> Option<Pid> {
    let directory = home.runtime_dir().join("coracle/net");
    let path = entries(&directory).into_iter().find(|path| path.extension().is_some_and(|end| end == "sock"))?;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    connect(socket.as_raw_fd(), &UnixAddr::new(&path).unwrap()).ok()?;
    let hello = [IoSlice::new(b"\"hello\"")];
    sendmsg::<()>(socket.as_raw_fd(), &hello, &[], MsgFlags::MSG_NOSIGNAL, None).ok()?;
    let mut bytes = [0; 256];
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let mut control = nix::cmsg_space!([i32; 1]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let answer = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags).ok()?;
    let pidfd = answer.cmsgs().ok()?.find_map(|one| match one {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    })?;
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{pidfd}")).ok()?;
    nix::unistd::close(pidfd).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok()).map(Pid::from_raw)
}

pub(super) fn kill_leader(home: &Home) -> Pid {
    let killed = leader(home).expect("there is a leader");
    kill(killed, Signal::SIGKILL).unwrap();
    killed
}

/// Waits for somebody who has taken the place of `killed`.
pub(super) fn wait_for_successor(home: &Home, killed: Pid) -> Pid {
    let mut found = None;
    wait_until("there is another leader", || {
        found = leader(home).filter(|pid| *pid != killed);
        found.is_some()
    });
    found.unwrap()
}

/// Something outside is reached from within a container.
pub(super) fn reaches_out(lab: &Lab, name: &str) -> bool {
    let listener = lab.outside(|| TcpListener::bind((CLIENT, 0)).unwrap());
    let port = listener.local_addr().unwrap().port();
    let client = lab.home.coracle(&format!("exec {name} nc -w 3 {CLIENT} {port}")).spawn();
    listener.set_nonblocking(true).unwrap();
    let mut accepted = false;
    let deadline = Instant::now() + Duration::from_secs(4);
    while !accepted && Instant::now() < deadline {
        if let Ok((mut stream, _)) = listener.accept() {
            accepted = stream.write_all(b"from outside\n").is_ok();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    client.wait().stdout() == "from outside\n"
}

/// What a process of ours calls itself.
fn comm(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

fn address(home: &Home, name: &str) -> String {
    home.inspect(name, "{{.NetworkSettings.IPAddress}}")
}

/// One container is reached from another by its address.
fn reaches(home: &Home, from: &str, to: &str) -> bool {
    let line = format!("exec {from} sh -c 'nc -w 3 {} 80 < /dev/null | head -n 1'", address(home, to));
    home.run(&line).stdout().trim().parse::<SocketAddr>().is_ok()
}

fn flows_and_addresses_survive_the_leader(lab: &Lab) {
    let home = &lab.home;
    run(home, "c", "-p 18080:80");
    run(home, "d", "");
    let _service = Service::start(home, "c", 80);
    let before = [address(home, "c"), address(home, "d")];
    let mut flows: Vec<Flow> =
        lab.outside(|| (0..100).map(|_| Flow::open(SocketAddr::new(HOST, 18080)).unwrap()).collect());
    let killed = kill_leader(home);
    flows.iter_mut().for_each(|flow| flow.echo().unwrap());
    lab.outside(|| Flow::open(SocketAddr::new(HOST, 18080)).unwrap());
    assert!(reaches(home, "d", "c"), "between containers no leader is needed");
    wait_for_successor(home, killed);
    flows.iter_mut().for_each(|flow| flow.echo().unwrap());
    assert_eq!(before, [address(home, "c"), address(home, "d")]);
    assert!(home.ok("exec d ip addr show dev eth0").contains(&before[1]));
    assert!(reaches(home, "d", "c"));
    // The successor knows what is given away.
    run(home, "e", "");
    assert!(!before.contains(&address(home, "e")));
    assert!(reaches(home, "e", "c"));
    home.ok("restart -t 0 d");
    assert!(reaches(home, "d", "c"));
}

fn the_way_out_comes_back(lab: &Lab) {
    let home = &lab.home;
    run(home, "c", "");
    assert!(reaches_out(lab, "c"));
    let leader_pid = leader(home).unwrap();
    let way_out = || {
        reaper::descendants(leader_pid.as_raw().cast_unsigned())
            .into_iter()
            .find(|pid| reaper::command_line(*pid).contains("slirp4netns") || comm(*pid) == "coracle-net")
    };
    let killed = way_out().expect("the leader has a way out");
    kill(Pid::from_raw(killed.cast_signed()), Signal::SIGKILL).unwrap();
    wait_until("there is another way out", || way_out().is_some_and(|pid| pid != killed));
    wait_until("it leads out", || reaches_out(lab, "c"));
    assert_eq!(leader(home), Some(leader_pid));
    let killed = kill_leader(home);
    wait_for_successor(home, killed);
    wait_until("the successor's leads out", || reaches_out(lab, "c"));
}

fn every_leader_has_a_successor(lab: &Lab) {
    let home = &lab.home;
    for name in ["a", "b", "c"] {
        run(home, name, "");
    }
    let mut killed = kill_leader(home);
    for _ in 0..3 {
        killed = wait_for_successor(home, killed);
        kill(killed, Signal::SIGKILL).unwrap();
    }
    // One ends with the supervisor that it is a child of; the others have the next.
    let mut last = wait_for_successor(home, killed);
    for name in ["a", "b"] {
        let before = last;
        home.ok(&format!("rm -f -t 0 {name}"));
        wait_until("there is a leader", || {
            leader(home).is_some_and(|pid| reaper::is_alive(pid.as_raw().cast_unsigned()))
        });
        last = leader(home).unwrap_or(before);
    }
    wait_until("the last one leads out", || reaches_out(lab, "c"));
    run(home, "a", "");
    let _service = Service::start(home, "c", 80);
    assert!(reaches(home, "a", "c"));
    home.ok("rm -f -t 0 a c");
    wait_until("nobody is left", || leader(home).is_none());
}

fn a_command_waits_for_the_successor(lab: &Lab) {
    let home = &lab.home;
    run(home, "first", "");
    let _service = Service::start(home, "first", 80);
    for round in 0..5 {
        kill_leader(home);
        // At once, while there is none: never a second namespace.
        run(home, &format!("c{round}"), "");
        let name = format!("c{round}");
        assert!(
            reaches(home, &name, "first"),
            "{name}: {}\nfirst: {}",
            home.ok(&format!("exec {name} sh -c 'ip addr; ip route; cat /proc/net/arp'")),
            home.ok("exec first sh -c 'ip addr; cat /proc/net/arp'")
        );
    }
    let mut all: Vec<String> = (0..5).map(|round| address(home, &format!("c{round}"))).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 5, "no address is given twice");
}

fn a_killed_forwarder_is_replaced(lab: &Lab) {
    let home = &lab.home;
    run(home, "c", "-p 18080:80");
    let _service = Service::start(home, "c", 80);
    let mut flows: Vec<Flow> =
        lab.outside(|| (0..100).map(|_| Flow::open(SocketAddr::new(HOST, 18080)).unwrap()).collect());
    let forwarder = || {
        let below = reaper::descendants(supervisor(home, "c"));
        below.into_iter().find(|pid| comm(*pid) == "coracle-ports")
    };
    kill(Pid::from_raw(forwarder().expect("it has a name").cast_signed()), Signal::SIGKILL).unwrap();
    assert!(flows.iter_mut().all(|flow| flow.echo().is_err()));
    // Connections wait at the listener meanwhile.
    lab.outside(|| {
        let mut flow = Flow::open(SocketAddr::new(HOST, 18080)).unwrap();
        flow.echo().unwrap();
        assert_eq!(flow.seen.ip(), CLIENT);
    });
}

/// The pid of a container's supervisor, which is the parent of its init.
fn supervisor(home: &Home, name: &str) -> u32 {
    let init = home.inspect(name, "{{.State.Pid}}");
    let status = std::fs::read_to_string(format!("/proc/{init}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok()).unwrap()
}

fn a_killed_supervisor_leaves_no_address_and_no_leader(lab: &Lab) {
    let home = &lab.home;
    run(home, "c", "-p 18080:80");
    run(home, "d", "");
    let service = Service::start(home, "d", 80);
    let _inside = Service::start(home, "c", 80);
    let mut flows: Vec<Flow> =
        lab.outside(|| (0..100).map(|_| Flow::open(SocketAddr::new(HOST, 18080)).unwrap()).collect());
    let ip = address(home, "c");
    kill(Pid::from_raw(supervisor(home, "c").cast_signed()), Signal::SIGKILL).unwrap();
    home.wait_for_status("c", "exited");
    wait_until("the flows have ended", || flows.iter_mut().all(|flow| flow.echo().is_err()));
    wait_until("the port is free", || lab.outside(|| TcpStream::connect((HOST, 18080)).is_err()));
    // Nobody else notices, and the port and the address can be had again.
    home.ok("start c");
    assert_eq!(address(home, "c").is_empty(), ip.is_empty());
    assert!(reaches(home, "c", "d"));
    drop(service);
    home.ok("rm -f -t 0 c d");
    wait_until("the leader has ended", || leader(home).is_none());
}
