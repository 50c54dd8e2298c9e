//! The seam between a container and its way out.
//!
//! ```text
//! prepare (pure)          start                       poll                     on_ready
//! options ──▶ Plan ──▶ helper spawned, Started ──▶ ready_fd, pidfd ──▶ Attachment holds, or the helper's error
//! ```
//! **Runs in:** the supervisor: one thread, the container's base user namespace, the host's network namespace. It
//! starts a driver, lets the init build its rootfs meanwhile, and waits on the ready descriptor in its own loop.
//!
//! The helper of the built-in stack is a fork of the process that starts it.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::builtin::Builtin;
use crate::helper::{self, Helper};
use crate::mode::Mode;
pub use crate::netlink::Address;
use crate::netlink::{Interface, Netlink, NetlinkError};
use crate::pasta::{self, Pasta};
use crate::slirp4netns::{self, Slirp4netns};
use crate::sys;

/// How long a helper may take to make a network: they need milliseconds.
const PATIENCE_MS: u16 = 20_000;

/// Why a network could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// The named program is not installed.
    #[error("network {0}: {0} is not installed")]
    NotInstalled(&'static str),
    /// A system call failed while the helper was being started.
    #[error("network {driver}: {what}: {}", crate::sys::reason(source))]
    System {
        /// The driver.
        driver: &'static str,
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The helper ended, or closed its ready descriptor, before the network was there.
    #[error("network {driver}: {message}")]
    Failed {
        /// The driver.
        driver: &'static str,
        /// The helper's last words.
        message: String,
    },
    /// The addresses could not be read from the container's namespace.
    #[error("network {driver}: cannot read the container's addresses: {message}")]
    Discover {
        /// The driver.
        driver: &'static str,
        /// Why.
        message: String,
    },
}

/// A hardware address; shows `02:42:0a:00:02:64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What a container's network looks like from inside; what `inspect` shows and the forwarder aims at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The device's name.
    pub interface: Option<String>,
    /// The device's hardware address.
    pub mac: Option<MacAddress>,
    /// The container's addresses, IPv4 first.
    pub addresses: Vec<Address>,
    /// The default gateways, at most one of each family.
    pub gateways: Vec<IpAddr>,
    /// Servers the driver answers DNS at.
    pub dns: Vec<IpAddr>,
    /// The largest packet, in bytes.
    pub mtu: Option<u32>,
    /// Where the host answers, as `host.containers.internal`.
    pub host: Option<IpAddr>,
}

impl Attachment {
    /// The first IPv4 address.
    #[must_use]
    pub fn ipv4(&self) -> Option<Address> {
        self.addresses.iter().copied().find(|a| a.ip.is_ipv4())
    }

    /// The first IPv6 address.
    #[must_use]
    pub fn ipv6(&self) -> Option<Address> {
        self.addresses.iter().copied().find(|a| a.ip.is_ipv6())
    }

    /// The gateway of one family.
    #[must_use]
    pub fn gateway(&self, ipv6: bool) -> Option<IpAddr> {
        self.gateways.iter().copied().find(|a| a.is_ipv6() == ipv6)
    }
}

/// One argument of a helper; the numbers of descriptors are known only at the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arg {
    /// As it is.
    Text(OsString),
    /// `/proc/self/fd/N` of the container's network namespace; for a helper that keeps its descriptors.
    NetnsFd,
    /// `/proc/PID/ns/net`; for a helper that closes what it inherits.
    NetnsPath,
    /// Number of the descriptor the helper writes to when the network is there.
    ReadyFd,
    /// Path of the FIFO the helper writes to when the network is there.
    ReadyPath,
    /// Number of the descriptor whose hang-up ends the helper.
    ExitFd,
}

impl From<&str> for Arg {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Arg {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

/// What a driver is about to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The driver's name.
    pub driver: &'static str,
    /// The program.
    pub program: PathBuf,
    /// Its arguments, without its name.
    pub args: Vec<Arg>,
    /// What is known of the outcome; pasta's addresses are not known before it is there.
    pub attachment: Attachment,
    /// Sysctls the namespace must have before [`Driver::start`]: a device takes its settings from them as it is made.
    pub sysctls: &'static [(&'static str, &'static str)],
}

/// Takes a device's IPv6 addresses into use at once. Duplicate detection would hold them back for a second or more, on a
/// link that the helper alone shares with the container.
pub(crate) const SKIP_DUPLICATE_DETECTION: &[(&str, &str)] = &[("net.ipv6.conf.default.accept_dad", "0")];

/// The container's network namespace, as the supervisor sees it.
#[derive(Debug, Clone, Copy)]
pub struct Netns<'a> {
    /// The namespace.
    pub fd: BorrowedFd<'a>,
    /// A process in it, by the number it has in the `/proc` that is mounted here, which may be another pid namespace's.
    pub pid: i32,
    /// A directory of ours to put a FIFO into: the container's runtime directory.
    pub scratch: &'a Path,
}

