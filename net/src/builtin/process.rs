//! The stack's process.
//!
//! ```text
//! supervisor ── fork ──▶ stack (host's network) ── fork ──▶ joins the container's network: device, addresses, routes
//!     ▲                     ▲                                   │
//!     └───── ready ─────────┼───────── device (SCM_RIGHTS) ─────┘ ends
//!                           └─ sandbox, then serves
//! ```
//! Whoever has joined the container's network cannot come back, and a device works from wherever its descriptor is: so
//! the stack itself never leaves the host's network, which its sockets belong to.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Write as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
};
use nix::sys::wait::waitpid;
use nix::unistd::pipe2;

use super::INTERFACE;
use super::address::Addresses;
use super::sandbox;
use super::stack::Stack;
use super::wire::Wire;
use crate::driver::Attachment;
use crate::helper::Helper;
use crate::netlink::{self, Address, Netlink, NetlinkError, Route};
use crate::process::{self, step};
use crate::sys;

/// More flows than this are not served, whatever the limit.
const MOST_DESCRIPTORS: u64 = 16_384;

/// What is to be set up.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub(super) attachment: Attachment,
    pub(super) addresses: Addresses,
    pub(super) mtu: u16,
}

/// Starts the process; returns it and the descriptor that becomes readable when it serves.
pub(super) fn spawn(setup: &Setup, netns: BorrowedFd<'_>) -> Result<(Helper, OwnedFd), (&'static str, std::io::Error)> {
    let failed = |what| move |errno: nix::errno::Errno| (what, std::io::Error::from(errno));
    let output = memfd_create(c"helper-output", MFdFlags::MFD_CLOEXEC).map_err(failed("memfd_create"))?;
    let (ready_read, ready_write) = pipe2(OFlag::O_CLOEXEC).map_err(failed("pipe"))?;
    match sys::fork().map_err(|source| ("fork", source))? {
        sys::Fork::Child => {
            sys::die_with_parent();
            if let Err(message) = become_stack(setup, netns, &output, ready_write) {
                let _ = File::from(output).write_all(message.as_bytes());
            }
            sys::exit_now(1)
        }
        sys::Fork::Parent(pid) => {
            let pidfd = sys::pidfd_open(pid).map_err(|source| ("pidfd_open", source))?;
            Ok((Helper::forked(pidfd, File::from(output)), ready_read))
        }
    }
}

/// Sets the forked process up and serves; returns only on failure.
fn become_stack(setup: &Setup, netns: BorrowedFd<'_>, output: &OwnedFd, ready: OwnedFd) -> Result<(), String> {
    process::become_role(c"coracle-net", &mut [netns.as_raw_fd(), output.as_raw_fd(), ready.as_raw_fd()])?;
    let device = make_device(setup, netns)?;
    sys::close_range(netns.as_raw_fd(), netns.as_raw_fd());
    let descriptors = usize::try_from(process::raise_descriptor_limit(MOST_DESCRIPTORS)).unwrap_or(1024);
    let wire = Wire::new(device, setup.mtu);
    let mut stack = Stack::new(wire, setup.addresses, descriptors).map_err(step("epoll"))?;
    sandbox::enter()?;
    nix::sys::uio::writev(&ready, &[IoSlice::new(b"1")]).map_err(step("tell that it serves"))?;
    drop(ready);
    stack.run().map_err(step("serve"))
}

/// Has the device made by a process that joins the namespace for it.
fn make_device(setup: &Setup, netns: BorrowedFd<'_>) -> Result<OwnedFd, String> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .map_err(step("socketpair"))?;
    match sys::fork().map_err(|e| format!("fork: {}", sys::reason(&e)))? {
        sys::Fork::Child => {
            sys::die_with_parent();
            let made = configure(setup, netns);
            let (text, fds) = match &made {
                Ok(device) => (String::from("ok"), vec![device.as_raw_fd()]),
                Err(message) => (message.clone(), Vec::new()),
            };
            let rights = [ControlMessage::ScmRights(&fds)];
            let rights = if fds.is_empty() { &rights[..0] } else { &rights[..] };
            let parts = [IoSlice::new(text.as_bytes())];
            let _ = sendmsg::<()>(theirs.as_raw_fd(), &parts, rights, MsgFlags::MSG_NOSIGNAL, None);
            sys::exit_now(0)
        }
        sys::Fork::Parent(child) => {
            drop(theirs);
            let mut text = [0u8; 512];
            let mut control = nix::cmsg_space!([i32; 1]);
            let (len, device) = {
                let mut parts = [IoSliceMut::new(&mut text)];
                let flags = MsgFlags::MSG_CMSG_CLOEXEC;
                let received = recvmsg::<()>(ours.as_raw_fd(), &mut parts, Some(&mut control), flags)
                    .map_err(step("receive the device"))?;
                let device = received.cmsgs().ok().and_then(|mut all| {
                    all.find_map(|one| match one {
                        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
                        _ => None,
                    })
                });
                (received.bytes, device.map(sys::received_fd))
            };
            let _ = waitpid(child, None);
            let message = || match text.get(..len) {
                Some([]) | None => "its set-up was killed".to_owned(),
                Some(text) => String::from_utf8_lossy(text).into_owned(),
            };
            device.ok_or_else(message)
        }
    }
}

/// Makes the device in the namespace, with addresses and routes.
fn configure(setup: &Setup, netns: BorrowedFd<'_>) -> Result<OwnedFd, String> {
    netlink::join(netns).map_err(|error| error.to_string())?;
    let device = sys::open_tun(INTERFACE).map_err(|(what, error)| format!("{what}: {}", sys::reason(&error)))?;
    set_up(&setup.attachment, u32::from(setup.mtu)).map_err(|error| error.to_string())?;
    Ok(device)
}

fn set_up(attachment: &Attachment, mtu: u32) -> Result<(), NetlinkError> {
    let mut netlink = Netlink::open()?;
    let Some(index) = netlink.link_named(INTERFACE)? else { return Ok(()) };
    netlink.set_mtu(index, mtu)?;
    netlink.link_up(index)?;
    // A kernel without IPv6 has the other half.
    let unless_v6 = |is_ipv6: bool, done: Result<(), NetlinkError>| if is_ipv6 { Ok(()) } else { done };
    for address in &attachment.addresses {
        unless_v6(address.ip.is_ipv6(), netlink.add_address(index, *address))?;
    }
    for gateway in attachment.gateways.iter().copied() {
        let all = if gateway.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
        let route = Route { to: Address { ip: all, prefix: 0 }, gateway, metric: 0 };
        unless_v6(gateway.is_ipv6(), netlink.add_route(index, route))?;
    }
    Ok(())
}
