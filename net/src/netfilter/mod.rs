//! The packet filter of the user's network namespace: one table for its networks, which is replaced as a whole, and two for
//! each container that has rules of its own.
//!
//! ```text
//! networks ─ ruleset (pure) ─▶ chains of rules ─ message ─▶ one batch: delete the table, make it anew ─▶ kernel
//! ```
//! A batch is applied entirely or not at all, so that there is no moment without rules.
//!
//! **Runs in:** whoever has a socket that was opened in the namespace.
//!
//! # Source
//! linux/netfilter/nf_tables.h, nfnetlink.h; nft(8) for the meaning. Available in user namespaces since Linux 3.13.

mod message;

mod expression;

mod egress;

mod note;

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

use crate::subnet::Range;

pub use egress::{Gate, open_for};
pub use note::{Destination, Notes};

/// Name of the table.
const TABLE: &str = "coracle";

/// A filter the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("packet filter: {what}: {}", crate::sys::reason(source))]
pub struct NetfilterError {
    what: &'static str,
    #[source]
    source: io::Error,
}

impl NetfilterError {
    /// The system's error number, if it has one.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

/// A network as the filter knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// The name of its device.
    pub device: String,
    /// It has no way out.
    pub is_internal: bool,
    /// Nothing of other networks reaches it, and the other way round.
    pub is_isolated: bool,
    /// Its containers do not reach each other by way of its gateway.
    pub is_apart: bool,
}

/// A part of a rule: a condition that a packet meets, or else goes on to the next rule; or what happens to it then.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// It came in by this device.
    In(String),
    /// It goes out by this device.
    Out(String),
    /// It came in by a device whose name begins like this.
    InLike(String),
    /// It has another mark, or none.
    NotMarked(u32),
    /// It belongs to a flow that was let pass.
    OfFlow,
    /// It is of this protocol.
    Protocol(u8),
    /// It comes from an address in a set.
    FromSet {
        set: String,
        is_ipv4: bool,
    },
    /// It goes to an address in a set.
    ToSet {
        set: String,
        is_ipv4: bool,
    },
    /// It goes to one of these addresses.
    ToRange(Range),
    /// It goes to one of these ports.
    ToPorts(u16, u16),
    /// There have not been more of these.
    AtMost {
        each_second: u64,
        burst: u32,
    },
    /// It is told to a group of listeners.
    Note {
        group: u16,
        prefix: String,
    },
    /// It gets a mark.
    Mark(u32),
    Accept,
    Drop,
    /// The rules of this chain decide.
    Goto(&'static str),
    /// It is answered by a reset.
    Reset,
    /// It is answered by an error.
    Prohibit,
    /// It gets the address of the device it leaves by.
    Masquerade,
}

/// Where a chain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hook {
    kind: &'static str,
    place: u8,
    priority: i32,
}

// linux/netfilter.h: NF_INET_FORWARD, NF_INET_POST_ROUTING. Priorities by nft(8): `filter` and `srcnat`.
const FORWARD: Hook = Hook { kind: "filter", place: 2, priority: 0 };
const POSTROUTING: Hook = Hook { kind: "nat", place: 4, priority: 100 };

/// Rules in order; the first that a packet meets decides.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chain {
    name: &'static str,
    /// One without is only led to.
    hook: Option<Hook>,
    rules: Vec<Vec<Step>>,
}

/// Addresses that come and go, each for its time.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Set {
    name: String,
    is_ipv4: bool,
}

/// Which packets a table sees.
///
/// # Source
/// linux/netfilter.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Family {
    /// IPv4 and IPv6.
    Inet = 1,
    /// Whatever a bridge carries.
    Bridge = 7,
}

/// Chains and sets under one name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Table {
    family: Family,
    name: String,
    sets: Vec<Set>,
    chains: Vec<Chain>,
}

/// The rules for these networks, whose common way out is the device `way_out`.
///
/// Within a network everything passes, unless its containers are kept apart; between two, unless neither is isolated, nothing. Answers of a published port need
/// no rule: the forwarder's connections begin and end in the container's own namespace.
fn ruleset(bridges: &[Bridge], way_out: &str) -> Vec<Chain> {
    use Step::{Accept, Drop, In, Masquerade, Out};
    let mut forward = Vec::new();
    for bridge in bridges {
        let device = || bridge.device.clone();
        forward.push(vec![In(device()), Out(device()), if bridge.is_apart { Drop } else { Accept }]);
        let verdict = || if bridge.is_internal { Drop } else { Accept };
        forward.push(vec![In(device()), Out(way_out.to_owned()), verdict()]);
        forward.push(vec![In(way_out.to_owned()), Out(device()), verdict()]);
        if bridge.is_isolated || bridge.is_internal {
            forward.push(vec![In(device()), Drop]);
            forward.push(vec![Out(device()), Drop]);
        }
    }
    let masquerade = vec![Out(way_out.to_owned()), Masquerade];
    vec![
        Chain { name: "forward", hook: Some(FORWARD), rules: forward },
        Chain { name: "postrouting", hook: Some(POSTROUTING), rules: vec![masquerade] },
    ]
}

