//! `run`: systemd in the container, the service manager round it, descriptors and sockets that are passed on.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::support::home::wait_until;
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(systemd_finds_what_it_needs),
    test!(systemd_mode_goes_by_the_command_unless_told),
    test!(descriptors_are_passed_on_by_number),
    test!(descriptors_that_are_not_there_are_refused),
    test!(sockets_of_socket_activation_reach_the_program),
    test!(published_ports_are_taken_from_the_service_manager),
    test!(containers_know_the_unit_that_they_belong_to),
    test!(readiness_of_the_program_is_passed_on),
    test!(readiness_is_told_by_the_supervisor_on_demand),
    test!(readiness_comes_with_health_on_demand),
];

fn systemd_finds_what_it_needs(home: &Home) {
    let show = "for d in /run /run/lock /tmp /var/log/journal; do grep -c \" $d tmpfs rw\" /proc/mounts; done; \
                grep -c \"/sys/fs/cgroup cgroup2* rw\" /proc/mounts; test -e /run/.containerenv && echo env; \
                echo ${#container_uuid}";
    let text = home.ok(&format!("run --rm --systemd=always busybox sh -c '{show}'"));
    assert_eq!(text.lines().collect::<Vec<_>>(), ["1", "1", "1", "1", "1", "env", "32"]);
    let text = home.ok("run --rm --systemd=always --shm-size-systemd 1m -v /:/tmp:ro busybox sh -c 'df /run /tmp'");
    assert!(text.lines().any(|line| line.contains(" 1024 ") && line.ends_with("/run")), "{text}");
    assert!(!text.contains(" 1024 ") || !text.lines().any(|line| line.contains(" 1024 ") && line.ends_with("/tmp")));
}

fn systemd_mode_goes_by_the_command_unless_told(home: &Home) {
    let of = |options: &str, command: &str| {
        home.ok(&format!("create --name c {options} busybox {command}"));
        let text = home.inspect("c", "{{.Config.SystemdMode}} {{.Config.StopSignal}}");
        home.ok("rm c");
        text
    };
    assert_eq!(of("", "/sbin/init"), "true SIGRTMIN+3");
    assert_eq!(of("", "/lib/systemd/systemd --user"), "true SIGRTMIN+3");
    assert_eq!(of("", "sleep 1"), "false SIGTERM");
    assert_eq!(of("--systemd=false", "/sbin/init"), "false SIGTERM");
    assert_eq!(of("--systemd=always --stop-signal TERM", "sleep 1"), "true SIGTERM");
    home.fails(125, "create --systemd=perhaps busybox true");
}

fn descriptors_are_passed_on_by_number(home: &Home) {
    let (three, four) = (home.write("three", "three\n"), home.write("nine", "nine\n"));
    let opened = format!("sh -c 'exec 3<{} 9<{} 7</; exec \"$@\"' sh", three.display(), four.display());
    let show = "sh -c 'cat <&3; cat <&9; test ! -e /proc/self/fd/7 && echo no 7'";
    let text = home.coracle(&format!("run --rm --preserve-fds 1 --preserve-fd 9 busybox {show}"));
    assert_eq!(text.under(&opened).run().ok(), "three\nnine\nno 7");
    let text = home.coracle(&format!("run --rm --init --preserve-fd 3,9 busybox {show}"));
    assert_eq!(text.under(&opened).run().ok(), "three\nnine\nno 7");
    home.ok("run -d --name c busybox sleep 1000");
    let text = home.coracle(&format!("exec --preserve-fds 1 --preserve-fd 9 c {show}"));
    assert_eq!(text.under(&opened).run().ok(), "three\nnine\nno 7");
    // Whoever waits for the last of them to be closed waits for the program alone.
    let pipe = "sh -c 'exec 3>&1 >/dev/null; \"$@\"' sh";
    home.coracle("run -d --name d --preserve-fds 1 busybox sh -c 'exec 3>&-; sleep 1000'").under(pipe).run().ok();
    home.ok("rm -f -t 0 c d");
}