/// A way out of a network namespace.
pub trait Driver {
    /// Name, as in `--network`.
    fn name(&self) -> &'static str;

    /// Computes what [`Driver::start`] will do. Looks at the program's file, starts nothing.
    ///
    /// # Errors
    /// [`DriverError::NotInstalled`].
    fn prepare(&self) -> Result<Plan, DriverError>;

    /// Starts what was planned and returns at once.
    ///
    /// # Errors
    /// [`DriverError::System`].
    fn start(&self, plan: Plan, netns: Netns<'_>) -> Result<Started, DriverError>;
}

/// A network that is being set up, and then one that is there.
///
/// Dropping it kills the helper; [`Started::stop`] does so and reaps it.
#[derive(Debug)]
pub struct Started {
    driver: &'static str,
    attachment: Attachment,
    netns: OwnedFd,
    must_discover: bool,
    ready: OwnedFd,
    helper: Helper,
}

impl Started {
    /// Readable when [`Started::on_ready`] has something to say.
    #[must_use]
    pub fn ready_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }

    /// Readable when the helper has ended. Before readiness call [`Started::on_ready`] for the reason.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.helper.pidfd()
    }

    /// What is known of the network: everything after `on_ready`, except pasta's addresses (see [`Self::discover`]).
    #[must_use]
    pub fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// Reads the helper's word. Call it when [`Self::ready_fd`] or [`Self::pidfd`] is readable; it does not block.
    ///
    /// # Errors
    /// [`DriverError::Failed`] with what the helper printed.
    pub fn on_ready(&mut self) -> Result<(), DriverError> {
        let mut byte = [0u8; 32];
        match nix::unistd::read(&self.ready, &mut byte) {
            Ok(len) if len > 0 => Ok(()),
            _ => Err(DriverError::Failed { driver: self.driver, message: self.why() }),
        }
    }

    /// Why the helper gave up. Without the device that both need, neither says so.
    fn why(&mut self) -> String {
        let device = "/dev/net/tun";
        match std::fs::File::options().read(true).write(true).open(device) {
            Ok(_) => self.helper.last_words(),
            Err(error) => {
                let errno = error.raw_os_error().map_or(nix::errno::Errno::UnknownErrno, nix::errno::Errno::from_raw);
                format!("cannot open {device}: {} (sudo modprobe tun)", errno.desc().to_lowercase())
            }
        }
    }

    /// Waits for the network in a process that has nothing else to do.
    ///
    /// # Errors
    /// [`DriverError::Failed`].
    pub fn wait_ready(&mut self) -> Result<(), DriverError> {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut fds =
            [PollFd::new(self.ready.as_fd(), PollFlags::POLLIN), PollFd::new(self.helper.pidfd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, PollTimeout::from(PATIENCE_MS)) {
                Err(nix::errno::Errno::EINTR) => {}
                Ok(0) => {
                    let message = format!("not ready after {} seconds", PATIENCE_MS / 1000);
                    return Err(DriverError::Failed { driver: self.driver, message });
                }
                _ => return self.on_ready(),
            }
        }
    }

    /// Fills in what only the namespace can tell: pasta's addresses. Costs a fork, so it belongs off the start path.
    ///
    /// # Errors
    /// [`DriverError::Discover`].
    pub fn discover(&mut self) -> Result<&Attachment, DriverError> {
        if self.must_discover {
            let found = discover(self.netns.as_fd())
                .map_err(|message| DriverError::Discover { driver: self.driver, message })?;
            let known = std::mem::take(&mut self.attachment);
            self.attachment = Attachment { dns: known.dns, host: known.host, ..found };
            self.must_discover = false;
        }
        Ok(&self.attachment)
    }

    /// A network whose other end is a process that we forked.
    pub(crate) fn forked(
        driver: &'static str,
        attachment: Attachment,
        netns: OwnedFd,
        ready: OwnedFd,
        helper: Helper,
    ) -> Self {
        Self { driver, attachment, netns, must_discover: false, ready, helper }
    }

    /// Ends the helper and reaps it.
    pub fn stop(self) {
        self.helper.stop();
    }
}

