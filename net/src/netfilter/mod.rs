//! The packet filter of the user's network namespace: one table, which is replaced as a whole.
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

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

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

/// A network as the filter knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// The name of its device.
    pub device: String,
    /// It has no way out.
    pub is_internal: bool,
    /// Nothing of other networks reaches it, and the other way round.
    pub is_isolated: bool,
}

/// One condition on a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Match {
    /// It came in by this device.
    In(String),
    /// It goes out by this device.
    Out(String),
}

/// What happens to a packet that meets all conditions of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Accept,
    Drop,
    /// It gets the address of the device it leaves by.
    Masquerade,
}

/// Where a chain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hook {
    Forward,
    Postrouting,
}

/// Rules in order; the first that a packet meets decides.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chain {
    hook: Hook,
    rules: Vec<(Vec<Match>, Verdict)>,
}

/// The rules for these networks, whose common way out is the device `way_out`.
///
/// Within a network everything passes; between two, unless neither is isolated, nothing. Answers of a published port need
/// no rule: the forwarder's connections begin and end in the container's own namespace.
fn ruleset(bridges: &[Bridge], way_out: &str) -> Vec<Chain> {
    use Match::{In, Out};
    let mut forward = Vec::new();
    for bridge in bridges {
        let device = || bridge.device.clone();
        forward.push((vec![In(device()), Out(device())], Verdict::Accept));
        let verdict = if bridge.is_internal { Verdict::Drop } else { Verdict::Accept };
        forward.push((vec![In(device()), Out(way_out.to_owned())], verdict));
        forward.push((vec![In(way_out.to_owned()), Out(device())], verdict));
        if bridge.is_isolated || bridge.is_internal {
            forward.push((vec![In(device())], Verdict::Drop));
            forward.push((vec![Out(device())], Verdict::Drop));
        }
    }
    let masquerade = (vec![Out(way_out.to_owned())], Verdict::Masquerade);
    vec![Chain { hook: Hook::Forward, rules: forward }, Chain { hook: Hook::Postrouting, rules: vec![masquerade] }]
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
        let batch = message::batch(TABLE, &ruleset(bridges, way_out), self.sequence.wrapping_add(1));
        self.sequence = batch.last_sequence;
        let sent = send(self.socket.as_raw_fd(), &batch.bytes, MsgFlags::empty());
        sent.map_err(failed("send rules"))?;
        let mut buffer = [0_u8; 8192];
        loop {
            let len = match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                other => other.map_err(failed("read the answer"))?,
            };
            for (sequence, errno) in message::verdicts(&buffer[..len]) {
                if errno != 0 {
                    return Err(failed("replace rules")(Errno::from_raw(errno)));
                }
                if sequence == batch.last_acknowledged {
                    return Ok(());
                }
            }
        }
    }
}

fn failed(what: &'static str) -> impl Fn(Errno) -> NetfilterError {
    move |errno| NetfilterError { what, source: errno.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(bridges: &[Bridge]) -> Vec<String> {
        let chains = ruleset(bridges, "tap0");
        let show = |(matches, verdict): &(Vec<Match>, Verdict)| {
            let words: Vec<String> = matches
                .iter()
                .map(|one| match one {
                    Match::In(device) => format!("in {device}"),
                    Match::Out(device) => format!("out {device}"),
                })
                .collect();
            format!("{} {verdict:?}", words.join(" "))
        };
        chains.iter().flat_map(|chain| chain.rules.iter().map(show)).collect()
    }

    #[test]
    fn isolated_networks_reach_the_way_out_and_nobody_else() {
        let bridge =
            |device: &str, is_internal, is_isolated| Bridge { device: device.into(), is_internal, is_isolated };
        assert_eq!(
            shown(&[bridge("podman0", false, true), bridge("podman1", true, false)]),
            [
                "in podman0 out podman0 Accept",
                "in podman0 out tap0 Accept",
                "in tap0 out podman0 Accept",
                "in podman0 Drop",
                "out podman0 Drop",
                "in podman1 out podman1 Accept",
                "in podman1 out tap0 Drop",
                "in tap0 out podman1 Drop",
                "in podman1 Drop",
                "out podman1 Drop",
                "out tap0 Masquerade",
            ]
        );
    }
}
