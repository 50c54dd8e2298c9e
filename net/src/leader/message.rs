//! What the leader is asked and answers: one JSON object per packet, with at most one descriptor.
//!
//! ```text
//! supervisor                              leader
//!   │ ──── hello ────────────────────────►
//!   │ ◄─── welcome + pidfd ───────────────
//!   │ ──── attach + container's netns ───►  devices, addresses, routes are made
//!   │ ◄─── attached + estate ─────────────
//!   │ ──── connect + container's netns ──►  one more network for a container that runs
//!   │ ◄─── connected ─────────────────────
//!   │ ──── disconnect ───────────────────►
//!   │ ◄─── done ──────────────────────────
//!   │ ════ end of file ══════════════════►  addresses and names are given back
//!   │ ◄═══ end of file ═══════════════════  the leader was killed; to its successor:
//!   │ ──── rejoin ───────────────────────►  it knows the container again
//!   │ ◄─── rejoined + estate ─────────────
//! ```

use std::collections::BTreeMap;
use std::io::{IoSlice, IoSliceMut};
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::dns::Wishes;
use crate::driver::{Attachment, MacAddress};
use crate::netlink::Address;
use crate::network::Network;

/// Longest packet, in bytes: 50 networks with aliases are 20 KiB.
const MAX_BYTES: usize = 128 * 1024;

/// A container's place in a network, as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The network.
    pub network: Network,
    /// The name of the device in the container.
    pub interface: String,
    /// Its hardware address, if one is asked for.
    pub mac: Option<MacAddress>,
    /// Addresses that are asked for, or that it had before.
    pub wanted: Vec<IpAddr>,
    /// There is no start without them.
    pub must: bool,
    /// The names that lead to it, in lower case: first the container's own, which an address is resolved to.
    pub names: Vec<String>,
    /// The metric of its default route over this network; without one it has none.
    pub default_route: Option<u32>,
    /// What it wants of names.
    #[serde(default)]
    pub wishes: Wishes,
}

/// A container's place in a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The network's name.
    pub network: String,
    /// The name of the pair's end in the user's namespace.
    pub device: String,
    /// The name of the device in the container.
    pub interface: String,
    /// Its hardware address.
    pub mac: MacAddress,
    /// Its addresses.
    pub addresses: Vec<Address>,
    /// The bridge's addresses.
    pub gateways: Vec<IpAddr>,
}

impl From<&Joined> for Attachment {
    fn from(joined: &Joined) -> Self {
        Self {
            interface: Some(joined.interface.clone()),
            mac: Some(joined.mac),
            addresses: joined.addresses.clone(),
            gateways: joined.gateways.clone(),
            ..Self::default()
        }
    }
}

/// What a supervisor says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ask {
    /// Are you there?
    Hello,
    /// Put a container, whose namespace comes with it, into these networks.
    Attach {
        /// Its id.
        container: String,
        /// The networks.
        endpoints: Vec<Endpoint>,
    },
    /// This container was in these networks when your predecessor ended, and is.
    Rejoin {
        /// Its id.
        container: String,
        /// What it asked for of each of them, and what it got.
        places: Vec<(Endpoint, Joined)>,
    },
    /// Put this connection's container, whose namespace comes with it, into one more network.
    Connect {
        /// The network.
        endpoint: Box<Endpoint>,
    },
    /// Take this connection's container out of a network.
    Disconnect {
        /// The network's name.
        network: String,
    },
    /// Other names lead to this connection's container from now on.
    Names {
        /// By network.
        names: BTreeMap<String, Vec<String>>,
    },
    /// The network is described like this now, which does not concern its devices: its DNS servers.
    Describe {
        /// The network.
        network: Box<Network>,
    },
    /// The network is no more: its devices go, if nobody is on it.
    Forget {
        /// Its name.
        network: String,
    },
    /// Make the packet filter anew.
    Reload,
}

/// What the leader says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// I am, and this is my pidfd.
    Welcome,
    /// The container is in all of its networks; the leader's estate comes with it.
    Attached {
        /// In the order asked for.
        joined: Vec<Joined>,
        /// Servers that answer DNS.
        dns: Vec<IpAddr>,
        /// Where the host answers.
        host: Option<IpAddr>,
    },
    /// The container is in this network, too.
    Connected {
        /// Its place.
        joined: Joined,
    },
    /// As you say.
    Done,
    /// It is known again; the estate, which has another way out by now, comes with it.
    Rejoined,
    /// It is not done, and everything is as it was.
    Failed {
        /// One line.
        message: String,
    },
}

/// The most descriptors that come with one message.
const MOST_FDS: usize = 3;

/// Sends a message.
pub(crate) fn send(socket: BorrowedFd<'_>, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let bytes = serde_json::to_vec(message).map_err(|_| Errno::EINVAL)?;
    let fds: Vec<i32> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
    let control = [ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() { &control[..0] } else { &control[..] };
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&bytes)], control, MsgFlags::MSG_NOSIGNAL, None).map(drop)
}

/// Receives a message and the descriptors that came with it; `None` at the end.
///
/// # Errors
/// Those of recvmsg(2); `EBADMSG` for what is no such message.
pub(crate) fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> Result<Option<(T, Vec<OwnedFd>)>, Errno> {
    let mut bytes = vec![0; MAX_BYTES];
    let mut control = nix::cmsg_space!([i32; MOST_FDS]);
    let (len, fds) = {
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let received = loop {
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            match recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags) {
                Err(Errno::EINTR) => {}
                // As good as its end: nothing follows.
                Err(Errno::ECONNRESET) => return Ok(None),
                other => break other?,
            }
        };
        let mut fds = Vec::new();
        for one in received.cmsgs().into_iter().flatten() {
            if let ControlMessageOwned::ScmRights(numbers) = one {
                fds.extend(numbers.into_iter().map(crate::sys::received_fd));
            }
        }
        (received.bytes, fds)
    };
    if len == 0 {
        return Ok(None);
    }
    let message = bytes.get(..len).and_then(|bytes| serde_json::from_slice(bytes).ok()).ok_or(Errno::EBADMSG)?;
    Ok(Some((message, fds)))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;

    #[test]
    fn messages_arrive_with_their_descriptors() {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        send(ours.as_fd(), &Ask::Hello, &[]).unwrap();
        let (ask, fds) = receive::<Ask>(theirs.as_fd()).unwrap().unwrap();
        assert_eq!((ask, fds.len()), (Ask::Hello, 0));
        let attach = Ask::Attach { container: "abc".into(), endpoints: Vec::new() };
        send(ours.as_fd(), &attach, &[std::io::stdin().as_fd(), std::io::stdout().as_fd()]).unwrap();
        let (ask, fds) = receive::<Ask>(theirs.as_fd()).unwrap().unwrap();
        assert_eq!((ask, fds.len()), (attach, 2));
        nix::unistd::write(&ours, b"{").unwrap();
        assert_eq!(receive::<Ask>(theirs.as_fd()).unwrap_err(), Errno::EBADMSG);
        drop(ours);
        assert!(receive::<Ask>(theirs.as_fd()).unwrap().is_none());
    }
}
