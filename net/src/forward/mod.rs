//! Published ports: listeners in the host's namespace, connections into the container's, the client's address kept.
//!
//! ```text
//!  client 192.0.2.7:5555 ──▶ listener 0.0.0.0:8080         host namespace; bound by the supervisor, kept over restarts
//!                                 │ accept, splice
//!         socket bound to 192.0.2.7:5555 (transparent) ──▶ 10.0.2.100:80    container's namespace, over its `lo`
//! ```
//! A socket belongs to the namespace it was made in. So one process that has joined the container's namespace serves
//! both: its listeners and what they accept stay the host's, the sockets it makes are the container's.
//!
//! The container's answers to a foreign address would leave by its default route; `route` brings them back.
//!
//! # Which address the container sees
//! | client | IPv4 service | IPv6 service |
//! |---|---|---|
//! | from outside | its address and port | its address and port |
//! | of this host: loopback, or the very address it connects to | the gateway, any port | the gateway, any port |
//! | IPv6, where the container has none or the service refuses | the IPv4 gateway, any port | |
//!
//! That is what docker's bridge shows. 127.0.0.1 never appears as a client, because services trust it.
//!
//! **Runs in:** [`Listeners::bind`] and [`start`]: the supervisor. The rest: role `PortForwarder`, forked from it, one
//! thread, its user and pid namespace, the container's network namespace.

mod held;

mod listen;

mod holder;

mod route;

mod address;

pub(crate) mod slab;

mod pipe;

mod tcp;

mod udp;

mod serve;

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use nix::sys::time::TimeVal;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::pipe2;

pub use held::Held;
pub use holder::Holder;
pub use listen::{Listeners, PublishError};
pub(crate) use serve::raise_descriptor_limit;

use serde::{Deserialize, Serialize};

use crate::driver::Attachment;
use crate::leader::message;
use crate::ports::PortMapping;
use crate::sys;

/// Why published ports are not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForwardError {
    /// The process could not be made.
    #[error("start the port forwarder: {what}: {}", sys::reason(source))]
    Start {
        /// The failed step.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The process could not set itself up.
    #[error("port forwarder: {0}")]
    Failed(String),
}

/// Where a container answers, and as whom the host comes to it. What is `None` is looked up in the namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Target {
    /// The container's IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// The container's IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Source of the host's own IPv4 clients.
    pub gateway4: Option<Ipv4Addr>,
    /// Source of the host's own IPv6 clients.
    pub gateway6: Option<Ipv6Addr>,
}

impl From<&Attachment> for Target {
    fn from(attachment: &Attachment) -> Self {
        let mut target = Self::default();
        for ip in attachment.addresses.iter().map(|a| a.ip) {
            match ip {
                std::net::IpAddr::V4(v4) => target.ipv4 = target.ipv4.or(Some(v4)),
                std::net::IpAddr::V6(v6) => target.ipv6 = target.ipv6.or(Some(v6)),
            }
        }
        for ip in &attachment.gateways {
            match ip {
                std::net::IpAddr::V4(v4) => target.gateway4 = target.gateway4.or(Some(*v4)),
                std::net::IpAddr::V6(v6) => target.gateway6 = target.gateway6.or(Some(*v6)),
            }
        }
        target
    }
}

/// The running forwarder process. Dropping it kills the process; the listeners stay.
#[derive(Debug)]
pub struct Forwarder {
    pidfd: OwnedFd,
    /// How it hears of ports that come and go.
    control: OwnedFd,
    /// What it serves.
    served: Vec<PortMapping>,
    status: File,
    reaped: bool,
}

