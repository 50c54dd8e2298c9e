//! Namespaces, and processes in them that do as they are told.
//!
//! ```text
//! case: user namespace, uid 0; net namespace of the machine, or an own one that plays the host
//!   └─ container: `--role container`, own net namespace; reads commands from stdin, answers a line each
//! ```

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::UdpSocket;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use net::leader::{Connection, Inside, Leader, WayOut};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};

use crate::roles;

/// Makes this process root of a user namespace, and of a network namespace that plays the host if `host` says so.
///
/// # Errors
/// What is missing for that.
pub(crate) fn enter_userns(host: bool) -> Result<(), String> {
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    let flags = if host { CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET } else { CloneFlags::CLONE_NEWUSER };
    unshare(flags).map_err(|e| format!("user namespaces ({e})"))?;
    fs::write("/proc/self/setgroups", "deny").expect("setgroups can be denied");
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).expect("the own uid can be mapped");
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).expect("the own gid can be mapped");
    if host {
        ip("link set lo up")?;
    }
    Ok(())
}

/// Runs `ip` with words.
pub(crate) fn ip(words: &str) -> Result<String, String> {
    let output = Command::new("ip")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .args(words.split_ascii_whitespace())
        .output()
        .map_err(|_| "ip (iproute2)".to_owned())?;
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Waits until an IPv6 address of this namespace receives: the kernel makes it local a moment after it added it.
pub(crate) fn await_ipv6(address: &str) {
    let start = Instant::now();
    let arrives = || -> std::io::Result<()> {
        let socket = UdpSocket::bind((address, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(10)))?;
        socket.send_to(b"x", socket.local_addr()?)?;
        socket.recv(&mut [0]).map(drop)
    };
    while arrives().is_err() {
        assert!(start.elapsed() < Duration::from_secs(5), "{address} does not come into use");
    }
}

/// A process in a network namespace of its own.
pub(crate) struct Container {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    pub(crate) netns: OwnedFd,
    /// Its number in the `/proc` mounted here: the tests may run in a pid namespace of their own, as a supervisor does.
    pid: i32,
}

impl Container {
    pub(crate) fn start() -> Self {
        let mut child = Command::new("/proc/self/exe")
            .args(["--role", "container"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the test can run itself");
        let commands = child.stdin.take().expect("stdin is a pipe");
        let mut answers = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let mut line = String::new();
        answers.read_line(&mut line).expect("the container answers");
        let pid = line.strip_prefix("ready ").and_then(|pid| pid.trim().parse().ok()).expect("the container is ready");
        let netns = File::open(format!("/proc/{pid}/ns/net")).expect("the namespace can be opened").into();
        Self { child, commands, answers, netns, pid }
    }

    /// Does what its init does before the driver starts.
    pub(crate) fn prepare(&mut self, plan: &net::driver::Plan) {
        for (name, value) in plan.sysctls {
            // An error says that the kernel has no IPv6.
            self.tell(&format!("write /proc/sys/{} {value}", name.replace('.', "/")));
        }
    }

    pub(crate) fn netns(&self) -> net::driver::Netns<'_> {
        net::driver::Netns { fd: self.netns.as_fd(), pid: self.pid, scratch: scratch() }
    }

    /// Tells the container one thing and returns its answer.
    pub(crate) fn tell(&mut self, command: &str) -> String {
        writeln!(self.commands, "{command}").expect("the container listens");
        self.answer()
    }

    /// The container's next line.
    pub(crate) fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the container answers");
        line.trim_end().to_owned()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory for FIFOs, one for each case.
fn scratch() -> &'static std::path::Path {
    static DIR: std::sync::OnceLock<tempfile::TempDir> = std::sync::OnceLock::new();
    DIR.get_or_init(|| tempfile::tempdir().expect("a temporary directory")).path()
}

/// The other ends: processes this test starts with `--role`.
pub(crate) fn run_role(role: &str, args: &[String]) -> ExitCode {
    if let ("leader" | "lonely-leader", [socket]) = (role, args) {
        return lead(socket.as_ref(), role == "lonely-leader");
    }
    assert_eq!(role, "container");
    unshare(CloneFlags::CLONE_NEWNET).expect("root of a user namespace makes network namespaces");
    ip("link set lo up").expect("lo comes up");
    fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0").expect("sysctls can be written");
    println!("ready {}", fs::read_link("/proc/self").expect("/proc is mounted").display());
    for line in std::io::stdin().lines() {
        let line = line.expect("commands are text");
        println!("{}", roles::obey(&line));
    }
    ExitCode::SUCCESS
}

/// Leads a network namespace of its own until nobody is connected; a lonely one was started by somebody who has gone.
fn lead(socket: &Path, is_lonely: bool) -> ExitCode {
    let own = || File::open("/proc/self/ns/net").expect("the namespace can be opened");
    let host = own();
    unshare(CloneFlags::CLONE_NEWNET).expect("root of a user namespace makes network namespaces");
    let inside = Inside::open(&[]).expect("the namespace is made ready");
    // Only here can one go back: the namespace that plays the host's belongs to this user namespace.
    net::netlink::join(host.as_fd()).expect("back into the host's");
    let listener = socket_at(socket);
    let leader = Leader::new(listener, inside, WayOut::default(), None);
    leader.expect("it is ready").run(|has_served| (has_served || is_lonely).then_some(())).expect("it serves");
    ExitCode::SUCCESS
}

fn socket_at(path: &Path) -> OwnedFd {
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    bind(listener.as_raw_fd(), &UnixAddr::new(path).expect("a short path")).expect("nobody has it");
    listen(&listener, Backlog::MAXCONN).expect("it listens");
    listener
}

/// A process that leads a network namespace.
pub(crate) struct Leading {
    pub(crate) child: Child,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Leading {
    pub(crate) fn start() -> Self {
        Self::start_as("leader")
    }

    /// One whose starter has gone before it connected.
    pub(crate) fn start_lonely() -> Self {
        Self::start_as("lonely-leader")
    }

    fn start_as(role: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("leader.sock");
        let child = Command::new("/proc/self/exe").args(["--role", role]).arg(&path).spawn();
        Self { child: child.expect("the test can run itself"), path, _dir: dir }
    }

    /// Connects, as soon as it listens.
    pub(crate) fn connect(&self) -> Connection {
        let start = Instant::now();
        loop {
            let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
            if connect(fd.as_raw_fd(), &UnixAddr::new(&self.path).expect("a short path")).is_ok() {
                return Connection::over(fd);
            }
            assert!(start.elapsed() < Duration::from_secs(10), "the leader does not listen");
            std::thread::yield_now();
        }
    }
}