fn descriptors_that_are_not_there_are_refused(home: &Home) {
    for (options, named) in [
        ("run --rm --preserve-fds 1 busybox true", "descriptor 3 "),
        ("run --rm --preserve-fds 40 busybox true", "descriptor 3 "),
        ("run --rm --preserve-fd 17 busybox true", "descriptor 17 "),
        ("run --rm --preserve-fd 1 busybox true", "descriptor 1 "),
    ] {
        let line = home.fails(125, options);
        assert!(line.contains(named) && line.contains("is not available"), "{line}");
    }
    home.fails(125, "run --rm --preserve-fd x busybox true");
}

fn sockets_of_socket_activation_reach_the_program(home: &Home) {
    let file = home.write("socket", "it\n");
    // What systemd does: the descriptors from 3 upward, and the number of the process that they are for.
    let activated = |pid: &str| {
        format!("sh -c 'exec 3<{}; LISTEN_FDS=1 LISTEN_FDNAMES=web LISTEN_PID={pid} exec \"$@\"' sh", file.display())
    };
    let show = "sh -c 'echo $LISTEN_FDS $LISTEN_FDNAMES; test \"$LISTEN_PID\" = $$ && cat <&3'";
    for options in ["", "--init"] {
        let run = home.coracle(&format!("run --rm {options} busybox {show}")).under(&activated("$$"));
        assert_eq!(run.run().ok(), "1 web\nit", "{options}");
    }
    let other = home.coracle("run --rm busybox sh -c 'echo [$LISTEN_FDS]; ls /proc/self/fd'").under(&activated("1"));
    let text = other.run().ok();
    assert!(text.starts_with("[]\n0\n1\n2\n3") && text.lines().count() < 6, "meant for another process: {text}");
}

fn published_ports_are_taken_from_the_service_manager(home: &Home) {
    let listeners = ["127.0.0.1:0", "127.0.0.1:0"].map(|address| TcpListener::bind(address).unwrap());
    let [first, second] = listeners.each_ref().map(|listener| {
        nix::fcntl::fcntl(listener, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
        (listener.as_raw_fd(), listener.local_addr().unwrap().port())
    });
    let activated = |count: u32| {
        format!("sh -c 'exec 3<&{} 4<&{}; LISTEN_FDS={count} LISTEN_PID=$$ exec \"$@\"' sh", first.0, second.0)
    };
    // Nobody else could bind it: the test does.
    let serve = "busybox sh -c 'echo [$LISTEN_FDS] >/index.html; sleep 1; exec httpd -f -p 80 -h /'";
    let run = home.coracle(&format!("run -d --name c -p {}:80 {serve}", first.1));
    run.under(&activated(1)).run().ok();
    assert_eq!(home.ok("port c"), format!("80/tcp -> 127.0.0.1:{}", first.1));
    let answer = || {
        let mut text = String::new();
        let mut client = TcpStream::connect(("127.0.0.1", first.1)).unwrap();
        client.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(90))).unwrap();
        client.read_to_string(&mut text).unwrap();
        text
    };
    // The first client is served, though it came before the program listened; that has no socket of its own.
    assert!(answer().ends_with("[]\n"));
    home.ok("rm -f -t 0 c");
    let both = home.coracle(&format!("run --rm -p {}:80 busybox true", first.1)).under(&activated(2)).run();
    assert!(both.fails(125).contains("LISTEN_FDS=2: 1 of the sockets serve published ports"), "{}", both.stderr());
    let two = home.coracle(&format!("run -d --name c -p {}:80 -p {}:81 {serve}", first.1, second.1));
    two.under(&activated(2)).run().ok();
    assert_eq!(home.ok("port c").lines().count(), 2);
    home.ok("rm -f -t 0 c");
}