/// Forks the process that serves `listeners` in the namespace `netns`.
///
/// Nobody needs to wait for it: connections queue at the listeners from the moment they are bound.
///
/// # Errors
/// [`ForwardError::Start`]. What fails in the new process is told by [`Forwarder::on_status`].
pub fn start(listeners: &Listeners, netns: BorrowedFd<'_>, target: Target) -> Result<Forwarder, ForwardError> {
    let failed = |what| move |source| ForwardError::Start { what, source };
    let (status_read, status_write) = pipe2(OFlag::O_CLOEXEC).map_err(|e| failed("pipe")(e.into()))?;
    let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
    let (control, theirs) = pair.map_err(|e| failed("socketpair")(e.into()))?;
    match sys::fork().map_err(failed("fork"))? {
        sys::Fork::Child => {
            sys::die_with_parent();
            let mut status = File::from(status_write);
            if let Err(message) = become_forwarder(listeners, netns, target, &mut status, &theirs) {
                let _ = status.write_all(message.as_bytes());
            }
            sys::exit_now(1)
        }
        sys::Fork::Parent(pid) => {
            let pidfd = sys::pidfd_open(pid).map_err(failed("pidfd_open"))?;
            // One that is stopped shall not stop its supervisor.
            setsockopt(&control, sockopt::ReceiveTimeout, &TimeVal::new(1, 0))
                .map_err(|e| failed("setsockopt")(e.into()))?;
            let status = File::from(status_read);
            Ok(Forwarder { pidfd, control, served: listeners.mappings(), status, reaped: false })
        }
    }
}

impl Forwarder {
    /// Readable when the process has ended, which it does not by itself.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Readable when [`Forwarder::on_status`] has something to say, once.
    #[must_use]
    pub fn status_fd(&self) -> BorrowedFd<'_> {
        self.status.as_fd()
    }

    /// Reads whether the process serves. Blocks until it knows.
    ///
    /// # Errors
    /// [`ForwardError::Failed`] with the failed step.
    pub fn on_status(&mut self) -> Result<(), ForwardError> {
        let mut text = String::new();
        match (&self.status).take(4096).read_to_string(&mut text) {
            Ok(_) if text == READY => Ok(()),
            Ok(_) if text.is_empty() => Err(ForwardError::Failed("ended during its set-up".to_owned())),
            Ok(_) => Err(ForwardError::Failed(text)),
            Err(source) => Err(ForwardError::Start { what: "read its status", source }),
        }
    }

    /// Tells the process which ports came and went since it was started, or told. Connections of those that went stay.
    ///
    /// # Errors
    /// Those of sendmsg(2).
    pub fn update(&mut self, listeners: &Listeners) -> Result<(), Errno> {
        let now = listeners.mappings();
        for gone in self.served.iter().filter(|mapping| !now.contains(mapping)) {
            message::send(self.control.as_fd(), &Change::Remove(*gone), &[])?;
            // Whoever asked for it may want the port at once.
            message::receive::<()>(self.control.as_fd())?;
        }
        for new in listeners.iter().filter(|listener| !self.served.contains(&listener.mapping)) {
            message::send(self.control.as_fd(), &Change::Add(new.mapping), &[new.socket.as_fd()])?;
        }
        self.served = now;
        Ok(())
    }

    /// Ends the process, and with it every connection; the listeners stay bound.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if !std::mem::replace(&mut self.reaped, true) {
            let _ = sys::pidfd_signal(self.pidfd.as_fd(), libc::SIGKILL);
            let _ = waitid(Id::PIDFd(self.pidfd.as_fd()), WaitPidFlag::WEXITED);
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the process is told.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Change {
    /// Serve this, too; the socket comes with it.
    Add(PortMapping),
    /// Serve this no more.
    Remove(PortMapping),
}

/// What the process writes to its status pipe when it serves; anything else is an error.
const READY: &str = "ready";

/// Sets the forked process up and serves; returns only on failure.
fn become_forwarder(
    listeners: &Listeners,
    netns: BorrowedFd<'_>,
    target: Target,
    status: &mut File,
    control: &OwnedFd,
) -> Result<(), String> {
    let mut kept: Vec<RawFd> = listeners.iter().map(|l| l.socket.as_raw_fd()).collect();
    kept.extend([netns.as_raw_fd(), status.as_raw_fd(), control.as_raw_fd()]);
    crate::process::become_role(c"coracle-ports", &mut kept)?;

    crate::netlink::join(netns).map_err(|e| e.to_string())?;
    sys::close_range(netns.as_raw_fd(), netns.as_raw_fd());
    let mut server = serve::Server::new(listeners, control.as_fd(), target)?;
    let told = status.write_all(READY.as_bytes());
    // The reader waits for the end of the text; the number is not used again in this process.
    sys::close_range(status.as_raw_fd(), status.as_raw_fd());
    told.map_err(|e| sys::reason(&e))?;
    server.run().map_err(|e| e.to_string())
}
