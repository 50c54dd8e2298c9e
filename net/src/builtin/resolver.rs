//! The host's name servers, as they are now.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::resolv_conf::ResolvConf;

/// The host's file.
const FILE: &str = "/etc/resolv.conf";

/// How old what was read may be: a lookup asks more than once within it.
const FRESH: Duration = Duration::from_secs(1);

/// The host's name servers. Their file is read when somebody asks, so that there is nothing to watch.
#[derive(Debug, Default)]
pub(super) struct Resolver {
    servers: Vec<SocketAddr>,
    read_at: Option<Instant>,
    turn: usize,
}

impl Resolver {
    /// The server to ask. Without any in the host's file it is the host itself, as resolv.conf(5) has it.
    pub(super) fn server(&mut self, now: Instant) -> SocketAddr {
        if self.read_at.is_none_or(|at| now.saturating_duration_since(at) >= FRESH) {
            self.read_at = Some(now);
            if let Ok(text) = std::fs::read_to_string(FILE) {
                let servers: Vec<SocketAddr> =
                    ResolvConf::parse(&text).nameservers.into_iter().map(|ip| SocketAddr::new(ip, 53)).collect();
                if servers != self.servers {
                    (self.servers, self.turn) = (servers, 0);
                }
            }
        }
        let at = self.turn.checked_rem(self.servers.len()).unwrap_or(0);
        self.servers.get(at).copied().unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 53)))
    }

    /// The server that was asked does not answer: the next one's turn.
    pub(super) fn is_silent(&mut self, server: SocketAddr) {
        if self.servers.get(self.turn.checked_rem(self.servers.len()).unwrap_or(0)) == Some(&server) {
            self.turn += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_server_gives_way_to_the_next() {
        let now = Instant::now();
        let servers = ["192.0.2.1:53", "192.0.2.2:53"].map(|text| text.parse().unwrap());
        let mut resolver = Resolver { servers: servers.to_vec(), read_at: Some(now), turn: 0 };
        assert_eq!(resolver.server(now), servers[0]);
        resolver.is_silent(servers[0]);
        // Whoever asked it at the same time says the same.
        resolver.is_silent(servers[0]);
        assert_eq!(resolver.server(now), servers[1]);
        resolver.is_silent(servers[1]);
        assert_eq!(resolver.server(now), servers[0]);
        let mut none = Resolver { read_at: Some(now), ..Resolver::default() };
        assert_eq!(none.server(now).to_string(), "127.0.0.1:53");
    }
}