/// Starts the helper of `plan`. Shared by the drivers that are programs.
pub(crate) fn start_helper(plan: Plan, netns: Netns<'_>, must_discover: bool) -> Result<Started, DriverError> {
    let wrap = |what| move |source| DriverError::System { driver: plan.driver, what, source };
    let own = netns.fd.try_clone_to_owned().map_err(wrap("duplicate the namespace's descriptor"))?;
    let (helper, ready) = helper::spawn(&plan.program, &plan.args, netns)
        .map_err(|(what, source)| DriverError::System { driver: plan.driver, what, source })?;
    Ok(Started { driver: plan.driver, attachment: plan.attachment, netns: own, must_discover, ready, helper })
}

/// What leads out of the networks that leave the choice to us.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum WayOut {
    /// slirp4netns if it is installed, else pasta, else the stack of our own.
    #[default]
    #[serde(rename = "")]
    Auto,
    /// The stack of our own.
    #[serde(rename = "builtin")]
    Builtin,
    /// slirp4netns.
    #[serde(rename = "slirp4netns")]
    Slirp4netns,
    /// pasta.
    #[serde(rename = "pasta")]
    Pasta,
}

/// The driver of a mode; `None` where there is nothing to start (`none`, `host`, a namespace of another's).
#[must_use]
pub fn driver_for(mode: &Mode, way_out: WayOut) -> Option<Box<dyn Driver>> {
    match mode {
        Mode::None | Mode::Host | Mode::Container(_) | Mode::Namespace(_) => None,
        Mode::Default => Some(default_driver(way_out)),
        Mode::Slirp4netns(options) => Some(Box::new(Slirp4netns::new(options.clone()))),
        Mode::Pasta(options) => Some(Box::new(Pasta::new(options.clone()))),
        Mode::Builtin(options) => Some(Box::new(Builtin::new(options.clone()))),
    }
}

/// The driver behind networks that leave the choice to us.
#[must_use]
pub fn default_driver(way_out: WayOut) -> Box<dyn Driver> {
    let is_there = |program| helper::find_program(program).is_some();
    match way_out {
        WayOut::Slirp4netns => Box::new(Slirp4netns::new(slirp4netns::Options::default())),
        WayOut::Pasta => Box::new(Pasta::new(pasta::Options::default())),
        WayOut::Builtin => Box::new(Builtin::default()),
        WayOut::Auto if is_there(slirp4netns::PROGRAM) => default_driver(WayOut::Slirp4netns),
        WayOut::Auto if is_there(pasta::PROGRAM) => default_driver(WayOut::Pasta),
        WayOut::Auto => default_driver(WayOut::Builtin),
    }
}

/// The host's own address towards the outside, without sending a packet; `None` without a default route.
#[must_use]
pub fn outward_address() -> Option<IpAddr> {
    // TEST-NET-1 is routed like any other address and belongs to nobody.
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified() && !ip.is_loopback()).then_some(ip)
}

/// Reads what is configured in a namespace, in a child that joins it: the supervisor could not come back.
fn discover(netns: BorrowedFd<'_>) -> Result<Attachment, String> {
    let (from_child, to_parent) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|e| e.desc().to_lowercase())?;
    match sys::fork().map_err(|e| sys::reason(&e))? {
        sys::Fork::Child => {
            drop(from_child);
            let answer = read_interface(netns).map(|i| i.map(Attachment::from)).map_err(|e| e.to_string());
            let bytes = serde_json::to_vec(&answer).unwrap_or_default();
            let _ = io::Write::write_all(&mut std::fs::File::from(to_parent), &bytes);
            sys::exit_now(0)
        }
        sys::Fork::Parent(child) => {
            drop(to_parent);
            let mut bytes = Vec::new();
            let read = io::Read::read_to_end(&mut std::fs::File::from(from_child), &mut bytes);
            let _ = nix::sys::wait::waitpid(child, None);
            read.map_err(|e| sys::reason(&e))?;
            let answer: Result<Option<Attachment>, String> =
                serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
            answer?.ok_or_else(|| "there is no device besides lo".to_owned())
        }
    }
}

fn read_interface(netns: BorrowedFd<'_>) -> Result<Option<Interface>, NetlinkError> {
    crate::netlink::join(netns)?;
    Netlink::open()?.interface()
}

impl From<Interface> for Attachment {
    fn from(interface: Interface) -> Self {
        let mut addresses = interface.addresses;
        addresses.sort_by_key(|a| a.ip.is_ipv6());
        Self {
            interface: Some(interface.link.name),
            mac: interface.link.mac.map(MacAddress),
            addresses,
            gateways: interface.gateways,
            dns: Vec::new(),
            mtu: Some(interface.link.mtu),
            host: None,
        }
    }
}
