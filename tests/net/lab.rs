//! The lab: a host with an address that others reach, and somebody who does.
//!
//! ```text
//! runner ── reaper ── body ── unshare(1) ── this program again, --lab NAME: a user namespace with the same ids
//!
//!   network namespace "host"                     network namespace "outside"
//!   coracle runs here      192.0.2.2, 2001:db8::2 ──── 192.0.2.7, 2001:db8::7    Lab::outside
//! ```
//! Both belong to the user namespace, so an ordinary user may make them; the ids in it are those of the user, so coracle
//! finds what it finds everywhere.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::panic::catch_unwind;
use std::process::{Child, Command, ExitCode, Stdio};

use nix::sched::{CloneFlags, setns};

use crate::support::command::binary;
use crate::support::home::Home;
use crate::support::needs;

/// The addresses of the host.
pub(super) const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
pub(super) const HOST6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2));

/// The addresses of somebody outside.
pub(super) const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
pub(super) const CLIENT6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7));

/// A case, by the name of its test.
pub(super) type Case = (&'static str, fn(&Lab));

/// The lab of one test.
pub(super) struct Lab {
    pub(super) home: Home,
    outside: File,
    keeper: Child,
}

/// Makes the list of a file's tests for the runner, and that of its cases for the process in the lab.
macro_rules! cases {
    ($($name:ident $(.$method:ident($($argument:expr),*))*),* $(,)?) => {
        pub(crate) const TESTS: &[$crate::support::framework::Test] = &[$({
            fn outside(home: &$crate::support::home::Home) {
                $crate::net::lab::enter(home, concat!(module_path!(), "::", stringify!($name)));
            }
            $crate::support::framework::Test::new(concat!(module_path!(), "::", stringify!($name)), outside)
                .needs(&[$crate::support::needs::Need::Lab, $crate::support::needs::Need::Slirp4netns])
                $(.$method($($argument),*))*
        }),*];
        pub(super) const CASES: &[$crate::net::lab::Case] =
            &[$((concat!(module_path!(), "::", stringify!($name)), $name)),*];
    };
}
pub(super) use cases;

/// Runs a case in a lab.
pub(super) fn enter(home: &Home, name: &str) {
    let mut command = needs::lab();
    command.arg(std::env::current_exe().expect("this program has a path")).args(["--lab", name]);
    let status = command.env("CORACLE_BIN", binary()).env("TMPDIR", home.tmp()).status();
    assert!(status.as_ref().is_ok_and(std::process::ExitStatus::success), "{name}: {status:?}");
}

/// The inner role of this program.
pub(super) fn inside(name: &str, files: &[&[Case]]) -> ExitCode {
    let Some((_, body)) = files.iter().flat_map(|cases| cases.iter()).find(|case| case.0 == name) else {
        eprintln!("there is no case {name}");
        return ExitCode::FAILURE;
    };
    let lab = Lab::build();
    let run = catch_unwind(std::panic::AssertUnwindSafe(|| body(&lab)));
    // What runs in the lab ends with the test, whatever came of it.
    let _ = lab.home.run("rm --all --force --time 0");
    drop(lab);
    if run.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Lab {
    fn build() -> Self {
        let mut keeper = Command::new("unshare");
        keeper.args(["--net", "sh", "-c", "echo ready; exec sleep 1000"]).stdout(Stdio::piped());
        let mut keeper = keeper.spawn().expect("unshare is there");
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().expect("it is piped")).read_line(&mut line).expect("a line of its");
        let outside = File::open(format!("/proc/{}/ns/net", keeper.id())).expect("it is ours");
        let lab = Self { home: Home::from_env(), outside, keeper };
        let pid = lab.keeper.id();
        ip("link set lo up");
        ip(&format!("link add out0 type veth peer name eth0 netns {pid}"));
        for (device, addresses) in [("out0", [HOST, HOST6]), ("eth0", [CLIENT, CLIENT6])] {
            let configure = || {
                ip(&format!("address add {}/24 dev {device}", addresses[0]));
                ip(&format!("address add {}/64 dev {device} nodad", addresses[1]));
                ip(&format!("link set {device} up"));
            };
            if device == "out0" {
                configure();
            } else {
                lab.outside(|| {
                    ip("link set lo up");
                    configure();
                });
            }
        }
        ip(&format!("route add default via {CLIENT}"));
        ip(&format!("route add default via {CLIENT6}"));
        lab
    }

    /// Does something as somebody outside: the sockets that it opens are there.
    #[allow(clippy::disallowed_methods, reason = "the fence is for what we ship")]
    pub(super) fn outside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let enter = || {
            setns(self.outside.as_fd(), CloneFlags::CLONE_NEWNET).expect("the namespace is ours");
            work()
        };
        // A thread of its own: nobody comes back.
        std::thread::scope(|scope| scope.spawn(enter).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

pub(super) fn ip(line: &str) {
    let program = needs::find_program("ip").expect("the need was checked");
    let output = Command::new(program).args(line.split(' ')).output().expect("it runs");
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
}