fn containers_know_the_unit_that_they_belong_to(home: &Home) {
    let create = home
        .coracle("create --name c --cidfile id busybox true")
        .env("PODMAN_SYSTEMD_UNIT", "c.service")
        .dir(&home.tmp());
    create.run().ok();
    assert_eq!(home.inspect("c", "{{.Config.Labels.PODMAN_SYSTEMD_UNIT}}"), "c.service");
    // What the unit's ExecStopPost= does must not stand in the way of its next start.
    let file = home.tmp().join("id");
    home.coracle("rm -f -i --cidfile").arg(&file).run().ok();
    assert!(!file.exists());
    std::fs::write(&file, "0123456789abcdef").unwrap();
    home.coracle("rm -f -i --cidfile").arg(&file).run().exits(0);
    assert!(!file.exists(), "what names nobody goes, too");
}

/// A service manager's end of `NOTIFY_SOCKET`.
struct Manager(UnixDatagram, std::path::PathBuf);

impl Manager {
    fn listen(home: &Home) -> Self {
        let path = home.tmp().join("n");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self(socket, path)
    }

    fn next(&self) -> String {
        let mut bytes = [0; 512];
        let length = self.0.recv(&mut bytes).expect("it is told something");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }
}

fn readiness_of_the_program_is_passed_on(home: &Home) {
    let manager = Manager::listen(home);
    let run = home.coracle("run -d --name c busybox sh -c 'echo $NOTIFY_SOCKET; exec sleep 1000'");
    run.env("NOTIFY_SOCKET", &manager.1).run().ok();
    let supervisor = home.inspect("c", "{{.State.ConmonPid}}");
    assert_eq!(manager.next(), format!("MAINPID={supervisor}"));
    wait_until("the program says where", || home.run("logs c").stdout().contains("/run/notify/notify.sock"));
    // From outside, through the container's own view of its files.
    let inside = format!("/proc/{}/root/run/notify/notify.sock", home.inspect("c", "{{.State.Pid}}"));
    let program = UnixDatagram::unbound().unwrap();
    program.send_to(b"STATUS=warm\nMAINPID=7\nREADY=1", inside).unwrap();
    assert_eq!(manager.next(), "STATUS=warm\nREADY=1");
    assert_eq!(home.ok("exec c sh -c 'echo [$NOTIFY_SOCKET]'"), "[]");
    home.ok("rm -f -t 0 c");
    let quiet = home.coracle("run --rm --sdnotify=ignore busybox sh -c 'echo [$NOTIFY_SOCKET]'");
    assert_eq!(quiet.env("NOTIFY_SOCKET", &manager.1).run().ok(), "[]");
}

fn readiness_is_told_by_the_supervisor_on_demand(home: &Home) {
    let manager = Manager::listen(home);
    home.ok("create --name c --sdnotify=conmon busybox sleep 1000");
    assert_eq!(home.inspect("c", "{{.Config.sdNotifyMode}}"), "conmon");
    home.coracle("start c").env("NOTIFY_SOCKET", &manager.1).run().ok();
    let supervisor = home.inspect("c", "{{.State.ConmonPid}}");
    assert_eq!(manager.next(), format!("MAINPID={supervisor}\nREADY=1"));
    home.ok("rm -f -t 0 c");
}

fn readiness_comes_with_health_on_demand(home: &Home) {
    let manager = Manager::listen(home);
    let line = home.fails(125, "run --rm --sdnotify=healthy busybox true");
    assert!(line.contains("health"), "{line}");
    let options = "--sdnotify=healthy --health-cmd 'test -e /ready' --health-interval 1s";
    let run = home.coracle(&format!("run -d --name c {options} busybox sleep 1000"));
    run.env("NOTIFY_SOCKET", &manager.1).run().ok();
    assert!(manager.next().starts_with("MAINPID="));
    home.ok("exec c touch /ready");
    assert_eq!(manager.next(), "READY=1");
    home.ok("rm -f -t 0 c");
}
