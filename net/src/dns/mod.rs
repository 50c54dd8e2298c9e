//! Names in networks: a DNS server in the leader.
//!
//! ```text
//!  container ── UDP, TCP 53 ──▶ bridge's address          sockets of the user's namespace
//!                                  │
//!                 names ◀── message┴── pending ──▶ host's servers, from the host's namespace
//! ```
//! It answers for containers by what [`names`] says, and passes on the rest to the host's servers as they are at that moment.
//! It is part of the leader's loop: [`Server::serve`] never blocks.
//!
//! # Invariants
//! - An answer comes from the address that was asked, over the socket it was asked on.
//! - No answer is remembered, here or (by its TTL of 0, if it is ours) elsewhere.
//! - What was passed on has a number and a port that nobody can guess, and only an answer to the same question is taken.
//! - No server is asked that neither the host, nor the network, nor the container names.
//! - Queries, connections and waiting are bounded, in sum and for each asker.

mod message;

mod names;

mod resolvers;

mod stream;

mod pending;

mod sockets;

mod server;

#[cfg(test)]
mod tests;

pub use names::{DOMAIN, HOST_NAMES, Names, Number, Place, Wishes};
pub use server::{Held, Server};
pub use sockets::Sockets;

/// Where the host names its servers.
pub const HOSTS_FILE: &str = "/etc/resolv.conf";

/// Reads bytes as a query and answers it, for the fuzz target.
///
/// # Panics
/// If an answer is not well formed, or does not fit.
#[cfg(feature = "fuzzing")]
pub fn examine(bytes: &[u8]) {
    message::examine(bytes);
}