/// An nfnetlink socket of the namespace it was opened in.
#[derive(Debug)]
pub struct Netfilter {
    socket: OwnedFd,
    sequence: u32,
}

impl Netfilter {
    /// Opens a socket in the calling process' namespace.
    ///
    /// # Errors
    /// [`NetfilterError`].
    pub fn open() -> Result<Self, NetfilterError> {
        let open = || -> Result<OwnedFd, Errno> {
            let flags = SockFlag::SOCK_CLOEXEC;
            let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
            bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
            Ok(fd)
        };
        open().map(Self::over).map_err(failed("open socket"))
    }

    /// Speaks over a socket of [`Netfilter::into_socket`], which may have been opened in another namespace.
    #[must_use]
    pub fn over(socket: OwnedFd) -> Self {
        Self { socket, sequence: 0 }
    }

    /// The socket, to be handed to another process.
    #[must_use]
    pub fn into_socket(self) -> OwnedFd {
        self.socket
    }

    /// Replaces all rules.
    ///
    /// # Errors
    /// [`NetfilterError`]; the rules of before are in force.
    pub fn replace(&mut self, bridges: &[Bridge], way_out: &str) -> Result<(), NetfilterError> {
        let chains = ruleset(bridges, way_out);
        let table = Table { family: Family::Inet, name: TABLE.to_owned(), sets: Vec::new(), chains };
        self.run(&[message::Change::Replace(&table)], "replace rules")
    }

    /// Makes changes, all or none.
    fn run(&mut self, changes: &[message::Change<'_>], what: &'static str) -> Result<(), NetfilterError> {
        let batch = message::batch(changes, self.sequence.wrapping_add(1));
        self.sequence = batch.last_sequence;
        send(self.socket.as_raw_fd(), &batch.bytes, MsgFlags::empty()).map_err(failed("send rules"))?;
        let mut buffer = [0_u8; 8192];
        loop {
            let len = match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                other => other.map_err(failed("read the answer"))?,
            };
            for (sequence, errno) in message::verdicts(&buffer[..len]) {
                let number = sequence.wrapping_sub(batch.first_sequence);
                if number > batch.last_sequence.wrapping_sub(batch.first_sequence) {
                    // Of a batch that was refused before.
                    continue;
                }
                if errno != 0 {
                    return Err(failed(what)(Errno::from_raw(errno)));
                }
                if sequence == batch.last_acknowledged {
                    return Ok(());
                }
            }
        }
    }
}

/// The length of the second header of a message of nfnetlink.
const NFGENMSG_LEN: usize = 4;

/// The two headers of a message to nfnetlink.
fn header(kind: u16, flags: libc::c_int, sequence: u32, family: u8, res_id: u16, body_len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(20 + body_len);
    bytes.extend_from_slice(&u32::try_from(20 + body_len).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&(flags as u16).to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&[family, 0]);
    bytes.extend_from_slice(&res_id.to_be_bytes());
    bytes
}

fn failed(what: &'static str) -> impl Fn(Errno) -> NetfilterError {
    move |errno| NetfilterError { what, source: errno.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(bridges: &[Bridge]) -> Vec<String> {
        let chains = ruleset(bridges, "tap0");
        let show = |rule: &Vec<Step>| {
            let words: Vec<String> = rule
                .iter()
                .map(|one| match one {
                    Step::In(device) => format!("in {device}"),
                    Step::Out(device) => format!("out {device}"),
                    other => format!("{other:?}"),
                })
                .collect();
            words.join(" ")
        };
        chains.iter().flat_map(|chain| chain.rules.iter().map(show)).collect()
    }

    #[test]
    fn isolated_networks_reach_the_way_out_and_nobody_else() {
        let bridge = |device: &str, is_internal, is_isolated, is_apart| Bridge {
            device: device.into(),
            is_internal,
            is_isolated,
            is_apart,
        };
        assert_eq!(
            shown(&[bridge("podman0", false, true, false), bridge("podman1", true, false, true)]),
            [
                "in podman0 out podman0 Accept",
                "in podman0 out tap0 Accept",
                "in tap0 out podman0 Accept",
                "in podman0 Drop",
                "out podman0 Drop",
                "in podman1 out podman1 Drop",
                "in podman1 out tap0 Drop",
                "in tap0 out podman1 Drop",
                "in podman1 Drop",
                "out podman1 Drop",
                "out tap0 Masquerade",
            ]
        );
    }
}
